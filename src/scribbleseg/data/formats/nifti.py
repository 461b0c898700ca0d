"""NIfTI-1 and NIfTI-2: the affine, qform, sform, their codes and the units survive reading and writing to the bit.

A grid is in millimetres whatever the file's unit is; the header is written in the unit that it was read in.
"""

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from jaxtyping import Shaped
from nibabel.volumeutils import apply_read_scaling

from scribbleseg.data.formats.checks import (
    DEFLATE_RATIO,
    absurd_size,
    check_affine,
    check_claim,
    damage_reported,
    in_millimetres,
)
from scribbleseg.data.formats.checksums import read_to_end
from scribbleseg.data.formats.names import ending
from scribbleseg.files import FileError
from scribbleseg.types import Geometry

NIFTI_GEOMETRY = (
    "pixdim", "xyzt_units", "sform_code", "srow_x", "srow_y", "srow_z",
    "qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
)  # fmt: skip
"""The fields that are copied from an image's header to its label map; no others, as they may name the patient."""


MILLIMETRES = {1: 1000.0, 2: 1.0, 3: 0.001}
"""One unit of length in millimetres, by its code in `xyzt_units`: metre, millimetre, micron."""

LENGTH_UNITS = 0b111
"""The bits of `xyzt_units` that hold the unit of length."""


HEADER_CLASSES = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
"""NIfTI-1 and NIfTI-2, by the length of their headers, which is the first number in the file."""

MOST_EXTENSIONS = 2**26
"""The most bytes between the header and the voxels (ours): notes that programs leave there, such as DICOM headers."""


def _check_header(path: Path) -> Any:
    """Check what the header claims, before anything is allocated. Returns the class of nibabel's images for it.

    Raises:
        FileError: damaged, or more voxels than the file can hold or than are read at all (`checks.MOST_VALUES`).
    """
    packed = str(ending(path)).endswith(".gz")
    with damage_reported(path):
        with gzip.open(path) if packed else path.open("rb") as file:
            start = file.read(max(HEADER_CLASSES))
        length = next(
            (n for n in HEADER_CLASSES for order in ("little", "big") if int.from_bytes(start[:4], order) == n), 0
        )
        if length not in HEADER_CLASSES or len(start) < length:
            raise ValueError("it does not begin with the header of a NIfTI file")
        header = HEADER_CLASSES[length](start[:length], check=False)
        shape, offset = [int(n) for n in header.get_data_shape()], float(header["vox_offset"])
        there = path.stat().st_size * (DEFLATE_RATIO if packed else 1) - length
        check_claim(path, shape, 8 * header.get_data_dtype().itemsize, there)
        if not length <= offset <= length + MOST_EXTENSIONS:
            raise ValueError(f"its header says that its voxels begin {offset:g} bytes behind its beginning")
    return nib.Nifti1Image if length == min(HEADER_CLASSES) else nib.Nifti2Image


def open_nifti(path: Path) -> tuple[Any, Geometry]:
    """Reads the header of one volume. Returns nibabel's image, whose voxels are not read yet, and the grid."""
    image_class = _check_header(path)
    with damage_reported(path), np.errstate(invalid="ignore"):  # an affine that is not finite is reported below
        nifti: Any = image_class.from_filename(path, mmap=False)
    shape = nifti.shape
    while len(shape) > 3 and shape[-1] == 1:  # "one time point" is how many tools write a volume
        shape = shape[:-1]
    if len(shape) not in (2, 3) or 0 in shape:
        raise FileError(
            path,
            f"expected one 3-D volume, found shape {' x '.join(map(str, nifti.shape))}",
            "save each channel or time point as a file of its own (CASE_0000.nii.gz, CASE_0001.nii.gz, ...)",
        )
    _check_pixdim(path, nifti, shape)
    depth_height_width = (1, *reversed(shape))[-3:]
    unit = int(nifti.header["xyzt_units"]) & LENGTH_UNITS
    affine = in_millimetres(nifti.affine, MILLIMETRES.get(unit, 1.0))  # files that name no unit are in mm
    check_affine(path, affine)
    return nifti, Geometry(depth_height_width, affine, str(ending(path)), nifti.header.copy())


def _check_pixdim(path: Path, nifti: Any, shape: tuple[int, ...]) -> None:
    """Raises FileError for voxel sizes of 0 or less, which nibabel would replace; where an sform is, none counts."""
    if int(nifti.header["sform_code"]):
        return
    with damage_reported(path), nib.openers.ImageOpener(str(path)) as file:
        sizes = type(nifti.header).from_fileobj(file, check=False)["pixdim"][1 : len(shape) + 1].tolist()
    if any(size < 0 or (size == 0 and n > 1) for size, n in zip(sizes, shape, strict=True)):
        raise absurd_size(path, sizes)


def read_nifti(path: Path, labels: bool = False) -> tuple[Shaped[np.ndarray, "1 depth height width"], Geometry]:
    """Reads one volume and its grid.

    Args:
        path: the file.
        labels: whether values that are scaled by a slope and an intercept come as float64, which keeps any label's
            number, instead of float32.

    Raises:
        FileError: missing, damaged, or of more than three dimensions.
    """
    nifti, geometry = open_nifti(path)
    with damage_reported(path):
        if str(ending(path)).endswith(".gz"):  # nibabel stops before the checksum
            with gzip.open(path) as stream:
                voxels = _scaled(type(nifti).from_stream(stream).dataobj, labels)
                read_to_end(stream)
        else:
            voxels = _scaled(nifti.dataobj, labels)
    return voxels.T.reshape(1, *geometry.shape), geometry


def _scaled(stored: Any, labels: bool) -> Shaped[np.ndarray, "..."]:
    """The voxels with slope and intercept applied, in float64, a slice at a time, as that takes 16 bytes a voxel."""
    raw, slope, intercept = stored.get_unscaled(), np.float64(stored.slope), np.float64(stored.inter)
    if (slope, intercept) == (1.0, 0.0):
        return raw
    voxels = np.empty(raw.shape, np.float64 if labels else np.float32, order="F")
    for k in range(raw.shape[-1]):
        voxels[..., k] = apply_read_scaling(raw[..., k], slope, intercept)
    return voxels


def as_nifti(voxels: Shaped[np.ndarray, "width height depth *label"], geometry: Geometry) -> Any:
    """Makes a NIfTI image with the geometry, and only the geometry, of the file that `geometry` came from."""
    if geometry.header is None:
        nifti = nib.Nifti1Image(voxels, geometry.affine)
        nifti.set_qform(geometry.affine, code="scanner")  # ITK prefers the qform, others the sform: write both
        nifti.set_sform(geometry.affine, code="scanner")
        nifti.header.set_xyzt_units("mm")
        return nifti
    original: Any = geometry.header
    header = type(original)(endianness=original.endianness)
    header.set_data_dtype(voxels.dtype)
    header.set_data_shape(voxels.shape)
    for field in NIFTI_GEOMETRY:
        header[field] = original[field]
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    return kind(voxels, header.get_best_affine(), header)
