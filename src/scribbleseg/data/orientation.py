"""Which way volumes are looked at: along which axis they are cut into slices, and which side of a slice is which.

Files store the same anatomy in any order of axes. A network is trained and used on slices of one plane in one
orientation; label maps go back to the order of the image that they belong to.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import nibabel as nib
import numpy as np
from pydantic import AfterValidator

from scribbleseg.data.formats.names import PICTURES
from scribbleseg.types import Geometry

Plane = Literal["axial", "coronal", "sagittal", "stored"]

ACROSS: dict[Plane, str] = {"axial": "SI", "coronal": "AP", "sagittal": "LR"}
"""The anatomical axis, by its two ends, that slices of a plane are stacked along."""


def _each_axis_once(value: str) -> str:
    if sorted(next((plane for plane, ends in ACROSS.items() if end in ends), "?") for end in value) != sorted(ACROSS):
        raise ValueError(f"expected an end of each of {', '.join(ACROSS.values())}, such as SPL, got {value}")
    return value


Orientation = Annotated[str, AfterValidator(_each_axis_once)]
"""What depth, height and width grow towards: superior or inferior, anterior or posterior, left or right, each once."""

OPPOSITE = dict(zip("SIAPLR", "ISPARL", strict=True))
"""The other end of each anatomical axis."""

LOOKED_AT = {"axial": "PL", "coronal": "IL", "sagittal": "IP"}
"""What height and width of a slice grow towards where people look at it, by its plane: the patient's right is on the
left and the front or the head on top, which is the radiologists' convention."""

THICK = 1.5
"""Slices are stacked along an axis whose voxels are so many times as long as along both others; ours."""

OBLIQUE = 0.8
"""An axis whose direction has a smaller cosine with the nearest anatomical one is oblique; ours, 37 degrees. A heart's
short axis is: which way it should be turned is not clear, so it is left as it is."""


@dataclass(frozen=True)
class Turn:
    """How the last three axes of an array, `depth height width` as stored, are brought into another orientation.

    Args:
        axes: the stored axis that becomes depth, height and width.
        flips: which of these are reversed after that.
    """

    axes: tuple[int, int, int] = (0, 1, 2)
    flips: tuple[bool, bool, bool] = (False, False, False)

    def __call__(self, array: np.ndarray) -> np.ndarray:
        """The array in the new orientation; a view."""
        first = array.ndim - 3
        turned = array.transpose(*range(first), *(first + axis for axis in self.axes))
        return np.flip(turned, tuple(first + n for n, flip in enumerate(self.flips) if flip))

    def back(self, array: np.ndarray) -> np.ndarray:
        """The array as it would be stored, contiguous: undoes the turn."""
        first = array.ndim - 3
        stored = np.flip(array, tuple(first + n for n, flip in enumerate(self.flips) if flip))
        order = [first + axis for axis in np.argsort(self.axes).tolist()]
        return np.ascontiguousarray(stored.transpose(*range(first), *order))

    def shape(self, geometry: Geometry) -> tuple[int, int, int]:
        """Depth, height and width in voxels after the turn."""
        depth, height, width = (geometry.shape[axis] for axis in self.axes)
        return depth, height, width

    def spacing_mm(self, geometry: Geometry) -> tuple[float, float, float]:
        """The voxel size along depth, height and width after the turn."""
        depth, height, width = (geometry.spacing_mm[axis] for axis in self.axes)
        return depth, height, width


def codes(geometry: Geometry) -> str:
    """The anatomical directions that depth, height and width grow towards as stored, such as "SPL"."""
    return "".join(code or "?" for code in reversed(nib.aff2axcodes(geometry.affine)))


def plane(orientation: str) -> Plane:
    """The plane of slices of an orientation such as "SPL": axial, coronal or sagittal."""
    return next((plane for plane, ends in ACROSS.items() if orientation[0] in ends), "stored")


def common_orientation(geometries: Iterable[Geometry], asked: Plane | None = None) -> str | None:
    """The orientation that most of the volumes have, such as "SPL": what depth, height and width grow towards.

    Where most are stored as they are sliced, that is the stored one, so that nothing is turned.

    Args:
        geometries: those of the training cases.
        asked: the plane of the slices; None takes the through-plane axis that most volumes have.

    Returns:
        None where nothing is to be turned: for the plane "stored", and where nobody knows which way volumes lie.
    """
    placed = [geometry for geometry in geometries if _placed(geometry)]
    votes = Counter("".join(codes(geometry)[axis] for axis in _order(geometry)) for geometry in placed)
    if not votes or asked == "stored":
        return None
    usual = votes.most_common(1)[0][0]
    if asked is None:
        return usual
    return "".join(sorted(usual, key=lambda end: end not in ACROSS[asked]))  # the others keep their order


