"""The rows of a table are trained once, share what they have in common, and are summed up by case."""

import json
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from scribbleseg.crf.kernels import in_pixels
from scribbleseg.data import folder
from scribbleseg.data.preprocess import Preprocess
from scribbleseg.phantoms import write_phantoms
from scribbleseg.recipe import Recipe, Relabel, Stage
from scribbleseg.recipes import can2018
from scribbleseg.relabel.decide import WelchTest
from scribbleseg.relabel.refine import DenseCRF
from scribbleseg.reproduce import Row, _shared, run_folder, summarise, train_rows
from scribbleseg.runs import Run, open_run
from scribbleseg.seeds.random_walker import RandomWalker
from scribbleseg.seeds.strokes import Strokes
from scribbleseg.session import Session
from scribbleseg.settings import to_plain
from scribbleseg.training import optimisers
from scribbleseg.training.crf_loss import DenseCRFLoss
from scribbleseg.training.crf_rnn import CRFRNN
from scribbleseg.training.losses import PartialCrossEntropy, ScribblesAndAreas
from scribbleseg.training.optimisers import SGD, Adam
from scribbleseg.training.unet import UNet
from scribbleseg.types import Cases, DataError, Dataset

BASE = Recipe(
    preprocess=Preprocess(spacing_mm=4.0, size=16),
    seeds=RandomWalker(tau=0.9, beta=100.0),
    network=UNet(base=4, padded=True),
    stages=(Stage(batch=2, iterations=3), Stage(batch=2, iterations=2, relabel=Relabel())),
    stop_below=0.0,
)
CRF = can2018.relabelled(BASE, refine=DenseCRF(w1=1.0, w2=1.0, sigma_alpha=2.0, sigma_beta=0.1, sigma_gamma=2.0))
FULL = replace(BASE, annotation="masks").beginning(1)
ROWS = {"base": BASE, "separate CRF": CRF, "fully supervised": FULL}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return folder(write_phantoms(tmp_path_factory.mktemp("hearts"), train=2, test=2, shape=(3, 48, 48)))


@pytest.fixture(scope="module")
def out(dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("table")
    train_rows(ROWS, dataset, out, [0, 1], accelerator="cpu")
    return out


def test_every_row_of_the_paper_is_there_by_name():
    for family in can2018.FAMILIES:
        rows = can2018.table_1(family)
        assert len(rows) == 8
        totals = {sum(step.iterations for step in row.steps) for row in rows.values()}
        assert len(totals) == 1  # of iterations: the same in all rows
        assert isinstance(rows["Base + CRF-RNN & unc."].network, CRFRNN)
        assert rows["Base + CRF-RNN & unc."].network.unaries.dropout == 0.5
        e_steps = {title: [step.relabel for step in row.steps[1:]] for title, row in rows.items()}
        assert all(e_step.decide.passes == 50 for e_step in e_steps["Base + sep. CRF & unc."])
        refined = [[e.refine for e in e_steps[title]] for title in ("Base + separate CRF", "Base + sep. CRF & unc.")]
        assert refined[0] == refined[1]
        assert {e.refine.kind for e in e_steps["Base + separate CRF"]} == {"dense_crf"}
        shorter = can2018.table_1(family, 100).values()
        assert {sum(step.iterations for step in row.steps) for row in shorter} == {100}
    with pytest.raises(DataError, match="expected a family among acdc, prostate"):
        can2018.table_1("liver")


def test_compact_rows_keep_the_papers_distances_in_millimetres():
    ours, papers = (can2018.FAMILIES[family]["crf"].stages[1].relabel.refine for family in ("compact", "acdc"))
    assert in_pixels(ours, 1.36719).sigma_alpha == pytest.approx(papers.sigma_alpha)
    network = in_pixels(can2018.FAMILIES["compact_prostate"]["crf_rnn"].network, 0.625)
    assert network.sigma_alpha == pytest.approx(250)


def test_a_finished_table_is_not_trained_again(dataset, out, monkeypatch):
    def never(*args):
        raise AssertionError("trained again")

    monkeypatch.setattr(optimisers.torch.optim, "Adam", never)
    train_rows(ROWS, dataset, out, [0, 1], accelerator="cpu")


def test_rows_that_begin_alike_share_their_beginning(dataset, out, monkeypatch, tmp_path):
    base, crf, full = (open_run(run_folder(out, title, 0)) for title in ROWS)
    first = [torch.load(run.network(0))["state"]["head.0.weight"] for run in (base, crf, full)]
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])
    # And a row that had to begin by itself ends with the same weights.
    train_rows({"separate CRF": CRF}, dataset, tmp_path, [0], accelerator="cpu")
    alone = open_run(run_folder(tmp_path, "separate CRF", 0))
    assert torch.equal(*(torch.load(run.network(1))["state"]["head.0.weight"] for run in (crf, alone)))
    assert [(r["event"], r["recursion"]) for r in alone.metrics] == [(r["event"], r["recursion"]) for r in crf.metrics]


