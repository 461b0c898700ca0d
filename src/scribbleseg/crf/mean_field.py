"""Mean-field inference in a fully connected CRF: dense CRF and CRF-RNN, with clamped pixels.

Krähenbühl and Koltun 2011 (arXiv:1210.5644), algorithm 1, with the per-class kernel weights and the learned
compatibility of Zheng et al. 2015 (doi:10.1109/ICCV.2015.179), and the clamped seeds of Can et al. 2018
(doi:10.1007/978-3-030-00889-5_27), Eq. 4.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from scribbleseg.crf.gaussian import GaussianFilter
from scribbleseg.types import UNLABELLED

CLAMPED_LOGIT = -1e4
"""Logit of the labels that a clamped pixel does not have, beside 0 of its own: one-hot to the last digit, finite."""

MARGIN = 8
"""Pixels around those that still move, within which iterations continue. Ours."""


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
        tolerance: a change of Q that does not matter. Iterations end when none is larger in any pixel; and where only
            a part of the image still changes by more, they go on in a box around it, the pixels outside keeping what
            they have. On slices, 1e-3 changes Q by less than 1e-5 on average (docs/LOG.md). 0: all iterations, in all
            pixels; for training.

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
    crf = _CRF(logits, filters, _totals(filters, logits), kernel_weights, compatibility, seeds, tolerance)
    return _iterate(crf, current, iterations)


@dataclass(frozen=True)
class _CRF:
    """The model on an image, or on a box of it whose outside is held fixed."""

    logits: Tensor
    filters: Sequence[GaussianFilter]
    totals: Sequence[Tensor]
    weights: Tensor
    compatibility: Tensor | None
    seeds: "_Seeds | None"
    tolerance: float
    whole: bool = True

    def messages(self, q: Tensor) -> Tensor:
        """What is added to the logits: the neighbours' support of each label, or minus their incompatibility."""
        # The filter of all labels together is known, as they sum to 1: one label fewer to filter.
        others = _Outliers(q[:, 1:], self.tolerance if self.whole else 0.0)
        received = torch.zeros_like(q)
        for k, w, total in zip(self.filters, self.weights, self.totals, strict=True):
            filtered = others.filter(k, total)
            filtered = torch.cat([total - filtered.sum(1, keepdim=True), filtered], 1)
            received = received + w.view(-1, *(1 for _ in q.shape[2:])) * filtered
        if self.compatibility is None:
            return received
        return -torch.einsum("ij,bj...->bi...", self.compatibility, received)

    def update(self, messages: Tensor) -> Tensor:
        """The next logits."""
        return self.logits + messages if self.seeds is None else self.seeds.put(self.logits + messages)

    def crop(self, at: tuple[Any, ...], q: Tensor, messages: Tensor) -> "_CRF":
        """The model of a box, with the messages that pixels outside send by `q` as part of its logits."""
        filters = [k.crop(at[1:]) for k in self.filters]
        seeds = None if self.seeds is None else self.seeds.crop(at)
        logits, totals = self.logits[at], _totals(filters, self.logits[at])
        inside = replace(self, logits=logits, filters=filters, totals=totals, seeds=seeds, whole=False)
        return replace(inside, logits=inside.logits + messages[at] - inside.messages(q[at]))


def _iterate(crf: _CRF, current: Tensor, iterations: int) -> Tensor:
    """The logits after that many updates of `current`; in a box from when nothing moves outside."""
    q = current.softmax(1)
    for done in range(1, iterations + 1):
        messages = crf.messages(q)
        current = crf.update(messages)
        before, q = q, current.softmax(1)
        if crf.tolerance == 0 or done == iterations:
            continue
        moving = (q - before).detach().abs().amax((0, 1)) > crf.tolerance
        if not moving.any():
            break
        if not crf.whole:
            continue
        box = _bounding_box(moving, [MARGIN] * moving.ndim)
        if _much_smaller(box, moving):
            at: tuple[Any, ...] = (..., *box)
            inside = _iterate(crf.crop(at, before, messages), current[at], iterations - done)
            current = current.clone()
            current[at] = inside
            break
    return current


class _Outliers:
    """Values as one level a map, and a box in which alone they differ from it by more than the tolerance.

    The filter is linear, and what it makes of a level is known: often, only the box is left to filter.
    """

    def __init__(self, values: Tensor, tolerance: float) -> None:
        self.values, self.differing = values, None
        if tolerance > 0 and values.shape[1]:
            flat = values.detach().flatten(2)
            level = flat[..., :: max(1, flat.shape[2] // 1024)].median(2).values
            self.level = level.unflatten(1, (-1, *(1 for _ in values.shape[2:])))
            self.rest = values - self.level
            self.differing = self.rest.detach().abs().amax((0, 1)) > tolerance

    def filter(self, gaussian: GaussianFilter, total: Tensor) -> Tensor:
        """The filter of the values; `total` is that of 1 everywhere."""
        if self.differing is None:
            return gaussian(self.values)
        if not self.differing.any():
            return self.level * total
        box = _bounding_box(self.differing, gaussian.reach)
        if not _much_smaller(box, self.differing):
            return gaussian(self.values)
        filtered = self.level * total
        at: tuple[Any, ...] = (..., *box)
        filtered[at] += gaussian.crop(box)(self.rest[at])
        return filtered


def _totals(filters: Sequence[GaussianFilter], like: Tensor) -> list[Tensor]:
    """What each filter makes of 1 everywhere."""
    return [k(torch.ones_like(like[:, :1])) for k in filters]


def _bounding_box(found: Tensor, margins: Sequence[int]) -> tuple[slice, ...]:
    """Of the pixels found, with margins, in sides of multiples of 16: few shapes, which libraries prepare once."""
    box = []
    for axis, (n, margin) in enumerate(zip(found.shape, margins, strict=True)):
        others = [a for a in range(found.ndim) if a != axis]
        ends = (found.any(others) if others else found).nonzero()
        start, stop = max(0, int(ends[0]) - margin), min(n, int(ends[-1]) + 1 + margin)
        stop = min(n, start + -(-(stop - start) // 16) * 16)
        box.append(slice(max(0, stop - -(-(stop - start) // 16) * 16), stop))
    return tuple(box)


def _much_smaller(box: tuple[slice, ...], image: Tensor) -> bool:
    return 2 * prod(side.stop - side.start for side in box) < image.numel()


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

    def crop(self, at: tuple[Any, ...]) -> "_Seeds":
        """Those of a box."""
        cropped = copy(self)
        cropped.known, cropped.logits = self.known[at], self.logits[at]
        return cropped

    def put(self, logits: Tensor) -> Tensor:
        """The logits with the known pixels' in place."""
        return torch.where(self.known, self.logits, logits)
