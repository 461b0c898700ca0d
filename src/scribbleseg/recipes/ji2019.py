"""Ji et al. 2019, "Scribble-based Hierarchical Weakly Supervised Learning for Brain Tumor Segmentation": Table 1.

Each row is a row above it with one thing changed. The rows wt_* are those of the whole tumour, sub_* those of its
structures, at the paper's scale, for a GPU; compact_* are the same rows at a size for a CPU, and demo_* for minutes
(ours).
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from scribbleseg.annotate.simulate import Skeleton
from scribbleseg.data.preprocess import Preprocess
from scribbleseg.hierarchy import Hierarchy, ReferenceMasks
from scribbleseg.recipe import Recipe, Stage
from scribbleseg.recipe_names import JI2019_TITLES as TITLES
from scribbleseg.recipe_names import names
from scribbleseg.recipes.can2018 import at_length
from scribbleseg.seeds.graph_cut import GraphCut
from scribbleseg.seeds.strokes import Strokes
from scribbleseg.substructures.cluster import KMeans
from scribbleseg.training.augment import Augment
from scribbleseg.training.crf_loss import DenseCRFLoss
from scribbleseg.training.losses import PartialCrossEntropy, ScribblesAndAreas
from scribbleseg.training.optimisers import SGD, Adam
from scribbleseg.training.plain_unet import PlainUNet
from scribbleseg.types import DataError

Row = Recipe | Hierarchy

PAPER = {
    "wt_full": {"WT": 0.8987, "recall": 0.9465, "precision": 0.9498},
    "wt_sc": {"WT": 0.8487, "recall": 0.9032, "precision": 0.9441},
    "wt_sc_crf": {"WT": 0.8609, "recall": 0.9130, "precision": 0.9461},
    "wt_sc_gc": {"WT": 0.8540, "recall": 0.9501, "precision": 0.9030},
    "wt_sc_gc_crf": {"WT": 0.8823, "recall": 0.9443, "precision": 0.9338},
    "sub_full": {"WT*": 0.9008, "TC": 0.8063, "ET": 0.8305},
    "sub_true_sc_crf": {"WT*": 0.8836, "TC": 0.7991, "ET": 0.7920},
    "sub_km": {"WT*": 0.8516, "TC": 0.6015, "ET": 0.6502},
    "sub_km_sc": {"WT*": 0.8643, "TC": 0.6714, "ET": 0.6433},
    "sub_km_sc_crf": {"WT*": 0.8721, "TC": 0.6988, "ET": 0.6537},
}
"""Table 1: the paper's own Dice of each region, at its own scale, and recall and precision of phase 1.

WT* is the whole tumour of phase 2's network by itself, before it is merged with that of phase 1.
"""


def with_losses(row: Recipe, *losses: Any) -> Recipe:
    """The row with these losses in all its stages."""
    return replace(row, stages=tuple(replace(stage, losses=losses) for stage in row.stages))


def fine_tuned_with(row: Recipe, crf: DenseCRFLoss) -> Recipe:
    """The row with a CRF loss added in every stage but the first."""
    first, *others = row.stages
    return replace(row, stages=(first, *(replace(stage, losses=(*stage.losses, crf)) for stage in others)))


def in_both(row: Hierarchy, change: Callable[[Recipe], Recipe]) -> Hierarchy:
    """The row with both its phases changed."""
    return replace(row, whole=change(row.whole), substructures=change(row.substructures))


def in_all(rows: dict[str, Row], change: Callable[[Recipe], Recipe]) -> dict[str, Row]:
    """The rows with every network's recipe changed."""
    return {end: in_both(row, change) if row.kind == "hierarchy" else change(row) for end, row in rows.items()}


# Section 3: slices cropped to 192 x 192 at the data's own 1 mm; SGD with momentum 0.9, batches of 32; 10k iterations,
# then 20k of fine-tuning, which every row has here, so that they differ in nothing else; "learning rate linearly
# reduced from 0.011 to 0". One decay over all 30k is the plainer reading of that. We read 0.011 as 0.01 with the mark
# of a footnote that was lost; the two differ by 10 %. Tumour slices alone are trained on (15224 of 228 scans).
# Section 2.1: a U-Net (Ronneberger et al. 2015); its 64 filters are ours. No augmentation is mentioned. Mean and
# standard deviation are the paper's normalisation; that they are those of the brain is ours.
LEARNING = Stage(iterations=10000, batch=32, optimiser=SGD(learning_rate=0.01, momentum=0.9))
WT_SC = Recipe(
    preprocess=Preprocess(spacing_mm=1.0, size=192, brain=True),
    seeds=Strokes(),
    network=PlainUNet(base=64),
    augment=None,
    slices="structures",
    stages=(LEARNING, replace(LEARNING, iterations=20000, restarts=False)),
)
WT_SC = with_losses(WT_SC, ScribblesAndAreas(scribbles=1.0, areas=0.8))  # Eq. 1; section 3: lambda 0.8
# Section 3: alpha 1e-8, of a sum over pairs of pixels, which here is their mean. The paper gives no sigmas: these are
# ours.
ALPHA = 1e-8 * (192 * 192) ** 2
WT_CRF = DenseCRFLoss(alpha=ALPHA, channels=(0, 2, 3), unit="mm")  # section 3: T1, T2, FLAIR
WT_SC_GC = replace(WT_SC, seeds=GraphCut())
WT_FULL = replace(with_losses(WT_SC, PartialCrossEntropy()), annotation="coarse_masks")

