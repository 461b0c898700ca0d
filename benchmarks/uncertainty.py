"""50 passes with dropout by `relabel.predict.sample`, beside 50 plain forward passes of the same network.

The plain side is the loop anyone would write: torch's own dropout, all logits stacked, their mean and variance, no
entropies. That the moments are the same is measured with the same masks. The network is the compact U-Net, trained for
a little on synthetic hearts, so that it is sure of some pixels and unsure of others. Times are CPU times of the process
on one thread, both sides in turn: they hold on a machine that has other work to do.

It also asks which score of a case, from the same samples, ranks cases by their Dice, for `relabel.uncertainty.rank`.

    python benchmarks/uncertainty.py
"""

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from lightning_fabric import Fabric
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr
from torch import nn

from scribbleseg.data.intensities import normalise
from scribbleseg.phantoms import heart
from scribbleseg.recipes import can2018
from scribbleseg.relabel.decide import WelchTest, welch_p
from scribbleseg.relabel.predict import BATCH, sample
from scribbleseg.training.loop import Batches, Course, Source, m_step
from scribbleseg.training.unet import Dropout
from scribbleseg.types import UNLABELLED
from throughput import cached

RECIPE = can2018.COMPACT_BASE
TEST = WelchTest()
LABELS = 4
FIELD_MM = 200.0
SLICES = {96: 16, 208: 4}
"""By their side in pixels: about the same work each."""

