"""Images that somebody or something has damaged: an error that names the file, or the same voxels.

The long version is benchmarks/faults.py, whose mutations these are.
"""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "faults.py"
TRIES = 12


@pytest.fixture(scope="module")
def faults():
    spec = importlib.util.spec_from_file_location("faults", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def inputs(faults, tmp_path_factory):
    """A whole file of each format, and the first byte of each that a checksum covers, by its name."""
    folder = tmp_path_factory.mktemp("inputs") / "whole"
    return folder, faults.write_inputs(folder)


def test_every_format_is_tried(inputs):
    _, sums = inputs
    assert {name.partition(".")[2] for name in sums} == {
        "nii", "nii.gz", "nrrd", "mha", "seg.nrrd", "dcm", "png", "tif", "jpg",
    }  # fmt: skip


@pytest.mark.parametrize(
    "name", ["a.nii", "a.nii.gz", "b.nrrd", "c.nrrd", "b.mha", "c.mha", "e.dcm", "a.png", "a.tif", "a.jpg"]
)
@pytest.mark.filterwarnings("default")  # those of libraries about what they read
def test_mutated_images_are_named_or_read_as_they_were(name, faults, inputs, tmp_path):
    folder, sums = inputs
    whole = (folder / name).read_bytes()
    for seed in range(TRIES):
        changed, at = faults.mutated(whole, np.random.default_rng(seed))
        (tmp_path / name).write_bytes(changed)
        strict = sums[name] is not None and at >= sums[name]
        assert faults.reads_wrongly(tmp_path / name, folder / name, strict) is None, f"default_rng({seed})"


def test_other_voxels_are_told(faults, inputs, tmp_path):
    """So that the test above can fail."""
    folder, _ = inputs
    (tmp_path / "c.nrrd").write_bytes((folder / "c.nrrd").read_bytes()[:-100] + bytes(100))
    assert "other voxels" in faults.reads_wrongly(tmp_path / "c.nrrd", folder / "c.nrrd", strict=True)


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
def test_what_it_means_to_survive(code, said, problem, faults):
    found = faults.Answer(code, said).problem(0, 2)
    assert found == problem if problem is None else problem in found
