"""Can et al. 2018, "Learning to Segment Medical Images with Scribble-Supervision Alone": every row of Table 1.

Each row is the row above it with one thing changed. The families "acdc" and "prostate" are the paper's scale, for a
GPU; "compact" (hearts) and "compact_prostate" are the same rows at a size for a CPU, and "demo" at a size for minutes
(ours).
"""

from dataclasses import replace
from typing import Any

from scribbleseg.data.preprocess import Preprocess
from scribbleseg.recipe import Recipe, Relabel, Stage
from scribbleseg.recipe_names import CAN2018_TITLES as TITLES
from scribbleseg.recipe_names import names
from scribbleseg.relabel.decide import WelchTest
from scribbleseg.relabel.refine import DenseCRF
from scribbleseg.seeds.random_walker import RandomWalker
from scribbleseg.seeds.strokes import Strokes
from scribbleseg.training.augment import Augment
from scribbleseg.training.crf_rnn import CRFRNN
from scribbleseg.training.optimisers import Adam
from scribbleseg.training.unet import UNet
from scribbleseg.types import DataError

HEART = {
    "no_recursion": {"LV": 0.895, "RV": 0.875, "Myo": 0.825, "mean": 0.865},
    "base": {"LV": 0.905, "RV": 0.880, "Myo": 0.835, "mean": 0.873},
    "crf": {"LV": 0.890, "RV": 0.880, "Myo": 0.840, "mean": 0.870},
    "crf_rnn": {"LV": 0.915, "RV": 0.885, "Myo": 0.840, "mean": 0.880},
    "uncertainty": {"LV": 0.910, "RV": 0.890, "Myo": 0.840, "mean": 0.880},
    "crf_uncertainty": {"LV": 0.910, "RV": 0.890, "Myo": 0.840, "mean": 0.880},
    "crf_rnn_uncertainty": {"LV": 0.915, "RV": 0.885, "Myo": 0.840, "mean": 0.880},
    "full": {"LV": 0.935, "RV": 0.905, "Myo": 0.895, "mean": 0.912},
}
"""Dice in Table 1, cardiac data set: the paper's own figures, at its own scale."""

PROSTATE = {
    "no_recursion": {"PZ": 0.631, "CG": 0.827, "mean": 0.729},
    "base": {"PZ": 0.670, "CG": 0.829, "mean": 0.750},
    "crf": {"PZ": 0.698, "CG": 0.837, "mean": 0.767},
    "crf_rnn": {"PZ": 0.698, "CG": 0.863, "mean": 0.781},
    "uncertainty": {"PZ": 0.720, "CG": 0.837, "mean": 0.778},
    "crf_uncertainty": {"PZ": 0.722, "CG": 0.839, "mean": 0.780},
    "crf_rnn_uncertainty": {"PZ": 0.710, "CG": 0.834, "mean": 0.772},
    "full": {"PZ": 0.746, "CG": 0.889, "mean": 0.818},
}
"""Dice in Table 1, prostate data set."""


def rows(base: Recipe, crf: DenseCRF, crf_rnn: CRFRNN) -> dict[str, Recipe]:
    """The rows of Table 1 by how their names end, and three that are not in the paper.

    These are `strokes`, which shows what seed areas are worth, and `augmented` and `unaugmented`, one of which is the
    same as `base`. Rows without recursion train as long as all recursions of the others together. That is ours; the
    paper does not say.

    Args:
        base: relabelling by the network alone, "which does not make use of pairwise terms" (section 3).
        crf: the separate CRF (section 2.2).
        crf_rnn: whose unaries are to be the base's network (section 2.3).
    """
    total = sum(step.iterations for step in base.steps)
    no_recursion = replace(base, stages=(replace(base.stages[0], iterations=total),))
    with_crf = relabelled(base, refine=crf)
    with_crf_rnn = replace(base, network=replace(crf_rnn, unaries=base.network))  # type: ignore[arg-type]
    strokes = replace(no_recursion, seeds=Strokes())
    return {
        "no_recursion": no_recursion,
        "base": base,
        "crf": with_crf,
        "crf_rnn": with_crf_rnn,
        "uncertainty": with_uncertainty(base),
        "crf_uncertainty": with_uncertainty(with_crf),
        "crf_rnn_uncertainty": with_uncertainty(with_crf_rnn),
        "strokes": strokes,
        "full": replace(strokes, annotation="masks"),
        "augmented": replace(base, augment=Augment()),
        "unaugmented": replace(base, augment=None),
    }


def relabelled(row: Recipe, **changes: Any) -> Recipe:
    """The row with something changed in all its E steps."""
    stages = [replace(s, relabel=replace(s.relabel, **changes)) if s.relabel else s for s in row.stages]
    return replace(row, stages=tuple(stages))


def with_uncertainty(row: Recipe) -> Recipe:
    """Section 2.4: dropout of 0.5 in the five innermost blocks, 50 passes, Welch's test at the 5 % level."""
    network: Any = row.network
    if network.kind == "crf_rnn":
        network = replace(network, unaries=replace(network.unaries, dropout=0.5))
    else:
        network = replace(network, dropout=0.5)
    return relabelled(replace(row, network=network), decide=WelchTest(passes=50, significance=0.05))


def in_mm(crf: Any, of: Recipe) -> Any:
    """The same distances in millimetres, for grids of another spacing than the paper's."""
    mm = float(of.preprocess.spacing_mm or 0)
    return replace(crf, sigma_alpha=crf.sigma_alpha * mm, sigma_gamma=crf.sigma_gamma * mm, unit="mm")


