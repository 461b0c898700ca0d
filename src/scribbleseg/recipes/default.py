"""Recipes of our own, in no paper, and the same on full masks.

`quick` is for an hour of a laptop's CPU, `standard` for an afternoon's, `long` for a GPU. What they are made of was
chosen by the measurements in docs/LOG.md. `quick3d` is `quick` with a network of blocks, which lost to it on a CPU.
"""

from dataclasses import replace

from scribbleseg.data.preprocess import Preprocess
from scribbleseg.recipe import Recipe, Relabel, Stage
from scribbleseg.recipe_names import names
from scribbleseg.relabel.decide import Confident
from scribbleseg.seeds.random_walker import AUTOMATIC
from scribbleseg.seeds.strokes import Strokes
from scribbleseg.training.augment import Augment
from scribbleseg.training.hardware import Machine
from scribbleseg.training.losses import PartialCrossEntropy, PartialDice
from scribbleseg.training.monai_network import MONAINetwork
from scribbleseg.training.optimisers import CosineAdam
from scribbleseg.training.plain_unet import PlainUNet


def training(iterations: int, e_steps: int = 4) -> tuple[Stage, ...]:
    """Half of the iterations on the seed areas, then an E step before each of as many equal parts as there are.

    One learning-rate schedule spans all of it. Pixels of which the network is not sure, and components without a
    scribble, stay unlabelled; only scribbles are put back.
    """
    first = iterations // 2
    stage = Stage(
        iterations=first,
        optimiser=CosineAdam(),
        losses=(PartialCrossEntropy(), PartialDice()),
        ema_decay=0.99,
    )
    relabel = Relabel(decide=Confident(probability=0.7), only_scribbled=True, clamp="scribbles")
    return stage, replace(
        stage, iterations=(iterations - first) // e_steps, relabel=relabel, restarts=False, times=e_steps
    )


COMMON = Recipe(
    seeds=AUTOMATIC,
    augment=Augment(gamma=0.5, low_resolution=0.25, blur=0.2),
    stop_below=0.0,
    rotations=(15.0, -15.0),
    held_out=0.05,
    single_components=True,
)


def sized(base: int, iterations: int, largest_size: int | None = None) -> Recipe:
    """The recipe with so many filters in the outermost block, iterations in all, and pixels a side at most."""
    network = PlainUNet(base=base, slope=0.01, deep_supervision=2)
    preprocess = Preprocess(largest_size=largest_size, windows=None)
    return replace(COMMON, preprocess=preprocess, network=network, stages=training(iterations))


def of_blocks(row: Recipe) -> Recipe:
    """The recipe with a small 3-D network, on two blocks of 48 pixels a side in each iteration.

    Without rotated views, with which an E step takes longer than the training before it (docs/LOG.md).
    """
    network = MONAINetwork(name="DynUNet", arguments={"filters": [16, 32, 64, 128]}, dimensions=3)
    stages = tuple(replace(stage, batch=2) for stage in row.stages)
    return replace(row, network=network, patch=48, stages=stages, rotations=())


SIZES = {"quick": sized(16, 4000, 160), "standard": sized(32, 8000, 192), "long": sized(64, 50000, 320)}
"""Those that are chosen for people, by the machine."""

SCALES = {**SIZES, "quick3d": of_blocks(SIZES["quick"])}


def fitting(machine: Machine) -> str:
    """Which of the sizes fits a machine: what each is for is said above; the limits are ours."""
    memory_gib = round(machine.memory_gib or 0)  # a card of 8 GB has 7.8 GiB to offer
    if machine.accelerator == "cuda" and memory_gib >= 8:
        return "long"
    if machine.accelerator != "cpu" or (machine.cores >= 8 and machine.bfloat16 and memory_gib >= 16):
        return "standard"
    return "quick"


def on_masks(row: Recipe) -> Recipe:
    """The recipe on full masks: one stage, as long as all of the others together."""
    whole = replace(row.stages[0], iterations=sum(step.iterations for step in row.steps))
    return replace(row, annotation="masks", seeds=Strokes(), stages=(whole,))


RECIPES = {
    name: on_masks(SCALES[scale]) if end == "full" else SCALES[scale] for name, (scale, end) in names("default").items()
}
"""All of them by name."""
