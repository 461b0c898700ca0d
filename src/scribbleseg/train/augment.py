"""Augmentation of whole batches: image and labels move together, and what moves in from outside is UNLABELLED."""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float, UInt8
from pydantic import Field, NonNegativeFloat
from torch import Tensor
from torch.nn import functional

from scribbleseg.types import UNLABELLED


@dataclass(frozen=True)
class Augment:
    """Random rotation, scaling, flips, elastic deformation, contrast, brightness and noise; one draw per slice.

    The papers do not give their ranges; all of these are ours. Everything is drawn from torch's global generator of
    the images' device, so that a seed fixes it. All zeros is no augmentation.

    Args:
        rotation_degrees: rotations are uniform in plus or minus this.
        scale: sizes are log-uniform in [1 / (1 + scale), 1 + scale].
        elastic: standard deviation, as a share of the slice's side, of random displacements at the knots of a
            coarse grid, interpolated smoothly between them.
        knots: of that grid along each side.
        flips: whether slices are mirrored left-right and up-down at random. Off where left and right differ (a heart).
        contrast: intensities are multiplied by a log-uniform factor in [1 / (1 + contrast), 1 + contrast].
        brightness: standard deviation of a shift, in units of the volume's standard deviation.
        noise: largest standard deviation of added Gaussian noise, in the same units.
    """

    rotation_degrees: NonNegativeFloat = 30.0
    scale: NonNegativeFloat = 0.25
    elastic: NonNegativeFloat = 0.02
    knots: Annotated[int, Field(ge=2)] = 6
    flips: bool = False
    contrast: NonNegativeFloat = 0.3
    brightness: NonNegativeFloat = 0.2
    noise: NonNegativeFloat = 0.1

    def __call__(
        self,
        images: Float[Tensor, "batch channel height width"],
        labels: UInt8[Tensor, "batch *map height width"],
    ) -> tuple[Float[Tensor, "batch channel height width"], UInt8[Tensor, "batch *map height width"]]:
        """A batch of new tensors of the same shapes and types; several label maps of a slice move together, too."""
        grid = self._grid(images)
        moved = functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
        # Sampling pads with 0, so 0 has to mean UNLABELLED while it runs.
        shifted = (labels.to(images.dtype) - UNLABELLED).reshape(len(labels), -1, *labels.shape[-2:])
        new = functional.grid_sample(shifted, grid, mode="nearest", padding_mode="zeros", align_corners=False)
        return self._intensities(moved), (new.reshape(labels.shape) + UNLABELLED).round().to(torch.uint8)

    def _grid(self, images: Tensor) -> Tensor:
        """Where in the original (x, y in [-1, 1]) each pixel of the new slice is taken from."""
        batch, device, dtype = len(images), images.device, images.dtype
        angle = _uniform(images, (batch,)) * math.radians(self.rotation_degrees)
        zoom = torch.exp(_uniform(images, (batch, 2)) * math.log1p(self.scale))
        mirror = torch.ones(batch, 2, device=device, dtype=dtype)
        if self.flips:
            mirror -= 2 * torch.randint(0, 2, (batch, 2), device=device, dtype=dtype)
        cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
        rotation = torch.stack([torch.stack([cos, -sin, zero], 1), torch.stack([sin, cos, zero], 1)], 1)
        affine = rotation * (zoom * mirror)[:, :, None]
        grid = functional.affine_grid(affine, list(images.shape), align_corners=False)
        if self.elastic:
            knots = torch.randn(batch, 2, self.knots, self.knots, device=device, dtype=dtype) * 2 * self.elastic
            smooth = functional.interpolate(knots, images.shape[-2:], mode="bicubic", align_corners=True)
            grid = grid + smooth.permute(0, 2, 3, 1)
        return grid

    def _intensities(self, images: Tensor) -> Tensor:
        shape = (len(images), images.shape[1], 1, 1)
        gain = torch.exp(_uniform(images, shape) * math.log1p(self.contrast))
        shift = torch.randn(shape, device=images.device, dtype=images.dtype) * self.brightness
        noise = torch.randn_like(images) * (self.noise * torch.rand_like(gain))
        return images * gain + shift + noise


def _uniform(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Uniform in [-1, 1]."""
    return torch.rand(shape, device=like.device, dtype=like.dtype) * 2 - 1
