"""Can et al. 2018, "Learning to Segment Medical Images with Scribble-Supervision Alone": the base rows of Table 1.

Each row is the row above it with one thing changed. ACDC_* and PROSTATE_* are the paper's scale, for a GPU; COMPACT_*
are the same rows at a size for a CPU, and DEMO_* at a size for four minutes (ours).
"""

from dataclasses import replace

from scribbleseg.data.preprocess import Preprocess
from scribbleseg.em import Recipe
from scribbleseg.seeds.random_walker import RandomWalker, Strokes
from scribbleseg.train.loop import Training
from scribbleseg.train.unet import UNet

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
ACDC_STROKES = replace(ACDC_NO_RECURSION, seeds=Strokes())  # not in the paper: what seed areas are worth
ACDC_FULL = replace(ACDC_STROKES, annotation="masks")

# Section 2.1: tau 0.90 on the prostate. The grid is ours.
PROSTATE_BASE = replace(
    ACDC_BASE,
    preprocess=Preprocess(spacing_mm=0.625, size=212),
    seeds=RandomWalker(tau=0.90, beta=1000.0),
)
PROSTATE_NO_RECURSION = replace(PROSTATE_BASE, training=ACDC_NO_RECURSION.training, recursions=0)
PROSTATE_FULL = replace(PROSTATE_NO_RECURSION, seeds=Strokes(), annotation="masks")

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
COMPACT_STROKES = replace(COMPACT_NO_RECURSION, seeds=Strokes())
COMPACT_FULL = replace(COMPACT_STROKES, annotation="masks")

# Ours, for `scribbleseg demo`: the compact rows once more, short and on small slices.
DEMO_BASE = replace(
    COMPACT_BASE,
    preprocess=Preprocess(spacing_mm=2.25, size=80),
    training=Training(iterations=400, iterations_again=150),
)
DEMO_NO_RECURSION = replace(DEMO_BASE, training=Training(iterations=700), recursions=0)
DEMO_FULL = replace(DEMO_NO_RECURSION, seeds=Strokes(), annotation="masks")
