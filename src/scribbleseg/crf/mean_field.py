"""Mean-field inference in a fully connected CRF: dense CRF and CRF-RNN, with clamped pixels.

It is algorithm 1 of Krähenbühl and Koltun 2011 (arXiv:1210.5644), with the per-class kernel weights and the learned
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

from scribbleseg.crf.filter import GaussianFilter
from scribbleseg.types import UNLABELLED

CLAMPED_LOGIT = -1e4
"""The logit of all labels but a clamped pixel's own, which has 0: finite, and one-hot to the last digit in softmax."""

MARGIN = 8
"""How many pixels around those that still change are iterated along with them (ours)."""


def mean_field(
    logits: Float[Tensor, "batch label *space"],
    filters: Sequence[GaussianFilter],
    weights: Float[Tensor, "kernel label"] | Sequence[float],
    compatibility: Float[Tensor, "label label"] | None = None,
    clamped: UInt8[Tensor, "batch *space"] | None = None,
    iterations: int = 10,
    tolerance: float = 0.0,
) -> Float[Tensor, "batch label *space"]:
    """Refines label scores by mean-field inference in a fully connected CRF.

    From Q = softmax(logits), each iteration sets, with filters K_m, weights w_m and compatibility mu,

        Q_l <- softmax_l(logits_l - sum_l' mu(l, l') sum_m w_m(l') (K_m Q_l'))

    for all pixels at once. Differentiable in logits, weights and compatibility.

    Args:
        logits: minus the unary energy: log-probabilities or a network's logits. -inf forbids a label.
        filters: one for each kernel, built for these images (`gaussian_filter`).
        weights: the weight of each kernel for each label; a plain sequence has one number for each kernel, the same for
            all labels.
        compatibility: the cost of label l (row) beside l' (column); None is Potts' 1 - identity.
        clamped: labels that are known (seed areas), UNLABELLED (255) elsewhere. A clamped pixel's Q is one-hot from the
            start, never changes, and sends its messages (Can et al. 2018, Eq. 4: unary energy 0 or infinite).
        iterations: the largest number of iterations.
        tolerance: a change of Q that does not matter. Iterations end when no pixel changes by more. Where only a part
            of the image still does, they go on in a box around it while the pixels outside keep their Q. On slices,
            1e-3 changes Q by less than 1e-5 on average (docs/LOG.md). 0 means all iterations in all pixels, for
            training.

    Returns:
        Logits of the result, of the dtype of `logits`: their softmax over labels is Q, and a cross-entropy can be
        computed from them. Under Potts a constant for each pixel is left out. At clamped pixels they are 0 for the
        label and -1e4 for the others, so that the softmax is exactly one-hot and the gradient 0.

    Raises:
        ValueError: weights, compatibility or clamped have the wrong shape or labels that logits lack, logits contain
            NaN or +inf or forbid all labels of a pixel, or iterations < 0.
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
    kernels = [_Kernel.of(k, w, logits) for k, w in zip(filters, kernel_weights, strict=True)]
    return _iterate(_CRF(logits, kernels, compatibility, seeds, tolerance), current, iterations)


@dataclass(frozen=True)
class _Kernel:
    """A filter with its weight for each label, and what it makes of a map that is 1 everywhere."""

    filter: GaussianFilter
    weights: Tensor
    total: Tensor

    @classmethod
    def of(cls, gaussian: GaussianFilter, weights: Tensor, like: Tensor) -> "_Kernel":
        """The kernel for logits `like`."""
        return cls(gaussian, weights, gaussian(torch.ones_like(like[:, :1])))


@dataclass(frozen=True)
class _CRF:
    """The model on a whole image, or on a box of it outside of which Q is held fixed."""

    logits: Tensor
    kernels: Sequence[_Kernel]
    compatibility: Tensor | None
    seeds: "_Seeds | None"
    tolerance: float
    whole: bool = True

    def messages(self, q: Tensor) -> Tensor:
        """What is added to the logits: the neighbours' support for each label, or minus their incompatibility."""
        # Labels sum to 1 and the filter of 1 is known: one label fewer to filter.
        others = _Outliers(q[:, 1:], self.tolerance if self.whole else 0.0)
        received = torch.zeros_like(q)
        for kernel in self.kernels:
            filtered = others.filter(kernel.filter, kernel.total)
            filtered = torch.cat([kernel.total - filtered.sum(1, keepdim=True), filtered], 1)
            received = received + kernel.weights.view(-1, *(1 for _ in q.shape[2:])) * filtered
        if self.compatibility is None:
            return received
        return -torch.einsum("ij,bj...->bi...", self.compatibility, received)

    def update(self, messages: Tensor) -> Tensor:
        """The next logits, those of clamped pixels as they are."""
        return self.logits + messages if self.seeds is None else self.seeds.put(self.logits + messages)

    def crop(self, at: tuple[Any, ...], q: Tensor, messages: Tensor) -> "_CRF":
        """The model of a box, with the messages that the pixels outside send, by their `q`, in its logits."""
        logits = self.logits[at]
        kernels = [_Kernel.of(k.filter.crop(at[1:]), k.weights, logits) for k in self.kernels]
        seeds = None if self.seeds is None else self.seeds.crop(at)
        inside = replace(self, logits=logits, kernels=kernels, seeds=seeds, whole=False)
        return replace(inside, logits=inside.logits + messages[at] - inside.messages(q[at]))


def _iterate(crf: _CRF, current: Tensor, iterations: int) -> Tensor:
    """The logits after so many updates of `current`. Once nothing changes outside a box, only the box is updated."""
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
    """Maps as one level each, and a box outside of which they differ from it by no more than the tolerance.

    The filter is linear and its result for a constant map is known, so that often only the box has to be filtered.
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
        """The filter of the values; `total` is the filter of a map that is 1 everywhere."""
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


def _bounding_box(found: Tensor, margins: Sequence[int]) -> tuple[slice, ...]:
    """The box around the pixels found, with margins.

    Its sides are multiples of 16 where the image allows: there are few shapes then, which libraries prepare once.
    """
    box = []
    for axis, (n, margin) in enumerate(zip(found.shape, margins, strict=True)):
        others = [a for a in range(found.ndim) if a != axis]
        ends = (found.any(others) if others else found).nonzero()
        start, stop = max(0, int(ends[0]) - margin), min(n, int(ends[-1]) + 1 + margin)
        stop = min(n, start + -(-(stop - start) // 16) * 16)
        box.append(slice(max(0, stop - -(-(stop - start) // 16) * 16), stop))
    return tuple(box)


def _much_smaller(box: tuple[slice, ...], image: Tensor) -> bool:
    """Whether working in the box saves more than it costs: it has less than half of the pixels."""
    return 2 * prod(side.stop - side.start for side in box) < image.numel()


def _kernel_weights(weights: Tensor | Sequence[float], kernels: int, logits: Tensor) -> Tensor:
    """The weights as `kernel label`. Raises ValueError for another shape."""
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
    """The pixels whose label is known. Raises ValueError for labels that logits lack, or another shape."""

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
        """The known pixels of a box."""
        cropped = copy(self)
        cropped.known, cropped.logits = self.known[at], self.logits[at]
        return cropped

    def put(self, logits: Tensor) -> Tensor:
        """The logits, with those of the known pixels replaced."""
        return torch.where(self.known, self.logits, logits)
