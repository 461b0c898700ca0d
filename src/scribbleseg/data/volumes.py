"""Reads and writes images and label maps: NIfTI, NRRD, MetaImage, PNG and DICOM series, with their geometry.

Arrays are `depth height width`, the reverse of NIfTI's (x, y, z). A volume read from NIfTI and written back keeps its
affine, qform, sform, their codes and its units to the bit. Files are written next to their place and then moved there,
so that a run that is killed or a disk that is full leaves no half-written file.
"""

import errno
import locale
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import PIL.Image
import SimpleITK
from jaxtyping import Float32, Integer, Shaped

from scribbleseg.types import DataError, Geometry, Image, Labels, Probabilities

NIFTI = (".nii.gz", ".nii")
ITK = (".nrrd", ".nhdr", ".mha", ".mhd")
PNG = ".png"
ENDINGS = (*NIFTI, *ITK, PNG)
"""What can be read, by the end of the file's name."""

GRID_TOLERANCE = 0.1
"""Two grids are one if no corner lies further apart than this share of a voxel. Ours: far above the rounding of a
float32 header or of a quaternion (1e-3), far below the half voxel that would move a label."""

NIFTI_GEOMETRY = (
    "pixdim", "xyzt_units", "sform_code", "srow_x", "srow_y", "srow_z",
    "qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
)  # fmt: skip
"""What is copied from an image's header to its label map. Nothing else is: the rest may name the patient."""

UNEVEN = "ITK_non_uniform_sampling_deviation"
"""ITK leaves this key on a series whose slices are not evenly spaced."""

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


class FileError(DataError):
    """A `DataError` about one file, in parts, so that an audit can print them in columns.

    Args:
        file: the offending file.
        problem: what was expected and what came.
        remedy: what to do about it.
    """

    def __init__(self, file: Path, problem: str, remedy: str) -> None:
        super().__init__(f"{file}: {problem}; {remedy}")
        self.file, self.problem, self.remedy = file, problem, remedy

    def __reduce__(self):  # so that it comes through from another process
        return FileError, (self.file, self.problem, self.remedy)


def ending(path: Path) -> str | None:
    """The file ending among `ENDINGS`, lower case, or None where there is no reader for it."""
    return next((known for known in ENDINGS if path.name.lower().endswith(known)), None)


def stem(path: Path) -> str:
    """The name of the file without its ending: `patient001.nii.gz` -> `patient001`."""
    return path.name[: -len(ending(path) or path.suffix) or None]


def volumes_in(folder: Path) -> dict[str, Path]:
    """The readable files of a folder by stem, sorted; empty where there is no such folder.

    Files of other kinds (notes, thumbnails, the .raw beside a .mhd) and hidden ones are passed over.

    Raises:
        FileError: two files share a stem, so that nobody can say which one is meant.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith(".") or ending(path) is None or not path.is_file():
            continue
        if stem(path) in found:
            raise FileError(
                path, f"expected one file named {stem(path)}, also found {found[stem(path)].name}", "keep one"
            )
        found[stem(path)] = path
    return dict(sorted(found.items()))


def read_image(paths: Path | Sequence[Path]) -> tuple[Image, Geometry]:
    """Reads one image, from one file or from one file a channel.

    Args:
        paths: one file (a PNG or NRRD may hold several channels) or the folder of one DICOM series, or several of
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
        voxels, geometry = _read(path)
        if voxels.dtype.kind not in "biuf":
            raise FileError(path, f"expected numbers, found {voxels.dtype} voxels", "save it as integers or floats")
        with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite, and is reported as such
            voxels = voxels.astype(np.float32)
        if unusable := voxels.size - int(np.isfinite(voxels).sum()):
            raise FileError(
                path,
                f"expected finite intensities, found {unusable} of {voxels.size} voxels NaN or infinite",
                "replace them (outside the body 0 will do) or leave the case out",
            )
        channels.append(voxels)
        geometries.append(geometry)
        check_same_grid(path, geometry, paths[0], geometries[0])
    return np.concatenate(channels), geometries[0]


