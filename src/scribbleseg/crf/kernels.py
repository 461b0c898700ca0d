"""The two kernels of Can et al.'s dense CRF (Eq. 6), as numbers of a recipe and as filters for a batch of slices."""

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, TypeVar

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from scribbleseg.crf.filter import GaussianFilter
from scribbleseg.crf.gaussian import gaussian_filter

Part = TypeVar("Part")


@dataclass(frozen=True)
class HasDistances:
    """A part of a recipe that has distances, in pixels or in millimetres.

    Args:
        unit: "px", pixels of the recipe's grid, or "mm"; `in_pixels` converts millimetres to pixels.
    """

    DISTANCES: ClassVar[tuple[str, ...]]
    """The names of the fields that are distances."""

    unit: Literal["px", "mm"] = field(default="px", kw_only=True)

    def check_pixels(self) -> None:
        """Raises ValueError unless the distances are in pixels."""
        if self.unit != "px":
            raise ValueError(f"expected distances in pixels, got {self.unit}; call in_pixels() first")


@dataclass(frozen=True)
class Kernels(HasDistances):
    """The bilateral and the spatial kernel of a dense CRF: Can et al. 2018, Eq. 6.

        w1 exp(-p^2 / 2 sigma_alpha^2 - I^2 / 2 sigma_beta^2) + w2 exp(-p^2 / 2 sigma_gamma^2)

    p is the distance of two pixels, I the difference of their intensities; each slice is scaled to [0, 1] first (our
    reading: the paper does not say to which range its sigma_beta belongs).

    Args:
        w1: weight of the bilateral kernel.
        w2: weight of the spatial kernel.
        sigma_alpha: how far the bilateral kernel reaches, in `unit`.
        sigma_beta: how much two pixels that belong together may differ in intensity, on the slice's range [0, 1].
        sigma_gamma: how far the spatial kernel reaches, in `unit`.
        unit: "px" or "mm", see `HasDistances`.
    """

    DISTANCES = ("sigma_alpha", "sigma_gamma")

    w1: NonNegativeFloat
    w2: NonNegativeFloat
    sigma_alpha: PositiveFloat
    sigma_beta: PositiveFloat
    sigma_gamma: PositiveFloat

    @property
    def weights(self) -> tuple[float, float]:
        """The weights of the two filters."""
        return self.w1, self.w2

    def filters(
        self, scaled: Float[Tensor, "batch channel *space"], depth_px: float = 1.0
    ) -> tuple[GaussianFilter, GaussianFilter]:
        """The bilateral and the spatial filter of these images.

        Args:
            scaled: slices, or volumes with depth as their first axis; of `unit_range`.
            depth_px: the distance of a volume's slices in pixels.

        Raises:
            ValueError: the distances are not in pixels; `in_pixels` converts them.
        """
        self.check_pixels()
        shape = tuple(scaled.shape[2:])
        sides = (depth_px, 1.0, 1.0)[-len(shape) :]
        alpha, gamma = ([sigma / side for side in sides] for sigma in (self.sigma_alpha, self.sigma_gamma))
        return gaussian_filter(shape, alpha, scaled, self.sigma_beta), gaussian_filter(shape, gamma)


def in_pixels(part: Part, spacing_mm: float) -> Part:
    """The same part with its distances in pixels of this size. A part without distances is returned as it is."""
    if not isinstance(part, HasDistances) or part.unit == "px":
        return part
    return replace(part, unit="px", **{name: getattr(part, name) / spacing_mm for name in part.DISTANCES})


def unit_range(images: Float[Tensor, "batch channel *space"]) -> Float[Tensor, "batch channel *space"]:
    """Each channel of each slice shifted and scaled to [0, 1]; a constant one becomes 0."""
    flat = images.flatten(2)
    low, high = flat.amin(-1, keepdim=True), flat.amax(-1, keepdim=True)
    return ((flat - low) / (high - low).clamp(min=torch.finfo(images.dtype).tiny)).reshape(images.shape)
