"""Our own recipe family at CPU scale, on two organs: scribbles beside full masks; ingredients taken away, or alone.

    SCRIBBLESEG_DATA=... python benchmarks/ours_cpu.py --data acdc --out runs/ours_acdc
    SCRIBBLESEG_DATA=... python benchmarks/ours_cpu.py --data promise12 --iterations 1000 --out runs/ours_promise12

Data, splits, grids and scores are those of can2018_cpu.py. "Base" and "Fully supervised" are Can et al.'s rows at the
same number of iterations. Continues where it was stopped. Without SCRIBBLESEG_DATA, or with --quick, it runs on
phantoms at a toy size.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from can2018_cpu import at_scale, opened, ours, parse, report
from scribbleseg.data.preprocess import Preprocess
from scribbleseg.recipe import Recipe, Stage
from scribbleseg.recipes import default
from scribbleseg.recipes.can2018 import relabelled
from scribbleseg.relabel.decide import Argmax
from scribbleseg.reproduce import train_rows
from scribbleseg.seeds.random_walker import MAJORITY
from scribbleseg.training.augment import Augment
from scribbleseg.training.crf_loss import DenseCRFLoss
from scribbleseg.training.losses import PartialCrossEntropy
from scribbleseg.training.optimisers import Adam
from scribbleseg.training.unet import UNet


def in_stages(row: Recipe, **changes: Any) -> Recipe:
    """The recipe with something changed in all its stages."""
    return replace(row, stages=tuple(replace(stage, **changes) for stage in row.stages))


def seeds_alone(row: Recipe) -> Recipe:
    """The recipe without E steps, as long as before."""
    return replace(default.on_masks(row), annotation="scribbles", seeds=row.seeds)


def in_patches(row: Recipe) -> Recipe:
    """The recipe on windows as large as its slices were, cut out of slices of twice as many pixels a side."""
    return replace(row, preprocess=Preprocess(largest_size=192), patch=96)


def whole_field(row: Recipe) -> Recipe:
    """The recipe on whole slices at a coarser spacing, rather than on their centres."""
    return replace(row, preprocess=Preprocess(largest_size=128))


def everything_labelled(row: Recipe) -> Recipe:
    """The recipe with nearly every pixel of its seed areas labelled, as likely as it may be."""
    return replace(row, seeds=replace(row.seeds, tau=MAJORITY))


def from_a_quarter(row: Recipe) -> Recipe:
    """The recipe with E steps from a quarter of the iterations on, as far apart as before."""
    first, then = row.stages
    return replace(row, stages=(replace(first, iterations=first.iterations // 2), replace(then, times=6)))


def dense_crf_loss(row: Recipe) -> Recipe:
    """The recipe with Ji et al.'s dense CRF loss beside the others, on squares of 2 x 2 pixels."""
    return in_stages(row, losses=(*row.stages[0].losses, DenseCRFLoss(channels=(0,), scale=2)))


def as_trained(row: Recipe) -> Recipe:
    """The recipe on the grid that `scribbleseg train` takes for it: whole slices."""
    return replace(row, preprocess=default.SIZES["quick"].preprocess)


