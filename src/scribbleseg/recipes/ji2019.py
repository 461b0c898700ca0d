"""Ji et al. 2019, "Scribble-based Hierarchical Weakly Supervised Learning for Brain Tumor Segmentation": Table 1.

Each row is a row above it with one thing changed. WT_* are the rows of the whole tumour, SUB_* those of its structures.
These are the paper's scale, for a GPU; COMPACT_* are the same rows at a size for a CPU, and DEMO_* for minutes (ours).
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from scribbleseg.annotate.simulate import Skeleton
from scribbleseg.data.preprocess import Preprocess
from scribbleseg.em import Recipe
from scribbleseg.hierarchy import Hierarchy, ReferenceMasks
from scribbleseg.pipeline import Pipeline
from scribbleseg.recipes.can2018 import FULLY_SUPERVISED, at_length
from scribbleseg.relabel.decide import Keep
from scribbleseg.seeds.graph_cut import GraphCut
from scribbleseg.seeds.random_walker import Strokes
from scribbleseg.substructures.cluster import KMeans
from scribbleseg.train.augment import Augment
from scribbleseg.train.crf_loss import DenseCRFLoss
from scribbleseg.train.loop import SGD, Training
from scribbleseg.train.losses import PartialCrossEntropy, ScribblesAndAreas
from scribbleseg.train.unet import UNet
from scribbleseg.types import DataError

ROWS = {
    f"WT {FULLY_SUPERVISED}": "wt_full",
    "WT SC": "wt_sc",
    "WT SC+CRF": "wt_sc_crf",
    "WT SC+GC": "wt_sc_gc",
    "WT SC+GC+CRF": "wt_sc_gc_crf",
    FULLY_SUPERVISED: "sub_full",
    "TrueSC+CRF": "sub_true_sc_crf",
    "KM": "sub_km",
    "KM+SC": "sub_km_sc",
    "KM+SC+CRF": "sub_km_sc_crf",
}
"""The rows of Table 1, in its order, and how the recipes' names end."""

FAMILIES = {"brats": "", "compact": "compact_"}
"""And how they begin."""


def table_1(family: str, iterations: int | None = None) -> dict[str, Pipeline]:
    """The rows of Table 1 by title.

    Args:
        family: "brats", the paper's scale, or "compact", a CPU's.
        iterations: of all M steps of a network together, divided among them as in the recipe; None is the recipe's.

    Raises:
        DataError: for a family that there is not.
    """
    if family not in FAMILIES:
        raise DataError(f"expected a family among {', '.join(FAMILIES)}; got {family!r}")
    rows = {title: globals()[f"{FAMILIES[family]}{name}".upper()] for title, name in ROWS.items()}
    if iterations is None:
        return rows
    shorten = partial(at_length, iterations=iterations)
    return {title: _both(row, shorten) if isinstance(row, Hierarchy) else shorten(row) for title, row in rows.items()}


# The paper's (its text was not at hand to name the sections; so below): 192 x 192 slices at the data's own 1 mm, SGD,
# 10k iterations, and 20k of fine-tuning, which every row has here, so that they differ in nothing else. The U-Net and
# the augmentation are ours.
WT_SC = Recipe(
    preprocess=Preprocess(spacing_mm=1.0, size=192, brain=True),
    seeds=Strokes(),
    network=UNet(base=64, padded=True),
    augment=Augment(flips=True),
    training=SGD(batch=32, learning_rate=0.01, momentum=0.9, iterations=10000, iterations_again=20000),
    loss=ScribblesAndAreas(scribbles=1.0, areas=0.8),  # lambda
    decide=Keep(),
    recursions=1,
)
# The paper's alpha is 1e-8 of a sum over pairs of pixels, here of their mean. The sigmas are ours.
ALPHA = 1e-8 * (192 * 192) ** 2
WT_SC_CRF = replace(WT_SC, crf=DenseCRFLoss(alpha=ALPHA, channels=(0, 2, 3), unit="mm"))  # T1, T2, FLAIR
WT_SC_GC = replace(WT_SC, seeds=GraphCut())
WT_SC_GC_CRF = replace(WT_SC_GC, crf=WT_SC_CRF.crf)
WT_FULL = replace(WT_SC, annotation="coarse_masks", loss=PartialCrossEntropy())


def _taught(row: Hierarchy, **changes: object) -> Hierarchy:
    """The row with something changed in its second phase."""
    return replace(row, substructures=replace(row.substructures, **changes))  # type: ignore[arg-type]


SUB_KM = Hierarchy(
    whole=WT_SC_GC_CRF,
    clusters=KMeans(),
    scribbles=Skeleton(width=3),
    substructures=replace(WT_SC, loss=ScribblesAndAreas(scribbles=0.0, areas=1.0)),
)
SUB_KM_SC = _taught(SUB_KM, loss=ScribblesAndAreas(scribbles=1.0, areas=0.2))  # lambda
# T1, T1ce, FLAIR. The smaller sigma is ours.
SUB_KM_SC_CRF = _taught(SUB_KM_SC, crf=DenseCRFLoss(alpha=ALPHA, channels=(0, 1, 3), sigma_intensity=0.15, unit="mm"))
SUB_TRUE_SC_CRF = replace(
    _taught(SUB_KM_SC_CRF, loss=ScribblesAndAreas(scribbles=1.0, areas=0.0)), clusters=ReferenceMasks()
)
SUB_FULL = replace(WT_FULL, annotation="masks")
FULL = SUB_KM_SC_CRF


def _small(row: Recipe) -> Recipe:
    """Ours, for CPUs: a grid of 2 mm, base 16, fewer and larger steps, and the CRF loss on slices of half the side."""
    return replace(
        row,
        preprocess=Preprocess(spacing_mm=2.0, size=96, brain=True),
        network=UNet(base=16, padded=True),
        training=SGD(batch=10, learning_rate=0.05, iterations=1000, iterations_again=2000),
        crf=row.crf and replace(row.crf, scale=2),
    )


def _both(row: Hierarchy, change: Callable[[Recipe], Recipe]) -> Hierarchy:
    """The row with both its phases changed."""
    return replace(row, whole=change(row.whole), substructures=change(row.substructures))


COMPACT_WT_SC = _small(WT_SC)
COMPACT_WT_SC_CRF = _small(WT_SC_CRF)
COMPACT_WT_SC_GC = _small(WT_SC_GC)
COMPACT_WT_SC_GC_CRF = _small(WT_SC_GC_CRF)
COMPACT_WT_FULL = _small(WT_FULL)
COMPACT_SUB_KM = _both(replace(SUB_KM, scribbles=Skeleton()), _small)
COMPACT_SUB_KM_SC = _both(replace(SUB_KM_SC, scribbles=Skeleton()), _small)
COMPACT_SUB_KM_SC_CRF = _both(replace(SUB_KM_SC_CRF, scribbles=Skeleton()), _small)
COMPACT_SUB_TRUE_SC_CRF = _both(SUB_TRUE_SC_CRF, _small)
COMPACT_SUB_FULL = _small(SUB_FULL)
COMPACT_FULL = COMPACT_SUB_KM_SC_CRF


def _short(row: Recipe) -> Recipe:
    """Ours, for `scribbleseg demo --organ tumour`; Adam, for SGD leaves phase 2 on a plateau in so few steps."""
    return replace(
        row,
        preprocess=Preprocess(spacing_mm=3.0, size=64, brain=True),
        training=Training(batch=10, learning_rate=0.01, iterations=200, iterations_again=400),
    )


DEMO_FULL = _both(COMPACT_FULL, _short)
DEMO_SUB_FULL = _short(COMPACT_SUB_FULL)