def read_labels(path: Path) -> tuple[Integer[np.ndarray, "depth height width"], Geometry]:
    """Reads a label map with its values as they stand in the file; what they mean is the data set's to say.

    Floating-point files are welcome as long as every value is a whole number; a palette PNG gives its indices.

    Raises:
        FileError: missing, damaged, of more than three dimensions, coloured, or with values that are not integers.
    """
    voxels, geometry = _read(path, palette=True)
    if len(voxels) > 1 and (voxels == voxels[:1]).all():
        voxels = voxels[:1]  # a grey picture that was saved as RGB
    if len(voxels) > 1:
        raise FileError(
            path,
            f"expected one integer a voxel, found {len(voxels)} channels (colours?)",
            "save label maps as greyscale or palette images with the label's number as the value",
        )
    values = voxels[0]
    if values.dtype.kind == "f":
        whole = np.isfinite(values) & (values == np.round(values))
        if not whole.all():
            some = ", ".join(f"{value:g}" for value in np.unique(values[~whole])[:5])
            raise FileError(
                path,
                f"expected integer labels, found {some} ({(~whole).sum()} voxels)",
                "save the label map as integers; if it was resampled, resample it with nearest neighbours",
            )
        values = values.astype(np.int64)
    elif values.dtype.kind == "b":
        values = values.astype(np.uint8)
    elif values.dtype.kind not in "iu":
        raise FileError(path, f"expected integer labels, found {values.dtype} voxels", "save it as uint8")
    return values, geometry


def read_geometry(path: Path) -> Geometry:
    """Reads the grid of an image without its voxels where the format allows it. Raises FileError."""
    if path.is_dir():
        return _dicom(path)[1]
    if ending(path) in NIFTI:
        return _nifti(path)[1]
    return _itk(path)[1] if ending(path) in ITK else _read(path)[1]


def check_same_grid(path: Path, geometry: Geometry, other_path: Path, other: Geometry) -> None:
    """Raises FileError unless both volumes have the same shape and lie in the same place (`GRID_TOLERANCE`)."""
    if geometry.shape != other.shape:
        raise FileError(
            path,
            f"expected {_grid(other)} voxels (depth x height x width) as in {other_path.name}, found {_grid(geometry)}",
            "resample it onto that grid (labels with nearest neighbours) or take the file that belongs to it",
        )
    corners = np.array([(*corner, 1.0) for corner in product(*((0, n - 1) for n in reversed(other.shape)))])
    apart_mm = np.linalg.norm((corners @ (geometry.affine - other.affine).T)[:, :3], axis=1).max()
    if apart_mm > GRID_TOLERANCE * min(other.spacing_mm):
        raise FileError(
            path,
            f"expected the affine of {other_path.name}, found one that puts a corner {apart_mm:.3g} mm elsewhere "
            f"(spacing {_spacing(geometry)} against {_spacing(other)} mm)",
            "resample it onto that grid; if its voxels do correspond and only its header is wrong, "
            "copy the header over (FSL: fslcpgeom IMAGE FILE)",
        )


def label_ending(geometry: Geometry) -> str:
    """The file ending that label maps on this grid are written with: ".png" for a PNG, else ".nii.gz"."""
    return PNG if geometry.suffix == PNG else ".nii.gz"


