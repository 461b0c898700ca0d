"""Agreement of labels with scribbles: the one measure of a network that needs no mask."""

import numpy as np
from jaxtyping import UInt8

from scribbleseg.types import UNLABELLED

AGREES, DIFFERS = 0.9, 0.7
"""From which agreement with held-out scribbles on a network follows them, and below which it does not (ours)."""


def agreement(labels: UInt8[np.ndarray, "..."], scribbles: UInt8[np.ndarray, "..."]) -> dict[int, float]:
    """Dice of every label that was drawn, counted on the drawn pixels alone (ours).

    1 where the labels say the same as the scribbles everywhere. It tells a useless network from a good one, not two
    good ones from each other: people draw where they are sure.

    Args:
        labels: what a network says.
        scribbles: what a person drew, UNLABELLED elsewhere, in the same shape.
    """
    drawn = scribbles != UNLABELLED
    predicted, true = labels[drawn], scribbles[drawn]
    return {
        int(label): float(
            2 * np.sum((predicted == label) & (true == label)) / (np.sum(predicted == label) + np.sum(true == label))
        )
        for label in np.unique(true)
    }


def mean_agreement(labels: UInt8[np.ndarray, "..."], scribbles: UInt8[np.ndarray, "..."]) -> float:
    """The mean of the labels' agreement; NaN where nothing is drawn."""
    values = list(agreement(labels, scribbles).values())
    return float(np.mean(values)) if values else float("nan")
