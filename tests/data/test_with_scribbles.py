import json

import nibabel as nib
import numpy as np
import pytest

from scribbleseg.data import acdc, coarse, fingerprint, open_dataset, with_scribbles
from scribbleseg.types import UNLABELLED, DataError

AFFINE = np.diag([-1.5, -1.5, 10, 1])
DRAWN = np.arange(24, dtype=np.uint8).reshape(4, 3, 2) % 5  # x y z; 4 is unlabelled, in ACDC and in the folder
LABELS = {"background": 0, "RV": 1, "Myo": 2, "LV": 3, "ignore": 4}
FRAMES = ("patient001_frame01", "patient001_frame12")


def save(path, voxels, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, affine), path)


@pytest.fixture
def tree(tmp_path):
    for frame in FRAMES:
        save(tmp_path / "acdc" / "patient001" / f"{frame}.nii.gz", np.ones((4, 3, 2), np.int16))
        save(tmp_path / "acdc" / "patient001" / f"{frame}_scribble.nii.gz", np.full((4, 3, 2), 1, np.uint8))
    return tmp_path / "acdc"


@pytest.fixture
def drawn(tmp_path):
    folder = tmp_path / "drawn"
    save(folder / f"{FRAMES[1]}.nii.gz", DRAWN)
    (folder / "dataset.json").write_text(json.dumps({"labels": LABELS}))
    return folder


def test_the_folders_scribbles_replace_those_of_the_data_set(tree, drawn):
    dataset = open_dataset(tree, scribbles=drawn)
    without, with_them = dataset.train
    assert (without.scribbles == UNLABELLED).all()
    np.testing.assert_array_equal(with_them.scribbles, np.where(DRAWN.T == 4, UNLABELLED, DRAWN.T))
    assert with_them.files[-1] == drawn / f"{FRAMES[1]}.nii.gz"
    assert "1 of 2 training cases; the others have none" in dataset.notes[-1]


def test_the_options_open_it_again(tree, drawn):
    first = open_dataset(tree, scribbles=drawn, split="published_validation", train_patients=[1], test_patients=[])
    again = open_dataset(first.root, first.name, **first.options)
    assert again.options == first.options
    np.testing.assert_array_equal(again.train[1].scribbles, first.train[1].scribbles)


def test_no_scribbles_given_is_as_before(tree):
    dataset = open_dataset(tree, "acdc", scribbles=None)
    assert "scribbles" not in dataset.options


def test_values_are_those_that_the_folder_declares(tree, drawn):
    (drawn / "dataset.json").write_text(json.dumps({"labels": {**LABELS, "background": 4, "ignore": 0}}))
    scribbles = with_scribbles(acdc(tree), drawn).train[1].scribbles
    assert (scribbles[DRAWN.T == 0] == UNLABELLED).all()
    assert (scribbles[DRAWN.T == 4] == 0).all()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"background": 0, "PZ": 1, "CG": 2, "ignore": 3}, "expected the labels background, RV, Myo, LV .*PZ, CG"),
        ({"background": 0, "RV": 1, "Myo": 2, "LV": 3}, 'expected "ignore" among the labels'),
    ],
)
def test_labels_of_another_data_set_are_refused(tree, drawn, labels, message):
    (drawn / "dataset.json").write_text(json.dumps({"labels": labels}))
    with pytest.raises(DataError, match=message):
        open_dataset(tree, scribbles=drawn)


def test_a_folder_for_other_cases_is_refused(tree, drawn):
    (drawn / f"{FRAMES[1]}.nii.gz").rename(drawn / "train000.nii.gz")
    with pytest.raises(DataError, match="named like the training cases .*patient001_frame01.*found train000"):
        open_dataset(tree, scribbles=drawn)


def test_a_folder_that_is_not_complete_is_refused(tree, drawn):
    (drawn / "dataset.json").rename(drawn / "simulation.json")
    with pytest.raises(DataError, match="simulate` wrote, with dataset.json, found a folder without it"):
        open_dataset(tree, scribbles=drawn)


@pytest.mark.parametrize(
    ("voxels", "affine", "message"),
    [
        (DRAWN[:3], AFFINE, "expected 2 x 3 x 4 voxels"),
        (DRAWN, np.diag([-1.5, -1.5, 9, 1]), "expected the affine of patient001_frame12"),
        (np.full((4, 3, 2), 7, np.uint8), AFFINE, "found 7 \\(24 voxels\\)"),
    ],
)
def test_files_that_do_not_fit_are_errors_of_their_case(tree, drawn, voxels, affine, message):
    save(drawn / f"{FRAMES[1]}.nii.gz", voxels, affine)
    dataset = open_dataset(tree, scribbles=drawn)
    assert (dataset.train[0].scribbles == UNLABELLED).all()
    with pytest.raises(DataError, match=f"case patient001_frame12: .*{message}"):
        dataset.train[1]


