"""Stacks in more or fewer slices: images are interpolated, strokes stay what and where they are."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch.nn import functional

from networks import Threshold
from scribbleseg.data.preprocess import AT_A_TIME, Preprocess
from scribbleseg.data.slices import build_slices
from scribbleseg.data.through_plane import in_slices, resample_stack
from scribbleseg.files import read_json, write_json
from scribbleseg.relabel.predict import Segmenter, Views
from scribbleseg.types import UNLABELLED, Case, Cases, DataError, Geometry

GRIDS = {"finer": 2.0, "coarser": 8.0, "as it is": 4.0, "not a multiple": 3.0}


def make_case(depth=40, name="case") -> Case:
    """A box in a volume whose slices are 4 mm apart; a stroke of label 1 and one of background in some slices."""
    shape = (depth, 24, 24)
    image = np.zeros((1, *shape), np.float32)
    image[0, depth // 4 : -(depth // 4), 6:18, 6:18] = 100
    scribbles = np.full(shape, UNLABELLED, np.uint8)
    scribbles[depth // 2, 12, 8:16] = 1
    scribbles[::3, 2, 2:20] = 0
    return Case(name, image, scribbles, Geometry(shape, np.diag([1.0, 1.0, 4.0, 1.0])))


@pytest.mark.parametrize(("before", "n"), [(7, 18), (18, 7), (40, 13), (5, 5), (1, 6), (6, 1), (2, 3)])
@pytest.mark.parametrize("at_a_time", [1, 4, 100])
def test_parts_of_a_stack_become_what_the_whole_does(before, n, at_a_time):
    stack = np.random.default_rng(0).normal(size=(before, 2, 3, 4)).astype(np.float32)
    taken = []

    def parts():
        for start in range(0, before, at_a_time):
            taken.append(min(start + at_a_time, before))
            yield stack[start : start + at_a_time]

    found, given = [], 0
    for part in in_slices(parts(), before, n):
        given += len(part)
        assert given >= n * (taken[-1] - 1) / before - 1, "a slice is given once it is known"
        found.append(part)
    columns = torch.from_numpy(stack).reshape(1, 1, before, -1)
    expected = functional.interpolate(columns, (n, columns.shape[-1]), mode="bilinear").reshape(n, 2, 3, 4).numpy()
    assert np.allclose(np.concatenate(found), expected, atol=1e-5)


def test_fewer_slices_are_means_and_as_many_are_the_same():
    stack = np.arange(12, dtype=np.float32)[:, None, None] * np.ones((1, 2, 2), np.float32)
    assert np.array_equal(resample_stack(stack, 12), stack)
    fewer = resample_stack(stack, 4)[:, 0, 0]
    assert np.allclose(fewer[1:-1], [4.0, 7.0])
    assert np.allclose(resample_stack(np.ones_like(stack), 5), 1)


@pytest.mark.parametrize("name", GRIDS)
def test_strokes_stay_at_their_depth_and_what_they_are(name):
    case, grid = make_case(), Preprocess(spacing_mm=1.0, size=32, depth_mm=GRIDS[name])
    labels = grid.labels(case.scribbles, case.geometry)
    n = round(40 * 4 / GRIDS[name])
    assert labels.shape == (n, 32, 32) == grid.inside(case).shape
    assert grid.image(case).shape == (n, 1, 32, 32)
    assert max(map(len, grid.image_parts(case))) <= AT_A_TIME
    assert grid.voxel_mm(case.geometry) == (GRIDS[name], 1.0, 1.0)
    drawn, inner = case.scribbles, labels[:, 4:-4, 4:-4]
    for z, y, x in np.argwhere(drawn != UNLABELLED):  # every stroke is somewhere in the extent of its slice
        extent = inner[int(z * n / 40) : int(np.ceil((z + 1) * n / 40)), y, x]
        assert drawn[z, y, x] in extent
    for z, y, x in np.argwhere(inner != UNLABELLED):  # and nothing is where nobody drew
        extent = drawn[int(z * 40 / n) : int(np.ceil((z + 1) * 40 / n)), y, x]
        assert inner[z, y, x] in extent
    back = grid.native_labels(labels, case.geometry)
    assert back.shape == drawn.shape
    if n >= 40:
        assert np.array_equal(back[drawn != UNLABELLED], drawn[drawn != UNLABELLED])


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("depth", [None, 4])
def test_a_segmenter_gives_back_the_native_slices(name, depth):
    case, fabric = make_case(), Fabric(accelerator="cpu", devices=1)
    grid = Preprocess(spacing_mm=1.0, size=32, depth_mm=GRIDS[name])
    segmenter = Segmenter(Threshold(), grid, ("background", "box"), fabric, Views(depth=depth))
    labels, box = segmenter.segment(case), case.image[0] > 0
    assert labels.shape == box.shape
    assert (labels != box).any(axis=(1, 2)).sum() <= 2, "none but the slices at the ends of the box may differ"
    assert (segmenter.probabilities(case).argmax(axis=0) == labels).all()


def test_a_held_out_slice_teaches_nothing_however_many_slices_it_becomes(tmp_path):
    cases = Cases([f"case{n}" for n in range(3)], lambda name: make_case(name=name))
    grid = Preprocess(spacing_mm=1.0, size=32, depth_mm=1.5)
    slices = build_slices(cases, grid, tmp_path / "slices", ("background", "box"), held_out=0.4)
    kept, held = slices.scribbles != UNLABELLED, slices.held_out != UNLABELLED
    assert held.any()
    assert not (kept & held).any()
    assert not (kept.any(axis=(1, 2)) & held.any(axis=(1, 2))).any()
    assert slices.spacing_mm["case0"] == (1.5, 1.0, 1.0)
    assert len(slices) == 3 * round(40 * 4 / 1.5)


def test_a_cache_of_a_version_without_it_is_opened(tmp_path):
    cases = Cases(["case"], lambda name: make_case(name=name))
    grid = Preprocess(spacing_mm=1.0, size=32)
    build_slices(cases, grid, tmp_path / "slices")
    index = read_json(tmp_path / "slices" / "index.json", "")
    del index["key"]["preprocess"]["depth_mm"]
    write_json(tmp_path / "slices" / "index.json", index)
    assert len(build_slices(cases, grid, tmp_path / "slices")) == 40
    with pytest.raises(DataError, match="found another"):
        build_slices(cases, replace(grid, depth_mm=3.0), tmp_path / "slices")
