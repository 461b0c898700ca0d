"""The dense CRF loss: time and memory of value and gradient, and their error, beside the plain double sum and a U-Net.

One thread, by CPU time where there is no GPU. Slices are synthetic: an oval brain of blurred noise at two scales, 0
outside, four channels of which three are compared; probabilities are blurred noise, too. The peer is the definition,
written in torch as one array of all pairs and left to autograd. Both, and a training step (forward and backward) of the
compact U-Net on the same batch, are measured in turn.

    python benchmarks/crf_loss.py

`--paper` adds the loss on 32 slices of 192 x 192 without averaging (scale 1), which takes a CPU about a minute.
"""

import argparse
import ctypes
import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.ndimage import gaussian_filter as blur
from torch import Tensor
from torch.nn import functional

from scribbleseg.training.batch import Batch
from scribbleseg.training.crf_loss import DenseCRFLoss
from scribbleseg.training.unet import UNet

CHANNELS, LABELS = 4, 2
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def batch_of(slices: int, side: int) -> tuple[Tensor, Tensor]:
    """Logits and images, float32, of a field of view of 192 mm."""
    random = np.random.default_rng(0)

    def field(count: int, sigma_mm: float) -> np.ndarray:
        noise = random.normal(size=(slices, count, side, side))
        smooth = blur(noise, (0, 0, sigma_mm * side / 192, sigma_mm * side / 192))
        return smooth / smooth.std()

    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    brain = (x / 0.7) ** 2 + (y / 0.85) ** 2 < 1
    images = (0.9 * field(CHANNELS, 8) + 0.4 * field(CHANNELS, 1.5)) * brain
    logits = 2 * field(LABELS, 8)
    return tuple(torch.from_numpy(a.astype(np.float32)).to(DEVICE) for a in (logits, images))  # type: ignore[return-value]


def double_sum(loss: DenseCRFLoss, logits: Tensor, images: Tensor) -> Tensor:
    """The definition, all pairs of a slice in one array."""
    y = functional.avg_pool2d(logits.softmax(1), loss.scale).flatten(2)
    pooled = functional.avg_pool2d(images[:, list(loss.channels)], loss.scale)
    axes = [torch.arange(n).to(pooled) * (loss.scale / loss.sigma_space) for n in pooled.shape[2:]]
    position = torch.stack(torch.meshgrid(*axes, indexing="ij")).expand(len(pooled), -1, -1, -1)
    features = torch.cat([position, pooled / loss.sigma_intensity], 1).flatten(2).transpose(1, 2)
    affinity = torch.cdist(features, features).square_().mul_(-0.5).exp_()
    return loss.alpha * (y * ((1 - y) @ affinity)).sum() / affinity.numel()


def ours(loss: DenseCRFLoss, logits: Tensor, images: Tensor) -> Tensor:
    """The loss as training calls it, on slices that show an image everywhere."""
    everywhere = torch.ones_like(images[:, 0], dtype=torch.bool)
    labels = torch.zeros_like(images[:, 0], dtype=torch.uint8)  # it does not look at them
    return loss(logits, Batch(images, labels, clean=images, inside=everywhere))


def value_and_gradient(
    loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, images: Tensor
) -> tuple[float, Tensor]:
    logits = logits.detach().requires_grad_()
    value = loss(logits, images)
    (gradient,) = torch.autograd.grad(value, logits)
    return float(value.detach()), gradient


def seconds(work: Callable[[], object]) -> float:
    """On a CPU the process's own time, which other processes disturb least."""
    clock = time.perf_counter if DEVICE == "cuda" else time.process_time
    start = clock()
    work()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def peak_mib(work: Callable[[], object]) -> float:
    """Above what is held already; on a CPU Linux's high-water mark of resident memory, set back first."""
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        work()
        return round((torch.cuda.max_memory_allocated() - held) / 2**20, 1)

    def resident(what: str) -> int:
        line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(what))
        return int(line.split()[1])

    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    held = resident("VmRSS")
    work()
    return round((resident("VmHWM") - held) / 2**10, 1)


