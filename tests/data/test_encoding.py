import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from scribbleseg.data.encoding import Encoding, declared, declared_encoding, in_values, read_declaration, to_disk
from scribbleseg.files import FileError
from scribbleseg.types import UNLABELLED, DataError

values = st.integers(-3, 300)


@given(data=st.data())
def test_decoding_equals_looking_up_every_voxel(data):
    drawn = data.draw(st.lists(values, min_size=2, max_size=6, unique=True))
    encoding = Encoding(
        ("background", *"abcde"[: len(drawn) - 2]),
        dict(zip(drawn, [*range(len(drawn) - 1), UNLABELLED], strict=True)),
    )
    shape = data.draw(array_shapes(min_dims=2, max_dims=3, max_side=4))
    voxels = data.draw(arrays(np.int16, shape, elements=st.sampled_from(drawn)))
    labels = encoding.decode(Path("file"), voxels)
    assert labels.dtype == np.uint8
    assert labels.shape == voxels.shape
    assert [int(label) for label in labels.ravel()] == [encoding.labels[int(value)] for value in voxels.ravel()]


def test_undeclared_values_are_counted_and_the_declared_ones_named(tmp_path):
    encoding = Encoding(("background", "RV"), {0: 0, 1: 1, 4: UNLABELLED})
    with pytest.raises(FileError, match=r"expected the values 0 background, 1 RV, 4 unlabelled, found 2 \(3 voxels\)"):
        encoding.decode(tmp_path, np.array([[0, 1, 2, 2, 2, 4]]))


def test_zero_in_references_is_background_and_ignore_is_unlabelled(tmp_path):
    encoding = Encoding(("background", "RV"), {0: UNLABELLED, 1: 1, 7: 0}).of_references
    np.testing.assert_array_equal(encoding.decode(tmp_path, np.array([0, 1, 7])), [0, 1, 0])
    ignoring = Encoding(("background", "RV"), {0: 0, 1: 1, 4: UNLABELLED}).of_references
    np.testing.assert_array_equal(ignoring.decode(tmp_path, np.array([0, 1, 4])), [0, 1, UNLABELLED])
    with pytest.raises(FileError, match="found 5"):
        ignoring.decode(tmp_path, np.array([0, 5]))
    # A structure that is declared as 0 stays one.
    np.testing.assert_array_equal(
        Encoding(("background", "RV"), {0: 1, 1: 0}).of_references.decode(tmp_path, np.array([0, 1])), [1, 0]
    )


def test_on_disk_unlabelled_is_the_highest_value():
    assert declared(("background", "RV", "Myo")) == {"background": 0, "RV": 1, "Myo": 2, "ignore": 3}
    labels = np.array([[0, 1, 2, UNLABELLED]], np.uint8)
    written = to_disk(labels, 3)
    np.testing.assert_array_equal(written, [[0, 1, 2, 3]])
    assert written.dtype == np.uint8
    np.testing.assert_array_equal(labels, [[0, 1, 2, UNLABELLED]])  # what it was given stays


def test_a_copy_it_is_even_where_everything_is_labelled():
    labels = np.zeros((2, 2), np.uint8)
    assert not np.shares_memory(to_disk(labels, 1), labels)


@given(labels=arrays(np.uint8, (2, 3, 4), elements=st.sampled_from([0, 1, 2, UNLABELLED])))
def test_what_is_written_and_declared_is_read_back(tmp_path_factory, labels):
    file = tmp_path_factory.mktemp("declared") / "dataset.json"
    names = ("background", "RV", "Myo")
    file.write_text(json.dumps({"labels": declared(names)}))
    encoding = declared_encoding(file, read_declaration(file)["labels"])
    assert encoding.label_names == names
    np.testing.assert_array_equal(encoding.decode(file, to_disk(labels, len(names))), labels)


@given(data=st.data())
def test_labels_come_back_from_any_values(data):
    drawn = data.draw(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=3, max_size=6, unique=True))
    names = ("background", *"abcd"[: len(drawn) - 2])
    values = dict(zip((*names, "ignore"), drawn, strict=True))
    encoding = Encoding(names, dict(zip(drawn, [*range(len(names)), UNLABELLED], strict=True)))
    assert encoding.by_name == values
    labels = np.array([*range(len(names)), UNLABELLED, 0], np.uint8)
    written = in_values(labels, names, values)
    assert written.tolist() == [*drawn, drawn[0]]
    np.testing.assert_array_equal(encoding.decode(Path("file"), written), labels)


def test_more_structures_than_there_are_labels_are_refused():
    labels = {"background": 0, **{f"s{k}": k for k in range(1, 256)}}
    assert len(declared_encoding(Path("f"), dict(list(labels.items())[:-1]), ("background",)).label_names) == 255
    with pytest.raises(DataError, match="f: expected at most 254 structures, found 255"):
        declared_encoding(Path("f"), labels, ("background",))
