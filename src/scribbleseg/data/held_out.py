"""Slices whose scribbles no training sees, so that a network's agreement with people can be told without any mask."""

import zlib
from collections.abc import Set

import numpy as np
from jaxtyping import Bool, UInt8

from scribbleseg.types import UNLABELLED


def slices_to_hold_out(
    name: str, scribbles: UInt8[np.ndarray, "slice height width"], share: float, seen: Set[int]
) -> Bool[np.ndarray, " slice"]:
    """Chooses about that share of a case's drawn slices at random; the same ones whenever the case is asked for (ours).

    A slice is left to the training where it holds all that there is of one of its labels, in this case and those before
    it.

    Args:
        name: that of the case; it decides which slices.
        scribbles: those of the case, UNLABELLED where nothing is drawn.
        share: the share of the drawn slices, 0 to 1; on average, for a case may have fewer slices than 1 / share.
        seen: the labels that cases before this one leave to the training.
    """
    held = np.zeros(len(scribbles), bool)
    labels = [set(np.unique(each).tolist()) - {UNLABELLED} for each in scribbles]
    drawn = [z for z, each in enumerate(labels) if each]
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    count = int(share * len(drawn) + rng.random())
    for z in rng.permutation(drawn).astype(int):
        rest = set().union(seen, *(labels[other] for other in drawn if other != z and not held[other]))
        if held.sum() < count and labels[z] <= rest:
            held[z] = True
    return held
