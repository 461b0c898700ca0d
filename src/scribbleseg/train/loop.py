"""The M step's loop: one network, one map of labels, a number of iterations; continues where it was killed."""

import io
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from lightning_fabric import Fabric
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pydantic import Field, PositiveFloat, PositiveInt
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import nn

from scribbleseg.data.volumes import atomically
from scribbleseg.train.augment import Augment
from scribbleseg.train.losses import PartialCrossEntropy, ScribblesAndAreas
from scribbleseg.types import UNLABELLED, DataError

LOG_EVERY = 50
"""Iterations between two records of the loss."""

POOLED = PartialCrossEntropy()

CHECKPOINT_EVERY = 250
"""Iterations between two checkpoints: at most this much work is done twice after a kill."""


@dataclass(frozen=True)
class Training:
    """How one M step trains (Can et al. 2018, section 3: Adam at 0.001, times 0.9 every 3000 iterations).

    Args:
        batch: slices in one update on one device; 10 in the group's earlier code.
        learning_rate: of Adam.
        decay: factor on the learning rate ...
        decay_every: ... every so many iterations.
        iterations: of the first M step.
        iterations_again: of each later one, which starts from the last network's weights.
    """

    kind: Literal["adam"] = "adam"
    batch: PositiveInt = 10
    learning_rate: PositiveFloat = 0.001
    decay: PositiveFloat = 0.9
    decay_every: PositiveInt = 3000
    iterations: PositiveInt = 12000
    iterations_again: PositiveInt = 6000

    def optimiser(self, part: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
        """Of a part of the network."""
        return torch.optim.Adam(part.parameters(), learning_rate)

    def factor(self, iteration: int, iterations: int) -> float:
        """On the learning rate of an iteration, counted from 0."""
        return self.decay ** (iteration // self.decay_every)


@dataclass(frozen=True)
class SGD:
    """How one M step trains with momentum and a rate that falls linearly to 0 (Ji et al. 2019, arXiv:1911.02014).

    Args:
        batch: slices in one update on one device; 32 in the paper.
        learning_rate: the first iteration's; 0.01 is our reading of the paper's "0.011".
        momentum: 0.9 in the paper.
        iterations: of the first M step; 10k in the paper.
        iterations_again: of each later one, from `learning_rate` down to 0 again; 20k in the paper, with its CRF loss.
    """

    kind: Literal["sgd"] = "sgd"
    batch: PositiveInt = 32
    learning_rate: PositiveFloat = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    iterations: PositiveInt = 10000
    iterations_again: PositiveInt = 20000

    def optimiser(self, part: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
        """Of a part of the network."""
        return torch.optim.SGD(part.parameters(), learning_rate, momentum=self.momentum)

    def factor(self, iteration: int, iterations: int) -> float:
        """On the learning rate of an iteration, counted from 0."""
        return 1 - iteration / iterations


def make_fabric(accelerator: str = "auto", devices: int = 1, nodes: int = 1) -> Fabric:
    """Where training and prediction run: the same code on a CPU, one GPU, or many on several nodes.

    Computes in bfloat16 where the hardware has it, with float32 weights; else in float32.
    """
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    strategy = "ddp" if devices * nodes > 1 else "auto"
    precision = "bf16-mixed" if _has_bf16(accelerator) else "32-true"
    try:
        return Fabric(
            accelerator=accelerator,
            devices=devices,
            num_nodes=nodes,
            strategy=strategy,
            precision=precision,  # type: ignore[arg-type]
        )
    except (RuntimeError, ValueError, MisconfigurationException) as error:
        raise DataError(
            f"expected an accelerator of this machine (cpu, cuda, mps or auto) and as many devices as it has, got "
            f"{accelerator!r} and {devices} on {nodes} node(s): {error}"
        ) from error


def _has_bf16(accelerator: str) -> bool:
    if accelerator != "cpu" and torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    get_capabilities = getattr(torch.cpu, "get_capabilities", None)  # older torch has none: float32 then
    return get_capabilities is not None and any(
        get_capabilities().get(name) for name in ("avx512_bf16", "amx_bf16", "amx_tile", "arm_bf16")
    )


def m_step(
    fabric: Fabric,
    network: nn.Module,
    images: Float32[np.ndarray, "slice channel size size"],
    labels: UInt8[np.ndarray, "slice size size"],
    training: Training | SGD,
    augment: Augment,
    iterations: int,
    stream: tuple[int, int],
    checkpoint: Path,
    log: Callable[[dict], None],
    loss: PartialCrossEntropy | ScribblesAndAreas = POOLED,
    scribbles: UInt8[np.ndarray, "slice size size"] | None = None,
    crf: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
) -> None:
    """Train `network` in place on the labelled pixels.

    Slices without any labelled pixel are left out. Every random number of an iteration (slices, augmentation,
    dropout) comes from a seed made of `stream` and the iteration's number, so that a run that was killed and
    continues from `checkpoint` ends, on a CPU, with the same weights as one that was not.

    Args:
        fabric: devices; each rank trains on its own batches and gradients are averaged.
        network: maps images to logits.
        images: may be memory-mapped.
        labels: may be memory-mapped.
        training: batch and learning rate.
        augment: applied to every batch.
        iterations: updates in all.
        stream: the run's seed and the recursion's number.
        checkpoint: written every 250 iterations, atomically; continued from if it exists.
        log: called on rank 0 with {"iteration", "loss", "learning_rate", "images_per_second"} every 50 iterations.
        loss: of the labels.
        scribbles: the part of `labels` that was drawn, for a loss that `sees_scribbles`.
        crf: added to the loss: of logits and images.

    Raises:
        ValueError: if no slice has a label.
        DataError: if the loss is no longer finite; the last checkpoint is kept.
    """
    maps = [labels, scribbles] if loss.sees_scribbles and scribbles is not None else [labels]
    usable = np.flatnonzero((labels != UNLABELLED).any(axis=(1, 2)))
    if not len(usable):
        raise ValueError(f"expected labelled pixels to train on, found none in {len(labels)} slices")
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    turns = getattr(network, "turns", ((network, None, 1),))  # several where parts are trained by turns
    rates = [training.learning_rate if rate is None else rate for _, rate, _ in turns]
    turn_of = [turn for turn, (_, _, updates) in enumerate(turns) for _ in range(updates)]
    optimisers = [training.optimiser(part, lr) for (part, _, _), lr in zip(turns, rates, strict=True)]
    model, *optimisers = fabric.setup(network, *optimisers)
    parts = {"network": network, **{f"optimiser_{turn}": each for turn, each in enumerate(optimisers)}}
    first = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        first = state["iteration"]
        for name, part in parts.items():
            part.load_state_dict(state[name])
    model.train()
    batches = _Batches(usable, training.batch, fabric.world_size, fabric.global_rank, stream)
    losses: list[torch.Tensor] = []
    started = time.perf_counter()
    with _progress(disable=not fabric.is_global_zero) as progress:
        bar = progress.add_task(f"Training {stream[1]}", total=iterations, completed=first, loss="")
        for iteration in range(first, iterations):
            torch.manual_seed(_mix(*stream, iteration, fabric.global_rank))
            chosen = batches(iteration)
            batch = images[chosen], np.stack([each[chosen] for each in maps], axis=1)
            x, y = augment(*(fabric.to_device(torch.from_numpy(array)) for array in batch))
            logits = model(x.contiguous(memory_format=torch.channels_last))
            objective = loss(logits, *y.unbind(1))
            if crf is not None:
                objective = objective + crf(logits, x)
            model.zero_grad()
            fabric.backward(objective)
            turn, decay = turn_of[iteration % len(turn_of)], training.factor(iteration, iterations)
            for group in optimisers[turn].param_groups:
                group["lr"] = rates[turn] * decay
            optimisers[turn].step()
            losses.append(objective.detach())
            done = iteration + 1
            if done % LOG_EVERY == 0 or done == iterations:
                record = {
                    "iteration": done,
                    "loss": round(float(torch.stack(losses).mean()), 5),
                    "learning_rate": training.learning_rate * decay,
                    "images_per_second": round(
                        len(losses) * training.batch * fabric.world_size / (time.perf_counter() - started), 1
                    ),
                }
                if not math.isfinite(record["loss"]):
                    raise DataError(
                        f"expected a finite loss, got {record['loss']} by iteration {done}: the "
                        f"training has diverged; lower training.learning_rate (now {training.learning_rate:g})"
                    )
                losses, started = [], time.perf_counter()
                progress.update(bar, loss=f"loss {record['loss']:.4f}")
                if fabric.is_global_zero:
                    log(record)
            if fabric.is_global_zero and (done % CHECKPOINT_EVERY == 0 or done == iterations):
                save_state(checkpoint, {"iteration": done, **{name: part.state_dict() for name, part in parts.items()}})
            progress.update(bar, completed=done)


class _Batches:
    """Slices of each iteration: random orders of all of them one after the other, cut into batches, dealt to ranks."""

    def __init__(self, usable: np.ndarray, batch: int, ranks: int, rank: int, stream: tuple[int, int]) -> None:
        self.usable, self.batch, self.ranks, self.rank = usable, batch, ranks, rank
        self.order = lru_cache(2)(
            lambda epoch: np.random.default_rng((*stream, epoch)).permutation(len(usable)),
        )

    def __call__(self, iteration: int) -> np.ndarray:
        positions = np.arange(self.batch) + (iteration * self.ranks + self.rank) * self.batch
        return np.array([self.usable[self.order(p // len(self.usable))[p % len(self.usable)]] for p in positions])


def _mix(*numbers: int) -> int:
    """One well-mixed 63-bit seed from several small numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def save_state(path: Path, state: dict) -> None:
    """Write tensors and plain values as a whole or not at all. Raises DataError where they cannot be written."""
    buffer = io.BytesIO()  # torch.save itself hides why a file could not be written
    torch.save(state, buffer)
    with atomically(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def _progress(disable: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        disable=disable,
    )
