"""Seed areas by a graph cut on supervoxels: scribbles of one structure grow to the border that costs least.

Ji et al. 2019, section 2.1: supervoxels of the FLAIR, a minimum cut with the scribbles as hard seeds, both sides
eroded. The steps, one function each, are `supervoxels`, `contacts`, `log_likelihood_ratio`, `minimum_cut`, `seeded`
and `eroded`. The paper gives no number for any of them: all defaults are ours, from benchmarks/graph_cut.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import maxflow  # type: ignore[import-untyped]
import numpy as np
import SimpleITK
from jaxtyping import Bool, Float32, Float64, Int, Int32
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from scribbleseg.data.brain import in_brain
from scribbleseg.seeds.checks import check_volume
from scribbleseg.seeds.likelihood import BINS, bins_of, log_histogram
from scribbleseg.types import UNLABELLED, DataError, Image, Labels

Mask = Bool[np.ndarray, "depth height width"]
Regions = Int32[np.ndarray, "depth height width"]
"""The number of each voxel's supervoxel, 0 .. n - 1; OUTSIDE where there is none."""
PerRegion = Float64[np.ndarray, " region"]
Sides = Int[np.ndarray, " region"]
"""1 for the structure, -1 for background."""

OUTSIDE = -1

ITERATIONS = 3
"""Iterations of SLIC. Ours: on a BraTS case more gained nothing, at 0.5 s each."""


@dataclass(frozen=True)
class GraphCut:
    """Seed areas of background and one structure, by the minimum cut that separates their scribbles.

    The nodes are supervoxels p of one channel, with volume V (mm^3) and mean intensity m. The cut minimises

        sum_pq [x_p != x_q] A_pq exp(-(m_p - m_q)^2 / (2 sigma^2))  -  likelihood * sum_p V_p log P(m_p | x_p)

    where A is the area in which two supervoxels touch (mm^2) and P(m | x) the histogram of the voxels scribbled x. A
    supervoxel is a hard seed of the label that has more voxels scribbled in it, and no seed where both have as many.
    The minimum is exact (Boykov and Kolmogorov 2004, DOI 10.1109/TPAMI.2004.60). The histograms are ours, after Boykov
    and Jolly 2001 (DOI 10.1109/ICCV.2001.937505): without them, the cut runs close around scribbles that leave out a
    part of the structure.

    A connected part of either side with no scribble of its label in it is UNLABELLED: a bright spot that only
    looks like the structure, a dark core that only looks like background, a part of the brain out of reach. Any other
    voxel keeps its label if the square of `2 erosion + 1` pixels around it in its slice has no other label. Scribbled
    voxels stay what they are, whatever the cut says.

    What is exactly 0 in all channels, the air around a skull-stripped brain, stays UNLABELLED: with
    `Preprocess(brain=True)` it is background in every prediction, and three quarters of a slice that need no learning
    would drown the rest in a mean over labelled pixels. A volume whose brain has scribbles of one kind only, or none,
    stays as scribbled: nothing tells how far they go.

    Not for structures that share the intensities of what surrounds them.

    Args:
        kind: tag in recipes.
        channel: the channel that is cut; 3 is FLAIR in brain tumours (Ji et al. 2019, section 2.1).
        size_mm: side of a supervoxel, before it adapts.
        compactness: how much a supervoxel's side weighs against a step of 1 in intensity; the larger, the more like a
            cube.
        sigma: the step in intensity that a border may follow; in standard deviations of the brain, if normalised so.
        likelihood: weight of the histograms, per mm; 0 leaves the hard seeds and the edges alone.
        erosion: how far both labels are eroded, in pixels of a slice; 0 leaves no border.
    """

    kind: Literal["graph_cut"] = "graph_cut"
    channel: NonNegativeInt = 3
    size_mm: PositiveFloat = 3.0
    compactness: PositiveFloat = 0.3
    sigma: PositiveFloat = 0.8
    likelihood: NonNegativeFloat = 0.1
    erosion: NonNegativeInt = 1

    def __call__(self, image: Image, scribbles: Labels, spacing_mm: Sequence[float]) -> Labels:
        """Returns the seed areas, scribbles included.

        Args:
            image: float32 `channel depth height width`, normalised by the brain, exactly 0 outside it.
            scribbles: uint8 `depth height width`; background, one structure, UNLABELLED.
            spacing_mm: voxel size along `(depth, height, width)`.

        Returns:
            uint8 `depth height width`.

        Raises:
            DataError: shapes that do not fit, an image that is not finite or has no such channel, or scribbles of more
                than one structure.
        """
        labels = self.cut(image, scribbles, spacing_mm)
        return np.where(scribbles != UNLABELLED, scribbles, eroded(labels, self.erosion))

    def cut(self, image: Image, scribbles: Labels, spacing_mm: Sequence[float]) -> Labels:
        """Returns the labels before erosion; arguments and errors as in a call. Scribbled voxels may change label."""
        check_volume(image, scribbles, spacing_mm, "graph cut")
        structure = self._structure(image, scribbles)
        brain = in_brain(image)
        if not ((scribbles[brain] == structure).any() and (scribbles[brain] == 0).any()):
            return np.full_like(scribbles, UNLABELLED)
        box = ndimage.find_objects(brain.astype(np.uint8))[0]
        inside, intensity, drawn = brain[box], image[self.channel][box], scribbles[box]
        regions = supervoxels(intensity, inside, spacing_mm, self.size_mm, self.compactness)
        numbers, values, drawn = regions[inside], intensity[inside].astype(np.float64), drawn[inside]
        size = np.bincount(numbers)
        mean = np.bincount(numbers, values) / size
        seeds = np.sign(_count(numbers, drawn == structure) - _count(numbers, drawn == 0))
        area = contacts(regions, len(size), spacing_mm)
        weights = area.data * np.exp(-((mean[area.row] - mean[area.col]) ** 2) / (2.0 * self.sigma**2))
        ratio = log_likelihood_ratio(values, drawn == structure, drawn == 0, mean)
        pull = self.likelihood * size * np.prod(spacing_mm) * ratio
        sides = minimum_cut(coo_array((weights, area.coords), shape=area.shape), seeds, pull)
        sides[~seeded(area, sides, seeds)] = 0
        labels = np.full_like(scribbles, UNLABELLED)
        labels[brain] = np.array([0, UNLABELLED, structure], np.uint8)[sides + 1][numbers]
        return labels

    def _structure(self, image: Image, scribbles: Labels) -> int:
        """Returns the one structure that is scribbled (1 where none is)."""
        if self.channel >= len(image):
            raise DataError(
                f"recipe field seeds.channel: expected one of the image's {len(image)} channels (0 .. "
                f"{len(image) - 1}), got {self.channel}; set the one in which the structure shows best"
            )
        structures = np.setdiff1d(scribbles, (0, UNLABELLED))
        if len(structures) > 1:
            raise DataError(
                "recipe field seeds: graph_cut expects scribbles of background and one structure, got the labels "
                f"{', '.join(map(str, structures))}; set seeds.kind to random_walker, which takes any number"
            )
        return int(structures[0]) if len(structures) else 1


