"""In which plane of a volume somebody drew, read off the strokes."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from scipy import ndimage

from scribbleseg.data.orientation import Plane, codes, has_no_own_slices, plane
from scribbleseg.types import UNLABELLED, Cases, Geometry, Labels, spread

LOOKED_AT, SLICES = 5, 64
"""So many drawn volumes are looked at, and so many slices of each along every axis at most; ours."""

CLEARLY = 0.2
"""Strokes are of a plane in whose slices they are at most this share of the pieces that they are in those of either
other; ours. Lines in every slice of a brain, or in every third, have 0.01 to 0.06."""

WIDE, FILLED = 5, 0.05
"""What is left of strokes after an erosion by so many pixels a side is at most this share of them; ours. The same line
in every slice is an area, which nobody drew, in the plane that it lies in."""


def drawn_plane(cases: Cases, geometries: Mapping[str, Geometry] | None = None) -> Plane | None:
    """The plane that most of these cases were drawn on in, if their voxels do not say how they are sliced.

    Args:
        cases: a few that are drawn on are looked at; none where half or more have slices of their own, are oblique, or
            lie nobody knows how.
        geometries: the grid of each by its name, where they have been read already.

    Returns:
        None where nothing says, and where as many were drawn on in one plane as in another.

    Raises:
        DataError: a case that is looked at cannot be read.
    """
    grids = geometries or {name: cases.geometry(name) for name in cases.names}
    votes: Counter[Plane | None] = Counter()
    for name in _from_everywhere(left_open(grids)):
        scribbles = cases.named(name).scribbles
        if (scribbles != UNLABELLED).any():
            votes[plane_of_strokes(scribbles, grids[name])] += 1
        if votes.total() == LOOKED_AT:
            break
    del votes[None]
    (usual, most), (_, second) = [*votes.most_common(2), (None, 0), (None, 0)][:2]
    return usual if most > second else None


def left_open(geometries: Mapping[str, Geometry]) -> list[str]:
    """The names of the volumes whose plane strokes may tell: those without slices of their own, where they are most."""
    names = [name for name, geometry in geometries.items() if has_no_own_slices(geometry)]
    return names if 2 * len(names) > len(geometries) else []


def _from_everywhere(names: Sequence[str]) -> Iterator[str]:
    """All of the names, some that are spread evenly first."""
    first = spread(names, LOOKED_AT)
    yield from first
    yield from (name for name in names if name not in first)


def plane_of_strokes(scribbles: Labels, geometry: Geometry) -> Plane | None:
    """The plane of the slices that somebody drew in; arguments and None as in `drawn_axis`."""
    axis = drawn_axis(scribbles, geometry)
    return None if axis is None else plane(codes(geometry)[axis])


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
    stacks = [np.moveaxis(drawn, axis, 0) for axis in range(3)]
    occupied = [np.flatnonzero(stack.any(axis=(1, 2))) for stack in stacks]
    some = [stack[spread(places.tolist(), SLICES)] for stack, places in zip(stacks, occupied, strict=True)]
    pieces = [
        len(places) * np.mean([ndimage.label(slice_, np.ones((3, 3)))[1] for slice_ in looked_at])
        for places, looked_at in zip(occupied, some, strict=True)
    ]
    axis = int(np.argmin(pieces))
    inside = ndimage.binary_erosion(some[axis], np.ones((1, WIDE, WIDE)))
    thin = inside.sum() <= FILLED * some[axis].sum()
    return axis if thin and pieces[axis] <= CLEARLY * sorted(pieces)[1] else None
