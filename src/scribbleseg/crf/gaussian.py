"""Gaussian filtering in feature space (position, or position and intensity): one interface, several algorithms.

`gaussian_filter` builds the operator of Can et al. 2018 (doi:10.1007/978-3-030-00889-5_27), Eq. 6, for given images:

    out_i = sum_j k_ij v_j,    k_ij = exp(-|p_i - p_j|^2 / 2 sigma_space^2 - |I_i - I_j|^2 / 2 sigma_intensity^2)

over all pairs of pixels, j = i included. Every algorithm here is linear and symmetric as built, approximations too, so
that the gradient of a filter is the filter itself.

| method | for | how |
|---|---|---|
| separable | no images | one 1-D Gaussian an axis, exact |
| low_rank | smooth intensity kernels | sum over few functions of the intensity, each a separable filter |
| window | narrow in space | the pairs within `REACH` sigmas |
| grid | wide in space, one channel | few functions of the position, each filtered along an axis of intensity bins |
| nystroem | wide in space, several channels | landmarks in feature space |
| dense | tests | all pairs |
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import product
from math import prod
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

Normalisation = Literal["symmetric", "none"]

REACH = 4.0
"""Sigmas at which a Gaussian window ends. Ours: 1e-4 of a Gaussian's sum lies beyond, in 2-D at most 2e-4."""


class GaussianFilter(ABC):
    """The sum over all pixels with a Gaussian kernel, built for given images by `gaussian_filter`.

    With symmetric normalisation, N^(-1/2) K N^(-1/2) where N = diag(K 1): pydensecrf's default. Differentiable in the
    values: the operator is symmetric, so its backward pass is itself, and nothing is kept for it.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.scale: Tensor | None = None

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
        sums = self.kernel_sum(self.ones())
        self.scale = sums.clamp_min(torch.finfo(sums.dtype).tiny).rsqrt()

    def apply(self, values: Tensor) -> Tensor:
        """Of `__call__`, without a record of gradients."""
        if not values.numel():
            return values.clone()
        if self.scale is None:
            return self.kernel_sum(values)
        scale = self.scale.to(values)
        return self.kernel_sum(values * scale).mul_(scale)

    @abstractmethod
    def ones(self) -> Tensor:
        """`batch 1 *space`, of the filter's own dtype and device."""

    @abstractmethod
    def kernel_sum(self, values: Tensor) -> Tensor:
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
    tolerance: float = 1e-4,
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
        tolerance: mean error of the kernel (whose largest value is 1) that an expansion in few functions may have.

    Returns:
        A callable `batch label *space` -> the same, in the images' dtype and on their device.

    Raises:
        ValueError: for a sigma that is not positive and finite, for images of another shape or that are not finite, for
            images without sigma_intensity and the reverse, or for a method that cannot filter them.
    """
    shape = tuple(int(n) for n in shape)
    sigmas = _sigmas("sigma_space", sigma_space, len(shape))
    if (images is None) != (sigma_intensity is None):
        raise ValueError("expected images and sigma_intensity together, got one of them")
    built: GaussianFilter
    if images is None:
        if method not in ("auto", "separable"):
            raise ValueError(f"expected method 'separable' or 'auto' for a kernel without images, got {method!r}")
        built = Separable(shape, sigmas)
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
    if normalisation == "symmetric" and built.ones().numel():
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
    """Position alone: a 1-D Gaussian matrix along each axis. Exact, for batches of any size, dtype and device."""

    def __init__(self, shape: tuple[int, ...], sigmas: tuple[float, ...]) -> None:
        super().__init__(shape)
        self.axes = [_gaussian(torch.arange(n, dtype=torch.float64) / s) for n, s in zip(shape, sigmas, strict=True)]

    def ones(self) -> Tensor:  # noqa: D102
        return torch.ones(1, 1, *self.shape, dtype=torch.float64)

    def kernel_sum(self, values: Tensor) -> Tensor:  # noqa: D102
        for axis, gaussian in enumerate(self.axes):
            values = _along(values, axis, gaussian.to(values))
        return values


class _OfImages(GaussianFilter):
    """A filter that holds something of the images' shape."""

    def __init__(self, shape: tuple[int, ...], scaled: Tensor) -> None:
        super().__init__(shape)
        self.batch, self.like = len(scaled), scaled.new_empty(0)

    def ones(self) -> Tensor:
        return self.like.new_ones(self.batch, 1, *self.shape)


