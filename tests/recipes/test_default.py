"""Our own recipes: what they have in common, and that each of them trains."""

from dataclasses import replace

import pytest

from scribbleseg.recipes import default
from scribbleseg.settings import from_plain, to_plain


@pytest.mark.parametrize("name", default.SIZES)
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


@pytest.mark.parametrize("name", default.SIZES)
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
