"""Intensities as networks and random walkers see them: what is clipped, and how they are scaled."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from scribbleseg.types import UNLABELLED, Case, Cases, Image, spread

log = logging.getLogger(__name__)

Window = tuple[float, float]
"""The lowest and the highest intensity that are told apart, in the image's unit."""

Windows = tuple[Window | None, ...]
"""One for each channel; None where the channel's own percentiles stand in."""

Normaliser = Callable[[Image], Image]
"""Clips and scales a part of an image, voxel by voxel."""

AT_A_TIME = 2**16
"""Values that a mean is taken of at a time."""

CLIPPED_PERCENTILES = (0.5, 99.5)
"""Intensities beyond these are clipped before normalisation, so that a bright vessel does not set the scale (ours)."""

AIR_HU = (-4100.0, -900.0)
"""Where the lowest intensity of a CT lies, in Hounsfield units: air has -1000, what the scanner did not see less."""

AROUND_HU = 150.0
"""Hounsfield units that a window reaches beyond what structures have on their scribbles; ours. It shows their edges to
fat (-100), to soft tissue (50) and to contrast agent alike, and does not let air and bone set the scale."""

SOFT_TISSUE_HU = (-160.0, 240.0)
"""The window of a CT on which no structure is drawn: that of soft tissue in radiology (width 400, level 40)."""

LOOKED_AT = 5
"""Training cases with structures that a window is chosen from; ours."""


def ct_windows(cases: Cases) -> Windows:
    """Chooses a window for each channel that is a CT in all training cases that are looked at; () where none is.

    A channel is a CT where its lowest intensity is that of air in Hounsfield units. Its window spans the intensities
    that structures have on their scribbles, held-out ones included, and AROUND_HU more at both ends: percentiles of a
    whole volume would span air and bone, beside which soft tissues look alike.

    One case is read where the first is no CT. Of CTs so many are read that LOOKED_AT of them show structures.
    """
    drawn: list[np.ndarray] = []
    ct: np.ndarray | None = None
    spaced = spread(cases.names, LOOKED_AT)
    for name in [*spaced, *(name for name in cases.names if name not in spaced)]:
        lowest, shown = _looked_at(cases.named(name))
        its = (AIR_HU[0] <= lowest) & (lowest <= AIR_HU[1])
        if ct is not None and (len(ct) != len(its) or (ct & ~its).any()):
            _warn_of_mixture(name)
        if ct is not None and len(ct) != len(its):
            return ()
        ct = its if ct is None else ct & its
        if not ct.any():
            return ()
        drawn += [shown] if shown.size else []
        if len(drawn) >= LOOKED_AT:
            break
    if ct is None:
        return ()
    return tuple(_around([values[channel] for values in drawn]) if is_ct else None for channel, is_ct in enumerate(ct))


def _looked_at(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """The lowest intensity of each channel, and the intensities of structures on their scribbles, `channel voxel`."""
    structures = (case.scribbles != UNLABELLED) & (case.scribbles > 0)
    return case.image.min(axis=(1, 2, 3)), case.image[:, structures]


def _warn_of_mixture(name: str) -> None:
    log.warning(
        "case %s is not in Hounsfield units, or has other channels than the cases before, which look like CT: "
        "intensities are scaled case by case; give preprocess.windows, or bring all cases to one unit",
        name,
    )


def _around(drawn: Sequence[np.ndarray]) -> Window:
    if not drawn:
        return SOFT_TISSUE_HU
    values = np.concatenate(drawn)
    low, high = np.percentile(values, CLIPPED_PERCENTILES)
    return float(round(low - AROUND_HU)), float(round(high + AROUND_HU))


def normalise(image: Image, windows: Windows = ()) -> Image:
    """Clips each channel and scales it.

    A channel with a window is clipped to it and mapped to -2 to 2 linearly, for its unit means the same in every image.
    Each other is clipped at its 0.5th and 99.5th percentile, and shifted and scaled to mean 0, variance 1.

    Args:
        image: float32 `channel depth height width`.
        windows: one for each channel; () is none for all.
    """
    scaled, whole = normaliser(image, windows), np.empty(image.shape, np.float32)
    for z in range(image.shape[1]):
        whole[:, z : z + 1] = scaled(image[:, z : z + 1])
    return whole


def normaliser(image: Image, windows: Windows = ()) -> Normaliser:
    """What `normalise` does to any part of this image, in any order of voxels: a whole copy takes memory."""
    scales = [_scale(channel, windows[n] if windows else None) for n, channel in enumerate(image)]
    return lambda part: np.stack([scale(channel) for scale, channel in zip(scales, part, strict=True)])


def _scale(channel: np.ndarray, window: Window | None) -> Callable[[np.ndarray], np.ndarray]:
    """What clips and scales values of a channel, one by one, to float32."""
    if window is not None:
        lowest, highest = window
        middle, factor = (lowest + highest) / 2, 4 / (highest - lowest)
        return lambda part: ((np.clip(part, lowest, highest) - middle) * factor).astype(np.float32)
    low, high = np.percentile(channel, CLIPPED_PERCENTILES)
    if low == high:
        return lambda part: np.zeros_like(part, np.float32)
    # A power of two changes no digit, and keeps squares of the smallest (ADC in m^2/s) and the largest in range.
    exponent = -int(np.frexp(float(high) - float(low))[1])

    def clipped(part: np.ndarray) -> np.ndarray:
        return np.ldexp(np.clip(part, low, high), exponent)

    values = channel.ravel(order="K")
    mean = _mean(clipped, values)
    sd = np.sqrt(_mean(lambda part: np.square(clipped(part) - mean), values))
    return lambda part: ((clipped(part) - mean) / sd).astype(np.float32)


def _mean(of: Callable[[np.ndarray], np.ndarray], values: np.ndarray) -> np.floating:
    """The mean of a function of values, equal to the last digit to NumPy's of all at once, which takes memory.

    NumPy sums halves, their halves and so on; the smaller half has a multiple of 8 elements.
    """

    def total(some: np.ndarray) -> Any:
        if len(some) <= AT_A_TIME:
            return of(some).sum()
        half = len(some) // 2
        half -= half % 8
        return total(some[:half]) + total(some[half:])

    found = total(values)
    return found.dtype.type(found / len(values))
