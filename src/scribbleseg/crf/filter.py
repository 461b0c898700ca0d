"""The interface of a Gaussian filter: a symmetric linear operator on label maps, built for given images."""

from abc import ABC, abstractmethod
from copy import copy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


class GaussianFilter(ABC):
    """The sum over all pixels with a Gaussian kernel K, built for given images by `gaussian_filter`.

    After `normalise` the operator is N^(-1/2) K N^(-1/2) with N = diag(K 1), pydensecrf's default. It is differentiable
    in the values: the operator is symmetric, so its backward pass is itself, and nothing is kept for it.

    Attributes:
        shape: the images' shape, without batch and channel.
        scale: the diagonal of N^(-1/2), or None without normalisation.
        reach: how many pixels along each axis a value has an effect; the image's side where the kernel is wide in
            space.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.scale: Tensor | None = None
        self.reach = shape

    def __call__(self, values: Float[Tensor, "batch label *space"]) -> Float[Tensor, "batch label *space"]:
        """Filters the map of each label.

        Raises:
            ValueError: the values have another shape than the filter was built for.
        """
        if tuple(values.shape[2:]) != self.shape:
            raise ValueError(f"expected values of shape batch label {self.shape}, got {tuple(values.shape)}")
        return _Symmetric.apply(values, self)

    def normalise(self) -> None:
        """Switches symmetric normalisation on."""
        sums = self._sum(self._ones())
        self.scale = sums.clamp_min(1).rsqrt()  # a pixel's own term is 1, also where an expansion has lost it

    def apply(self, values: Tensor) -> Tensor:
        """Does what `__call__` does, without a record of gradients."""
        if not values.numel():
            return values.clone()
        if self.scale is None:
            return self._sum(values)
        scale = self.scale.to(values)
        return self._sum(values * scale).mul_(scale)

    def crop(self, box: tuple[slice, ...]) -> "GaussianFilter":
        """The filter of values that are 0 outside a box, read inside the box: a principal submatrix of this filter.

        Args:
            box: one slice for each axis of space, with start and stop.
        """
        cropped = copy(self)
        cropped.shape = tuple(side.stop - side.start for side in box)
        if self.scale is not None:
            at: tuple[Any, ...] = (..., *box)
            cropped.scale = self.scale[at]
        cropped._crop(self.shape, box)
        return cropped

    def _crop(self, whole: tuple[int, ...], box: tuple[slice, ...]) -> None:
        """Crops a copy's own arrays, which still have the shape `whole`."""
        return

    @abstractmethod
    def _ones(self) -> Tensor:
        """Ones of shape `batch 1 *space`, in the filter's own dtype and on its device."""

    @abstractmethod
    def _sum(self, values: Tensor) -> Tensor:
        """The sum with the kernel, without normalisation: a new tensor `batch label *space`."""


class _Symmetric(torch.autograd.Function):
    """A symmetric linear operator, which is its own backward pass, and that pass's backward pass too."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, operator: GaussianFilter) -> Tensor:
        ctx.operator = operator
        return operator.apply(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Symmetric.apply(gradient, ctx.operator), None


class OfImages(GaussianFilter):
    """A filter that depends on the images, and so serves batches of their size, dtype and device alone."""

    def __init__(self, shape: tuple[int, ...], scaled: Tensor) -> None:
        super().__init__(shape)
        self.batch, self.like = len(scaled), scaled.new_empty(0)

    def _ones(self) -> Tensor:
        return self.like.new_ones(self.batch, 1, *self.shape)
