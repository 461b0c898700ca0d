"""Skull-stripped scans of the brain: air is exactly 0 in every channel."""

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
    brain = in_brain(image)
    normalised = np.zeros_like(image)
    for channel, values in enumerate(image[:, brain]):
        if values.size and np.ptp(values):
            normalised[channel, brain] = (values - values.mean(dtype=np.float64)) / values.std(dtype=np.float64)
    return normalised
