"""3D Slicer's segmentations (.seg.nrrd): the names of their segments, which the header of the NRRD lists.

Format: https://slicer.readthedocs.io/en/latest/developer_guide/modules/segmentations.html
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from scribbleseg.data.formats.itk import header_fields, open_itk
from scribbleseg.data.formats.names import NRRD, ending
from scribbleseg.files import FileError


class Segment(NamedTuple):
    """One segment of a segmentation: its name as people see it, its value in the file, and the layer that has it."""

    name: str
    value: int
    layer: int = 0


def read_segments(path: Path) -> tuple[Segment, ...] | None:
    """Reads the names and values of the segments of a NRRD from its header; None for a file that lists none.

    Raises:
        FileError: segments in several layers, which is how overlapping ones are stored, or a value that is no number.
    """
    if ending(path) not in NRRD:
        return None
    segments = listed_segments(path)
    if segments is not None and (layers := open_itk(path)[0].GetNumberOfComponents()) > 1:
        raise FileError(
            path,
            f"expected one label a voxel, found overlapping segments in {layers} layers "
            f"({', '.join(segment.name for segment in segments) or 'without names'})",
            'in 3D Slicer, open the module Segmentations, "Binary labelmap layers", check "Force collapse to a single '
            'layer" and press "Collapse labelmap layers", or export the segments to a labelmap there, and save again; '
            'allow no overlap while drawing (Segment Editor, Masking, "Modify other segments: Overwrite all")',
        )
    return segments or None


def listed_segments(path: Path) -> tuple[Segment, ...] | None:
    """Reads the segments of a NRRD of 3D Slicer from its header, whatever their layers; None for any other NRRD.

    Raises:
        FileError: a value or a layer is no whole number, or a key in the header is no text.
    """
    reader, _ = open_itk(path)
    fields = {key: value.strip() for key, value in header_fields(path, reader).items() if key.startswith("Segment")}
    if not fields:
        return None
    numbers = _numbers(fields, "ID") or _numbers(fields, "Name")
    several = reader.GetNumberOfComponents() > 1
    return tuple(
        Segment(
            fields.get(f"Segment{n}_Name", f"segment {n}"),
            _number(path, fields, f"Segment{n}_LabelValue", 1),
            _number(path, fields, f"Segment{n}_Layer", at if several else 0),  # old files have a layer for each
        )
        for at, n in enumerate(numbers)
    )


def _numbers(fields: Iterable[str], what: str) -> list[int]:
    """The numbers of the segments of which a header has that field."""
    return sorted(int(match[1]) for key in fields if (match := re.fullmatch(rf"Segment([0-9]{{1,9}})_{what}", key)))


def _number(path: Path, fields: Mapping[str, str], key: str, default: int) -> int:
    try:
        return int(fields.get(key, default))
    except ValueError:
        raise FileError(
            path,
            f"expected a whole number as the {key.split('_')[1]} of a segment, found {fields[key]!r}",
            "save it again in 3D Slicer",
        ) from None
