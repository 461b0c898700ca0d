"""Refine: probabilities in, probabilities out, guided by the image. The first half of the E step's two axes."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float32, UInt8
from numpy import empty_like, ndarray
from pydantic import PositiveFloat, PositiveInt

from scribbleseg.crf.kernels import Kernels, unit_range
from scribbleseg.crf.mean_field import mean_field
from scribbleseg.data.dimensions import parts

BATCH = 16
"""Slices in one mean field in 2-D."""

SMALLEST = 1e-7
"""A network's probability is not taken to be smaller: the CRF could not overrule a label of probability 0 (ours)."""


@dataclass(frozen=True)
class Identity:
    """The network's probabilities as they are: the paper's "base" relabelling (Can et al. 2018, section 2.2)."""

    kind: Literal["identity"] = "identity"

    def __call__(
        self,
        probabilities: Float32[ndarray, "slice label size size"],
        images: Float32[ndarray, "slice channel size size"],
        seeds: UInt8[ndarray, "slice size size"],
        device: torch.device,
        depth_px: float = 1.0,
    ) -> Float32[ndarray, "slice label size size"]:
        """The first argument."""
        return probabilities


@dataclass(frozen=True)
class DenseCRF(Kernels):
    """Relabelling by a separate dense CRF: mean field with Potts over all pairs of pixels of a slice, or of a volume.

    Can et al. 2018, section 2.2, Eq. 3-6, and Krähenbühl & Koltun 2011 (arXiv:1210.5644). The unary of a free pixel is
    minus the logarithm of the network's probability; that of a seed is 0 for its label and infinite for the others
    (Eq. 4), so that seeds never change and persuade their neighbours. Kernels are normalised symmetrically. Not where
    neighbouring structures look alike: then it moves borders to edges that are not the anatomy's.

    Args:
        iterations: iterations of the mean field at most (pydensecrf's examples take 5 to 10).
        tolerance: it stops once no probability changes by more than this (ours).
        dimensions: 2, each slice on its own, as in the paper; 3, across slices (ours), whose distance counts as what it
            is. In 3-D intensities are scaled to the range of the volume, and large volumes are refined in overlapping
            parts (`data.dimensions.parts`).
    """

    kind: Literal["dense_crf"] = "dense_crf"
    iterations: PositiveInt = 10
    tolerance: PositiveFloat = 1e-3
    dimensions: Literal[2, 3] = 2

    @torch.inference_mode()
    def __call__(
        self,
        probabilities: Float32[ndarray, "slice label size size"],
        images: Float32[ndarray, "slice channel size size"],
        seeds: UInt8[ndarray, "slice size size"],
        device: torch.device,
        depth_px: float = 1.0,
    ) -> Float32[ndarray, "slice label size size"]:
        """The marginals of the mean field; `depth_px` is the distance of the slices, of one case in 3-D, in pixels."""
        if not len(images):
            return probabilities
        refined = empty_like(probabilities)
        solid = self.dimensions == 3  # one image, its slices an axis of space
        stored = torch.from_numpy(images.copy())
        scaled = unit_range(stored.movedim(0, 1)[None])[0].movedim(1, 0) if solid else unit_range(stored)
        batches = ((slice(n, n + BATCH),) * 2 for n in range(0, len(images), BATCH))
        for seen, given in parts(len(images), images[0, 0].size) if solid else batches:
            likely, clamped = (torch.from_numpy(array[seen].copy()).to(device) for array in (probabilities, seeds))
            image = scaled[seen].to(device)
            if solid:
                likely, image, clamped = (each.movedim(0, -3)[None] for each in (likely, image, clamped))
            logits = mean_field(
                likely.clamp(min=SMALLEST).log(), self.filters(image, depth_px), self.weights,
                clamped=clamped, iterations=self.iterations, tolerance=self.tolerance,
            )  # fmt: skip
            found = logits.softmax(dim=1)
            if solid:
                found = found[0].movedim(-3, 0)
            refined[given] = found[given.start - seen.start :][: given.stop - given.start].cpu().numpy()
        return refined
