"""Slices are cut along the through-plane axis, in one orientation, and everything goes back to the file's order."""

from dataclasses import replace
from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest

from scribbleseg.annotate.check import check
from scribbleseg.annotate.simulate import RULES, write_simulation
from scribbleseg.api import seed
from scribbleseg.data import open_dataset
from scribbleseg.data.orientation import Turn, codes, common_orientation, looked_at, plane, sides, turn_to
from scribbleseg.data.preprocess import Preprocess
from scribbleseg.data.slices import build_slices
from scribbleseg.evaluation.metrics import score
from scribbleseg.recipe import Recipe
from scribbleseg.settings import override
from scribbleseg.types import UNLABELLED, Case, Cases, DataError, Geometry

ENDS = {"S": (0, 0, 1), "I": (0, 0, -1), "A": (0, 1, 0), "P": (0, -1, 0), "R": (1, 0, 0), "L": (-1, 0, 0)}
LPS = "SPL"
"""A file in LPS, read as depth height width."""

ALL = ["".join(ends) for axes in permutations(("SI", "AP", "LR")) for ends in product(*axes)]
"""All 48 ways to store a volume."""


def axis_of(end: str) -> str:
    """Both ends of the anatomical axis that this is one of."""
    return next(axis for axis in ("SI", "AP", "LR") if end in axis)


def geometry(orientation: str, shape=(4, 30, 20), sizes=(5.0, 1.0, 1.0)) -> Geometry:
    """Of a volume whose stored depth, height and width grow towards these ends."""
    affine = np.eye(4)
    for column, axis in enumerate((2, 1, 0)):
        affine[:3, column] = np.array(ENDS[orientation[axis]]) * sizes[axis]
    return Geometry(shape, affine)


def stored(array: np.ndarray, orientation: str, as_: str = LPS) -> np.ndarray:
    """An array in the orientation `as_` as a file of another orientation would store it; the slow, obvious way."""
    axes = [next(n for n, end in enumerate(as_) if end in axis_of(letter)) for letter in orientation]
    array = array.transpose(*range(array.ndim - 3), *(array.ndim - 3 + axis for axis in axes))
    for n, letter in enumerate(orientation):
        if letter not in as_:
            array = np.flip(array, array.ndim - 3 + n)
    return array


def moved(values: tuple, orientation: str) -> tuple:
    """Sizes of an LPS volume's axes, in the order in which a file of another orientation has them."""
    return tuple(values[next(n for n, end in enumerate(LPS) if end in axis_of(letter))] for letter in orientation)


def test_there_are_48_ways_and_codes_tell_them_apart():
    assert len(ALL) == 48
    assert [codes(geometry(each)) for each in ALL] == ALL
    assert [plane(each) for each in ("SPL", "ARI", "LPS")] == ["axial", "coronal", "sagittal"]


@pytest.mark.parametrize("orientation", ALL)
def test_every_way_to_store_a_volume_gives_the_same_slices_and_goes_back(orientation):
    volume = np.arange(2 * 4 * 30 * 20).reshape(2, 4, 30, 20)
    file = stored(volume, orientation)
    grid = geometry(orientation, moved((4, 30, 20), orientation), moved((5.0, 1.0, 1.5), orientation))
    turn = turn_to(LPS, grid)
    assert np.array_equal(turn(file), volume)
    assert np.array_equal(turn.back(turn(file)), file)
    assert turn.shape(grid) == (4, 30, 20)
    assert turn.spacing_mm(grid) == (5.0, 1.0, 1.5)


def test_what_is_stored_alike_is_not_turned():
    for each in ALL:
        grids = [geometry(each), geometry(each, (9, 12, 12), (2.0, 2.0, 2.0))]
        found = common_orientation(grids)
        assert found == each
        assert all(turn_to(found, grid) == Turn() for grid in grids)


def test_most_cases_decide_and_a_thick_axis_comes_first():
    thick_first, thick_last = geometry("SPL", sizes=(5.0, 1.0, 1.0)), geometry("LPS", sizes=(1.0, 1.0, 5.0))
    assert common_orientation([thick_last]) == "SLP"
    assert common_orientation([thick_first, thick_last, thick_last]) == "SLP"
    isotropic = geometry("LPS", sizes=(1.0, 1.0, 1.2))
    assert common_orientation([isotropic]) == "LPS"
    assert turn_to("SPL", isotropic).axes == (2, 1, 0), "without a thick axis it is sliced as the others are"
    assert turn_to("SPL", geometry("LPS", sizes=(5.0, 1.0, 1.0))).axes == (0, 2, 1), "along its own thick axis"


def test_a_plane_that_is_asked_for_is_taken_from_all():
    grids = [geometry("SPL"), geometry("LPS", sizes=(1.0, 1.0, 1.0))]
    assert common_orientation(grids, "coronal") == "PSL"
    assert [turn_to("PSL", grid, "coronal").axes for grid in grids] == [(1, 0, 2), (1, 2, 0)]
    assert common_orientation(grids, "stored") is None
    assert turn_to(None, grids[1]) == Turn()