VARIANTS: dict[str, Callable[[Recipe], Recipe]] = {
    "full masks": default.on_masks,
    "scribbles": lambda row: row,
    "seeds alone": seeds_alone,
    "argmax": lambda row: relabelled(row, decide=Argmax()),
    "all components relabelled": lambda row: relabelled(row, only_scribbled=False),
    "areas clamped": lambda row: relabelled(row, clamp="areas"),
    "no test-time rotations": lambda row: replace(row, rotations=()),
    "all components kept": lambda row: replace(row, single_components=False),
    "no averaged weights": lambda row: in_stages(row, ema_decay=0.0),
    "no Dice": lambda row: in_stages(row, losses=(PartialCrossEntropy(),)),
    "no cosine": lambda row: in_stages(row, optimiser=Adam()),
    "no deep supervision": lambda row: replace(row, network=replace(row.network, deep_supervision=0)),
    "ReLU": lambda row: replace(row, network=replace(row.network, slope=0.0)),
    "U-Net of Can et al.": lambda row: replace(row, network=UNet(base=16, padded=True)),
    "fewer intensities": lambda row: replace(row, augment=Augment()),
    "tau 0.99": lambda row: replace(row, seeds=replace(row.seeds, tau=0.99)),
    "everything labelled": everything_labelled,
    "everything labelled, whole field": lambda row: everything_labelled(whole_field(row)),
    "tau 0.9": lambda row: replace(row, seeds=replace(row.seeds, tau=0.9)),
    "empty slices unlabelled": lambda row: replace(row, seeds=replace(row.seeds, empty="unlabelled")),
    "beta 130": lambda row: replace(row, seeds=replace(row.seeds, beta=130.0)),
    "beta 1000, tau 0.99": lambda row: replace(row, seeds=replace(row.seeds, beta=1000.0, tau=0.99)),
    "beta 1000, tau 0.9": lambda row: replace(row, seeds=replace(row.seeds, beta=1000.0, tau=0.9)),
    "patches on a finer grid": in_patches,
    "full masks, patches on a finer grid": lambda row: in_patches(default.on_masks(row)),
    "whole field": whole_field,
    "full masks, whole field": lambda row: whole_field(default.on_masks(row)),
    "default.quick": as_trained,
    "default.quick_full": lambda row: as_trained(default.on_masks(row)),
    "flips": lambda row: replace(row, augment=replace(row.augment or Augment(), flips=True)),
    "twice the E steps": lambda row: replace(
        row, stages=default.training(sum(step.iterations for step in row.steps), e_steps=8)
    ),
    "E steps from a quarter on": from_a_quarter,
    "areas across slices": lambda row: replace(row, seeds=replace(row.seeds, dimensions=3)),
    "dense CRF loss": dense_crf_loss,
    "neighbouring slices": lambda row: replace(row, neighbours=1),
    "3-D": default.of_blocks,
}
THEIRS = ("Base", "Fully supervised")
ADDED: dict[str, Callable[[Recipe, Recipe], Recipe]] = {
    "Base, our network": lambda base, row: replace(base, network=row.network),
    "Base, Dice": lambda base, row: in_stages(base, losses=row.stages[0].losses),
    "Base, averaged weights": lambda base, row: in_stages(base, ema_decay=row.stages[0].ema_decay),
    "Base, cosine": lambda base, row: in_stages(base, optimiser=row.stages[0].optimiser),
    "Base, intensities": lambda base, row: replace(base, augment=row.augment),
    "Base, test-time rotations": lambda base, row: replace(base, rotations=row.rotations),
    "Base, single components": lambda base, row: replace(base, single_components=True),
    "Base, our areas": lambda base, row: replace(base, seeds=row.seeds),
    "Base, our E steps": lambda base, row: replace(
        base, stages=tuple(replace(base.stages[0], **_when(step)) for step in row.stages)
    ),
}
"""Can et al.'s row "Base" with an ingredient of ours."""


def _when(step: Stage) -> dict[str, Any]:
    """How long a stage of ours takes, how often it comes, and how it relabels."""
    return {name: getattr(step, name) for name in ("iterations", "times", "relabel", "restarts")}


def recipe_of(title: str, data: str, iterations: int) -> Recipe:
    """The recipe of a row."""
    row = ours(data, iterations)
    if title in VARIANTS:
        return VARIANTS[title](row)
    if title in ADDED:
        return ADDED[title](at_scale("Base", data, iterations), row)
    return at_scale(title, data, iterations)


def main() -> None:
    arguments = parse(__doc__, Path("runs/ours_acdc"), [*THEIRS, *ADDED, *VARIANTS], ["full masks", "scribbles"])
    with opened(arguments) as dataset:
        rows = {title: recipe_of(title, arguments.data, arguments.iterations) for title in arguments.rows}
        train_rows(rows, dataset, arguments.out, arguments.seeds, arguments.jobs, "cpu")
        report("ours_cpu", rows, arguments.out, arguments.seeds, peers=("full masks", "scribbles", "Base"))


if __name__ == "__main__":
    main()
