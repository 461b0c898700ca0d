"""A damaged cache is refused before anything is learned from it, and made again where somebody deletes it."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

import scribbleseg as ss
from faults import flip, flips
from scribbleseg.data.checksums import CHECKSUM, checksum
from scribbleseg.data.preprocess import Preprocess
from scribbleseg.data.slices import open_slices
from scribbleseg.files import FileError, read_json
from scribbleseg.recipe import Recipe, Relabel, Stage
from scribbleseg.seeds.strokes import Strokes
from scribbleseg.training.unet import UNet
from scribbleseg.types import DataError
from scribbleseg.weights import read_weights

STAGE = Stage(iterations=1, batch=2)
TINY = Recipe(
    preprocess=Preprocess(spacing_mm=6.0, size=32),
    seeds=Strokes(),
    network=UNet(base=2, padded=True),
    stages=(STAGE, replace(STAGE, relabel=Relabel())),
    stop_below=0.0,
)
LAYERS = [("images", None), ("inside", None), ("scribbles", None), ("labels", 0), ("labels", 1)]


def file_of(run, kind, index):
    return run.slices / (f"{kind}.raw" if index is None else f"{kind}_{index}.raw")


@pytest.mark.parametrize(("kind", "index"), LAYERS)
def test_every_flipped_bit_of_a_layer_is_told(kind, index, run):
    file = file_of(run, kind, index)
    open_slices(run.slices).layer(kind, index)
    whole = file.read_bytes()
    for _, damaged in flips(whole, 20):
        file.write_bytes(damaged)
        with pytest.raises(FileError, match=rf"{file.name}: its checksum does not match.*delete .*slices and go"):
            open_slices(run.slices).layer(kind, index)
    file.write_bytes(whole)
    open_slices(run.slices).layer(kind, index)


def test_a_layer_cut_short_or_with_a_damaged_checksum_is_told(run):
    file = file_of(run, "labels", 0)
    for damage in ("12e", "", "1" * 5000, "\0", "-1", "²"):
        file.with_suffix(CHECKSUM).write_text(damage)
        with pytest.raises(FileError, match="labels_0.raw"):
            open_slices(run.slices).layer("labels", 0)
    file = file_of(run, "images", None)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(FileError, match="images.raw"):
        open_slices(run.slices).layer("images")


def test_a_damaged_cache_stops_the_training_and_once_deleted_is_made_again(hearts, run):
    before = {index: open_slices(run.slices).layer("labels", index).copy() for index in (0, 1)}
    weights = read_weights(run.network(1))["state"]
    file = file_of(run, "labels", 0)
    file.write_bytes(flip(file.read_bytes(), 1000))
    with pytest.raises(FileError, match="labels_0.raw"):
        ss.train(hearts, run.path, TINY, resume=True, accelerator="cpu")
    shutil.rmtree(run.slices)
    ss.train(hearts, run.path, TINY, resume=True, accelerator="cpu")
    for index, labels in before.items():
        assert np.array_equal(open_slices(run.slices).layer("labels", index), labels)
    assert all((value == weights[name]).all() for name, value in read_weights(run.network(1))["state"].items())


def test_a_run_whose_cache_was_deleted_is_still_that_run(hearts, run):
    shutil.rmtree(run.slices)
    with pytest.raises(DataError, match="add --resume"):
        ss.train(hearts, run.path, TINY, accelerator="cpu")
    with pytest.raises(DataError, match="begun with another recipe"):
        ss.train(hearts, run.path, replace(TINY, network=UNet(base=4, padded=True)), resume=True, accelerator="cpu")
    other = replace(hearts, train=hearts.train.only(hearts.train.names[::-1]))
    for _ in range(2):
        with pytest.raises(DataError, match="have changed since"):
            ss.train(other, run.path, TINY, resume=True, accelerator="cpu")
    ss.train(hearts, run.path, TINY, resume=True, accelerator="cpu")


def test_caches_of_earlier_versions_have_no_checksums(hearts, run):
    index = read_json(run.slices / "index.json", "")
    del index["checksums"]
    (run.slices / "index.json").write_text(json.dumps(index))
    for file in run.slices.glob(f"*{CHECKSUM}"):
        file.unlink()
    ss.train(hearts, run.path, TINY, resume=True, accelerator="cpu")


def test_caches_of_earlier_versions_have_images_in_single_precision(hearts, run):
    index, images = read_json(run.slices / "index.json", ""), run.slices / "images.raw"
    assert index.pop("images_as") == "float16"
    np.fromfile(images, np.float16).astype(np.float32).tofile(images)
    index["checksums"]["images"] = checksum(images)
    (run.slices / "index.json").write_text(json.dumps(index))
    assert open_slices(run.slices).layer("images").dtype == np.float32
    ss.train(hearts, run.path, TINY, resume=True, accelerator="cpu")
