"""Opens data sets in any known layout; every adapter returns one `Dataset`.

To add a layout: one function `folder -> Dataset` and one entry in `LAYOUTS`.
"""

import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from scribbleseg.data.acdc import acdc
from scribbleseg.data.folder import folder, images
from scribbleseg.data.nnunet import nnunet
from scribbleseg.types import Case, Cases, DataError, Dataset

__all__ = ["LAYOUTS", "Layout", "acdc", "fingerprint", "folder", "fully_annotated", "images", "nnunet", "open_dataset"]


@dataclass(frozen=True)
class Layout:
    """A way to lay out a data set on disk.

    Args:
        open: reads it: `folder, **options -> Dataset`.
        marks: glob patterns, one of which matches something in a folder of this layout and of no other.
        tree: for people, in one line.
    """

    open: Callable[..., Dataset]
    marks: tuple[str, ...]
    tree: str


LAYOUTS: dict[str, Layout] = {
    "acdc": Layout(
        acdc,
        ("patient[0-9][0-9][0-9]", "training/patient[0-9][0-9][0-9]", "database/training/patient[0-9][0-9][0-9]"),
        "patientNNN/patientNNN_frameNN{,_gt,_scribble}.nii.gz",
    ),
    "nnunet": Layout(nnunet, ("imagesTr",), "imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz, dataset.json"),
    "folder": Layout(folder, ("images", "scribbles"), "images/CASE.nii.gz, scribbles/CASE.nii.gz, dataset.json"),
}


def open_dataset(folder: str | Path, format: str | None = None, **options: Any) -> Dataset:
    """Opens the data set in a folder.

    Args:
        folder: of the data set.
        format: a name in `LAYOUTS`, or None to recognise the layout by the folder's contents.
        options: of that layout's function, such as `split` and `fold` of `acdc`.

    Raises:
        DataError: no such folder, no such format or option, a layout that is not recognised, or the layout's own.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"{root}: expected the folder of a data set, found {'a file' if root.exists() else 'nothing'}")
    name = format or _recognise(root)
    if name not in LAYOUTS:
        raise DataError(f"expected a format among {', '.join(LAYOUTS)}, got {name!r}")
    open_layout = LAYOUTS[name].open
    known = list(inspect.signature(open_layout).parameters)[1:]
    if unknown := sorted(set(options) - set(known)):
        raise DataError(f"format {name} takes {', '.join(known) or 'no options'}; got {', '.join(unknown)}")
    return open_layout(root, **options)


def fully_annotated(dataset: Dataset) -> Dataset:
    """The same data set with the reference masks in the place of the training scribbles.

    For the fully supervised upper bound only: this is the one door through which a reference mask reaches training.
    Reading a case without one raises DataError.
    """
    train = Cases(dataset.train.names, partial(_read_annotated, dataset))
    return replace(dataset, train=train, notes=(*dataset.notes, "trains on full reference masks (upper bound)"))


def fingerprint(cases: Cases) -> str:
    """A sha256 of what training sees of the cases: names, intensities, labels and geometry.

    The same images give the same fingerprint wherever they lie and however they are compressed; another label encoding,
    or masks in the place of scribbles, gives another.
    """
    digest = hashlib.sha256()
    for case in cases:
        affine = np.round(case.geometry.affine, 4) + 0.0  # 1e-4 mm; and -0.0 is 0.0
        digest.update(f"{case.name} {case.image.shape}".encode())
        for array in (affine, case.image, case.scribbles):
            digest.update(array.tobytes())
    return digest.hexdigest()


def _recognise(root: Path) -> str:
    found = [name for name, layout in LAYOUTS.items() if any(next(root.glob(mark), None) for mark in layout.marks)]
    if len(found) == 1:
        return found[0]
    known = "\n".join(f"  {name}: {layout.tree}" for name, layout in LAYOUTS.items())
    inside = ", ".join(sorted(path.name for path in root.iterdir())[:5]) or "nothing"
    what = f"found several ({', '.join(found)})" if found else f"found {inside}"
    raise DataError(
        f"{root}: expected one known layout, {what}; name it with --format or arrange the folder as\n{known}"
    )


def _read_annotated(dataset: Dataset, name: str) -> Case:
    return replace(dataset.train.named(name), scribbles=dataset.reference(name))
