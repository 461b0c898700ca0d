"""BraTS: brain tumours in four modalities of MRI, skull-stripped, with masks of three sub-regions.

Source: Menze et al. 2015, doi:10.1109/TMI.2014.2377694; Bakas et al. 2017, doi:10.1038/sdata.2017.117; Baid et al.
2021, arXiv:2107.02314. Licence: that of each year's challenge; 2021 is CC BY-NC-SA 4.0. Expected: T1, T1ce, T2 and
FLAIR of each case on one grid of 240 x 240 x 155 voxels of 1 mm, 0 outside the brain; labels 1 NCR/NET (the core that
does not enhance: necrosis, non-enhancing tumour), 2 ED (oedema), 3 ET (enhancing tumour), which the files up to 2021
call 4.

Two ways to name files (`.nii` or `.nii.gz`), in the folder itself or in `HGG/` and `LGG/` below it:

    CASE/CASE_{t1,t1ce,t2,flair,seg}.nii.gz      2017 to 2021; ET is 4
    CASE/CASE-{t1n,t1c,t2w,t2f,seg}.nii.gz       2023; ET is 3

No scribbles come with them: training cases are entirely UNLABELLED until a folder of scribbles is given to
`open_dataset(..., scribbles=FOLDER)`. Those may be of the whole tumour only (`Dataset.scribble_names`).
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from scribbleseg.data.encoding import Encoding
from scribbleseg.data.formats import NIFTI
from scribbleseg.data.layouts.case_files import CaseFiles, dataset, is_there, nifti
from scribbleseg.plural import number_of
from scribbleseg.types import DataError, Dataset

T1, T1CE, T2, FLAIR = range(4)
"""The channels of an image of a brain tumour, in this order."""

NCR, ED, ET = 1, 2, 3
"""The labels of its structures: NCR/NET, oedema, enhancing tumour; 0 is background."""

LABEL_NAMES = ("background", "NCR/NET", "ED", "ET")
REGIONS = {"WT": (NCR, ED, ET), "TC": (NCR, ET), "ET": (ET,)}
SCRIBBLE_NAMES = ("background", "WT")
N_FOLDS = 5
"""As many as give the paper's 228 training and 57 test scans of 285 (Ji et al. 2019, section 3)."""


class Naming(NamedTuple):
    """A way to name the files of a case, and the value of ET in its mask."""

    modalities: tuple[str, str, str, str]
    seg: str
    et: int


NAMINGS = {
    "2017 to 2021": Naming(("_t1", "_t1ce", "_t2", "_flair"), "_seg", et=4),
    "2023": Naming(("-t1n", "-t1c", "-t2w", "-t2f"), "-seg", et=3),
}


def brats(folder: str | Path, fold: int = 0, folds: int = N_FOLDS) -> Dataset:
    """Opens BraTS 2017 to 2023 (adult glioma); cases are named after their folders.

    Args:
        folder: the data set, in one of the trees above. Where the cases lie in `train/` and `test/` below it, that is
            the split, and training cases need no masks.
        fold: 0..4, for a folder without `train/` and `test/`. Fold k tests the cases whose place in the sorted list of
            all that have a mask leaves the remainder k when divided by `folds`, and trains on the others. The paper
            divides at random; this rule is ours. Cases without a mask are test cases without a reference; where none
            has a mask, all are training cases.
        folds: how many there are; runs of scribbleseg 0.1 had four.

    Returns:
        Channels T1, T1ce, T2, FLAIR; labels 1 NCR/NET, 2 ED, 3 ET, whatever the files call them; the regions WT, TC and
        ET are scored.

    Raises:
        DataError: no such tree, no such fold, both namings, a name twice, or no training case. Reading a case raises it
            where a modality is missing or lies on another grid than T1, or a mask has the other naming's value of ET.
    """
    root = Path(folder)
    if folds < 2 or fold not in range(folds):
        raise DataError(f"brats: expected a fold among 0..{folds - 1}, got {fold!r}")
    places = [_case_folders(place) for place in (root, root / "train", root / "test")]
    year = _year(root, [case for cases in places for case in cases])
    at_root, train, test = ([_files(case, NAMINGS[year]) for case in cases] for cases in places)
    notes: list[str] = []
    options: dict[str, Any] = {}
    if at_root and (train or test):
        raise DataError(f"brats: expected cases in {root} or in its train/ and test/, found both; move them to one")
    if at_root:
        annotated = [case for case in at_root if case.reference]
        alone = [case for case in at_root if not case.reference]
        train = [case for place, case in enumerate(annotated) if place % folds != fold]
        test = [*annotated[fold::folds], *alone]
        options = {"fold": fold, "folds": folds}
        if not annotated:
            train, test = alone, []
            notes = ["no case has a mask: those with scribbles are trained on, and nothing is scored"]
        elif alone:
            are = "has no mask and is a test case" if len(alone) == 1 else "have no mask and are test cases"
            notes = [f"{len(alone)} of {number_of(len(at_root), 'case')} {are} without a reference"]
    elif fold:
        raise DataError(f"brats: {root / 'train'} and {root / 'test'} are the split, got the fold {fold}; leave it out")
    if not train:
        raise DataError(
            f"brats: expected training cases, found none among {len(test)} in {root}; add some, or put them into train/"
        )
    opened = dataset("brats", root, _encoding(year), train, test, notes)
    return replace(opened, options=options, regions=REGIONS, scribble_names=SCRIBBLE_NAMES, shown=FLAIR)


def _year(root: Path, cases: Sequence[Path]) -> str:
    """Returns the one naming of all cases, a key of `NAMINGS`."""
    found = [year for year, naming in NAMINGS.items() if any(_has(case, naming) for case in cases)]
    if len(found) != 1:
        what = "files of both namings; keep each in a folder of its own" if found else "none"
        raise DataError(
            f"brats: expected CASE/CASE_{{t1,t1ce,t2,flair,seg}}.nii.gz or CASE/CASE-{{t1n,t1c,t2w,t2f,seg}}.nii.gz in "
            f"{root}, found {what}"
        )
    return found[0]


def _case_folders(place: Path) -> list[Path]:
    """Returns the folders with files named after them, sorted by name."""
    folders = [folder for inner in (place, place / "HGG", place / "LGG") for folder in inner.glob("*/")]
    cases = sorted((f for f in folders if any(_has(f, naming) for naming in NAMINGS.values())), key=lambda f: f.name)
    for one, other in pairwise(cases):
        if one.name == other.name:
            raise DataError(f"brats: expected one case {one.name}, found {one} and {other}; keep one")
    return cases


def _has(case: Path, naming: Naming) -> bool:
    return any(is_there(case / f"{case.name}{part}{end}") for part in (*naming.modalities, naming.seg) for end in NIFTI)


def _files(case: Path, naming: Naming) -> CaseFiles:
    images = tuple(nifti(case.name + modality, case) for modality in naming.modalities)
    mask = nifti(case.name + naming.seg, case)
    return CaseFiles(case.name, images, None, mask if is_there(mask) else None)


def _encoding(year: str) -> Encoding:
    other = next(name for name in NAMINGS if name != year)
    return Encoding(
        LABEL_NAMES,
        {0: 0, 1: 1, 2: 2, NAMINGS[year].et: 3},
        f"files named as in BraTS {year} have {NAMINGS[year].et} for ET: correct the values, or the files' names if "
        f"they are from {other}",
    )
