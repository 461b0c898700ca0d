"""Training and prediction speed beside a bare PyTorch loop: what the memory map, augmentation and bookkeeping cost.

Both sides use the same compact U-Net on 96 x 96 slices in the same precision, in turn, in one process. The bare loop
has its batches in memory as tensors and does nothing but forward, backward, step (training) or forward (prediction).
Peak memory is that of a process of its own for each side.

    python benchmarks/throughput.py
"""

import argparse
import json
import re
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional

from scribbleseg.data.preprocess import Preprocess
from scribbleseg.data.slices import Slices, build_slices, open_slices
from scribbleseg.recipes import can2018
from scribbleseg.relabel.predict import BATCH, predict
from scribbleseg.training.hardware import make_fabric
from scribbleseg.training.loop import Batches, Course, Source, m_step
from scribbleseg.types import Case, Cases, Geometry

RECIPE = can2018.COMPACT_BASE
STAGE = RECIPE.stages[0]
SIDE, LABELS = 96, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="10 iterations and 64 slices instead of 100 and 400")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    iterations, slices = (10, 64) if arguments.quick else (100, 400)
    with tempfile.TemporaryDirectory() as scratch:
        data = make_data(Path(scratch), slices)
        sides = {"scribbleseg": (train, segment), "bare loop": (bare_train, bare_segment)}
        speeds: dict[str, dict[str, list[float]]] = {name: {"training": [], "prediction": []} for name in sides}
        for repeat in range(arguments.repeats + 1):  # the first warms up
            for name, (training, prediction) in sides.items():
                trained = timed(training, data, iterations) / (iterations * STAGE.batch)
                predicted = timed(prediction, data, iterations) / slices
                if repeat:
                    speeds[name]["training"].append(1 / trained)
                    speeds[name]["prediction"].append(1 / predicted)
        with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
            memory = {name: pool.submit(peak_memory, name, data, iterations).result() for name in sides}
    table = Table("", "training, slices/s", "prediction, slices/s", "peak memory, MB", box=None)
    figures: dict = {"benchmark": "throughput", "threads": torch.get_num_threads(), "iterations": iterations}
    for name in sides:
        medians = {what: round(median(values), 1) for what, values in speeds[name].items()}
        table.add_row(name, f"{medians['training']}", f"{medians['prediction']}", f"{memory[name]:.0f}")
        figures[name] = medians | {"peak_memory_mb": round(memory[name])}
    # Pair by pair, since the machine's own speed drifts.
    for what in ("training", "prediction"):
        ratios = [b / a for a, b in zip(speeds["scribbleseg"][what], speeds["bare loop"][what], strict=True)]
        figures[f"{what}_overhead"] = round(median(ratios) - 1, 3)
        table.add_row(
            f"overhead of {what}", f"{median(ratios) - 1:+.1%} (pairs {min(ratios) - 1:+.1%} to {max(ratios) - 1:+.1%})"
        )
    Console(width=120).print(table)
    print(json.dumps(figures))


def cached(folder: Path, images: np.ndarray, labels: np.ndarray) -> Slices:
    """Slices `slice height width` and their labels in a cache, as one case on its own grid."""
    case = Case("case", images[None], labels, Geometry(images.shape, np.eye(4)))
    slices = build_slices(Cases([case.name], lambda name: case), Preprocess(1.0, images.shape[-1]), folder)
    layer = slices.writable("labels", 0)
    layer[:] = labels
    layer.flush()
    slices.finish("labels", 0)
    return slices


def make_data(folder: Path, slices: int) -> tuple[Path, int]:
    """Random slices and labels in a cache."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(slices, SIDE, SIDE)).astype(np.float32)
    cached(folder / "slices", images, rng.integers(0, LABELS, images.shape, dtype=np.uint8))
    return folder, slices


def arrays(data: tuple[Path, int]) -> tuple[np.ndarray, np.ndarray]:
    """Images in memory, and memory-mapped labels."""
    slices = open_slices(data[0] / "slices")
    return slices.images(), slices.layer("labels", 0)


def network() -> torch.nn.Module:
    """The compact U-Net with the same weights every time."""
    torch.manual_seed(0)
    return RECIPE.network.build(1, LABELS).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def timed(function, data: tuple[Path, int], iterations: int) -> float:
    """Seconds of the part that the function yields around."""
    steps = function(data, iterations)
    next(steps)
    started = time.perf_counter()
    next(steps)
    return time.perf_counter() - started


def train(data, iterations):
    """Our M step: everything between its first and its last iteration, checkpoint at the end included."""
    fabric, module = make_fabric("cpu"), network()
    course = Course(data[0] / "m_step.ckpt", lambda record: None)
    course.checkpoint.unlink(missing_ok=True)
    batches = Batches(Source(open_slices(data[0] / "slices"), 0), RECIPE.augment, (0, 0))
    yield
    m_step(module, replace(STAGE, iterations=iterations), batches=batches, fabric=fabric, course=course)
    yield


def bare_train(data, iterations):
    """Forward, backward, Adam, on batches that are tensors already."""
    images, labels = (torch.from_numpy(np.array(a)) for a in arrays(data))
    batches = list(zip(images.split(STAGE.batch), labels.long().split(STAGE.batch), strict=True))
    batches = [(x.contiguous(memory_format=torch.channels_last), y) for x, y in batches if len(x) == STAGE.batch]
    module = network().train()
    optimiser = torch.optim.Adam(module.parameters(), STAGE.optimiser.learning_rate)
    yield
    for iteration in range(iterations):
        x, y = batches[iteration % len(batches)]
        with autocast():
            logits = module(x)
        loss = functional.cross_entropy(logits.float(), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    yield


def segment(data, iterations):
    """Our E step's pass: every slice read from the cache, and its probabilities."""
    slices = open_slices(data[0] / "slices")
    fabric, module = make_fabric("cpu"), network()
    yield
    predict(fabric, module, slices.images())
    yield


@torch.inference_mode()
def bare_segment(data, iterations):
    """Forward only, on batches that are tensors already."""
    batches = torch.from_numpy(np.array(arrays(data)[0])).split(BATCH)
    batches = [x.contiguous(memory_format=torch.channels_last) for x in batches]
    module = network().eval()
    yield
    for x in batches:
        with autocast():
            module(x)
    yield


def autocast():
    """The precision that our side chooses."""
    mixed = "bf16" in str(make_fabric("cpu")._precision.precision)
    return torch.autocast("cpu", torch.bfloat16) if mixed else nullcontext()


def peak_memory(name: str, data: tuple[Path, int], iterations: int) -> float:
    """MB at most in use by a process that only trains."""
    timed({"scribbleseg": train, "bare loop": bare_train}[name], data, iterations)
    # Not getrusage: there, Linux hands a parent's peak down to its children.
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]


if __name__ == "__main__":
    main()
