import numpy as np
import pytest
from scipy import ndimage

from scribbleseg.data.drawn_plane import LOOKED_AT, drawn_axis, drawn_plane, plane_of_strokes
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
    assert drawn_axis(drawn, geometry()) == axis
    assert plane_of_strokes(drawn, geometry()) == PLANES[axis]


@pytest.mark.parametrize("axis", range(3))
def test_a_stroke_in_one_slice_is_enough(axis):
    drawn = np.full(SHAPE, UNLABELLED, np.uint8)
    np.moveaxis(drawn, axis, 0)[12, 5:20, 7] = 1
    np.moveaxis(drawn, axis, 0)[12, 3, 5:20] = 0
    assert drawn_axis(drawn, geometry()) == axis


def test_thick_slices_are_slices_whatever_was_drawn():
    assert drawn_axis(lines(2), geometry((5.0, 1.0, 1.0))) is None
    assert drawn_axis(lines(2), geometry((1.0, 5.0, 1.0))) is None


@pytest.mark.parametrize(
    "scribbles",
    [
        np.full(SHAPE, UNLABELLED, np.uint8),
        np.zeros(SHAPE, np.uint8),
        np.where(np.indices(SHAPE).sum(axis=0) % 7 == 0, 1, UNLABELLED).astype(np.uint8),
        np.where(np.indices(SHAPE)[1] % 9 == 0, 1, UNLABELLED).astype(np.uint8),
        np.minimum(np.minimum(lines(0, 5), lines(1, 5)), lines(2, 5)),
        np.where(ndimage.binary_dilation(lines(1) == 1, np.ones((5, 5, 5))), 1, UNLABELLED).astype(np.uint8),
    ],
    ids=[
        "nothing drawn",
        "a full mask",
        "oblique sheets",
        "the same lines in every slice",
        "all planes",
        "a thick brush",
    ],
)
def test_it_is_not_guessed(scribbles):
    assert drawn_axis(scribbles, geometry()) is None
    assert plane_of_strokes(scribbles, geometry()) is None


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("width", [2, 4])
def test_a_brush_may_be_a_few_pixels_wide(axis, width):
    drawn = lines(axis, every=6)
    brush = np.insert(np.ones((width, width), bool), 0, 0, axis=0)[1:]
    wide = np.where(ndimage.binary_dilation(drawn != UNLABELLED, np.expand_dims(brush, axis)), 1, UNLABELLED)
    assert drawn_axis(wide.astype(np.uint8), geometry()) == axis


@pytest.mark.parametrize("apart", [100, 400])
def test_two_slices_far_apart_are_enough(apart):
    shape = (apart + 20, 64, 64)
    drawn = np.full(shape, UNLABELLED, np.uint8)
    for z in (10, apart + 10):
        drawn[z, 20, 10:40], drawn[z, 30:60, 50] = 1, 0
    assert drawn_axis(drawn, Geometry(shape, np.eye(4), suffix=".nii.gz")) == 0


def test_nobody_knows_the_planes_of_arrays():
    assert drawn_axis(lines(1), geometry(suffix="")) is None


def test_oblique_volumes_are_cut_as_they_are_stored(caplog):
    cos, sin = np.cos(0.7), np.sin(0.7)
    directions = np.array([[cos, -sin, 0, 0], [sin, cos, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    oblique = Geometry(SHAPE, directions)
    cases = Cases(["a"], lambda name: case(lines(1), oblique), lambda name: oblique)
    assert drawn_plane(cases) is None
    assert Preprocess(windows=()).resolve(cases).turn(oblique).axes == (0, 1, 2)
    thick = Geometry(SHAPE, directions * [1, 5, 1, 1])
    assert not caplog.records
    for plane in PLANES:  # which have no meaning for it
        cases = Cases(["a"], lambda name: case(lines(0), thick), lambda name: thick)
        assert Preprocess(windows=(), plane=plane).resolve(cases).turn(thick).axes == (1, 0, 2)
        assert f"preprocess.plane={plane} does not apply to volumes that lie askew (a)" in caplog.text


def cases_of(drawn: dict[str, np.ndarray], thick: int = 0) -> Cases:
    """Cases by name; the last ones have thick slices, which are stored first."""
    grids = dict.fromkeys(drawn, geometry()) | dict.fromkeys(
        list(drawn)[len(drawn) - thick :], geometry((5.0, 1.0, 1.0))
    )
    return Cases(list(drawn), lambda name: case(drawn[name], grids[name], name), lambda name: grids[name])


def test_most_of_the_drawn_volumes_decide_for_a_data_set():
    nothing = np.full(SHAPE, UNLABELLED, np.uint8)
    assert drawn_plane(cases_of({"a": lines(2), "b": lines(1), "c": lines(1)})) == "coronal"
    assert drawn_plane(cases_of(dict(zip("abcde", map(lines, (2, 1, 1, 1, 2)), strict=True)))) == "coronal"
    assert drawn_plane(cases_of({"a": lines(2), "b": lines(1)})) is None
    assert drawn_plane(cases_of({})) is None
    few = {f"c{n:02}": nothing for n in range(40)} | {"c11": lines(1), "c12": lines(2), "c13": lines(2)}
    assert drawn_plane(cases_of(few)) == "sagittal"


def test_no_more_volumes_are_read_than_are_needed():
    read = []
    drawn = Cases(
        [str(n) for n in range(50)], lambda name: read.append(name) or case(lines(1), geometry()), lambda _: geometry()
    )
    assert drawn_plane(drawn) == "coronal"
    assert len(read) == len(set(read)) == LOOKED_AT
    thick = Cases(["a"], lambda name: pytest.fail("read"), lambda name: geometry((5.0, 1.0, 1.0)))
    assert drawn_plane(thick) is None


@pytest.mark.parametrize(("thick", "found"), [(0, "coronal"), (1, "coronal"), (2, None), (3, None)])
def test_volumes_with_slices_of_their_own_decide_where_they_are_half_or_more(thick, found):
    assert drawn_plane(cases_of(dict.fromkeys("abcd", lines(1)), thick)) == found


def test_an_orientation_of_another_plane_than_the_strokes_is_told(caplog):
    cases = cases_of({"a": lines(1)})
    Preprocess(windows=(), orientation="ASR").resolve(cases)
    assert not caplog.records
    Preprocess(windows=(), orientation="SAR").resolve(cases)
    assert "drawn in coronal slices, and the recipe's orientation SAR cuts axial ones" in caplog.text


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