def measure(loss: DenseCRFLoss, slices: int, side: int, rounds: int, peer: bool) -> dict[str, float]:
    logits, images = batch_of(slices, side)
    network = UNet(base=16, padded=True).build(CHANNELS, LABELS).to(DEVICE)

    def step() -> None:
        network(images).square().mean().backward()

    work: dict[str, Callable[[], object]] = {"unet": step}
    if peer:
        work["peer"] = lambda: value_and_gradient(partial(double_sum, loss), logits, images)
    work["ours"] = lambda: value_and_gradient(partial(ours, loss), logits, images)
    figures = {f"{name}_mib": peak_mib(each) for name, each in reversed(work.items())}  # the first call of each
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, each in work.items():
            times[name].append(seconds(each))
    figures |= {f"{name}_ms": 1e3 * median(t) for name, t in times.items()}
    figures["of_unet_step"] = figures["ours_ms"] / figures["unet_ms"]
    if peer:
        figures["speed"] = figures["peer_ms"] / figures["ours_ms"]
        (value, gradient), (exact, exactly) = (
            value_and_gradient(partial(ours, loss), logits, images),
            value_and_gradient(partial(double_sum, loss), logits.double(), images.double()),
        )
        figures["value_error"] = abs(value / exact - 1)
        figures["gradient_error"] = float((gradient - exactly).norm() / exactly.norm())
    return {key: float(f"{value:.3g}") for key, value in figures.items()}


def of_averaging(loss: DenseCRFLoss, side: int) -> dict[str, float]:
    """What averaging over 2 x 2 pixels does to one slice's value and gradient; pooled: after the same averaging."""
    logits, images = batch_of(1, side)
    value, gradient = value_and_gradient(partial(ours, replace(loss, scale=1)), logits, images)
    halved, coarse = value_and_gradient(partial(ours, replace(loss, scale=2)), logits, images)
    pooled, pooled_coarse = functional.avg_pool2d(gradient, 2), functional.avg_pool2d(coarse, 2)
    figures = {
        "value": abs(halved / value - 1),
        "gradient": float((coarse - gradient).norm() / gradient.norm()),
        "gradient_pooled": float((pooled_coarse - pooled).norm() / pooled.norm()),
    }
    return {key: float(f"{error:.2g}") for key, error in figures.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="two slices, one round")
    parser.add_argument("--paper", action="store_true", help="also 32 slices of 192 x 192 at scale 1")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    mm = DenseCRFLoss()  # its distances are pixels of 1 mm
    compact = replace(mm, sigma_space=mm.sigma_space / 2, scale=2)  # the same distances, pixels of 2 mm
    rounds = 1 if arguments.quick else arguments.rounds
    cases = [(compact, 10, 96, rounds, True), (replace(mm, scale=2), 32, 192, min(rounds, 2), False)]
    if arguments.paper or DEVICE == "cuda":
        cases.append((mm, 32, 192, 1, False))
    result = {}
    for loss, slices, side, repeats, peer in cases:
        slices = 2 if arguments.quick else slices
        result[f"{slices} x {side} x {side}, scale {loss.scale}"] = measure(loss, slices, side, repeats, peer)
    averaging = of_averaging(mm, 96 if arguments.quick else 192)
    report(result)
    print(json.dumps({"benchmark": "crf_loss", "device": DEVICE, **result, "error_of_scale_2": averaging}))


def report(result: dict[str, dict[str, float]]) -> None:
    columns = ["ours_ms", "peer_ms", "unet_ms", "ours_mib", "peer_mib", "unet_mib", "value_error", "gradient_error"]
    table = Table("", *(c.replace("_", " ") for c in columns), box=None)
    for name, figures in result.items():
        table.add_row(name, *(f"{figures[c]:.3g}" if c in figures else "" for c in columns))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
