"""The cache: what comes out is what went in, and an interrupted write leaves nothing."""

from dataclasses import replace

import numpy as np
import pytest

from scribbleseg.data.preprocess import Preprocess
from scribbleseg.data.slices import build_slices, derive_slices, open_slices
from scribbleseg.types import UNLABELLED, Case, Cases, DataError, Geometry

GRID = Preprocess(spacing_mm=2.0, size=16)


def make_cases(n=3, channels=1) -> Cases:
    def read(name: str) -> Case:
        depth = 2 + int(name)
        rng = np.random.default_rng(int(name))
        scribbles = np.full((depth, 20, 20), UNLABELLED, np.uint8)
        scribbles[:, 8:12, 10] = 1
        image = rng.normal(size=(channels, depth, 20, 20)).astype(np.float32)
        return Case(name, image, scribbles, Geometry((depth, 20, 20), np.diag([2.0, 2.0, 9.0, 1.0])))

    return Cases([str(i) for i in range(n)], read)


def test_slices_are_the_preprocessed_cases_in_order(tmp_path):
    cases = make_cases()
    build_slices(cases, GRID, tmp_path / "slices")
    slices = open_slices(tmp_path / "slices")
    assert len(slices) == 2 + 3 + 4
    assert list(slices.rows) == ["0", "1", "2"]
    assert slices.spacing_mm["1"] == (9.0, 2.0, 2.0)
    for case in cases:
        assert np.array_equal(slices.images[slices.rows[case.name]], GRID.image(case))
        assert np.array_equal(slices.scribbles[slices.rows[case.name]], GRID.labels(case.scribbles, case))


def test_label_maps_appear_only_when_they_are_finished(tmp_path):
    build_slices(make_cases(), GRID, tmp_path / "slices")
    slices = open_slices(tmp_path / "slices")
    labels = slices.writable_labels("seeds")
    assert (labels == UNLABELLED).all()
    labels[:] = 1
    labels.flush()
    assert not slices.has_labels("seeds")
    slices.finish_labels("seeds")
    assert slices.has_labels("seeds")
    assert (slices.labels("seeds") == 1).all()


def test_a_case_that_cannot_be_read_leaves_no_cache(tmp_path):
    good = make_cases()

    def read(name):
        if name == "2":
            raise DataError("case 2: truncated")
        return good.named(name)

    with pytest.raises(DataError, match="truncated"):
        build_slices(Cases(good.names, read), GRID, tmp_path / "slices")
    assert not (tmp_path / "slices").exists()
    build_slices(good, GRID, tmp_path / "slices")


def test_a_data_set_without_any_scribble_is_refused(tmp_path):
    cases = make_cases()
    empty = Cases(cases.names, lambda n: replace(cases.named(n), scribbles=np.full_like(cases.named(n).scribbles, 255)))
    with pytest.raises(DataError, match="expected scribbles"):
        build_slices(empty, GRID, tmp_path / "slices")


def test_channels_must_agree(tmp_path):
    one, two = make_cases(), make_cases(channels=2)
    mixed = Cases(one.names, lambda n: (two if n == "2" else one).named(n))
    with pytest.raises(DataError, match="case 2: expected 1 channels"):
        build_slices(mixed, GRID, tmp_path / "slices")


def test_another_recipe_is_not_served_an_old_cache(tmp_path):
    build_slices(make_cases(), GRID, tmp_path / "slices")
    with pytest.raises(DataError, match="another"):
        build_slices(make_cases(), replace(GRID, size=32), tmp_path / "slices")


def test_a_crop_that_loses_a_class_is_reported(tmp_path, caplog):
    cases = make_cases(1)

    def read(name):
        case = cases.named(name)
        scribbles = case.scribbles.copy()
        scribbles[:, 0, 0] = 2
        return replace(case, scribbles=scribbles)

    build_slices(Cases(cases.names, read), GRID, tmp_path / "slices")
    assert "loses every scribble of label 2" in caplog.text


@pytest.mark.parametrize("linked", [True, False])
def test_a_derived_cache_has_the_same_images_and_other_scribbles(tmp_path, monkeypatch, linked):
    if not linked:
        monkeypatch.setattr("os.link", lambda *args: (_ for _ in ()).throw(OSError("no links here")))
    build_slices(make_cases(), GRID, tmp_path / "slices")
    slices = open_slices(tmp_path / "slices")
    other = np.where(slices.scribbles == UNLABELLED, 0, UNLABELLED).astype(np.uint8)
    derive_slices(slices, other, tmp_path / "derived")
    derived = open_slices(tmp_path / "derived")
    assert np.array_equal(derived.images, slices.images)
    assert np.array_equal(derived.scribbles, other)
    assert (derived.rows, derived.spacing_mm, derived.present) == (slices.rows, slices.spacing_mm, slices.present)
    assert (tmp_path / "derived/images.raw").samefile(tmp_path / "slices/images.raw") is linked


def test_image_level_labels_come_back(tmp_path):
    cases = make_cases()
    known = {"0": frozenset({1, 3}), "1": frozenset(), "2": None}
    with_present = Cases(cases.names, lambda name: replace(cases.named(name), present=known[name]))
    build_slices(with_present, GRID, tmp_path / "slices")
    assert open_slices(tmp_path / "slices").present == known
