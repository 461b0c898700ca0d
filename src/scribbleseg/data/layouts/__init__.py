"""Layouts: the known ways to lay out a data set on disk, each with a function that reads it as a `Dataset`.

To add a layout: one function `folder -> Dataset` and one entry in `LAYOUTS`.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scribbleseg.data.formats import volumes_in
from scribbleseg.data.layouts.acdc import acdc
from scribbleseg.data.layouts.brats import brats
from scribbleseg.data.layouts.folder import draw_in, drawn_elsewhere, folder, image_files
from scribbleseg.data.layouts.nnunet import nnunet
from scribbleseg.data.layouts.prostate import nci_isbi, promise12, prostate158
from scribbleseg.data.views import with_scribbles
from scribbleseg.files import found_at
from scribbleseg.types import DataError, Dataset


@dataclass(frozen=True)
class Layout:
    """A way to lay out a data set on disk, and how to recognise and read it.

    Args:
        open: the function that reads it: `folder, **options -> Dataset`.
        marks: glob patterns, one of which matches something in a folder of this layout and of no other.
        tree: the file names, in one line, for people.
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
    "brats": Layout(
        brats,
        tuple(
            f"{place}/*[_-]t1*.nii*"
            for place in ("*", "[HL]GG/*", "train/*", "test/*", "train/[HL]GG/*", "test/[HL]GG/*")
        ),
        "CASE/CASE_{t1,t1ce,t2,flair,seg}.nii.gz (BraTS2021_00000, ...), CASE/CASE-{t1n,t1c,t2w,t2f,seg}.nii.gz",
    ),
    "nci_isbi": Layout(
        nci_isbi,
        tuple(
            f"{place}{name}"
            for place in ("", "manifest-*/")
            for name in ("Prostate-3T", "PROSTATE-DIAGNOSIS", "Prostate3T-*", "ProstateDx-*")
        ),
        "PATIENT/.../*.dcm, PATIENT.nrrd (Prostate3T-01-0001, ProstateDx-01-0001, ...)",
    ),
    "promise12": Layout(
        promise12, ("Case[0-9][0-9]_segmentation.*", "TrainingData_Part[1-3]"), "CaseNN{,_segmentation}.{mhd,nii.gz}"
    ),
    "prostate158": Layout(
        prostate158,
        ("[0-9][0-9][0-9]/t2.nii*", "train/[0-9][0-9][0-9]/t2.nii*", "test/[0-9][0-9][0-9]/t2.nii*"),
        "NNN/t2.nii.gz, NNN/t2_anatomy_reader1.nii.gz",
    ),
    "nnunet": Layout(nnunet, ("imagesTr",), "imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz, dataset.json"),
    "folder": Layout(folder, ("images", "scribbles"), "images/CASE.nii.gz, scribbles/CASE.nii.gz, dataset.json"),
}


def open_dataset(folder: str | Path, format: str | None = None, **options: Any) -> Dataset:
    """Opens the data set in a folder.

    Args:
        folder: the data set's folder.
        format: a name in `LAYOUTS`, or None to recognise the layout by the folder's contents.
        options: what that layout's function takes, such as `split` and `fold` of `acdc`. Every layout takes
            `scribbles`, the folder of a simulation (see `with_scribbles`). A folder that is no simulation goes to the
            layout's function if that has an option `scribbles`.

    Raises:
        DataError: no such folder, no such format or option, a layout that is not recognised, or an error that the
            layout's function raises.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"{root}: expected the folder of a data set, found {found_at(root)}; check the path")
    scribbles = options.get("scribbles")
    name = format or ("folder" if scribbles and _holds_images_alone(root) else _only_layout(root))
    if name not in LAYOUTS:
        raise DataError(f"expected a format among {', '.join(LAYOUTS)}, got {name!r}")
    open_layout = LAYOUTS[name].open
    own = list(inspect.signature(open_layout).parameters)[1:]
    known = own if "scribbles" in own else [*own, "scribbles"]
    if unknown := sorted(set(options) - set(known)):
        raise DataError(f"format {name} takes {', '.join(known)}; got {', '.join(unknown)}")
    if scribbles is None or ("scribbles" in own and not _is_simulation(Path(scribbles))):
        return open_layout(root, **{option: value for option, value in options.items() if option in own})
    del options["scribbles"]
    if name == "folder":  # a case that somebody drew on is one to train on, whoever drew
        return with_scribbles(drawn_elsewhere(root, volumes_in(Path(scribbles))), scribbles)
    return with_scribbles(open_layout(root, **options), scribbles)


def recognise(root: str | Path) -> list[str]:
    """Returns the names of the layouts whose marks match something in the folder; one name, if all is well."""
    root = Path(root)
    return [name for name, layout in LAYOUTS.items() if any(next(root.glob(mark), None) for mark in layout.marks)]


def _only_layout(root: Path) -> str:
    """Returns the one layout that the folder has. Raises DataError where it has none or several."""
    found = recognise(root)
    if len(found) == 1:
        return found[0]
    known = "\n".join(f"  {name}: {layout.tree}" for name, layout in LAYOUTS.items())
    inside = ", ".join(sorted(path.name for path in root.iterdir())[:5]) or "nothing"
    what = f"found several ({', '.join(found)})" if found else f"found {inside}"
    within = [] if found else [path for path in sorted(root.iterdir()) if path.is_dir() and len(recognise(path)) == 1]
    advice = f"give {' or '.join(map(str, within[:3]))}, or arrange" if within else "name it with --format or arrange"
    if not found and not within and image_files(root):
        raise DataError(
            f"{root}: expected images with scribbles, found images alone ({inside}); draw some ({draw_in(root)} opens "
            f"a page for it), or arrange the folder as\n{known}"
        )
    raise DataError(f"{root}: expected one known layout, {what}; {advice} the folder as\n{known}")


def _holds_images_alone(root: Path) -> bool:
    """Says whether images lie beside a dataset.json, as where one annotator after the other draws on them."""
    return not recognise(root) and (root / "dataset.json").is_file() and bool(image_files(root))


def _is_simulation(folder: Path) -> bool:
    """Says whether the folder is a simulation, complete or not: one that is not must be reported, not passed over."""
    return any((folder / name).is_file() for name in ("dataset.json", "simulation.json"))
