"""3D Slicer's segmentations (.seg.nrrd): the names of their segments, which the header of the NRRD lists.

Format: https://slicer.readthedocs.io/en/latest/developer_guide/modules/segmentations.html
"""

from pathlib import Path
from typing import NamedTuple

from scribbleseg.data.formats.itk import open_itk
from scribbleseg.data.formats.names import NRRD, ending
from scribbleseg.files import FileError


class Segment(NamedTuple):
    """One segment of a segmentation: its name as people see it, and its value in the file."""

    name: str
    value: int


def read_segments(path: Path) -> tuple[Segment, ...] | None:
    """Reads the names and values of the segments of a NRRD from its header; None for a file that lists none.

    Raises:
        FileError: segments in several layers, which is how overlapping ones are stored, or a value that is no number.
    """
    if ending(path) not in NRRD:
        return None
    reader, _ = open_itk(path)
    fields = {key: reader.GetMetaData(key).strip() for key in reader.GetMetaDataKeys() if key.startswith("Segment")}
    numbers = sorted(int(key[7:-3]) for key in fields if key.endswith("_ID") and key[7:-3].isdigit())
    numbers = numbers or sorted(int(key[7:-5]) for key in fields if key.endswith("_Name") and key[7:-5].isdigit())
    if reader.GetNumberOfComponents() > 1 and fields:
        names = ", ".join(fields.get(f"Segment{n}_Name", f"segment {n}") for n in numbers)
        raise FileError(
            path,
            f"expected one label a voxel, found overlapping segments in {reader.GetNumberOfComponents()} layers "
            f"({names or 'without names'})",
            'in 3D Slicer, open the module Segmentations, "Binary labelmap layers", check "Force collapse to a single '
            'layer" and press "Collapse labelmap layers", or export the segments to a labelmap there, and save again; '
            'allow no overlap while drawing (Segment Editor, Masking, "Modify other segments: Overwrite all")',
        )
    if not numbers:
        return None
    return tuple(
        Segment(fields.get(f"Segment{n}_Name", f"segment {n}"), _value(path, fields.get(f"Segment{n}_LabelValue", "1")))
        for n in numbers
    )


def _value(path: Path, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise FileError(
            path,
            f"expected a whole number as the LabelValue of a segment, found {text!r}",
            "save it again in 3D Slicer",
        ) from None
