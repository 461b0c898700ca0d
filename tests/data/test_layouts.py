import pytest

from scribbleseg.data.layouts import LAYOUTS, recognise

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
