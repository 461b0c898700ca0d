"""Can et al. 2018, "Learning to Segment Medical Images with Scribble-Supervision Alone": every row of Table 1.

Each row is the row above it with one thing changed. The families "acdc" and "prostate" are the paper's scale, for a
GPU; "compact" (hearts) and "compact_prostate" are the same rows at a size for a CPU, and "demo" at a size for minutes
(ours).
"""

from dataclasses import replace
from typing import Any

from scribbleseg.data.preprocess import Preprocess
from scribbleseg.recipe import Recipe, Relabel, Stage
from scribbleseg.relabel.decide import WelchTest
from scribbleseg.relabel.refine import DenseCRF
from scribbleseg.seeds.random_walker import RandomWalker, Strokes
from scribbleseg.training.crf_rnn import CRFRNN
from scribbleseg.training.optimisers import Adam
from scribbleseg.training.unet import UNet
from scribbleseg.types import DataError

TITLES = {
    "no_recursion": "base, no recursion",
    "base": "base",
    "crf": "separate CRF",
    "crf_rnn": "CRF-RNN",
    "uncertainty": "uncertainty",
    "crf_uncertainty": "separate CRF + uncertainty",
    "crf_rnn_uncertainty": "CRF-RNN + uncertainty",
    "full": "fully supervised",
}
"""How the recipes' names end, and the rows of Table 1 in its order."""

BELOW_FULL = {"acdc": 0.029, "prostate": 0.045, "compact": 0.029, "compact_prostate": 0.045}
"""How much Dice the paper's best row there loses to its fully supervised one (abstract). Its other figures are not
repeated here."""


def rows(base: Recipe, crf: DenseCRF, crf_rnn: CRFRNN) -> dict[str, Recipe]:
    """The rows of Table 1, by how their names end, and `strokes`, which is not in the paper: what seed areas are worth.

    Args:
        base: relabelling by the network alone. Rows without recursion train as long as all its stages together.
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

    Section 2.2: Adam at 0.001, times 0.9 every 3000 iterations; about 3 recursions. Batches of 10 slices are those of
    the group's earlier code.
    """
    stage = Stage(iterations=first, batch=10, optimiser=Adam(learning_rate=0.001, decay=0.9, decay_every=3000))
    return stage, replace(stage, iterations=again, relabel=Relabel(), times=times)


# Section 2.1: tau 0.99 on ACDC. Beta and the grid are those of the group's earlier code (Baumgartner et al. 2017).
ACDC_BASE = Recipe(
    preprocess=Preprocess(spacing_mm=1.36719, size=212),
    seeds=RandomWalker(tau=0.99, beta=1000.0),
    network=UNet(base=64, padded=False),
    stages=training(12000, 6000, times=3),
)
# The paper's, from its grid search.
HEART_CRF = DenseCRF(w1=5.0, w2=10.0, sigma_alpha=2.0, sigma_beta=0.1, sigma_gamma=5.0)
# The paper's: sigma_alpha and sigma_beta. The weights it starts from are those of the separate CRF (ours), and
# sigma_gamma is that of Zheng et al. 2015.
HEART_CRF_RNN = CRFRNN(w1=5.0, w2=10.0, sigma_alpha=160.0, sigma_beta=3 / 255, sigma_gamma=3.0)

# Section 2.1: tau 0.90 on the prostate. The grid is ours.
PROSTATE_BASE = replace(
    ACDC_BASE,
    preprocess=Preprocess(spacing_mm=0.625, size=212),
    seeds=RandomWalker(tau=0.90, beta=1000.0),
)
# The paper's: sigma_alpha and sigma_beta; the rest as on the heart (ours).
PROSTATE_CRF = replace(HEART_CRF, sigma_alpha=3.0, sigma_beta=0.01)
PROSTATE_CRF_RNN = replace(HEART_CRF_RNN, sigma_alpha=250.0)

# Ours, for CPUs: a grid from the data, base 16, padded convolutions.
COMPACT_BASE = replace(
    ACDC_BASE,
    preprocess=Preprocess(),
    network=UNet(base=16, padded=True),
    stages=training(2000, 1000, times=2),
)
COMPACT_PROSTATE_BASE = replace(COMPACT_BASE, seeds=PROSTATE_BASE.seeds)

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

RECIPES = {
    **{f"{family}_{end}": row for family, rows in FAMILIES.items() for end, row in rows.items()},
    **{f"demo_{end}": DEMO[end] for end in ("no_recursion", "base", "full")},
}
"""All of them by name."""


def table_1(family: str, iterations: int | None = None) -> dict[str, Recipe]:
    """The rows of Table 1 by title.

    Args:
        family: how the recipes' names begin.
        iterations: all M steps of a row together, divided among them as in the recipe; None is the recipe's number.

    Raises:
        DataError: for a family that there is not.
    """
    if family not in BELOW_FULL:
        raise DataError(f"expected a family among {', '.join(BELOW_FULL)}; got {family!r}")
    titled = {title: FAMILIES[family][end] for end, title in TITLES.items()}
    return {title: at_length(row, iterations) if iterations else row for title, row in titled.items()}
