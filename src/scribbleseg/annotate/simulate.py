"""Scribbles drawn by rule: from reference masks, or by shortening the scribbles that experts drew.

A rule is a frozen dataclass with a `kind`; `RULES` names the ones that the tables use. Everything is drawn slice by
slice, as people do. What is drawn depends on the mask, the rule and the case's name only, and a shorter version of a
rule is a part of the longer one, so that a table over lengths compares lengths and nothing else.
"""

import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int
from rich.progress import track
from scipy import ndimage
from scipy.sparse.csgraph import dijkstra, minimum_spanning_tree
from scipy.spatial import KDTree
from skimage.draw import line
from skimage.measure import find_contours
from skimage.morphology import skeletonize

from scribbleseg.data.volumes import atomically, write_labels
from scribbleseg.types import UNLABELLED, Case, DataError, Dataset, Labels

Source = Literal["masks", "scribbles"]
Picture = Bool[np.ndarray, "height width"]
Curve = Int[np.ndarray, "pixel 2"]
"""Pixels (row, column) in the order in which a pen passes them."""

EIGHT = np.ones((3, 3), bool)

SMALLEST_PART = 0.1
"""Parts of a structure in a slice that are smaller than this share of its largest part are left alone: nobody scribbles
on specks. Ours."""


@dataclass(frozen=True)
class Skeleton:
    """One curve along the middle of each structure, one loop around all of them.

    Structures: each part is eroded by a pixel (unless that would break it), skeletonised, and the longest path through
    the skeleton is kept. In a round part, whose skeleton is little more than a point, a loop half-way to its border is
    drawn instead. Background: a wobbly loop around the structures, 0.3 to 0.6 times their radius away; in a slice
    without structures a zigzag over the place where other slices have them. Loops, zigzag and their sizes are ours,
    after the habits of ACDC's experts (Valvano et al. 2021, doi:10.1109/TMI.2021.3069634).

    Args:
        length: the share of each curve that is kept, as one piece at a random place; 0 keeps a single spot.
        width: of the pen, in pixels, kept inside the structure. The experts' lines are one pixel wide.
        seed: not negative.

    Raises:
        ValueError: a number is out of its range.
    """

    kind: Literal["skeleton"] = "skeleton"
    length: float = 1.0
    width: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.length <= 1:
            raise ValueError(f"expected a length in 0..1 (the share of each curve), got {self.length}")
        if self.width < 1:
            raise ValueError(f"expected a width of at least 1 pixel, got {self.width}")
        if self.seed < 0:
            raise ValueError(f"expected a seed of at least 0, got {self.seed}")


RULES = {
    "full": Skeleton(),
    "half": Skeleton(length=0.5),
    "quarter": Skeleton(length=0.25),
    "spots": Skeleton(length=0.0, width=4),  # one disc of 13 pixels per structure and slice, and one of background
}


def simulate(mask: Labels, rule: Skeleton, name: str) -> Labels:
    """Scribbles such as a person would draw on a volume whose full mask is known.

    Args:
        mask: `depth height width`; 0 background, 1.. structures.
        rule: how to draw.
        name: of the case; another case with the same seed gets other random numbers.

    Returns:
        Of the same shape: equal to `mask` where drawn, UNLABELLED elsewhere. Every structure of a slice is drawn on,
        a structure of one voxel too; so is the background of every slice that has any.
    """
    rng = _generator(rule, name)
    scribbles = np.full_like(mask, UNLABELLED)
    place = np.any(mask > 0, axis=0)
    for z, labels in enumerate(mask):
        for value in np.unique(labels[labels > 0]):
            structure = labels == value
            scribbles[z][_ink(_along(structure, rng), structure, rule, rng)] = value
        background = labels == 0
        curve = _zigzag(place, rng) if background.all() else _around(~background, rng)
        scribbles[z][_ink(curve, background, rule, rng)] = 0
    return scribbles


