"""Can et al. 2018, "Learning to Segment Medical Images with Scribble-Supervision Alone": every row of Table 1.

Each row is the row above it with one thing changed. ACDC_* and PROSTATE_* are the paper's scale, for a GPU; COMPACT_*
(hearts) and COMPACT_PROSTATE_* are the same rows at a size for a CPU, and DEMO_* at a size for four minutes (ours).
"""

from dataclasses import replace

from scribbleseg.data.preprocess import Preprocess
from scribbleseg.em import Recipe
from scribbleseg.relabel.decide import WelchTest
from scribbleseg.relabel.refine import DenseCRF
from scribbleseg.seeds.random_walker import RandomWalker, Strokes
from scribbleseg.train.crf_rnn import CRFRNN
from scribbleseg.train.loop import Training
from scribbleseg.train.unet import UNet
from scribbleseg.types import DataError

FULLY_SUPERVISED = "fully supervised"

ROWS = {
    "base, no recursion": "no_recursion",
    "base": "base",
    "separate CRF": "crf",
    "CRF-RNN": "crf_rnn",
    "uncertainty": "uncertainty",
    "separate CRF + uncertainty": "crf_uncertainty",
    "CRF-RNN + uncertainty": "crf_rnn_uncertainty",
    FULLY_SUPERVISED: "full",
}
"""The rows of Table 1, in its order, and how the recipes' names end."""

FAMILIES = {"acdc": 0.029, "prostate": 0.045, "compact": 0.029, "compact_prostate": 0.045}
"""How the recipes' names begin, and the Dice that the paper's best row there is below its fully supervised one
(abstract). Its other figures are not repeated here."""


def table_1(family: str, iterations: int | None = None) -> dict[str, Recipe]:
    """The rows of Table 1 by title.

    Args:
        family: how the recipes' names begin.
        iterations: of all M steps of a row together, divided among them as in the recipe; None is the recipe's number.

    Raises:
        DataError: for a family that there is not.
    """
    if family not in FAMILIES:
        raise DataError(f"expected a family among {', '.join(FAMILIES)}; got {family!r}")
    rows = {title: globals()[f"{family}_{name}".upper()] for title, name in ROWS.items()}
    return {title: at_length(row, iterations) if iterations else row for title, row in rows.items()}


def at_length(row: Recipe, iterations: int) -> Recipe:
    """The row with so many iterations in all its M steps together, divided among them as before."""
    first, again = row.training.iterations, row.training.iterations_again
    share = iterations / (first + row.recursions * again)
    training = replace(
        row.training, iterations=max(1, round(first * share)), iterations_again=max(1, round(again * share))
    )
    return replace(row, training=training)


def _uncertainty(row: Recipe) -> Recipe:
    """Section 2.4: dropout of 0.5 in the five innermost blocks, 50 passes, Welch's test at the 5 % level."""
    network = row.network
    if isinstance(network, CRFRNN):
        network = replace(network, unet=replace(network.unet, dropout=0.5))
    else:
        network = replace(network, dropout=0.5)
    return replace(row, network=network, decide=WelchTest(passes=50, significance=0.05))


def _crf_rnn(row: Recipe, crf_rnn: CRFRNN) -> Recipe:
    """Section 2.3: the same U-Net under a CRF-RNN."""
    assert isinstance(row.network, UNet)
    return replace(row, network=replace(crf_rnn, unet=row.network))


# Section 2.1: tau 0.99 on ACDC. Beta and the grid are those of the group's earlier code (Baumgartner et al. 2017).
ACDC_BASE = Recipe(
    preprocess=Preprocess(spacing_mm=1.36719, size=212),
    seeds=RandomWalker(tau=0.99, beta=1000.0),
    network=UNet(base=64, padded=False),
    training=Training(iterations=12000, iterations_again=6000),  # ours
    recursions=3,
)
ACDC_NO_RECURSION = replace(
    ACDC_BASE,
    training=replace(ACDC_BASE.training, iterations=30000),  # the same total of iterations, in all rows
    recursions=0,
)
# The paper's, from its grid search (in which section was not checked: its text was not at hand; so below).
HEART_CRF = DenseCRF(w1=5.0, w2=10.0, sigma_alpha=2.0, sigma_beta=0.1, sigma_gamma=5.0)
ACDC_CRF = replace(ACDC_BASE, refine=HEART_CRF)
# The paper's: sigma_alpha and sigma_beta. The weights it starts from are those of the separate CRF (ours), and
# sigma_gamma is that of Zheng et al. 2015.
HEART_CRF_RNN = CRFRNN(w1=5.0, w2=10.0, sigma_alpha=160.0, sigma_beta=3 / 255, sigma_gamma=3.0)
ACDC_CRF_RNN = _crf_rnn(ACDC_BASE, HEART_CRF_RNN)
ACDC_UNCERTAINTY = _uncertainty(ACDC_BASE)
ACDC_CRF_UNCERTAINTY = _uncertainty(ACDC_CRF)
ACDC_CRF_RNN_UNCERTAINTY = _uncertainty(ACDC_CRF_RNN)
ACDC_STROKES = replace(ACDC_NO_RECURSION, seeds=Strokes())  # not in the paper: what seed areas are worth
ACDC_FULL = replace(ACDC_STROKES, annotation="masks")