def supervoxels(
    intensity: Float32[np.ndarray, "depth height width"],
    inside: Mask,
    spacing_mm: Sequence[float],
    size_mm: float,
    compactness: float,
) -> Regions:
    """Returns supervoxels by SLIC (Achanta et al. 2012, DOI 10.1109/TPAMI.2012.120): k-means of intensity and place.

    SimpleITK's, which takes as long as scikit-image's (benchmarks/graph_cut.py). It knows no mask: the outside gets
    an intensity far from all others, so that no cluster holds both, and is cut off in the end.

    Args:
        intensity: the channel; the voxels of a supervoxel have similar intensities.
        inside: the mask that is divided into supervoxels.
        spacing_mm: voxel size along `(depth, height, width)`.
        size_mm: distance of the first cluster centres along each axis; at least a voxel.
        compactness: a distance of `size_mm` counts as much as a difference in intensity of this.

    Returns:
        int32, every number from 0 to the largest occurs; OUTSIDE beyond the mask.
    """
    values = intensity[inside]
    far = values.min() - 1.0 - np.ptp(values)
    slic = SimpleITK.SLICImageFilter()
    slic.SetNumberOfThreads(1)  # `grow` works on several volumes at once
    sides = [max(round(size_mm / step), 1) for step in spacing_mm]
    slic.SetSuperGridSize([min(side, n) for side, n in zip(sides, intensity.shape, strict=True)][::-1])
    slic.SetSpatialProximityWeight(compactness)
    slic.SetMaximumNumberOfIterations(ITERATIONS)
    clusters = SimpleITK.GetArrayFromImage(slic.Execute(SimpleITK.GetImageFromArray(np.where(inside, intensity, far))))
    regions = np.full(inside.shape, OUTSIDE, np.int32)
    regions[inside] = np.unique(clusters[inside], return_inverse=True)[1].ravel()
    return regions


