"""Connected pieces of a structure in a volume: which of them scribbles vouch for, and the largest one alone."""

from collections.abc import Collection

import numpy as np
from jaxtyping import UInt8
from scipy import ndimage

from scribbleseg.types import UNLABELLED

Volume = UInt8[np.ndarray, "slice height width"]

NEIGHBOURS = np.ones((3, 3, 3), bool)
"""A voxel and its 26 neighbours make a piece."""

ENOUGH = 0.99
"""A structure is one piece if its largest pieces hold this share of the scribbles that its prediction holds (ours)."""


def only_scribbled(labels: Volume, scribbles: Volume) -> Volume:
    """Labels without the pieces of structures in which no scribble of that structure lies; those become UNLABELLED.

    People draw on every structure that they see, though not in every slice. A structure that is scribbled nowhere in
    the volume has no piece left.

    Args:
        labels: 0 background, 1.. structures, UNLABELLED.
        scribbles: what a person drew, in the same shape.
    """
    kept = labels.copy()
    for value in _structures(labels):
        pieces, _ = ndimage.label(labels == value, NEIGHBOURS)
        vouched = np.unique(pieces[scribbles == value])
        kept[(pieces > 0) & ~np.isin(pieces, vouched)] = UNLABELLED
    return kept


def only_largest(labels: Volume, structures: Collection[int]) -> Volume:
    """Labels in which each of these structures has its largest piece alone; smaller ones become background."""
    kept = labels.copy()
    for value in set(structures) & set(_structures(labels)):
        pieces = _largest(labels, value)
        kept[(labels == value) & ~pieces] = 0
    return kept


def scribbles_in_pieces(labels: Volume, scribbles: Volume, n_labels: int) -> np.ndarray:
    """Counts `label 2` of the scribbled voxels that the labels agree with, and of those of them in the largest piece.

    Where the second is nearly the first, in all training cases together, the structure is one piece.
    """
    counts = np.zeros((n_labels, 2), np.int64)
    for value in _structures(labels):
        agreed = (scribbles == value) & (labels == value)
        counts[value] = agreed.sum(), (agreed & _largest(labels, value)).sum()
    return counts


def _structures(labels: Volume) -> list[int]:
    return [int(value) for value in np.unique(labels) if value not in (0, UNLABELLED)]


def _largest(labels: Volume, value: int) -> np.ndarray:
    """The largest piece of a label that is there; the first of equals."""
    pieces, _ = ndimage.label(labels == value, NEIGHBOURS)
    return pieces == 1 + np.bincount(pieces.ravel())[1:].argmax()
