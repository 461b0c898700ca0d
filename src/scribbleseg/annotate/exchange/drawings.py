"""A folder of drawings: which file belongs to which case, and what a file holds before anybody says what it means."""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Integer

from scribbleseg.annotate.exchange.headers import mitk_labels, read_snap_description
from scribbleseg.data.formats import LABEL_ENDINGS, NRRD, Segment, ending, listed_segments, read_layers, stem
from scribbleseg.files import FileError, first_of, found_at
from scribbleseg.types import DataError, Geometry

ADDED = re.compile(
    r"(?:_\d{4})?(?:[-_. ](?:final|manual|data|simple))?"
    r"(?:[-_. ](?:labels?|labelmap|seg|segments?|segmentations?|masks?|scribbles?|strokes?|drawings?|annotations?))?",
    re.IGNORECASE,
)
"""What programs and people add to the name of an image for the name of its drawing: p01_0000, p01-label, p01_seg."""

UNREAD = {
    ".h5": 'export it as "multipage TIFF" (ilastik: Data Export, Choose Export Image Settings)',
    ".hdf5": 'export it as "multipage TIFF" (ilastik: Data Export, Choose Export Image Settings)',
    ".npy": "save it as TIFF",
    ".mrb": "save the segmentation itself from 3D Slicer, as CASE.seg.nrrd",
    ".mitk": "save the segmentation itself from MITK, as NRRD",
    ".dcm": "export it as a label map, NIfTI or NRRD",
}
"""What to do about files that look like drawings and cannot be read."""

COMPANIONS = (".txt", ".json", ".csv", ".md", ".raw", ".zraw", ".xml", ".ctbl")


@dataclass(frozen=True)
class Strokes:
    """What a file of drawings holds.

    Args:
        path: the file.
        layers: its values; several layers may say different things of one voxel.
        geometry: its grid.
        segments: the labels that its header lists, with their names; None where it lists none.
        cropped: whether it holds only the box that was drawn in (3D Slicer).
    """

    path: Path
    layers: Integer[np.ndarray, "layer depth height width"]
    geometry: Geometry
    segments: tuple[Segment, ...] | None
    cropped: bool = False


@dataclass(frozen=True)
class Folder:
    """The drawings in a folder.

    Args:
        files: the drawing of each case, by the name of the case.
        unmatched: files that belong to no case.
        descriptions: label descriptions of ITK-SNAP: the name of each value, by the case, "" for those of all cases.
    """

    files: Mapping[str, Path]
    unmatched: tuple[Path, ...]
    descriptions: Mapping[str, Mapping[int, str]]


def find_drawings(folder: Path, names: Iterable[str]) -> Folder:
    """Finds the drawing of each case by the names of files: CASE.ending, CASE_label, CASE-seg and the like.

    Args:
        folder: the folder, or nnU-Net's with the drawings in labelsTr.
        names: those of the cases.

    Raises:
        DataError: no such folder, no drawing of any case, two of one case, or one in a format that cannot be read.
    """
    names = list(names)
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder of drawings, found {found_at(folder)}; check the path")
    inside = _visible(folder)
    if not any(ending(path) in LABEL_ENDINGS for path in inside) and (folder / "labelsTr").is_dir():
        inside += _visible(folder / "labelsTr")
    files: dict[str, Path] = {}
    unmatched = []
    texts: dict[str, list[tuple[Path, Mapping[int, str]]]] = {}
    for path in inside:
        case = case_of(_stem(path), names)
        if path.suffix.lower() == ".txt" and (described := read_snap_description(path)) is not None:
            texts.setdefault(case or "", []).append((path, described))
        elif path.name.lower().endswith(COMPANIONS):
            continue
        elif ending(path) not in LABEL_ENDINGS:
            if case is not None:
                remedy = UNREAD.get(path.suffix.lower(), "convert it, or take it away")
                raise FileError(path, f"expected a drawing as {', '.join(LABEL_ENDINGS)}, found this one", remedy)
            unmatched.append(path)
        elif case is None:
            unmatched.append(path)
        elif case in files:
            raise FileError(path, f"expected one drawing of case {case}, also found {files[case].name}", "keep one")
        else:
            files[case] = path
    if not files:
        raise DataError(
            f"{folder}: expected drawings named like the cases ({first_of(names, 3)}), such as {names[0]}.nii.gz or "
            f"{names[0]}-label.nrrd, found {first_of([path.name for path in inside], 3) or 'none'}; rename them"
        )
    return Folder(dict(sorted(files.items())), tuple(unmatched), _descriptions(texts))


def case_of(name: str, cases: Iterable[str]) -> str | None:
    """The case that a file's name, without its ending, stands for: the longest that it begins with, or None."""
    fitting = [case for case in cases if name.startswith(case) and ADDED.fullmatch(name[len(case) :])]
    return max(fitting, key=len, default=None)


def read_strokes(path: Path) -> Strokes:
    """Reads a file of drawings in any format. Raises FileError where it is damaged or no label map."""
    segments, cropped = None, False
    if ending(path) in NRRD:
        segments = listed_segments(path)
        cropped = segments is not None
        segments = segments if cropped else mitk_labels(path)
    layers, geometry = read_layers(path)
    listed = segments or ()
    if len(layers) > 1 and segments is None:
        raise FileError(
            path,
            f"expected one label a voxel, found {len(layers)} channels (colours?) and no list of segments",
            "save the label map, with the label's number as the value",
        )
    if strangers := [segment.name for segment in listed if not 0 <= segment.layer < len(layers)]:
        raise FileError(
            path,
            f"expected segments in layers 0..{len(layers) - 1}, found more ({first_of(strangers)})",
            "save it again",
        )
    return Strokes(path, layers, geometry, segments, cropped)


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def _stem(path: Path) -> str:
    return stem(path) if ending(path) else unicodedata.normalize("NFC", path.stem)


def _descriptions(texts: Mapping[str, list[tuple[Path, Mapping[int, str]]]]) -> dict[str, Mapping[int, str]]:
    """The label descriptions by case. Raises FileError where two say different things."""
    found = {}
    for case, described in texts.items():
        for path, names in described[1:]:
            if names != described[0][1]:
                raise FileError(
                    path,
                    f"expected one label description of ITK-SNAP, also found {described[0][0].name}, which differs",
                    "keep the right one, or name each like its case (CASE.txt)",
                )
        found[case] = described[0][1]
    return found
