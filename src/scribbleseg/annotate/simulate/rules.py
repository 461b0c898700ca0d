"""Rules by which scribbles are drawn: where the curves of a structure and of the background run.

A rule is a frozen dataclass with a `kind`; `RULES` names the ones that the tables use.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import numpy as np
from scipy import ndimage
from skimage.measure import find_contours

from scribbleseg.annotate.simulate.curves import (
    EIGHT,
    Curve,
    Picture,
    around,
    eroded,
    largest_part,
    longest_loop,
    longest_path,
    longest_run,
    moved,
    parts,
    zigzag,
)
from scribbleseg.types import DataError

SMALLEST_PART = 0.1
"""Parts of a structure in a slice that are smaller than this share of its largest part are left alone: nobody scribbles
on specks. Ours."""


@dataclass(frozen=True)
class Rule(ABC):
    """The base of all rules: how much of each curve is drawn, how thick, and with which random numbers.

    Args:
        length: the share of each curve that is kept, as one piece at a random place; 0 keeps a single spot. One number,
            or one for each label, background first.
        width: the pen's, in pixels; it draws inside the structure only.
        seed: seed of the random numbers; not negative.
        every: the slices that may be drawn on are drawn on with a distance of so many, from half of it on; 1 is all.

    Raises:
        ValueError: a number is out of its range.
    """

    kind: str
    length: float | tuple[float, ...] = 1.0
    width: int = 1
    seed: int = 0
    every: int = 1

    def __post_init__(self) -> None:
        for length in self.length if isinstance(self.length, tuple) else (self.length,):
            if not 0 <= length <= 1:
                raise ValueError(f"expected a length in 0..1 (the share of each curve), got {length}")
        if self.width < 1:
            raise ValueError(f"expected a width of at least 1 pixel, got {self.width}")
        if self.seed < 0:
            raise ValueError(f"expected a seed of at least 0, got {self.seed}")
        if self.every < 1:
            raise ValueError(f"expected an every of at least 1, which is all slices, got {self.every}")

    def drawn_slices(self, depth: int) -> slice:
        """Returns which slices of a volume are drawn on: at least one."""
        return slice(min(self.every // 2, depth - 1), None, self.every)

    def length_of(self, label: int) -> float:
        """Returns the share that is kept of that label's curves. Raises ValueError where it has none."""
        if not isinstance(self.length, tuple):
            return self.length
        if label >= len(self.length):
            raise ValueError(f"expected a length for label {label}, got {len(self.length)} (0..{len(self.length) - 1})")
        return self.length[label]

    @abstractmethod
    def on_structure(self, structure: Picture, rng: np.random.Generator) -> Curve:
        """Returns curves on a structure (not empty), one after the other."""

    @abstractmethod
    def on_background(
        self, background: Picture, structures: Picture, place: Picture, rng: np.random.Generator
    ) -> Curve:
        """Returns curves on the background (not empty).

        Args:
            background: the background of the slice.
            structures: all structures of the slice.
            place: the pixels where any slice of the volume has a structure.
            rng: the only source of variation.
        """


@dataclass(frozen=True)
class Skeleton(Rule):
    """One curve along the middle of each structure, one loop around all of them.

    Structures: each part is eroded by a pixel (unless that would break it), skeletonised, and the longest path through
    the skeleton is kept. In a round part, whose skeleton is little more than a point, a loop half-way to its border is
    drawn instead. Background: a wobbly loop around the structures, 0.3 to 0.6 times their radius away; in a slice
    without structures a zigzag over the place where other slices have them; along the middle of the background where
    there is no room for either. Loops, zigzag and their sizes are ours, after the habits of ACDC's experts (Valvano et
    al. 2021, doi:10.1109/TMI.2021.3069634), whose lines are one pixel wide.
    """

    kind: Literal["skeleton"] = "skeleton"

    def on_structure(self, structure: Picture, rng: np.random.Generator) -> Curve:
        """Returns the middle line of each part, or a loop in a round one."""
        return np.concatenate([_line_or_loop(part, rng) for part in parts(structure, SMALLEST_PART)])

    def on_background(
        self, background: Picture, structures: Picture, place: Picture, rng: np.random.Generator
    ) -> Curve:
        """Returns a loop around the structures, or a zigzag."""
        curve = around(structures, rng) if structures.any() else zigzag(place, rng)
        return curve if background[tuple(curve.T)].any() else longest_path(largest_part(background), rng)


