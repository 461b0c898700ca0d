"""Prostates in T2-weighted MRI: NCI-ISBI 2013 (zones), Prostate158 (zones) and PROMISE12 (whole gland).

No scribbles come with them: training cases are entirely UNLABELLED until a folder of scribbles is given to
`open_dataset(..., scribbles=FOLDER)`, drawn by hand or by `annotate.simulate`. Zones are numbered as in NCI-ISBI 2013:
1 peripheral zone (PZ), 2 central gland (CG).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any

from scribbleseg.data.encoding import Encoding
from scribbleseg.data.formats import volumes_in
from scribbleseg.data.layouts.case_files import CaseFiles, dataset, is_there, nifti
from scribbleseg.types import DataError, Dataset

ZONES = ("background", "PZ", "CG")

Names = Sequence[str]

NCI_ISBI_PATIENT = re.compile(r"(Prostate3T|ProstateDx)-\d\d-\d{4}")
NCI_ISBI_LEFT_OUT = "ProstateDx-01-0055"
NCI_ISBI_PARTS = (12, 7, 10)
"""Patients to train on, to validate and to test on: Can et al. 2018, section 3."""

NCI_ISBI_SPLITS = ("paper", "paper_validation", "both", "both_validation")

PROSTATE158_TRAIN = [f"{number:03d}" for number in range(20, 159)]
PROSTATE158_TEST = [f"{number:03d}" for number in range(1, 20)]

PROMISE12_FOLDS = 3


def nci_isbi(
    folder: str | Path,
    split: str = "paper",
    *,
    train_cases: Names | None = None,
    test_cases: Names | None = None,
) -> Dataset:
    """Opens NCI-ISBI 2013, the prostate data of Can et al. 2018; cases are named after their patients.

    Source: Bloch et al. 2015, doi:10.7937/K9/TCIA.2015.zF0vlOPv, on the TCIA collections Prostate-3T (3 T, Nijmegen)
    and PROSTATE-DIAGNOSIS (1.5 T, Boston). Licence: CC BY 3.0. Expected: 60 patients in the training part, 30 of each
    collection, one axial T2 series each; 0 background, 1 PZ, 2 CG.

    Understood, anywhere below the folder, so that what TCIA's downloader and the zip files give needs no sorting:

        PATIENT/.../*.dcm                  one series below the patient's folder (Prostate3T-01-0001, ...)
        PATIENT{,_correctedLabels}.nrrd    its labels; corrected ones are preferred

    Args:
        folder: both collections and the labels.
        split: "paper": 12 patients to train on, 10 to test on; "paper_validation": the same 12, and 7 to validate on.
            The paper has 29 volumes and neither names the collection nor lists them. PROSTATE-DIAGNOSIS has 29 whose
            labels fit their series (those of ProstateDx-01-0055 have 23 slices, its series 34), so we take these.
            Sorted by name, the first 12 train, the next 7 validate, the last 10 test: that order is ours. "both" and
            "both_validation" take the patients of both collections by turns, as many of each part.
        train_cases: your own patients, instead of a split; give `test_cases` as well.
        test_cases: may be empty.

    Raises:
        DataError: no series or no labels, fewer patients than the split takes, no such split, two series of one
            patient, or a case in both lists. Reading a case raises it where labels and series lie on different grids.
    """
    root = Path(folder)
    series, labels = _nci_isbi_series(root), _nci_isbi_labels(root)
    if not series or not labels:
        raise DataError(
            f"nci_isbi: expected PATIENT/.../*.dcm and PATIENT.nrrd (Prostate3T-01-0001, ...) below {root}, found "
            f"{len(series)} series and {len(labels)} label files; put both there"
        )
    files = {name: CaseFiles(name, (series[name],), None, labels[name]) for name in sorted(series.keys() & labels)}
    notes = [f"{len(alone)} series without labels are skipped"] if (alone := series.keys() - labels) else []
    if missing := sorted(labels.keys() - series):
        notes.append(f"labels without a series are skipped: {', '.join(missing)}")
    own = _own_lists("nci_isbi", train_cases, test_cases)
    parts, options = own or (_nci_isbi_parts(list(files), split), {"split": split})
    opened = _opened("nci_isbi", root, Encoding(ZONES, {0: 0, 1: 1, 2: 2}), files, parts)
    return replace(opened, options=options, notes=(*notes, *opened.notes))


def prostate158(folder: str | Path, *, train_cases: Names | None = None, test_cases: Names | None = None) -> Dataset:
    """Opens Prostate158; cases are named 001 to 158.

    Source: Adams et al. 2022, doi:10.1016/j.compbiomed.2022.105817. Licence: that of doi:10.5281/zenodo.6481141.
    Expected: 158 patients of one hospital at 3 T; in the files 0 background, 1 central gland, 2 peripheral zone.

    Understood, in the folder itself or in `train/` and `test/` below it:

        NNN/t2.nii.gz                      the image
        NNN/t2_anatomy_reader1.nii.gz      its zones by the first reader

    Args:
        folder: the data set, in one of these trees.
        train_cases: your own case names; give `test_cases` as well. Without, the published split: 139 patients to train
            on, 19 to test on. Those 19 have a second reader, by which we take them to be 001 to 019.
        test_cases: may be empty.

    Raises:
        DataError: no such tree, or a case in both lists.
    """
    root = Path(folder)
    files = {}
    for place in (root, root / "train", root / "test"):
        for patient in sorted(place.glob("[0-9][0-9][0-9]")):
            image, zones = (nifti(name, patient) for name in ("t2", "t2_anatomy_reader1"))
            files[patient.name] = CaseFiles(patient.name, (image,), None, zones if is_there(zones) else None)
    if not files:
        raise DataError(f"prostate158: expected folders 001, 002, ... in {root} or {root / 'train'}, found none")
    own = _own_lists("prostate158", train_cases, test_cases)
    parts, options = own or ((PROSTATE158_TRAIN, PROSTATE158_TEST), {})
    return replace(_opened("prostate158", root, Encoding(ZONES, {0: 0, 1: 2, 2: 1}), files, parts), options=options)


def promise12(
    folder: str | Path,
    fold: int = 0,
    *,
    train_cases: Names | None = None,
    test_cases: Names | None = None,
) -> Dataset:
    """Opens PROMISE12, its 50 training cases; they are named Case00 to Case49.

    Source: Litjens et al. 2014, doi:10.1016/j.media.2013.12.002. Licence: research only. Expected: 50 patients of four
    centres, with and without an endorectal coil; 0 background, 1 prostate.

    Understood, in the folder itself or in the challenge's `TrainingData_Part1/` to `TrainingData_Part3/` below it:

        CaseNN.mhd, CaseNN.raw, CaseNN_segmentation.mhd, CaseNN_segmentation.raw
        CaseNN.nii.gz, CaseNN_segmentation.nii.gz

    Args:
        folder: the data set, in one of these trees.
        fold: 0..2; fold k tests the cases whose number leaves the remainder k when divided by three, and trains on the
            others. The cases come in groups by centre, so each fold has all of them. The rule is ours.
        train_cases: your own case names, instead of a fold; give `test_cases` as well.
        test_cases: may be empty.

    Raises:
        DataError: no such tree, no such fold, or a case in both lists.
    """
    root = Path(folder)
    found: dict[str, Path] = {}
    for place in (root, *sorted(root.glob("TrainingData_Part[1-3]"))):
        found |= volumes_in(place)
    files = {
        name: CaseFiles(name, (path,), None, found.get(f"{name}_segmentation"))
        for name, path in sorted(found.items())
        if re.fullmatch(r"Case\d\d", name)
    }
    if not files:
        raise DataError(f"promise12: expected Case00.mhd or Case00.nii.gz, ... in {root}, found none")
    own = _own_lists("promise12", train_cases, test_cases)
    parts, options = own or (_promise12_parts(fold), {"fold": fold})
    encoding = Encoding(("background", "prostate"), {0: 0, 1: 1})
    return replace(_opened("promise12", root, encoding, files, parts), options=options)


def _opened(
    layout: str,
    root: Path,
    encoding: Encoding,
    files: Mapping[str, CaseFiles],
    parts: tuple[Names, Names],
) -> Dataset:
    """Returns the data set of the cases in both lists; those that are not on disk are skipped and noted."""
    train, test = ([files[name] for name in sorted(part) if name in files] for part in parts)
    if not train:
        raise DataError(
            f"{layout}: expected training cases {', '.join(parts[0][:5])}, ..., found none of them in {root}"
        )
    notes = []
    if absent := sorted({*parts[0], *parts[1]} - files.keys()):
        some = ", ".join(absent[:8]) + (", ..." if absent[8:] else "")
        n_asked = len(parts[0]) + len(parts[1])
        are = "is" if len(absent) == 1 else "are"
        notes.append(f"{len(absent)} of the split's {n_asked} cases {are} not there: {some}")
    return dataset(layout, root, encoding, train, test, notes)


def _own_lists(
    layout: str, train: Names | None, test: Names | None
) -> tuple[tuple[Names, Names], dict[str, Any]] | None:
    """Returns the caller's lists of cases, and the same as options; None where the caller has none."""
    if train is None and test is None:
        return None
    if train is None or test is None:
        raise DataError(f"{layout}: expected both train_cases and test_cases, or neither; got one; give both")
    if shared := sorted({*train} & {*test}):
        raise DataError(f"{layout}: expected no case in both lists, found {', '.join(shared)}; take it out of one")
    return (train, test), {"train_cases": list(train), "test_cases": list(test)}


def _promise12_parts(fold: int) -> tuple[Names, Names]:
    """Returns the cases to train and to test on; see `promise12` for the rule."""
    if fold not in range(PROMISE12_FOLDS):
        raise DataError(f"promise12: expected a fold among 0..{PROMISE12_FOLDS - 1}, got {fold!r}")
    names = [f"Case{number:02d}" for number in range(50)]
    test = names[fold::PROMISE12_FOLDS]
    return [name for name in names if name not in test], test


def _nci_isbi_parts(names: Names, split: str) -> tuple[Names, Names]:
    """Returns the patients to train on and to test on; see `nci_isbi` for the rule."""
    if split not in NCI_ISBI_SPLITS:
        raise DataError(f"nci_isbi: expected the split {', '.join(NCI_ISBI_SPLITS)}; got {split!r}")
    fitting = sorted(name for name in names if name != NCI_ISBI_LEFT_OUT)
    diagnosis, three_t = ([n for n in fitting if n.startswith(start)] for start in ("ProstateDx", "Prostate3T"))
    both = [name for name in chain.from_iterable(zip_longest(three_t, diagnosis)) if name is not None]
    usable = both if split.startswith("both") else diagnosis
    if len(usable) < sum(NCI_ISBI_PARTS):
        raise DataError(
            f"nci_isbi: expected {sum(NCI_ISBI_PARTS)} patients with a series and labels for the split {split} (the "
            f"paper's: of PROSTATE-DIAGNOSIS), found {len(usable)}; add some, or give train_cases and test_cases"
        )
    in_order = iter(usable)
    train, validation, test = (list(islice(in_order, n)) for n in NCI_ISBI_PARTS)
    return train, validation if split.endswith("_validation") else test


def _nci_isbi_series(root: Path) -> dict[str, Path]:
    """Returns the folder of each patient's one series."""
    found: dict[str, set[Path]] = {}
    for file in root.rglob("*.dcm"):
        patient = next((part for part in file.relative_to(root).parts if NCI_ISBI_PATIENT.fullmatch(part)), None)
        if patient:
            found.setdefault(patient, set()).add(file.parent)
    for patient, folders in found.items():
        if len(folders) > 1:
            listed = ", ".join(str(folder.relative_to(root)) for folder in sorted(folders))
            raise DataError(f"nci_isbi: expected one series of {patient}, found {listed}; keep the axial T2 series")
    return {patient: folders.pop() for patient, folders in found.items()}


def _nci_isbi_labels(root: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for file in sorted(root.rglob("*.nrrd")):  # "." sorts before "_": corrected labels replace the others
        if match := NCI_ISBI_PATIENT.match(file.name):
            found[match[0]] = file
    return found