def write_labels(path: Path, labels: Labels, geometry: Geometry) -> None:
    """Writes a label map on the grid of the image it belongs to, as uint8, atomically.

    Args:
        path: ends in ".nii.gz", ".nii" or, for pictures, ".png" (`label_ending` says which).
        labels: `depth height width`; UNLABELLED is written as 255.
        geometry: of the image.

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
            PIL.Image.fromarray(labels[0]).save(temporary, format="PNG")
        else:
            nib.save(_as_nifti(labels.T, geometry), temporary)


def write_probabilities(path: Path, probabilities: Probabilities, geometry: Geometry) -> None:
    """Writes the probability of every label as one 4-D float32 NIfTI, labels along the fourth axis, atomically.

    Args:
        path: ends in ".nii.gz" or ".nii".
        probabilities: `label depth height width`.
        geometry: of the image.

    Raises:
        FileError: the file cannot be written; nothing is left behind.
        ValueError: the shape is not the geometry's, or there is no writer for the ending.
    """
    if probabilities.shape[1:] != geometry.shape:
        raise ValueError(f"expected probabilities of shape (label, *{geometry.shape}), got {probabilities.shape}")
    if ending(path) not in NIFTI:
        raise ValueError(f"probabilities are written as .nii.gz or .nii, not as {path.name}")
    with atomically(path) as temporary:
        nib.save(_as_nifti(probabilities.transpose(3, 2, 1, 0), geometry), temporary)


def write_map(path: Path, values: Float32[np.ndarray, "depth height width"], geometry: Geometry) -> None:
    """Writes one number a voxel, such as an uncertainty, as float32 NIfTI, atomically.

    Args:
        path: ends in ".nii.gz" or ".nii".
        values: `depth height width`.
        geometry: of the image.

    Raises:
        FileError: the file cannot be written; nothing is left behind.
        ValueError: the shape is not the geometry's, or there is no writer for the ending.
    """
    if values.shape != geometry.shape:
        raise ValueError(f"expected a map of shape {geometry.shape}, got {values.shape}")
    if ending(path) not in NIFTI:
        raise ValueError(f"maps are written as .nii.gz or .nii, not as {path.name}")
    with atomically(path) as temporary:
        nib.save(_as_nifti(values.T, geometry), temporary)


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """The same file under another name too, or a copy of it. For files that nobody writes to any more."""
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


@contextmanager
def atomically(path: Path) -> Iterator[Path]:
    """Gives a temporary path in the same folder (made if absent) that replaces `path` when the block ends well.

    Raises:
        FileError: the disk is full or the folder cannot be written to; the temporary file is removed and a file that
            was at `path` before is still there.
    """
    temporary = path.with_name(f".{os.getpid()}-{path.name}")  # the same ending: writers look at it
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "free some space" if full else "check the folder and its permissions"
        raise FileError(
            path,
            f"could not be written: {error.strerror or error}",
            f"{remedy} or choose another folder, and run again",
        ) from error
    finally:
        with suppress(OSError):  # where the folder itself could not be made there is nothing to remove
            temporary.unlink(missing_ok=True)


def _read(path: Path, palette: bool = False) -> tuple[Shaped[np.ndarray, "channel depth height width"], Geometry]:
    """Reads any format; `palette` keeps the indices of a palette PNG instead of their colours."""
    if path.is_dir():
        series, geometry = _dicom(path)
        return SimpleITK.GetArrayFromImage(series)[None], geometry
    kind = ending(path)
    if kind is None:
        raise FileError(path, f"expected a file ending in {', '.join(ENDINGS)}", "convert it")
    if kind in NIFTI:
        return _read_nifti(path)
    return _read_png(path, palette) if kind == PNG else _read_itk(path)


@contextmanager
def _damage_reported(path: Path) -> Iterator[None]:
    """Turns a missing file, and whatever a reading library makes of a damaged one, into one FileError."""
    if not path.is_file():
        raise FileError(path, "expected this file, found none", "add it or leave the case out")
    try:
        yield
    except FileError:
        raise
    except (
        Exception
    ) as error:  # zlib, gzip, struct, nibabel, ITK and Pillow each have their own; any of them means this
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise FileError(
            path,
            f"expected a whole {ending(path)} file, could not read this one ({path.stat().st_size} bytes: {reason})",
            "it is damaged or cut off: copy or download it again",
        ) from error


def _nifti(path: Path) -> tuple[Any, Geometry]:
    with _damage_reported(path):
        nifti: Any = nib.load(path, mmap=False)
    shape = nifti.shape
    while len(shape) > 3 and shape[-1] == 1:  # "one time point" is how many tools write a volume
        shape = shape[:-1]
    if len(shape) not in (2, 3) or 0 in shape:
        raise FileError(
            path,
            f"expected one 3-D volume, found shape {' x '.join(map(str, nifti.shape))}",
            "save each channel or time point as a file of its own (CASE_0000.nii.gz, CASE_0001.nii.gz, ...)",
        )
    depth_height_width = (1, *reversed(shape))[-3:]
    affine = np.asarray(nifti.affine, np.float64)
    _check_affine(path, affine)
    return nifti, Geometry(depth_height_width, affine, str(ending(path)), nifti.header.copy())


def _read_nifti(path: Path) -> tuple[np.ndarray, Geometry]:
    nifti, geometry = _nifti(path)
    with _damage_reported(path):
        voxels = np.asanyarray(nifti.dataobj)
    return voxels.T.reshape(1, *geometry.shape), geometry


def _itk(path: Path) -> tuple[Any, Geometry]:
    with _damage_reported(path):
        reader = SimpleITK.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
    n = reader.GetDimension()
    if n not in (2, 3):
        raise FileError(path, f"expected one 3-D volume, found {n} dimensions", "save one file a channel or time point")
    return reader, _itk_geometry(path, reader, str(ending(path)))


def _read_itk(path: Path) -> tuple[np.ndarray, Geometry]:
    reader, geometry = _itk(path)
    with _damage_reported(path):
        voxels = SimpleITK.GetArrayFromImage(reader.Execute())
    components = voxels.reshape(*geometry.shape, reader.GetNumberOfComponents())
    return np.moveaxis(components, -1, 0), geometry


@contextmanager
def _same_locale() -> Iterator[None]:
    """ITK's reader of DICOM leaves the process in the locale C, where text files are ASCII."""
    before = locale.setlocale(locale.LC_ALL)
    try:
        yield
    finally:
        locale.setlocale(locale.LC_ALL, before)