def test_rows_are_trained_side_by_side(dataset, out, tmp_path):
    train_rows({"base": BASE}, dataset, tmp_path, [0, 1], jobs=2, accelerator="cpu")
    for seed in (0, 1):
        here, there = (torch.load(open_run(run_folder(f, "base", seed)).network(1)) for f in (tmp_path, out))
        assert torch.equal(here["state"]["head.0.weight"], there["state"]["head.0.weight"])
    assert not list(tmp_path.glob("*.progress.txt"))


def test_another_recipe_of_that_title_is_refused(dataset, out):
    other = replace(BASE, stages=(replace(BASE.stages[0], iterations=9), *BASE.stages[1:]))
    with pytest.raises(DataError, match="begun with another recipe"):
        train_rows({"base": other}, dataset, out, [0], accelerator="cpu")


def test_test_cases_without_references_are_refused_before_the_training(dataset, tmp_path):
    blind = replace(dataset, read_reference=lambda name: None)
    with pytest.raises(DataError, match="expected reference masks of test cases"):
        train_rows(ROWS, blind, tmp_path, [0], accelerator="cpu")
    assert not list(tmp_path.iterdir())


def test_summary(out):
    base, _, full = summarise(ROWS, out, [0, 1], Fabric(accelerator="cpu", devices=1))
    scores = json.loads((run_folder(out, "base", 1) / "test_scores_1" / "scores.json").read_text())
    assert base.dice.shape == (2, 2, 3)
    assert base.structures == ("RV", "Myo", "LV")
    assert (base.is_upper_bound, full.is_upper_bound) == (False, True)
    text = json.dumps(scores)
    assert "test000" in text
    mean, low, high = base.minus(full)
    assert mean == pytest.approx(base.dice.mean() - full.dice.mean())
    assert low <= mean <= high


def test_a_row_by_hand():
    row = Row(
        "row", np.array([[[0.5, 0.7], [0.1, 0.3]], [[0.7, 0.9], [0.3, 0.5]]]), 0.8, 0.9, 3.0, 0.0, ("a", "b"), False
    )
    np.testing.assert_allclose(row.by_structure, [0.4, 0.6])
    np.testing.assert_allclose(row.by_seed, [0.4, 0.6])
    better = Row("better", row.dice + 0.1, 0.8, 0.9, 3.0, 0.0, ("a", "b"), False)
    np.testing.assert_allclose(better.minus(row), [0.1, 0.1, 0.1])


