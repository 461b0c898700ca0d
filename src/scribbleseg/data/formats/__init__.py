"""Reads and writes images and label maps: NIfTI, NRRD, MetaImage, pictures and DICOM series, with their geometry.

Arrays are `depth height width`, the reverse of NIfTI's (x, y, z). A volume read from NIfTI and written back keeps its
affine, qform, sform, their codes and its units to the bit. Files are written next to their place and then moved there,
so that a run that is killed or a disk that is full leaves no half-written file. SimpleITK is imported where it is used:
that takes long, and most data sets have no file that needs it.
"""

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from jaxtyping import Float32, Integer, Shaped

from scribbleseg.data.formats.checks import check_same_grid
from scribbleseg.data.formats.checksums import check_packed
from scribbleseg.data.formats.dicom import read_dicom
from scribbleseg.data.formats.itk import open_itk, read_itk
from scribbleseg.data.formats.names import (
    ENDINGS,
    IMAGE_ENDINGS,
    ITK,
    LABEL_ENDINGS,
    NIFTI,
    NRRD,
    PICTURES,
    PNG,
    SEGMENTS,
    TIFF,
    ending,
    series_in,
    stem,
    to_rename,
    unread_in,
    volumes_in,
)
from scribbleseg.data.formats.nifti import as_nifti, open_nifti, read_nifti
from scribbleseg.data.formats.pictures import colour_codes, colour_names, pens, read_colours, read_picture, save_png
from scribbleseg.data.formats.plain import geometry_from_plain, geometry_to_plain
from scribbleseg.data.formats.segments import Segment, listed_segments, read_segments
from scribbleseg.data.formats.stacks import read_stack, save_stack
from scribbleseg.files import FileError, atomically
from scribbleseg.plural import number_of
from scribbleseg.types import Geometry, Image, Probabilities

__all__ = [
    "ENDINGS",
    "IMAGE_ENDINGS",
    "ITK",
    "LABEL_ENDINGS",
    "NIFTI",
    "PICTURES",
    "PNG",
    "SEGMENTS",
    "Segment",
    "check_same_grid",
    "colour_codes",
    "colour_names",
    "ending",
    "geometry_from_plain",
    "geometry_to_plain",
    "label_ending",
    "listed_segments",
    "read_colours",
    "read_geometry",
    "read_image",
    "read_labels",
    "read_layers",
    "read_segments",
    "save_stack",
    "series_in",
    "stem",
    "to_rename",
    "unread_in",
    "volumes_in",
    "write_labels",
    "write_map",
    "write_probabilities",
]


ROUNDING = 1e-3
"""The largest difference of a label from a whole number that is taken for rounding (ours)."""


def read_image(paths: Path | Sequence[Path]) -> tuple[Image, Geometry]:
    """Reads one image, from one file or from one file for each channel.

    Args:
        paths: one file (a picture or NRRD may hold several channels) or the folder of one DICOM series, or several of
            these on the same grid.

    Returns:
        Raw intensities, float32, `channel depth height width` (depth 1 for a picture), and their geometry.

    Raises:
        FileError: missing, damaged, of more than three dimensions, with NaN or infinite voxels, or channels on
            different grids.
    """
    paths = [paths] if isinstance(paths, Path) else list(paths)
    channels, geometries = [], []
    for path in paths:
        if ending(path) == SEGMENTS:
            raise FileError(path, "expected an image, found a segmentation", "give the image that it was drawn on")
        voxels, geometry = _read(path)
        if voxels.dtype.kind not in "biuf":
            raise FileError(path, f"expected numbers, found {voxels.dtype} voxels", "save it as integers or floats")
        with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite, and is reported as such
            voxels = voxels.astype(np.float32, copy=False)
        if unusable := voxels.size - int(np.isfinite(voxels).sum()):
            raise FileError(
                path,
                f"expected finite intensities, found {unusable} of {voxels.size} voxels NaN or infinite",
                "replace them (outside the body 0 will do) or leave the case out",
            )
        channels.append(voxels)
        geometries.append(geometry)
        check_same_grid(path, geometry, paths[0], geometries[0])
    return channels[0] if len(channels) == 1 else np.concatenate(channels), geometries[0]


def read_labels(path: Path) -> tuple[Integer[np.ndarray, "depth height width"], Geometry]:
    """Reads a label map with its values as they stand in the file; the data set says what they mean.

    Floating-point files are welcome as long as every value is a whole number but for 0.001, which is what a header's
    slope and intercept may leave of one; a PNG or TIFF with a palette gives its indices.

    Raises:
        FileError: missing, damaged, of more than three dimensions, coloured, JPEG, with overlapping segments, or with
            values that are not integers.
    """
    read_segments(path)  # which says where they overlap
    voxels, geometry = _read(path, labels=True)
    if len(voxels) > 1 and (voxels == voxels[:1]).all():
        voxels = voxels[:1]  # a grey picture that was saved as RGB
    if len(voxels) > 1:
        drawn = pens(path) if ending(path) in PICTURES else []
        declare = ", ".join(f'"NAME": "{pen}"' for pen in drawn)
        advice = f', or declare the pens in dataset.json: "colors": {{{declare}}} with your names' if drawn else ""
        raise FileError(
            path,
            f"expected one integer a voxel, found {len(voxels)} channels (colours?)",
            f"save label maps as greyscale or palette images with the label's number as the value{advice}",
        )
    return _whole_numbers(path, voxels[0]), geometry