def test_pictures_and_single_slices_are_looked_at_from_the_front():
    picture = geometry("SAR", (1, 30, 20), (1.0, 1.0, 1.0))
    assert common_orientation([picture]) == "SAR"
    assert turn_to("SAR", picture) == Turn()
    for shape, axes in (((30, 1, 20), (1, 0, 2)), ((30, 20, 1), (2, 0, 1))):
        single = geometry("SAR", shape, (1.0, 1.0, 1.0))
        assert turn_to(common_orientation([single]), single) == Turn(axes)


@pytest.mark.parametrize("suffix", ["", ".png"])
def test_arrays_and_pictures_are_not_turned_for_nobody_knows_which_way_they_lie(suffix):
    unplaced = replace(geometry("SAR"), suffix=suffix)
    assert turn_to("LPS", unplaced) == Turn()
    assert common_orientation([unplaced]) is None
    assert common_orientation([unplaced, unplaced, geometry("SPL")]) == "SPL"


def test_the_sides_of_oblique_slices_are_left_as_they_are():
    angle = np.radians(45)
    rotation = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = rotation * [1.0, 1.0, 8.0]
    oblique = Geometry((4, 30, 20), affine)
    assert all(turn_to(each, oblique) == Turn() for each in ALL)
    affine = affine[:, [2, 0, 1, 3]]  # the thick axis stored last
    assert turn_to("SPL", Geometry((30, 20, 4), affine)).axes == (2, 0, 1)


@pytest.mark.parametrize("orientation", ["SPL", "LPS", "PRI", "RAS", "ASL"])
def test_the_grid_and_back_are_the_same_in_every_way_to_store_a_volume(orientation):
    rng = np.random.default_rng(0)
    image, labels = rng.normal(size=(1, 4, 30, 20)).astype(np.float32), rng.integers(0, 3, (4, 30, 20)).astype(np.uint8)
    labels[:, :3] = UNLABELLED
    reference = Case("a", image, labels, geometry(LPS))
    grid = geometry(orientation, moved((4, 30, 20), orientation), moved((5.0, 1.0, 1.0), orientation))
    case = Case("a", stored(image, orientation), stored(labels, orientation), grid)
    fitted = Preprocess(spacing_mm=1.0).resolve(Cases(["a"], lambda _: reference))
    assert (fitted.orientation, fitted.size) == (LPS, 32)
    assert np.array_equal(fitted.image(case), fitted.image(reference))
    on_grid = fitted.labels(case.scribbles, case.geometry)
    assert np.array_equal(on_grid, fitted.labels(labels, reference.geometry))
    assert np.array_equal(fitted.inside(case), fitted.inside(reference))
    assert np.array_equal(fitted.native_labels(on_grid, case.geometry), case.scribbles)
    certain = np.stack([on_grid == value for value in (0, 1, 2)], axis=1).astype(np.float32)
    native = fitted.native_probabilities(certain, case)
    known = case.scribbles != UNLABELLED
    assert np.array_equal(native.argmax(axis=0)[known], case.scribbles[known])


def heart(orientation: str) -> Case:
    """A volume of 5 mm slices with a line of structure in each, stored in another way."""
    rng = np.random.default_rng(1)
    image, scribbles = rng.normal(size=(1, 4, 30, 20)).astype(np.float32), np.full((4, 30, 20), UNLABELLED, np.uint8)
    image[0, :, 10:20, 5:15] += 5
    scribbles[:, 15, 7:12], scribbles[:, 3, 2:18] = 1, 0
    grid = geometry(orientation, moved((4, 30, 20), orientation), moved((5.0, 1.0, 1.0), orientation))
    return Case("a", stored(image, orientation), stored(scribbles, orientation), grid)


@pytest.mark.parametrize("orientation", ["LPS", "PRI", "RAS", "ASL"])
def test_seed_areas_of_a_case_are_the_same_in_every_way_to_store_it(orientation):
    assert np.array_equal(seed(heart(orientation)), stored(seed(heart(LPS)), orientation))


@pytest.mark.parametrize("orientation", ["LPS", "RIP"])
def test_what_is_found_in_empty_slices_does_not_depend_on_how_it_is_stored(orientation):
    reference = np.zeros((4, 30, 20), np.uint8)
    reference[1, 5:9, 5:9] = 1
    labels = np.zeros_like(reference)
    labels[1:, 5:10, 5:9] = 1
    sizes = (5.0, 1.0, 1.0)
    (first,) = score("a", labels, reference, sizes, {"one": (1,)})
    (second,) = score(
        "a", stored(labels, orientation), stored(reference, orientation), moved(sizes, orientation), {"one": (1,)}
    )
    assert first.empty_slices_ml == pytest.approx(2 * 20 * 5 / 1000)
    assert (second.empty_slices_ml, second.dice) == (first.empty_slices_ml, first.dice)


