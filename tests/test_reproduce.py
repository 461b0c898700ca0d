"""The rows of a table are trained once, share what they have in common, and are summed up by case."""

import json
from dataclasses import replace

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
from scribbleseg.relabel.refine import DenseCRF
from scribbleseg.reproduce import Row, run_folder, summarise, train_rows
from scribbleseg.runs import open_run
from scribbleseg.seeds.random_walker import RandomWalker
from scribbleseg.training import optimisers
from scribbleseg.training.crf_rnn import CRFRNN
from scribbleseg.training.unet import UNet
from scribbleseg.types import DataError

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
        assert isinstance(rows["CRF-RNN + uncertainty"].network, CRFRNN)
        assert rows["CRF-RNN + uncertainty"].network.unaries.dropout == 0.5
        e_steps = {title: [step.relabel for step in row.steps[1:]] for title, row in rows.items()}
        assert all(e_step.decide.passes == 50 for e_step in e_steps["separate CRF + uncertainty"])
        refined = [[e.refine for e in e_steps[title]] for title in ("separate CRF", "separate CRF + uncertainty")]
        assert refined[0] == refined[1]
        assert {e.refine.kind for e in e_steps["separate CRF"]} == {"dense_crf"}
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
    longer = replace(BASE, stages=(*BASE.stages, BASE.stages[1]))
    with pytest.raises(DataError, match="same recipe"):
        train_rows({"base": longer}, dataset, out, [0], accelerator="cpu")


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
    row = Row("row", np.array([[[0.5, 0.7], [0.1, 0.3]], [[0.7, 0.9], [0.3, 0.5]]]), 0.8, 0.9, 3.0, ("a", "b"), False)
    np.testing.assert_allclose(row.by_structure, [0.4, 0.6])
    np.testing.assert_allclose(row.by_seed, [0.4, 0.6])
    better = Row("better", row.dice + 0.1, 0.8, 0.9, 3.0, ("a", "b"), False)
    np.testing.assert_allclose(better.minus(row), [0.1, 0.1, 0.1])
