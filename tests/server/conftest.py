"""Data sets to draw on, and a client that has the key to the page."""

import json
import os
import shutil
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


TINY = ("network.base=4", "network.deep_supervision=0", "preprocess.size=32", "preprocess.spacing_mm=3.0")
STEPS = ("stages.iterations=2", "stages.1.times=1", "stages.batch=2", "rotations=[]")


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory) -> SimpleNamespace:
    """A data set of phantoms, and a run that has been trained on it for a moment."""
    from scribbleseg.api import train
    from scribbleseg.data import open_dataset
    from scribbleseg.phantoms import write_phantoms
    from scribbleseg.recipes import find
    from scribbleseg.settings import override

    folder = tmp_path_factory.mktemp("trained")
    root = write_phantoms(folder / "hearts", train=2, test=1, shape=(5, 48, 48))
    for file in root.rglob("*.nii.gz"):  # a run says to the second when it began: strokes of that second are newer
        os.utime(file, (file.stat().st_mtime - 60,) * 2)
    recipe = override(find("default.quick"), [*TINY, *STEPS])
    train(open_dataset(root), folder / "run", recipe, accelerator="cpu")
    return SimpleNamespace(root=root, run=folder / "run")


@pytest.fixture
def trained(trained_once, tmp_path) -> SimpleNamespace:
    """Copies of both, which a test may change; the run is one on the copy of the data."""
    root = Path(shutil.copytree(trained_once.root, tmp_path / "hearts"))
    run = Path(shutil.copytree(trained_once.run, tmp_path / "run"))
    about = json.loads((run / "run.json").read_text())
    about.pop("sha256")
    about["data"]["folder"] = str(root.resolve())
    (run / "run.json").write_text(json.dumps(about))
    return SimpleNamespace(root=root, run=run)
