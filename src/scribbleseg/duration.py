"""How long a training will take on this machine, measured by a few iterations of its network on random numbers."""

import math
import time
from collections.abc import Sequence

import torch
from lightning_fabric import Fabric

from scribbleseg.data.blocks import channels_last
from scribbleseg.recipe import Recipe, Stage
from scribbleseg.session import Session
from scribbleseg.training.batch import Batch
from scribbleseg.training.loop import objective
from scribbleseg.training.losses import Loss
from scribbleseg.training.network import trial

SLICES = 4
"""Slices, or blocks, in a batch that is timed on a CPU, at most."""

REPEATS = 3
"""Iterations that are timed, after one that is not; the fastest counts, which others on the machine disturbed least."""

FORWARD = 1 / 3
"""What a slice or block costs that the network only sees, beside one that it learns from."""


def seconds(session: Session[Recipe], channels: int, steps: Sequence[Stage]) -> float:
    """Seconds that whole M steps of a session take here with the E steps before them, seed areas and CRFs left out.

    Args:
        session: with a recipe that is fitted to the data.
        channels: the number of channels of an image.
        steps: what is left to do of the recipe's M steps.
    """
    recipe, cases, fabric = session.recipe, session.dataset.train, session.fabric
    labels = session.dataset.n_labels
    cost = {losses: seconds_for_one(recipe, losses, channels, labels, fabric) for losses in {s.losses for s in steps}}
    looks = len(steps) * recipe.single_components
    for relabel in (step.relabel for step in steps if step.relabel):
        looks += relabel.decide.passes or 1 + len(recipe.rotations)
    if looks:
        geometries = [cases.geometry(name) for name in cases.names]
        slices = [recipe.preprocess.depth(geometry) for geometry in geometries]
        looks *= sum(n if recipe.depth is None else _windows(n, recipe.depth) for n in slices)
        looks *= _windows(int(recipe.preprocess.size or 0), recipe.window) ** 2
    learning = sum(step.iterations * step.batch * cost[step.losses] for step in steps)
    return learning + looks * FORWARD * min(cost.values()) / fabric.world_size


def seconds_for_one(recipe: Recipe, losses: Sequence[Loss], channels: int, labels: int, fabric: Fabric) -> float:
    """Seconds for a slice, or block, of an iteration: augmentation, forward and backward pass, without the update.

    Args:
        recipe: fitted to the data.
        losses: what its network is trained by.
        channels: the number of channels of an image.
        labels: the number of labels, background included.
        fabric: where it runs; other ranks are not waited for. Torch's random state is left as it was on the CPU.
    """
    batch_size = recipe.steps[0].batch
    n_slices = batch_size if fabric.device.type == "cuda" else min(batch_size, SLICES)
    network = trial(recipe.build, channels, labels)
    channels_last(network.to(fabric.device))
    with torch.random.fork_rng([]), torch.enable_grad():
        batch = _random((n_slices, *recipe.sides), network.channels, labels, fabric.device)
        took = []
        for _ in range(REPEATS + 1):
            started = time.perf_counter()
            seen = recipe.augment(batch) if recipe.augment else batch
            with fabric.autocast():
                outputs = network(channels_last(seen.images))
                loss = objective(outputs, seen, losses)
            loss.backward()
            float(loss.detach())  # waits for a GPU
            took.append(time.perf_counter() - started)
    return min(took[1:]) / n_slices


def _windows(size: int, window: int) -> int:
    """The number of windows along a side that overlap by half, as `Views` has them."""
    return 1 if size <= window else math.ceil((size - window) / (window / 2)) + 1


def in_words(seconds: float) -> str:
    """A duration, to two digits: "40 seconds", "25 minutes", "3.5 hours"."""
    for unit, length, until in (("seconds", 1, 90), ("minutes", 60, 5400), ("hours", 3600, math.inf)):
        if seconds < until:
            value = f"{float(f'{max(seconds, 1) / length:.2g}'):g}"
            return f"{value} {unit.removesuffix('s') if value == '1' else unit}"
    raise AssertionError("a duration is finite")


def _random(shape: Sequence[int], channels: int, labels: int, device: torch.device) -> Batch:
    """A batch `batch [depth] height width` that has everything that a loss can need."""
    n, *sides = shape
    images = torch.randn(n, channels, *sides, device=device)
    classes = torch.randint(labels, (n, *sides), dtype=torch.uint8, device=device)
    soft = torch.full((n, labels, *sides), 1 / labels, device=device)
    known = torch.ones_like(classes, dtype=torch.bool)
    optional = {"clean": images, "scribbles": classes, "soft": soft, "confidence": soft[:, 0], "inside": known}
    return Batch(images, classes, **optional)
