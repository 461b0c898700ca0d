"""Gaussian filtering in feature space (position, or position and intensity): one interface, several algorithms.

`gaussian_filter` builds the operator of Can et al. 2018 (doi:10.1007/978-3-030-00889-5_27), Eq. 6, for given images:

    out_i = sum_j k_ij v_j,    k_ij = exp(-|p_i - p_j|^2 / 2 sigma_space^2 - |I_i - I_j|^2 / 2 sigma_intensity^2)

over all pairs of pixels, j = i included. Every algorithm here is linear and symmetric as built, approximations too, so
that the gradient of a filter is the filter itself.

| method | for | how |
|---|---|---|
| separable | no images | one 1-D Gaussian an axis, cut off where it falls below the tolerance |
| low_rank | smooth intensity kernels | sum over few functions of the intensity, each a separable filter |
| window | narrow in space | the pairs of pixels near enough |
| grid | wide in space, one channel | few functions of the position, each filtered along an axis of intensity bins |
| nystroem | wide in space, several channels | landmarks in feature space |
| dense | one sum, small images, GPUs; tests | all pairs |
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import copy
from functools import lru_cache
from itertools import combinations_with_replacement, product
from math import prod
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

Normalisation = Literal["symmetric", "none"]


class GaussianFilter(ABC):
    """The sum over all pixels with a Gaussian kernel, built for given images by `gaussian_filter`.

    With symmetric normalisation, N^(-1/2) K N^(-1/2) where N = diag(K 1): pydensecrf's default. Differentiable in the
    values: the operator is symmetric, so its backward pass is itself, and nothing is kept for it.

    Attributes:
        shape: of the images, without batch and channel.
        reach: pixels along each axis that a value's effect goes; all of them for kernels that are wide in space.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.scale: Tensor | None = None
        self.reach = shape

    def __call__(self, values: Float[Tensor, "batch label *space"]) -> Float[Tensor, "batch label *space"]:
        """Filters every label's map by itself.

        Raises:
            ValueError: for values of another shape than the filter was built for.
        """
        if tuple(values.shape[2:]) != self.shape:
            raise ValueError(f"expected values of shape batch label {self.shape}, got {tuple(values.shape)}")
        return _Symmetric.apply(values, self)

    def normalise(self) -> None:
        """From here on N^(-1/2) K N^(-1/2)."""
        sums = self._sum(self._ones())
        self.scale = sums.clamp_min(1).rsqrt()  # a pixel's own term is 1, also where an expansion has lost it

    def apply(self, values: Tensor) -> Tensor:
        """Of `__call__`, without a record of gradients."""
        if not values.numel():
            return values.clone()
        if self.scale is None:
            return self._sum(values)
        scale = self.scale.to(values)
        return self._sum(values * scale).mul_(scale)

    def crop(self, box: tuple[slice, ...]) -> "GaussianFilter":
        """The same kernel and scale for values that vanish outside a box, read within it: a principal submatrix.

        Args:
            box: a slice an axis of space, with start and stop.
        """
        cropped = copy(self)
        cropped.shape = tuple(side.stop - side.start for side in box)
        if self.scale is not None:
            at: tuple[Any, ...] = (..., *box)
            cropped.scale = self.scale[at]
        cropped._crop(self.shape, box)
        return cropped

    def _crop(self, whole: tuple[int, ...], box: tuple[slice, ...]) -> None:
        """What `crop` has to do to a copy's own arrays, of the shape `whole`."""
        return

    @abstractmethod
    def _ones(self) -> Tensor:
        """`batch 1 *space`, of the filter's own dtype and device."""

    @abstractmethod
    def _sum(self, values: Tensor) -> Tensor:
        """`batch label *space` -> a new tensor of the same shape; no normalisation."""


