"""Augmentation of whole batches: image and labels move together, and what moves in from outside is UNLABELLED.

All of it is in the plane of the slices. The slices of a block are moved and changed alike.
"""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor
from torch.nn import functional

from scribbleseg.data.slices import LAYERS, Layer
from scribbleseg.training.batch import Batch


@dataclass(frozen=True)
class Augment:
    """Random rotation, scaling, flips, elastic deformation, contrast, brightness and noise; one draw a slice or block.

    The papers do not give their ranges; all of these are ours. Everything is drawn from torch's global generator of
    the images' device, so that a seed fixes it. All zeros is no augmentation.

    Args:
        rotation_degrees: rotations are uniform in plus or minus this.
        scale: sizes are log-uniform in [1 / (1 + scale), 1 + scale].
        elastic: standard deviation, as a share of the slice's side, of random displacements at the knots of a
            coarse grid, interpolated smoothly between them.
        knots: the number of knots along each side of that grid.
        flips: whether slices are mirrored left-right and up-down at random. Off where left and right differ (a heart).
        contrast: intensities are multiplied by a log-uniform factor in [1 / (1 + contrast), 1 + contrast].
        brightness: standard deviation of a shift, in units of the volume's standard deviation.
        noise: largest standard deviation of added Gaussian noise, in the same units.
        gamma: each slice, scaled to [0, 1], is taken to a log-uniform power in [1 / (1 + gamma), 1 + gamma], and given
            back its mean and standard deviation.
        low_resolution: the share of slices that are drawn at half to full resolution, and enlarged again.
        blur: the share of slices that are smoothed by a Gaussian of 0.5 to 1 pixel.
    """

    rotation_degrees: NonNegativeFloat = 30.0
    scale: NonNegativeFloat = 0.25
    elastic: NonNegativeFloat = 0.02
    knots: Annotated[int, Field(ge=2, le=100)] = 6
    flips: bool = False
    contrast: NonNegativeFloat = 0.3
    brightness: NonNegativeFloat = 0.2
    noise: NonNegativeFloat = 0.1
    gamma: NonNegativeFloat = 0.0
    low_resolution: Annotated[float, Field(ge=0, le=1)] = 0.0
    blur: Annotated[float, Field(ge=0, le=1)] = 0.0

    def __call__(self, batch: Batch) -> Batch:
        """A batch of new tensors of the same shapes and types, all parts of a slice moved together.

        `clean` comes back with the images as they are before gain, brightness and noise, where the batch has it.
        """
        grid = self._grid(batch.images)
        moved = {name: _move(part, LAYERS[name], grid) for name, part in batch.parts().items() if name != "clean"}
        clean = moved["images"]
        return Batch(**{**moved, "images": self._intensities(clean)}, clean=None if batch.clean is None else clean)

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
        grid = functional.affine_grid(affine, [batch, 1, *images.shape[-2:]], align_corners=False)
        if self.elastic:
            knots = torch.randn(batch, 2, self.knots, self.knots, device=device, dtype=dtype) * 2 * self.elastic
            smooth = functional.interpolate(knots, images.shape[-2:], mode="bicubic", align_corners=True)
            grid = grid + smooth.permute(0, 2, 3, 1)
        return grid

    def _intensities(self, images: Tensor) -> Tensor:
        shape = (*images.shape[:2], *[1] * (images.ndim - 2))
        gain = torch.exp(_uniform(images, shape) * math.log1p(self.contrast))
        shift = torch.randn(shape, device=images.device, dtype=images.dtype) * self.brightness
        noise = torch.randn_like(images) * (self.noise * torch.rand_like(gain))
        images = self._resolution(images)
        if self.gamma:
            images = _to_a_power(images, torch.exp(_uniform(images, shape) * math.log1p(self.gamma)))
        return images * gain + shift + noise

    def _resolution(self, images: Tensor) -> Tensor:
        """Some slices or blocks at a lower resolution, others smoothed; one strength for the batch."""
        changes = ((self.low_resolution, _enlarged), (self.blur, _smoothed))
        slices = images.flatten(1, -3)
        for share, change in ((share, change) for share, change in changes if share):
            chosen = torch.rand(len(slices), 1, 1, 1, device=slices.device) < share
            slices = torch.where(chosen, change(slices, float(torch.rand(()))), slices)
        return slices.view(images.shape)


def _uniform(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Uniform in [-1, 1]."""
    return torch.rand(shape, device=like.device, dtype=like.dtype) * 2 - 1


def _to_a_power(images: Tensor, power: Tensor) -> Tensor:
    """Each channel of a slice or block, scaled to [0, 1], to a power, with the mean and standard deviation it had."""
    space = tuple(range(2, images.ndim))
    low, high = images.amin(space, keepdim=True), images.amax(space, keepdim=True)
    raised = ((images - low) / (high - low).clamp(min=1e-6)).pow(power)
    mean, sd = images.mean(space, keepdim=True), images.std(space, keepdim=True)
    raised_sd = raised.std(space, keepdim=True).clamp(min=1e-6)
    return (raised - raised.mean(space, keepdim=True)) / raised_sd * sd + mean


def _enlarged(images: Tensor, strength: float) -> Tensor:
    """At 1 / (1 + strength) of the resolution, and enlarged again."""
    sides = [max(1, round(side / (1 + strength))) for side in images.shape[-2:]]
    small = functional.interpolate(images, sides, mode="bilinear", antialias=True)
    return functional.interpolate(small, images.shape[-2:], mode="bilinear")


def _smoothed(images: Tensor, strength: float) -> Tensor:
    """Smoothed by a Gaussian whose standard deviation is 0.5 to 1 pixel."""
    offsets = torch.arange(-2, 3, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-2 * (offsets / (1 + strength)) ** 2)
    kernel = (kernel / kernel.sum()).repeat(images.shape[1], 1, 1, 1)
    padded = functional.pad(images, (2, 2, 2, 2), mode="replicate")
    return functional.conv2d(
        functional.conv2d(padded, kernel, groups=images.shape[1]), kernel.transpose(2, 3), groups=images.shape[1]
    )


def _move(part: Tensor, layer: Layer, grid: Tensor) -> Tensor:
    """A part of a batch, sampled where the grid says."""
    values = part.reshape(len(part), -1, *part.shape[-2:]).to(grid.dtype)
    outside = layer.outside or 0
    mode, padding = ("nearest" if layer.interpolation == "nearest" else "bilinear"), "zeros"
    if layer.outside is None:
        padding = "border"
    # Sampling pads with 0, so 0 has to mean what is outside while it runs.
    sampled = functional.grid_sample(values - outside, grid, mode=mode, padding_mode=padding, align_corners=False)
    sampled = sampled.reshape(part.shape) + outside
    return sampled if part.is_floating_point() else sampled.round().to(part.dtype)