def read_layers(path: Path) -> tuple[Integer[np.ndarray, "layer depth height width"], Geometry]:
    """Reads a label map that may have several layers, such as overlapping segments, or be a TIFF of many slices.

    Raises:
        FileError: as `read_labels`, but for layers.
    """
    if ending(path) in TIFF and (stack := read_stack(path)) is not None:
        voxels, geometry = stack
    elif ending(path) in NRRD:
        voxels, geometry = _read(path)
    else:
        values, geometry = read_labels(path)
        voxels = values[None]
    return _whole_numbers(path, voxels), geometry


def _whole_numbers(path: Path, values: Shaped[np.ndarray, "*space"]) -> Integer[np.ndarray, "*space"]:
    """The values as integers. Raises FileError where they are none."""
    if values.dtype.kind == "f":
        whole = np.empty(values.shape, bool)
        with np.errstate(invalid="ignore"):  # infinite minus infinite
            for k, plane in enumerate(values):  # at once it would take 24 bytes a voxel
                whole[k] = np.isfinite(plane) & (np.abs(plane - np.round(plane)) <= ROUNDING)
        if not whole.all():
            some = ", ".join(f"{value:g}" for value in np.unique(values[~whole])[:5])
            raise FileError(
                path,
                f"expected integer labels, found {some} ({number_of(int((~whole).sum()), 'voxel')})",
                "save the label map as integers; if it was resampled, resample it with nearest neighbours",
            )
        small = np.abs([values.min(), values.max()]).max() < np.iinfo(np.int32).max
        rounded = np.empty(values.shape, np.int32 if small else np.int64)
        for k, plane in enumerate(values):
            rounded[k] = np.round(plane)
        values = rounded
    elif values.dtype.kind == "b":
        values = values.astype(np.uint8)
    elif values.dtype.kind not in "iu":
        raise FileError(path, f"expected integer labels, found {values.dtype} voxels", "save it as uint8")
    return values


def read_geometry(path: Path) -> Geometry:
    """Reads the grid of an image without its voxels where the format allows it. Raises FileError."""
    if path.is_dir():
        return read_dicom(path)[1]
    if ending(path) in NIFTI:
        return open_nifti(path)[1]
    return open_itk(path)[1] if ending(path) in ITK else _read(path)[1]


def label_ending(geometry: Geometry) -> str:
    """Returns the file ending that label maps on this grid are written with: ".png" for a picture, else ".nii.gz"."""
    return PNG if geometry.suffix in PICTURES else ".nii.gz"


def write_labels(path: Path, labels: Integer[np.ndarray, "depth height width"], geometry: Geometry) -> None:
    """Writes a label map on the grid of the image it belongs to, in its own integer type, atomically.

    Args:
        path: ends in ".nii.gz", ".nii" or, for pictures, ".png" (`label_ending` says which).
        labels: `depth height width`; of a picture uint8 or uint16.
        geometry: the image's grid.

    Raises:
        FileError: the file cannot be written (full disk, no permission); nothing is left behind.
        ValueError: the shape is not the geometry's, or there is no writer for the ending.
    """
    if labels.shape != geometry.shape:
        raise ValueError(f"expected labels of shape {geometry.shape}, got {labels.shape}")
    if ending(path) not in (*NIFTI, PNG):
        raise ValueError(f"label maps are written as .nii.gz, .nii or .png, not as {path.name}")
    with atomically(path) as temporary:
        if ending(path) == PNG:
            save_png(temporary, labels)
        else:
            nib.save(as_nifti(labels.T, geometry), temporary)


def write_probabilities(path: Path, probabilities: Probabilities, geometry: Geometry) -> None:
    """Writes the probability of every label as one 4-D float32 NIfTI, labels along the fourth axis, atomically.

    Args:
        path: ends in ".nii.gz" or ".nii".
        probabilities: `label depth height width`.
        geometry: the image's grid.

    Raises:
        FileError: the file cannot be written; nothing is left behind.
        ValueError: the shape is not the geometry's, or there is no writer for the ending.
    """
    if probabilities.shape[1:] != geometry.shape:
        raise ValueError(f"expected probabilities of shape (label, *{geometry.shape}), got {probabilities.shape}")
    if ending(path) not in NIFTI:
        raise ValueError(f"probabilities are written as .nii.gz or .nii, not as {path.name}")
    with atomically(path) as temporary:
        nib.save(as_nifti(probabilities.transpose(3, 2, 1, 0), geometry), temporary)


def write_map(path: Path, values: Float32[np.ndarray, "depth height width"], geometry: Geometry) -> None:
    """Writes one number for each voxel, such as an uncertainty, as float32 NIfTI, atomically.

    Args:
        path: ends in ".nii.gz" or ".nii".
        values: `depth height width`.
        geometry: the image's grid.

    Raises:
        FileError: the file cannot be written; nothing is left behind.
        ValueError: the shape is not the geometry's, or there is no writer for the ending.
    """
    if values.shape != geometry.shape:
        raise ValueError(f"expected a map of shape {geometry.shape}, got {values.shape}")
    if ending(path) not in NIFTI:
        raise ValueError(f"maps are written as .nii.gz or .nii, not as {path.name}")
    with atomically(path) as temporary:
        nib.save(as_nifti(values.T, geometry), temporary)


def _read(path: Path, labels: bool = False) -> tuple[Shaped[np.ndarray, "channel depth height width"], Geometry]:
    """Reads any format; `labels` keeps the indices of a palette instead of their colours, and refuses JPEG."""
    if path.is_dir():
        return read_dicom(path)
    kind = ending(path)
    if kind is None:
        raise FileError(path, f"expected a file ending in {', '.join(ENDINGS)}", "convert it")
    if kind in NIFTI:
        return read_nifti(path, labels)
    if kind in PICTURES:
        return read_picture(path, labels)
    check_packed(path)
    return read_itk(path)
