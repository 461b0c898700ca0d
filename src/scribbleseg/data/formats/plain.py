"""Grids as plain values, so that a label map can be written without the image that it belongs to."""

from typing import Any

import nibabel as nib
import numpy as np

from scribbleseg.data.formats.nifti import NIFTI_GEOMETRY
from scribbleseg.types import Geometry

HEADERS = {"Nifti1": nib.Nifti1Header, "Nifti2": nib.Nifti2Header}


def geometry_to_plain(geometry: Geometry) -> dict[str, Any]:
    """Returns a grid as values that JSON can hold: what `write_labels` and `write_map` use of it, and nothing else.

    A NIfTI header is reduced to the fields in `NIFTI_GEOMETRY`, its version and its byte order: the rest may name the
    patient.
    """
    header: Any = geometry.header
    plain: dict[str, Any] = {
        "shape": list(geometry.shape),
        "affine": geometry.affine.tolist(),
        "suffix": geometry.suffix,
        "header": None,
    }
    if header is not None:
        version = "Nifti2" if isinstance(header, nib.Nifti2Header) else "Nifti1"
        fields = {field: header[field].tolist() for field in NIFTI_GEOMETRY}
        plain["header"] = {"class": version, "endianness": header.endianness, "fields": fields}
    return plain


def geometry_from_plain(plain: dict[str, Any]) -> Geometry:
    """Returns the grid that `geometry_to_plain` wrote down; the same labels on it give the same file, byte by byte."""
    depth, height, width = plain["shape"]
    affine, header = np.array(plain["affine"], np.float64), None
    if (stored := plain["header"]) is not None:
        header = HEADERS[stored["class"]](endianness=stored["endianness"])
        for field, value in stored["fields"].items():
            header[field] = value
    return Geometry((depth, height, width), affine, plain["suffix"], header)
