"""Losses that see labelled pixels only."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from scribbleseg.types import UNLABELLED


def partial_cross_entropy(
    logits: Float[Tensor, "batch label *space"], labels: UInt8[Tensor, "batch *space"]
) -> Float[Tensor, ""]:
    """Mean over labelled pixels of -log softmax(logits)[label]; unlabelled pixels give neither loss nor gradient.

    Can et al. 2018, section 2.2: "pixel-wise cross-entropy" that ignores unlabelled pixels. A batch without any
    labelled pixel has loss 0. Computed in float32 whatever the logits' type.
    """
    summed = functional.cross_entropy(logits.float(), labels.long(), ignore_index=UNLABELLED, reduction="sum")
    return summed / torch.count_nonzero(labels != UNLABELLED).clamp(min=1)