# Section 2.1: tau 0.90 on the prostate. The grid is ours.
PROSTATE_BASE = replace(
    ACDC_BASE,
    preprocess=Preprocess(spacing_mm=0.625, size=212),
    seeds=RandomWalker(tau=0.90, beta=1000.0),
)
PROSTATE_NO_RECURSION = replace(PROSTATE_BASE, training=ACDC_NO_RECURSION.training, recursions=0)
# The paper's: sigma_alpha and sigma_beta; the rest as on the heart (ours).
PROSTATE_CRF = replace(PROSTATE_BASE, refine=replace(HEART_CRF, sigma_alpha=3.0, sigma_beta=0.01))
PROSTATE_CRF_RNN = _crf_rnn(PROSTATE_BASE, replace(HEART_CRF_RNN, sigma_alpha=250.0))
PROSTATE_UNCERTAINTY = _uncertainty(PROSTATE_BASE)
PROSTATE_CRF_UNCERTAINTY = _uncertainty(PROSTATE_CRF)
PROSTATE_CRF_RNN_UNCERTAINTY = _uncertainty(PROSTATE_CRF_RNN)
PROSTATE_FULL = replace(PROSTATE_NO_RECURSION, seeds=Strokes(), annotation="masks")


def _in_mm(crf, of: Recipe):  # type: ignore[no-untyped-def]  # of DenseCRF or CRFRNN, and returns the same
    """The same distances in millimetres, for grids of another spacing than the paper's."""
    mm = float(of.preprocess.spacing_mm or 0)
    return replace(crf, sigma_alpha=crf.sigma_alpha * mm, sigma_gamma=crf.sigma_gamma * mm, unit="mm")


# Ours, for CPUs: a grid from the data, base 16, padded convolutions.
COMPACT_BASE = replace(
    ACDC_BASE,
    preprocess=Preprocess(),
    network=UNet(base=16, padded=True),
    training=Training(iterations=2000, iterations_again=1000),
    recursions=2,
)
COMPACT_NO_RECURSION = replace(
    COMPACT_BASE,
    training=replace(COMPACT_BASE.training, iterations=4000),
    recursions=0,
)
COMPACT_CRF = replace(COMPACT_BASE, refine=_in_mm(HEART_CRF, ACDC_BASE))
COMPACT_CRF_RNN = _crf_rnn(COMPACT_BASE, _in_mm(HEART_CRF_RNN, ACDC_BASE))
COMPACT_UNCERTAINTY = _uncertainty(COMPACT_BASE)
COMPACT_CRF_UNCERTAINTY = _uncertainty(COMPACT_CRF)
COMPACT_CRF_RNN_UNCERTAINTY = _uncertainty(COMPACT_CRF_RNN)
COMPACT_STROKES = replace(COMPACT_NO_RECURSION, seeds=Strokes())
COMPACT_FULL = replace(COMPACT_STROKES, annotation="masks")

COMPACT_PROSTATE_BASE = replace(COMPACT_BASE, seeds=PROSTATE_BASE.seeds)
COMPACT_PROSTATE_NO_RECURSION = replace(COMPACT_NO_RECURSION, seeds=PROSTATE_BASE.seeds)
COMPACT_PROSTATE_CRF = replace(COMPACT_PROSTATE_BASE, refine=_in_mm(PROSTATE_CRF.refine, PROSTATE_BASE))
COMPACT_PROSTATE_CRF_RNN = _crf_rnn(COMPACT_PROSTATE_BASE, _in_mm(PROSTATE_CRF_RNN.network, PROSTATE_BASE))
COMPACT_PROSTATE_UNCERTAINTY = _uncertainty(COMPACT_PROSTATE_BASE)
COMPACT_PROSTATE_CRF_UNCERTAINTY = _uncertainty(COMPACT_PROSTATE_CRF)
COMPACT_PROSTATE_CRF_RNN_UNCERTAINTY = _uncertainty(COMPACT_PROSTATE_CRF_RNN)
COMPACT_PROSTATE_FULL = COMPACT_FULL

# Ours, for `scribbleseg demo`: the compact rows once more, short and on small slices.
DEMO_BASE = replace(
    COMPACT_BASE,
    preprocess=Preprocess(spacing_mm=2.25, size=80),
    training=Training(iterations=400, iterations_again=150),
)
DEMO_NO_RECURSION = replace(DEMO_BASE, training=Training(iterations=700), recursions=0)
DEMO_FULL = replace(DEMO_NO_RECURSION, seeds=Strokes(), annotation="masks")
