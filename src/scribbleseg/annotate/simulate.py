"""Scribbles drawn by rule: from reference masks, or by shortening the scribbles that experts drew.

A rule is a frozen dataclass with a `kind`; `RULES` names the ones that the tables use. Everything is drawn slice by
slice, as people do. What is drawn depends on the mask, the rule and the case's name only, and a shorter version of a
rule is a part of the longer one, so that a table over lengths compares lengths and nothing else.
"""

import json
import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from jaxtyping import Bool
from rich.progress import track
from scipy import ndimage
from skimage.measure import find_contours

from scribbleseg.annotate.curves import (
    EIGHT,
    Curve,
    Picture,
    around,
    eroded,
    inked,
    largest_part,
    longest_loop,
    longest_path,
    longest_run,
    moved,
    ordered,
    parts,
    zigzag,
)
from scribbleseg.data import coarse
from scribbleseg.data.present import read_present, write_present
from scribbleseg.data.volumes import atomically, write_labels
from scribbleseg.types import UNLABELLED, Case, DataError, Dataset, Image, Labels

Source = Literal["masks", "scribbles"]
Drawn = Literal["scribbled", "all"]

SMALLEST_PART = 0.1
"""Parts of a structure in a slice that are smaller than this share of its largest part are left alone: nobody scribbles
on specks. Ours."""


@dataclass(frozen=True)
class Rule(ABC):
    """What all rules share: how much of each curve is drawn, how thick, and with which random numbers.

    Args:
        length: the share of each curve that is kept, as one piece at a random place; 0 keeps a single spot. One number,
            or one for each label, background first.
        width: of the pen, in pixels, kept inside the structure.
        seed: not negative.

    Raises:
        ValueError: a number is out of its range.
    """

    kind: str
    length: float | tuple[float, ...] = 1.0
    width: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for length in self.length if isinstance(self.length, tuple) else (self.length,):
            if not 0 <= length <= 1:
                raise ValueError(f"expected a length in 0..1 (the share of each curve), got {length}")
        if self.width < 1:
            raise ValueError(f"expected a width of at least 1 pixel, got {self.width}")
        if self.seed < 0:
            raise ValueError(f"expected a seed of at least 0, got {self.seed}")

    def length_of(self, label: int) -> float:
        """The share that is kept of that label's curves. Raises ValueError where there are lengths for fewer labels."""
        if not isinstance(self.length, tuple):
            return self.length
        if label >= len(self.length):
            raise ValueError(f"expected a length for label {label}, got {len(self.length)} (0..{len(self.length) - 1})")
        return self.length[label]

    @abstractmethod
    def on_structure(self, structure: Picture, rng: np.random.Generator) -> Curve:
        """Curves on a structure (not empty), one after the other."""

    @abstractmethod
    def on_background(
        self, background: Picture, structures: Picture, place: Picture, rng: np.random.Generator
    ) -> Curve:
        """Curves on the background (not empty). `structures`: of the slice; `place`: of all slices."""


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
        """The middle line of each part, or a loop in a round one."""
        return np.concatenate([_line_or_loop(part, rng) for part in parts(structure, SMALLEST_PART)])

    def on_background(
        self, background: Picture, structures: Picture, place: Picture, rng: np.random.Generator
    ) -> Curve:
        """A loop around the structures, or a zigzag."""
        curve = around(structures, rng) if structures.any() else zigzag(place, rng)
        return curve if background[tuple(curve.T)].any() else longest_path(largest_part(background), rng)


