"""The grid and back: strokes stay, geometry returns, padding is UNLABELLED."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scribbleseg.data.brain import normalise_brain
from scribbleseg.data.intensities import normalise
from scribbleseg.data.preprocess import Preprocess, resample_labels
from scribbleseg.types import UNLABELLED, Case, Cases, DataError, Geometry


def make_case(shape=(3, 40, 30), spacing=(10.0, 1.5, 2.0), channels=1, name="case") -> Case:
    rng = np.random.default_rng(0)
    z, y, x = spacing
    scribbles = np.full(shape, UNLABELLED, np.uint8)
    scribbles[:, 20, 5:20] = 1
    scribbles[:, 10, 5:20] = 0
    image = rng.normal(size=(channels, *shape)).astype(np.float32)
    return Case(name, image, scribbles, Geometry(shape, np.diag([x, y, z, 1.0])))


def test_the_grid_has_the_asked_spacing_and_size():
    case = make_case()
    preprocess = Preprocess(spacing_mm=3.0, size=16)
    assert preprocess.resampled(case.geometry) == (20, 20)  # 40 * 1.5 / 3, 30 * 2 / 3
    assert preprocess.image(case).shape == (3, 1, 16, 16)
    assert preprocess.labels(case.scribbles, case.geometry).shape == (3, 16, 16)


def test_images_are_normalised_per_channel():
    image = np.random.default_rng(0).normal(5, 3, (2, 4, 30, 30)).astype(np.float32)
    image[0, 0, 0, 0] = 1e6
    out = normalise(image)
    assert np.allclose(out.mean(axis=(1, 2, 3)), 0, atol=1e-4)
    assert np.allclose(out.std(axis=(1, 2, 3)), 1, atol=1e-4)
    assert out.max() < 5, "an outlier must not set the scale"


def test_a_constant_image_stays_finite():
    assert np.isfinite(normalise(np.ones((1, 2, 8, 8), np.float32))).all()


def test_padding_is_unlabelled_and_air():
    case = make_case()
    preprocess = Preprocess(spacing_mm=1.5, size=64)
    labels, image = preprocess.labels(case.scribbles, case.geometry), preprocess.image(case)
    assert (labels[:, :12] == UNLABELLED).all()
    assert (labels[:, :, :12] == UNLABELLED).all()
    assert np.allclose(image[:, :, :12], image.min())
    assert (preprocess.inside(case).sum(axis=(1, 2)) == 40 * 40).all()
    assert preprocess.inside(case)[:, 12:-12, 12:-12].all()


def test_a_stroke_that_is_one_pixel_wide_survives_any_coarser_grid():
    labels = np.full((200, 200), UNLABELLED, np.uint8)
    rows = np.arange(20, 180)
    labels[rows, rows] = 2
    coarse = resample_labels(labels, (23, 23))
    assert set(np.unique(coarse)) == {2, UNLABELLED}
    assert (coarse.diagonal()[3:20] == 2).all(), "no gap in the stroke"


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 40), st.integers(2, 40), st.integers(2, 40), st.integers(2, 40), st.integers(0, 10**6))
def test_resampling_matches_the_obvious_vote(height, width, new_height, new_width, seed):
    rng = np.random.default_rng(seed)
    labels = rng.choice(np.array([0, 1, 2, UNLABELLED], np.uint8), (height, width), p=[0.1, 0.1, 0.05, 0.75])
    new = resample_labels(labels, (new_height, new_width))
    votes = np.zeros((new_height, new_width, 3), int)
    for i in range(height):
        for j in range(width):
            if labels[i, j] != UNLABELLED:
                cell = int((i + 0.5) * new_height / height), int((j + 0.5) * new_width / width)
                votes[(*cell, labels[i, j])] += 1
    kept = set(np.unique(labels)) - {UNLABELLED}
    most = votes.max(axis=2)
    rescued = 0
    for i in range(new_height):
        for j in range(new_width):
            if most[i, j]:
                assert votes[i, j, new[i, j]] > 0, "a cell may only take a class that has a pixel in it"
                rescued += votes[i, j, new[i, j]] < most[i, j]
            elif new_height <= height and new_width <= width:
                assert new[i, j] == UNLABELLED
    assert rescued <= 3, "only a class that would be lost may win against more votes"
    # A class can be lost only where there are fewer voted cells than classes compete for.
    if (most > 0).sum() >= 3 * len(kept) and rescued == 0:
        assert set(np.unique(new)) - {UNLABELLED} == kept


def test_upsampling_repeats_pixels():
    labels = np.array([[0, 1], [UNLABELLED, 2]], np.uint8)
    assert (resample_labels(labels, (6, 6)) == np.kron(labels, np.ones((3, 3), np.uint8))).all()


@pytest.mark.parametrize("size", [16, 64])
def test_labels_and_probabilities_return_to_the_native_grid(size):
    case = make_case(shape=(2, 48, 48), spacing=(8.0, 2.0, 2.0))
    preprocess = Preprocess(spacing_mm=2.0, size=size)
    labels = np.zeros((2, size, size), np.uint8)
    labels[:, size // 2 :] = 1
    native = preprocess.native_labels(labels, case.geometry)
    probabilities = preprocess.native_probabilities(np.stack([labels == 0, labels == 1], 1).astype(np.float32), case)
    assert native.shape == (2, 48, 48)
    assert probabilities.shape == (2, 2, 48, 48)
    assert np.allclose(probabilities.sum(axis=0), 1)
    start = max((48 - size) // 2, 0)
    inside = np.s_[:, start : 48 - start, start : 48 - start]
    assert (native[inside][:, 24 - start :] == 1).all()
    assert (probabilities.argmax(axis=0)[inside] == native[inside]).all()
    outside = np.ones((2, 48, 48), bool)
    outside[inside] = False
    assert (native[outside] == UNLABELLED).all(), "training labels end where the crop ends"
    assert (probabilities[0][outside] == 1).all()


def test_a_round_trip_through_a_coarser_grid_keeps_a_disc():
    case = make_case(shape=(1, 100, 100), spacing=(8.0, 1.25, 1.25))
    rows, columns = np.mgrid[:100, :100]
    disc = ((rows - 50) ** 2 + (columns - 40) ** 2 < 400).astype(np.uint8)[None]
    preprocess = Preprocess(spacing_mm=2.0, size=64)
    on_grid = preprocess.labels(disc, case.geometry)
    on_grid[on_grid == UNLABELLED] = 0
    back = preprocess.native_probabilities(np.stack([on_grid == 0, on_grid == 1], 1).astype(np.float32), case)
    found = back.argmax(axis=0)
    assert 2 * (found & disc).sum() / (found.sum() + disc.sum()) > 0.97


def test_an_automatic_grid_is_the_median_spacing_and_covers_all():
    small, large = make_case((1, 32, 32), (5.0, 1.0, 1.0), name="a"), make_case((1, 50, 40), (5.0, 2.0, 2.0), name="b")
    cases = Cases(["a", "b", "c"], lambda name: {"a": small, "b": large, "c": large}[name])
    assert Preprocess().resolve(cases) == Preprocess(
        spacing_mm=2.0, size=64, usual_mm=2.0, crops=False, orientation="SAR"
    )
    assert Preprocess(size=32).resolve(cases) == Preprocess(
        spacing_mm=2.0, size=32, usual_mm=2.0, crops=True, orientation="SAR"
    )


@pytest.mark.parametrize(
    ("largest", "spacing", "size"), [(None, 1.5, 272), (272, 1.5, 272), (128, 3.15, 128), (100, 4.2, 96)]
)
def test_an_automatic_grid_is_made_coarser_until_slices_fit_the_largest_size(largest, spacing, size):
    geometry = Geometry((8, 256, 269), np.diag([1.5, 1.5, 10.0, 1.0]))
    cases = Cases(["a"], lambda name: None, lambda name: geometry)
    grid = Preprocess(largest_size=largest).resolve(cases)
    assert grid.size == size
    assert grid.spacing_mm == pytest.approx(spacing, rel=0.01)
    assert max(grid.resampled(geometry)) <= size
    assert Preprocess(spacing_mm=1.5, largest_size=largest).resolve(cases).size == 272, "a spacing that is given stays"


def test_a_grid_is_chosen_without_reading_a_voxel():
    def read(name):
        raise AssertionError("read a case")

    geometries = {"a": make_case((1, 32, 32), (5.0, 1.0, 1.0)).geometry, "b": make_case((1, 50, 40)).geometry}
    grid = Preprocess().resolve(Cases(["a", "b"], read, geometries.__getitem__))
    # 1, 1, 1.5 and 2 mm; 40 * 2 / 1.25 = 64
    assert grid == Preprocess(spacing_mm=1.25, size=64, usual_mm=1.25, crops=False, orientation="SAR")


def test_a_brain_is_normalised_by_itself_and_air_stays_air():
    case = make_case(shape=(3, 40, 40), spacing=(3.0, 1.0, 1.0), channels=2)
    brain = np.zeros((3, 40, 40), bool)
    brain[:, 8:30, 10:34] = True
    image = np.where(brain, 100 + 10 * case.image, 0).astype(np.float32)
    image[0, 1, 9, 11] = 0  # 0 in one channel is still brain
    normalised = normalise_brain(image)
    assert np.allclose(normalised[:, brain].mean(axis=1), 0, atol=1e-4)
    assert np.allclose(normalised[:, brain].std(axis=1), 1, atol=1e-4)
    assert not normalised[:, ~brain].any()
    assert normalised[0, 1, 9, 11] < -3
    grid = Preprocess(spacing_mm=1.0, size=48, brain=True)
    slices = grid.image(replace(case, image=image))
    assert not slices[..., :4, :].any()  # padding
    assert not slices[..., 4 + 32 :, :].any()  # air below
    assert slices[:, :, 4 + 10, 4 + 12].all()
    assert np.array_equal(grid.inside(replace(case, image=image)), (slices != 0).any(axis=1))


def test_nothing_but_background_is_predicted_outside_a_brain():
    case = make_case(shape=(2, 32, 32), spacing=(3.0, 1.0, 1.0), channels=2)
    image = case.image.copy()
    image[:, :, :10] = 0
    certain = np.zeros((2, 2, 32, 32), np.float32)
    certain[:, 1] = 1
    native = Preprocess(spacing_mm=1.0, size=32, brain=True).native_probabilities(certain, replace(case, image=image))
    assert (native[0, :, :10] == 1).all()
    assert (native[1, :, 10:] == 1).all()
    assert np.allclose(native.sum(axis=0), 1)


@pytest.mark.parametrize("factor", [1000.0, 10.0, 0.1, 0.001])
def test_a_header_in_another_scale_is_refused_by_the_name_of_its_case(factor):
    spacings = {"a": 1.0, "b": factor, "c": 1.0}
    geometries = {name: Geometry((4, 20, 30), np.diag([mm, mm, 5.0, 1.0])) for name, mm in spacings.items()}
    said = "case b: expected pixels of about 1 mm, as most training cases have them, found"
    for known in (Preprocess(), Preprocess(spacing_mm=1.0, size=32)):
        with pytest.raises(DataError, match=said):
            known.resolve(Cases(list(geometries), lambda name: None, geometries.__getitem__))
    resolved = Preprocess().resolve(Cases(["a", "c"], lambda name: None, geometries.__getitem__))
    said = "case far: expected pixels of about 1 mm, as the training images have them, found"
    with pytest.raises(DataError, match=said):
        resolved.image(make_case(spacing=(5.0, factor, factor), name="far"))
    assert resolved.image(make_case(spacing=(50.0, 9.0, 0.2))).shape[-1] == 32


def test_slices_may_be_of_any_thickness():
    sizes = (1.0, 0.8, 10.0, 1.5, 50.0)
    geometries = {f"{mm}": Geometry((4, 20, 30), np.diag([0.8, 0.8, mm, 1.0])) for mm in sizes}
    assert Preprocess().resolve(Cases(list(geometries), lambda name: None, geometries.__getitem__)).spacing_mm == 0.8


@pytest.mark.parametrize("mm", [0.000325, 0.00065, 0.1234567, 1.36719, 123.4567])
def test_an_automatic_spacing_keeps_four_digits_in_any_scale(mm):
    geometry = Geometry((1, 64, 64), np.diag([mm, mm, 1.0, 1.0]))
    grid = Preprocess().resolve(Cases(["a"], lambda name: None, lambda name: geometry))
    assert grid.spacing_mm == pytest.approx(mm, rel=1e-3)
    assert grid.size == 64


def test_pictures_of_many_pixels_can_be_shrunk_as_far_as_the_recipe_says():
    case = make_case(shape=(1, 2500, 2500), spacing=(1.0, 1.0, 1.0))
    grid = Preprocess(largest_size=192).resolve(Cases(["case"], lambda name: case))
    assert grid.image(case).shape == (1, 1, 192, 192)


@pytest.mark.parametrize(
    ("asked", "crops"),
    [(Preprocess(), False), (Preprocess(size=32), True), (Preprocess(size=48), False), (Preprocess(size=64), False),
     (Preprocess(size=32, crops=False), False), (Preprocess(crops=True), True)],
)  # fmt: skip
def test_the_field_of_view_ends_with_the_grid_where_the_recipe_cuts_training_images(asked, crops):
    cases = Cases(["case"], lambda _: make_case((3, 48, 40), (5.0, 1.0, 1.0)))
    fitted = asked.resolve(cases)
    assert fitted.crops is crops
    assert fitted.resolve(cases) == fitted
    larger = Geometry((3, 30, 100), np.eye(4))
    assert fitted.side(larger) == (fitted.size if crops else 100)
    assert fitted.side(Geometry((3, fitted.size + 1, 30), np.eye(4))) == fitted.size, "a pixel more is rounding"
