"""Intensities as networks and random walkers see them: what is clipped, and how they are scaled."""

import logging
from collections.abc import Sequence

import numpy as np

from scribbleseg.types import UNLABELLED, Cases, Image, spread

log = logging.getLogger(__name__)

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
        case = cases.named(name)
        lowest = case.image.min(axis=(1, 2, 3))
        its = (AIR_HU[0] <= lowest) & (lowest <= AIR_HU[1])
        if ct is not None and (len(ct) != len(its) or (ct & ~its).any()):
            _warn_of_mixture(name)
        if ct is not None and len(ct) != len(its):
            return ()
        ct = its if ct is None else ct & its
        if not ct.any():
            return ()
        structures = (case.scribbles != UNLABELLED) & (case.scribbles > 0)
        drawn += [case.image[:, structures]] if structures.any() else []
        if len(drawn) >= LOOKED_AT:
            break
    if ct is None:
        return ()
    return tuple(_around([values[channel] for values in drawn]) if is_ct else None for channel, is_ct in enumerate(ct))


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
    return np.stack([_normalised(channel, windows[n] if windows else None) for n, channel in enumerate(image)])


def _normalised(channel: np.ndarray, window: Window | None) -> np.ndarray:
    if window is not None:
        low, high = window
        return ((np.clip(channel, low, high) - (low + high) / 2) * (4 / (high - low))).astype(np.float32)
    low, high = np.percentile(channel, CLIPPED_PERCENTILES)
    if low == high:
        return np.zeros_like(channel, np.float32)
    # A power of two changes no digit, and keeps squares of the smallest (ADC in m^2/s) and the largest in range.
    clipped = np.ldexp(np.clip(channel, low, high), -int(np.frexp(float(high) - float(low))[1]))
    return ((clipped - clipped.mean()) / clipped.std()).astype(np.float32)
