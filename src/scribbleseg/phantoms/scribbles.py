"""Scribbles as a person draws them on the slices of a phantom, by imitation of ACDC's experts."""

import numpy as np
from jaxtyping import Bool
from scipy import ndimage
from skimage.graph import MCP_Geometric

from scribbleseg.types import UNLABELLED, Labels


def draw_scribbles(truth: Labels, rng: np.random.Generator) -> Labels:
    """Draws scribbles as a person does, slice by slice: pen lines inside each structure, loops around all of them.

    They imitate what we measured in ACDC's expert scribbles (Valvano et al. 2021, DOI 10.1109/TMI.2021.3069634): every
    structure of every slice has a stroke of one or two pieces, 0.2 to 1.0 times as long as the structure's border and
    off that border; background is drawn 10 to 35 mm around the heart, also in slices that have none.

    Args:
        truth: `depth height width`; 0 background, 1.. structures.
        rng: the only source of variation.

    Returns:
        An array of the same shape, equal to `truth` where drawn, UNLABELLED elsewhere.
    """
    drawn = np.zeros(truth.shape, bool)
    occupied = np.flatnonzero((truth > 0).any((1, 2)))
    for z, labels in enumerate(truth):
        for value in np.unique(labels[labels > 0]):
            drawn[z] |= _pen_line(rng, labels == value)
        nearest = occupied[np.abs(occupied - z).argmin()] if len(occupied) else z
        drawn[z] |= (labels == 0) & _loop(rng, truth[nearest] > 0)
    return np.where(drawn, truth, np.uint8(UNLABELLED))


def _pen_line(rng: np.random.Generator, region: Bool[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
    """Draws a line inside `region`: cheapest paths between points over a rough terrain that rises at the border."""
    to_border = ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    inside = to_border >= min(2, to_border.max())
    points = np.argwhere(inside)
    outer_border = (ndimage.distance_transform_edt(np.pad(ndimage.binary_fill_holes(region), 1)) == 1).sum()
    wanted = max(3, min(rng.uniform(0.35, 0.95) * outer_border, 0.2 * region.sum()))
    terrain = np.where(inside, np.exp(ndimage.gaussian_filter(rng.normal(0, 10, region.shape), 3)), np.inf)
    terrain /= to_border.clip(1, 3)
    line = np.zeros_like(region)
    at = rng.choice(points)
    line[tuple(at)] = True
    for _ in range(6):
        # A pen seldom goes over its own line.
        hills = MCP_Geometric(np.where(ndimage.binary_dilation(line), 5, 1) * terrain)
        cost, _ = hills.find_costs([at])
        reached = points[np.isfinite(cost[tuple(points.T)])]
        candidates = rng.choice(reached, 3)
        to = candidates[np.hypot(*(candidates - at).T).argmax()]
        for pixel in hills.traceback(to):
            if line.sum() >= wanted:
                return line
            line[pixel] = True
        at = to if rng.random() < 0.7 else rng.choice(points)  # now and then the pen is lifted
    return line


def _loop(rng: np.random.Generator, structures: Bool[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
    """Draws most of a wobbly loop 6 to 14 pixels outside of `structures`, or around the middle if there are none."""
    if not structures.any():
        structures = structures.copy()
        structures[tuple(n // 2 for n in structures.shape)] = True
    distance = ndimage.distance_transform_edt(~structures)
    level = min(rng.uniform(6, 14), 0.5 * distance.max())
    inside = distance < level + 40 * ndimage.gaussian_filter(rng.normal(0, 1, structures.shape), 7)
    ring = inside & ~ndimage.binary_erosion(inside, border_value=1) & (distance >= 3)
    y, x = (
        axis - centre
        for axis, centre in zip(np.indices(structures.shape), ndimage.center_of_mass(structures), strict=True)
    )
    turn = (np.arctan2(y, x) - rng.uniform(-np.pi, np.pi)) % (2 * np.pi)
    return ring & (turn < rng.uniform(0.5, 1.1) * 2 * np.pi)
