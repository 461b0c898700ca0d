"""Clusters: a brain tumour divided into its structures by k-means, guided by which of them are known to be present.

Ji et al. 2019 (arXiv:1911.02014), section 2.2: a whole tumour and image-level labels become a first, noisy map of
enhancing tumour (ET), necrotic and non-enhancing tumour (NCR/NET) and oedema (ED), from which phase 2 is trained.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8
from pydantic import PositiveFloat
from scipy import ndimage
from scipy.cluster.vq import kmeans, vq

from scribbleseg.data.layouts.brats import ED, ET, NCR, T1CE
from scribbleseg.types import DataError, Image, Labels

STARTS = 8
"""Random starts of k-means, of which the one with the least distortion is kept; ours: on BraTS they seldom differ."""

SAMPLE = 20_000
"""Voxels that the starts see, at most; the best start is then finished on all voxels. Ours: for 231 000 voxels it
takes 0.2 s of CPU time where starts on all of them take 1.1 s."""


@dataclass(frozen=True)
class KMeans:
    """K-means with as many clusters as structures are present, each named by how it looks and where it lies.

    A voxel's features are

        [T1, e T1ce, w_t2 T2, w_fl FLAIR, e (T1ce - T1)],  w_t2 = min(1, s_t1ce / s_t2),  w_fl = min(1, s_t1ce / s_fl)

    with e = `enhancement` and s a channel's variance inside the tumour (Ji et al. 2019, section 2.2). The names are
    given in this order, as the paper does: ET, if present, is the cluster of highest mean T1ce; ED, if present, is
    that of the others whose mean distance to the tumour's surface is smallest; NCR/NET is what is left. So it is for
    every set of structures (the paper has two or three clusters; the rows of fewer are ours):

    | present         | clusters | ET        | ED                     | NCR/NET   |
    |-----------------|----------|-----------|------------------------|-----------|
    | NCR/NET, ED, ET | 3        | brightest | nearest of the others  | the last  |
    | NCR/NET, ED     | 2        |           | nearest                | the other |
    | ED, ET          | 2        | brightest | the other              |           |
    | NCR/NET, ET     | 2        | brightest |                        | the other |
    | one of them     | 1        | the whole tumour is that one, whatever it looks like |
    | none            | 0        | the whole tumour is background: no structure is there to be found |

    Where the voxels make fewer clusters than structures are present (fewer voxels, or all alike), they cannot be told
    apart: the whole tumour is ED if that is present, else NCR/NET, as in `merge` (ours). An empty tumour stays empty.

    Not where structures differ much in size: k-means divides the largest rather than find one of a few voxels. Not on
    intensities that are not normalised: the features are in the image's own units.

    Args:
        kind: tag in recipes.
        enhancement: weight of T1ce and of T1ce - T1, where enhancing tumour shows (section 2.2: 2).
    """

    kind: Literal["k_means"] = "k_means"
    enhancement: PositiveFloat = 2.0

    def __call__(
        self,
        image: Image,
        tumour: Bool[np.ndarray, "depth height width"],
        present: frozenset[int],
        spacing_mm: Sequence[float],
        seed: int = 0,
    ) -> Labels:
        """Returns the structures inside the tumour.

        Args:
            image: float32 `channel depth height width`: T1, T1ce, T2, FLAIR, each normalised.
            tumour: the whole tumour, `depth height width`.
            present: labels of the structures known to be in the case, of 1 NCR/NET, 2 ED, 3 ET.
            spacing_mm: voxel size along `(depth, height, width)`.
            seed: seed of the random starts; the same seed gives the same labels.

        Returns:
            uint8 `depth height width`: 0 outside of the tumour, and inside of it the labels that are present.

        Raises:
            DataError: not four channels on the tumour's grid, an image that is not finite inside the tumour, or a
                spacing that is not three positive numbers.
            ValueError: `present` holds something else than 1, 2 and 3.
        """
        _check(image, tumour, present, spacing_mm)
        labels = np.zeros(tumour.shape, np.uint8)
        if tumour.any():
            (box,) = ndimage.find_objects(tumour.view(np.uint8))  # the rest of the volume costs time
            inside = tumour[box]
            voxels = image[:, *box][:, inside]
            _check_finite(voxels)
            described, depth = features(voxels, self.enhancement), depth_mm(inside, spacing_mm)
            labels[box][inside] = named_clusters(described, voxels[T1CE], depth, present, seed)
        return labels


def features(voxels: Float32[np.ndarray, "4 voxel"], enhancement: float = 2.0) -> Float64[np.ndarray, "voxel 5"]:
    """Returns the features of the tumour's voxels (`KMeans`'s formula). A weight is 1 where its channel is constant."""
    t1, t1ce, t2, flair = voxels.astype(np.float64)
    w_t2, w_fl = (min(1.0, t1ce.var() / other.var()) if other.var() > 0 else 1.0 for other in (t2, flair))
    return np.stack([t1, enhancement * t1ce, w_t2 * t2, w_fl * flair, enhancement * (t1ce - t1)], axis=1)


def depth_mm(tumour: Bool[np.ndarray, "depth height width"], spacing_mm: Sequence[float]) -> Float64[np.ndarray, " v"]:
    """Returns each tumour voxel's distance, in array order, to the nearest one outside; beyond the grid is outside."""
    distance = ndimage.distance_transform_edt(np.pad(tumour, 1), sampling=spacing_mm)
    return distance[1:-1, 1:-1, 1:-1][tumour]