class LowRank(_OfImages):
    """exp(-(a - b)^2 / 2) = sum_r phi_r(a) phi_r(b), each term a separable filter of phi_r v.

    phi: Nystroem's expansion on evenly spaced intensities, turned to the principal axes of the pixels at hand, of
    which the last are left out while the mean of 1 - sum_r phi_r(I_i)^2 over pixels stays below the tolerance. What is
    left out is positive semi-definite, so the mean error of the kernel over pairs stays below it as well.
    """

    def __init__(self, shape: tuple[int, ...], sigmas: tuple[float, ...], scaled: Tensor, tolerance: float) -> None:
        super().__init__(shape, scaled)
        self.space = Separable(shape, sigmas)
        if scaled.numel():
            self.functions = _intensity_functions(scaled.flatten(1), tolerance).unflatten(2, shape)

    def kernel_sum(self, values: Tensor) -> Tensor:  # noqa: D102
        terms = self.functions.unsqueeze(2) * values.unsqueeze(1)  # batch term label *space
        filtered = self.space.kernel_sum(terms.flatten(1, 2)).view_as(terms)
        return filtered.mul_(self.functions.unsqueeze(2)).sum(1)


class Grid(_OfImages):
    """One channel, a kernel that is wide in space: few functions of the position, along intensity bins.

    exp(-|p - q|^2 / 2 s^2) = sum_r psi_r(p) psi_r(q), the eigenvectors of the 1-D Gaussians and their products. Each
    psi_r v is summed into bins of intensity (linear interpolation), filtered there, and read out in the same way. The
    bins' Gaussian is narrower by the variance that the two interpolations add on average.
    """

    BINS = 8
    """Bins per sigma. Ours."""

    def __init__(self, shape: tuple[int, ...], sigmas: tuple[float, ...], scaled: Tensor, tolerance: float) -> None:
        super().__init__(shape, scaled)
        self.functions = _space_functions(shape, sigmas, tolerance).to(scaled)  # pixel term
        if not scaled.numel():
            return
        low, high = float(scaled.min()), float(scaled.max())
        self.bins = int((high - low) * self.BINS) + 2
        positions = (scaled.flatten(1) - low) * self.BINS
        cells = positions.floor().clamp_(0, self.bins - 2)
        fractions = positions - cells
        nodes = cells.long() + self.bins * torch.arange(self.batch, device=scaled.device).unsqueeze(1)
        self.nodes = torch.stack([nodes.flatten(), nodes.flatten() + 1], 1)  # (batch pixel) 2
        self.shares = torch.stack([1 - fractions.flatten(), fractions.flatten()], 1)
        into, order = self.nodes.flatten().sort()
        self.sources, self.source_shares = order // 2, self.shares.flatten()[order]
        ends = torch.arange(self.batch * self.bins, device=scaled.device)
        self.offsets = torch.searchsorted(into, ends)
        steps = torch.arange(self.bins, dtype=torch.float64) / self.BINS
        variance = 1 - 1 / (3 * self.BINS**2)
        self.gaussian = (_gaussian(steps, variance) * variance**-0.5).to(scaled)  # of the same integral

    def kernel_sum(self, values: Tensor) -> Tensor:  # noqa: D102
        batch, labels = values.shape[:2]
        columns = values.flatten(2).transpose(1, 2).unsqueeze(3)  # batch pixel label 1
        terms = (columns * self.functions.unsqueeze(1)).flatten(0, 1).flatten(1)  # (batch pixel) (label term)
        bag = torch.nn.functional.embedding_bag
        table = bag(self.sources, terms, self.offsets, mode="sum", per_sample_weights=self.source_shares)
        table = (self.gaussian @ table.view(batch, self.bins, -1)).flatten(0, 1)
        read = bag(self.nodes, table, mode="sum", per_sample_weights=self.shares)
        summed = (read.view(batch, -1, labels, self.functions.shape[1]) * self.functions.unsqueeze(1)).sum(3)
        return summed.transpose(1, 2).reshape(values.shape)


