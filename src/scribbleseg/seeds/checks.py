"""The check that everything which grows scribbles makes of its arrays."""

from collections.abc import Sequence

import numpy as np

from scribbleseg.plural import number_of
from scribbleseg.types import DataError


def check_volume(image: np.ndarray, scribbles: np.ndarray, spacing_mm: Sequence[float], seeder: str) -> None:
    """Raises DataError, with the seeder's name, for arrays that do not fit together or are not finite."""
    if image.ndim != 4 or image.shape[1:] != scribbles.shape:
        raise DataError(
            f"{seeder}: expected an image `channel depth height width` and scribbles `depth height width` on the "
            f"same grid, got {image.shape} and {scribbles.shape}; resample one to the other"
        )
    if len(spacing_mm) != 3 or not all(0.0 < s < np.inf for s in spacing_mm):
        raise DataError(f"{seeder}: expected three positive voxel sizes in mm, got {tuple(spacing_mm)}")
    bad = sum(int(np.count_nonzero(~np.isfinite(image[:, z]))) for z in range(image.shape[1]))
    if bad:
        raise DataError(
            f"{seeder}: expected finite intensities, got {number_of(bad, 'voxel')} NaN or infinite among "
            f"{image.size}; replace them in the image file"
        )
