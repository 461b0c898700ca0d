"""Seed areas of one slice, grown while a person draws, as the training would grow them from this slice's strokes."""

import threading
from dataclasses import replace
from functools import cached_property

import numpy as np
from jaxtyping import Float32, UInt8

from scribbleseg.data.intensities import CLIPPED_PERCENTILES, ct_windows
from scribbleseg.seeds.random_walker import AUTOMATIC
from scribbleseg.types import Case, Cases, Geometry, Image, Labels

Slice = UInt8[np.ndarray, "height width"]

USUAL_TAU = 0.95
"""The tau at first; training chooses one of several for the data (`RandomWalker.fitted`)."""


class Areas:
    """Grows the areas of single slices of one image.

    Args:
        image: the image as on the page, `channel depth height width`.
        labels: its scribbles, from which the window of a CT is chosen.
        spacing_mm: voxel size along `(depth, height, width)`.
    """

    def __init__(self, image: Image, labels: Labels, spacing_mm: tuple[float, float, float]) -> None:
        self.image, self.labels, self.spacing_mm = image, labels, spacing_mm
        self._one = threading.Lock()

    @cached_property
    def windows(self) -> list[tuple[float, float]]:
        """The lowest and the highest intensity of each channel: the training clips it there, the walker scales by it.

        A CT has a window around its structures, any other channel its own percentiles (`data.intensities.normalise`).
        """
        depth, height, width = self.labels.shape
        affine = np.diag([*self.spacing_mm[::-1], 1.0])
        case = Case("case", self.image, self.labels, Geometry((depth, height, width), affine))
        chosen = ct_windows(Cases(["case"], lambda _: case)) or (None,) * len(self.image)
        own = (np.percentile(channel, CLIPPED_PERCENTILES) for channel in self.image)
        return [(float(low), float(high)) for low, high in (c or o for c, o in zip(chosen, own, strict=True))]

    def grow(self, index: int, scribbles: Slice, tau: float, beta: float) -> Slice:
        """Returns the areas of one slice, uint8 `height width`, UNLABELLED where the walker is not sure.

        Args:
            index: the slice, along depth.
            scribbles: its strokes, uint8 `height width`.
            tau: smallest probability of an area.
            beta: the larger, the harder an edge is to cross.
        """
        walker = replace(AUTOMATIC, tau=tau, beta=beta, likelihood=0.0)
        with self._one:  # so that one core is left for everything else
            scaled = np.stack([_scaled(self.image[c, index], *window) for c, window in enumerate(self.windows)])
            return walker.grow_scaled(scaled[:, None], scribbles[None], self.spacing_mm)[0]


def _scaled(values: Float32[np.ndarray, "height width"], low: float, high: float) -> np.ndarray:
    clipped = np.clip(values.astype(np.float64), low, high)
    return (clipped - low) / (high - low) if high > low else np.zeros_like(clipped)
