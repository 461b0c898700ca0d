"""In which plane of a volume somebody drew, read off the strokes."""

from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np
from scipy import ndimage

from scribbleseg.data.orientation import Plane, codes, has_no_own_slices, plane, slice_axis
from scribbleseg.types import UNLABELLED, Cases, Geometry, Labels, spread

LOOKED_AT, SLICES = 3, 64
"""So many volumes are looked at, and so many slices of each along every axis at most; ours."""

CLEARLY = 0.2
"""Strokes are of a plane in whose slices they are at most this share of the pieces that they are in those of either
other; ours. Lines in every slice of a brain, or in every third, have 0.01 to 0.06."""

WIDE, FILLED = 5, 0.05
"""What is left of strokes after an erosion by so many pixels a side is at most this share of them; ours. The same line
in every slice is an area, which nobody drew, in the plane that it lies in."""


def drawn_plane(cases: Cases, geometries: Mapping[str, Geometry] | None = None) -> Plane | None:
    """The plane that most of these cases were drawn on in, if their voxels do not say how they are sliced.

    Args:
        cases: a few of them are read; none where most have thick slices, or nobody knows which way they lie.
        geometries: the grid of each by its name, where they have been read already.

    Returns:
        None where nothing says.
    """
    grids = geometries or {name: cases.geometry(name) for name in cases.names}
    return usual_plane(grids, lambda name: plane_of_strokes(cases.named(name).scribbles, grids[name]))


def usual_plane(geometries: Mapping[str, Geometry], drawn_in: Callable[[str], Plane | None]) -> Plane | None:
    """The same, of grids by their names and a function that says in which plane somebody drew on one of them."""
    left_open = [name for name, geometry in geometries.items() if has_no_own_slices(geometry)]
    if 2 * len(left_open) <= len(geometries):
        return None
    votes = Counter(plane for name in spread(left_open, LOOKED_AT) if (plane := drawn_in(name)) is not None)
    return votes.most_common(1)[0][0] if votes else None


def plane_of_strokes(scribbles: Labels, geometry: Geometry) -> Plane | None:
    """The plane of the slices that somebody drew in; arguments and None as in `drawn_axis`."""
    axis = drawn_axis(scribbles, geometry)
    return None if axis is None else plane(codes(geometry)[axis])


def stacked_along(scribbles: Labels, geometry: Geometry) -> int:
    """The stored axis that a volume's slices are stacked along, by its voxels or else by its strokes.

    It is the first where neither says.
    """
    drawn = drawn_axis(scribbles, geometry)
    return slice_axis(geometry) if drawn is None else drawn


def drawn_axis(scribbles: Labels, geometry: Geometry) -> int | None:
    """The stored axis that the slices in which somebody drew are stacked along, where the voxels do not say which.

    A stroke is one piece in the slice that it was drawn in, and is cut to pieces by the slices of both other planes.

    Args:
        scribbles: uint8 `depth height width`.
        geometry: the volume's, as stored.

    Returns:
        None where it is not clear, and for a volume that has slices of its own, is oblique, or lies nobody knows how.
    """
    drawn = scribbles != UNLABELLED
    if not has_no_own_slices(geometry) or not drawn.any():
        return None
    drawn = drawn[ndimage.find_objects(drawn.view(np.uint8))[0]]
    stacks = [_some_slices(np.moveaxis(drawn, axis, 0)) for axis in range(3)]
    pieces = [
        side * np.mean([ndimage.label(slice_, np.ones((3, 3)))[1] for slice_ in stack])
        for side, stack in zip(drawn.shape, stacks, strict=True)
    ]
    axis = int(np.argmin(pieces))
    inside = ndimage.binary_erosion(stacks[axis], np.ones((1, WIDE, WIDE)))
    thin = inside.sum() <= FILLED * stacks[axis].sum()
    return axis if thin and pieces[axis] <= CLEARLY * sorted(pieces)[1] else None


def _some_slices(stack: np.ndarray) -> np.ndarray:
    return stack[np.linspace(0, len(stack) - 1, min(len(stack), SLICES)).round().astype(int)]