@dataclass(frozen=True)
class ShiftedSkeleton(Rule):
    """The skeleton of each structure, and of the background far from any, moved at random.

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
        background_erosion: of the one for background.
        shift: largest, in pixels, along each axis.
        rotation: largest, in degrees.
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
        """One moved curve for each part."""
        return self._curves(structure, self.erosion, rng)

    def on_background(
        self, background: Picture, structures: Picture, place: Picture, rng: np.random.Generator
    ) -> Curve:
        """The same as on a structure, farther from the border."""
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
    "ji2019": ShiftedSkeleton(),
}

AnyRule = TypeVar("AnyRule", bound=Rule)


def with_lengths(rule: AnyRule, lengths: Sequence[str], label_names: Sequence[str]) -> AnyRule:
    """The rule with lengths as people type them: "0.5" for all labels, "WT=0.25" for one of them.

    Args:
        rule: its own length is that of labels that nothing is said about.
        lengths: at most one for all labels, at most one for each.
        label_names: of what is drawn, background first.

    Raises:
        DataError: not a share, no such label, or one that stands twice.
    """
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


def simulate(
    mask: Labels, rule: Rule, name: str, inside: Bool[np.ndarray, "depth height width"] | None = None
) -> Labels:
    """Scribbles such as a person would draw on a volume whose full mask is known.

    Args:
        mask: `depth height width`; 0 background, 1.. structures. Nothing is drawn where it is UNLABELLED.
        rule: how to draw.
        name: of the case; another case with the same seed gets other random numbers.
        inside: of the same shape: where background may be drawn on, such as the brain. None is everywhere.

    Returns:
        Of the same shape: equal to `mask` where drawn, UNLABELLED elsewhere. Every structure of a slice is drawn on,
        a structure of one voxel too; so is the background of every slice that has any.

    Raises:
        ValueError: `inside` has another shape, or the rule has lengths for fewer labels than there are.
    """
    if inside is not None and inside.shape != mask.shape:
        raise ValueError(f"expected `inside` of the mask's shape {mask.shape}, got {inside.shape}")
    rng = _generator(rule, name)
    scribbles = np.full_like(mask, UNLABELLED)
    structures = (mask > 0) & (mask != UNLABELLED)
    place = structures.any(axis=0)
    for z, labels in enumerate(mask):
        for value in np.unique(labels[structures[z]]).tolist():
            structure = labels == value
            curve = rule.on_structure(structure, rng)
            scribbles[z][_drawn(curve, structure, rule, value, rng)] = value
        background = labels == 0 if inside is None else (labels == 0) & inside[z]
        if background.any():
            curve = rule.on_background(background, structures[z], place, rng)
            scribbles[z][_drawn(curve, background, rule, 0, rng)] = 0
    return scribbles


def shorten(scribbles: Labels, rule: Rule, name: str) -> Labels:
    """A part of scribbles that somebody drew: what the same person would have left with less patience.

    In each slice the strokes of a label are laid end to end, each along the longest path through its skeleton, and one
    piece of that is kept: `rule.length` of its pixels, in the pen's own width. Of a spot, what lies on the strokes
    within `rule.width / 2` is kept.

    Args:
        scribbles: `depth height width`; labels, and UNLABELLED where nobody drew.
        rule: how much to keep.
        name: of the case.

    Returns:
        Of the same shape: equal to `scribbles` where kept, UNLABELLED elsewhere.

    Raises:
        ValueError: the rule has lengths for fewer labels than there are.
    """
    rng = _generator(rule, name)
    kept = np.full_like(scribbles, UNLABELLED)
    for z, labels in enumerate(scribbles):
        for value in np.unique(labels[labels != UNLABELLED]).tolist():
            drawn = labels == value
            strokes = np.concatenate([ordered(stroke, rng) for stroke in parts(drawn)])
            kept[z][_drawn(strokes, drawn, rule, value, rng)] = value
    return kept


def drawn_in(dataset: Dataset, labels: Drawn = "scribbled") -> Dataset:
    """The data set in the labels that scribbles are drawn in: those of its own scribbles, or all that its masks have.

    They differ where scribbles are coarser than masks (`Dataset.scribble_names`), as in brain tumours.
    """
    return coarse(dataset) if labels == "scribbled" else dataset


def write_simulation(
    dataset: Dataset, rule: Rule, folder: str | Path, source: Source = "masks", labels: Drawn = "scribbled"
) -> Path:
    """Writes scribbles for all training cases, as a folder that `open_dataset(..., scribbles=folder)` reads.

        dataset.json       the labels; unlabelled voxels are "ignore", the highest value (nnU-Net's convention)
        simulation.json    the rule with its seed, and the source
        present.json       where the data set scores regions: which structures each mask has (image-level labels)
        CASE.nii.gz        one a case

    Cases that are there already are passed over, so a run that was killed can be repeated, and so can one with more
    training cases. dataset.json comes last: a folder without it is not complete. `ShiftedSkeleton` draws background in
    what a zero surround leaves of the image (a brain without its skull): in all of it where there is none.

    Args:
        dataset: with references for the source "masks", with scribbles for "scribbles".
        rule: how to draw.
        folder: absent, empty, or of the same rule, source and labels.
        source: "masks" to `simulate`, "scribbles" to `shorten` those that the data set has.
        labels: "scribbled" draws in the labels of the data set's own scribbles (see `drawn_in`), "all" on every
            structure of its masks.

    Returns:
        `folder`.

    Raises:
        DataError: another simulation is in the folder, a case cannot be read or has no mask or no scribbles, "all" is
            asked for of scribbles that are coarser, or a file cannot be written.
    """
    folder = Path(folder)
    if source == "scribbles" and labels == "all" and dataset.scribble_names:
        raise DataError(
            f"{dataset.root}: expected scribbles of {', '.join(dataset.label_names)} to shorten, found scribbles of "
            f'{", ".join(dataset.scribble_names)}; draw on the masks or in the labels "scribbled"'
        )
    drawn_dataset = drawn_in(dataset, labels)
    values = {label: value for value, label in enumerate((*drawn_dataset.label_names, "ignore"))}
    _declare(folder / "simulation.json", {"rule": asdict(rule), "source": source, "labels": values})
    for name in track(dataset.train.names, "Scribbles"):
        file = folder / f"{name}.nii.gz"
        if file.is_file():
            continue
        case = dataset.train.named(name)
        if source == "masks":
            inside = surrounded(case.image) if isinstance(rule, ShiftedSkeleton) else None
            drawn = simulate(drawn_dataset.reference(name), rule, name, inside)
        else:
            drawn = shorten(_expert(case), rule, name)
        drawn[drawn == UNLABELLED] = values["ignore"]
        write_labels(file, drawn, case.geometry)
    if dataset.regions and source == "masks":
        known = read_present(folder, dataset.label_names) or {}  # cases that train in another fold, too
        if new := {name: _structures(dataset.reference(name)) for name in dataset.train.names if name not in known}:
            write_present(folder / "present.json", known | new, dataset.label_names)
    _declare(folder / "dataset.json", {"labels": values})
    return folder


def surrounded(image: Image) -> Bool[np.ndarray, "depth height width"]:
    """Where the image is not 0 in any channel, and what that encloses in its slice: a brain without its skull."""
    zero = ~image.any(axis=0)
    in_slice = np.zeros((3, 3, 3), bool)
    in_slice[1, 1], in_slice[1, :, 1] = True, True
    numbered, n = ndimage.label(zero, in_slice)
    outside = np.zeros(n + 1, bool)
    for side in (numbered[:, 0], numbered[:, -1], numbered[:, :, 0], numbered[:, :, -1]):
        outside[np.unique(side)] = True
    outside[0] = False
    return ~outside[numbered]


def _structures(mask: Labels) -> frozenset[int]:
    return frozenset(np.unique(mask).tolist()) - {0, UNLABELLED}


def _expert(case: Case) -> Labels:
    if (case.scribbles == UNLABELLED).all():
        raise DataError(f'case {case.name}: expected scribbles to shorten, found none; use the source "masks"')
    return case.scribbles


def _declare(file: Path, description: dict) -> None:
    """Writes a JSON file, or finds it there. Raises DataError where it says something else."""
    text = json.dumps(description, indent=2) + "\n"
    if not file.exists():
        with atomically(file) as temporary:
            temporary.write_text(text)
    elif file.read_text() != text:
        raise DataError(f"{file}: expected {json.dumps(description)}, found another one; name another folder")


def _generator(rule: Rule, name: str) -> np.random.Generator:
    return np.random.default_rng((rule.seed, zlib.crc32(name.encode())))  # Python's own hash differs from run to run


def _drawn(curve: Curve, allowed: Picture, rule: Rule, label: int, rng: np.random.Generator) -> Picture:
    """What the pen leaves on `allowed` pixels when it draws the rule's share of the curve."""
    curve = curve[allowed[tuple(curve.T)]]
    if len(curve):
        kept = max(1, round(rule.length_of(label) * len(curve)))
        # One random number, whatever the length: the windows of different lengths lie inside each other.
        start = int(rng.random() * (len(curve) - kept + 1))
        curve = curve[start : start + kept]
    return inked(curve, rule.width, allowed)


def _line_or_loop(part: Picture, rng: np.random.Generator) -> Curve:
    """The middle line of a part; a loop half-way to its border where that line is little more than a point."""
    inner = ndimage.binary_erosion(part)
    path = longest_path(inner if ndimage.label(inner, EIGHT)[1] == 1 else part, rng)
    depth = ndimage.distance_transform_edt(np.pad(part, 1))[1:-1, 1:-1]
    is_round = len(path) < depth.max() and depth.max() > 3
    return longest_loop(find_contours(depth, depth.max() / 2), rng) if is_round else path