FINE_TUNED = Stage(
    iterations=9,
    batch=4,
    optimiser=SGD(),
    losses=(ScribblesAndAreas(), DenseCRFLoss()),
    relabel=Relabel(refine=CRF.stages[1].relabel.refine, decide=WelchTest()),
)
EVERYTHING = Recipe(
    preprocess=Preprocess(
        4.0, 16, crops=False, largest_size=32, usual_mm=4.0, plane="axial", orientation="SPL", depth_mm=5.0
    ),
    network=UNet(base=4, padded=True, dropout=0.5),
    patch=16,
    depth=8,
    stages=(Stage(iterations=9, optimiser=SGD(), losses=FINE_TUNED.losses), FINE_TUNED, FINE_TUNED),
    rotations=(10.0,),
)
"""Three M steps with parts of every kind."""


def changes(part) -> Iterator[tuple[str, Any]]:
    """Every copy of a part of a recipe in which one field of it, or of a part in it, has another value."""
    hints = get_type_hints(type(part))
    for field in fields(part):
        value, hint = getattr(part, field.name), hints[field.name]
        choices = [get_args(each) for each in (hint, *get_args(hint)) if get_origin(each) is Literal]
        if is_dataclass(value):
            others = changes(value)
        elif isinstance(value, tuple) and value and is_dataclass(value[0]):
            others = (
                (f"{n}.{w}", (*value[:n], o, *value[n + 1 :])) for n, v in enumerate(value) for w, o in changes(v)
            )
        elif choices:
            others = ((f"={choice}", choice) for choice in choices[0] if choice != value)
        else:
            others = [(f"={other}", other) for other in [another(value)]]
        for where, other in others:
            yield f"{field.name}.{where}".replace(".=", "="), replace(part, **{field.name: other})


def another(value):
    if value is None:
        return Relabel()
    if isinstance(value, bool):
        return not value
    if isinstance(value, tuple):
        return (*value, value[-1]) if value else ((-160.0, 240.0),)
    if isinstance(value, str):
        return {"axial": "coronal"}.get(value, value[::-1])
    if not value:
        return 0.5 if isinstance(value, float) else 1
    return value * 2 if isinstance(value, int) else value * 0.9


def never(name):
    raise AssertionError(f"{name} was read")


def shared(own: Recipe, theirs: Recipe, path, steps=3, **details) -> int:
    """How many M steps a new row would take over of one that has done so many of them."""
    known = {"seed": 0, "fingerprint": "abc", "label_names": ["background", "LV"]}
    rows = []
    for name, recipe, more in (("own", own, {}), ("theirs", theirs, details)):
        run = Run(path / name)
        run.path.mkdir(parents=True, exist_ok=True)
        (run.path / "recipe.json").write_text(json.dumps(to_plain(recipe)))
        (run.path / "run.json").write_text(json.dumps(known | {"versions": {"scribbleseg": "0.2.0"}} | more))
        rows.append(run)
    for n in range(steps):
        rows[1].network(n).parent.mkdir(exist_ok=True)
        rows[1].network(n).touch()
    nothing = Cases([], never)
    dataset = Dataset("folder", path, ("background", "LV"), nothing, nothing, never)
    return _shared(Session(own, dataset, rows[0], Fabric(accelerator="cpu", devices=1)), rows[1])


def test_every_field_that_differs_ends_what_rows_share(tmp_path):
    changed = {where: recipe for where, recipe in changes(EVERYTHING) if "times" not in where}
    assert len(changed) >= 80
    assert shared(EVERYTHING, EVERYTHING, tmp_path) == 3
    for where, recipe in changed.items():
        step = int(where.split(".")[1]) if where.startswith("stages") else 0
        if where.startswith("stages") and ".restarts" in where and step:
            step -= 1  # its schedule begins, or ends, with the M step before
        if where.startswith("stages.0.relabel"):
            continue  # a first stage has none
        assert shared(EVERYTHING, recipe, tmp_path) == step, where


