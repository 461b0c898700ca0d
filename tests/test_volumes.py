"""Trainings in 3-D and 2.5-D from beginning to end: blocks, or slices with their neighbours, and then as in 2-D."""

import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from command_line import call
from scribbleseg import em, pipeline
from scribbleseg.data import folder
from scribbleseg.data.preprocess import Preprocess
from scribbleseg.phantoms import write_phantoms
from scribbleseg.recipe import Recipe, Relabel, Stage
from scribbleseg.relabel.decide import WelchTest
from scribbleseg.relabel.refine import DenseCRF
from scribbleseg.seeds.random_walker import RandomWalker
from scribbleseg.training import loop
from scribbleseg.training.losses import PartialCrossEntropy, PartialDice, ScribblesAndAreas
from scribbleseg.training.monai_network import MONAINetwork
from scribbleseg.training.unet import UNet
from scribbleseg.types import UNLABELLED, Dataset

CRF = DenseCRF(w1=1.0, w2=1.0, sigma_alpha=5.0, sigma_beta=0.2, sigma_gamma=1.0, iterations=2)
VOLUME = MONAINetwork(name="DynUNet", arguments={"filters": [2, 4, 4], "dropout": 0.3}, dimensions=3)
LOSSES = (PartialCrossEntropy(), PartialDice(), ScribblesAndAreas())
SLICES = Recipe(
    preprocess=Preprocess(spacing_mm=6.0, size=32),
    seeds=RandomWalker(tau=0.9, beta=100.0),
    network=UNet(base=2, padded=True),
    stages=(
        Stage(batch=2, iterations=3, losses=LOSSES),
        Stage(batch=2, iterations=3, losses=LOSSES, ema_decay=0.9, relabel=Relabel(decide=WelchTest(passes=2))),
        Stage(batch=2, iterations=2, restarts=False, relabel=Relabel(refine=CRF, clamp="scribbles")),
    ),
    stop_below=0.0,
    rotations=(10.0,),
    held_out=0.3,
    single_components=True,
)
SOLID = replace(SLICES.stages[2], relabel=Relabel(refine=replace(CRF, dimensions=3), clamp="scribbles"))
RECIPES = {
    "blocks": replace(
        SLICES,
        network=VOLUME,
        patch=16,
        depth=4,
        preprocess=replace(SLICES.preprocess, depth_mm=7.0),
        stages=(*SLICES.stages[:2], SOLID),
    ),
    "neighbours": replace(SLICES, network=replace(SLICES.network, dropout=0.3), neighbours=1),
}


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def hearts(tmp_path_factory) -> Path:
    return write_phantoms(tmp_path_factory.mktemp("volumes") / "hearts", train=2, test=1, shape=(6, 48, 48))


@pytest.fixture(scope="module")
def dataset(hearts) -> Dataset:
    return folder(hearts)


@pytest.mark.parametrize("name", RECIPES)
def test_a_killed_training_ends_with_the_same_weights_and_labels(name, dataset, fabric, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 2)
    monkeypatch.setattr(loop, "LOG_EVERY", 1)

    def run(where):
        session = pipeline.begin(dataset, tmp_path / where, RECIPES[name], fabric=fabric, resume=True)
        return session, list(em.train(session))

    session, whole = run("whole")
    assert [r.index for r in whole] == [0, 1, 2]
    assert all(r.agreement for r in whole)
    log = type(session.run).log
    for recursion in (0, 1):

        def kill(self, record, at=recursion):
            log(self, record)
            if record["event"] == "train" and record["recursion"] == at and record["iteration"] == 3:
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(type(session.run), "log", kill)
            with pytest.raises(Killed):
                run("killed")
    _, resumed = run("killed")
    for one, other in zip(whole, resumed, strict=True):
        assert np.array_equal(one.labels, other.labels)
        assert one.agreement == other.agreement
        for a, b in zip(one.segmenter.network.parameters(), other.segmenter.network.parameters(), strict=True):
            assert torch.equal(a, b)
    case = dataset.test[0]
    segmenter = pipeline.load(session.run, fabric)
    labels = segmenter.segment(case)
    assert np.array_equal(labels, whole[-1].segmenter.segment(case))
    assert labels.shape == case.geometry.shape
    assert segmenter.channels == 1
    probabilities = segmenter.probabilities(case)
    assert np.allclose(probabilities.sum(axis=0), 1, atol=1e-4)


