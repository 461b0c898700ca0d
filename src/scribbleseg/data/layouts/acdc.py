"""ACDC: cine MRI of the heart, 100 training patients at end-diastole and end-systole, with expert scribbles.

Source: Bernard et al. 2018, doi:10.1109/TMI.2018.2837502 (images, masks); Valvano et al. 2021,
doi:10.1109/TMI.2021.3069634 (scribbles). Licence: research only; the scribbles CC BY-NC-SA 4.0.
Expected: patients 1..100 to train on and 101..150 to test on, two volumes each; 0 background, 1 RV, 2 myocardium, 3 LV,
and 4 = unlabelled in scribbles.
Patients 74 and 76 hold the same images, annotated twice (`check` found them): keep them on one side of a split.

Trees that are understood (`.nii` or `.nii.gz`), in the folder itself, in `training/` or in `database/training/`; test
patients are found there, too, and in `testing/` beside it:

    patientNNN/patientNNN_frameNN.nii.gz             the image
    patientNNN/patientNNN_frameNN_gt.nii.gz          its mask
    patientNNN/patientNNN_frameNN_scribble.nii.gz    its scribbles, here or in the folder given as `scribbles`
    patientNNN/Info.cfg                              optional; names the two frames

The official data set has no scribbles; where there are none at all, training cases are entirely UNLABELLED until a
folder of simulated ones is given.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from scribbleseg.data.encoding import Encoding
from scribbleseg.data.layouts.case_files import WITHOUT_SCRIBBLES, CaseFiles, dataset, is_there, nifti
from scribbleseg.types import UNLABELLED, DataError, Dataset

ENCODING = Encoding(("background", "RV", "Myo", "LV"), {0: 0, 1: 1, 2: 2, 3: 3, 4: UNLABELLED})

N_PATIENTS = 100
TEST_PATIENTS = tuple(range(101, 151))
NO_TEST_PATIENTS = "no test patients (testing/patient101, ...): the paper's validation volumes are tested on"
N_FOLDS = 5
SWAPPED = {76: 79, 79: 76}
"""Patients that change places before they are dealt to the folds, so that 74 and 76, the same images, share one."""

# The 35/15/15 patients of Valvano et al. 2021 ("MAAG"), which later work on these scribbles uses too.
# fmt: off
PUBLISHED_TRAIN = (
    37, 50, 53, 100, 38, 19, 61, 74, 97, 31, 91, 35, 56, 94, 26, 69, 46, 59, 4, 89, 71, 6, 52, 43, 45, 63, 93, 14, 98,
    88, 21, 28, 99, 54, 90,
)
PUBLISHED_VALIDATION = (84, 32, 27, 96, 17, 18, 57, 81, 79, 22, 1, 44, 49, 25, 95)
PUBLISHED_TEST = (5, 39, 77, 82, 78, 10, 64, 24, 30, 73, 80, 41, 36, 60, 72)
# fmt: on


def acdc(
    folder: str | Path,
    split: str | None = None,
    fold: int = 0,
    *,
    train_patients: Sequence[int] | None = None,
    test_patients: Sequence[int] | None = None,
    scribbles: str | Path | None = None,
) -> Dataset:
    """Opens ACDC; cases are named like `patient001_frame01`.

    Args:
        folder: the data set, in one of the trees above.
        split: "paper": 80 patients (160 volumes) to train on, and the challenge's test patients, 101 to 150 (100
            volumes), to test on: Can et al. 2018, section 3. Their masks are read where the release has them.
            "paper_validation": the same 160 volumes, and the paper's 40 validation volumes in the place of test cases.
            None is "paper" where test patients are on disk, else "paper_validation".
            The 20 validation patients of fold k are those whose number leaves the remainder k when divided by five (76
            and 79 change places: see `SWAPPED`). The patients come in pathology groups of twenty (1-20 DCM, 21-40 HCM,
            41-60 MINF, 61-80 NOR, 81-100 RV), so each fold has four of each. The paper gives no list; the rule is ours,
            and fold 0 is the split of its authors' earlier code (Baumgartner et al. 2017: numbers divisible by five).
            "published": the 35 patients of Valvano et al. 2021 to train on, their 15 test patients to test on.
            "published_validation": the same 35 to train on, their 15 validation patients to test on.
        fold: 0..4, for the splits "paper" and "paper_validation" only.
        train_patients: your own patient numbers, instead of a split; give `test_patients` as well.
        test_patients: may be empty.
        scribbles: the folder of the scribbles where they lie apart from the images, as
            `patientNNN/patientNNN_frameNN_scribble.nii.gz` or all in one folder.

    Returns:
        Training cases with scribbles and test cases without. Patients that are not on disk are left out and listed in
        `notes`; a frame whose image or scribbles are missing is an error when it is read, unless no training case has
        any (see above), which `notes` then say.

    Raises:
        DataError: no such tree, no such split or fold, or a patient in both lists.
    """
    root, apart = Path(folder), None if scribbles is None else Path(scribbles)
    on_disk = _patient_folders(root)
    own = _own_lists(train_patients, test_patients)
    notes = [NO_TEST_PATIENTS] if split is None and own is None and max(on_disk) <= N_PATIENTS else []
    split = split or ("paper_validation" if notes else "paper")
    (to_train, to_test), options = own or (patients(split, fold), {"split": split, "fold": fold})
    if apart is not None:
        options = {"scribbles": str(apart.resolve()), **options}
    if apart is not None and not apart.is_dir():
        raise DataError(f"acdc: expected the scribbles in {apart}, found no such folder; check the path")
    train = [files for n in sorted(to_train) if n in on_disk for files in _frames(on_disk[n], apart, True)]
    test = [files for n in sorted(to_test) if n in on_disk for files in _frames(on_disk[n], apart, False)]
    absent = sorted({*to_train, *to_test} - set(on_disk))
    if absent:
        n_asked = len(to_train) + len(to_test)
        numbers = ", ".join(map(str, absent))
        notes.append(f"{len(absent)} of the split's {n_asked} patients are not in {root} and are skipped: {numbers}")
    if apart is None and not any(case.scribbles and is_there(case.scribbles) for case in train):
        train = [replace(case, scribbles=None) for case in train]
        notes.append(WITHOUT_SCRIBBLES)
    if not train:
        raise DataError(f"acdc: expected training patients {_numbers(to_train)}, found none of them in {root}")
    return replace(dataset("acdc", root, ENCODING, train, test, notes), options=options)


def patients(split: str, fold: int = 0) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the patient numbers to train and to test on; see `acdc` for the rule. Raises DataError."""
    if split == "published":
        return PUBLISHED_TRAIN, PUBLISHED_TEST
    if split == "published_validation":
        return PUBLISHED_TRAIN, PUBLISHED_VALIDATION
    if split not in ("paper", "paper_validation"):
        known = "paper, paper_validation, published or published_validation"
        raise DataError(f"acdc: expected the split {known}, got {split!r}")
    if fold not in range(N_FOLDS):
        raise DataError(f"acdc: expected a fold among 0..{N_FOLDS - 1}, got {fold!r}")
    fold_of = {n: SWAPPED.get(n, n) % N_FOLDS for n in range(1, N_PATIENTS + 1)}
    train, validation = (tuple(n for n in fold_of if (fold_of[n] == fold) is held) for held in (False, True))
    return train, TEST_PATIENTS if split == "paper" else validation


