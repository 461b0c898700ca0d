"""Connected components of a structure in a volume: which of them scribbles vouch for, and the largest one alone."""

from collections.abc import Collection

import numpy as np
from jaxtyping import UInt8
from scipy import ndimage

from scribbleseg.types import UNLABELLED

FOUND = 0.5
"""A network knows a label in a case where it finds this share of its scribbles there; ours."""

Volume = UInt8[np.ndarray, "slice height width"]

NEIGHBOURS = np.ones((3, 3, 3), bool)
"""A voxel and its 26 neighbours are connected."""

ENOUGH = 0.99
"""A structure is one component if the largest ones hold this share of the scribbles that its prediction holds; ours."""


def only_scribbled(labels: Volume, scribbles: Volume) -> Volume:
    """Labels without the components of structures in which no scribble of that structure lies; those become UNLABELLED.

    People draw on every structure that they see, though not in every slice. A structure that is scribbled nowhere in
    the volume has no component left. A volume without any scribble was not looked at, or its scribbles are held out:
    all of it becomes UNLABELLED, for what is left would say that there is background alone.

    Args:
        labels: 0 background, 1.. structures, UNLABELLED.
        scribbles: what a person drew, in the same shape.
    """
    if (scribbles == UNLABELLED).all():
        return np.full_like(labels, UNLABELLED)
    kept = labels.copy()
    for value in _structures(labels):
        components, _ = ndimage.label(labels == value, NEIGHBOURS)
        vouched = np.unique(components[scribbles == value])
        kept[(components > 0) & ~np.isin(components, vouched)] = UNLABELLED
    return kept


def areas_of_lost(likeliest: Volume, scribbles: Volume, areas: Volume) -> Volume:
    """The seed areas of labels of which the network finds less than FOUND of their own scribbles; else UNLABELLED.

    A network that has not learned a label yet, because it is small or rare, would relabel all of it as another, and
    could never learn it again.

    Args:
        likeliest: the network's labels.
        scribbles: what a person drew, in the same shape.
        areas: what was grown from that.
    """
    lost = [
        value
        for value in np.unique(scribbles[scribbles != UNLABELLED])
        if (likeliest[scribbles == value] == value).mean() < FOUND
    ]
    return np.where(np.isin(areas, lost), areas, np.uint8(UNLABELLED))


def only_largest(labels: Volume, structures: Collection[int]) -> Volume:
    """Labels in which each of these structures has its largest component alone; smaller ones become background."""
    kept = labels.copy()
    for value in set(structures) & set(_structures(labels)):
        box, components, largest = _components(labels, value)
        for part, here in zip(kept[box], components, strict=True):
            part[(here > 0) & (here != largest)] = 0
        del components, here  # which would be kept while the next ones are numbered
    return kept


def scribbles_in_components(labels: Volume, scribbles: Volume, n_labels: int) -> np.ndarray:
    """Counts scribbled voxels that the labels agree with, and those of them in the largest component: `label 2`.

    Where the second is nearly the first, in all training cases together, the structure is one component.
    """
    counts = np.zeros((n_labels, 2), np.int64)
    for value in _structures(labels):
        box, components, largest = _components(labels, value)
        agreed = (scribbles[box] == value) & (labels[box] == value)
        counts[value] = agreed.sum(), (components[agreed] == largest).sum()
        del components
    return counts


def _structures(labels: Volume) -> list[int]:
    return [int(value) for value in np.unique(labels) if value not in (0, UNLABELLED)]


def _components(labels: Volume, value: int) -> tuple[tuple[slice, ...], np.ndarray, int]:
    """The box around a label that is there, the numbers of its components in it, and which of them is the largest."""
    box = ndimage.find_objects((labels == value).view(np.uint8))[0]
    components, n = ndimage.label(labels[box] == value, NEIGHBOURS)
    sizes = np.zeros(n + 1, np.int64)
    for slice_ in components:  # at once it would take 8 bytes a voxel
        sizes += np.bincount(slice_.ravel(), minlength=n + 1)
    return box, components, 1 + int(sizes[1:].argmax())
