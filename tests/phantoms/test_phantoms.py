"""Phantoms: same seed, same bytes; sound anatomy; scribbles that are true, thin and everywhere a person would draw."""

import hashlib
import json

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from scribbleseg.data import folder
from scribbleseg.phantoms import ORGANS, draw_scribbles, heart, prostate, write_phantoms
from scribbleseg.types import UNLABELLED, DataError

BACKGROUND, RV, MYO, LV = range(4)
PZ, CG = 1, 2
SHAPE = (6, 80, 84)


def draw(organ, seed=0, shape=SHAPE):
    rng = np.random.default_rng(seed)
    image, truth = ORGANS[organ].draw(rng, shape, ORGANS[organ].spacing_mm)
    return image, truth, draw_scribbles(truth, rng)


def digests(root):
    return {str(f.relative_to(root)): hashlib.sha256(f.read_bytes()).digest() for f in root.rglob("*") if f.is_file()}


def neighbours(labels, value):
    """All labels beside (in the slice) the pixels of one label, itself included."""
    in_slice = ndimage.generate_binary_structure(3, 1) & np.array([False, True, False])[:, None, None]
    return set(labels[ndimage.binary_dilation(labels == value, in_slice)])


@pytest.fixture(scope="module")
def hearts(tmp_path_factory):
    return write_phantoms(tmp_path_factory.mktemp("data") / "hearts", train=3, test=2, seed=1, shape=SHAPE)


@pytest.fixture(scope="module")
def cases():
    return {organ: [draw(organ, seed) for seed in range(6)] for organ in ORGANS}


def test_same_seed_gives_the_same_bytes(hearts, tmp_path):
    again = write_phantoms(tmp_path / "again", train=3, test=2, seed=1, shape=SHAPE)
    assert digests(again) == digests(hearts)
    assert len(digests(again)) == 5 + 5 + 3 + 1


def test_a_larger_set_contains_the_smaller_one(hearts, tmp_path):
    smaller = digests(write_phantoms(tmp_path / "smaller", train=1, test=1, seed=1, shape=SHAPE))
    smaller.pop("dataset.json")
    assert smaller.items() <= digests(hearts).items()


def test_another_seed_gives_other_cases(hearts, tmp_path):
    other = digests(write_phantoms(tmp_path / "other", train=1, test=1, seed=2, shape=SHAPE))
    assert not set(other.values()) & set(digests(hearts).values())


def test_cases_of_a_set_differ(hearts):
    images = [nib.load(file) for file in sorted((hearts / "images").iterdir())]
    assert len({image.header.get_zooms()[0] for image in images}) == len(images)
    assert len({image.shape[:2] for image in images}) > 1
    assert all(1.4 < image.header.get_zooms()[0] < 2.05 for image in images)
    assert {round(float(image.header.get_zooms()[2]), 3) for image in images} == {10.0}


def test_hearts_differ_in_size_and_contrast(cases):
    volumes = np.array([[(truth == value).sum() for value in (RV, MYO, LV)] for _, truth, _ in cases["heart"]])
    assert (volumes.std(0) > 0.15 * volumes.mean(0)).all()
    contrast = [image[truth == LV].mean() / image[truth == MYO].mean() for image, truth, _ in cases["heart"]]
    assert np.std(contrast) > 0.1


def test_it_is_a_data_set_of_the_folder_layout(hearts):
    data = folder(hearts)
    assert data.label_names == ("background", "RV", "Myo", "LV")
    assert data.train.names == ("train000", "train001", "train002")
    assert data.test.names == ("test000", "test001")
    case = data.train[0]
    reference = data.reference(case.name)
    assert case.image.shape == (1, *reference.shape)
    assert set(np.unique(case.scribbles)) == {0, 1, 2, 3, UNLABELLED}
    assert (data.test[0].scribbles == UNLABELLED).all()
    drawn = case.scribbles != UNLABELLED
    assert (case.scribbles[drawn] == reference[drawn]).all()
    assert (np.unique(nib.load(hearts / "scribbles/train000.nii.gz").dataobj) == [0, 1, 2, 3, 4]).all()


@pytest.mark.parametrize("organ", [*ORGANS, "tumour"])
def test_the_same_set_is_found_again_and_another_refused(organ, tmp_path):
    root = tmp_path / organ
    write_phantoms(root, organ, train=1, test=0, shape=(3, 64, 64))
    before = {file: file.stat().st_mtime_ns for file in root.rglob("*")}
    assert write_phantoms(root, organ, train=1, test=0, shape=(3, 64, 64)) == root
    assert {file: file.stat().st_mtime_ns for file in root.rglob("*")} == before
    with pytest.raises(DataError, match="name another folder"):
        write_phantoms(root, organ, train=1, test=0, shape=(3, 64, 64), seed=1)
    assert {file: file.stat().st_mtime_ns for file in root.rglob("*")} == before
    if organ in ORGANS:
        assert json.loads((root / "dataset.json").read_text())["labels"]["ignore"] == len(ORGANS[organ].label_names)


