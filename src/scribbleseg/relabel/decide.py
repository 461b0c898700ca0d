"""Decide: probabilities in, labels out, seeds put back. The second half of the E step's two axes."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float32, UInt8

from scribbleseg.types import UNLABELLED


@dataclass(frozen=True)
class Argmax:
    """The most probable label everywhere: hard EM (Can et al. 2018, section 2.2, Eq. 2)."""

    kind: Literal["argmax"] = "argmax"

    def __call__(
        self, probabilities: Float32[np.ndarray, "slice label size size"]
    ) -> UInt8[np.ndarray, "slice size size"]:
        """Labels; ties go to the lower value."""
        return probabilities.argmax(axis=1).astype(np.uint8)


def clamp(
    labels: UInt8[np.ndarray, "slice size size"], seeds: UInt8[np.ndarray, "slice size size"]
) -> UInt8[np.ndarray, "slice size size"]:
    """The seeds where there are any, the labels elsewhere: seed areas are never relabelled (section 2.2)."""
    return np.where(seeds == UNLABELLED, labels, seeds)