def at_length(row: Recipe, iterations: int) -> Recipe:
    """The row with so many iterations in all its M steps together, divided among them as before."""
    share = iterations / sum(step.iterations for step in row.steps)
    stages = [replace(stage, iterations=max(1, round(stage.iterations * share))) for stage in row.stages]
    return replace(row, stages=tuple(stages))


def training(first: int, again: int, times: int) -> tuple[Stage, ...]:
    """A first M step and so many recursions, with so many iterations each (the numbers are ours).

    Section 2.2: Adam at 0.001, times 0.9 every 3000 iterations; the network of each recursion starts from the last one;
    "convergence, which typically occurs within 3 recursions or less". Whether the learning rate starts anew with each
    recursion the paper leaves open. Here it does not: one schedule and one optimiser span all recursions, as in the
    group's earlier code, so that rows with recursion train at the same learning rates as rows without. Batches of 10
    slices are that code's.
    """
    stage = Stage(iterations=first, batch=10, optimiser=Adam(learning_rate=0.001, decay=0.9, decay_every=3000))
    return stage, replace(stage, iterations=again, relabel=Relabel(), restarts=False, times=times)


# Section 3: tau 0.99 on ACDC. The paper mentions no augmentation, and its group's earlier code (Baumgartner et al.
# 2017) has none for this experiment. That code's are the U-Net (64 to 1024 filters, an input padded by 92 pixels),
# slices of 212 x 212 pixels of 1.36719 mm, and the random walker's weights: beta 1000 on slices scaled to [-1, 1],
# which is 2000 here.
ACDC_BASE = Recipe(
    preprocess=Preprocess(spacing_mm=1.36719, size=212),
    seeds=RandomWalker(tau=0.99, beta=2000.0, scale="slice"),
    network=UNet(base=64, padded=False),
    augment=None,
    stages=training(12000, 6000, times=3),
)
HEART_CRF = DenseCRF(w1=5.0, w2=10.0, sigma_alpha=2.0, sigma_beta=0.1, sigma_gamma=5.0)  # section 3
# Section 3: the sigmas; we take sigma_beta = 3 to belong to intensities in [0, 255]. The weights that it starts from
# are those of the separate CRF (ours).
HEART_CRF_RNN = CRFRNN(w1=5.0, w2=10.0, sigma_alpha=160.0, sigma_beta=3 / 255, sigma_gamma=10.0)

# Section 3: tau 0.90 on the prostate. The grid is ours.
PROSTATE_BASE = replace(
    ACDC_BASE,
    preprocess=Preprocess(spacing_mm=0.625, size=212),
    seeds=RandomWalker(tau=0.90, beta=2000.0, scale="slice"),
)
PROSTATE_CRF = DenseCRF(w1=6.0, w2=10.0, sigma_alpha=3.0, sigma_beta=0.01, sigma_gamma=2.0)  # section 3
PROSTATE_CRF_RNN = replace(HEART_CRF_RNN, w1=6.0, sigma_alpha=250.0)  # section 3, and the separate CRF's weights

# Ours, for CPUs: a grid from the data, base 16, padded convolutions, augmentation, and seed areas that are smaller and
# purer (docs/LOG.md).
COMPACT_BASE = replace(
    ACDC_BASE,
    preprocess=Preprocess(),
    seeds=RandomWalker(tau=0.99, beta=1000.0),
    network=UNet(base=16, padded=True),
    augment=Augment(),
    stages=training(2000, 1000, times=2),
)
COMPACT_PROSTATE_BASE = replace(COMPACT_BASE, seeds=RandomWalker(tau=0.90, beta=1000.0))

# Ours, for `scribbleseg demo`: the compact rows once more, short and on small slices.
DEMO_BASE = replace(
    COMPACT_BASE,
    preprocess=Preprocess(spacing_mm=2.25, size=80),
    stages=training(400, 150, times=2),
)

FAMILIES = {
    "acdc": rows(ACDC_BASE, HEART_CRF, HEART_CRF_RNN),
    "prostate": rows(PROSTATE_BASE, PROSTATE_CRF, PROSTATE_CRF_RNN),
    "compact": rows(COMPACT_BASE, in_mm(HEART_CRF, ACDC_BASE), in_mm(HEART_CRF_RNN, ACDC_BASE)),
    "compact_prostate": rows(
        COMPACT_PROSTATE_BASE, in_mm(PROSTATE_CRF, PROSTATE_BASE), in_mm(PROSTATE_CRF_RNN, PROSTATE_BASE)
    ),
}
"""How the recipes' names begin, and the rows of each family by how their names end."""

DEMO = rows(DEMO_BASE, HEART_CRF, HEART_CRF_RNN)

RECIPES = {name: (FAMILIES | {"demo": DEMO})[scale][end] for name, (scale, end) in names("can2018").items()}
"""All of them by name."""


def table_1(family: str, iterations: int | None = None) -> dict[str, Recipe]:
    """The rows of Table 1 by title.

    Args:
        family: how the recipes' names begin.
        iterations: all M steps of a row together, divided among them as in the recipe; None is the recipe's number.

    Raises:
        DataError: for a family that there is not.
    """
    if family not in FAMILIES:
        raise DataError(f"expected a family among {', '.join(FAMILIES)}; got {family!r}")
    titled = {title: FAMILIES[family][end] for end, title in TITLES.items()}
    return {title: at_length(row, iterations) if iterations else row for title, row in titled.items()}


def paper(family: str) -> dict[str, dict[str, float]]:
    """The paper's own Dice of each row, by title: of each structure, and their "mean"."""
    figures = PROSTATE if "prostate" in family else HEART
    return {title: figures[end] for end, title in TITLES.items()}
