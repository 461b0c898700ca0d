import nibabel as nib
import numpy as np
import pytest

from scribbleseg.data.layouts import LAYOUTS, open_dataset, recognise
from scribbleseg.types import DataError

EXAMPLES = {
    "acdc": "training/patient001/patient001_frame01.nii.gz",
    "brats": "BraTS2021_00000/BraTS2021_00000_t1.nii.gz",
    "nci_isbi": "Prostate3T-01-0001/series/1.dcm",
    "promise12": "TrainingData_Part1/Case00.mhd",
    "prostate158": "train/020/t2.nii.gz",
    "nnunet": "imagesTr/p1_0000.nii.gz",
    "folder": "images/p1.nii.gz",
}


def make(root, name):
    (root / EXAMPLES[name]).parent.mkdir(parents=True, exist_ok=True)
    (root / EXAMPLES[name]).touch()


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_layout_is_recognised_as_itself_alone(tmp_path, name):
    make(tmp_path, name)
    assert recognise(tmp_path) == [name]
    assert recognise(str(tmp_path)) == [name]


def test_all_that_match_are_named_and_nothing_matches_nothing(tmp_path):
    assert recognise(tmp_path) == []
    make(tmp_path, "nnunet")
    make(tmp_path, "acdc")
    assert recognise(tmp_path) == ["acdc", "nnunet"]


def test_the_folder_above_a_data_set_is_shown_the_way(tmp_path):
    for name in ("Dataset041_Liver", "Dataset042_Heart"):
        (tmp_path / "raw" / name / "imagesTr").mkdir(parents=True)
    with pytest.raises(
        DataError, match=r"give .*raw/Dataset041_Liver or .*raw/Dataset042_Heart, or arrange the folder as"
    ):
        open_dataset(tmp_path / "raw")


def test_a_folder_that_is_missing_is_not_said_to_be_empty(tmp_path):
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match=r"expected images .*found none in .*images; put them there"):
        open_dataset(tmp_path)
    nib.save(nib.Nifti1Image(np.zeros((3, 3, 3), np.uint8), np.eye(4)), tmp_path / "images" / "a.nii.gz")
    with pytest.raises(DataError, match=r"expected scribbles .*found no folder .*scribbles; draw some"):
        open_dataset(tmp_path)