# Section 3: T1, T1ce, FLAIR. The smaller sigma is ours.
SUB_CRF = DenseCRFLoss(alpha=ALPHA, channels=(0, 1, 3), sigma_intensity=0.15, unit="mm")


def hierarchy(loss: Any, crf: DenseCRFLoss | None = None) -> Hierarchy:
    """A row whose second phase has this loss of clusters and scribbles, and is fine-tuned with a CRF loss if any.

    Section 2.2: scribbles are skeletons of the clusters of substructures. Background scribbles and the pen of 3 pixels
    (that of phase 1, section 3) are ours.
    """
    substructures = with_losses(WT_SC, loss)
    return Hierarchy(
        whole=fine_tuned_with(WT_SC_GC, WT_CRF),
        clusters=KMeans(),
        scribbles=Skeleton(width=3),
        substructures=fine_tuned_with(substructures, crf) if crf else substructures,
    )


KM_SC = ScribblesAndAreas(scribbles=1.0, areas=0.2)  # section 3: lambda 0.2
TRUE_SC = ScribblesAndAreas(scribbles=1.0, areas=0.0)

BRATS: dict[str, Row] = {
    "wt_full": WT_FULL,
    "wt_sc": WT_SC,
    "wt_sc_crf": fine_tuned_with(WT_SC, WT_CRF),
    "wt_sc_gc": WT_SC_GC,
    "wt_sc_gc_crf": fine_tuned_with(WT_SC_GC, WT_CRF),
    "sub_full": replace(WT_FULL, annotation="masks"),
    "sub_true_sc_crf": replace(hierarchy(TRUE_SC, SUB_CRF), clusters=ReferenceMasks()),
    "sub_km": hierarchy(PartialCrossEntropy()),  # "k-means masks only": all their pixels alike, skeletons included
    "sub_km_sc": hierarchy(KM_SC),
    "sub_km_sc_crf": hierarchy(KM_SC, SUB_CRF),
}


def small(row: Recipe) -> Recipe:
    """Ours, for CPUs: a grid of 2 mm, base 16, fewer and larger steps, flips, the CRF loss at half resolution."""
    stages = [
        replace(
            stage,
            iterations=stage.iterations // 10,
            batch=10,
            optimiser=SGD(learning_rate=0.05),
            losses=tuple(replace(loss, scale=2) if loss.kind == "dense_crf_loss" else loss for loss in stage.losses),
        )
        for stage in row.stages
    ]
    preprocess = Preprocess(spacing_mm=2.0, size=96, brain=True)
    row = replace(row, preprocess=preprocess, network=PlainUNet(base=16), augment=Augment(flips=True))
    return replace(row, stages=tuple(stages))


def short(row: Recipe) -> Recipe:
    """Ours, for `scribbleseg demo --organ tumour`; Adam, for SGD leaves phase 2 on a plateau in so few steps."""
    stages = [replace(s, iterations=s.iterations // 5, optimiser=Adam(learning_rate=0.01)) for s in row.stages]
    return replace(row, preprocess=Preprocess(spacing_mm=3.0, size=64, brain=True), stages=tuple(stages))


def one_pixel_pen(row: Row) -> Row:
    """Ours, for the coarser grid: clusters are scribbled with a pen of one pixel."""
    if row.kind == "hierarchy" and row.clusters.kind == "k_means":
        return replace(row, scribbles=Skeleton())
    return row


COMPACT = {end: one_pixel_pen(row) for end, row in in_all(BRATS, small).items()}
DEMO = in_all({end: COMPACT[end] for end in ("sub_km_sc_crf", "sub_full")}, short)

FAMILIES = {"brats": BRATS, "compact": COMPACT}
"""The rows at the paper's scale, and for a CPU, by how their names end."""

WHOLE = "sub_km_sc_crf"
"""The row that is the whole pipeline."""

SCALED = {"": BRATS, "compact": COMPACT, "demo": DEMO}
RECIPES = {name: SCALED[scale][WHOLE if end == "full" else end] for name, (scale, end) in names("ji2019").items()}
"""All of them by name; `full` is the whole pipeline."""


def table_1(family: str, iterations: int | None = None) -> dict[str, Row]:
    """The rows of Table 1 by title.

    Args:
        family: "brats", the paper's scale, or "compact", a CPU's.
        iterations: all M steps of a network together, divided among them as in the recipe; None is the recipe's.

    Raises:
        DataError: for a family that there is not.
    """
    if family not in FAMILIES:
        raise DataError(f"expected a family among {', '.join(FAMILIES)}; got {family!r}")
    rows = FAMILIES[family]
    if iterations is not None:
        rows = in_all(rows, partial(at_length, iterations=iterations))
    return {title: rows[end] for end, title in TITLES.items()}


def paper(family: str) -> dict[str, dict[str, float]]:
    """The paper's own figures of each row, by title: Dice of each region, and of phase 1 recall and precision."""
    return {title: PAPER[end] for end, title in TITLES.items()}
