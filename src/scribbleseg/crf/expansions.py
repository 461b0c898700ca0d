"""Gaussian filters of position and intensity that write the kernel as a sum over few functions."""

from math import prod

import torch
from torch import Tensor
from torch.nn import functional

from scribbleseg.crf.filter import OfImages
from scribbleseg.crf.separable import blur, gaussian_matrix, reach_of


class LowRank(OfImages):
    """The intensity kernel as few functions, each term a separable filter: one channel, smooth intensity kernels.

    exp(-(a - b)^2 / 2) = sum_r phi_r(a) phi_r(b), so that the filter of v is sum_r phi_r G(phi_r v), where G is the
    filter of position. The phi_r are Nystroem's expansion on evenly spaced intensities, rotated to the principal axes
    of the pixels at hand. The last of them are left out while the mean of 1 - sum_r phi_r(I_i)^2 over pixels stays
    below the tolerance. What is left out is positive semi-definite, so the mean error of the kernel over pairs stays
    below it as well.
    """

    CACHED = 2**20
    """How many numbers are worked on at a time: 4 MiB, ours."""

    def __init__(self, shape: tuple[int, ...], sigmas: tuple[float, ...], scaled: Tensor, tolerance: float) -> None:
        super().__init__(shape, scaled)
        self.sigmas, self.reach = sigmas, reach_of(sigmas, tolerance)
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
            summed[..., :size].addcmul_(blur(columns[..., :size] * functions, self.sigmas, self.reach), functions)
        return (summed @ copies.T).movedim(-1, 1).addcmul(self.missing, values)

    def _repeat(self, labels: int, step: int) -> list[Tensor]:
        """The functions as `batch *space (term label)`, `step` terms in each; kept for the next call."""
        if self._repeated[0] != (labels, step):
            parts = self.functions.split(step, -1)
            self._repeated = (labels, step), [part.repeat_interleave(labels, -1) for part in parts]
        return self._repeated[1]

    def _crop(self, whole: tuple[int, ...], box: tuple[slice, ...]) -> None:
        self.functions = self.functions[(slice(None), *box)].contiguous()
        self.missing = self.missing[(slice(None), slice(None), *box)]
        self._repeated = ((0, 0), [])


class Grid(OfImages):
    """The position kernel as few functions, each filtered along intensity bins: one channel, kernels wide in space.

    exp(-|p - q|^2 / 2 s^2) = sum_r psi_r(p) psi_r(q), where the psi_r are products of the eigenvectors of the 1-D
    Gaussians. Each psi_r v is summed into bins of intensity (linear interpolation), filtered there, and read out in the
    same way. The bins' Gaussian is narrower by the variance that the two interpolations add on average.
    """

    BINS = 6
    """How many bins a sigma has (ours)."""

    def __init__(self, shape: tuple[int, ...], sigmas: tuple[float, ...], scaled: Tensor, tolerance: float) -> None:
        super().__init__(shape, scaled)
        self.functions = _expand_position(shape, sigmas, tolerance).to(scaled)  # *space term
        self.tolerance, self._repeated = tolerance, scaled.new_empty(0, 0)
        if scaled.numel():
            self.scaled = scaled[:, 0] - scaled.min()
            self.bins = int(float(self.scaled.max()) * self.BINS) + 2
            self._bin()

    def _bin(self) -> None:
        """Assigns each pixel its two neighbouring bins with their shares, and sorts the pixels by bin."""
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
        table = blur(table.view(batch, self.bins, -1), sigma, reach_of(sigma, self.tolerance)).flatten(0, 1)
        table *= variance**-0.5  # for an integral as before
        terms = bag(self.nodes, table, mode="sum", per_sample_weights=self.shares)
        summed = terms.view(batch, -1, terms.shape[1]).mul_(functions) @ copies.T
        return summed.transpose(1, 2).unflatten(2, self.shape)

    def _crop(self, whole: tuple[int, ...], box: tuple[slice, ...]) -> None:
        self.functions = self.functions[box].contiguous()
        self.scaled, self._repeated = self.scaled[(slice(None), *box)].contiguous(), self.scaled.new_empty(0, 0)
        self._bin()


