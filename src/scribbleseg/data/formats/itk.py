"""Formats that ITK reads: NRRD, MetaImage and DICOM series."""

import locale
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
from jaxtyping import Shaped

from scribbleseg.data.formats.checks import check_affine, damage_reported, in_millimetres
from scribbleseg.data.formats.names import NRRD, ending
from scribbleseg.files import FileError
from scribbleseg.types import Geometry

UNEVEN = "ITK_non_uniform_sampling_deviation"
"""ITK leaves this key on a series whose slices are not evenly spaced."""

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

HEADER_BYTES = 2**16
"""Where headers of NRRD and MetaImage end at the latest, an empty line or the voxels coming before."""


def open_itk(path: Path) -> tuple[Any, Geometry]:
    """Reads the header of one NRRD or MetaImage. Returns ITK's reader, which can read the voxels, and the grid."""
    with damage_reported(path):
        reader = SimpleITK.ImageFileReader()
        reader.SetImageIO("NrrdImageIO" if ending(path) in NRRD else "MetaImageIO")  # whatever the case of its ending
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
    n = reader.GetDimension()
    if n not in (2, 3):
        raise FileError(path, f"expected one 3-D volume, found {n} dimensions", "save one file a channel or time point")
    return reader, _itk_geometry(path, reader, str(ending(path)))


def read_itk(path: Path) -> tuple[Shaped[np.ndarray, "channel depth height width"], Geometry]:
    """Reads one NRRD or MetaImage, which may have several channels, and its grid. Raises FileError."""
    reader, geometry = open_itk(path)
    with damage_reported(path):
        voxels = SimpleITK.GetArrayFromImage(reader.Execute())
    components = voxels.reshape(*geometry.shape, reader.GetNumberOfComponents())
    return np.moveaxis(components, -1, 0), geometry


@contextmanager
def _same_locale() -> Iterator[None]:
    """Restores the locale: ITK's reader of DICOM leaves the process in the locale C, where text files are ASCII."""
    before = locale.setlocale(locale.LC_ALL)
    try:
        yield
    finally:
        locale.setlocale(locale.LC_ALL, before)


@_same_locale()
def read_dicom(folder: Path) -> tuple[Shaped[np.ndarray, "1 depth height width"], Geometry]:
    """Reads the one series in a folder, its slices sorted by their positions, and its grid. Raises FileError."""
    problem, copy = "expected the slices of one DICOM series, ", "copy or download the series again"
    series = SimpleITK.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if len(series) != 1:
        raise FileError(folder, f"{problem}found {len(series) or 'no'} series", "name the folder of one")
    slices = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series[0])
    there = sum(file.suffix.lower() == ".dcm" for file in folder.iterdir())
    if len(slices) < there:  # GDCM passes over files that are cut off
        raise FileError(folder, f"{problem}can read {len(slices)} of {there} files", copy)
    try:
        volume = SimpleITK.ReadImage(slices)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise FileError(folder, f"{problem}could not read them ({reason})", copy) from error
    if volume.GetDimension() != 3 or volume.GetNumberOfComponentsPerPixel() != 1:
        raise FileError(folder, f"{problem}found colours or other dimensions", "convert it to NIfTI")
    if volume.HasMetaDataKey(UNEVEN):
        raise FileError(folder, f"{problem}found slices that are missing or not evenly spaced", copy)
    return SimpleITK.GetArrayFromImage(volume)[None], _itk_geometry(folder, volume, ".dcm")


def _itk_geometry(path: Path, image: Any, suffix: str) -> Geometry:
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
    with path.open("rb") as file:
        header = re.split(rb"\r?\n\r?\n|ElementDataFile", file.read(HEADER_BYTES), maxsplit=1)[0]
    line = UNITS.search(header.decode("utf-8", "replace"))
    names = re.findall(r"[^\s\"]+", line[1]) if line else []
    units = [MILLIMETRES.get(name.lower(), 1.0) for name in names]
    return np.array((units * 3)[:3] if len(units) == 1 else (*units, 1.0, 1.0, 1.0)[:3])
