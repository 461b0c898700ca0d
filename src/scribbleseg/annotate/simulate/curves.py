"""Curves in a picture: the middle line of a region, how it is moved, loops, zigzags, and the pixels a pen leaves."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage
from scipy.sparse.csgraph import dijkstra, minimum_spanning_tree
from scipy.spatial import KDTree
from skimage.draw import line
from skimage.measure import find_contours
from skimage.morphology import skeletonize

Picture = Bool[np.ndarray, "height width"]
Curve = Int[np.ndarray, "_ 2"]
"""Pixels (row, column) in the order in which a pen passes them."""

EIGHT = np.ones((3, 3), bool)


def parts(region: Picture, smallest: float = 0.0) -> list[Picture]:
    """Returns the 8-connected parts, in array order, that have at least `smallest` times the pixels of the largest."""
    numbered, _ = ndimage.label(region, EIGHT)
    sizes = np.bincount(numbered.ravel())[1:]
    return [numbered == part + 1 for part in np.flatnonzero(sizes >= smallest * sizes.max(initial=0))]


def largest_part(region: Picture) -> Picture:
    """Returns the 8-connected part with the most pixels; an empty region has none and is returned as it is."""
    numbered, n = ndimage.label(region, EIGHT)
    return region if n < 2 else numbered == 1 + np.bincount(numbered.ravel())[1:].argmax()


def eroded(region: Picture, size: int) -> Picture:
    """Erodes by a square of `size` pixels; where nothing is left, by one of half the size, and so on down to 1."""
    while size > 1:
        inner = ndimage.minimum_filter(region, size, mode="constant", cval=False)
        if inner.any():
            return inner
        size //= 2
    return region


def longest_path(region: Picture, rng: np.random.Generator) -> Curve:
    """Returns the skeleton of a connected region with its branches cut; a ring is opened at a random place.

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


def ordered(stroke: Picture, rng: np.random.Generator) -> Curve:
    """Returns all pixels of a stroke, in the order in which they lie along its longest path."""
    pixels = np.argwhere(stroke)
    _, position = KDTree(longest_path(stroke, rng)).query(pixels)
    return pixels[np.argsort(position, kind="stable")]


def moved(curve: Curve, shift: Float[np.ndarray, "2"], degrees: float) -> Curve:
    """Turns the curve about its mean and then shifts it; pixels may lie outside the picture.

    A curve of steps to 8-neighbours stays one: where rounding tears it, the pixel half-way between is put in. Corners
    that rounding leaves are cut.
    """
    sampled = np.empty((2 * len(curve) - 1, 2))  # with the points half-way: no turn takes these a pixel apart
    sampled[::2], sampled[1::2] = curve, (curve[:-1] + curve[1:]) / 2
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    centre = curve.mean(axis=0)
    pixels = np.round((sampled - centre) @ np.array([[c, s], [-s, c]]) + centre + shift).astype(int)
    needed = np.ones(len(pixels), bool)
    needed[1::2] = np.abs(pixels[2::2] - pixels[:-2:2]).max(axis=1) > 1
    return _without_corners(pixels[needed])


def longest_run(curve: Curve, region: Picture) -> Curve:
    """Returns the longest piece of the curve that lies in the region without a break."""
    inside = np.asarray(((curve >= 0) & (curve < region.shape)).all(axis=1))
    inside[inside] = region[tuple(curve[inside].T)]
    runs, n = ndimage.label(inside)
    return curve[runs == 1 + np.bincount(runs)[1:].argmax()] if n else curve[:0]


def longest_loop(contours: Sequence[np.ndarray], rng: np.random.Generator) -> Curve:
    """Returns the pixels that the longest contour passes; a closed one starts at a random place."""
    contour = max(contours, key=len)
    if (contour[0] == contour[-1]).all():
        contour = np.roll(contour[1:], rng.integers(len(contour)), axis=0)
    pixels = np.round(contour).astype(int)
    return pixels[np.r_[True, (np.diff(pixels, axis=0) != 0).any(1)]]


def around(structures: Picture, rng: np.random.Generator) -> Curve:
    """Draws a wobbly loop around the structures from a random place; it is empty where there is no room for it."""
    radius = np.sqrt(structures.sum() / np.pi)
    away = max(3.0, rng.uniform(0.3, 0.6) * radius)  # pixels
    noise = ndimage.gaussian_filter(rng.normal(size=structures.shape), sigma := max(3.0, radius / 2))
    noise *= 2 * np.sqrt(np.pi) * sigma  # unit variance
    contours = find_contours(ndimage.distance_transform_edt(~structures) - 0.15 * away * noise, away)
    return longest_loop(contours, rng) if contours else np.empty((0, 2), int)


def zigzag(place: Picture, rng: np.random.Generator) -> Curve:
    """Draws five strokes to and fro over the place where structures may be, or over the middle of the picture."""
    centre, radius = np.array(place.shape) / 2, min(place.shape) / 6
    if place.any():
        centre, radius = np.argwhere(place).mean(0), np.sqrt(place.sum() / np.pi)
    turns = np.stack([np.linspace(-1, 1, 6), np.resize([-1, 1], 6)], axis=1) + rng.uniform(-0.2, 0.2, (6, 2))
    turns = np.clip(np.round(centre + 1.3 * radius * turns), 0, np.array(place.shape) - 1).astype(int)
    return np.concatenate([np.stack(line(*a, *b), axis=1) for a, b in pairwise(turns)])


def inked(curve: Curve, width: int, allowed: Picture) -> Picture:
    """Returns the allowed pixels within `width / 2` of the curve: what a round pen leaves."""
    reach = np.arange(-(width // 2), width // 2 + 1) if width > 1 else np.zeros(1, int)
    pen = np.stack(np.meshgrid(reach, reach, indexing="ij"), axis=-1).reshape(-1, 2)
    pen = pen[np.hypot(*pen.T) <= width / 2]
    pixels = (curve[:, None] + pen).reshape(-1, 2)
    pixels = pixels[((pixels >= 0) & (pixels < allowed.shape)).all(axis=1)]
    drawn = np.zeros_like(allowed)
    drawn[tuple(pixels.T)] = True
    return drawn & allowed


def _without_corners(curve: Curve) -> Curve:
    """Returns the curve without repeated pixels and without those between two pixels that touch already."""
    kept: list[list[int]] = []
    for pixel in curve.tolist():
        while len(kept) > 1 and _touch(kept[-2], pixel):
            kept.pop()
        if not kept or kept[-1] != pixel:
            kept.append(pixel)
    return np.array(kept, int).reshape(-1, 2)


def _touch(a: Iterable[int], b: Iterable[int]) -> bool:
    return all(abs(x - y) <= 1 for x, y in zip(a, b, strict=True))