class _Symmetric(torch.autograd.Function):
    """A symmetric linear operator. Its own gradient, and the gradient's gradient too."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, operator: GaussianFilter) -> Tensor:
        ctx.operator = operator
        return operator.apply(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Symmetric.apply(gradient, ctx.operator), None


def gaussian_filter(
    shape: Sequence[int],
    sigma_space: float | Sequence[float],
    images: Float[Tensor, "batch channel *space"] | None = None,
    sigma_intensity: float | Sequence[float] | None = None,
    *,
    method: Literal["auto", "separable", "low_rank", "window", "grid", "nystroem", "dense"] = "auto",
    normalisation: Normalisation = "symmetric",
    tolerance: float = 1e-3,
) -> GaussianFilter:
    """The filter with a Gaussian kernel of position, or of position and intensity.

    Args:
        shape: of the images, without batch and channel; 1-D, 2-D or 3-D.
        sigma_space: of the position, in pixels; one, or one an axis (for a sigma in millimetres: divide it by the
            spacing of each axis).
        images: what the kernel compares besides positions; None for a kernel of position alone, which serves
            batches of any size, dtype and device.
        sigma_intensity: in the images' unit; one, or one a channel.
        method: the algorithm, see this module's table. "auto" chooses by the parameters.
        normalisation: "symmetric" as pydensecrf, or "none": the plain sum.
        tolerance: of the kernel, whose largest value is 1: below this it counts as 0 in space, and an expansion in few
            functions leaves at most this mean error. Between 0 and 1. Ours: on slices, 1e-3 changes dense CRF's Q by
            less than 1e-5 on average (docs/LOG.md).

    Returns:
        A callable `batch label *space` -> the same, in the images' dtype and on their device.

    Raises:
        ValueError: for a sigma that is not positive and finite, for images of another shape or that are not finite, for
            images without sigma_intensity and the reverse, for a method that cannot filter them, or for a tolerance
            that is not between 0 and 1.
    """
    shape = tuple(int(n) for n in shape)
    if not 0 < tolerance < 1:
        raise ValueError(f"expected a tolerance between 0 and 1, got {tolerance}")
    sigmas = _sigmas("sigma_space", sigma_space, len(shape))
    if (images is None) != (sigma_intensity is None):
        raise ValueError("expected images and sigma_intensity together, got one of them")
    built: GaussianFilter
    if images is None:
        if method not in ("auto", "separable"):
            raise ValueError(f"expected method 'separable' or 'auto' for a kernel without images, got {method!r}")
        built = Separable(shape, sigmas, tolerance)
    else:
        if tuple(images.shape[2:]) != shape:
            raise ValueError(f"expected images of shape batch channel {shape}, got {tuple(images.shape)}")
        if not images.isfinite().all():
            raise ValueError("expected finite intensities, got NaN or infinity in images")
        scaled = images.detach() / images.new_tensor(_sigmas("sigma_intensity", sigma_intensity, images.shape[1])).view(
            1, -1, *(1 for _ in shape)
        )
        chosen = _choose(shape, sigmas, scaled) if method == "auto" else method
        if chosen not in _METHODS:
            raise ValueError(f"expected one of {list(_METHODS)} for a kernel with images, got {chosen!r}")
        if chosen in ("low_rank", "grid") and images.shape[1] != 1:
            raise ValueError(f"expected one channel for method {chosen!r}, got {images.shape[1]}; use 'nystroem'")
        built = _METHODS[chosen](shape, sigmas, scaled, tolerance)
    if normalisation == "symmetric" and built._ones().numel():
        built.normalise()
    return built


def _sigmas(name: str, sigma: float | Sequence[float] | None, count: int) -> tuple[float, ...]:
    """One an axis or channel. Raises ValueError."""
    sigmas = tuple(map(float, sigma)) if isinstance(sigma, Sequence) else (float(sigma or 0),) * count
    if len(sigmas) != count or not all(0 < s < float("inf") for s in sigmas):
        raise ValueError(f"expected {name} positive and finite, one number or {count}, got {sigma!r}")
    return sigmas


def _choose(shape: tuple[int, ...], sigmas: tuple[float, ...], scaled: Tensor) -> str:
    """The fastest method, by measurements on slices (ours; benchmarks/crf.py)."""
    wide = all(4 * sigma >= n for sigma, n in zip(sigmas, shape, strict=True))
    if scaled.shape[1] > 1:
        return "nystroem" if wide else "window"
    if wide:
        return "grid"
    span = float(scaled.max() - scaled.min()) if scaled.numel() else 0.0
    return "low_rank" if span <= 25 else "window"


class Separable(GaussianFilter):
    """Position alone: a 1-D Gaussian along each axis. For batches of any size, dtype and device."""

    def __init__(self, shape: tuple[int, ...], sigmas: tuple[float, ...], tolerance: float) -> None:
        super().__init__(shape)
        self.sigmas, self.reach = sigmas, _reach(sigmas, tolerance)

    def _ones(self) -> Tensor:
        return torch.ones(1, 1, *self.shape)

    def normalise(self) -> None:
        """As for all, but in closed form: the sum of a product of Gaussians is the product of their sums."""
        self.scale = torch.ones(())
        for n, sigma, reach in zip(self.shape, self.sigmas, self.reach, strict=True):
            sums = _gaussian_matrix(n, sigma, reach, torch.float64, torch.device("cpu")).sum(1)
            self.scale = self.scale.unsqueeze(-1) * sums.rsqrt()

    def _sum(self, values: Tensor) -> Tensor:
        if max(self.shape) > 128:
            return _blur(values.movedim(1, -1).contiguous(), self.sigmas, self.reach).movedim(-1, 1)
        # On short axes, matrices are faster for few labels.
        for axis, (n, sigma, reach) in enumerate(zip(self.shape, self.sigmas, self.reach, strict=True), start=2):
            lines = values.reshape(-1, n, prod(values.shape[axis + 1 :]))
            gaussian = _gaussian_matrix(n, sigma, reach, values.dtype, values.device)
            values = (lines.squeeze(2) @ gaussian if lines.shape[2] == 1 else gaussian @ lines).view(values.shape)
        return values


class _OfImages(GaussianFilter):
    """A filter that holds something of the images' shape."""

    def __init__(self, shape: tuple[int, ...], scaled: Tensor) -> None:
        super().__init__(shape)
        self.batch, self.like = len(scaled), scaled.new_empty(0)

    def _ones(self) -> Tensor:
        return self.like.new_ones(self.batch, 1, *self.shape)


