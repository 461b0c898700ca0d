"""Chooses between 2-D and 3-D from the data: how far apart slices are, and how many there are. Cuts large volumes."""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from scribbleseg.data.preprocess import Preprocess
from scribbleseg.types import Cases

THICK = 3.0
"""Slices that are farther apart than so many pixels are large say little of each other (Isensee et al. 2021)."""

FEWEST = 16
"""Slices that a block of a 3-D network should have, at least (ours)."""

MULTIPLE = 4
"""The depth of a block is a multiple of this, so that it can be halved twice (ours)."""

VOXELS = 2**20
"""Voxels that are worked on together in 3-D, about (ours)."""

SHALLOWEST = 8
"""Slices of a part of a volume, at least (ours)."""


def parts(slices: int, pixels: int) -> Iterator[tuple[slice, slice]]:
    """Cuts a volume of more than VOXELS into overlapping parts, for what looks at voxels near each other.

    Args:
        slices: how many the volume has.
        pixels: how many a slice has.

    Yields:
        Which slices a part sees, and which of them it gives: at most as many again, half of them beyond either end.
        Those that are given are all slices, in their order.
    """
    step, margin = slices, 0
    if slices * pixels > VOXELS:
        step = max(SHALLOWEST, VOXELS // pixels) // 2
        margin = step // 2
    for start in range(0, slices, max(step, 1)):
        stop = min(slices, start + step)
        yield slice(max(0, start - margin), min(slices, stop + margin)), slice(start, stop)


@dataclass(frozen=True)
class Stacks:
    """What the stacks of slices of a data set are like.

    Args:
        slices: the median number of slices.
        distance_mm: the median distance of two slices.
        pixel_mm: the median side of a pixel.
    """

    slices: int | float
    distance_mm: float
    pixel_mm: float

    @classmethod
    def of(cls, cases: Cases, grid: Preprocess) -> "Stacks":
        """Those of the cases: slices as a grid that is resolved has them, pixels as they are. Raises DataError."""
        geometries = [cases.geometry(name) for name in cases.names]
        return cls(
            median(grid.depth(each) for each in geometries),
            median(grid.voxel_mm(each)[0] for each in geometries),
            median(side for each in geometries for side in grid.turn(each).spacing_mm(each)[1:]),
        )

    @property
    def dimensions(self) -> int:
        """3 where slices lie at most 3 pixels apart and there are 16 of them or more, else 2."""
        flat = self.slices < FEWEST or self.distance_mm > THICK * self.pixel_mm
        return 2 if flat else 3

    @property
    def advice(self) -> str:
        """The rule's choice in a sentence, with its reason; "" for single slices, such as pictures."""
        if self.slices <= 1:
            return ""
        stack = f"slices are {self.distance_mm / self.pixel_mm:.1f} pixels apart and a case has {self.slices:g} of them"
        if self.dimensions == 2:
            return f"Dimensions: 2-D, for {stack}; 3-D is for {FEWEST} slices or more, at most {THICK:g} pixels apart."
        return (
            f"Dimensions: 3-D or 2-D, for {stack}: --recipe default.quick3d is worth a try on a GPU; on a CPU it was "
            "worse than 2-D in the same time."
        )

    def block_depth(self, side: int, pixel_mm: float) -> int:
        """The slices of a block that is as deep as wide, but no deeper than the stack: a multiple of 4, at least 4."""
        depth = min(side * pixel_mm / self.distance_mm, self.slices)
        return max(MULTIPLE, MULTIPLE * round(depth / MULTIPLE))

    def are_exceeded(self, depth: int) -> bool:
        """Whether blocks of so many slices are twice as deep as the stacks, and as the shallowest block, or deeper."""
        return depth >= 2 * max(MULTIPLE, self.slices)
