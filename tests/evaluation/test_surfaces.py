import warnings

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from scribbleseg.evaluation.surfaces import surface_distances


def by_monai(a, b, spacing):
    """On the whole grid, not cropped."""
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance

    masks = {"y_pred": a[None, None], "y": b[None, None], "include_background": True}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*always_return_as_numpy", FutureWarning)
        hd95 = compute_hausdorff_distance(percentile=95, spacing=list(spacing), **masks)
        assd = compute_average_surface_distance(symmetric=True, spacing=list(spacing), **masks)
    return hd95.item(), assd.item()


def blobs(rng, shape, smooth):
    field = gaussian_filter(rng.normal(size=shape), smooth)
    return field > np.quantile(field, 0.9)


@pytest.mark.parametrize("seed", range(12))
def test_distances_are_those_of_monai_on_the_whole_grid(seed):
    rng = np.random.default_rng(seed)
    shape = (9, 24, 20)
    spacing = tuple(rng.uniform(0.5, 6, 3))
    a, b = (np.zeros(shape, bool) for _ in range(2))
    a[1:8, 2:20, 3:15] = blobs(rng, (7, 18, 12), seed % 3)
    b[:, 6:24, 5:20] = blobs(rng, (9, 18, 15), seed % 3)  # touches the border
    assert surface_distances(a, b, spacing) == pytest.approx(by_monai(a, b, spacing), rel=1e-5)


@pytest.mark.parametrize("axis", range(3))
def test_one_slice_is_measured_in_its_plane(axis):
    rng = np.random.default_rng(axis)
    a, b = (blobs(rng, (24, 20), 2) for _ in range(2))
    spacing = (7.0, 1.5, 0.8)
    flat = [size for n, size in enumerate(spacing) if n != axis]
    found = surface_distances(np.expand_dims(a, axis), np.expand_dims(b, axis), spacing)
    assert found == pytest.approx(by_monai(a, b, flat), rel=1e-5)


def test_a_margin_changes_nothing():
    rng = np.random.default_rng(3)
    a, b = (blobs(rng, (8, 12, 12), 1) for _ in range(2))
    wide = surface_distances(np.pad(a, 5), np.pad(b, 5), (2.0, 1.0, 1.0))
    assert surface_distances(a, b, (2.0, 1.0, 1.0)) == pytest.approx(wide, rel=1e-12)
