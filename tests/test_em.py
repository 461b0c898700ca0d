"""The loop of M and E steps: what it trains on, what it leaves, and that a kill costs nothing but time."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from scribbleseg import em, pipeline
from scribbleseg import session as session_module
from scribbleseg.data import folder
from scribbleseg.data.formats import read_labels
from scribbleseg.data.preprocess import Preprocess
from scribbleseg.em import load_segmenter
from scribbleseg.phantoms import write_phantoms
from scribbleseg.recipe import Recipe, Relabel, Stage, resolve
from scribbleseg.runs import Run
from scribbleseg.seeds.random_walker import RandomWalker, Strokes
from scribbleseg.session import Session
from scribbleseg.training import loop
from scribbleseg.training.unet import UNet
from scribbleseg.types import UNLABELLED, DataError, Dataset

TINY = Recipe(
    preprocess=Preprocess(spacing_mm=3.0, size=32),
    seeds=RandomWalker(tau=0.9, beta=100.0),
    network=UNet(base=4, padded=True, dropout=0.5),
    stages=(Stage(batch=4, iterations=7), Stage(batch=4, iterations=5, relabel=Relabel(), times=2)),
    stop_below=0.0,
)


class Killed(Exception):
    pass


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory) -> Path:
    return write_phantoms(tmp_path_factory.mktemp("em") / "phantoms", train=2, test=1, shape=(3, 48, 48))


@pytest.fixture(scope="session")
def dataset(phantoms) -> Dataset:
    def never(name):
        raise AssertionError("training looked at a reference mask")

    return replace(folder(phantoms), read_reference=never)


@pytest.fixture(scope="session")
def fabric() -> Fabric:
    return Fabric(accelerator="cpu", devices=1)


@pytest.fixture(scope="module")
def trained(dataset, fabric, tmp_path_factory) -> tuple[Session, list[em.Recursion]]:
    """TINY, undisturbed; read only."""
    session = begun(dataset, tmp_path_factory.mktemp("em") / "run", fabric)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "CHECKPOINT_EVERY", 3)
        patch.setattr(loop, "LOG_EVERY", 1)
        return session, list(em.train(session))


def begun(dataset, path, fabric, recipe=TINY) -> Session:
    return pipeline.begin(dataset, path, recipe, fabric=fabric, resume=True)


def test_recursions_train_relabel_and_never_touch_seeds_or_references(dataset, trained):
    session, recursions = trained
    assert [r.index for r in recursions] == [0, 1, 2]
    assert recursions[0].labelled < 1
    inside = np.concatenate([TINY.preprocess.inside(case) for case in dataset.train])
    for recursion in recursions[1:]:
        assert ((recursion.labels == UNLABELLED) == ~inside).all(), "all that is not padding is relabelled"
    assert recursions[0].changed is None
    seeds = recursions[0].labels
    for recursion in recursions[1:]:
        assert (recursion.labels[seeds != UNLABELLED] == seeds[seeds != UNLABELLED]).all()
        assert recursion.changed is not None
    strokes = session.slices.scribbles
    assert (seeds[strokes != UNLABELLED] == strokes[strokes != UNLABELLED]).all()


def test_the_e_step_is_the_argmax_of_the_network_off_the_seeds(trained, fabric):
    session, recursions = trained
    network = load_segmenter(TINY, session.run, fabric, 0).network.eval()
    images = torch.from_numpy(np.array(session.slices.images))
    with torch.inference_mode():
        expected = network(images).argmax(dim=1).numpy()
    free = (recursions[0].labels == UNLABELLED) & (recursions[1].labels != UNLABELLED)
    assert (recursions[1].labels[free] == expected[free]).mean() > 0.999  # batches differ in the last bit


def test_label_maps_are_left_in_original_geometry(dataset, fabric, tmp_path):
    recipe = replace(TINY, preprocess=Preprocess(spacing_mm=2.0, size=32))  # smaller than the image
    session = begun(dataset, tmp_path / "run", fabric, recipe)
    list(em.train(session))
    for index in range(3):
        for case in dataset.train:
            labels, geometry = read_labels(session.run.labels(index) / f"{case.name}.nii.gz")
            assert np.array_equal(geometry.affine, case.geometry.affine)
            assert labels.shape == case.scribbles.shape
            assert set(np.unique(labels)) <= {0, 1, 2, 3, 4}
    assert (labels == 4).any(), "outside the crop nothing is labelled"


def weights(run: Run) -> dict[str, torch.Tensor]:
    return torch.load(run.network(run.recursions - 1), weights_only=True)["state"]


@pytest.mark.parametrize("moment", ["first M step", "E step", "label maps", "second M step", "weights"])
def test_a_run_killed_at_any_moment_ends_with_the_same_weights(moment, dataset, trained, fabric, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 3)
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    whole = trained[0].run
    run = Run(tmp_path / "killed")

    def kill(*arguments):
        raise Killed

    with monkeypatch.context() as patch:
        if moment.endswith("M step"):
            fatal = {"first M step": 5, "second M step": 4}[moment]
            log = Run.log

            def log_and_kill(self, record):
                log(self, record)
                if record.get("iteration") == fatal and record["recursion"] == (moment == "second M step"):
                    raise Killed

            patch.setattr(Run, "log", log_and_kill)
        elif moment == "weights":
            patch.setattr(em, "save_weights", kill)
        elif moment == "E step":
            patch.setattr(em, "clamp", kill)
        else:
            patch.setattr(session_module, "finish_folder", kill)
        with pytest.raises(Killed):
            list(em.train(begun(dataset, run.path, fabric)))
    list(em.train(begun(dataset, run.path, fabric)))
    for (name, a), b in zip(weights(whole).items(), weights(run).values(), strict=True):
        assert torch.equal(a, b), name
    timeless = [{k: v for k, v in r.items() if k != "images_per_second"} for r in run.metrics]
    assert timeless == [{k: v for k, v in r.items() if k != "images_per_second"} for r in whole.metrics]
    assert not list(run.path.rglob("*.partial"))


def test_a_finished_run_is_not_trained_again(dataset, trained, fabric, monkeypatch):
    monkeypatch.setattr(em, "m_step", None)
    monkeypatch.setattr(em, "predict", None)
    assert len(list(em.train(begun(dataset, trained[0].run.path, fabric)))) == 3


def test_recursion_stops_where_little_changes(dataset, fabric, tmp_path):
    recipe = replace(TINY, stop_below=1.0)
    assert [r.index for r in em.train(begun(dataset, tmp_path / "run", fabric, recipe))] == [0, 1]


def test_full_masks_are_trained_on_only_through_the_named_door(phantoms, fabric, tmp_path):
    recipe = replace(TINY, annotation="masks", seeds=Strokes()).beginning(1)
    data = folder(phantoms)
    (recursion,) = em.train(begun(data, tmp_path / "run", fabric, recipe))
    case = data.train[0]
    expected = recipe.preprocess.labels(data.reference(case.name), case.geometry)
    assert (recursion.labels[: len(expected)] == expected).all()


def test_a_segmenter_labels_every_voxel_of_a_new_image(dataset, fabric, tmp_path):
    session = begun(dataset, tmp_path / "run", fabric, TINY.beginning(1))
    (last,) = em.train(session)
    case = dataset.test[0]
    labels = last.segmenter.segment(case)
    assert labels.shape == case.image.shape[1:]
    assert labels.max() <= 3
    assert np.array_equal(load_segmenter(TINY, session.run, fabric).segment(case), labels)
    with pytest.raises(DataError, match="expected 1 channels as in training, got 2"):
        last.segmenter.segment(replace(case, image=np.repeat(case.image, 2, axis=0)))


def test_an_unfinished_run_has_no_segmenter(dataset, fabric, tmp_path):
    session = begun(dataset, tmp_path / "run", fabric)
    with pytest.raises(DataError, match="finish `train`"):
        load_segmenter(TINY, session.run, fabric)


def test_resolve_sets_what_the_recipe_leaves_to_the_data(dataset):
    grid = resolve(replace(TINY, preprocess=Preprocess()), dataset).preprocess
    assert grid.spacing_mm > 0
    assert grid.size % 16 == 0
