"""The rule that chooses between 2-D and 3-D, and the depth of blocks."""

from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scribbleseg.data import dimensions
from scribbleseg.data.dimensions import Stacks
from scribbleseg.data.preprocess import Preprocess
from scribbleseg.types import Case, Cases, Geometry


@pytest.mark.parametrize(
    ("stacks", "dimensions"),
    [
        (Stacks(155, 1.0, 1.0), 3),  # BraTS
        (Stacks(20, 3.6, 0.625), 2),  # PROMISE12
        (Stacks(9, 10.0, 1.5), 2),  # ACDC
        (Stacks(16, 3.0, 1.0), 3),
        (Stacks(15, 3.0, 1.0), 2),
        (Stacks(16, 3.1, 1.0), 2),
    ],
)
def test_dimensions_follow_from_the_distance_and_the_number_of_slices(stacks, dimensions):
    assert stacks.dimensions == dimensions
    assert f"Dimensions: {dimensions}-D" in stacks.advice
    assert ("default.quick3d" in stacks.advice) == (dimensions == 3)


def test_single_slices_such_as_pictures_leave_nothing_to_choose():
    pictures = Stacks(1, 1.0, 1.0)
    assert (pictures.dimensions, pictures.advice) == (2, "")


def test_what_counts_is_the_median_case_in_the_plane_of_the_slices():
    def read(name):
        depth, mm = {"a": (10, 2.0), "b": (30, 4.0), "c": (20, 8.0)}[name]
        shape = (40, depth, 40)  # slices are stacked along the second axis
        geometry = Geometry(shape, np.diag([1.0, mm, 1.0, 1.0]))
        return Case(name, np.zeros((1, *shape), np.float32), np.zeros(shape, np.uint8), geometry)

    cases = Cases(["a", "b", "c"], read)
    grid = Preprocess(spacing_mm=1.0, size=48, plane="coronal").resolve(cases)
    assert Stacks.of(cases, grid) == Stacks(20, 4.0, 1.0)


def test_a_block_is_as_deep_as_wide_but_no_deeper_than_the_stack():
    assert Stacks(100, 2.0, 1.0).block_depth(48, 1.0) == 24
    assert Stacks(100, 2.0, 1.0).block_depth(48, 2.0) == 48
    assert Stacks(18, 1.0, 1.0).block_depth(48, 1.0) == 16
    assert Stacks(1, 1.0, 1.0).block_depth(48, 1.0) == 4
    assert Stacks(100, 7.0, 1.0).block_depth(48, 1.0) % 4 == 0


@given(st.integers(1, 300), st.integers(1, 200), st.integers(1, 2000))
def test_parts_give_every_slice_once_and_see_beyond_it(slices, pixels, voxels):
    with mock.patch.object(dimensions, "VOXELS", voxels):
        found = list(dimensions.parts(slices, pixels))
    assert [z for _, own in found for z in range(slices)[own]] == list(range(slices))
    deepest = max(voxels // pixels, dimensions.SHALLOWEST)
    assert all(
        len(range(slices)[seen]) <= max(deepest, slices if slices * pixels <= voxels else 0) for seen, _ in found
    )
    for seen, own in found:
        margin = (own.stop - own.start) // 2 if len(found) > 1 else 0
        assert own.start - seen.start >= min(margin, own.start)
        assert seen.stop - own.stop >= min(margin, slices - own.stop)
