"""Opens data sets in any known layout; every adapter returns one `Dataset`.

To add a layout: one function `folder -> Dataset` and one entry in `LAYOUTS`.
"""

import hashlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from scribbleseg.data.acdc import acdc
from scribbleseg.data.brats import brats
from scribbleseg.data.case_files import WITHOUT_SCRIBBLES, CaseError, Encoding
from scribbleseg.data.folder import declared_encoding, folder, images, read_declaration
from scribbleseg.data.nnunet import nnunet
from scribbleseg.data.present import read_present
from scribbleseg.data.prostate import nci_isbi, promise12, prostate158
from scribbleseg.data.volumes import FileError, check_same_grid, read_labels, volumes_in
from scribbleseg.types import UNLABELLED, Case, Cases, DataError, Dataset, Labels

__all__ = [
    "LAYOUTS",
    "Layout",
    "acdc",
    "brats",
    "coarse",
    "fingerprint",
    "folder",
    "fully_annotated",
    "images",
    "nci_isbi",
    "nnunet",
    "open_dataset",
    "promise12",
    "prostate158",
    "with_scribbles",
]


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
        folder: of the data set.
        format: a name in `LAYOUTS`, or None to recognise the layout by the folder's contents.
        options: of that layout's function, such as `split` and `fold` of `acdc`. Every layout takes `scribbles`, the
            folder of a simulation (see `with_scribbles`); where it is none, it goes to the layout if that has such an
            option.

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
    own = list(inspect.signature(open_layout).parameters)[1:]
    known = own if "scribbles" in own else [*own, "scribbles"]
    if unknown := sorted(set(options) - set(known)):
        raise DataError(f"format {name} takes {', '.join(known)}; got {', '.join(unknown)}")
    scribbles = options.get("scribbles")
    if scribbles is None or ("scribbles" in own and not _is_simulation(Path(scribbles))):
        return open_layout(root, **{option: value for option, value in options.items() if option in own})
    del options["scribbles"]
    return with_scribbles(open_layout(root, **options), scribbles)


def fully_annotated(dataset: Dataset) -> Dataset:
    """The same data set with the reference masks in the place of the training scribbles.

    For the fully supervised upper bound only: this is the one door through which a reference mask reaches training.
    Reading a case without one raises DataError.
    """
    train = Cases(dataset.train.names, partial(_read_annotated, dataset))
    notes = (*dataset.notes, "trains on full reference masks (upper bound)")
    return replace(dataset, train=train, scribble_names=(), notes=notes)


def coarse(dataset: Dataset) -> Dataset:
    """The data set with the labels that its scribbles tell apart: where those are of a region, that region alone.

    Reference masks come merged to the same labels. A data set whose scribbles name all its labels is given back as it
    is.
    """
    if not dataset.scribble_names:
        return dataset
    return replace(
        dataset,
        label_names=dataset.scribble_names,
        scribble_names=(),
        regions={},
        read_reference=partial(_read_merged, dataset.read_reference),
    )


