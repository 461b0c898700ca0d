"""What works slice by slice gives, to the last digit, what it gave on whole volumes, and takes little memory."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from scipy import ndimage
from torch.nn import functional

from scribbleseg.data import intensities
from scribbleseg.data.brain import in_brain, normalise_brain
from scribbleseg.data.fingerprint import fingerprint
from scribbleseg.data.intensities import CLIPPED_PERCENTILES, normalise
from scribbleseg.data.preprocess import AT_A_TIME, Preprocess, _fit, _paste
from scribbleseg.relabel.components import NEIGHBOURS, only_largest
from scribbleseg.relabel.predict import BATCH, Segmenter, predict
from scribbleseg.seeds import RandomWalker, grow
from scribbleseg.training.unet import UNet
from scribbleseg.types import UNLABELLED, Case, Cases, Geometry

STORED = np.diag([-1.5, -1.0, 2.0, 1.0])
TURNED = np.array([[0, 0, 1.5, 0], [-1.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 0, 1]])
"""Slices are stacked along the second axis of the array, and two axes are reversed."""

SHAPE = (2 * AT_A_TIME + 5, 2 * AT_A_TIME + 3, 30)
WINDOWS = ((-1.0, 2.0), None)
GRIDS = {
    "percentiles": Preprocess(spacing_mm=1.7, size=32, orientation="SPL"),
    "windows": Preprocess(spacing_mm=1.7, size=32, orientation="SPL", windows=WINDOWS, crops=False),
    "brain": Preprocess(spacing_mm=0.8, size=64, orientation="SPL", brain=True, crops=True),
}


def made_up(affine: np.ndarray, channels: int = 2) -> Case:
    """Noise around a surround of zeros, with strokes."""
    rng = np.random.default_rng(3)
    image = rng.normal(1, 1.3, (channels, *SHAPE)).astype(np.float32)
    image[:, :, :4] = image[:, :, :, -5:] = 0
    scribbles = np.full(SHAPE, UNLABELLED, np.uint8)
    scribbles[:, 10:14, 6] = rng.integers(0, 3, (SHAPE[0], 4))
    return Case("case", image, scribbles, Geometry(SHAPE, affine))


def normalised_at_once(image: np.ndarray, windows: tuple) -> np.ndarray:
    whole = []
    for channel, window in zip(image, windows or [None] * len(image), strict=True):
        if window:
            low, high = window
            whole.append(((np.clip(channel, low, high) - (low + high) / 2) * (4 / (high - low))).astype(np.float32))
            continue
        low, high = np.percentile(channel, CLIPPED_PERCENTILES)
        clipped = np.ldexp(np.clip(channel, low, high), -int(np.frexp(float(high) - float(low))[1]))
        whole.append(((clipped - clipped.mean()) / clipped.std()).astype(np.float32))
    return np.stack(whole)


def normalised_brain_at_once(image: np.ndarray) -> np.ndarray:
    brain, whole = in_brain(image), np.zeros_like(image)
    for channel, values in enumerate(image[:, brain]):
        whole[channel, brain] = (values - values.mean(dtype=np.float64)) / values.std(dtype=np.float64)
    return whole


def image_at_once(grid: Preprocess, case: Case, side: int) -> np.ndarray:
    normalised = normalised_brain_at_once(case.image) if grid.brain else normalised_at_once(case.image, grid.windows)
    normalised = np.ascontiguousarray(grid.turn(case.geometry)(normalised))
    slices = functional.interpolate(
        torch.from_numpy(normalised.swapaxes(0, 1)), grid.resampled(case.geometry), mode="bilinear", antialias=True
    ).numpy()
    floor = normalised.min(axis=(1, 2, 3))[:, None, None] * (not grid.brain)
    return _fit(slices, side, np.broadcast_to(floor, (*slices.shape[:-2], 1, 1)))


def native_at_once(grid: Preprocess, probabilities: np.ndarray, case: Case) -> np.ndarray:
    whole = np.zeros((*probabilities.shape[:2], *grid.resampled(case.geometry)), np.float32)
    whole[:, 0] = 1
    _paste(whole, probabilities)
    turn = grid.turn(case.geometry)
    native = functional.interpolate(torch.from_numpy(whole), turn.shape(case.geometry)[1:], mode="bilinear").numpy()
    native = turn.back(native.swapaxes(0, 1))
    if grid.brain:
        outside = ~in_brain(case.image)
        native[:, outside] = 0
        native[0, outside] = 1
    return native


def bytes_a_voxel(work, voxels: int) -> float:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] / voxels
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("n", [1, 7, 1024, 1025, 4096, 100_003, 2**17 + 9, 3 * 2**19 + 1])
def test_means_of_parts_are_those_of_the_whole(n, monkeypatch):
    channel = np.random.default_rng(n).normal(100, 30, (1, 1, 1, n)).astype(np.float32)
    expected = normalised_at_once(channel, ()) if n > 1 else np.zeros_like(channel)
    assert np.array_equal(normalise(channel), expected)
    monkeypatch.setattr(intensities, "AT_A_TIME", 128)  # what NumPy itself sums in one go
    assert np.array_equal(normalise(channel), expected)


@pytest.mark.parametrize("affine", [STORED, TURNED], ids=["stored", "turned"])
@pytest.mark.parametrize("kind", GRIDS)
def test_images_in_parts_are_those_of_whole_volumes(kind, affine, monkeypatch):
    monkeypatch.setattr(intensities, "AT_A_TIME", 1000)
    grid, case = GRIDS[kind], made_up(affine)
    side = grid.side(case.geometry)
    parts = list(grid.image_parts(case, side))
    assert len(parts) == 3
    assert {len(part) for part in parts[:-1]} == {AT_A_TIME}
    expected = image_at_once(grid, case, side)
    assert np.array_equal(np.concatenate(parts), expected)
    assert np.array_equal(grid.image(case, side), expected)
    assert np.array_equal(normalise_brain(case.image), normalised_brain_at_once(case.image))


@pytest.mark.parametrize("affine", [STORED, TURNED], ids=["stored", "turned"])
@pytest.mark.parametrize("kind", GRIDS)
def test_segmenting_in_parts_gives_the_labels_of_whole_volumes(kind, affine):
    torch.manual_seed(0)
    grid, case, fabric = GRIDS[kind], made_up(affine), Fabric(accelerator="cpu", devices=1)
    network = UNet(base=2, padded=True).build(2, 3)
    segmenter = Segmenter(network, grid, ("background", "a", "b"), fabric, single=frozenset({1}))
    on_grid = predict(fabric, network, image_at_once(grid, case, grid.side(case.geometry)))
    native = native_at_once(grid, on_grid, case)
    assert len(np.unique(native.argmax(axis=0))) > 1
    assert np.array_equal(grid.native_probabilities(on_grid, case), native)
    assert np.array_equal(segmenter.probabilities(case), native)
    expected = only_largest(native.argmax(axis=0).astype(np.uint8), {1})
    assert np.array_equal(segmenter.segment(case), expected)
    assert np.array_equal(segmenter.labels(native), expected)


def test_parts_are_batches_of_the_network():
    """Else passes of other sizes could differ in the last digit, and small ones would cost time."""
    assert AT_A_TIME == BATCH


@pytest.mark.parametrize("seed", range(4))
def test_the_largest_component_in_its_box_is_that_of_the_whole_volume(seed):
    labels = np.random.default_rng(seed).choice([0, 1, 2, UNLABELLED], (6, 9, 10), p=[0.8, 0.1, 0.05, 0.05])
    labels = np.pad(labels.astype(np.uint8), ((2, 3), (0, 4), (5, 0)))
    expected = labels.copy()
    for value in (1, 2):
        components, _ = ndimage.label(labels == value, NEIGHBOURS)
        expected[(labels == value) & (components != 1 + np.bincount(components.ravel())[1:].argmax())] = 0
    assert np.array_equal(only_largest(labels, {1, 2}), expected)


@pytest.mark.parametrize("scale", ["volume", "slice"])
@pytest.mark.parametrize("empty", ["background", "unlabelled"])
def test_areas_of_slices_are_those_of_the_whole_volume(scale, empty):
    case = made_up(STORED, channels=1)
    scribbles = case.scribbles[:9].copy()
    scribbles[3] = np.where(scribbles[3] == UNLABELLED, UNLABELLED, 0)
    walker = RandomWalker(tau=0.6, beta=40.0, scale=scale, empty=empty)
    image = case.image[:, :9]
    probabilities = walker.probabilities(image, scribbles, (2.0, 1.0, 1.0))
    areas = np.where(probabilities.max(axis=0) >= 0.6, probabilities.argmax(axis=0), UNLABELLED)
    areas = np.where(scribbles != UNLABELLED, scribbles, areas)
    found = walker(image, scribbles, (2.0, 1.0, 1.0))
    assert found.dtype == np.uint8
    assert np.array_equal(found, areas)
    # One slice alone has its own scale: what scales by the volume differs from it, what scales by slices does not.
    alone = np.concatenate([walker(image[:, [z]], scribbles[[z]], (2.0, 1.0, 1.0)) for z in range(9)])
    assert np.array_equal(alone, found) == (scale == "slice")


def test_one_volume_at_a_time_is_in_memory():
    n = 50 * 100 * 100

    def volumes():
        for _ in range(3):
            yield (
                np.zeros((1, 50, 100, 100), np.float32),
                np.full((50, 100, 100), UNLABELLED, np.uint8),
                (1.0, 1.0, 1.0),
            )

    used = bytes_a_voxel(lambda: [None for _ in grow(RandomWalker(), volumes())], n)
    assert used < 4 + 1 + 1 + 1 + 4  # the image, scribbles, areas, those of the volume before, and slices

    def read(name):
        return Case(name, np.zeros((1, 50, 100, 100), np.float32), *grid)

    grid = np.full((50, 100, 100), UNLABELLED, np.uint8), Geometry((50, 100, 100), STORED)
    assert bytes_a_voxel(lambda: fingerprint(Cases(["a", "b", "c"], read)), n) < 4 + 0.5


def test_memory_of_segmenting_is_a_few_bytes_a_voxel():
    shape = (10 * AT_A_TIME, 100, 100)
    image = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    case = Case("case", image, np.full(shape, UNLABELLED, np.uint8), Geometry(shape, np.diag([1.0, 1.0, 1.0, 1.0])))
    torch.manual_seed(0)
    network, grid = UNet(base=2, padded=True).build(1, 3), Preprocess(spacing_mm=3.0, size=32)
    segmenter = Segmenter(network, grid, ("background", "a", "b"), Fabric(accelerator="cpu", devices=1))
    assert bytes_a_voxel(lambda: segmenter.segment(case), image.size) < 4 + 3  # a copy for percentiles, and slices
    single = replace(segmenter, single=frozenset({1, 2}))
    labels = np.random.default_rng(0).integers(0, 3, shape).astype(np.uint8)
    assert bytes_a_voxel(lambda: only_largest(labels, single.single), image.size) < 4 + 1 + 1.5  # numbers, labels, mask