def shorten(scribbles: Labels, rule: Skeleton, name: str) -> Labels:
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
    """
    rng = _generator(rule, name)
    kept = np.full_like(scribbles, UNLABELLED)
    for z, labels in enumerate(scribbles):
        for value in np.unique(labels[labels != UNLABELLED]):
            drawn = labels == value
            strokes = np.concatenate([_ordered(stroke, rng) for stroke in _parts(drawn)])
            kept[z][_ink(strokes, drawn, rule, rng)] = value
    return kept


def write_simulation(dataset: Dataset, rule: Skeleton, folder: str | Path, source: Source = "masks") -> Path:
    """Writes scribbles for all training cases, as a folder that `open_dataset(..., scribbles=folder)` reads.

        dataset.json       the labels; unlabelled voxels are "ignore", the highest value (nnU-Net's convention)
        simulation.json    the rule with its seed, and the source
        CASE.nii.gz        one a case

    Cases that are there already are passed over, so a run that was killed can be repeated, and so can one with more
    training cases. dataset.json comes last: a folder without it is not complete.

    Args:
        dataset: with references for the source "masks", with scribbles for "scribbles".
        rule: how to draw.
        folder: absent, empty, or of the same rule and source.
        source: "masks" to `simulate`, "scribbles" to `shorten` those that the data set has.

    Returns:
        `folder`.

    Raises:
        DataError: another simulation is in the folder, a case cannot be read or has no mask or no scribbles, or a file
            cannot be written.
    """
    folder = Path(folder)
    labels = {label: value for value, label in enumerate((*dataset.label_names, "ignore"))}
    _declare(folder / "simulation.json", {"rule": asdict(rule), "source": source, "labels": labels})
    for name in track(dataset.train.names, "Scribbles"):
        file = folder / f"{name}.nii.gz"
        if file.is_file():
            continue
        case = dataset.train.named(name)
        if source == "masks":
            drawn = simulate(dataset.reference(name), rule, name)
        else:
            drawn = shorten(_expert(case), rule, name)
        drawn[drawn == UNLABELLED] = labels["ignore"]
        write_labels(file, drawn, case.geometry)
    _declare(folder / "dataset.json", {"labels": labels})
    return folder


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


def _generator(rule: Skeleton, name: str) -> np.random.Generator:
    return np.random.default_rng((rule.seed, zlib.crc32(name.encode())))  # Python's own hash differs from run to run


def _ink(curve: Curve, allowed: Picture, rule: Skeleton, rng: np.random.Generator) -> Picture:
    """What the pen leaves on `allowed` pixels when it draws the rule's share of the curve."""
    drawn = np.zeros_like(allowed)
    curve = curve[allowed[tuple(curve.T)]]
    if not len(curve):
        return drawn
    kept = max(1, round(rule.length * len(curve)))
    # One random number, whatever the length: the windows of different lengths lie inside each other.
    start = int(rng.random() * (len(curve) - kept + 1))
    drawn[tuple(curve[start : start + kept].T)] = True
    if rule.width > 1:
        drawn = ndimage.distance_transform_edt(~drawn) <= rule.width / 2
    return drawn & allowed


def _along(structure: Picture, rng: np.random.Generator) -> Curve:
    """The middle lines of a structure's parts, one after the other."""
    parts = list(_parts(structure))
    largest = max(part.sum() for part in parts)
    curves = []
    for part in parts:
        if part.sum() < SMALLEST_PART * largest:
            continue
        inner = ndimage.binary_erosion(part)
        path = _longest_path(inner if ndimage.label(inner, EIGHT)[1] == 1 else part, rng)
        depth = ndimage.distance_transform_edt(np.pad(part, 1))[1:-1, 1:-1]
        is_round = len(path) < depth.max() and depth.max() > 3
        curves.append(_loop(find_contours(depth, depth.max() / 2), rng) if is_round else path)
    return np.concatenate(curves)


def _parts(region: Picture) -> Iterator[Picture]:
    """The 8-connected parts."""
    numbered, n = ndimage.label(region, EIGHT)
    return (numbered == part for part in range(1, n + 1))


def _ordered(stroke: Picture, rng: np.random.Generator) -> Curve:
    """All pixels of a stroke, in the order in which they lie along its longest path."""
    pixels = np.argwhere(stroke)
    _, position = KDTree(_longest_path(stroke, rng)).query(pixels)
    return pixels[np.argsort(position, kind="stable")]


def _longest_path(region: Picture, rng: np.random.Generator) -> Curve:
    """The skeleton of a connected region with its branches cut; a ring is opened at a random place.

    The skeleton's pixels and their 8-neighbours are a graph. A minimum spanning tree, with ties broken at random, opens
    its cycles; a tree's longest path runs from the pixel farthest from anywhere to the one farthest from that.
    """
    pixels = np.argwhere(skeletonize(region))
    if not len(pixels):  # thinning can eat a blob of 2 x 2
        pixels = np.argwhere(region)[:1]
    graph = KDTree(pixels).sparse_distance_matrix(KDTree(pixels), 1.5, output_type="coo_matrix").tocsr()
    graph.data *= 1 + 1e-3 * rng.random(len(graph.data))
    tree = minimum_spanning_tree(graph)
    end = dijkstra(tree, directed=False, indices=0).argmax()
    distance, before = dijkstra(tree, directed=False, indices=end, return_predecessors=True)
    path = [int(distance.argmax())]
    while path[-1] != end:
        path.append(int(before[path[-1]]))
    return pixels[path]


def _around(structures: Picture, rng: np.random.Generator) -> Curve:
    """A wobbly loop around the structures that starts anywhere; along the middle of the rest where none has room."""
    radius = np.sqrt(structures.sum() / np.pi)
    away = max(3.0, rng.uniform(0.3, 0.6) * radius)  # pixels
    noise = ndimage.gaussian_filter(rng.normal(size=structures.shape), sigma := max(3.0, radius / 2))
    noise *= 2 * np.sqrt(np.pi) * sigma  # unit variance
    contours = find_contours(ndimage.distance_transform_edt(~structures) - 0.15 * away * noise, away)
    if not contours:
        rest = max(_parts(~structures), key=np.sum, default=None)
        return np.empty((0, 2), int) if rest is None else _longest_path(rest, rng)
    return _loop(contours, rng)


def _loop(contours: Sequence[np.ndarray], rng: np.random.Generator) -> Curve:
    """The pixels that the longest contour passes; a closed one starts anywhere."""
    contour = max(contours, key=len)
    if (contour[0] == contour[-1]).all():
        contour = np.roll(contour[1:], rng.integers(len(contour)), axis=0)
    pixels = np.round(contour).astype(int)
    return pixels[np.r_[True, (np.diff(pixels, axis=0) != 0).any(1)]]


def _zigzag(place: Picture, rng: np.random.Generator) -> Curve:
    """Five strokes to and fro over the place where structures may be, or over the middle of the picture."""
    centre, radius = np.array(place.shape) / 2, min(place.shape) / 6
    if place.any():
        centre, radius = np.argwhere(place).mean(0), np.sqrt(place.sum() / np.pi)
    turns = np.stack([np.linspace(-1, 1, 6), np.resize([-1, 1], 6)], axis=1) + rng.uniform(-0.2, 0.2, (6, 2))
    turns = np.clip(np.round(centre + 1.3 * radius * turns), 0, np.array(place.shape) - 1).astype(int)
    return np.concatenate([np.stack(line(*a, *b), axis=1) for a, b in pairwise(turns)])
