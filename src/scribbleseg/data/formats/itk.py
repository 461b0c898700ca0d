"""NRRD and MetaImage, which ITK reads once their headers have been checked."""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from scribbleseg.data.formats.checks import absurd_size, check_affine, damage_reported, in_millimetres
from scribbleseg.data.formats.headers import read_header
from scribbleseg.data.formats.names import NRRD, ending
from scribbleseg.files import FileError, is_text
from scribbleseg.types import Geometry

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

MILLIMETRES = {
    **dict.fromkeys(("m", "meter", "meters", "metre", "metres"), 1000.0),
    **dict.fromkeys(("cm", "centimeter", "centimeters", "centimetre", "centimetres"), 10.0),
    **dict.fromkeys(("um", "\u00b5m", "\u03bcm", "micron", "microns", "micrometer", "micrometers", "micrometre"), 1e-3),
    **dict.fromkeys(("nm", "nanometer", "nanometers", "nanometre", "nanometres"), 1e-6),
}
"""One unit of length in millimetres, by its names in headers; any other name, and none, is a millimetre."""

UNITS = re.compile(r"^(?:space units:|units:|DistanceUnits\s*=)\s*(.+)$", re.MULTILINE | re.IGNORECASE)
"""The lines of NRRD and MetaImage headers that name units, which ITK passes over."""

NUMBERS = r"((?:[-+]?(?:[\d.]+(?:e[-+]?\d+)?|nan|inf(?:inity)?)[ \t]*)+)$"

SPACINGS = re.compile(r"^(?:spacings:|ElementSpacing\s*=)\s*" + NUMBERS, re.MULTILINE | re.IGNORECASE)
"""The lines of NRRD and MetaImage headers that hold voxel sizes alone, without directions."""


def open_itk(path: Path) -> tuple[Any, Geometry]:
    """Reads the header of one NRRD or MetaImage. Returns ITK's reader, which can read the voxels, and the grid."""
    import SimpleITK

    read_header(path)  # which refuses what ITK would crash on, or be led astray by
    with damage_reported(path):
        reader = SimpleITK.ImageFileReader()
        reader.SetImageIO("NrrdImageIO" if ending(path) in NRRD else "MetaImageIO")  # whatever the case of its ending
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
    n = reader.GetDimension()
    if n not in (2, 3):
        raise FileError(path, f"expected one 3-D volume, found {n} dimensions", "save one file a channel or time point")
    _check_spacing(path)
    return reader, itk_geometry(path, reader, str(ending(path)))


def header_fields(path: Path, reader: Any) -> dict[str, str]:
    """Returns the fields of a header by key. Bytes of a value that are no UTF-8 become a replacement character each.

    Args:
        path: the file, for the message.
        reader: what `open_itk` gave.

    Raises:
        FileError: a key is no text in UTF-8, so that nobody can ask for its value.
    """
    keys: tuple[str, ...] = reader.GetMetaDataKeys()
    if other := next((key for key in keys if not is_text(key)), None):
        problem = f"expected keys in its header that are text in UTF-8, found {other[:80]!a}"
        raise FileError(path, problem, "it is damaged, or in another encoding: copy it again, or save it again")
    values = {key: reader.GetMetaData(key) for key in keys}
    return {key: value.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for key, value in values.items()}


def _check_spacing(path: Path) -> None:
    """Raises FileError for voxel sizes in the header that ITK would replace: negative ones, and those not finite."""
    if line := SPACINGS.search(read_header(path).text):
        sizes = [float(word) for word in line[1].split()]
        unknown = sum(math.isnan(size) for size in sizes)  # NRRD: channels have none
        if any(size <= 0 or math.isinf(size) for size in sizes) or len(sizes) - unknown < min(3, len(sizes)):
            raise absurd_size(path, sizes)


def read_itk(path: Path) -> tuple[Shaped[np.ndarray, "channel depth height width"], Geometry]:
    """Reads one NRRD or MetaImage, which may have several channels, and its grid. Raises FileError."""
    import SimpleITK

    reader, geometry = open_itk(path)
    with damage_reported(path):
        voxels = SimpleITK.GetArrayFromImage(reader.Execute())
    components = voxels.reshape(*geometry.shape, reader.GetNumberOfComponents())
    return np.moveaxis(components, -1, 0), geometry


def itk_geometry(path: Path, image: Any, suffix: str) -> Geometry:
    """Returns the grid of an ITK image, or of a reader that has read the header."""
    n = image.GetDimension()
    lps = np.eye(4)
    lps[:n, :n] = np.reshape(image.GetDirection(), (n, n)) * image.GetSpacing()
    lps[:n, 3] = image.GetOrigin()
    affine = in_millimetres(LPS_TO_RAS @ lps, _units_mm(path))
    check_affine(path, affine)
    return Geometry((1, *reversed(image.GetSize()))[-3:], affine, suffix)


def _units_mm(path: Path) -> np.ndarray:
    """Returns one unit of length in millimetres along each axis of space, from the text of the header."""
    if path.is_dir():
        return np.ones(3)  # DICOM is in millimetres
    line = UNITS.search(read_header(path).text)
    names = re.findall(r"[^\s\"]+", line[1]) if line else []
    units = [MILLIMETRES.get(name.lower(), 1.0) for name in names]
    return np.array((units * 3)[:3] if len(units) == 1 else (*units, 1.0, 1.0, 1.0)[:3])
