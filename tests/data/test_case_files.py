import json
import pickle
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from scribbleseg.data import fully_annotated, with_scribbles
from scribbleseg.data.encoding import Encoding, declared
from scribbleseg.data.layouts.case_files import CaseError, CaseFiles, dataset
from scribbleseg.files import FileError
from scribbleseg.types import UNLABELLED

ENCODING = Encoding(("background", "RV"), {0: 0, 1: 1, 2: UNLABELLED})


def test_a_case_error_names_the_case_and_every_file(tmp_path):
    error = CaseError("p1", [FileError(tmp_path / name, "expected x, found y", "do z") for name in "ab"])
    assert str(error) == f"case p1: {tmp_path}/a: expected x, found y; do z\n{tmp_path}/b: expected x, found y; do z"


def test_errors_come_through_from_another_process():
    error = CaseError("heart", [FileError(Path("a.nii.gz"), "expected this, found that", "do so")])
    there = pickle.loads(pickle.dumps(error))
    assert str(there) == str(error)
    assert [(e.file, e.problem, e.remedy) for e in there.errors] == [
        (Path("a.nii.gz"), "expected this, found that", "do so")
    ]


@pytest.fixture
def cut_off(tmp_path):
    """A data set of one case whose header is whole and whose voxels are not."""
    voxels = np.random.default_rng(0).integers(0, 1000, (40, 30, 2), np.int16)
    nib.save(nib.Nifti1Image(voxels, np.diag([-1.5, -1.5, 8, 1])), tmp_path / "p1.nii.gz")
    whole = (tmp_path / "p1.nii.gz").read_bytes()
    (tmp_path / "p1.nii.gz").write_bytes(whole[: len(whole) // 2])
    return dataset("folder", tmp_path, ENCODING, [CaseFiles("p1", (tmp_path / "p1.nii.gz",))], [])


def test_the_grid_of_a_case_is_read_without_its_voxels(cut_off):
    geometry = cut_off.train.geometry("p1")
    assert geometry.shape == (2, 30, 40)
    assert geometry.spacing_mm == (8, 1.5, 1.5)
    with pytest.raises(CaseError, match="case p1: .*expected a whole .nii.gz file"):
        cut_off.train.named("p1")


def test_views_read_the_grid_in_the_same_way(cut_off, tmp_path):
    (tmp_path / "drawn").mkdir()
    nib.save(nib.Nifti1Image(np.ones((40, 30, 2), np.uint8), np.eye(4)), tmp_path / "drawn" / "p1.nii.gz")
    (tmp_path / "drawn" / "dataset.json").write_text(json.dumps({"labels": declared(ENCODING.label_names)}))
    for view in (fully_annotated(cut_off), with_scribbles(cut_off, tmp_path / "drawn")):
        assert view.train.geometry("p1").shape == (2, 30, 40)
    part = replace(cut_off, train=cut_off.train.only(["p1"]))
    assert part.train.geometry("p1").shape == (2, 30, 40)


def test_a_grid_that_cannot_be_read_is_an_error_of_its_case(tmp_path):
    opened = dataset("folder", tmp_path, ENCODING, [CaseFiles("p1", (tmp_path / "p1.nii",))], [])
    with pytest.raises(CaseError, match="case p1: .*p1.nii: expected this file, found none") as caught:
        opened.train.geometry("p1")
    assert caught.value.errors[0].file == tmp_path / "p1.nii"
    with pytest.raises(KeyError, match="no case 'p2'"):
        opened.train.geometry("p2")
