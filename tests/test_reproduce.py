"""The rows of a table are trained once, share what they have in common, and are summed up by case."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from scribbleseg.crf.kernels import in_pixels
from scribbleseg.data import folder
from scribbleseg.data.phantoms import write_phantoms
from scribbleseg.data.preprocess import Preprocess
from scribbleseg.em import Recipe
from scribbleseg.recipes import can2018
from scribbleseg.relabel.refine import DenseCRF
from scribbleseg.reproduce import Row, run_folder, summarise, train_rows
from scribbleseg.runs import open_run
from scribbleseg.seeds.random_walker import RandomWalker
from scribbleseg.train import loop
from scribbleseg.train.crf_rnn import CRFRNN
from scribbleseg.train.loop import Training
from scribbleseg.train.unet import UNet
from scribbleseg.types import DataError

BASE = Recipe(
    preprocess=Preprocess(spacing_mm=4.0, size=16),
    seeds=RandomWalker(tau=0.9, beta=100.0),
    network=UNet(base=4, padded=True),
    training=Training(batch=2, iterations=3, iterations_again=2),
    recursions=1,
    stop_below=0.0,
)
CRF = replace(BASE, refine=DenseCRF(w1=1.0, w2=1.0, sigma_alpha=2.0, sigma_beta=0.1, sigma_gamma=2.0))
ROWS = {"base": BASE, "separate CRF": CRF, "fully supervised": replace(BASE, annotation="masks", recursions=0)}


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
        totals = {r.training.iterations + r.recursions * r.training.iterations_again for r in rows.values()}
        assert len(totals) == 1  # of iterations: the same in all rows
        assert isinstance(rows["CRF-RNN + uncertainty"].network, CRFRNN)
        assert rows["CRF-RNN + uncertainty"].network.dropout == 0.5
        assert rows["separate CRF + uncertainty"].decide.passes == 50
        assert rows["separate CRF"].refine == rows["separate CRF + uncertainty"].refine
        shorter = can2018.table_1(family, 100).values()
        assert {r.training.iterations + r.recursions * r.training.iterations_again for r in shorter} == {100}
    with pytest.raises(DataError, match="expected a family among acdc, prostate"):
        can2018.table_1("liver")


def test_compact_rows_keep_the_papers_distances_in_millimetres():
    refine = in_pixels(can2018.COMPACT_CRF.refine, 1.36719)
    assert refine.sigma_alpha == pytest.approx(can2018.ACDC_CRF.refine.sigma_alpha)
    network = in_pixels(can2018.COMPACT_PROSTATE_CRF_RNN.network, 0.625)
    assert network.sigma_alpha == pytest.approx(250)


def test_a_finished_table_is_not_trained_again(dataset, out, monkeypatch):
    def never(*args):
        raise AssertionError("trained again")

    monkeypatch.setattr(loop.torch.optim, "Adam", never)
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
    with pytest.raises(DataError, match="same recipe"):
        train_rows({"base": replace(BASE, recursions=2)}, dataset, out, [0], accelerator="cpu")


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
    text = json.dumps(scores)
    assert "test000" in text
    mean, low, high = base.minus(full)
    assert mean == pytest.approx(base.dice.mean() - full.dice.mean())
    assert low <= mean <= high


def test_a_row_by_hand():
    row = Row("row", np.array([[[0.5, 0.7], [0.1, 0.3]], [[0.7, 0.9], [0.3, 0.5]]]), 0.8, 0.9, 3.0, ("a", "b"))
    np.testing.assert_allclose(row.by_structure, [0.4, 0.6])
    np.testing.assert_allclose(row.by_seed, [0.4, 0.6])
    better = Row("better", row.dice + 0.1, 0.8, 0.9, 3.0, ("a", "b"))
    np.testing.assert_allclose(better.minus(row), [0.1, 0.1, 0.1])
