"""Distances between the surfaces of two masks, at a cost that goes by their surfaces and not by their volume."""

import numpy as np
from jaxtyping import Bool, Float
from scipy.ndimage import binary_erosion, find_objects, generate_binary_structure
from scipy.spatial import cKDTree


def surface_distances(
    a: Bool[np.ndarray, "depth height width"],
    b: Bool[np.ndarray, "depth height width"],
    spacing_mm: tuple[float, float, float],
) -> tuple[float, float]:
    """HD95 and ASSD in mm: 0 where both masks are empty, NaN where one is.

    A mask's surface is its voxels with a face neighbour outside the mask, taken at their centres. The distances are
    MONAI's. A search among the voxels of the surfaces alone takes memory and time by their number, where MONAI's
    distance transforms take 28 bytes for each voxel of the box around both masks.
    """
    if not a.any() and not b.any():
        return 0.0, 0.0
    if not a.any() or not b.any():
        return float("nan"), float("nan")
    surface_a, surface_b = (_surface_mm(mask, spacing_mm) for mask in (a, b))
    to_b, _ = cKDTree(surface_b).query(surface_a)
    to_a, _ = cKDTree(surface_a).query(surface_b)
    hd95 = max(np.percentile(to_b, 95), np.percentile(to_a, 95))
    return float(hd95), float((to_a.sum() + to_b.sum()) / (len(to_a) + len(to_b)))


def _surface_mm(
    mask: Bool[np.ndarray, "depth height width"], spacing_mm: tuple[float, float, float]
) -> Float[np.ndarray, "voxel 3"]:
    """Where the surface voxels of a mask lie, in mm; those of a mask of one slice are its outline in that plane."""
    box = find_objects(mask.view(np.uint8))[0]  # what is outside of it costs time, and is no neighbour in the mask
    inside = mask[box]
    faces = generate_binary_structure(3, 1)
    if 1 in mask.shape:
        faces &= np.moveaxis(np.array([False, True, False])[:, None, None], 0, mask.shape.index(1))
    corner = [side.start for side in box]
    return (np.argwhere(inside & ~binary_erosion(inside, faces)) + corner) * np.array(spacing_mm)
