"""Gaussian filters of position and intensity that sum over pairs of pixels: those near enough, or all of them."""

import math
from itertools import combinations_with_replacement, product
from math import prod

import torch
from torch import Tensor
from torch.nn import functional

from scribbleseg.crf.filter import OfImages
from scribbleseg.crf.separable import reach_of


class Window(OfImages):
    """The pairs of pixels for which the kernel of position is above the tolerance, all kept: narrow in space.

    Each line is padded with zeros at its end and the image is flattened, so that an offset in space is the same step in
    memory for all pixels.
    """

    def __init__(self, shape: tuple[int, ...], sigmas: tuple[float, ...], scaled: Tensor, tolerance: float) -> None:
        super().__init__(shape, scaled)
        self.reach = tuple(min(r, n - 1) for r, n in zip(reach_of(sigmas, tolerance), shape, strict=True))
        self.margins = (0, *self.reach[1:])
        self.kernels = {}
        flat = self._flatten(scaled)
        for offset in product(range(self.reach[0] + 1), *(range(-r, r + 1) for r in self.reach[1:])):
            distance = sum((o / s) ** 2 for o, s in zip(offset, sigmas, strict=True))
            step = self._step(offset)
            if math.exp(-distance / 2) < tolerance or step <= 0:  # every pair once, none with itself
                continue
            kernel = (flat[..., step:] - flat[..., :-step]).square_()
            kernel = kernel.sum(1, keepdim=True) if scaled.shape[1] > 1 else kernel
            self.kernels[offset] = kernel.add_(distance).mul_(-0.5).exp_()

    def _flatten(self, values: Tensor) -> Tensor:
        return functional.pad(values, [side for r in reversed(self.margins) for side in (0, r)]).flatten(2)

    def _step(self, offset: tuple[int, ...]) -> int:
        """The step in memory, on flattened values, that belongs to an offset in space."""
        step = 0
        for o, n, r in zip(offset, self.shape, self.margins, strict=True):
            step = step * (n + r) + o
        return step

    def _sum(self, values: Tensor) -> Tensor:
        flat = self._flatten(values)
        summed = flat.clone()
        for offset, kernel in self.kernels.items():
            step = self._step(offset)
            summed[..., :-step].addcmul_(kernel, flat[..., step:])
            summed[..., step:].addcmul_(kernel, flat[..., :-step])
        padded = summed.unflatten(2, [n + r for n, r in zip(self.shape, self.margins, strict=True)])
        return padded[(..., *(slice(n) for n in self.shape))]

    def _crop(self, whole: tuple[int, ...], box: tuple[slice, ...]) -> None:
        padded = [n + r for n, r in zip(whole, self.margins, strict=True)]
        at = (..., *(slice(side.start, side.stop + r) for side, r in zip(box, self.margins, strict=True)))
        inside = {}
        for offset, kernel in self.kernels.items():
            if all(abs(o) < n for o, n in zip(offset, self.shape, strict=True)):
                flat = functional.pad(kernel, (0, prod(padded) - kernel.shape[2])).unflatten(2, padded)[at].flatten(2)
                inside[offset] = flat[..., : -self._step(offset)]
        self.kernels = inside


class Dense(OfImages):
    """All pairs of pixels, computed anew in tiles for every sum: exact, quadratic in time, linear in memory.

    -|a - b|^2 / 2 = a.b - |a|^2 / 2 - |b|^2 / 2 is one matrix product of features that carry their squares along. Half
    of the pairs serve for all of them.
    """

    TILE = 384
    """How many rows and columns of the kernel are computed at a time: what fits a core's cache (ours, measured)."""

    TILE_CUDA = 8192
    """The same on a GPU, which is fastest with few large tiles: 256 MiB in float32 (ours)."""

    LOWEST = -40.0
    """The smallest exponent: exp(-40) is negligible beside a pixel's own 1, and denormal numbers take five times as
    long."""

    def __init__(self, shape: tuple[int, ...], sigmas: tuple[float, ...], scaled: Tensor, tolerance: float) -> None:
        super().__init__(shape, scaled)
        axes = [torch.arange(n, device=scaled.device).to(scaled) / s for n, s in zip(shape, sigmas, strict=True)]
        position = torch.stack(torch.meshgrid(*axes, indexing="ij")).expand(len(scaled), *([-1] * (1 + len(shape))))
        self.features = torch.cat([position, scaled], 1)  # batch feature *space

    def _sum(self, values: Tensor) -> Tensor:
        features = self.features.flatten(2)
        features = features - features.mean(2, keepdim=True)  # the squares lose fewest digits about the centre
        half, one = features.square().sum(1, keepdim=True) / -2, torch.ones_like(features[:, :1])
        left = torch.cat([features, half, one], 1).transpose(1, 2).contiguous()
        right = torch.cat([features, one, half], 1)
        size = self.TILE_CUDA if values.is_cuda else self.TILE
        tiles = [slice(start, start + size) for start in range(0, features.shape[2], size)]
        flat = values.flatten(2)  # label pixel: several times as fast in the products below as pixel label
        summed = torch.zeros_like(flat)
        for a, b, v, out in zip(left, right, flat, summed, strict=True):
            for rows, columns in combinations_with_replacement(tiles, 2):
                kernel = (a[rows] @ b[:, columns]).clamp_(min=self.LOWEST).exp_()
                out[:, columns].addmm_(v[:, rows], kernel)
                if rows != columns:
                    out[:, rows].addmm_(v[:, columns], kernel.T)
        return summed.view_as(values)

    def _crop(self, whole: tuple[int, ...], box: tuple[slice, ...]) -> None:
        self.features = self.features[(slice(None), slice(None), *box)]