BASELINE = "plain, float32"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="10 passes, once, of a network that is hardly trained")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    passes, iterations, repeats = (10, 5, 1) if arguments.quick else (TEST.passes, 160, arguments.repeats)
    torch.set_num_threads(1)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    console = Console(width=120)
    figures: dict = {"benchmark": "uncertainty", "passes": passes, "iterations": iterations, "repeats": repeats}
    for side, slices in SLICES.items():
        network = train(*hearts(side, volumes=4, seed=0), iterations)
        images = hearts(side, volumes=2, seed=1)[0]
        images = images[:: len(images) // slices]
        seconds = measure(network, images, passes, repeats)
        table = Table(f"{slices} slices of {side} x {side}", "CPU s", "times as fast, pair by pair", box=None)
        speed_ups = {}
        for name, values in seconds.items():
            ratios = [plain / own for plain, own in zip(seconds[BASELINE], values, strict=True)]
            speed_ups[name] = round(median(ratios), 2)
            table.add_row(
                name, f"{median(values):.2f}", f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            )
        console.print(table)
        differences = compare(network, images, passes)
        for name, value in differences.items():
            console.print(f"{name.replace('_', ' ')}: {value:.2g}")
        figures[f"{side}"] = {"speed_up": speed_ups} | {name: float(f"{v:.3g}") for name, v in differences.items()}
        if side == 96:
            figures["spearman_with_dice"] = judge_rankings(network, side, 2 if arguments.quick else 24, passes)
            for name, value in figures["spearman_with_dice"].items():
                console.print(f"rank correlation of Dice with {name.replace('_', ' ')}: {value:.2f}")
    print(json.dumps(figures))


def hearts(side: int, volumes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images `slice channel side side` and their labels `slice side side`, eight slices a volume."""
    rng = np.random.default_rng(seed)
    pairs = [heart(rng, (8, side, side), (10.0, FIELD_MM / side, FIELD_MM / side)) for _ in range(volumes)]
    images = np.concatenate([normalise(image[None]).swapaxes(0, 1) for image, _ in pairs])
    return images, np.concatenate([labels for _, labels in pairs])


def train(images: np.ndarray, labels: np.ndarray, iterations: int) -> nn.Module:
    """The compact U-Net with the paper's dropout, on batches of about ten slices of 96 x 96."""
    torch.manual_seed(0)
    network = replace(RECIPE.network, dropout=0.5).build(1, LABELS)
    batch = max(2, round(10 * (96 / images.shape[-1]) ** 2))
    stage = replace(RECIPE.stages[0], iterations=iterations, batch=batch)
    with tempfile.TemporaryDirectory() as scratch:
        batches = Batches(Source(cached(Path(scratch) / "slices", images[:, 0], labels), 0), RECIPE.augment, (0, 0))
        course = Course(Path(scratch) / "m_step.ckpt", lambda record: None)
        m_step(network, stage, batches=batches, fabric=fabric("bf16-mixed"), course=course)
    return network.eval()


def fabric(precision) -> Fabric:
    return Fabric(accelerator="cpu", devices=1, precision=precision)


def measure(network: nn.Module, images: np.ndarray, passes: int, repeats: int) -> dict[str, list[float]]:
    """CPU seconds of each way, in turn."""
    torchs = with_torchs_dropout(network)
    ways: dict[str, Callable] = {
        BASELINE: partial(plain, fabric("32-true"), torchs),
        "plain, float32, our dropout": partial(plain, fabric("32-true"), network),
        "plain, bfloat16": partial(plain, fabric("bf16-mixed"), torchs),
        "sample, float32": partial(sample, fabric("32-true"), network),
        "sample, bfloat16": partial(sample, fabric("bf16-mixed"), network),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way(images, passes=2, seed=0)  # warms up
    for repeat in range(repeats):
        for name, way in ways.items():
            started = time.process_time()
            way(images, passes=passes, seed=repeat)
            seconds[name].append(time.process_time() - started)
    return seconds


def with_torchs_dropout(network: nn.Module) -> nn.Module:
    network = deepcopy(network)
    for block in network.modules():
        if isinstance(block, nn.Sequential) and isinstance(block[-1], Dropout):
            block[-1] = nn.Dropout(block[-1].p)
    return network


@torch.inference_mode()
def plain(fabric: Fabric, network: nn.Module, images: np.ndarray, passes: int, seed: int):
    """Mean and variance of the logits of plain passes, which draw their masks in the order in which `sample` does."""
    network.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.train()
    torch.manual_seed(seed)
    moments = []
    with fabric.autocast():
        for batch in torch.from_numpy(images).contiguous(memory_format=torch.channels_last).split(BATCH):
            logits = torch.stack([network(batch).float() for _ in range(passes)])
            moments.append((logits.mean(dim=0), logits.var(dim=0)))
    return tuple(torch.cat(parts).numpy() for parts in zip(*moments, strict=True))


def compare(network: nn.Module, images: np.ndarray, passes: int) -> dict[str, float]:
    """What `sample` changes beside plain passes, and bfloat16 beside float32, and other masks for a scale."""
    mean, variance = plain(fabric("32-true"), network, images, passes, seed=0)
    ours = sample(fabric("32-true"), network, images, passes, seed=0)
    bf16 = sample(fabric("bf16-mixed"), network, images, passes, seed=0)
    others = sample(fabric("32-true"), network, images, passes, seed=1)
    decided, decided_bf16, decided_others = (TEST(s.probabilities, s) for s in (ours, bf16, others))
    return {
        "sd_of_a_logit_over_passes": float(np.sqrt(variance.mean())),
        "largest_change_of_a_mean_from_plain_same_masks": float(np.abs(ours.mean - mean).max()),
        "largest_change_of_a_variance_from_plain_same_masks": float(np.abs(ours.variance - variance).max()),
        "rms_change_of_means_bfloat16_same_masks": rms(bf16.mean - ours.mean),
        "rms_change_of_means_other_masks": rms(others.mean - ours.mean),
        "share_unlabelled": float((decided == UNLABELLED).mean()),
        "share_decided_otherwise_bfloat16_same_masks": float((decided_bf16 != decided).mean()),
        "share_decided_otherwise_other_masks": float((decided_others != decided).mean()),
    }


def judge_rankings(network: nn.Module, side: int, cases: int, passes: int) -> dict[str, float]:
    """Spearman's correlation of the mean Dice of a case's structures with scores that could rank it: -1 is perfect.

    Every second case is noisier than any in training.
    """
    rng = np.random.default_rng(2)
    dice, scores = [], []
    for case in range(cases):
        images, truth = hearts(side, volumes=1, seed=100 + case)
        noise = rng.uniform(0.1, 1) * (case % 2) * rng.normal(size=images.shape)
        samples = sample(fabric("bf16-mixed"), network, (images + noise).astype(np.float32), passes, seed=case)
        labels, uncertain = samples.probabilities.argmax(axis=1), welch_p(samples) >= TEST.significance
        dice.append(np.mean([dice_of(labels == label, truth == label) for label in range(1, LABELS)]))
        looked_at = uncertain | (labels > 0)
        scores.append(
            {
                "entropy": samples.entropy[looked_at].mean(),
                "mutual_information": samples.mutual_information[looked_at].mean(),
                "uncertain_share": uncertain[looked_at].mean(),
                "entropy_of_all_voxels": samples.entropy.mean(),
                "mutual_information_of_all_voxels": samples.mutual_information.mean(),
            }
        )
    return {name: round(float(spearmanr(dice, [s[name] for s in scores])[0]), 2) for name in scores[0]}


def dice_of(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def rms(values: np.ndarray) -> float:
    return float(np.sqrt((values**2).mean()))


if __name__ == "__main__":
    main()