@_same_locale()
def _dicom(folder: Path) -> tuple[Any, Geometry]:
    """The one series in a folder, its slices sorted by their positions."""
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
    return volume, _itk_geometry(folder, volume, ".dcm")


def _itk_geometry(path: Path, image: Any, suffix: str) -> Geometry:
    """The grid of an ITK image, or of a reader that has read the header."""
    n = image.GetDimension()
    lps = np.eye(4)
    lps[:n, :n] = np.reshape(image.GetDirection(), (n, n)) * image.GetSpacing()
    lps[:n, 3] = image.GetOrigin()
    affine = LPS_TO_RAS @ lps
    _check_affine(path, affine)
    return Geometry((1, *reversed(image.GetSize()))[-3:], affine, suffix)


def _read_png(path: Path, palette: bool) -> tuple[np.ndarray, Geometry]:
    with _damage_reported(path), PIL.Image.open(path) as picture:
        if picture.mode == "LA":  # how transparent a pixel is says nothing about the tissue
            pixels = np.asarray(picture.convert("L"))
        elif picture.mode in ("RGBA", "PA") or (picture.mode == "P" and not palette):
            pixels = np.asarray(picture.convert("RGB"))
        else:
            pixels = np.asarray(picture)
    channels = np.moveaxis(np.atleast_3d(pixels), -1, 0)[:, None]
    return channels, Geometry(channels.shape[1:], np.eye(4), PNG)


def _check_affine(path: Path, affine: np.ndarray) -> None:
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise FileError(
            path,
            f"expected an affine with a spacing above zero in each direction, found {affine[:3].tolist()}",
            "correct the header (spacing, qform, sform)",
        )


def _as_nifti(voxels: Shaped[np.ndarray, "width height depth *label"], geometry: Geometry) -> Any:
    """A NIfTI image with the geometry, and only the geometry, of the file that `geometry` came from."""
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
    return kind(voxels, geometry.affine, header)


def _grid(geometry: Geometry) -> str:
    return " x ".join(map(str, geometry.shape))


def _spacing(geometry: Geometry) -> str:
    return " x ".join(f"{mm:.3g}" for mm in geometry.spacing_mm)
