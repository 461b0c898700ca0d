"""Skull-stripped scans of the brain: air is exactly 0 in every channel."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool
from scipy import ndimage

from scribbleseg.types import Image


def in_brain(image: Image) -> Bool[np.ndarray, "*space"]:
    """Returns where the image is not 0 in at least one channel."""
    return (image != 0).any(axis=0)


def surrounded(image: Image) -> Bool[np.ndarray, "depth height width"]:
    """Returns where the brain is (`in_brain`), and what it encloses in its slice.

    For a brain without its skull this is the brain with the dark spots in it. For an image without a surround of zeros
    it is everything.
    """
    zero = ~in_brain(image)
    in_slice = np.zeros((3, 3, 3), bool)
    in_slice[1, 1], in_slice[1, :, 1] = True, True
    numbered, n = ndimage.label(zero, in_slice)
    outside = np.zeros(n + 1, bool)
    for side in (numbered[:, 0], numbered[:, -1], numbered[:, :, 0], numbered[:, :, -1]):
        outside[np.unique(side)] = True
    outside[0] = False
    return ~outside[numbered]


def normalise_brain(image: Image) -> Image:
    """Shifts and scales each channel to mean 0 and variance 1 over the brain; the air around it stays 0."""
    scaled, whole = brain_normaliser(image), np.empty_like(image)
    for z in range(image.shape[1]):
        whole[:, z : z + 1] = scaled(image[:, z : z + 1])
    return whole


def brain_normaliser(image: Image) -> Callable[[Image], Image]:
    """What `normalise_brain` does to any part of this image, in any order of voxels."""
    brain = in_brain(image)
    moments = []
    for channel in image:
        values = channel[brain]
        varies = values.size and np.ptp(values)
        moments.append((values.mean(dtype=np.float64), values.std(dtype=np.float64)) if varies else None)

    def scaled(part: Image) -> Image:
        inside, normalised = in_brain(part), np.zeros_like(part)
        for n, moment in enumerate(moments):
            if moment is not None:
                mean, sd = moment
                normalised[n, inside] = (part[n, inside] - mean) / sd
        return normalised

    return scaled