@pytest.mark.parametrize("name", RECIPES)
def test_held_out_slices_are_seen_in_their_stacks(name, dataset, fabric, tmp_path):
    session = pipeline.begin(dataset, tmp_path / "run", RECIPES[name], fabric=fabric)
    session.prepare(session.recipe.preprocess, session.recipe.held_out)
    slices, recipe = session.slices, session.recipe
    network = recipe.build(1, session.dataset.n_labels)
    places = np.flatnonzero((slices.held_out != UNLABELLED).any(axis=(1, 2)))
    assert len(places)
    found = em._likeliest(session, network, places)
    whole = [em.predict(fabric, network, slices.images(rows), recipe.views) for rows in slices.rows.values()]
    assert np.array_equal(found, np.concatenate(whole).argmax(axis=1)[places])


@pytest.mark.parametrize("name", RECIPES)
def test_the_plan_says_what_is_trained(name, dataset, fabric, tmp_path):
    with pipeline.begin(dataset, tmp_path / "run", RECIPES[name], fabric=fabric) as session:
        said = pipeline.plan(session)
    expected = {"blocks": "of 2 blocks of 4 x 16 x 16 voxels of 6.0 mm", "neighbours": "of 2 slices of 32 x 32 pixels"}
    assert expected[name] in said


def test_the_crf_is_told_how_far_apart_slices_are(dataset, fabric, tmp_path, monkeypatch):
    told = []
    refine = DenseCRF.__call__
    monkeypatch.setattr(DenseCRF, "__call__", lambda *arguments: told.append(arguments[-1]) or refine(*arguments))
    with pipeline.begin(dataset, tmp_path / "run", RECIPES["blocks"], fabric=fabric) as session:
        list(em.train(session))
    assert told == [pytest.approx(7 / 6)] * 2  # preprocess.depth_mm, spacing_mm; two cases


SETTINGS = (
    'network.arguments={"filters": [2, 4, 4], "dropout": 0.2}', "preprocess.spacing_mm=6.0", "patch=16",
    "stages.iterations=2", "stages.1.times=1", "seeds.tau=0.9",
)  # fmt: skip


def test_it_is_said_whether_areas_grow_across_slices(hearts, tmp_path):
    assert "Grown within slices, for they are more than 1.5 pixels apart." in call("check", hearts)
    near = tmp_path / "near"
    shutil.copytree(hearts, near)
    for file in near.glob("*/*.nii.gz"):
        image = nib.load(file)
        affine = image.affine @ np.diag([1, 1, 0.1, 1])
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), file)
    said = " ".join(call("check", near).split())
    assert "Grown across slices in 2 of 2 volumes, for there they are at most 1.5 pixels apart." in said


def test_every_verb_works_in_3d(hearts, tmp_path):
    run, out = tmp_path / "run", tmp_path / "predictions"
    words = ["--recipe", "default.quick3d", *(word for setting in SETTINGS for word in ("--set", setting))]
    assert "Dimensions: 2-D, for slices are" in call("check", hearts)
    assert "seed areas" in call("seeds", hearts, "--out", run, "--workers", 1, *words)
    resumed = ["--out", run, "--resume", "--workers", 1, "--accelerator", "cpu", *words]
    said = call("train", hearts, *resumed)
    assert "of 2 blocks of 4 x 16 x 16 voxels" in said
    assert "1 label map in" in call("predict", run, hearts, "--out", out, "--uncertainty")
    image = nib.load(hearts / "images" / "test000.nii.gz")
    assert nib.load(out / "test000.nii.gz").shape == image.shape
    assert np.isfinite(nib.load(out / "test000_entropy.nii.gz").dataobj).all()
    assert "1 of 1 test case scored" in call("evaluate", out, hearts)
    call("report", run, "--out", tmp_path / "report.html")
    assert "test000" in (tmp_path / "report.html").read_text(encoding="utf-8")
    call("suggest", run, hearts)
