"""Merges the whole tumour of phase 1 and the structures of phase 2 into one label map."""

import numpy as np
from jaxtyping import Bool

from scribbleseg.data.layouts.brats import ED, ET, NCR
from scribbleseg.types import Labels


def merge(whole: Bool[np.ndarray, "*space"], substructures: Labels) -> Labels:
    """Merges two phases: the first says where the tumour is, the second what it is made of.

    Ji et al. 2019 (arXiv:1911.02014). Inside of the whole tumour, ET and NCR/NET are phase 2's, and the rest is ED,
    whether phase 2 calls it ED or background; outside everything is background. So no whole tumour means no structures.

    Args:
        whole: the whole tumour of phase 1, `depth height width`.
        substructures: phase 2's labels, uint8, same shape: 0 background, 1 NCR/NET, 2 ED, 3 ET.

    Returns:
        uint8, same shape and labels.

    Raises:
        ValueError: the shapes differ, or `substructures` holds another value, such as UNLABELLED.
    """
    if whole.shape != substructures.shape:
        raise ValueError(f"expected both phases on one grid, got {whole.shape} and {substructures.shape}")
    if substructures.max(initial=0) > ET:
        raise ValueError(f"expected labels 0 to {ET} of phase 2, got {np.unique(substructures).tolist()}")
    known = (substructures == ET) | (substructures == NCR)
    return np.where(whole, np.where(known, substructures, np.uint8(ED)), np.uint8(0))
