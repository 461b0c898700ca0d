import numpy as np
import pytest

from scribbleseg.data.drawn_plane import drawn_axis, drawn_plane, plane_of_strokes, stacked_along
from scribbleseg.data.preprocess import Preprocess
from scribbleseg.types import UNLABELLED, Case, Cases, Geometry

SHAPE = (30, 40, 36)
PLANES = ("axial", "coronal", "sagittal")  # of arrays that are stored as depth height width, S A R


def lines(axis: int, every: int = 1) -> np.ndarray:
    """Two lines, at random places, in each slice, or in every so many, that is stacked along an axis."""
    random = np.random.default_rng(axis)
    scribbles = np.full(SHAPE, UNLABELLED, np.uint8)
    slices = np.moveaxis(scribbles, axis, 0)
    for z in range(4, len(slices) - 4, every):
        slices[z, 4:24, random.integers(30)] = 1
        slices[z, random.integers(25, 30), 5:25] = 0
    return scribbles


def geometry(spacing_mm=(1.0, 1.0, 1.0), suffix=".nii.gz") -> Geometry:
    return Geometry(SHAPE, np.diag([*spacing_mm[::-1], 1.0]), suffix=suffix)


def case(scribbles: np.ndarray, grid: Geometry, name: str = "a") -> Case:
    return Case(name, np.zeros((1, *SHAPE), np.float32), scribbles, grid)


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("every", [1, 3])
def test_the_plane_that_lines_were_drawn_in_is_found(axis, every):
    drawn = lines(axis, every)
    assert drawn_axis(drawn, geometry()) == stacked_along(drawn, geometry()) == axis
    assert plane_of_strokes(drawn, geometry()) == PLANES[axis]


@pytest.mark.parametrize("axis", range(3))
def test_a_stroke_in_one_slice_is_enough(axis):
    drawn = np.full(SHAPE, UNLABELLED, np.uint8)
    np.moveaxis(drawn, axis, 0)[12, 5:20, 7] = 1
    np.moveaxis(drawn, axis, 0)[12, 3, 5:20] = 0
    assert drawn_axis(drawn, geometry()) == axis


def test_thick_slices_are_slices_whatever_was_drawn():
    assert drawn_axis(lines(2), geometry((5.0, 1.0, 1.0))) is None
    assert stacked_along(lines(2), geometry((5.0, 1.0, 1.0))) == 0
    assert stacked_along(lines(2), geometry((1.0, 5.0, 1.0))) == 1


@pytest.mark.parametrize(
    "scribbles",
    [
        np.full(SHAPE, UNLABELLED, np.uint8),
        np.zeros(SHAPE, np.uint8),
        np.where(np.indices(SHAPE).sum(axis=0) % 7 == 0, 1, UNLABELLED).astype(np.uint8),
        np.where(np.indices(SHAPE)[1] % 9 == 0, 1, UNLABELLED).astype(np.uint8),
    ],
    ids=["nothing drawn", "a full mask", "oblique sheets", "the same lines in every slice"],
)
def test_it_is_not_guessed(scribbles):
    assert drawn_axis(scribbles, geometry()) is None
    assert plane_of_strokes(scribbles, geometry()) is None
    assert stacked_along(scribbles, geometry()) == 0


def test_nobody_knows_the_planes_of_arrays():
    assert drawn_axis(lines(1), geometry(suffix="")) is None


def test_oblique_volumes_are_cut_as_they_are_stored_and_counted_so():
    cos, sin = np.cos(0.7), np.sin(0.7)
    oblique = Geometry(SHAPE, np.array([[cos, -sin, 0, 0], [sin, cos, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
    cases = Cases(["a"], lambda name: case(lines(1), oblique), lambda name: oblique)
    assert drawn_plane(cases) is None
    assert stacked_along(lines(1), oblique) == 0
    assert Preprocess(windows=()).resolve(cases).turn(oblique).axes[0] == 0


def test_most_volumes_decide_for_a_data_set_and_thick_ones_are_not_read():
    drawn = {"a": lines(1), "b": lines(2), "c": lines(1)}
    cases = Cases(list(drawn), lambda name: case(drawn[name], geometry(), name), lambda name: geometry())
    assert drawn_plane(cases) == "coronal"
    thick = Cases(["a"], lambda name: pytest.fail("read"), lambda name: geometry((5.0, 1.0, 1.0)))
    assert drawn_plane(thick) is None


@pytest.mark.parametrize("axis", range(3))
def test_slices_that_are_trained_on_are_those_that_were_drawn_on(axis):
    cases = Cases(["a"], lambda name: case(lines(axis), geometry()), lambda name: geometry())
    preprocess = Preprocess(windows=()).resolve(cases)
    assert preprocess.turn(geometry()).axes[0] == axis
    found = preprocess.labels(lines(axis), geometry())
    assert len(found) == SHAPE[axis]
    assert (found == 1).any(axis=(1, 2)).sum() == SHAPE[axis] - 8
    asked = Preprocess(windows=(), plane="axial").resolve(cases)
    assert asked.turn(geometry()).axes[0] == 0
