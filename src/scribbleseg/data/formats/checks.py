"""Checks that all formats share: damaged files, affines that no image can have, and two grids that should be one."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import numpy as np

from scribbleseg.data.formats.content import check_ending
from scribbleseg.data.formats.names import ending, what_is
from scribbleseg.files import FileError
from scribbleseg.types import Geometry

GRID_TOLERANCE = 0.1
"""Two grids are one if no corner lies further apart than this share of a voxel. Ours: far above the rounding of a
float32 header or of a quaternion (1e-3), far below the half voxel that would move a label."""

SMALLEST_MM, LARGEST_MM = 1e-7, 1e4
"""Voxels smaller than an angstrom or larger than 10 m along any axis are a mistake in a header (ours)."""

FLAT = 1e-6
"""Axes that span less of a voxel's volume than this, as a share of a box of its sizes, lie in one plane (ours)."""

MOST_VALUES = 2**29
"""The most values (voxels times channels) that are read from one file, of any format. Ours: a CT of the whole body, 512
x 512 x 2048, which takes 6 GiB at the 12 bytes a voxel that reading and checking need. A compressed file of half a
megabyte can claim as much and keep its word, so that there has to be a bound besides the length of the file."""

DEFLATE_RATIO = 1032
"""What deflate (gzip, zlib, PNG) compresses by at the most (https://zlib.net/zlib_tech.html)."""


@contextmanager
def damage_reported(path: Path) -> Iterator[None]:
    """Turns a missing file, one of another format than its name says, and a damaged one, into one FileError."""
    if not path.is_file():
        found = what_is(path)
        remedy = "give a regular file" if path.exists() else "add it or leave the case out"
        raise FileError(path, f"expected this file, found {found}", remedy)
    try:
        check_ending(path)
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


def check_claim(path: Path, sizes: Sequence[int], value_bits: int, there: int | None) -> None:
    """Raises FileError for a header that claims what cannot be, or more than is read; to be called before allocating.

    Args:
        path: the file, for the message.
        sizes: the numbers of voxels along each axis, and of channels.
        value_bits: the bits of one value.
        there: the most bytes that the file can hold once it is unpacked; None where nobody can tell.
    """
    claimed, values = " x ".join(map(str, sizes)), math.prod(sizes)
    again = "it is damaged or cut off: copy or download it again"
    if min(sizes, default=0) < 1:
        raise FileError(path, f"expected a size above zero along each axis, its header says {claimed}", again)
    if there is not None and values * value_bits > 8 * there:
        n_bytes = -(-values * value_bits // 8)
        problem = f"expected {n_bytes} bytes of voxels, as its header says ({claimed}), found a file that can hold"
        raise FileError(path, f"{problem} {max(there, 0)}", again)
    if values > MOST_VALUES:
        raise FileError(
            path,
            f"expected at most {MOST_VALUES} values (512 x 512 x 2048), its header says {claimed}",
            "crop it to the part that matters, or resample it to larger voxels",
        )


def in_millimetres(affine: np.ndarray, unit_mm: float | np.ndarray) -> np.ndarray:
    """Returns an affine in millimetres, given one unit of it in millimetres, along each axis of space or all three."""
    scaled = np.array(affine, np.float64)
    scaled[:3] *= np.broadcast_to(unit_mm, 3)[:, None]
    return scaled


def check_affine(path: Path, affine: np.ndarray) -> None:
    """Raises FileError for an affine that is not finite, makes a voxel flat, or has voxels of an absurd size."""
    finite = bool(np.isfinite(affine).all())
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if finite and sizes.all() and not ((sizes >= SMALLEST_MM) & (sizes <= LARGEST_MM)).all():
        raise absurd_size(path, sizes)
    if not finite or not sizes.all() or abs(np.linalg.det(affine[:3, :3] / sizes)) < FLAT:
        raise FileError(
            path,
            f"expected an affine with a spacing above zero in each direction, found {affine[:3].tolist()}",
            "correct the header (spacing, qform, sform)",
        )


def absurd_size(path: Path, sizes: Iterable[float]) -> FileError:
    """The error of a header with voxel sizes, in mm along its first, second and third axis, that no image has."""
    return FileError(
        path,
        f"expected voxels of {SMALLEST_MM:g} to {LARGEST_MM:g} mm along each axis, found "
        f"{' x '.join(f'{size:.3g}' for size in sizes)} mm",
        "correct the voxel size in the header, or its unit",
    )


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


def _grid(geometry: Geometry) -> str:
    return " x ".join(map(str, geometry.shape))


def _spacing(geometry: Geometry) -> str:
    return " x ".join(f"{mm:.3g}" for mm in geometry.spacing_mm)