class Nystroem(OfImages):
    """The kernel by landmarks z among the pixels: several channels, kernels wide in space.

    K = K_xz K_zz^(-1) K_zx for each image (Williams and Seeger 2001). Directions of K_zz whose eigenvalue is below 1e-6
    of the largest are left out.
    """

    LANDMARKS = 256
    """How many landmarks: ours, for a mean error near 1e-3 at sigmas of a third of the image and three channels."""

    def __init__(self, shape: tuple[int, ...], sigmas: tuple[float, ...], scaled: Tensor, tolerance: float) -> None:
        super().__init__(shape, scaled)
        axes = [torch.arange(n, device=scaled.device).to(scaled) / s for n, s in zip(shape, sigmas, strict=True)]
        position = torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1).T.expand(len(scaled), -1, -1)
        features = torch.cat([position, scaled.flatten(2).transpose(1, 2)], 2)  # batch pixel feature
        chosen = torch.randperm(prod(shape), generator=torch.Generator().manual_seed(0))[: self.LANDMARKS]
        landmarks = features[:, chosen.to(features.device)]
        between = _pairwise(features, landmarks)
        functions = between @ _inverse_root(_pairwise(landmarks, landmarks), 1e-6)
        self.functions = functions.unflatten(1, shape)  # batch *space term

    def _sum(self, values: Tensor) -> Tensor:
        functions = self.functions.flatten(1, -2)
        return ((values.flatten(2) @ functions) @ functions.transpose(1, 2)).view_as(values)

    def _crop(self, whole: tuple[int, ...], box: tuple[slice, ...]) -> None:
        self.functions = self.functions[(slice(None), *box)]


def _expand(positions: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    """The Gaussian of positions on a line, in sigmas, as few functions: exp(-(a - b)^2 / 2) = sum_r f_r(a) f_r(b).

    It is Nystroem's expansion on evenly spaced nodes, rotated to the principal axes of (a sample of) the positions.

    Args:
        positions: an array of any shape, not empty.
        tolerance: functions are left out while the mean of 1 - sum_r f_r^2 stays below it.

    Returns:
        The functions at the positions, `*positions term`, and the mean square of each, descending, float64.
    """
    low, high = positions.min().double(), positions.max().double()
    # Nodes so near, and one beyond either end, that their own error is below 1e-6 (ours).
    nodes = torch.arange(int((high - low) / 0.6) + 4, device=positions.device, dtype=torch.float64) * 0.6 + low - 0.6
    root = _inverse_root(gaussian_matrix(nodes), 1e-12)
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
    """The rows of a table at fractional positions, by linear interpolation: `*positions column`."""
    cells = positions.floor().clamp_(0, len(table) - 2)
    upper = (positions - cells).flatten()
    cells = cells.flatten().int()
    rows, shares = torch.stack([cells, cells + 1], 1), torch.stack([1 - upper, upper], 1)
    return functional.embedding_bag(rows, table, mode="sum", per_sample_weights=shares).unflatten(0, positions.shape)


def _expand_position(shape: tuple[int, ...], sigmas: tuple[float, ...], tolerance: float) -> Tensor:
    """The Gaussian of the position as few functions, `*space term`: products of the functions of each axis."""
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
        kernel: a positive semi-definite matrix, `*batch node node`.
        smallest: directions are left out whose eigenvalue, relative to the largest, is not above it.
    """
    energy, axes = torch.linalg.eigh(kernel.double())
    kept = energy > smallest * energy[..., -1:]
    return (axes * torch.where(kept, energy.clamp_min(1e-300).rsqrt(), 0.0).unsqueeze(-2)).to(kernel)


def _pairwise(a: Tensor, b: Tensor) -> Tensor:
    """The Gaussian exp(-|a_i - b_j|^2 / 2) of all pairs of features, `batch a b`."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square_().mul_(-0.5).exp_()
