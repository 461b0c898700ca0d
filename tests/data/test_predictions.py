"""Label maps to be scored: whatever values they hold, they are read by what is declared, or refused by name."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from scribbleseg.data import open_dataset
from scribbleseg.data.predictions import open_predictions
from scribbleseg.types import DataError

NAMES = ("background", "liver", "tumour")
TRUTH = np.zeros((8, 9, 3), np.uint8)
TRUTH[1:5, 2:6], TRUTH[2:4, 3:5] = 1, 2


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, np.eye(4)), path)


def in_values(values: dict[str, int]) -> np.ndarray:
    return np.array([values[name] for name in NAMES], np.int16)[TRUTH]


@pytest.fixture
def make(tmp_path):
    """A data set whose masks have these values, and a folder of perfect predictions in those."""

    def build(values: dict[str, int], predicted: dict[str, int], declaration: dict | None = None):
        scribbles = np.full(TRUTH.shape, values["ignore"], np.int16)
        scribbles[0, 0] = values["background"]
        scribbles[2, 2], scribbles[3, 3] = values["liver"], values["tumour"]
        for folder, voxels in (("images", TRUTH.astype(np.float32)), ("scribbles", scribbles)):
            save(tmp_path / "data" / folder / "p1.nii.gz", voxels)
        save(tmp_path / "data" / "masks" / "p1.nii.gz", in_values(values))
        (tmp_path / "data" / "dataset.json").write_text(json.dumps({"labels": values}))
        save(tmp_path / "predictions" / "p1.nii.gz", in_values(predicted))
        if declaration is not None:
            (tmp_path / "predictions" / "dataset.json").write_text(json.dumps({"labels": declaration}))
        dataset = open_dataset(tmp_path / "data")
        return open_predictions(tmp_path / "predictions", dataset), dataset

    return build


PLAIN = {"background": 0, "liver": 1, "tumour": 2, "ignore": 3}
LARGE = {"background": 0, "liver": 256, "tumour": 258, "ignore": 300}
NEGATIVE = {"background": 5, "liver": -256, "tumour": 7, "ignore": -1}


@pytest.mark.parametrize("values", [PLAIN, LARGE, NEGATIVE])
@pytest.mark.parametrize(
    "declaration",
    [
        None,
        {"background": 0, "liver": 1, "tumour": 2},
        {"background": 0, "tumour": 1, "liver": 2, "ignore": 9},
        {"background": 0, "liver": 256, "tumour": 258},
        {"background": 9, "liver": -256, "tumour": 0, "ignore": 4},
    ],
)
def test_perfect_predictions_are_perfect_in_any_values_that_are_declared(values, declaration, make):
    opened, dataset = make(values, declaration or values, declaration)
    labels = opened.read(dataset.train.named("p1"))
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, TRUTH.T)
    np.testing.assert_array_equal(labels, dataset.reference("p1"))


@pytest.mark.parametrize(
    ("declaration", "predicted"),
    [
        (None, {"background": 0, "liver": 257, "tumour": 258}),
        ({"background": 0, "liver": 1, "tumour": 2}, {"background": 0, "liver": 257, "tumour": 258}),
        ({"background": 0, "liver": 1, "tumour": 2}, {"background": -256, "liver": 1, "tumour": 2}),
    ],
)
def test_values_that_nobody_declared_are_named_as_they_are(declaration, predicted, make):
    opened, dataset = make(PLAIN, predicted, declaration)
    with pytest.raises(DataError, match=r"p1\.nii\.gz: expected the values 0 background, 1 liver.*found (257|-256) "):
        opened.read(dataset.train.named("p1"))


def test_what_a_prediction_leaves_unlabelled_is_no_structure(make):
    opened, dataset = make(PLAIN, {"background": 0, "liver": 1, "tumour": 3}, PLAIN)
    np.testing.assert_array_equal(opened.read(dataset.train.named("p1")), np.where(TRUTH == 1, 1, 0).T)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"background": 0, "liver": 1, "kidney": 2}, "expected a data set of the labels background, liver, kidney"),
        ({"background": 0, "liver": 1, "tumour": 1}, "expected a value of its own for each label, found .1. twice"),
        ({"background": 0, "liver": [1, 2], "tumour": 2}, 'expected a whole number for the label "liver"'),
    ],
)
def test_declarations_that_do_not_fit_are_refused(labels, message, make):
    with pytest.raises(DataError, match=message):
        make(PLAIN, PLAIN, labels)


def test_a_folder_without_any_case_is_refused(make, tmp_path):
    _, dataset = make(PLAIN, PLAIN)
    save(tmp_path / "other" / "q9.nii.gz", in_values(PLAIN))
    with pytest.raises(
        DataError, match=r"other: expected label maps named like the cases of .*\(p1, \.\.\.\), found q9"
    ):
        open_predictions(tmp_path / "other", dataset)