def with_scribbles(dataset: Dataset, folder: str | Path) -> Dataset:
    """The same data set with the scribbles of a folder in the place of its own, as `annotate.simulate` writes them.

        dataset.json     {"labels": {"background": 0, ..., "ignore": N}}, the names those of the data set, or of
                         background and one region that is made of all structures (the whole tumour)
        CASE.nii.gz      on the grid of the case's image; a training case without one is entirely UNLABELLED
        present.json     optional: which structures are in which case (`data.present`); or present.csv

    Args:
        dataset: of any layout. `options["scribbles"]` of the result is the folder: `open_dataset` can open it again.
        folder: files in it that belong to no training case are passed over (other cases train in another fold).

    Returns:
        The data set; its `scribble_names` are the region's where the scribbles are of a region, else (). `present` of a
        training case is None where no file says what is in it.

    Raises:
        DataError: no dataset.json, other labels than the data set's, no file for any training case, or a present file
            that is malformed or lists no training case. Reading a case raises it where values are not declared or grids
            differ.
    """
    root = Path(folder)
    file = root / "dataset.json"
    if not file.is_file():
        what = "a folder without it" if root.is_dir() else "nothing"
        raise DataError(f"{root}: expected a folder that `scribbleseg simulate` wrote, with dataset.json, found {what}")
    encoding = declared_encoding(file, read_declaration(file)["labels"])
    scribble_names = _scribble_names(dataset, file, encoding.label_names)
    on_disk = volumes_in(root)
    files = {name: on_disk[name] for name in dataset.train.names if name in on_disk}
    if not files:
        raise _of_other_cases(root, "scribbles named like", dataset, on_disk)
    notes = [f"{len(files)} of {len(dataset.train)} training cases have their scribbles from {root}"]
    if len(files) < len(dataset.train):
        notes[0] += "; the others have none, and are not trained on"
    present = read_present(root, dataset.label_names)
    if present is not None:
        n_listed = len(present.keys() & {*dataset.train.names})
        if not n_listed:
            raise _of_other_cases(root, "a present file that lists", dataset, present)
        notes.append(f"{n_listed} of {len(dataset.train)} training cases have image-level labels from {root}")
        if strangers := sorted(present.keys() - {*dataset.train.names, *dataset.test.names}):
            notes.append(f"image-level labels of what is no case of {dataset.root}: {', '.join(strangers)}")
    elif scribble_names:
        notes.append(f"no present.csv or present.json in {root}: recipes of two phases (ji2019.full) need one")
    return replace(
        dataset,
        train=Cases(dataset.train.names, partial(_read_scribbled, dataset.train, files, encoding, present)),
        scribble_names=scribble_names,
        notes=(*(note for note in dataset.notes if note != WITHOUT_SCRIBBLES), *notes),
        options={**dataset.options, "scribbles": str(root.resolve())},
    )


def fingerprint(cases: Cases) -> str:
    """A sha256 of what training sees of the cases: names, intensities, labels and geometry.

    The same images give the same fingerprint wherever they lie and however they are compressed; another label encoding,
    masks in the place of scribbles, or other image-level labels give another.
    """
    digest = hashlib.sha256()
    for case in cases:
        affine = np.round(case.geometry.affine, 4) + 0.0  # 1e-4 mm; and -0.0 is 0.0
        digest.update(f"{case.name} {case.image.shape}".encode())
        for array in (affine, case.image, case.scribbles):
            digest.update(array.tobytes())
        if case.present is not None:
            digest.update(f"present {sorted(case.present)}".encode())
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


def _read_merged(read_reference: Callable[[str], Labels | None], name: str) -> Labels | None:
    labels = read_reference(name)
    return None if labels is None else (labels > 0).astype(np.uint8)


def _is_simulation(folder: Path) -> bool:
    """Also one that is not complete: a data set without scribbles must not be what comes of it."""
    return any((folder / name).is_file() for name in ("dataset.json", "simulation.json"))


def _scribble_names(dataset: Dataset, file: Path, names: tuple[str, ...]) -> tuple[str, ...]:
    """() where the labels of scribbles are the data set's, the labels themselves where they are of a whole region."""
    structures = set(range(1, dataset.n_labels))
    whole = [("background", name) for name, labels in dataset.regions.items() if set(labels) == structures]
    if names == dataset.label_names:
        return ()
    if names in whole:
        return names
    expected = " or ".join(", ".join(labels) for labels in (dataset.label_names, *whole))
    raise DataError(
        f"{file}: expected the labels {expected} of {dataset.root}, found {', '.join(names)}; give the scribbles that "
        "belong to this data set"
    )


def _of_other_cases(root: Path, what: str, dataset: Dataset, found: Iterable[str]) -> DataError:
    return DataError(
        f"{root}: expected {what} the training cases ({', '.join(dataset.train.names[:3])}, ...), found "
        f"{', '.join(list(found)[:3]) or 'none'}; give the folder that was made for them"
    )


def _read_scribbled(
    cases: Cases,
    files: Mapping[str, Path],
    encoding: Encoding,
    present: Mapping[str, frozenset[int]] | None,
    name: str,
) -> Case:
    case = cases.named(name)
    if present is not None:
        case = replace(case, present=present.get(name))
    if name not in files:
        return replace(case, scribbles=np.full_like(case.scribbles, UNLABELLED))
    try:
        values, geometry = read_labels(files[name])
        check_same_grid(files[name], geometry, case.files[0], case.geometry)
        scribbles = encoding.decode(files[name], values)
    except FileError as error:
        raise CaseError(name, [error]) from error
    return replace(case, scribbles=scribbles, files=(*case.files, files[name]))