def test_other_peoples_files_are_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("four years")
    with pytest.raises(DataError, match="found something else"):
        write_phantoms(tmp_path, train=1, test=1)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_unknown_organ_is_named():
    with pytest.raises(DataError, match="expected one of heart, prostate, tumour, got 'liver'"):
        write_phantoms("anywhere", organ="liver")


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError("No space left on device")])
def test_a_stopped_call_leaves_nothing(failure, tmp_path, monkeypatch):
    def fail(truth, rng):
        raise failure

    monkeypatch.setattr("scribbleseg.phantoms.write.draw_scribbles", fail)
    with pytest.raises(DataError if isinstance(failure, OSError) else KeyboardInterrupt):
        write_phantoms(tmp_path / "set", train=1, test=0, shape=(3, 64, 64))
    assert not list(tmp_path.iterdir())


def test_myocardium_surrounds_the_left_ventricle():
    for seed in range(20):  # four-neighbours in the slice: nothing but muscle and blood, whatever the wobble
        assert neighbours(heart(np.random.default_rng(seed), SHAPE, (10.0, 2.0, 2.0))[1], LV) <= {MYO, LV}


def test_heart_runs_from_base_to_apex(cases):
    for _, truth, _ in cases["heart"]:
        rv, myo, lv = (np.count_nonzero(truth == value, axis=(1, 2)) for value in (RV, MYO, LV))
        assert lv[0] > lv[-2] > 0 or lv[-1] == 0
        assert rv[0] > 50
        assert rv[-1] == 0
        assert ((rv > 0) <= (myo > 0)).all()
        assert ((lv > 0) <= (myo > 0)).all()


def test_the_central_gland_lies_in_the_gland():
    for seed in range(10):
        _, truth = prostate(np.random.default_rng(seed), SHAPE, (4.0, 0.9, 0.9))
        assert set(np.unique(truth)) == {BACKGROUND, PZ, CG}
        for labels in truth:
            gland = labels > 0
            assert ndimage.label(gland)[1] <= 1
            assert (ndimage.binary_fill_holes(gland) == gland).all()
        rows = np.indices(truth.shape)[1]
        assert rows[truth == PZ].mean() > rows[truth == CG].mean()  # the peripheral zone is behind, drawn below


def test_contrast_is_that_of_the_modality_and_no_threshold_solves_it(cases):
    for image, truth, _ in cases["heart"]:
        means = [image[truth == value].mean() for value in range(4)]
        assert means[LV] > 1.4 * means[MYO]
        assert means[RV] > 1.2 * means[MYO]
        bright = image > 0.75 * means[LV]
        assert (truth[bright] == LV).mean() < 0.5  # aorta, fat, atrium and RV are as bright
        assert (image >= 0).all()
    ratios = [image[truth == PZ].mean() / image[truth == CG].mean() for image, truth, _ in cases["prostate"]]
    assert min(ratios) > 1.1


@pytest.mark.parametrize("organ", ORGANS)
def test_every_structure_of_every_slice_has_a_true_stroke_off_its_border(organ, cases):
    for _, truth, scribbles in cases[organ]:
        drawn = scribbles != UNLABELLED
        assert (scribbles[drawn] == truth[drawn]).all()
        for labels, strokes in zip(truth, scribbles, strict=True):
            assert (strokes == BACKGROUND).sum() > 20
            for value in set(np.unique(labels)) - {BACKGROUND}:
                stroke, depth = strokes == value, ndimage.distance_transform_edt(np.pad(labels == value, 1))[1:-1, 1:-1]
                assert stroke.any()
                assert depth[stroke].min() >= min(2, depth.max())


@pytest.mark.parametrize("organ", ORGANS)
def test_coverage_is_that_of_expert_scribbles(organ, cases):
    # ACDC's experts, mean over volumes: 10 % of RV, 18 % of Myo, 10 % of LV, 0.7 % of (a larger) background.
    for _, truth, scribbles in cases[organ]:
        for value in range(1, len(ORGANS[organ].label_names)):
            assert 0.04 < (scribbles == value).sum() / (truth == value).sum() < 0.25
        assert 0.005 < (scribbles == BACKGROUND).mean() < 0.05


def test_background_is_drawn_beyond_the_heart(cases):
    for _, truth, scribbles in cases["heart"]:
        for labels, strokes in zip(truth, scribbles, strict=True):
            if (labels > 0).any():
                away = ndimage.distance_transform_edt(labels == BACKGROUND)[strokes == BACKGROUND]
                assert away.min() >= 3
                assert 4 < np.median(away) < 20


def test_odd_truths_can_be_scribbled_on():
    rng = np.random.default_rng(0)
    empty = np.zeros((2, 16, 16), np.uint8)
    assert set(np.unique(draw_scribbles(empty, rng))) == {BACKGROUND, UNLABELLED}
    one_pixel, full = empty.copy(), np.full_like(empty, 2)
    one_pixel[0, 5, 5] = 1
    assert draw_scribbles(one_pixel, rng)[0, 5, 5] == 1
    assert 2 in draw_scribbles(full, rng)