@pytest.mark.parametrize("wrong", ["SSL", "SP", "XYZ", "spl", ""])
def test_an_orientation_that_is_none_is_refused(wrong):
    with pytest.raises(DataError, match=r"preprocess.orientation"):
        override(Recipe(), [f"preprocess.orientation={wrong}"])
    assert override(Recipe(), ["preprocess.orientation=SPL"]).preprocess.orientation == "SPL"


class TestFolder:
    """The same volumes, stored in three ways in one folder: what a hospital's archive looks like."""

    WAYS = ("SPL", "SPL", "LPS", "RIA")

    @pytest.fixture
    def root(self, tmp_path):
        (tmp_path / "dataset.json").write_text('{"labels": {"background": 0, "one": 1, "ignore": 2}}')
        for n, way in enumerate(self.WAYS):
            case = heart(way)
            image = case.image[0] + np.float32(n)  # no duplicates
            for part, array in (
                ("images", image),
                ("scribbles", np.where(case.scribbles == UNLABELLED, 2, case.scribbles)),
            ):
                (tmp_path / part).mkdir(exist_ok=True)
                nib.save(nib.Nifti1Image(array.T, case.geometry.affine), tmp_path / part / f"c{n}.nii.gz")
            (tmp_path / "masks").mkdir(exist_ok=True)
            mask = (case.image[0] > 3).astype(np.uint8)
            nib.save(nib.Nifti1Image(mask.T, case.geometry.affine), tmp_path / "masks" / f"c{n}.nii.gz")
        return tmp_path

    def test_check_names_what_is_turned(self, root):
        faults = check(open_dataset(root)).faults
        assert [(fault.case, fault.severity, fault.problem) for fault in faults] == [
            ("c2", "note", "stored as LPS (depth, height and width grow towards these), cut into slices as SPL"),
            ("c3", "note", "stored as RIA (depth, height and width grow towards these), cut into slices as SPL"),
        ]

    def test_training_sees_the_same_slices_of_all(self, root, tmp_path):
        dataset = open_dataset(root)
        grid = Preprocess().resolve(dataset.train)
        slices = build_slices(dataset.train, grid, tmp_path / "slices")
        first, *others = (slices.images(rows) for rows in slices.rows.values())
        assert len(first) == 4
        assert all(np.allclose(first, other, atol=1e-5, rtol=2e-3) for other in others)
        first, *others = (slices.scribbles[rows] for rows in slices.rows.values())
        assert all(np.array_equal(first, other) for other in others)
        assert set(slices.spacing_mm.values()) == {(5.0, 1.0, 1.0)}

    def test_scribbles_are_drawn_in_the_plane_of_the_slices(self, root, tmp_path):
        dataset = open_dataset(root)
        folder = tmp_path.with_name(f"{tmp_path.name}_drawn")
        write_simulation(dataset, RULES["full"], folder)
        drawn = open_dataset(root, scribbles=str(folder))
        grid = Preprocess().resolve(drawn.train)
        for case in drawn.train:
            on_grid = grid.labels(case.scribbles, case.geometry)
            assert ((on_grid == 1).sum(axis=(1, 2)) > 3).all(), "a line in each of the four slices"
            assert (on_grid == 1).sum() < 100


SHOWN = {"axial": ("PL", "RLAP"), "coronal": ("IL", "RLSI"), "sagittal": ("IP", "APSI")}
"""What height and width grow towards where radiologists look at slices; what is left, right, above, below."""


@pytest.mark.parametrize("asked", SHOWN)
def test_slices_are_looked_at_with_the_right_on_the_left_and_count_as_stored(asked):
    volume = np.arange(4 * 5 * 6).reshape(4, 5, 6)  # depth height width, of a file in LPS
    ends, around = SHOWN[asked]
    for own in ALL:
        grid = geometry(own, moved((4, 5, 6), own), (1.0, 1.0, 1.0))
        turn = looked_at(grid, turn_to(common_orientation([geometry(LPS)], asked), grid, asked))
        depth = next(end for end in own if plane(end) == asked)
        assert np.array_equal(turn(stored(volume, own)), stored(volume, depth + ends)), own
        assert sides(grid, turn) == around


def test_sides_follow_a_turn():
    grid = geometry("SAR")
    assert sides(grid, Turn()) == "LRPA"
    assert sides(grid, Turn((0, 1, 2), (False, True, False))) == "LRAP"
    assert sides(grid, Turn((0, 2, 1), (False, True, False))) == "PARL"


def test_nothing_is_said_of_sides_that_nobody_knows():
    oblique = np.diag([1.0, 1.0, 5.0, 1.0])
    oblique[:3, :3] = oblique[:3, :3] @ [[0.7, -0.7, 0], [0.7, 0.7, 0], [0, 0, 1]]
    picture, array = (Geometry((1, 5, 5), np.eye(4), suffix) for suffix in (".png", ""))
    for grid in (picture, array, Geometry((4, 5, 5), oblique)):
        turn = turn_to(LPS, grid)
        assert looked_at(grid, turn) == turn
        assert sides(grid, turn) == ""