class Window(_OfImages):
    """A kernel that is narrow in space: the pairs at most `REACH` sigmas apart, all kernel values kept."""

    def __init__(self, shape: tuple[int, ...], sigmas: tuple[float, ...], scaled: Tensor, tolerance: float) -> None:
        super().__init__(shape, scaled)
        reach = [min(int(REACH * s + 0.5), n - 1) for s, n in zip(sigmas, shape, strict=True)]
        offsets = sorted(product(*(range(-r, r + 1) for r in reach)))
        self.pairs = []
        for offset in offsets[len(offsets) // 2 + 1 :]:  # the half after the centre: each pair once
            here, there = _shifted(offset)
            distance = (scaled[here] - scaled[there]).square_().sum(1, keepdim=True)
            distance += sum((o / s) ** 2 for o, s in zip(offset, sigmas, strict=True))
            self.pairs.append((here, there, distance.mul_(-0.5).exp_()))

    def kernel_sum(self, values: Tensor) -> Tensor:  # noqa: D102
        summed = values.clone()
        for here, there, kernel in self.pairs:
            summed[here].addcmul_(kernel, values[there])
            summed[there].addcmul_(kernel, values[here])
        return summed


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
        self.functions = between @ _inverse_root(_pairwise(landmarks, landmarks))  # batch pixel term

    def kernel_sum(self, values: Tensor) -> Tensor:  # noqa: D102
        flat = values.flatten(2)  # batch label pixel
        return ((flat @ self.functions) @ self.functions.transpose(1, 2)).view_as(values)


class Dense(_OfImages):
    """All pairs, as written. Quadratic: for tests and small images."""

    def __init__(self, shape: tuple[int, ...], sigmas: tuple[float, ...], scaled: Tensor, tolerance: float) -> None:
        super().__init__(shape, scaled)
        axes = [torch.arange(n, device=scaled.device).to(scaled) / s for n, s in zip(shape, sigmas, strict=True)]
        position = torch.stack(torch.meshgrid(*axes, indexing="ij")).expand(len(scaled), *([-1] * (1 + len(shape))))
        features = torch.cat([position, scaled], 1).flatten(2).transpose(1, 2)
        self.kernel = (features.unsqueeze(2) - features.unsqueeze(1)).square().sum(3).mul_(-0.5).exp_()

    def kernel_sum(self, values: Tensor) -> Tensor:  # noqa: D102
        return (values.flatten(2) @ self.kernel).view_as(values)


_METHODS: dict[str, type] = {
    "low_rank": LowRank,
    "grid": Grid,
    "window": Window,
    "nystroem": Nystroem,
    "dense": Dense,
}


def _gaussian(positions: Tensor, variance: float = 1.0) -> Tensor:
    """exp(-(a - b)^2 / 2 variance) between all positions of an axis."""
    return (positions.unsqueeze(0) - positions.unsqueeze(1)).square_().mul_(-0.5 / variance).exp_()


def _along(values: Tensor, axis: int, matrix: Tensor) -> Tensor:
    """A symmetric matrix times `batch label *space` along one of the axes of space."""
    if axis == values.ndim - 3:
        return values @ matrix
    return (matrix @ values.flatten(axis + 3)).view_as(values) if axis + 3 < values.ndim else matrix @ values


def _intensity_functions(scaled: Tensor, tolerance: float) -> Tensor:
    """The phi of `LowRank`, `batch term pixel`, for intensities in sigmas, `batch pixel`."""
    low, high = scaled.min().double(), scaled.max().double()
    # Half a sigma apart, and one beyond either end: the expansion's own error is then below 1e-6 (ours).
    nodes = torch.arange(int((high - low) * 2) + 3, device=scaled.device) * 0.5 + low - 0.5
    root = _inverse_root(_gaussian(nodes)).to(scaled)  # node term
    functions = root.T @ (scaled.unsqueeze(1) - nodes.to(scaled).unsqueeze(1)).square_().mul_(-0.5).exp_()
    moments = torch.einsum("brn,bsn->rs", functions, functions).double() / scaled.numel()
    energy, axes = torch.linalg.eigh(moments)  # ascending
    left_out = int((energy.clamp_min(0).cumsum(0) <= tolerance).sum())
    return axes[:, left_out:].T.to(scaled) @ functions


def _space_functions(shape: tuple[int, ...], sigmas: tuple[float, ...], tolerance: float) -> Tensor:
    """The psi of `Grid`, `pixel term`: the largest, until mean_p(1 - sum_r psi_r(p)^2) is below tolerance."""
    energies, functions = torch.ones(1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    for n, sigma in zip(shape, sigmas, strict=True):
        energy, vectors = torch.linalg.eigh(_gaussian(torch.arange(n, dtype=torch.float64) / sigma))
        energies = torch.outer(energies, energy.clamp_min(0)).flatten()
        functions = torch.einsum("pr,qs->pqrs", functions, vectors).flatten(2).flatten(0, 1)
        order = energies.argsort(descending=True)[: int((energies > 1e-9 * energies.max()).sum())]
        energies, functions = energies[order], functions[:, order]
    keep = int((energies.cumsum(0) < (1 - tolerance) * prod(shape)).sum()) + 1
    return functions[:, :keep] * energies[:keep].sqrt()


def _inverse_root(kernel: Tensor) -> Tensor:
    """K^(-1/2) of a kernel matrix, `*batch node term`, without the directions that rounding has spoilt."""
    energy, axes = torch.linalg.eigh(kernel.double())
    kept = energy > 1e-6 * energy[..., -1:]
    return (axes * torch.where(kept, energy.clamp_min(1e-300).rsqrt(), 0.0).unsqueeze(-2)).to(kernel)


def _pairwise(a: Tensor, b: Tensor) -> Tensor:
    """exp(-|a_i - b_j|^2 / 2), `batch a b`."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square_().mul_(-0.5).exp_()


def _shifted(offset: tuple[int, ...]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Indices into `batch channel *space` of the pixels p and p + offset."""
    here = tuple(slice(max(0, -o), -o if o > 0 else None) for o in offset)
    there = tuple(slice(max(0, o), o if o < 0 else None) for o in offset)
    whole = (slice(None), slice(None))
    return whole + here, whole + there
