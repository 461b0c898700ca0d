"""Mean-field inference in a fully connected CRF: dense CRF and CRF-RNN, with clamped pixels.

Krähenbühl and Koltun 2011 (arXiv:1210.5644), algorithm 1, with the per-class kernel weights and the learned
compatibility of Zheng et al. 2015 (doi:10.1109/ICCV.2015.179), and the clamped seeds of Can et al. 2018
(doi:10.1007/978-3-030-00889-5_27), Eq. 4.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from scribbleseg.crf.gaussian import GaussianFilter
from scribbleseg.types import UNLABELLED

CLAMPED_LOGIT = -1e4
"""Logit of the labels that a clamped pixel does not have, beside 0 of its own: one-hot to the last digit, finite."""


def mean_field(
    logits: Float[Tensor, "batch label *space"],
    filters: Sequence[GaussianFilter],
    weights: Float[Tensor, "kernel label"] | Sequence[float],
    compatibility: Float[Tensor, "label label"] | None = None,
    clamped: UInt8[Tensor, "batch *space"] | None = None,
    iterations: int = 10,
    tolerance: float = 0.0,
) -> Float[Tensor, "batch label *space"]:
    """Refines class scores by their fully connected neighbourhood.

    From Q = softmax(logits), each iteration sets, with filters K_m, weights w_m and compatibility mu,

        Q_l <- softmax_l(logits_l - sum_l' mu(l, l') sum_m w_m(l') (K_m Q_l'))

    for all pixels at once. Differentiable in logits, weights and compatibility.

    Args:
        logits: minus the unary energy: log-probabilities or a network's logits. -inf forbids a label.
        filters: one a kernel, built for these images (`gaussian_filter`).
        weights: of each kernel for each label; a plain sequence has one number a kernel, the same for all labels.
        compatibility: cost of label l beside l', row l; None is Potts' 1 - identity.
        clamped: labels that are known (seed areas), UNLABELLED (255) elsewhere. A clamped pixel's Q is one-hot from the
            start, never changes, and sends its messages (Can et al. 2018, Eq. 4: unary energy 0 or infinite).
        iterations: at most.
        tolerance: stop when no Q changes by more in an iteration. 0 runs them all.

    Returns:
        Logits of the result, of the dtype of `logits`: their softmax over label is Q, and cross-entropy can be taken of
        them. Under Potts a constant a pixel is left out. At clamped pixels 0 for the label and -1e4 for the others, so
        that the softmax is exactly one-hot and the gradient 0.

    Raises:
        ValueError: for weights, compatibility or clamped of the wrong shape or with labels that logits lack, for
            logits that contain NaN or +inf or that forbid all labels of a pixel, and for iterations < 0.
    """
    labels = logits.shape[1]
    kernel_weights = _kernel_weights(weights, len(filters), logits)
    if compatibility is not None and tuple(compatibility.shape) != (labels, labels):
        raise ValueError(f"expected compatibility of shape {(labels, labels)}, got {tuple(compatibility.shape)}")
    if iterations < 0:
        raise ValueError(f"expected iterations >= 0, got {iterations}")
    seeds = None if clamped is None else _Seeds(clamped, logits)

    current = logits if seeds is None else seeds.put(logits)
    q = current.softmax(1)
    if not torch.isfinite(q.detach().sum()):
        raise ValueError(
            f"expected logits that are numbers (-inf forbids a label, not all of a pixel's), got "
            f"{int(logits.isnan().sum())} NaN and {int(logits.isposinf().sum())} +inf among {logits.numel()}"
        )
    if not filters or not logits.numel():
        return current
    totals = [_total(k, q) for k in filters]
    for _ in range(iterations):
        support = sum(
            w.view(1, -1, *(1 for _ in q.shape[2:])) * _filter_distribution(k, q, total)
            for k, w, total in zip(filters, kernel_weights, totals, strict=True)
        )
        current = logits + (
            support if compatibility is None else -torch.einsum("ij,bj...->bi...", compatibility, support)
        )
        if seeds is not None:
            current = seeds.put(current)
        before, q = q, current.softmax(1)
        if tolerance > 0 and (q - before).detach().abs().max() <= tolerance:
            break
    return current


def _total(gaussian: GaussianFilter, q: Tensor) -> Tensor:
    """What the filter makes of 1 everywhere: the sum over labels of what it makes of any Q."""
    return gaussian(torch.ones_like(q[:, :1]))


def _filter_distribution(gaussian: GaussianFilter, q: Tensor, total: Tensor) -> Tensor:
    """The filter of Q, whose sum over labels is known: one label fewer to filter."""
    others = gaussian(q[:, 1:])
    return torch.cat([total - others.sum(1, keepdim=True), others], 1)


def _kernel_weights(weights: Tensor | Sequence[float], kernels: int, logits: Tensor) -> Tensor:
    """`kernel label`. Raises ValueError."""
    labels = logits.shape[1]
    if not isinstance(weights, Tensor):
        weights = logits.new_tensor(list(weights)).unsqueeze(1).expand(-1, labels)
    if tuple(weights.shape) != (kernels, labels):
        raise ValueError(
            f"expected weights of shape {(kernels, labels)}, a row for each filter and a column for each label, "
            f"got {tuple(weights.shape)}"
        )
    return weights


class _Seeds:
    """Pixels whose label is known. Raises ValueError for labels that logits lack, or another shape."""

    def __init__(self, clamped: Tensor, logits: Tensor) -> None:
        if clamped.shape != logits.shape[:1] + logits.shape[2:]:
            raise ValueError(
                f"expected clamped of shape {tuple(logits.shape[:1] + logits.shape[2:])}, got {tuple(clamped.shape)}"
            )
        self.known = (clamped != UNLABELLED).unsqueeze(1)
        codes = torch.where(clamped == UNLABELLED, 0, clamped).long()
        if codes.numel() and int(codes.max()) >= logits.shape[1]:
            raise ValueError(
                f"expected clamped labels below {logits.shape[1]} or UNLABELLED ({UNLABELLED}), got {int(codes.max())}"
            )
        self.logits = torch.full_like(logits, CLAMPED_LOGIT, requires_grad=False).scatter_(1, codes.unsqueeze(1), 0.0)

    def put(self, logits: Tensor) -> Tensor:
        """The logits with the known pixels' in place."""
        return torch.where(self.known, self.logits, logits)
