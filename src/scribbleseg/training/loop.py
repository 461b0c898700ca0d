"""The M step's loop: one network, one map of labels, a number of iterations; continues where it was killed."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from lightning_fabric import Fabric
from pydantic import Field, PositiveInt
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from scribbleseg.data.blocks import Window, channels_last, cut, with_neighbours
from scribbleseg.data.slices import FIXED, LAYERS, Slices, is_labelled
from scribbleseg.files import FileError
from scribbleseg.plural import number_of
from scribbleseg.signals import postponing
from scribbleseg.training.augment import Augment
from scribbleseg.training.batch import Batch
from scribbleseg.training.crf_loss import DenseCRFLoss
from scribbleseg.training.losses import Loss, PartialCrossEntropy, PartialDice, ScribblesAndAreas
from scribbleseg.training.network import NetworkModule, Outputs, set_batch_statistics
from scribbleseg.training.optimisers import SGD, Adam, CosineAdam
from scribbleseg.training.state import read_state, save_checkpoint
from scribbleseg.types import UNLABELLED, DataError

LOG_EVERY = 50
"""Iterations between two records of the loss."""

CHECKPOINT_EVERY = 250
"""Iterations between two checkpoints: at most this much work is done twice after a kill."""

AnyLoss = Annotated[PartialCrossEntropy | PartialDice | ScribblesAndAreas | DenseCRFLoss, Field(discriminator="kind")]
AnyOptimiser = Annotated[Adam | CosineAdam | SGD, Field(discriminator="kind")]


@dataclass(frozen=True)
class Training:
    """How one M step trains.

    Args:
        iterations: updates of the network.
        batch: slices, or blocks of slices, in one update on one device; 10 in the earlier code of Can et al.'s group.
        optimiser: with its learning-rate schedule.
        losses: their sum is minimised. Of outputs under deep supervision, each counts half of the one before it.
        ema_decay: that of an exponential moving average of the weights, which segments and relabels in the place of
            the last weights (Polyak & Juditsky 1992, doi:10.1137/0330046); 0 takes the last weights.
    """

    iterations: PositiveInt
    batch: Annotated[int, Field(gt=0, le=10000)] = 10
    optimiser: AnyOptimiser = Adam()
    losses: Annotated[tuple[AnyLoss, ...], Field(min_length=1)] = (PartialCrossEntropy(),)
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @property
    def needs(self) -> frozenset[str]:
        """The optional parts of a `Batch` that its losses look at."""
        return frozenset().union(*(loss.needs for loss in self.losses))


@dataclass(frozen=True)
class Course:
    """Where an M step stands in a training of several, and where it keeps its state.

    Args:
        checkpoint: written every 250 iterations, atomically; continued from if it exists (`state.settle_checkpoint`).
        log: called on rank 0 with {"iteration", "loss", "learning_rate", "images_per_second"} every 50 iterations.
        name: the title of the progress bar.
        start: iterations of the learning-rate schedule that M steps before this one have done.
        span: iterations of the schedule in all; None is those of this M step.
        before: the last checkpoint of the M step whose optimiser this one continues, or None.
    """

    checkpoint: Path
    log: Callable[[dict[str, Any]], None]
    name: str = "Training"
    start: int = 0
    span: int | None = None
    before: Path | None = None


@dataclass(frozen=True)
class Source:
    """The slices that an M step learns from, or the blocks of slices around them.

    Args:
        slices: the cache.
        labels: index of the map of labels in it.
        only_structures: whether slices in whose scribbles no structure is drawn are left out.
        patch: side of a window that is cut out of each slice around a labelled pixel; None is the whole slice.
        neighbours: so many slices below and above are further channels of the image.
        depth: the number of slices in a block around a labelled pixel, for a 3-D network; None is single slices.
    """

    slices: Slices
    labels: int | str
    only_structures: bool = False
    patch: int | None = None
    neighbours: int = 0
    depth: int | None = None

    def usable(self) -> np.ndarray:
        """The slices with a label. Raises DataError where there is none."""
        usable = self.slices.places(is_labelled, self.slices.layer("labels", self.labels))
        if self.only_structures:
            drawn = self.slices.places(lambda labels: is_labelled(labels) & (labels > 0), self.slices.scribbles)
            usable = np.intersect1d(usable, drawn)
        if not len(usable):
            what = "structures in the scribbles of some slice" if self.only_structures else "labelled pixels"
            raise DataError(
                f"expected {what} to train on, found none in {number_of(len(self.slices), 'slice')}; draw some"
            )
        return usable

    def window(self, index: int, rng: np.random.Generator) -> Window:
        """What to cut out around a pixel of one of the labels of a usable slice, each label being as likely.

        A block has its slices anywhere around that one; it lies within the case where the case has as many slices.
        """
        size = int(self.slices.index["shape"][-1])
        rows = columns = slice(0, size)
        if self.patch is not None and self.patch < size:
            labels = self.slices.layer("labels", self.labels)[index]
            label = rng.choice(np.setdiff1d(labels, UNLABELLED))
            seen = rng.choice(np.argwhere(labels == label))
            start = np.clip(seen - rng.integers(0, self.patch, 2), 0, size - self.patch)
            rows, columns = (slice(int(first), int(first) + self.patch) for first in start)
        case = self.slices.rows_of(index)
        if self.depth is None:
            return Window(case, range(index, index + 1), (rows, columns))
        ends = sorted((case.start, case.stop - self.depth))
        first = int(np.clip(index - rng.integers(self.depth), *ends))
        return Window(case, range(first, first + self.depth), (rows, columns))

    def read(self, kind: str, windows: Sequence[Window]) -> np.ndarray:
        """The parts of a layer that lie in windows: `window [values] [depth] height width`.

        Beyond the case nothing is labelled; its last slice is repeated in the images, as `predict` does.
        """
        layer = self.slices.layer(kind, None if kind in FIXED else self.labels)
        if self.neighbours and kind == "images":
            values = np.stack([with_neighbours(layer, window, self.neighbours) for window in windows])
        else:
            blocks = np.stack([cut(layer, window, LAYERS[kind].outside) for window in windows])
            values = blocks[:, 0] if self.depth is None else np.ascontiguousarray(np.moveaxis(blocks, 1, -3))
        return values.astype(np.float32) if values.dtype == np.float16 else values


class Batches:
    """The batches of an M step by the number of the iteration, read from the cache and augmented.

    Slices come in random orders of all that have a label, one order after the other, cut into batches and dealt to
    ranks. Every random number of an iteration (slices, augmentation, and dropout after it) comes from a seed made of
    `stream` and the iteration's number, so that a run that was killed and continues is the same.

    Args:
        source: the slices.
        augment: applied to every batch; None leaves batches as they are.
        stream: the run's seed and the number of the M step.

    Raises:
        DataError: no slice has a label.
    """

    def __init__(self, source: Source, augment: Augment | None, stream: tuple[int, int]) -> None:
        self.source, self.augment, self.stream = source, augment, stream
        self.usable = source.usable()
        self._order = lru_cache(2)(lambda n: np.random.default_rng((*stream, n)).permutation(len(self.usable)))

    def __call__(self, iteration: int, training: Training, fabric: Fabric) -> Batch:
        """The batch of an iteration on this rank's device. Sets torch's seed."""
        torch.manual_seed(_mix(*self.stream, iteration, fabric.global_rank))
        positions = np.arange(training.batch) + (iteration * fabric.world_size + fabric.global_rank) * training.batch
        n = len(self.usable)
        chosen = [int(self.usable[self._order(p // n)[p % n]]) for p in positions]
        rng = np.random.default_rng((*self.stream, iteration, fabric.global_rank, 0))
        windows = [self.source.window(index, rng) for index in chosen]
        arrays = {
            kind: self.source.read(kind, windows) for kind in ("images", "labels", *sorted(training.needs - {"clean"}))
        }
        if "scribbles" in arrays:  # a stroke on padding or on air is nothing to learn from
            inside = self.source.read("inside", windows)
            arrays["scribbles"] = np.where(inside, arrays["scribbles"], np.uint8(UNLABELLED))
        parts = {kind: fabric.to_device(torch.from_numpy(array)) for kind, array in arrays.items()}
        if "clean" in training.needs:
            parts["clean"] = parts["images"]
        return self.augment(Batch(**parts)) if self.augment else Batch(**parts)


def m_step(network: NetworkModule, training: Training, *, batches: Batches, fabric: Fabric, course: Course) -> None:
    """Train `network` in place on the labelled pixels; slices without any are left out.

    A run that was killed and continues from its checkpoint ends, on a CPU, with the same weights as one that was not.
    Ctrl-C and the other signals of `scribbleseg.signals` stop it after an iteration, with a checkpoint; a second one at
    once, without.

    Args:
        network: maps images to logits.
        training: iterations, optimiser and losses.
        batches: what it learns from.
        fabric: devices; each rank trains on its own batches and gradients are averaged.
        course: checkpoint, log and learning-rate schedule.

    Raises:
        DataError: if the loss is no longer finite, or the checkpoint is of another network; it is kept.
    """
    channels_last(network)
    optimisers = _Optimisers(network, training, course)
    model, *optimisers.parts = fabric.setup(network, *optimisers.parts)
    ema = _ema_of_weights(network, training.ema_decay)
    first, losses = _restore(network, optimisers, ema, course)
    model.train()
    record = _Record(training, fabric, losses)
    with postponing() as asked_to_stop, _progress(disable=not fabric.is_global_zero) as progress:
        bar = progress.add_task(course.name, total=training.iterations, completed=first, loss="")
        for iteration in range(first, training.iterations):
            optimisers.freeze_others(iteration)
            batch = batches(iteration, training, fabric)
            outputs = model(channels_last(batch.images))
            loss = objective(outputs, batch, training.losses)
            model.zero_grad()
            fabric.backward(loss)
            learning_rate = optimisers.step(iteration)
            if ema is not None:
                ema.update_parameters(network)
            done = iteration + 1
            record.add(loss)
            if done % LOG_EVERY == 0 or done == training.iterations:
                values = record.mean(done, learning_rate)
                progress.update(bar, loss=f"loss {values['loss']:.4f}")
                if fabric.is_global_zero:
                    course.log(values)
            stops = asked_to_stop()
            if fabric.is_global_zero and (stops or done % CHECKPOINT_EVERY == 0 or done == training.iterations):
                weights = {"network": network.state_dict()} | ({} if ema is None else {"ema": ema.state_dict()})
                state = {"iteration": done, "losses": [float(each) for each in record.losses], **optimisers.state()}
                save_checkpoint(course.checkpoint, state | weights)
            progress.update(bar, completed=done)
            if stops:
                break  # the block raises KeyboardInterrupt
    if ema is not None:
        network.load_state_dict(ema.module.state_dict())


def objective(outputs: Outputs, batch: Batch, losses: Sequence[Loss]) -> Tensor:
    """The sum of the losses; of several outputs their mean, each counting half of the one before it."""
    each = outputs if isinstance(outputs, tuple) else (outputs,)
    shares = [0.5**n for n in range(len(each))]
    parts = [
        share / sum(shares) * loss(logits, batch) for share, logits in zip(shares, each, strict=True) for loss in losses
    ]
    return sum(parts[1:], parts[0])


def _ema_of_weights(network: NetworkModule, decay: float) -> AveragedModel | None:
    """The exponential moving average of weights and batch statistics, or None where there is to be none.

    At first it forgets faster, so that it does not keep the weights that the training began with.
    """
    if not decay:
        return None

    @torch.no_grad()
    def move(means: Sequence[Tensor], weights: Sequence[Tensor], updates: Tensor | int) -> None:
        kept = min(decay, (1 + int(updates)) / (10 + int(updates)))
        for mean, weight in zip(means, weights, strict=True):
            if mean.is_floating_point():
                mean.lerp_(weight, 1 - kept)
            else:  # counts of batches
                mean.copy_(weight)

    return AveragedModel(network, multi_avg_fn=move, use_buffers=True)


class _Optimisers:
    """One optimiser for each part of the network that is trained by turns, and the learning-rate schedule."""

    def __init__(self, network: NetworkModule, training: Training, course: Course) -> None:
        turns = network.turns
        self.training, self.start, self.span = training, course.start, course.span or training.iterations
        self.modules = [module for module, _, _ in turns]
        self.rates = [rate for _, rate, _ in turns]
        self.turn_of = [turn for turn, (_, _, updates) in enumerate(turns) for _ in range(updates)]
        self.parts: Sequence[Any] = [
            training.optimiser.build(module, rate or training.optimiser.learning_rate) for module, rate, _ in turns
        ]

    def _turn(self, iteration: int) -> int:
        return self.turn_of[(self.start + iteration) % len(self.turn_of)]

    def freeze_others(self, iteration: int) -> None:
        """Keep the batch statistics of the parts whose turn it is not: frozen, they use their running ones."""
        if len(self.modules) > 1:
            turn = self._turn(iteration)
            for part, module in enumerate(self.modules):
                set_batch_statistics(module, moving=part == turn)

    def step(self, iteration: int) -> float:
        """Update the part whose turn it is; returns the learning rate of the recipe's own schedule.

        A part with a learning rate of its own keeps it: the schedule is that of the others.
        """
        turn = self._turn(iteration)
        scheduled = self.training.optimiser.learning_rate * self.training.optimiser.factor(
            self.start + iteration, self.span
        )
        for group in self.parts[turn].param_groups:
            group["lr"] = scheduled if self.rates[turn] is None else self.rates[turn]
        self.parts[turn].step()
        return scheduled

    def state(self) -> dict[str, Any]:
        return {f"optimiser_{turn}": part.state_dict() for turn, part in enumerate(self.parts)}

    def load(self, state: dict[str, Any]) -> None:
        for turn, part in enumerate(self.parts):
            own = [{k: v for k, v in group.items() if k != "params"} for group in part.param_groups]
            part.load_state_dict(state[f"optimiser_{turn}"])
            # The moments go on; the settings are this stage's, not those of the one before.
            for group, settings in zip(part.param_groups, own, strict=True):
                group.update(settings)


def _restore(
    network: NetworkModule, optimisers: _Optimisers, ema: AveragedModel | None, course: Course
) -> tuple[int, list[float]]:
    """Go on from the checkpoint, if there is one, else from where the M step before stopped.

    Returns:
        The first iteration, and the losses of those before it that are not recorded.
    """
    goes_on = course.checkpoint.exists()
    path = course.checkpoint if goes_on else course.before
    if path is None:
        return 0, []
    state = read_state(path, {"iteration": int, "network": dict})
    try:
        network.load_state_dict(state["network"])
        optimisers.load(state)
        if ema is not None and "ema" in state:
            ema.load_state_dict(state["ema"])
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = (str(error).splitlines() or [""])[-1].strip()
        raise FileError(
            path,
            f"expected the state of a training of this network, found that of another ({reason})",
            f"delete {path.parent} and go on with `train --resume`, which trains it anew",
        ) from error
    return (state["iteration"], state.get("losses", [])) if goes_on else (0, [])


class _Record:
    """The losses since the last record, some of which may be from before a kill, and the time."""

    def __init__(self, training: Training, fabric: Fabric, losses: Sequence[float]) -> None:
        self.training, self.images = training, training.batch * fabric.world_size
        self.losses: list[Tensor] = [torch.tensor(loss, device=fabric.device) for loss in losses]
        self.before, self.started = len(losses), time.perf_counter()

    def add(self, loss: Tensor) -> None:
        self.losses.append(loss.detach())

    def mean(self, iteration: int, learning_rate: float) -> dict[str, Any]:
        """The record of these iterations, and a new beginning. Raises DataError where the loss is not finite."""
        loss = round(float(torch.stack(self.losses).mean()), 5)
        if not math.isfinite(loss):
            raise DataError(
                f"expected a finite loss, got {loss} by iteration {iteration}: the training has diverged; lower "
                f"the learning rate (stages.optimiser.learning_rate, now {self.training.optimiser.learning_rate:g})"
            )
        speed = (len(self.losses) - self.before) * self.images / (time.perf_counter() - self.started)
        self.losses, self.before, self.started = [], 0, time.perf_counter()
        values = {"iteration": iteration, "loss": loss, "learning_rate": learning_rate}
        return values | {"images_per_second": round(speed, 1)}


def _mix(*numbers: int) -> int:
    """One well-mixed 63-bit seed from several small numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1


def _progress(disable: bool) -> Progress:
    loss = TextColumn("{task.fields[loss]}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), loss)
    return Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), disable=disable)
