"""Scales images to [0, 1] for the random walker, a few slices at a time: as float64, a volume takes 8 bytes a voxel."""

from collections.abc import Callable
from typing import Literal

import numpy as np
from jaxtyping import Float64

from scribbleseg.types import Image

Block = Float64[np.ndarray, "channel depth height width"]


def scaling(image: Image, over: Literal["volume", "slice"]) -> Callable[[Image], Block]:
    """Returns what scales slices of an image to [0, 1], as float64.

    Args:
        image: float32 `channel depth height width`, in any unit.
        over: whether the extremes of each channel are those of the volume, or each slice's own. What is constant over
            them becomes 0.
    """
    if over == "slice":
        return lambda part: _scaled(part, part.min(axis=(2, 3)), part.max(axis=(2, 3)))
    low, high = (end(axis=(1, 2, 3))[:, None] for end in (image.min, image.max))
    return lambda part: _scaled(part, low, high)


def _scaled(image: Image, low: np.ndarray, high: np.ndarray) -> Block:
    """Scales slices by extremes `channel slice`."""
    low, high = (end.astype(np.float64)[..., None, None] for end in (low, high))
    scaled = np.array(image, np.float64)
    scaled -= low
    return np.divide(scaled, high - low, out=scaled, where=high > low)
