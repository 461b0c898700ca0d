"""Windows of CT: found from scribbles, absent elsewhere, and what they are worth to the random walker."""

from dataclasses import replace

import numpy as np
import pytest

import scribbleseg as ss
from scribbleseg.data.intensities import AROUND_HU, SOFT_TISSUE_HU, ct_windows, normalise
from scribbleseg.data.preprocess import Preprocess
from scribbleseg.data.slices import build_slices
from scribbleseg.seeds.random_walker import RandomWalker
from scribbleseg.types import UNLABELLED, Case, Cases, DataError, Geometry

ORGANS_HU = {1: 110.0, 2: 160.0}
AT = {1: (28, 20), 2: (30, 46)}


def truth() -> np.ndarray:
    """Two organs in a body, 3 slices: 0 outside of the organs."""
    rows, columns = np.mgrid[:64, :64]
    labels = np.zeros((3, 64, 64), np.uint8)
    for label, (row, column) in AT.items():
        labels[:, (rows - row) ** 2 + (columns - column) ** 2 < 81] = label
    return labels


def abdomen(name: str = "a", seed: int = 0) -> Case:
    """A CT with air, fat, a bone and two organs, scribbled with a cross in each organ and a frame around them."""
    rows, columns = np.mgrid[:64, :64]
    labels = truth()
    image = np.where((rows - 32) ** 2 + (columns - 32) ** 2 < 30**2, 50.0, -1000.0)
    image = np.where((rows - 52) ** 2 + (columns - 32) ** 2 < 16, 1200.0, image)
    image = np.repeat(image[None], 3, axis=0)
    for label, hu in ORGANS_HU.items():
        image[labels == label] = hu
    image += np.random.default_rng(seed).normal(0, 8, image.shape)
    scribbles = np.full(labels.shape, UNLABELLED, np.uint8)
    scribbles[:, 16, 12:52] = scribbles[:, 44, 12:52] = scribbles[:, 16:44, 33] = 0
    for label, (row, column) in AT.items():
        scribbles[:, row, column - 3 : column + 4] = label
    geometry = Geometry(labels.shape, np.diag([1.0, 1.0, 5.0, 1.0]))
    return Case(name, image[None].astype(np.float32), scribbles, geometry)


def cases(*of: Case) -> Cases:
    by_name = {case.name: case for case in of}
    return Cases(list(by_name), by_name.__getitem__)


def test_a_window_spans_what_structures_have_on_their_scribbles():
    ((low, high),) = ct_windows(cases(abdomen()))
    assert low == pytest.approx(110 - AROUND_HU, abs=25)
    assert high == pytest.approx(160 + AROUND_HU, abs=25)


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image - image.min(),
        lambda image: image / 1000,
        lambda image: np.clip(image, -160, 240),
        lambda image: image * 100,
        np.abs,
    ],
    ids=["shifted", "scaled", "windowed already", "something else", "no negative values"],
)
def test_what_is_not_in_hounsfield_units_has_no_window(change):
    case = abdomen()
    assert ct_windows(cases(replace(case, image=change(case.image)))) == ()


def test_all_cases_must_be_ct():
    case = abdomen()
    mri = replace(case, name="b", image=np.abs(case.image))
    assert ct_windows(cases(case, mri)) == ct_windows(cases(mri, case)) == ()


def test_each_channel_is_looked_at_by_itself():
    case = abdomen()
    both = replace(case, image=np.concatenate([case.image, np.abs(case.image)]))
    first, second = ct_windows(cases(both))
    assert first == ct_windows(cases(case))[0]
    assert second is None
    normalised = normalise(both.image, (first, second))
    assert np.array_equal(normalised[1:], normalise(both.image[1:]))
    assert np.array_equal(normalised[:1], normalise(case.image, (first,)))


def test_where_nothing_is_drawn_the_window_is_that_of_soft_tissue():
    case = abdomen()
    assert ct_windows(cases(replace(case, scribbles=np.full_like(case.scribbles, UNLABELLED)))) == (SOFT_TISSUE_HU,)
    assert ct_windows(cases()) == ()


def test_a_window_means_the_same_in_every_image():
    image = np.array([-1000.0, -40.0, 60.0, 160.0, 2000.0], np.float32).reshape(1, 1, 1, 5)
    assert normalise(image, ((-40.0, 160.0),)).ravel().tolist() == [-2, -2, 0, 2, 2]
    assert normalise(image, ((-40.0, 160.0),)).dtype == np.float32


def right(areas: np.ndarray) -> tuple[float, float]:
    """The share of the organs that is found, and that of the areas that is right."""
    labelled = areas != UNLABELLED
    inside = truth() > 0
    return float((areas == truth())[inside].mean()), float((areas == truth())[labelled].mean())


def test_with_a_window_organs_grow_in_a_ct():
    case = abdomen()
    walker = RandomWalker(tau=0.95, beta=400.0)
    found, pure = right(ss.seed(case, walker))
    found_without, _ = right(walker(case.image, case.scribbles, case.spacing_mm))
    assert found > 0.5
    assert pure > 0.99
    assert found_without < 0.05, "nothing but the strokes"


def test_a_recipe_takes_its_window_from_the_training_cases():
    train = cases(abdomen("a"), abdomen("b", seed=1))
    grid = Preprocess(windows=None).resolve(train)
    assert grid.windows == ct_windows(train)
    assert grid.image(abdomen()).min() == -2
    assert Preprocess().resolve(train).windows == ()
    with pytest.raises(DataError, match=r"expected 1 channels, one for each of preprocess.windows, got 2"):
        grid.image(replace(abdomen(), image=np.repeat(abdomen().image, 2, axis=0)))


def test_a_training_on_ct_goes_on_where_it_was(tmp_path):
    train = cases(abdomen("a"), abdomen("b", seed=1))
    grid = Preprocess(windows=None).resolve(train)
    first = build_slices(train, grid, tmp_path / "slices")
    assert build_slices(train, grid, tmp_path / "slices").index == first.index


def undrawn(name: str) -> Case:
    case = abdomen(name)
    return replace(case, scribbles=np.full_like(case.scribbles, UNLABELLED))


def test_the_window_is_chosen_from_cases_that_are_drawn_however_few_they_are():
    many = cases(*(abdomen(f"c{n:02d}") if n == 7 else undrawn(f"c{n:02d}") for n in range(20)))
    assert ct_windows(many) == ct_windows(cases(abdomen("c07")))


def test_cases_with_other_channels_than_the_first_are_warned_of(caplog):
    case = abdomen()
    other = replace(case, name="b", image=np.concatenate([case.image, case.image]))
    assert ct_windows(cases(case, other)) == ()
    assert "case b is not in Hounsfield units, or has other channels" in caplog.text


def test_a_window_that_is_empty_is_refused():
    with pytest.raises(ValueError, match=r"expected the lower intensity first, got \[100.0, 100.0\]"):
        Preprocess(windows=((100.0, 100.0),))