def contacts(regions: Regions, n: int, spacing_mm: Sequence[float]) -> coo_array:
    """Returns the area, in mm^2, of the faces that each two of the `n` supervoxels share; `i < j`, each pair once."""
    rows, columns, areas = [], [], []
    for axis, step in enumerate(spacing_mm):
        here = np.moveaxis(regions, axis, 0)[:-1]
        there = np.moveaxis(regions, axis, 0)[1:]
        touching = (here != there) & (here != OUTSIDE) & (there != OUTSIDE)
        a, b = here[touching], there[touching]
        rows.append(np.minimum(a, b))
        columns.append(np.maximum(a, b))
        areas.append(np.full(len(a), np.prod(spacing_mm) / step))
    i, j, area = (np.concatenate(parts) for parts in (rows, columns, areas))
    return coo_array((area, (i, j)), shape=(n, n)).tocsr().tocoo()  # CSR adds up what is at the same place


def log_likelihood_ratio(
    values: Float64[np.ndarray, " voxel"],
    structure: Bool[np.ndarray, " voxel"],
    background: Bool[np.ndarray, " voxel"],
    at: PerRegion,
) -> PerRegion:
    """Returns `log P(at | structure) - log P(at | background)`, by smoothed histograms of the scribbled voxels."""
    edges = np.linspace(values.min(), values.max(), BINS + 1)
    logs = [log_histogram(values[scribbled], edges) for scribbled in (structure, background)]
    return (logs[0] - logs[1])[bins_of(at, edges)]


def minimum_cut(weights: coo_array, seeds: PerRegion, pull: PerRegion) -> Sides:
    """Returns the side of each node, 1 or -1, at the cheapest cut that keeps the seeds apart.

    Args:
        weights: what each edge costs if its ends are on different sides; each edge once, not negative.
        seeds: 1 or -1 where the side is given, 0 where it is sought.
        pull: what it costs to put a node on side -1, less what it costs to put it on side 1.

    Returns:
        The sides. Where several cuts are cheapest, the one with the fewest nodes on side 1, which is unique.
    """
    n = len(seeds)
    graph = maxflow.GraphFloat(n, weights.nnz)
    nodes = graph.add_nodes(n)
    graph.add_edges(weights.row.astype(np.int64), weights.col.astype(np.int64), weights.data, weights.data)
    unbreakable = weights.data.sum() + np.abs(pull).sum() + 1.0
    to_sink = np.where(seeds == 0, pull, unbreakable * seeds)
    graph.add_grid_tedges(nodes, np.maximum(-to_sink, 0.0), np.maximum(to_sink, 0.0))
    graph.maxflow()
    return np.where(graph.get_grid_segments(nodes), 1, -1)  # True where the residual graph still leads to the sink


def seeded(edges: coo_array, sides: Sides, seeds: PerRegion) -> Bool[np.ndarray, " region"]:
    """Returns which nodes are in a connected part of their side that has a seed of that side."""
    within = sides[edges.row] == sides[edges.col]
    links = coo_array((np.ones(within.sum()), (edges.row[within], edges.col[within])), shape=edges.shape)
    _, part = connected_components(links, directed=False)
    return _count(part, seeds != 0)[part] > 0


def eroded(labels: Labels, pixels: int) -> Labels:
    """Erodes all labels: UNLABELLED where the square of `2 pixels + 1` around a voxel in its slice has another label.

    Beyond its border a slice goes on as it is there.
    """
    window = (1, 2 * pixels + 1, 2 * pixels + 1)
    smallest = ndimage.minimum_filter(labels, window, mode="nearest")
    largest = ndimage.maximum_filter(labels, window, mode="nearest")
    return np.where(smallest == largest, labels, np.uint8(UNLABELLED))


def _count(numbers: Int[np.ndarray, " voxel"], chosen: Bool[np.ndarray, " voxel"]) -> PerRegion:
    """Returns how many of the chosen voxels each region has."""
    return np.bincount(numbers, chosen.astype(np.float64))
