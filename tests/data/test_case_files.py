import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from scribbleseg.data.case_files import CaseError, Encoding
from scribbleseg.data.volumes import FileError
from scribbleseg.types import UNLABELLED

values = st.integers(-3, 300)


@given(data=st.data())
def test_decoding_equals_looking_up_every_voxel(data):
    declared = data.draw(st.lists(values, min_size=2, max_size=6, unique=True))
    encoding = Encoding(
        ("background", *"abcde"[: len(declared) - 2]),
        dict(zip(declared, [*range(len(declared) - 1), UNLABELLED], strict=True)),
    )
    shape = data.draw(array_shapes(min_dims=2, max_dims=3, max_side=4))
    voxels = data.draw(arrays(np.int16, shape, elements=st.sampled_from(declared)))
    labels = encoding.decode(Path("file"), voxels)
    assert labels.dtype == np.uint8
    assert labels.shape == voxels.shape
    assert [int(label) for label in labels.ravel()] == [encoding.labels[int(value)] for value in voxels.ravel()]


def test_undeclared_values_are_counted_and_the_declared_ones_named(tmp_path):
    encoding = Encoding(("background", "RV"), {0: 0, 1: 1, 4: UNLABELLED})
    with pytest.raises(FileError, match=r"expected the values 0 background, 1 RV, 4 unlabelled, found 2 \(3 voxels\)"):
        encoding.decode(tmp_path, np.array([[0, 1, 2, 2, 2, 4]]))


def test_references_are_full_and_their_zero_is_background(tmp_path):
    encoding = Encoding(("background", "RV"), {0: UNLABELLED, 1: 1, 7: 0}).of_references
    np.testing.assert_array_equal(encoding.decode(tmp_path, np.array([0, 1, 7])), [0, 1, 0])
    with pytest.raises(FileError, match="found 4"):
        Encoding(("background", "RV"), {0: 0, 1: 1, 4: UNLABELLED}).of_references.decode(tmp_path, np.array([0, 4]))
    # A structure that is declared as 0 stays one.
    np.testing.assert_array_equal(
        Encoding(("background", "RV"), {0: 1, 1: 0}).of_references.decode(tmp_path, np.array([0, 1])), [1, 0]
    )


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