@dataclass(frozen=True)
class Boundary(Skeleton):
    """The strokes of `Skeleton`, and beside each a short one that follows the border from inside its region.

    After the interior and boundary scribbles of ScribbleBench (Gotkowski et al. 2024, arXiv:2403.12834). Each part of a
    structure, and the background around the structures, has one piece of the line that runs `depth` pixels inside its
    border: such a stroke tells a network where the border is, which no stroke along the middle does. What is thinner
    than that has its innermost line instead. The middle lines, loops and zigzags are ours.

    `length` keeps one piece of all strokes laid end to end, and so not a share of each.

    Args:
        depth: smallest and largest distance from the border, in pixels; uniform between them.
        share: smallest and largest share of that line that is drawn; uniform between them.
    """

    kind: Literal["boundary"] = "boundary"  # type: ignore[assignment]
    width: int = 3
    depth: tuple[float, float] = (1.0, 3.0)
    share: tuple[float, float] = (0.07, 0.15)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.depth[0] <= self.depth[1]:
            raise ValueError(f"expected a depth of two positive numbers in order, got {self.depth}")
        if not 0 < self.share[0] <= self.share[1] <= 1:
            raise ValueError(f"expected a share of two numbers in order, above 0 and up to 1, got {self.share}")

    def on_structure(self, structure: Picture, rng: np.random.Generator) -> Curve:
        """Returns the middle line of each part, and a piece of the line along its border."""
        curves = [super().on_structure(structure, rng)]
        curves += [self._along(part, rng) for part in parts(structure, SMALLEST_PART)]
        return np.concatenate(curves)

    def on_background(
        self, background: Picture, structures: Picture, place: Picture, rng: np.random.Generator
    ) -> Curve:
        """Returns a loop or a zigzag, and a piece of the line around the structures where there are any."""
        curve = super().on_background(background, structures, place, rng)
        return np.concatenate([curve, self._along(~structures, rng)]) if structures.any() else curve

    def _along(self, region: Picture, rng: np.random.Generator) -> Curve:
        """Returns a piece of the line that runs inside the region's border; the picture's own border is none."""
        wide = np.pad(region, 1, mode="edge")
        inside = ndimage.distance_transform_edt(wide)[1:-1, 1:-1] if not wide.all() else np.zeros(region.shape)
        # A pixel beside the border is at distance 1: 0.5 pixels inside it.
        level = min(rng.uniform(*self.depth) + 0.5, 0.9 * inside.max())
        contours = find_contours(inside, level)
        if not contours:
            return np.empty((0, 2), int)
        line = longest_loop(contours, rng)
        start, share = rng.random(), rng.uniform(*self.share)
        kept = max(1, round(share * len(line)))
        first = round(start * (len(line) - kept))
        return line[first : first + kept]