BRAINS = ("BraTS2021_00000", "BraTS2021_00001", "BraTS2021_00002")  # the first one is the test case of fold 0


class TestOfTheWholeTumour:
    """Scribbles of one region that is made of all structures, and what is known to be in a case."""

    @pytest.fixture
    def brain(self, tmp_path):
        for name in BRAINS:
            for part in ("t1", "t1ce", "t2", "flair", "seg"):
                save(tmp_path / "brats" / name / f"{name}_{part}.nii.gz", np.ones((4, 3, 2), np.uint8))
        return tmp_path / "brats"

    @pytest.fixture
    def whole(self, tmp_path):
        folder = tmp_path / "whole"
        save(folder / f"{BRAINS[1]}.nii.gz", DRAWN % 3)
        (folder / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "WT": 1, "ignore": 2}}))
        return folder

    def test_the_scribbles_say_how_coarse_they_are(self, brain, whole):
        dataset = open_dataset(brain, scribbles=whole)
        assert dataset.scribble_names == ("background", "WT")
        assert dataset.label_names == ("background", "NCR/NET", "ED", "ET")
        drawn = DRAWN.T % 3
        np.testing.assert_array_equal(dataset.train[0].scribbles, np.where(drawn == 2, UNLABELLED, drawn))
        assert coarse(dataset).label_names == ("background", "WT")
        again = with_scribbles(coarse(dataset), whole)  # whose label is the region itself
        assert again.scribble_names == ()
        (whole / "present.json").write_text(json.dumps({BRAINS[1]: ["ED", "ET"]}))
        said = open_dataset(brain, scribbles=whole)
        assert said.train.named(BRAINS[1]).present == {2, 3}
        assert coarse(said).train.named(BRAINS[1]).present == {2, 3}  # which a second phase divides the region into

    def test_scribbles_of_all_labels_are_not_coarse(self, brain, whole):
        labels = {name: value for value, name in enumerate(["background", "NCR/NET", "ED", "ET", "ignore"])}
        (whole / "dataset.json").write_text(json.dumps({"labels": labels}))
        dataset = open_dataset(brain, scribbles=whole)
        assert dataset.scribble_names == ()
        assert coarse(dataset) is dataset

    @pytest.mark.parametrize("region", ["TC", "tumour"])
    def test_a_region_that_leaves_structures_out_is_refused(self, brain, whole, region):
        (whole / "dataset.json").write_text(json.dumps({"labels": {"background": 0, region: 1, "ignore": 2}}))
        message = f"expected the labels background, NCR/NET, ED, ET or background, WT of .*, found background, {region}"
        with pytest.raises(DataError, match=message):
            open_dataset(brain, scribbles=whole)

    def test_image_level_labels_come_with_the_scribbles(self, brain, whole):
        assert open_dataset(brain, scribbles=whole).train[0].present is None
        (whole / "present.csv").write_text(f"case,NCR/NET,ED,ET\n{BRAINS[0]},1,1,1\n{BRAINS[1]},0,1,1\n")
        dataset = open_dataset(brain, scribbles=whole)
        assert [case.present for case in dataset.train] == [{2, 3}, None]
        assert dataset.test[0].present is None
        assert dataset.notes[-1] == f"image-level labels from {whole}: 1 of 2 training cases"

    def test_a_case_without_scribbles_can_have_image_level_labels(self, brain, whole):
        (whole / "present.json").write_text(json.dumps({BRAINS[2]: []}))
        case = open_dataset(brain, scribbles=whole).train[1]
        assert case.present == frozenset()
        assert (case.scribbles == UNLABELLED).all()

    @pytest.mark.parametrize(
        ("present", "message"),
        [
            ({"BraTS2021_00001": ["edema"]}, "case BraTS2021_00001: expected structures among NCR/NET, ED, ET, found"),
            ({"BraTS2021_00000": ["ED"]}, r"lists the training cases \(BraTS2021_00001, .*found BraTS2021_00000"),
            ({}, "found none; give the folder"),
        ],
    )
    def test_image_level_labels_that_do_not_fit_are_refused(self, brain, whole, present, message):
        (whole / "present.json").write_text(json.dumps(present))
        with pytest.raises(DataError, match=message):
            open_dataset(brain, scribbles=whole)

    def test_they_are_part_of_the_fingerprint(self, brain, whole):
        prints = [fingerprint(open_dataset(brain, scribbles=whole).train)]
        for names in ([], ["ED"], ["ET"]):
            (whole / "present.json").write_text(json.dumps({BRAINS[1]: names}))
            prints.append(fingerprint(open_dataset(brain, scribbles=whole).train))
        assert len(set(prints)) == 4
