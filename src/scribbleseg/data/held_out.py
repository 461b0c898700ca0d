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

    A slice is left to the training where no other slice of the case shows one of its labels: a case of which a part is
    drawn teaches that the rest is background. All drawn slices of a case, such as a picture's only one, may be held out
    together, and then the case teaches nothing; but not what all cases before it show none of.

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
        others = [labels[other] for other in drawn if other != z and not held[other]]
        if held.sum() < count and labels[z] <= (set().union(*others) if others else seen):
            held[z] = True
    return held
