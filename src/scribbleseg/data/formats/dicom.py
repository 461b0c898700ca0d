"""DICOM series, which GDCM reads once the lengths in their files have been checked."""

import locale
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from scribbleseg.data.formats.checks import check_claim
from scribbleseg.data.formats.itk import itk_geometry
from scribbleseg.data.formats.names import what_is
from scribbleseg.files import FileError
from scribbleseg.types import Geometry

UNEVEN = "ITK_non_uniform_sampling_deviation"
"""ITK leaves this key on a series whose slices are not evenly spaced."""

BITS_ALLOCATED, SIGNED = "0028|0100", "0028|0103"

ALIKE = 1e-3
"""How much directions and sizes of the slices of a series may differ, as shares (ours): a scanner rounds them."""

PREAMBLE, MAGIC = 128, b"DICM"
"""How a DICOM file begins: bytes that say nothing, and four that say what it is."""

META_GROUP, SYNTAX = b"\x02\x00", 0x10
"""The group of the elements that describe the file, and the number of that which says how the others are written."""

IMPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"

LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
"""The value representations whose lengths have four bytes."""

ITEMS, FIRST_ITEM = 0xFFFE, (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")
PIXELS, UNDEFINED = (0x7FE0, 0x10), 0xFFFFFFFF


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
    import SimpleITK

    problem, copy = "expected the slices of one DICOM series, ", "copy or download the series again"
    if odd := [file for file in sorted(folder.iterdir()) if not (file.is_file() or file.is_dir())]:
        raise FileError(odd[0], f"{problem}found {what_is(odd[0])}", "take it away, or give the slice")
    there = {file.name: _pixel_bytes(file) for file in folder.iterdir() if file.is_file() and _is_dicom(file)}
    series = SimpleITK.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if len(series) != 1:
        raise FileError(folder, f"{problem}found {len(series) or 'no'} series", "name the folder of one")
    slices = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series[0])
    n_files = sum(file.suffix.lower() == ".dcm" for file in folder.iterdir())
    if len(slices) < n_files:  # GDCM passes over files that are cut off
        raise FileError(folder, f"{problem}can read {len(slices)} of {n_files} files", copy)
    try:
        first: dict[str, Any] = {}
        for file in map(Path, slices):
            found = _check_slice(file, there.get(file.name, file.stat().st_size), len(slices))
            first = first or found  # by which ITK reads all of them
            for what, value in found.items():
                if not np.allclose(value, first[what], rtol=ALIKE, atol=ALIKE):
                    wrong = f"expected the {what} of the other slices, {first[what]}, found {value}"
                    raise FileError(file, wrong, f"take it away where it is of another series, or {copy}")
        volume = SimpleITK.ReadImage(slices)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise FileError(folder, f"{problem}could not read them ({reason})", copy) from error
    if volume.GetDimension() != 3 or volume.GetNumberOfComponentsPerPixel() != 1:
        raise FileError(folder, f"{problem}found colours or other dimensions", "convert it to NIfTI")
    if volume.HasMetaDataKey(UNEVEN):
        raise FileError(folder, f"{problem}found slices that are missing or not evenly spaced", copy)
    return SimpleITK.GetArrayFromImage(volume)[None], itk_geometry(folder, volume, ".dcm")


def _is_dicom(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(PREAMBLE + len(MAGIC))[PREAMBLE:] == MAGIC


def _pixel_bytes(file: Path) -> int | None:
    """The bytes of the pixels as they are stored in a DICOM file; None where they are compressed.

    Raises:
        FileError: an element is longer than the file; GDCM would allocate it.
    """
    stored = file.read_bytes()
    longest = 0
    for group, element, begin, length in _elements(stored):
        if (group, element) == PIXELS and length == UNDEFINED:
            return None
        if length not in range(len(stored) + 1) and length != UNDEFINED:
            raise FileError(
                file,
                f"expected elements that fit into {len(stored)} bytes, found ({group:04x},{element:04x}) of {length}",
                "it is damaged or cut off: copy or download it again",
            )
        if (group, element) == PIXELS:  # that of a preview in a sequence is shorter
            longest = max(longest, min(length, len(stored) - begin))
    return longest


def _elements(stored: bytes) -> Iterator[tuple[int, int, int, int]]:
    """The group, number, beginning and length of each element of a DICOM file, until compressed pixels begin.

    Sequences and their items come like elements, followed by the elements in them.
    """
    at, syntax = PREAMBLE + len(MAGIC), ""
    while at + 8 <= len(stored):
        meta = stored[at : at + 2] == META_GROUP
        order = ">" if syntax == BIG_ENDIAN and not meta else "<"
        group, element = struct.unpack_from(f"{order}HH", stored, at)
        kind = stored[at + 4 : at + 6]  # the value representation, where the file has them
        explicit = (meta or syntax != IMPLICIT) and kind.isalpha() and kind.isupper() and group != ITEMS
        if explicit and kind not in LONG:
            begin, length = at + 8, struct.unpack_from(f"{order}H", stored, at + 6)[0]
        else:
            begin = at + (12 if explicit else 8)
            length = int.from_bytes(stored[begin - 4 : begin], "big" if order == ">" else "little")
        yield group, element, begin, length
        if (group, element) == PIXELS and length == UNDEFINED:
            return
        if meta and element == SYNTAX:
            syntax = stored[begin : begin + length].decode("ascii", "replace").strip("\0 ")
        nested = kind == b"SQ" or stored[begin : begin + 4] in FIRST_ITEM
        inside = group == ITEMS or length == UNDEFINED or (nested and (group, element) != PIXELS)
        at = begin if inside else begin + length


def _check_slice(file: Path, there: int | None, n_slices: int) -> dict[str, Any]:
    """What all slices of a series have alike, by its name.

    Raises:
        FileError: a slice that claims more pixels than it holds, which GDCM would make up, or too many.
    """
    import SimpleITK

    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(file))
    reader.ReadImageInformation()
    sizes = (*reader.GetSize(), reader.GetNumberOfComponents())
    said = {key: int(reader.GetMetaData(key)) for key in (BITS_ALLOCATED, SIGNED) if reader.HasMetaDataKey(key)}
    bits = said.get(BITS_ALLOCATED, 8)
    check_claim(file, sizes, bits, there)
    check_claim(file.parent, (*sizes, n_slices), bits, None)
    return {
        "size": sizes,
        "bits of a pixel": bits,
        "sign of pixels": said.get(SIGNED, 0),
        "direction": reader.GetDirection(),
        "pixel size": reader.GetSpacing()[:2],
    }
