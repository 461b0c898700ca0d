"""Refine: probabilities in, probabilities out, guided by the image. The first half of the E step's two axes."""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float32
from numpy import ndarray


@dataclass(frozen=True)
class Identity:
    """The network's probabilities as they are: the paper's "base" relabelling (Can et al. 2018, section 2.2)."""

    kind: Literal["identity"] = "identity"

    def __call__(
        self,
        probabilities: Float32[ndarray, "slice label size size"],
        images: Float32[ndarray, "slice channel size size"],
    ) -> Float32[ndarray, "slice label size size"]:
        """The first argument."""
        return probabilities
