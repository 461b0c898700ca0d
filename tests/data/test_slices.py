"""The cache: what comes out is what went in, and an interrupted write leaves nothing."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from scribbleseg.data import fingerprint
from scribbleseg.data.formats import label_ending, read_image, write_labels
from scribbleseg.data.preprocess import Preprocess
from scribbleseg.data.slices import FIXED, LAYERS, build_slices, derive_slices, is_labelled, open_slices
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
        images = slices.images(slices.rows[case.name])
        assert images.dtype == np.float32
        assert np.array_equal(images, GRID.image(case).astype(np.float16))
        assert np.array_equal(slices.scribbles[slices.rows[case.name]], GRID.labels(case.scribbles, case.geometry))


@pytest.fixture
def slices(tmp_path):
    return build_slices(make_cases(), GRID, tmp_path / "slices")


def test_label_maps_appear_only_when_they_are_finished(slices):
    labels = slices.writable("labels", "seeds")
    assert (labels == UNLABELLED).all()
    labels[:] = 1
    labels.flush()
    assert not slices.has("labels", "seeds")
    with pytest.raises(FileNotFoundError, match="labels_seeds"):
        slices.layer("labels", "seeds")
    slices.finish("labels", "seeds")
    assert slices.has("labels", "seeds")
    assert (slices.layer("labels", "seeds") == 1).all()


TYPES = {
    "images": (np.float16, (9, 2, 16, 16)),
    "inside": (np.bool_, (9, 16, 16)),
    "scribbles": (np.uint8, (9, 16, 16)),
    "held_out": (np.uint8, (9, 16, 16)),
    "labels": (np.uint8, (9, 16, 16)),
    "soft": (np.float16, (9, 4, 16, 16)),
    "confidence": (np.float16, (9, 16, 16)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_each_kind_of_layer_has_its_type_and_shape(tmp_path, kind):
    slices = build_slices(make_cases(channels=2), GRID, tmp_path / "slices", held_out=0.5)
    index = None
    if kind not in FIXED:
        index = 3
        slices.writable(kind, index, labels=4)
        slices.finish(kind, index)
    layer = slices.layer(kind, index)
    assert (layer.dtype, layer.shape) == TYPES[kind]
    assert not layer.flags.writeable


@pytest.mark.parametrize(("kind", "outside"), [("labels", UNLABELLED), ("soft", 0), ("confidence", 0)])
def test_what_is_written_is_what_is_read_and_nothing_is_known_before(slices, kind, outside):
    layer = slices.writable(kind, 1, labels=3)
    assert (layer == outside).all()
    values = np.random.default_rng(0).integers(0, 3, layer.shape).astype(layer.dtype)
    layer[2:5] = values[2:5]
    layer.flush()
    assert np.array_equal(slices.writable(kind, 1, labels=3), layer), "it is gone on with, not begun anew"
    slices.finish(kind, 1)
    assert np.array_equal(slices.layer(kind, 1)[2:5], values[2:5])
    assert (slices.layer(kind, 1)[5:] == outside).all()


def test_layers_of_other_maps_of_labels_and_of_other_kinds_are_others(slices):
    slices.writable("labels", 1)
    slices.finish("labels", 1)
    assert slices.has("labels", 1)
    assert not slices.has("labels", 2)
    assert not slices.has("soft", 1)


@pytest.mark.parametrize("grid", [GRID, replace(GRID, size=32), replace(GRID, brain=True)], ids=["", "padded", "brain"])
def test_inside_is_where_the_grid_shows_the_image(tmp_path, grid):
    whole = make_cases()

    def read(name):
        case = whole.named(name)
        image = case.image.copy()
        image[..., :9] = 0  # air
        return replace(case, image=image)

    cases = whole.read_by(read)
    slices = build_slices(cases, grid, tmp_path / "slices")
    for case in cases:
        assert np.array_equal(slices.inside[slices.rows[case.name]], grid.inside(case))
    assert slices.n_pixels == np.count_nonzero(slices.inside)
    assert slices.inside.all() == (grid == GRID)


def test_a_share_is_one_of_the_pixels_inside(tmp_path):
    slices = build_slices(make_cases(), replace(GRID, size=32), tmp_path / "slices")
    assert slices.share(lambda inside: inside, slices.inside) == 1
    assert slices.share(is_labelled, slices.scribbles) == pytest.approx(4 / 20**2)
    drawn = (slices.scribbles != UNLABELLED).any(axis=(1, 2))
    assert slices.places(is_labelled, slices.scribbles).tolist() == np.flatnonzero(drawn).tolist()


AFFINE = np.array([[0, -1.7, 0.1, 3], [1.6, 0, 0.2, -40.5], [0, 0.3, 9, 0.125], [0, 0, 0, 1]])


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".mha"])
def test_a_geometry_comes_back_so_that_it_writes_the_same_file(tmp_path, suffix):
    rng = np.random.default_rng(0)
    geometry = Geometry((3, 20, 18), AFFINE, suffix)
    if suffix != ".mha":  # with a header of its own
        header = nib.Nifti1Image(np.zeros((18, 20, 3), np.uint8), AFFINE).header
        header["descrip"] = b"of the scanner"
        header.set_sform(AFFINE, code=2)
        header.set_xyzt_units("mm", "sec")
        nib.save(nib.Nifti1Image(np.zeros((18, 20, 3), np.uint8), None, header), tmp_path / f"image{suffix}")
        _, geometry = read_image(tmp_path / f"image{suffix}")
        assert geometry.header is not None
    scribbles = rng.integers(0, 2, geometry.shape, np.uint8)
    case = Case("a", rng.normal(size=(1, *geometry.shape)).astype(np.float32), scribbles, geometry)
    build_slices(Cases(["a"], lambda name: case), GRID, tmp_path / "slices")
    found = open_slices(tmp_path / "slices").geometry("a")
    files = []
    for name, grid in (("before", geometry), ("after", found)):
        (tmp_path / name).mkdir()
        files.append(tmp_path / name / f"labels{label_ending(grid)}")
        write_labels(files[-1], scribbles, grid)
    assert files[0].name == files[1].name
    assert files[0].read_bytes() == files[1].read_bytes()
    assert (found.shape, found.suffix) == (geometry.shape, geometry.suffix)
    assert np.array_equal(found.affine, geometry.affine)


def test_the_index_has_the_fingerprint_of_the_cases(slices):
    assert slices.index["fingerprint"] == fingerprint(make_cases())
    assert slices.index["fingerprint"] != fingerprint(make_cases(channels=2))


def test_each_case_is_read_exactly_once(tmp_path):
    cases, reads = make_cases(), []

    def read(name):
        reads.append(name)
        return cases.named(name)

    build_slices(Cases(cases.names, read), GRID, tmp_path / "slices")
    assert reads == ["0", "1", "2"]
    build_slices(Cases(cases.names, read), GRID, tmp_path / "slices")
    slices = open_slices(tmp_path / "slices")
    assert (slices.channels, slices.geometry("2").shape) == (1, (4, 20, 20))
    assert len(reads) == 3, "a cache that is there reads none"


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
    assert np.array_equal(derived.images(), slices.images())
    assert np.array_equal(derived.inside, slices.inside)
    assert np.array_equal(derived.scribbles, other)
    assert (derived.rows, derived.spacing_mm, derived.present) == (slices.rows, slices.spacing_mm, slices.present)
    assert (tmp_path / "derived/images.raw").samefile(tmp_path / "slices/images.raw") is linked


def test_image_level_labels_come_back(tmp_path):
    cases = make_cases()
    known = {"0": frozenset({1, 3}), "1": frozenset(), "2": None}
    with_present = Cases(cases.names, lambda name: replace(cases.named(name), present=known[name]))
    build_slices(with_present, GRID, tmp_path / "slices")
    assert open_slices(tmp_path / "slices").present == known
