"""Our own recipes: what they have in common, and that each of them trains."""

import subprocess
import sys
from dataclasses import replace

import pytest

from scribbleseg.data import open_dataset
from scribbleseg.phantoms import write_phantoms
from scribbleseg.pipeline import begin
from scribbleseg.recipe_names import described
from scribbleseg.recipes import choose, default, find, recipes
from scribbleseg.settings import from_plain, to_plain
from scribbleseg.training.hardware import Machine, make_fabric, this_machine


@pytest.mark.parametrize("name", default.SCALES)
def test_the_row_on_full_masks_differs_in_its_labels_alone(name, learning_rates):
    row, full = default.RECIPES[name], default.RECIPES[f"{name}_full"]
    assert full.annotation == "masks"
    assert full.is_upper_bound
    assert full.seeds.kind == "strokes"
    same = replace(full, annotation=row.annotation, seeds=row.seeds, stages=row.stages)
    assert same == row
    assert (learning_rates(full) == learning_rates(row)).all()
    first, second = row.steps[0], full.steps[0]
    assert replace(second, iterations=first.iterations) == first


@pytest.mark.parametrize("name", default.SCALES)
def test_half_of_the_training_is_on_seed_areas_and_an_e_step_comes_every_eighth(name):
    lengths = [step.iterations for step in default.RECIPES[name].steps]
    assert lengths == [sum(lengths) // 2, *[sum(lengths) // 8] * 4]
    assert all(step.relabel.clamp == "scribbles" for step in default.RECIPES[name].steps[1:])


@pytest.mark.parametrize("name", default.RECIPES)
def test_every_recipe_trains_at_a_toy_size(name, train_at_toy_size, tmp_path):
    train_at_toy_size(f"default.{name}", tmp_path / "run")


@pytest.mark.parametrize("name", default.RECIPES)
def test_recipes_survive_json(name):
    recipe = default.RECIPES[name]
    assert from_plain(type(recipe), to_plain(recipe)) == recipe


@pytest.mark.parametrize(
    ("machine", "size"),
    [
        (Machine("cuda", 16, 80.0, True), "long"),
        (Machine("cuda", 16, 7.8, True), "long"),
        (Machine("cuda", 4, 4.0, False), "standard"),
        (Machine("cpu", 8, 15.5, True), "standard"),
        (Machine("mps", 8, 16.0, False), "standard"),
        (Machine("cpu", 16, 64.0, True), "standard"),
        (Machine("cpu", 16, 64.0, False), "quick"),
        (Machine("cpu", 2, 24.0, True), "quick"),
        (Machine("cpu", 1, 4.0, False), "quick"),
        (Machine("cpu", 8, None, True), "quick"),
    ],
)
def test_the_size_fits_the_machine(machine, size):
    assert default.fitting(machine) == size


def test_where_nobody_names_a_recipe_it_is_that_of_the_run_or_the_one_that_fits(tmp_path):
    fabric = make_fabric("cpu")
    recipe, why = choose(tmp_path / "run", fabric)
    name = f"default.{default.fitting(this_machine(fabric))}"
    assert recipe == find(name)
    assert name in why
    assert str(this_machine(fabric)) in why
    hearts = open_dataset(write_phantoms(tmp_path / "hearts", train=2, test=1, shape=(3, 48, 48)))
    session = begin(hearts, tmp_path / "run", find("can2018.compact_crf"), fabric=fabric)
    assert choose(tmp_path / "run", fabric)[0] == find(name), "it has not read any data yet, so the data may change"
    session.prepare(session.recipe.preprocess)
    found, why = choose(tmp_path / "run", fabric)
    assert found.stages[1].relabel.refine.kind == "dense_crf"
    assert "that of the run" in why
    begin(hearts, tmp_path / "run", found, fabric=fabric, resume=True)


def test_a_machine_says_what_it_has():
    assert str(Machine("cpu", 1, None, False)) == "no GPU, 1 core, no bfloat16"
    assert str(Machine("cuda", 8, 79.6, True)) == "a GPU (cuda), 8 cores, 80 GiB, bfloat16"
    here = this_machine(make_fabric("cpu"))
    assert here.cores >= 1
    assert here.memory_gib is None or here.memory_gib > 0.1


def test_every_recipe_is_described_and_our_own_come_first():
    lines = described()
    assert list(lines) == list(recipes())
    assert next(iter(lines)).startswith("default.")
    assert lines["default.quick"].endswith("an hour or two on a laptop's CPU")
    assert lines["can2018.compact_prostate_crf"].endswith("prostates: hours on a CPU; Base + separate CRF")
    assert lines["can2018.acdc_full"].endswith("the paper's scale: for a GPU; Fully supervised")
    assert lines["ji2019.sub_km_sc"].endswith("the paper's scale: for a GPU; KM+SC")
    assert lines["ji2019.full"].endswith("the whole pipeline")
    assert lines["ji2019.compact_full"].startswith("Ji et al. 2019, brain tumours: hours on a CPU")


def test_names_are_listed_without_pytorch(tmp_path):
    """It takes ten seconds and half a gigabyte to import, and nobody needs it to read a list."""
    listed = (
        "import sys\nfrom scribbleseg.cli import app\napp(['recipes'], standalone_mode=False)\n"
        "print({'torch', 'scipy', 'monai', 'lightning_fabric'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", listed], capture_output=True, text=True, check=True)
    assert "can2018.compact_prostate" in done.stdout
    assert done.stdout.endswith("\nset()\n")