class LowRank(_OfImages):
    """exp(-(a - b)^2 / 2) = sum_r phi_r(a) phi_r(b), each term a separable filter of phi_r v.

    phi: Nystroem's expansion on evenly spaced intensities, turned to the principal axes of the pixels at hand, of
    which the last are left out while the mean of 1 - sum_r phi_r(I_i)^2 over pixels stays below the tolerance. What is
    left out is positive semi-definite, so the mean error of the kernel over pairs stays below it as well.
    """

    CACHED = 2**20
    """Numbers that are worked on at a time. Ours: 4 MiB."""

    def __init__(self, shape: tuple[int, ...], sigmas: tuple[float, ...], scaled: Tensor, tolerance: float) -> None:
        super().__init__(shape, scaled)
        self.sigmas, self.reach = sigmas, _reach(sigmas, tolerance)
        self.functions = scaled.new_empty(0, *shape, 0)  # batch *space term
        self._repeated: tuple[tuple[int, int], list[Tensor]] = ((0, 0), [])
        if scaled.numel():
            self.functions = _expand(scaled[:, 0], tolerance)[0]
        # A pixel's own term is known: of intensities so rare that the functions leave them out, it is all there is.
        self.missing = (1 - self.functions.square().sum(-1)).unsqueeze(1)

    def _sum(self, values: Tensor) -> Tensor:
        labels, terms = values.shape[1], self.functions.shape[-1]
        # Columns (term label), innermost, where the blur is fastest, and few at a time, so that they stay in cache. A
        # product with 0s and 1s copies and sums them several times as fast as broadcasting over so short an axis.
        step = max(1, min(terms, self.CACHED // max(1, values.numel())))
        copies = torch.eye(labels).repeat(1, step).to(values)
        columns = values.movedim(1, -1) @ copies
        summed = torch.zeros_like(columns)
        for functions in self._repeat(labels, step):
            size = functions.shape[-1]
            summed[..., :size].addcmul_(_blur(columns[..., :size] * functions, self.sigmas, self.reach), functions)
        return (summed @ copies.T).movedim(-1, 1).addcmul(self.missing, values)

    def _repeat(self, labels: int, step: int) -> list[Tensor]:
        """`batch *space (term label)`, `step` terms each; kept for the next call."""
        if self._repeated[0] != (labels, step):
            parts = self.functions.split(step, -1)
            self._repeated = (labels, step), [part.repeat_interleave(labels, -1) for part in parts]
        return self._repeated[1]

    def _crop(self, whole: tuple[int, ...], box: tuple[slice, ...]) -> None:
        self.functions = self.functions[(slice(None), *box)].contiguous()
        self.missing = self.missing[(slice(None), slice(None), *box)]
        self._repeated = ((0, 0), [])


class Grid(_OfImages):
    """One channel, a kernel that is wide in space: few functions of the position, along intensity bins.

    exp(-|p - q|^2 / 2 s^2) = sum_r psi_r(p) psi_r(q), the eigenvectors of the 1-D Gaussians and their products. Each
    psi_r v is summed into bins of intensity (linear interpolation), filtered there, and read out in the same way. The
    bins' Gaussian is narrower by the variance that the two interpolations add on average.
    """

    BINS = 6
    """Bins per sigma. Ours."""

    def __init__(self, shape: tuple[int, ...], sigmas: tuple[float, ...], scaled: Tensor, tolerance: float) -> None:
        super().__init__(shape, scaled)
        self.functions = _expand_position(shape, sigmas, tolerance).to(scaled)  # *space term
        self.tolerance, self._repeated = tolerance, scaled.new_empty(0, 0)
        if scaled.numel():
            self.scaled = scaled[:, 0] - scaled.min()
            self.bins = int(float(self.scaled.max()) * self.BINS) + 2
            self._bin()

    def _bin(self) -> None:
        positions = self.scaled.flatten(1) * self.BINS
        cells = positions.floor().clamp_(0, self.bins - 2)
        upper = (positions - cells).flatten()
        first = self.bins * torch.arange(self.batch, device=cells.device, dtype=torch.int32).unsqueeze(1)
        cells = (cells.int() + first).flatten()
        self.nodes = torch.stack([cells, cells + 1], 1)  # (batch pixel) 2
        self.shares = torch.stack([1 - upper, upper], 1)
        into, order = self.nodes.flatten().sort()
        self.sources, self.source_shares = (order // 2).int(), self.shares.flatten()[order]
        every = torch.arange(self.batch * self.bins, device=cells.device, dtype=torch.int32)
        self.offsets = torch.searchsorted(into, every, out_int32=True)

    def _sum(self, values: Tensor) -> Tensor:
        batch, labels = values.shape[:2]
        bag = functional.embedding_bag
        copies = torch.eye(labels).repeat(1, self.functions.shape[-1]).to(values)  # as in LowRank
        if self._repeated.shape[1] != copies.shape[1]:
            self._repeated = self.functions.flatten(0, -2).repeat_interleave(labels, -1)
        functions = self._repeated
        terms = (values.flatten(2).transpose(1, 2) @ copies).mul_(functions).flatten(0, 1)  # (batch pixel) (term label)
        table = bag(self.sources, terms, self.offsets, mode="sum", per_sample_weights=self.source_shares)
        variance = 1 - 1 / (3 * self.BINS**2)
        sigma = (self.BINS * variance**0.5,)
        table = _blur(table.view(batch, self.bins, -1), sigma, _reach(sigma, self.tolerance)).flatten(0, 1)
        table *= variance**-0.5  # for an integral as before
        terms = bag(self.nodes, table, mode="sum", per_sample_weights=self.shares)
        summed = terms.view(batch, -1, terms.shape[1]).mul_(functions) @ copies.T
        return summed.transpose(1, 2).unflatten(2, self.shape)

    def _crop(self, whole: tuple[int, ...], box: tuple[slice, ...]) -> None:
        self.functions = self.functions[box].contiguous()
        self.scaled, self._repeated = self.scaled[(slice(None), *box)].contiguous(), self.scaled.new_empty(0, 0)
        self._bin()


class Window(_OfImages):
    """A kernel that is narrow in space: pairs of pixels as far apart as it is above the tolerance, all kept.

    On lines with zeros behind them and flattened: there, an offset in space is the same step in memory everywhere.
    """

    def __init__(self, shape: tuple[int, ...], sigmas: tuple[float, ...], scaled: Tensor, tolerance: float) -> None:
        super().__init__(shape, scaled)
        self.reach = tuple(min(r, n - 1) for r, n in zip(_reach(sigmas, tolerance), shape, strict=True))
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


class Nystroem(_OfImages):
    """Landmarks z among the pixels: K = K_xz K_zz^(-1) K_zx, per image. For wide kernels of several channels.

    Williams and Seeger 2001. Directions of K_zz whose eigenvalue is below 1e-6 of the largest are left out.
    """

    LANDMARKS = 256
    """Ours: a mean error of the kernel near 1e-3 for sigmas of a third of the image and three channels."""

    def __init__(self, shape: tuple[int, ...], sigmas: tuple[float, ...], scaled: Tensor, tolerance: float) -> None:
        super().__init__(shape, scaled)
        axes = [torch.arange(n, device=scaled.device).to(scaled) / s for n, s in zip(shape, sigmas, strict=True)]
        position = torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1).T.expand(len(scaled), -1, -1)
        features = torch.cat([position, scaled.flatten(2).transpose(1, 2)], 2)  # batch pixel feature
        pixels = prod(shape)
        chosen = torch.randperm(pixels, generator=torch.Generator().manual_seed(0))[: self.LANDMARKS]
        landmarks = features[:, chosen.to(features.device)]
        # Inner products about the centre lose fewest digits.
        between = _pairwise(features, landmarks)
        functions = between @ _inverse_root(_pairwise(landmarks, landmarks), 1e-6)
        self.functions = functions.unflatten(1, shape)  # batch *space term

    def _sum(self, values: Tensor) -> Tensor:
        functions = self.functions.flatten(1, -2)
        return ((values.flatten(2) @ functions) @ functions.transpose(1, 2)).view_as(values)

    def _crop(self, whole: tuple[int, ...], box: tuple[slice, ...]) -> None:
        self.functions = self.functions[(slice(None), *box)]


class Dense(_OfImages):
    """All pairs, computed anew in tiles for every sum: exact, quadratic in time, linear in memory.

    -|a - b|^2 / 2 = a.b - |a|^2 / 2 - |b|^2 / 2 is one matrix product of features that carry their squares along. Half
    of the pairs serve for all of them.
    """

    TILE = 384
    """Rows and columns of the kernel at a time: what fits a core's cache (ours, measured)."""

    TILE_CUDA = 8192
    """A GPU wants few large ones: 256 MiB in float32 (ours)."""

    LOWEST = -40.0
    """Of exponents: exp(-40) is nothing beside a pixel's own 1; denormal numbers take five times as long."""

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


_METHODS: dict[str, type] = {
    "low_rank": LowRank,
    "grid": Grid,
    "window": Window,
    "nystroem": Nystroem,
    "dense": Dense,
}


def _reach(sigmas: tuple[float, ...], tolerance: float) -> tuple[int, ...]:
    """Pixels along each axis to where the kernel falls below the tolerance."""
    return tuple(int(sigma * math.sqrt(-2 * math.log(tolerance))) for sigma in sigmas)


def _gaussian(positions: Tensor) -> Tensor:
    """exp(-(a - b)^2 / 2) between all positions of an axis."""
    return (positions.unsqueeze(0) - positions.unsqueeze(1)).square_().mul_(-0.5).exp_()


@lru_cache(maxsize=64)
def _gaussian_matrix(n: int, sigma: float, reach: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Of an axis of n pixels, 0 beyond reach. Kept: iterations ask for the same few again and again."""
    gaussian = _gaussian(torch.arange(n, dtype=torch.float64) / sigma)
    return gaussian.triu(-reach).tril(reach).to(device, dtype)


def _blur(columns: Tensor, sigmas: tuple[float, ...], reaches: tuple[int, ...]) -> Tensor:
    """A 1-D Gaussian along each axis of space of `batch *space column`, contiguous."""
    shape = columns.shape
    for axis, (sigma, reach) in enumerate(zip(sigmas, reaches, strict=True), start=1):
        n = shape[axis]
        lines = columns.reshape(prod(shape[:axis]), n, -1, shape[-1])  # before axis after column
        if columns.device.type == "cpu" and columns.dtype == torch.float32 and reach < n // 2:
            columns = _convolve(lines, sigma, reach)
        else:
            columns = _gaussian_matrix(n, sigma, reach, columns.dtype, columns.device) @ lines.flatten(2)
        columns = columns.reshape(shape)
    return columns


def _convolve(lines: Tensor, sigma: float, reach: int) -> Tensor:
    """`before axis after column` along `axis`, as a depthwise convolution in channels_last memory."""
    before, n, after, columns = lines.shape
    kernel = torch.arange(-reach, reach + 1).to(lines).div_(sigma).square_().mul_(-0.5).exp_().view(1, 1, -1, 1)
    padding = [reach, 0]
    if after == 1:  # the last axis: lines side by side in one picture
        lines, kernel, padding = lines.view(1, before, n, columns), kernel.transpose(2, 3), [0, reach]
    pictures = lines.permute(0, 3, 1, 2)
    blurred = functional.conv2d(pictures, kernel.expand(columns, 1, -1, -1), padding=padding, groups=columns)
    return blurred.permute(0, 2, 3, 1)


def _expand(positions: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    """The Gaussian of positions on a line, in sigmas, as few functions: exp(-(a - b)^2 / 2) = sum_r f_r(a) f_r(b).

    Nystroem's expansion on evenly spaced nodes, turned to the principal axes of (a sample of) the positions.

    Args:
        positions: any shape, not empty.
        tolerance: functions are left out while the mean of 1 - sum_r f_r^2 stays below it.

    Returns:
        The functions, `*positions term`, and the mean square of each, descending, float64.
    """
    low, high = positions.min().double(), positions.max().double()
    # Nodes so near, and one beyond either end, that their own error is below 1e-6 (ours).
    nodes = torch.arange(int((high - low) / 0.6) + 4, device=positions.device, dtype=torch.float64) * 0.6 + low - 0.6
    root = _inverse_root(_gaussian(nodes), 1e-12)
    sample = positions.flatten()[:: max(1, positions.numel() // 4096)].double()
    functions = (sample.unsqueeze(1) - nodes).square_().mul_(-0.5).exp_() @ root
    energies, axes = torch.linalg.eigh(functions.T @ functions / len(sample))  # ascending
    left_out = int((energies.clamp_min(0).cumsum(0) <= tolerance).sum())
    root = root @ axes[:, left_out:].flip(1)
    # Read from a table, linearly, 400 steps a sigma: an error below 1e-6.
    steps = torch.linspace(0, 1, int((high - low) * 400) + 2, dtype=torch.float64, device=positions.device)
    table = ((steps.unsqueeze(1) * (high - low) + low - nodes).square_().mul_(-0.5).exp_() @ root).to(positions)
    scale = (len(steps) - 1) / (high - low).clamp_min(1e-6)
    return _read(table, (positions - low.to(positions)) * scale.to(positions)), energies[left_out:].flip(0)


def _read(table: Tensor, positions: Tensor) -> Tensor:
    """Rows of a table at fractional positions, linearly between neighbours: `*positions column`."""
    cells = positions.floor().clamp_(0, len(table) - 2)
    upper = (positions - cells).flatten()
    cells = cells.flatten().int()
    rows, shares = torch.stack([cells, cells + 1], 1), torch.stack([1 - upper, upper], 1)
    return functional.embedding_bag(rows, table, mode="sum", per_sample_weights=shares).unflatten(0, positions.shape)


def _expand_position(shape: tuple[int, ...], sigmas: tuple[float, ...], tolerance: float) -> Tensor:
    """The Gaussian of the position as few functions, `*space term`: products of those of each axis."""
    energies, axes = torch.ones(()), []
    for n, sigma in zip(shape, sigmas, strict=True):
        functions, further = _expand(torch.arange(n, dtype=torch.float64) / sigma, tolerance / (2 * len(shape)))
        energies = energies.unsqueeze(-1) * further
        axes.append(functions)
    ascending, order = energies.flatten().sort()
    order = order[ascending.cumsum(0) > tolerance / 2].flip(0)
    functions = torch.ones(len(order), dtype=torch.float64)
    for axis, term in zip(axes, torch.unravel_index(order, energies.shape), strict=True):
        functions = functions.unsqueeze(-2) * axis[:, term]
    return functions


def _inverse_root(kernel: Tensor, smallest: float) -> Tensor:
    """K^(-1/2) of a kernel matrix, `*batch node term`, without the directions that rounding spoils.

    Args:
        kernel: positive semi-definite.
        smallest: eigenvalue, relative to the largest, that is not left out.
    """
    energy, axes = torch.linalg.eigh(kernel.double())
    kept = energy > smallest * energy[..., -1:]
    return (axes * torch.where(kept, energy.clamp_min(1e-300).rsqrt(), 0.0).unsqueeze(-2)).to(kernel)


def _pairwise(a: Tensor, b: Tensor) -> Tensor:
    """exp(-|a_i - b_j|^2 / 2), `batch a b`."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square_().mul_(-0.5).exp_()
