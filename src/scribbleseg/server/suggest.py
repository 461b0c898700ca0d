"""The slice that is best drawn next: for now evenly spaced ones, that were not drawn on."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

SLICES = 5
"""Slices of a case that are suggested, evenly spaced; ours: what `check` and the tutorial ask of a beginner."""


class Suggestion(NamedTuple):
    """One slice.

    Args:
        case: the name of the case.
        slice_index: the slice in the plane of acquisition, from 0.
        why: the reason, for people to read.
    """

    case: str
    slice_index: int
    why: str


def evenly_spaced(drawn: Bool[np.ndarray, " depth"], most: int = SLICES) -> int | None:
    """Returns the slice in the middle of the widest gap between drawn ones; None where `most` of them are drawn."""
    depth = len(drawn)
    if drawn.sum() >= min(most, depth):
        return None
    ends = [-1, *np.flatnonzero(drawn).tolist(), depth]
    gaps = [(after - before, before) for before, after in pairwise(ends)]
    width, before = max(gaps, key=lambda gap: (gap[0], -gap[1]))
    return before + width // 2
