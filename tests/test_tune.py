"""The dense CRF's numbers are chosen on held-out scribbles, without a mask, and no trial is made twice."""

from dataclasses import replace

import numpy as np
import pytest
from lightning_fabric import Fabric

from scribbleseg import tune
from scribbleseg.cli.tables import _print_trials
from scribbleseg.data import folder
from scribbleseg.data.preprocess import Preprocess
from scribbleseg.phantoms import write_phantoms
from scribbleseg.pipeline import begin
from scribbleseg.recipe import Recipe, Stage
from scribbleseg.relabel.refine import DenseCRF
from scribbleseg.seeds.random_walker import RandomWalker
from scribbleseg.training.unet import UNet
from scribbleseg.tune import Trial, hold_out, tune_crf
from scribbleseg.types import UNLABELLED, Cases, DataError

RECIPE = Recipe(
    preprocess=Preprocess(spacing_mm=4.0, size=16),
    seeds=RandomWalker(tau=0.9, beta=100.0),
    network=UNet(base=4, padded=True),
    stages=(Stage(batch=2, iterations=3),),
)
GRID = {"w1": (0.0, 1.0), "w2": (0.0, 1.0), "sigma_alpha": (2.0,), "sigma_beta": (0.1,), "sigma_gamma": (1.0,)}


@pytest.mark.parametrize(("dice", "said"), [(0.4, "--set=stages.relabel.refine.w1=10.0"), (0.2, "leave the CRF out")])
def test_a_crf_that_does_not_help_is_not_recommended(tmp_path, capsys, dice, said):
    trials = sorted(
        [Trial(None, 0.3), Trial(DenseCRF(w1=10.0, w2=1.0, sigma_alpha=2.0, sigma_beta=0.1, sigma_gamma=1.0), dice)],
        key=lambda trial: -trial.dice,
    )
    _print_trials(trials, tmp_path, tmp_path)
    assert (printed := capsys.readouterr().out).count(said) == 1
    assert ("Next: " in printed) == (dice > 0.3)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    def never(name):
        raise AssertionError("tuning looked at a reference mask")

    phantoms = write_phantoms(tmp_path_factory.mktemp("hearts"), train=3, test=1, shape=(3, 48, 48))
    return replace(folder(phantoms), read_reference=never)


def named(dataset, names):
    return replace(dataset, train=Cases(names, dataset.train.named))


def test_a_patients_volumes_stay_together(dataset):
    names = [f"patient{n:03d}_frame{frame:02d}" for n in range(1, 11) for frame in (1, 12)]
    rest, held_out = hold_out(named(dataset, names))
    assert held_out.names == ("patient005_frame01", "patient005_frame12", "patient010_frame01", "patient010_frame12")
    assert set(rest.train.names) | set(held_out.names) == set(names)
    assert not set(rest.train.names) & set(held_out.names)
    assert hold_out(named(dataset, ["a", "b"]))[1].names == ("b",)
    with pytest.raises(DataError, match="two patients"):
        hold_out(named(dataset, ["a_1", "a_2"]))


def test_trials_are_ranked_kept_and_not_made_again(dataset, tmp_path, monkeypatch):
    rest, held_out = hold_out(dataset)
    fabric = Fabric(accelerator="cpu", devices=1)

    def search():
        return tune_crf(begin(rest, tmp_path / "run", RECIPE, fabric=fabric, resume=True), held_out, grid=GRID)

    trials = search()
    assert len(trials) == 5
    assert [t.dice for t in trials] == sorted((t.dice for t in trials), reverse=True)
    without = next(t for t in trials if t.crf is None)
    idle = next(t for t in trials if t.crf and t.crf.w1 == t.crf.w2 == 0)
    assert idle.dice == without.dice
    assert trials.index(without) < trials.index(idle)  # of equals, the one that changes least comes first

    def never(*args):
        raise AssertionError("tried again")

    monkeypatch.setattr(tune.DenseCRF, "__call__", never)
    with (tmp_path / "run" / "trials.jsonl").open("a") as file:
        file.write('{"w1": 1.0, "w2"')  # a kill cut this one short
    assert search() == trials
    changed = []
    named = held_out.named

    def fewer(name):
        case = named(name)
        strokes = np.where(case.scribbles == 1, UNLABELLED, case.scribbles).astype(np.uint8)
        return replace(case, scribbles=strokes)

    monkeypatch.setattr(tune.DenseCRF, "__call__", lambda self, likely, *_: changed.append(self) or likely)
    held_out = held_out.read_by(fewer)
    search()
    assert len(changed) == 4  # those of before are of other scribbles
    search()
    assert len(changed) == 4  # kept


def test_held_out_cases_without_scribbles_are_refused(dataset, tmp_path):
    rest, held_out = hold_out(dataset)

    def bare(name):
        case = held_out.named(name)
        return replace(case, scribbles=np.full_like(case.scribbles, UNLABELLED))

    session = begin(rest, tmp_path / "run", RECIPE, fabric=Fabric(accelerator="cpu", devices=1))
    with pytest.raises(DataError, match="expected scribbles in the held-out cases"):
        tune_crf(session, Cases(held_out.names, bare), grid=GRID)


def test_as_many_trials_as_asked_for(dataset, tmp_path):
    rest, held_out = hold_out(dataset)
    session = begin(rest, tmp_path / "run", RECIPE, fabric=Fabric(accelerator="cpu", devices=1))
    grid = {name: values[: 2 if name in ("w1", "w2") else 1] for name, values in tune.GRID.items()}
    trials = tune_crf(session, held_out, grid, most=3)
    assert len({trial.crf for trial in trials}) == 4  # and no CRF
