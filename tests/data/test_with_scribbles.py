import json

import nibabel as nib
import numpy as np
import pytest

from scribbleseg.data import acdc, open_dataset, with_scribbles
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
    assert dataset.notes[-1].startswith("1 of 2 training cases have their scribbles from")


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
