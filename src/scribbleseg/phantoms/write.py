"""Writes data sets of phantoms: hearts and prostates in the layout `folder`, brain tumours in that of BraTS."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from jaxtyping import Float64

from scribbleseg.data.encoding import declared, to_disk
from scribbleseg.data.formats import write_labels
from scribbleseg.data.layouts.brats import ED, ET, NCR
from scribbleseg.files import FileError, parsed
from scribbleseg.phantoms.brain import brain_tumour
from scribbleseg.phantoms.heart import heart
from scribbleseg.phantoms.prostate import prostate
from scribbleseg.phantoms.scribbles import draw_scribbles
from scribbleseg.phantoms.slab import Grid, Spacing, Volume
from scribbleseg.types import DataError, Geometry, Labels

VERSION = 1  # raise it when the pictures change, so that an old set on disk is not taken for a new one


class Organ(NamedTuple):
    """An organ: the function that draws it, the names of its labels, and its usual voxel size."""

    draw: Callable[[np.random.Generator, Grid, Spacing], tuple[Volume, Labels]]
    label_names: tuple[str, ...]
    spacing_mm: Spacing


ORGANS = {
    "heart": Organ(heart, ("background", "RV", "Myo", "LV"), (10.0, 1.8, 1.8)),
    "prostate": Organ(prostate, ("background", "PZ", "CG"), (4.0, 0.9, 0.9)),
}


TUMOUR = "tumour"
USUAL_SHAPE: dict[str, Grid] = {"heart": (8, 96, 96), "prostate": (8, 96, 96), TUMOUR: (24, 96, 96)}
TUMOUR_SPACING_MM = (3.0, 2.0, 2.0)
TUMOUR_PRESENT = ({NCR, ED, ET}, {NCR, ED, ET}, {NCR, ED}, {NCR, ED, ET}, {ED}, {NCR, ED, ET})
"""What the tumours of case 0, 1, ... are made of, and so on again: a third has no ET, one in six only oedema. Ours."""


def write_phantoms(
    folder: str | Path, organ: str = "heart", train: int = 12, test: int = 8, seed: int = 0, shape: Grid | None = None
) -> Path:
    """Writes a data set, or finds the same one there: hearts and prostates in the layout `folder`, tumours in `brats`.

    It is made beside its place and moved there when complete, so a killed call leaves no half-made set. Case k of
    either part depends on `(seed, part, k)` only: a larger set contains the smaller one.

    Args:
        folder: a place that is absent or empty. It gets images/, scribbles/ (training cases), masks/ (all cases) and
            dataset.json; or of tumours train/CASE/ and test/CASE/ with four modalities and a mask each, no scribbles,
            and phantoms.json.
        organ: "heart", "prostate" or "tumour".
        train: number of training cases, train000, train001, ...
        test: number of test cases, test000, ...; they have no scribbles.
        seed: not negative.
        shape: `(depth, height, width)`; default `USUAL_SHAPE`. Each heart or prostate has its own matrix and spacing
            around that; brains share a grid of (3, 2, 2) mm.

    Returns:
        `folder`.

    Raises:
        DataError: no such organ, something else in the folder, or the files cannot be written.
    """
    folder = Path(folder)
    if organ not in USUAL_SHAPE:
        raise DataError(f"organ: expected one of {', '.join(USUAL_SHAPE)}, got {organ!r}")
    shape = shape or USUAL_SHAPE[organ]
    made_by = {"version": VERSION, "organ": organ, "train": train, "test": test, "seed": seed, "shape": list(shape)}
    file, description = _description(organ, made_by)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        _expect_same(folder / file, description)
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
            unfinished = Path(temporary) / folder.name
            for part, count in enumerate((train, test)):
                for k in range(count):
                    if organ == TUMOUR:
                        _write_brain(unfinished, shape, part, k, seed)
                    else:
                        _write_case(unfinished, ORGANS[organ], shape, part, k, seed)
            (unfinished / file).write_text(json.dumps(description, indent=2) + "\n")
            unfinished.replace(folder)
    except (OSError, FileError) as error:
        raise DataError(
            f"{folder}: could not write the phantoms ({error}); free some space or name another folder"
        ) from error
    return folder


def _description(organ: str, made_by: dict) -> tuple[str, dict]:
    """Returns a file's name and its content; `made_by` tells this set from another, and readers pass it over."""
    if organ == TUMOUR:
        return "phantoms.json", {"phantoms": made_by}
    return "dataset.json", {
        "channel_names": {"0": "MRI"},
        "labels": declared(ORGANS[organ].label_names),
        "file_ending": ".nii.gz",
        "phantoms": made_by,
    }


def _expect_same(file: Path, description: dict) -> None:
    """Raises DataError unless `file` describes exactly the phantoms that are wanted; it is written last, with them."""
    try:
        found = parsed(file.read_text())
    except (OSError, ValueError):
        found = None
    if found != description:
        what = found.get("phantoms", "another data set") if isinstance(found, dict) else "something else"
        raise DataError(
            f"{file}: expected the phantoms {description['phantoms']}, found {what}; "
            "name another folder, or delete this one first"
        )


def _write_brain(root: Path, shape: Grid, part: int, k: int, seed: int) -> None:
    """Writes one case in BraTS 2021's naming, with 4 for ET."""
    rng = np.random.default_rng((seed, part, k))
    name = f"{('train', 'test')[part]}{k:03d}"
    case = root / ("train", "test")[part] / name
    image, truth = brain_tumour(rng, shape, TUMOUR_SPACING_MM, frozenset(TUMOUR_PRESENT[k % len(TUMOUR_PRESENT)]))
    affine = _lps(TUMOUR_SPACING_MM)
    case.mkdir(parents=True)
    for modality, channel in zip(("t1", "t1ce", "t2", "flair"), image, strict=True):
        nib.save(nib.Nifti1Image(channel.astype(np.int16).T, affine), case / f"{name}_{modality}.nii.gz")
    truth[truth == ET] = 4
    write_labels(case / f"{name}_seg.nii.gz", truth, Geometry(truth.shape, affine))


def _lps(spacing_mm: Spacing) -> Float64[np.ndarray, "4 4"]:
    """Returns the affine of an axial scan whose rows and columns run as DICOM's do."""
    return np.diag([-spacing_mm[2], -spacing_mm[1], spacing_mm[0], 1.0])


def _write_case(root: Path, organ: Organ, shape: Grid, part: int, k: int, seed: int) -> None:
    rng = np.random.default_rng((seed, part, k))
    zoom = rng.uniform(0.78, 1.12)  # in-plane 1.4 to 2.0 mm for hearts, at about the same field of view
    spacing_mm = (organ.spacing_mm[0], round(organ.spacing_mm[1] * zoom, 4), round(organ.spacing_mm[2] * zoom, 4))
    height, width = (2 * round(n / zoom * rng.uniform(0.95, 1.05) / 2) for n in shape[1:])
    image, truth = organ.draw(rng, (shape[0] + int(rng.integers(-1, 2)), height, width), spacing_mm)
    affine = _lps(spacing_mm)
    geometry, file = Geometry(image.shape, affine), f"{('train', 'test')[part]}{k:03d}.nii.gz"
    (root / "images").mkdir(parents=True, exist_ok=True)
    # nibabel writes gzip without a time stamp: same seed, same bytes.
    nib.save(nib.Nifti1Image(image.round().astype(np.int16).T, affine), root / "images" / file)
    write_labels(root / "masks" / file, truth, geometry)
    if part == 0:
        scribbles = to_disk(draw_scribbles(truth, rng), len(organ.label_names))
        write_labels(root / "scribbles" / file, scribbles, geometry)
