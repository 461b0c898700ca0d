"""The loop of M and E steps: what it trains on, what it leaves, and that a kill costs nothing but time."""

import importlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from scribbleseg.data import folder, fully_annotated
from scribbleseg.data.phantoms import write_phantoms
from scribbleseg.data.preprocess import Preprocess
from scribbleseg.data.slices import open_slices
from scribbleseg.data.volumes import read_labels
from scribbleseg.em import Recipe, em, load_segmenter, resolve
from scribbleseg.runs import Run, create_run
from scribbleseg.seeds.random_walker import RandomWalker, Strokes
from scribbleseg.settings import to_plain
from scribbleseg.train import loop
from scribbleseg.train.loop import Training
from scribbleseg.train.unet import UNet
from scribbleseg.types import UNLABELLED, DataError, Dataset

em_module = importlib.import_module("scribbleseg.em")  # scribbleseg.em itself is the function

TINY = Recipe(
    preprocess=Preprocess(spacing_mm=3.0, size=32),
    seeds=RandomWalker(tau=0.9, beta=100.0),
    network=UNet(base=4, padded=True, dropout=0.5),
    training=Training(batch=4, iterations=7, iterations_again=5),
    recursions=2,
    stop_below=0.0,
)


class Killed(Exception):
    pass


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory) -> Path:
    return write_phantoms(tmp_path_factory.mktemp("em") / "phantoms", train=2, test=1, shape=(3, 48, 48))


@pytest.fixture
def dataset(phantoms) -> Dataset:
    def never(name):
        raise AssertionError("training looked at a reference mask")

    return replace(folder(phantoms), read_reference=never)


@pytest.fixture
def fabric() -> Fabric:
    return Fabric(accelerator="cpu", devices=1)


def new_run(path, recipe=TINY) -> Run:
    return create_run(
        path, to_plain(recipe), {"seed": 0, "label_names": ["background", "RV", "Myo", "LV"]}, resume=True
    )


def test_recursions_train_relabel_and_never_touch_seeds_or_references(dataset, fabric, tmp_path):
    run = new_run(tmp_path / "run")
    recursions = list(em(TINY, dataset, run, fabric))
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
    strokes = open_slices(run.slices).scribbles
    assert (seeds[strokes != UNLABELLED] == strokes[strokes != UNLABELLED]).all()


def test_the_e_step_is_the_argmax_of_the_network_off_the_seeds(dataset, fabric, tmp_path):
    run = new_run(tmp_path / "run")
    recursions = list(em(TINY, dataset, run, fabric))
    network = recursions[0].segmenter.network
    # The generator trains on after each yield, so the weights of recursion 0 are read back.
    network = load_segmenter(run, fabric, 0).network.eval()
    images = torch.from_numpy(np.array(open_slices(run.slices).images))
    with torch.inference_mode():
        expected = network(images).argmax(dim=1).numpy()
    free = (recursions[0].labels == UNLABELLED) & (recursions[1].labels != UNLABELLED)
    assert (recursions[1].labels[free] == expected[free]).mean() > 0.999  # batches differ in the last bit


def test_label_maps_are_left_in_original_geometry(dataset, fabric, tmp_path):
    recipe = replace(TINY, preprocess=Preprocess(spacing_mm=2.0, size=32))  # smaller than the image
    run = new_run(tmp_path / "run", recipe)
    list(em(recipe, dataset, run, fabric))
    for index in range(3):
        for case in dataset.train:
            labels, geometry = read_labels(run.labels(index) / f"{case.name}.nii.gz")
            assert np.array_equal(geometry.affine, case.geometry.affine)
            assert labels.shape == case.scribbles.shape
            assert set(np.unique(labels)) <= {0, 1, 2, 3, 4}
    assert (labels == 4).any(), "outside the crop nothing is labelled"


def weights(run: Run) -> dict[str, torch.Tensor]:
    return torch.load(run.network(run.recursions - 1), weights_only=True)["state"]


@pytest.mark.parametrize("moment", ["first M step", "E step", "label maps", "second M step", "weights"])
def test_a_run_killed_at_any_moment_ends_with_the_same_weights(moment, dataset, fabric, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 3)
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    whole = new_run(tmp_path / "whole")
    list(em(TINY, dataset, whole, fabric))
    run = new_run(tmp_path / "killed")

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
            patch.setattr(em_module, "save_weights", kill)
        else:
            patch.setattr(em_module, {"E step": "clamp", "label maps": "finish_folder"}[moment], kill)
        with pytest.raises(Killed):
            list(em(TINY, dataset, run, fabric))
    list(em(TINY, dataset, new_run(tmp_path / "killed"), fabric))
    for (name, a), b in zip(weights(whole).items(), weights(run).values(), strict=True):
        assert torch.equal(a, b), name
    timeless = [{k: v for k, v in r.items() if k != "images_per_second"} for r in run.metrics]
    assert timeless == [{k: v for k, v in r.items() if k != "images_per_second"} for r in whole.metrics]
    assert not list(run.path.rglob("*.partial"))


def test_a_finished_run_is_not_trained_again(dataset, fabric, tmp_path, monkeypatch):
    run = new_run(tmp_path / "run")
    list(em(TINY, dataset, run, fabric))
    monkeypatch.setattr(em_module, "m_step", None)
    monkeypatch.setattr(em_module, "predict", None)
    assert len(list(em(TINY, dataset, run, fabric))) == 3


def test_recursion_stops_where_little_changes(dataset, fabric, tmp_path):
    recipe = replace(TINY, stop_below=1.0)
    assert [r.index for r in em(recipe, dataset, new_run(tmp_path / "run", recipe), fabric)] == [0, 1]


def test_full_masks_are_trained_on_only_through_the_named_door(phantoms, fabric, tmp_path):
    recipe = replace(TINY, annotation="masks", seeds=Strokes(), recursions=0)
    data = fully_annotated(folder(phantoms))
    (recursion,) = em(recipe, data, new_run(tmp_path / "run", recipe), fabric)
    case = data.train[0]
    expected = recipe.preprocess.labels(data.reference(case.name), case)
    assert (recursion.labels[: len(expected)] == expected).all()


def test_a_segmenter_labels_every_voxel_of_a_new_image(dataset, fabric, tmp_path):
    run = new_run(tmp_path / "run")
    *_, last = em(replace(TINY, recursions=0), dataset, run, fabric)
    case = dataset.test[0]
    labels = last.segmenter.segment(case)
    assert labels.shape == case.image.shape[1:]
    assert labels.max() <= 3
    assert np.array_equal(load_segmenter(run, fabric).segment(case), labels)
    with pytest.raises(DataError, match="expected 1 channels as in training, got 2"):
        last.segmenter.segment(replace(case, image=np.repeat(case.image, 2, axis=0)))


def test_an_unfinished_run_has_no_segmenter(fabric, tmp_path):
    with pytest.raises(DataError, match="finish `train`"):
        load_segmenter(new_run(tmp_path / "run"), fabric)


def test_resolve_sets_what_the_recipe_leaves_to_the_data(dataset):
    grid = resolve(replace(TINY, preprocess=Preprocess()), dataset).preprocess
    assert grid.spacing_mm > 0
    assert grid.size % 16 == 0
