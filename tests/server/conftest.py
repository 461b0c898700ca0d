"""Data sets to draw on, and a client that has the key to the page."""

import json
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

LABELS = {"ignore": 0, "background": 9, "liver": 2, "tumour": 5}
"""Values that no default has: what is written must be what is declared."""


def write_volume(path: Path, shape=(12, 10, 4), affine=None, seed=0) -> np.ndarray:
    """Writes a NIfTI of random whole numbers and returns its voxels, x y z."""
    voxels = np.random.default_rng(seed).integers(0, 1000, shape).astype(np.int16)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, np.diag([-1.0, -1.0, 5.0, 1.0]) if affine is None else affine), path)
    return voxels


def declare(root: Path, labels=LABELS) -> None:
    (root / "dataset.json").write_text(json.dumps({"labels": labels, "note": "kept"}))


@pytest.fixture
def sets() -> SimpleNamespace:
    """What writes data sets, and the values that they declare."""
    return SimpleNamespace(labels=LABELS, write_volume=write_volume, declare=declare)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data set of two volumes, `a` and `b`, without scribbles."""
    for seed, name in enumerate("ab"):
        write_volume(tmp_path / "images" / f"{name}.nii.gz", seed=seed)
    declare(tmp_path)
    return tmp_path
