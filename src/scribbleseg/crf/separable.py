"""Gaussian filters of position alone: a 1-D Gaussian along each axis."""

import math
from functools import lru_cache
from math import prod

import torch
from torch import Tensor
from torch.nn import functional

from scribbleseg.crf.filter import GaussianFilter


class Separable(GaussianFilter):
    """A 1-D Gaussian along each axis, cut off at the tolerance; for batches of any size, dtype and device."""

    def __init__(self, shape: tuple[int, ...], sigmas: tuple[float, ...], tolerance: float) -> None:
        super().__init__(shape)
        self.sigmas, self.reach = sigmas, reach_of(sigmas, tolerance)

    def _ones(self) -> Tensor:
        return torch.ones(1, 1, *self.shape)

    def normalise(self) -> None:
        """Switches symmetric normalisation on, in closed form: the sums of a product are the product of the sums."""
        self.scale = torch.ones(())
        for n, sigma, reach in zip(self.shape, self.sigmas, self.reach, strict=True):
            sums = _axis_matrix(n, sigma, reach, torch.float64, torch.device("cpu")).sum(1)
            self.scale = self.scale.unsqueeze(-1) * sums.rsqrt()

    def _sum(self, values: Tensor) -> Tensor:
        if max(self.shape) > 128:
            return blur(values.movedim(1, -1).contiguous(), self.sigmas, self.reach).movedim(-1, 1)
        # On short axes, matrices are faster for few labels.
        for axis, (n, sigma, reach) in enumerate(zip(self.shape, self.sigmas, self.reach, strict=True), start=2):
            lines = values.reshape(-1, n, prod(values.shape[axis + 1 :]))
            gaussian = _axis_matrix(n, sigma, reach, values.dtype, values.device)
            values = (lines.squeeze(2) @ gaussian if lines.shape[2] == 1 else gaussian @ lines).view(values.shape)
        return values


def reach_of(sigmas: tuple[float, ...], tolerance: float) -> tuple[int, ...]:
    """The number of pixels along each axis after which the kernel falls below the tolerance."""
    return tuple(int(sigma * math.sqrt(-2 * math.log(tolerance))) for sigma in sigmas)


def gaussian_matrix(positions: Tensor) -> Tensor:
    """The matrix exp(-(a - b)^2 / 2) of all pairs of positions on a line, in sigmas."""
    return (positions.unsqueeze(0) - positions.unsqueeze(1)).square_().mul_(-0.5).exp_()


@lru_cache(maxsize=64)
def _axis_matrix(n: int, sigma: float, reach: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The Gaussian along an axis of n pixels, 0 beyond reach. Cached, because every iteration needs the same few."""
    gaussian = gaussian_matrix(torch.arange(n, dtype=torch.float64) / sigma)
    return gaussian.triu(-reach).tril(reach).to(device, dtype)


def blur(columns: Tensor, sigmas: tuple[float, ...], reaches: tuple[int, ...]) -> Tensor:
    """Filters `batch *space column`, contiguous, with a 1-D Gaussian along each axis of space."""
    shape = columns.shape
    for axis, (sigma, reach) in enumerate(zip(sigmas, reaches, strict=True), start=1):
        n = shape[axis]
        lines = columns.reshape(prod(shape[:axis]), n, -1, shape[-1])  # before axis after column
        if columns.device.type == "cpu" and columns.dtype == torch.float32 and reach < n // 2:
            columns = _convolve(lines, sigma, reach)
        else:
            columns = _axis_matrix(n, sigma, reach, columns.dtype, columns.device) @ lines.flatten(2)
        columns = columns.reshape(shape)
    return columns


def _convolve(lines: Tensor, sigma: float, reach: int) -> Tensor:
    """Filters `before axis after column` along `axis` by a depthwise convolution in channels_last memory."""
    before, n, after, columns = lines.shape
    kernel = torch.arange(-reach, reach + 1).to(lines).div_(sigma).square_().mul_(-0.5).exp_().view(1, 1, -1, 1)
    padding = [reach, 0]
    if after == 1:  # the last axis: lines side by side in one picture
        lines, kernel, padding = lines.view(1, before, n, columns), kernel.transpose(2, 3), [0, reach]
    pictures = lines.permute(0, 3, 1, 2)
    blurred = functional.conv2d(pictures, kernel.expand(columns, 1, -1, -1), padding=padding, groups=columns)
    return blurred.permute(0, 2, 3, 1)
