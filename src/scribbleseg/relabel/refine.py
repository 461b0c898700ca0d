"""Refine: probabilities in, probabilities out, guided by the image. The first half of the E step's two axes."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float32, UInt8
from numpy import concatenate, ndarray
from pydantic import PositiveFloat, PositiveInt

from scribbleseg.crf.kernels import Kernels
from scribbleseg.crf.mean_field import mean_field

BATCH = 16
"""Slices in one mean field."""

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
    ) -> Float32[ndarray, "slice label size size"]:
        """The first argument."""
        return probabilities


@dataclass(frozen=True)
class DenseCRF(Kernels):
    """Relabelling by a separate dense CRF: mean field with Potts over all pairs of a slice's pixels.

    Can et al. 2018, section 2.2, Eq. 3-6, and Krähenbühl & Koltun 2011 (arXiv:1210.5644). The unary of a free pixel is
    minus the logarithm of the network's probability; that of a seed is 0 for its label and infinite for the others
    (Eq. 4), so that seeds never change and persuade their neighbours. Kernels are normalised symmetrically. What
    a 3-D network gives is refined slice by slice, too. Not where neighbouring structures look alike: then it moves
    borders to edges that are not the anatomy's.

    Args:
        iterations: iterations of the mean field at most (pydensecrf's examples take 5 to 10).
        tolerance: it stops once no probability changes by more than this (ours).
    """

    kind: Literal["dense_crf"] = "dense_crf"
    iterations: PositiveInt = 10
    tolerance: PositiveFloat = 1e-3

    @torch.inference_mode()
    def __call__(
        self,
        probabilities: Float32[ndarray, "slice label size size"],
        images: Float32[ndarray, "slice channel size size"],
        seeds: UInt8[ndarray, "slice size size"],
        device: torch.device,
    ) -> Float32[ndarray, "slice label size size"]:
        """The marginals of the mean field, slice by slice."""
        refined = [probabilities[:0]]
        for start in range(0, len(images), BATCH):
            batch = slice(start, start + BATCH)
            likely, image, clamped = (
                torch.from_numpy(array[batch].copy()).to(device) for array in (probabilities, images, seeds)
            )
            logits = mean_field(
                likely.clamp(min=SMALLEST).log(), self.filters(image), self.weights,
                clamped=clamped, iterations=self.iterations, tolerance=self.tolerance,
            )  # fmt: skip
            refined.append(logits.softmax(dim=1).cpu().numpy())
        return concatenate(refined)
