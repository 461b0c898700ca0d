"""Losses that see labelled pixels only: one mean over all of them, or scribbles and grown areas each by its own."""

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from pydantic import NonNegativeFloat
from torch import Tensor
from torch.nn import functional

from scribbleseg.training.batch import Batch
from scribbleseg.types import UNLABELLED


@runtime_checkable
class Loss(Protocol):
    """A part of a recipe that measures logits against a batch."""

    needs: ClassVar[frozenset[str]]
    """The optional parts of the `Batch` that it looks at; an M step reads and moves no others."""

    def check_sides(self, *sides: int) -> None:
        """Raises ValueError for a side of the slice, or the three of a block (depth first), that it cannot take."""

    def __call__(self, logits: Float[Tensor, "batch label *space"], batch: Batch) -> Float[Tensor, ""]:
        """The loss of a batch."""


def partial_cross_entropy(
    logits: Float[Tensor, "batch label *space"], labels: UInt8[Tensor, "batch *space"]
) -> Float[Tensor, ""]:
    """Mean over labelled pixels of -log softmax(logits)[label]; unlabelled pixels give neither loss nor gradient.

    Can et al. 2018, section 2.2: "pixel-wise cross entropy", 0 where labels are "uncertain". A batch without any
    labelled pixel has loss 0. Computed in float32 whatever the logits' type.
    """
    summed = functional.cross_entropy(logits.float(), labels.long(), ignore_index=UNLABELLED, reduction="sum")
    return summed / torch.count_nonzero(labels != UNLABELLED).clamp(min=1)


@dataclass(frozen=True)
class PartialCrossEntropy:
    """One mean over all labelled pixels, drawn or grown (Can et al. 2018, section 2.2)."""

    kind: Literal["partial_cross_entropy"] = "partial_cross_entropy"
    needs: ClassVar[frozenset[str]] = frozenset()

    def check_sides(self, *sides: int) -> None:
        """Takes any."""

    def __call__(self, logits: Float[Tensor, "batch label *space"], batch: Batch) -> Float[Tensor, ""]:
        """See `partial_cross_entropy`."""
        return partial_cross_entropy(logits, batch.labels)


@dataclass(frozen=True)
class ScribblesAndAreas:
    """L = scribbles LS + areas LG: Ji et al. 2019 (arXiv:1911.02014), section 2.1, Eq. 1.

    LS is the partial cross-entropy over the scribbles, LG that over the labelled pixels which are not scribbled; each
    is a mean over its own pixels of the batch, so that thousands of grown pixels do not drown the few that somebody
    drew.

    Args:
        scribbles: weight of LS; 1 in the paper.
        areas: weight of LG: lambda, 0.8 in the paper's first phase and 0.2 in its second (section 3).
    """

    kind: Literal["scribbles_and_areas"] = "scribbles_and_areas"
    scribbles: NonNegativeFloat = 1.0
    areas: NonNegativeFloat = 0.8
    needs: ClassVar[frozenset[str]] = frozenset({"scribbles"})

    def check_sides(self, *sides: int) -> None:
        """Takes any."""

    def __call__(self, logits: Float[Tensor, "batch label *space"], batch: Batch) -> Float[Tensor, ""]:
        """The weighted sum of both means; `batch.labels` holds areas and scribbles together."""
        assert batch.scribbles is not None, "a loss gets what it needs"
        areas = torch.where(batch.scribbles == UNLABELLED, batch.labels, UNLABELLED)
        parts = ((self.scribbles, batch.scribbles), (self.areas, areas))
        return torch.stack([weight * partial_cross_entropy(logits, each) for weight, each in parts if weight]).sum()


@dataclass(frozen=True)
class PartialDice:
    """One minus the soft Dice of each structure over the labelled pixels of the batch, averaged over its structures.

    Milletari et al. 2016 (arXiv:1606.04797); over the pixels of a batch together and without background, as nnU-Net has
    it (Isensee et al. 2021), with its ignore label:

        Dice_k = 2 sum(p_k y_k) / (sum(p_k) + sum(y_k)),   sums over labelled pixels

    Structures without any labelled pixel in the batch do not count; a batch without any has loss 0. Not alone: where
    few pixels are labelled it says little of the background.

    Args:
        weight: what the loss is multiplied by.
    """

    kind: Literal["partial_dice"] = "partial_dice"
    weight: NonNegativeFloat = 1.0
    needs: ClassVar[frozenset[str]] = frozenset()

    def check_sides(self, *sides: int) -> None:
        """Takes any."""

    def __call__(self, logits: Float[Tensor, "batch label *space"], batch: Batch) -> Float[Tensor, ""]:
        """The loss, in float32 whatever the logits' type."""
        known = batch.labels != UNLABELLED
        one_hot = functional.one_hot(torch.where(known, batch.labels, 0).long(), logits.shape[1]).movedim(-1, 1)
        truth = (one_hot * known[:, None])[:, 1:].float()
        likely = (logits.float().softmax(dim=1) * known[:, None])[:, 1:]
        over = (0, *range(2, logits.ndim))
        sizes = truth.sum(over)
        dice = 2 * (likely * truth).sum(over) / (likely.sum(over) + sizes).clamp(min=1)
        present = sizes > 0
        return self.weight * ((1 - dice) * present).sum() / present.sum().clamp(min=1)
