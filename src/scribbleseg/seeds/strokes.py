"""Scribbles that do not grow."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from scribbleseg.types import Image, Labels


@dataclass(frozen=True)
class Strokes:
    """No growth: the scribbles as they are, for the row "strokes only" and for full masks given as scribbles.

    Args:
        kind: tag in recipes.
    """

    kind: Literal["strokes"] = "strokes"

    def __call__(self, image: Image, scribbles: Labels, spacing_mm: Sequence[float]) -> Labels:
        """Returns a copy of `scribbles`, uint8 `depth height width`; the other arguments are not used."""
        return np.array(scribbles)
