"""Images that somebody or something has damaged: an error that names the file, or the same voxels.

The long version is benchmarks/faults.py, whose mutations these are.
"""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from faults import Answer, mutated, reads_wrongly, write_inputs
from scribbleseg.annotate.exchange.headers import mitk_labels
from scribbleseg.data.formats import listed_segments, read_labels
from scribbleseg.files import FileError

TRIES = 12


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A whole file of each format, and the first byte of each that a checksum covers, by its name."""
    folder = tmp_path_factory.mktemp("inputs") / "whole"
    return folder, write_inputs(folder)


def test_every_format_is_tried(inputs):
    _, sums = inputs
    assert {name.partition(".")[2] for name in sums} == {
        "nii", "nii.gz", "nrrd", "mha", "seg.nrrd", "dcm", "png", "tif", "jpg",
    }  # fmt: skip


@pytest.mark.parametrize(
    "name",
    ["a.nii", "a.nii.gz", "b.nrrd", "c.nrrd", "d.seg.nrrd", "b.mha", "c.mha", "e.dcm", "a.png", "a.tif", "a.jpg"],
)
@pytest.mark.filterwarnings("default")  # those of libraries about what they read
def test_mutated_images_are_named_or_read_as_they_were(name, inputs, tmp_path):
    folder, sums = inputs
    whole = (folder / name).read_bytes()
    for seed in range(TRIES):
        changed, at = mutated(whole, np.random.default_rng(seed))
        (tmp_path / name).write_bytes(changed)
        strict = sums[name] is not None and at >= sums[name]
        assert reads_wrongly(tmp_path / name, folder / name, strict) is None, f"default_rng({seed})"


KEYS = (b"Segment0_Name", b"Segment0_LabelValue", b"Comment_0", b"org.mitk.multilabel.segmentation.version")
OTHERS = (b"\xff", b"\xc3", b"\xed\xa0\x80", b"\x80\x80", "Größe".encode("latin-1"))
"""Bytes that are no UTF-8: one, half of a letter, half of a surrogate pair, and another encoding."""


@pytest.fixture
def segmented(tmp_path):
    """Writes a segmentation with a header in which something has been replaced."""
    image = SimpleITK.GetImageFromArray(np.ones((2, 3, 4), np.uint8))
    for key in KEYS:
        image.SetMetaData(key.decode(), "7" if b"Value" in key else "heart")

    def write(old: bytes, new: bytes) -> Path:
        SimpleITK.WriteImage(image, str(tmp_path / "a.seg.nrrd"))
        whole = (tmp_path / "a.seg.nrrd").read_bytes()
        assert old in whole
        (tmp_path / "a.seg.nrrd").write_bytes(whole.replace(old, new))
        return tmp_path / "a.seg.nrrd"

    return write


@pytest.mark.parametrize("key", KEYS, ids=str)
@pytest.mark.parametrize("other", OTHERS, ids=str)
@pytest.mark.parametrize("read", [read_labels, listed_segments, mitk_labels])
def test_a_key_that_is_no_text_is_named_and_other_values_are_text(key, other, read, segmented):
    with pytest.raises(FileError, match=r"a\.seg\.nrrd: expected keys in its header that are text in UTF-8"):
        read(segmented(key, key[:9] + other + key[9:]))
    read(segmented(b"heart", b"he" + other + b"art"))
    [segment] = listed_segments(segmented(b"heart", b"he" + other + b"art"))
    assert segment.value == 7
    assert segment.name.encode().startswith(b"he\xef\xbf\xbd" if other[:1] != b"G" else b"heGr\xef")


@pytest.mark.parametrize("number", ["²", "٣", "9" * 5000, "-1", "1.0", ""])
def test_only_numbers_of_segments_are_taken_for_such(number, segmented):
    assert listed_segments(segmented(b"Segment0_Name", f"Segment{number}_Name".encode())) == ()


@pytest.mark.parametrize("groups", [
    '[{"labels": [{"name": "\\ud800", "value": 1}]}]', '[{"labels": [{"name": "a", "value": Infinity}]}]',
    '[{"labels": [{"name": "a", "value": NaN}]}]', "[" * 20_000, '[{"labels": 1}]', "{", "1", '["x"]',
])  # fmt: skip
def test_damaged_label_groups_of_mitk_are_named(groups, segmented):
    file = segmented(
        b"multilabel.segmentation.version:=heart", b"multilabel.segmentation.labelgroups:=" + groups.encode()
    )
    with pytest.raises(FileError, match="expected MITK's list of labels in its header"):
        mitk_labels(file)


def test_other_voxels_are_told(inputs, tmp_path):
    """So that the test above can fail."""
    folder, _ = inputs
    (tmp_path / "c.nrrd").write_bytes((folder / "c.nrrd").read_bytes()[:-100] + bytes(100))
    assert "other voxels" in reads_wrongly(tmp_path / "c.nrrd", folder / "c.nrrd", strict=True)


@pytest.mark.parametrize(
    ("code", "said", "problem"),
    [
        (0, "Trained.", None),
        (2, "error: file: expected, found", None),
        (None, "", "it hung"),
        (2, "no sentence", "without a sentence"),
        (2, "error: one\nerror: two", "more than one error"),
        (0, "Traceback (most recent call last):\n  File\nKeyError: 'x'", "a traceback: KeyError: 'x'"),
        (-9, "", "exit code -9, expected 0 or 2"),
    ],
)
def test_what_it_means_to_survive(code, said, problem):
    found = Answer(code, said).problem(0, 2)
    assert found == problem if problem is None else problem in found
