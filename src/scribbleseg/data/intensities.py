"""Intensities as networks and random walkers see them: what is clipped, and how they are scaled."""

from collections.abc import Sequence

import numpy as np

from scribbleseg.types import UNLABELLED, Cases, Image, spread

Window = tuple[float, float]
"""The lowest and the highest intensity that are told apart, in the image's unit."""

Windows = tuple[Window | None, ...]
"""One for each channel; None where the channel's own percentiles stand in."""

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
"""Training cases that are looked at to choose a window, at most; ours."""


def ct_windows(cases: Cases) -> Windows:
    """Chooses a window for each channel that is a CT in all training cases that are looked at; () where none is.

    A channel is a CT where its lowest intensity is that of air in Hounsfield units. Its window spans the intensities
    that structures have on their scribbles, and AROUND_HU more at both ends: percentiles of a whole volume would span
    air and bone, beside which soft tissues look alike. Of other images one case is read.
    """
    drawn: list[np.ndarray] = []
    ct: np.ndarray | None = None
    for case in cases.only(spread(cases.names, LOOKED_AT)):
        lowest = case.image.min(axis=(1, 2, 3))
        its = (AIR_HU[0] <= lowest) & (lowest <= AIR_HU[1])
        ct = its if ct is None or len(ct) != len(its) else ct & its
        if not ct.any():
            return ()
        drawn.append(case.image[:, (case.scribbles != UNLABELLED) & (case.scribbles > 0)])
    if ct is None:
        return ()
    return tuple(_around([values[channel] for values in drawn]) if is_ct else None for channel, is_ct in enumerate(ct))


def _around(drawn: Sequence[np.ndarray]) -> Window:
    values = np.concatenate(drawn)
    if not len(values):
        return SOFT_TISSUE_HU
    low, high = np.percentile(values, CLIPPED_PERCENTILES)
    return float(round(low - AROUND_HU)), float(round(high + AROUND_HU))


def normalise(image: Image, windows: Windows = ()) -> Image:
    """Clips each channel and scales it.

    A channel with a window is clipped to it and mapped to -2 to 2 linearly, for its unit means the same in every image.
    Any other is clipped at its 0.5th and 99.5th percentile, and shifted and scaled to mean 0, variance 1.

    Args:
        image: float32 `channel depth height width`.
        windows: one for each channel; () is none for all.
    """
    return np.stack([_normalised(channel, windows[n] if windows else None) for n, channel in enumerate(image)])


def _normalised(channel: np.ndarray, window: Window | None) -> np.ndarray:
    if window is not None:
        low, high = window
        return ((np.clip(channel, low, high) - (low + high) / 2) * (4 / (high - low))).astype(np.float32)
    low, high = np.percentile(channel, CLIPPED_PERCENTILES)
    clipped = np.clip(channel, low, high)
    return ((clipped - clipped.mean()) / np.maximum(clipped.std(), 1e-8)).astype(np.float32)