def turn_to(orientation: str | None, geometry: Geometry, asked: Plane | None = None) -> Turn:
    """How a volume is brought into an orientation.

    Pictures and arrays are not turned: nobody knows which way they lie.

    Slices are stacked along its own through-plane axis where it has one. Where it has none, or a plane is `asked` for,
    they are stacked along the orientation's. Oblique volumes keep theirs, or the first, and their sides are not turned.

    Args:
        orientation: what `common_orientation` gave.
        geometry: the volume's, as stored.
        asked: the plane of the slices, if a recipe names one.
    """
    own = codes(geometry)
    if orientation is None or not _placed(geometry):
        return Turn()
    if _oblique(geometry):
        return Turn(tuple(_order(geometry)))  # type: ignore[arg-type]
    depth = None if asked else _through_plane(geometry)
    if depth is None:
        depth = _along(own, orientation[0])
    wanted = sorted(orientation, key=lambda end: _along(own, end) != depth)
    axes = tuple(_along(own, end) for end in wanted)
    flips = tuple(own[axis] != end for axis, end in zip(axes, wanted, strict=True))
    return Turn(axes, flips)  # type: ignore[arg-type]


def looked_at(geometry: Geometry, turn: Turn) -> Turn:
    """How a volume is brought into slices for people to look at (`LOOKED_AT`), which count as they are stored.

    What nobody knows the sides of, pictures and arrays, and oblique volumes are only cut into slices.

    Args:
        geometry: the volume's, as stored.
        turn: cuts it into the slices that are to be looked at.
    """
    if not _placed(geometry) or _oblique(geometry):
        return turn
    own, depth = codes(geometry), turn.axes[0]
    wanted = LOOKED_AT[plane(own[depth])]
    height, width = (_along(own, end) for end in wanted)
    return Turn((depth, height, width), (False, own[height] != wanted[0], own[width] != wanted[1]))


def sides(geometry: Geometry, turn: Turn) -> str:
    """The patient's sides at the left, the right, the top and the bottom of a slice after a turn, such as "RLAP".

    Returns:
        "" where nobody knows them: for pictures, arrays and oblique volumes.
    """
    if not _placed(geometry) or _oblique(geometry):
        return ""
    own = codes(geometry)
    ends = [own[axis] for axis in turn.axes]
    _, bottom, right = (OPPOSITE[end] if flip else end for end, flip in zip(ends, turn.flips, strict=True))
    return OPPOSITE[right] + right + OPPOSITE[bottom] + bottom


def has_no_own_slices(geometry: Geometry) -> bool:
    """Whether a volume may be cut into slices of any plane: its voxels do not say of which, and it is not oblique."""
    return _placed(geometry) and not _oblique(geometry) and _through_plane(geometry) is None


def _order(geometry: Geometry) -> list[int]:
    """The stored axes with the through-plane one first, or as they are where nothing says which that is."""
    depth = _through_plane(geometry) or 0
    return [depth, *(axis for axis in range(3) if axis != depth)]


def is_picture(geometry: Geometry) -> bool:
    """Whether it is a picture or an array, whose file says nothing of where it lies or how long its pixels are."""
    return geometry.suffix in ("", *PICTURES)


def unit_of(geometry: Geometry) -> str:
    """What lengths on this grid are measured in: "mm", or "px" for a picture without a scale."""
    return "px" if is_picture(geometry) else "mm"


def _placed(geometry: Geometry) -> bool:
    """Whether the file says which way it lies: pictures and arrays do not."""
    return not is_picture(geometry) and "?" not in codes(geometry)


def _through_plane(geometry: Geometry) -> int | None:
    """The stored axis of a single voxel, or whose voxels are much longer than along both others, or None."""
    return geometry.shape.index(1) if 1 in geometry.shape else thick_axis(geometry.spacing_mm)


def thick_axis(spacing_mm: Sequence[float]) -> int | None:
    """The axis along which voxels are much longer than along both others, or None."""
    longest = int(np.argmax(spacing_mm))
    others = max(size for axis, size in enumerate(spacing_mm) if axis != longest)
    return longest if spacing_mm[longest] >= THICK * others else None


def _along(own: str, end: str) -> int:
    """The stored axis that runs along the same anatomical axis as this end of it."""
    ends = next(ends for ends in ACROSS.values() if end in ends)
    return next(axis for axis, code in enumerate(own) if code in ends)


def is_oblique(geometry: Geometry) -> bool:
    """Whether a volume lies askew, so that its slices have no plane with a name: it is cut as its file has it."""
    return _placed(geometry) and _oblique(geometry)


def _oblique(geometry: Geometry) -> bool:
    directions = geometry.affine[:3, :3] / np.linalg.norm(geometry.affine[:3, :3], axis=0)
    return bool((np.abs(directions).max(axis=0) < OBLIQUE).any())