@dataclass(frozen=True)
class ShiftedSkeleton(Rule):
    """The skeleton of each structure, and of the background far from all structures, moved at random.

    Ji et al. 2019, section 3 (arXiv:1911.02014). A structure is eroded by 3 x 3 pixels and skeletonised; branches are
    cut so that one curve is left, 3 pixels wide, which is shifted by -20 to 20 pixels along each axis and turned by -30
    to 30 degrees, inside the structure. Background gets the same, eroded by 30 x 30 pixels. Pixels are those of BraTS'
    axial slices (1 mm): on a coarser grid, give smaller numbers.

    Ours, where the section leaves it open: each part of a structure is a structure (specks are left alone) and has a
    curve in the largest piece that erosion leaves of it. Where erosion leaves nothing, half its size is tried, and so
    on. Turns are about the curve's mean. Of a moved curve the longest piece in the eroded part is drawn; a move that
    leaves less than half of the curve is halved until it does not, so that small structures get small moves and each
    gets its curve.

    Args:
        erosion: side in pixels of the square that structures are eroded by.
        background_erosion: side in pixels of the square that background is eroded by.
        shift: largest shift along each axis, in pixels.
        rotation: largest turn, in degrees.
    """

    kind: Literal["shifted_skeleton"] = "shifted_skeleton"
    width: int = 3
    erosion: int = 3
    background_erosion: int = 30
    shift: float = 20.0
    rotation: float = 30.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, lowest in (("erosion", 1), ("background_erosion", 1), ("shift", 0), ("rotation", 0)):
            if not (value := getattr(self, name)) >= lowest:
                raise ValueError(f"expected a {name} of at least {lowest}, got {value}")

    def on_structure(self, structure: Picture, rng: np.random.Generator) -> Curve:
        """Returns one moved curve for each part."""
        return self._curves(structure, self.erosion, rng)

    def on_background(
        self, background: Picture, structures: Picture, place: Picture, rng: np.random.Generator
    ) -> Curve:
        """Returns the same as on a structure, farther from the border."""
        return self._curves(background, self.background_erosion, rng)

    def _curves(self, region: Picture, erosion: int, rng: np.random.Generator) -> Curve:
        box = ndimage.find_objects(region.astype(np.uint8))[0]
        curves = []
        for part in parts(region[box], SMALLEST_PART):
            inner = largest_part(eroded(part, erosion))
            curves.append(self._moved(longest_path(inner, rng), inner, rng))
        return np.concatenate(curves) + [side.start for side in box]

    def _moved(self, curve: Curve, region: Picture, rng: np.random.Generator) -> Curve:
        move = rng.uniform(-1, 1, 3) * (self.shift, self.shift, self.rotation)
        while np.abs(move).max() >= 0.5:  # less moves no pixel of most curves
            whole = moved(curve, move[:2], move[2])
            inside = longest_run(whole, region)
            if 2 * len(inside) >= len(whole):
                return inside
            move /= 2
        return curve


RULES: dict[str, Rule] = {
    "full": Skeleton(),
    "half": Skeleton(length=0.5),
    "quarter": Skeleton(length=0.25),
    "spots": Skeleton(length=0.0, width=4),  # one disc of 13 pixels per structure and slice, and one of background
    "boundary": Boundary(),
    "ji2019": ShiftedSkeleton(),
}

AnyRule = TypeVar("AnyRule", bound=Rule)


def with_lengths(rule: AnyRule, lengths: Sequence[str], label_names: Sequence[str]) -> AnyRule:
    """Returns the rule with lengths as people type them: "0.5" for all labels, "WT=0.25" for one of them.

    Args:
        rule: the rule; labels that `lengths` does not name keep its own length.
        lengths: one for all labels or none, and one or none for each label.
        label_names: names of the labels that are drawn, background first.

    Raises:
        DataError: not a share, no such label, or one that stands twice; or a rule that has lengths of its own.
    """
    if lengths and isinstance(rule, Boundary):
        raise DataError(
            f"--length: expected none with the rule {rule.kind}, whose strokes along the border have shares of their "
            f"own, got {', '.join(lengths)}; take the rule full"
        )
    found: dict[str, float] = {}
    for text in lengths:
        name, equals, number = text.rpartition("=")
        try:
            share = float(number)
        except ValueError:
            share = -1.0
        if not 0 <= share <= 1 or (equals and name not in label_names):
            raise DataError(
                f'expected a length such as "0.5" or "{label_names[-1]}=0.5", in 0..1, with a label among '
                f'{", ".join(label_names)}; got "{text}"'
            )
        if name in found:
            raise DataError(f'expected one length for {name or "all labels"}, got "{text}" as well; keep one')
        found[name] = share
    each = tuple(found.get(name, found.get("", rule.length_of(label))) for label, name in enumerate(label_names))
    return replace(rule, length=each[0] if len(set(each)) == 1 else each)


def _line_or_loop(part: Picture, rng: np.random.Generator) -> Curve:
    """Returns the middle line of a part; a loop half-way to its border where that line is little more than a point."""
    inner = ndimage.binary_erosion(part)
    path = longest_path(inner if ndimage.label(inner, EIGHT)[1] == 1 else part, rng)
    depth = ndimage.distance_transform_edt(np.pad(part, 1))[1:-1, 1:-1]
    is_round = len(path) < depth.max() and depth.max() > 3
    return longest_loop(find_contours(depth, depth.max() / 2), rng) if is_round else path