def _own_lists(
    train: Sequence[int] | None, test: Sequence[int] | None
) -> tuple[tuple[Sequence[int], Sequence[int]], dict[str, Any]] | None:
    """Returns the caller's lists of patients, and the same as options; None where the caller has none."""
    if train is None and test is None:
        return None
    if train is None or test is None:
        raise DataError("acdc: expected both train_patients and test_patients, or neither; got one; give both")
    if shared := sorted(set(train) & set(test)):
        raise DataError(f"acdc: expected no patient in both lists, found {shared}; take them out of one")
    return (train, test), {"train_patients": list(train), "test_patients": list(test)}


def _patient_folders(root: Path) -> dict[int, Path]:
    """Returns the patients' folders by number: of the first tree that has training patients, and its test patients."""
    for tree in (root, root / "training", root / "database" / "training"):
        folders = [
            *tree.glob("patient*"),
            *(tree.parent / "testing").glob("patient*"),
            *(root / "testing").glob("patient*"),
        ]
        numbered = {int(f.name[-3:]): f for f in folders if f.is_dir() and re.fullmatch(r"patient\d{3}", f.name)}
        if any(number <= N_PATIENTS for number in numbered):
            return numbered
    raise DataError(f"acdc: expected folders patient001, patient002, ... in {root} or {root}/training, found none")


def _frames(folder: Path, apart: Path | None, with_scribbles: bool) -> list[CaseFiles]:
    """Returns a patient's annotated frames: the two that Info.cfg names, and those that have an image or scribbles."""
    patient = folder.name
    info = folder / "Info.cfg"
    # Anything after the frame's number (_gt, _scribble) belongs to the frame; patientNNN_4d.nii.gz is not a frame.
    pattern = re.compile(rf"({patient}_frame\d+)(_gt|_scribble)?\.nii(\.gz)?")
    frames = {match[1] for file in folder.iterdir() if (match := pattern.fullmatch(file.name))}
    if info.is_file():
        named = re.findall(r"^E[DS]\s*:\s*(\d+)", info.read_text(errors="replace"), re.MULTILINE)
        frames |= {f"{patient}_frame{int(number):02d}" for number in named}
    places = [folder] if apart is None else [apart / patient, apart]
    return [
        CaseFiles(
            name=frame,
            images=(nifti(frame, folder),),
            scribbles=nifti(f"{frame}_scribble", *places) if with_scribbles else None,
            reference=mask if is_there(mask := nifti(f"{frame}_gt", folder)) else None,
        )
        for frame in sorted(frames)
    ]


def _numbers(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")
