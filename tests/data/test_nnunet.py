import json

import nibabel as nib
import numpy as np
import PIL.Image
import pytest

from scribbleseg.data import nnunet, open_dataset
from scribbleseg.types import UNLABELLED, DataError

LABELS = {"background": 0, "core": 1, "edema": 2, "ignore": 3}
SCRIBBLE = np.array([[0, 1], [2, 3]], np.uint8)[..., None]


def save(path, voxels):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), path)


def declare(root, **changes):
    declaration = {"channel_names": {"0": "T1", "1": "FLAIR"}, "labels": LABELS, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps({**declaration, **changes}))


@pytest.fixture
def raw(tmp_path):
    for part, case in (("Tr", "a"), ("Tr", "b"), ("Ts", "c")):
        for channel in range(2):
            save(tmp_path / f"images{part}" / f"{case}_{channel:04d}.nii.gz", np.full((2, 2, 1), channel, np.float32))
        save(tmp_path / f"labels{part}" / f"{case}.nii.gz", SCRIBBLE if part == "Tr" else SCRIBBLE % 3)
    save(tmp_path / "masksTr" / "a.nii.gz", SCRIBBLE % 3)
    declare(tmp_path)
    return tmp_path


def test_a_mask_that_no_image_is_named_like_is_told(raw):
    (raw / "masksTr" / "a.nii.gz").rename(raw / "masksTr" / "a_mask.nii.gz")
    assert "to image a: rename it to a.nii.gz" in open_dataset(raw).notes[-1]


def test_the_ignore_label_is_unlabelled_and_channels_are_stacked(raw):
    dataset = open_dataset(raw)
    assert (dataset.name, dataset.label_names) == ("nnunet", ("background", "core", "edema"))
    assert (dataset.train.names, dataset.test.names) == (("a", "b"), ("c",))
    case = dataset.train[0]
    np.testing.assert_array_equal(case.image[:, 0, 0, 0], [0, 1])
    np.testing.assert_array_equal(case.scribbles, [[[0, 2], [1, UNLABELLED]]])
    assert len(case.files) == 3


def test_references_come_from_masks_tr_and_labels_ts(raw):
    dataset = nnunet(raw)
    for name in ("a", "c"):
        np.testing.assert_array_equal(dataset.reference(name), [[[0, 2], [1, 0]]])
    with pytest.raises(DataError, match="case b: expected a reference"):
        dataset.reference("b")


def test_without_an_ignore_label_the_label_maps_are_full_masks(raw):
    declare(raw, labels={"background": 0, "core": 1, "edema": 2})
    save(raw / "labelsTr" / "b.nii.gz", SCRIBBLE % 3)
    dataset = open_dataset(raw)
    assert [(case.scribbles == UNLABELLED).all() for case in dataset.train] == [True, True]
    np.testing.assert_array_equal(dataset.reference("b"), [[[0, 2], [1, 0]]])
    with pytest.raises(DataError, match=r"case a: .*expected the values 0 background, 1 core, 2 edema, found 3"):
        dataset.reference("a")
    assert "simulate" in dataset.notes[0]
    assert 'if they are scribbles, declare "ignore": 3' in dataset.notes[1]
    (raw / "labelsTr" / "b.nii.gz").unlink()
    with pytest.raises(DataError, match=r"case b: .*labelsTr/b\.nii\.gz: expected this file, found none"):
        nnunet(raw).reference("b")


def test_pictures_may_hold_their_colours_in_one_file(tmp_path):
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
    colours = np.random.default_rng(0).integers(0, 255, (4, 5, 3), np.uint8)
    PIL.Image.fromarray(colours).save(tmp_path / "imagesTr" / "a_0000.png")
    PIL.Image.fromarray(np.full((4, 5), 3, np.uint8)).save(tmp_path / "labelsTr" / "a.png")
    declare(tmp_path, channel_names={"0": "R", "1": "G", "2": "B"}, file_ending=".png")
    assert nnunet(tmp_path).train[0].image.shape == (3, 1, 4, 5)


@pytest.mark.parametrize("missing", ["imagesTr/b_0000.nii.gz", "imagesTr/b_0001.nii.gz", "labelsTr/b.nii.gz"])
def test_a_missing_file_is_an_error_of_its_case(raw, missing):
    (raw / missing).unlink()
    dataset = nnunet(raw)
    assert dataset.train.names == ("a", "b")
    assert dataset.train.named("a").name == "a"
    with pytest.raises(DataError, match=f"case b: .*{missing}: expected this file, found none"):
        dataset.train.named("b")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": {"background": 0, "core": 1, "edema": 3}}, "without gaps"),
        ({"labels": {"core": 1, "edema": 2}}, 'expected "background" among the labels'),
        ({"labels": {"0": "background", "1": "core"}, "modality": {"0": "T1"}}, "nnUNetv2_convert_old_nnUNet_dataset"),
        ({"labels": {"background": 0, "whole": [1, 2], "ignore": 3}}, 'the label "whole".*regions'),
        ({"labels": {"background": 0, "core": 1, "ignore": 4}}, "without gaps"),
        ({"labels": {"background": 0, "core": 3, "edema": 1, "ignore": 2}}, "ignore as the highest value"),
        ({"labels": {"background": 1, "core": 0, "ignore": 2}}, "background 0"),
        ({"labels": {"background": 0, "core": 1, "edema": 1, "ignore": 2}}, r"found \[1\] twice"),
        ({"labels": []}, r'an object with "labels"'),
        ({"channel_names": None}, "channel_names"),
        ({"file_ending": ".mha"}, "b.mha: expected this file"),
        ({"file_ending": "/../../secret.nii.gz"}, 'expected "file_ending" among'),
        ({"file_ending": "_T1.nii.gz"}, 'expected "file_ending" among'),
        ({"file_ending": ""}, 'expected "file_ending" among'),
        ({"file_ending": [".nii.gz"]}, 'expected "file_ending" among'),
    ],
)
def test_declarations_that_make_no_sense_are_refused(raw, changes, message):
    declare(raw, **changes)
    with pytest.raises(DataError, match=message):
        nnunet(raw).train.named("b")


def test_no_declaration_no_data_set(raw):
    (raw / "dataset.json").write_text("{")
    with pytest.raises(DataError, match=r"dataset\.json: expected a JSON object"):
        nnunet(raw)
    (raw / "dataset.json").unlink()
    with pytest.raises(DataError, match=r"dataset\.json: expected nnU-Net's description"):
        open_dataset(raw)