def test_rows_that_differ_in_no_field_before_a_step_share_it():
    """The walk of the test above reaches every field there is."""
    reached = {re.sub(r"=.*", "", where) for where, _ in changes(EVERYTHING)}
    assert {"annotation", "preprocess.brain", "seeds.tau", "augment.noise", "stop_below", "stages.2.batch"} <= reached
    assert {"stages.1.relabel.refine.w1", "stages.1.relabel.decide.passes", "stages.1.losses.1.alpha"} <= reached
    for part in (Recipe, Stage):
        assert {f.name for f in fields(part)} - {"kind"} <= {name for where in reached for name in where.split(".")}


@pytest.mark.parametrize("name", ["refine", "seeds", "network", "losses", "optimiser"])
def test_parts_of_another_kind_are_not_shared(name, tmp_path):
    first, second, third = EVERYTHING.stages
    other = {
        "seeds": replace(EVERYTHING, seeds=Strokes()),
        "network": replace(EVERYTHING, network=CRFRNN(1.0, 1.0, 1.0, 1.0, 1.0, unaries=EVERYTHING.network)),
        "refine": replace(EVERYTHING, stages=(first, second, replace(third, relabel=Relabel(decide=WelchTest())))),
        "losses": replace(EVERYTHING, stages=(first, second, replace(third, losses=(PartialCrossEntropy(),)))),
        "optimiser": replace(EVERYTHING, stages=(first, replace(second, optimiser=Adam()), third)),
    }[name]
    expected = {"seeds": 0, "network": 0, "refine": 2, "losses": 2, "optimiser": 1}[name]
    assert shared(EVERYTHING, other, tmp_path) == expected


OTHERS = [
    {"seed": 1},
    {"fingerprint": "other"},
    {"label_names": ["background", "RV"]},
    {"versions": {"scribbleseg": "0.1.0"}},
]


@pytest.mark.parametrize("details", OTHERS, ids=lambda details: next(iter(details)))
def test_rows_of_other_data_seeds_or_versions_share_nothing(details, tmp_path):
    assert shared(EVERYTHING, EVERYTHING, tmp_path, **details) == 0


def test_no_more_is_shared_than_has_been_done(tmp_path):
    assert shared(EVERYTHING, EVERYTHING, tmp_path, steps=2) == 2
    assert shared(EVERYTHING.beginning(2), EVERYTHING, tmp_path / "shorter") == 2


def test_a_schedule_that_spans_more_or_fewer_steps_is_another_one(tmp_path):
    first, second, third = EVERYTHING.stages
    carried = replace(EVERYTHING, stages=(first, second, replace(third, restarts=False)))
    longer = replace(EVERYTHING, stages=(first, second, replace(third, restarts=False, iterations=20)))
    Run(tmp_path / "theirs").optimiser(1).parent.mkdir(parents=True)
    Run(tmp_path / "theirs").optimiser(1).touch()
    assert shared(carried, longer, tmp_path) == 1


def test_an_optimiser_that_is_carried_on_has_to_be_there(tmp_path):
    first, second, third = EVERYTHING.stages
    carried = replace(EVERYTHING, stages=(first, second, replace(third, restarts=False)))
    assert shared(carried, carried, tmp_path, steps=2) == 1
    Run(tmp_path / "theirs").optimiser(1).touch()
    assert shared(carried, carried, tmp_path, steps=2) == 2


def test_labels_without_the_soft_ones_that_a_row_needs_are_not_taken_over(tmp_path, monkeypatch):
    monkeypatch.setattr(ScribblesAndAreas, "needs", frozenset({"soft"}))
    hard = replace(FINE_TUNED, losses=(PartialCrossEntropy(),))
    kept = replace(hard, relabel=None)
    theirs = replace(EVERYTHING, stages=(replace(hard, relabel=None), hard, kept))
    own = replace(theirs, stages=(*theirs.stages[:2], replace(kept, losses=(ScribblesAndAreas(),))))
    assert shared(own, theirs, tmp_path) == 1, "the soft labels of M step 1 are missing"
    assert shared(theirs, own, tmp_path) == 2