def named_clusters(
    described: Float64[np.ndarray, "voxel feature"],
    t1ce: Float32[np.ndarray, " voxel"],
    depth: Float64[np.ndarray, " voxel"],
    present: frozenset[int],
    seed: int = 0,
) -> UInt8[np.ndarray, " voxel"]:
    """Returns the label of each tumour voxel, by `KMeans`'s table.

    Args:
        described: the features of each voxel, one row a voxel; at least one row.
        t1ce: intensity in T1ce: the cluster with the highest is ET.
        depth: distance to the surface (`depth_mm`): the cluster with the smallest is ED.
        present: labels of the structures in the case.
        seed: seed of the random starts.
    """
    k = len(present)
    if k < 2:
        return np.full(len(described), max(present, default=0), np.uint8)
    cluster, _ = vq(described, _centres(described, k, np.random.default_rng(seed)))
    if len(np.unique(cluster)) < k:
        return np.full(len(described), ED if ED in present else NCR, np.uint8)
    return _names(cluster, t1ce, depth, present)[cluster]


def _centres(
    described: Float64[np.ndarray, "voxel feature"], k: int, rng: np.random.Generator
) -> Float64[np.ndarray, "centre feature"]:
    """Returns the centres of `k` clusters, or of fewer where the voxels do not make so many."""
    sample = rng.permutation(described)[:SAMPLE]
    if len(sample) < k:
        return sample
    starts = [kmeans(sample, rng.choice(sample, k, replace=False)) for _ in range(STARTS)]
    best, _ = min(starts, key=lambda start: (-len(start[0]), start[1]))  # centres without a voxel have been dropped
    return kmeans(described, best)[0]


def _names(
    cluster: np.ndarray, t1ce: Float32[np.ndarray, " voxel"], depth: Float64[np.ndarray, " voxel"], present: frozenset
) -> UInt8[np.ndarray, " cluster"]:
    """Returns the label of each cluster, of which there are as many as structures present."""
    size = np.bincount(cluster)
    names = np.full(len(size), NCR, np.uint8)
    if ET in present:
        names[(np.bincount(cluster, t1ce) / size).argmax()] = ET
    if ED in present:
        distance = np.bincount(cluster, depth) / size
        names[np.where(names == ET, np.inf, distance).argmin()] = ED
    return names


def _check(image: np.ndarray, tumour: np.ndarray, present: frozenset[int], spacing_mm: Sequence[float]) -> None:
    if not present <= {NCR, ED, ET}:
        raise ValueError(f"present: expected labels of {NCR} (NCR/NET), {ED} (ED) and {ET} (ET), got {set(present)}")
    if image.shape != (4, *tumour.shape):
        raise DataError(
            "clusters: expected the channels T1, T1ce, T2, FLAIR and a tumour on their grid, (4, depth, height, "
            f"width) and (depth, height, width), got {image.shape} and {tumour.shape}; resample one to the other"
        )
    if len(spacing_mm) != 3 or not all(0.0 < s < np.inf for s in spacing_mm):
        raise DataError(f"clusters: expected three positive voxel sizes in mm, got {tuple(spacing_mm)}")


def _check_finite(voxels: np.ndarray) -> None:
    bad = int(np.count_nonzero(~np.isfinite(voxels)))
    if bad:
        raise DataError(
            f"clusters: expected finite intensities in the tumour, got {bad} that are NaN or infinite; "
            "replace them in the image file"
        )
