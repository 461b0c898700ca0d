"""Dense CRF beside pydensecrf2: time and error against exact all-pairs mean field, in one run.

Both start from the same unary energies and image, set-up included, 10 iterations, Potts, symmetric normalisation, in
turn. Unaries: the reference mask, softened ("confident"), and the same at 0.3 of its strength with noise of a logit's
standard deviation 1 ("noisy"). Exact: float64 mean field with kernels to 1e-8, whose filter is itself compared with
the plain double sum at 200 pixels. On ACDC where SCRIBBLESEG_DATA is set, else on phantoms of the same size.

    pip install 'scribbleseg[benchmark]'
    python benchmarks/crf.py
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from pydensecrf.densecrf import DenseCRF
from rich.console import Console
from rich.table import Table
from scipy.ndimage import gaussian_filter as blur

from scribbleseg.crf import gaussian_filter, mean_field
from scribbleseg.data import acdc
from scribbleseg.phantoms import heart

PATIENTS = (1, 22, 46)
LABELS, ITERATIONS, TOLERANCE = 4, 10, 1e-3


@dataclass(frozen=True)
class Kernels:
    """Of the model: bilateral (pixels an axis, intensity on [0, 1]) and spatial, and their weights (Can et al.)."""

    bilateral: tuple[float, ...]
    intensity: float
    spatial: tuple[float, ...]
    tolerance: float
    weights: tuple[float, float] = (5.0, 10.0)
    exact: str = "low_rank"


# Sigmas as in the recipes; in 3-D ours. Tolerances: for a mean error of 1e-5, in 3-D a thirtieth of the peer's.
SLICES = {
    "cardiac": Kernels((2, 2), 0.1, (5, 5), tolerance=2e-3),
    "CRF-RNN": Kernels((160, 160), 3 / 255, (3, 3), tolerance=3e-3),
    "prostate": Kernels((3, 3), 0.01, (5, 5), tolerance=1.5e-3, exact="window"),
}
VOLUMES = {"3-D": Kernels((1, 2, 2), 0.1, (1, 3, 3), tolerance=2e-3)}


@dataclass(frozen=True)
class Block:
    """A slice or a volume: image float32 in [0, 1], logits float32 `label *space`."""

    image: np.ndarray
    logits: np.ndarray


def volumes(count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images in [0, 1] and masks, `depth 256 256`."""
    folder = os.environ.get("SCRIBBLESEG_DATA")
    if folder:
        dataset = acdc(Path(folder) / "acdc", train_patients=PATIENTS[:count], test_patients=())
        for patient in PATIENTS[:count]:
            case = dataset.train.named(f"patient{patient:03d}_frame01")
            image, mask = case.image[0], dataset.reference(case.name)
            size = [(max(0, 256 - n) // 2, max(0, 257 - n) // 2) for n in image.shape[1:]]
            image, mask = (np.pad(a, [(0, 0), *size]) for a in (image, mask))
            y, x = ((n - 256) // 2 for n in image.shape[1:])
            image, mask = (a[:, y : y + 256, x : x + 256] for a in (image, mask))
            yield (image / image.max()).astype(np.float32), mask
        return
    for seed in range(count):
        image, mask = heart(np.random.default_rng(seed), (9, 256, 256), (10.0, 1.5, 1.5))
        image = image - image.min()
        yield (image / image.max()).astype(np.float32), mask


def block(image: np.ndarray, mask: np.ndarray, noisy: bool) -> Block:
    soft = np.stack([blur((mask == label).astype(np.float64), 2) for label in range(LABELS)])
    logits = np.log(0.999 * soft + 0.00025)
    if noisy:
        logits = 0.3 * logits + np.random.default_rng(0).normal(size=logits.shape)
    logits -= np.log(np.exp(logits).sum(axis=0))
    return Block(np.ascontiguousarray(image), logits.astype(np.float32))


def ours(b: Block, kernels: Kernels, exact: bool = False) -> np.ndarray:
    dtype = torch.float64 if exact else torch.float32
    image, logits = (torch.from_numpy(a).to(dtype)[None] for a in (b.image[None], b.logits))
    method, tolerance = (kernels.exact, 1e-8) if exact else ("auto", kernels.tolerance)
    filters = [
        gaussian_filter(b.image.shape, kernels.bilateral, image, kernels.intensity, method=method, tolerance=tolerance),
        gaussian_filter(b.image.shape, kernels.spatial, tolerance=tolerance),
    ]
    tolerance = 0.0 if exact else TOLERANCE
    result = mean_field(logits, filters, kernels.weights, iterations=ITERATIONS, tolerance=tolerance)
    return result.softmax(1)[0].numpy()


def peer(b: Block, kernels: Kernels) -> np.ndarray:
    crf = DenseCRF(b.image.size, LABELS)
    crf.setUnaryEnergy(-b.logits.reshape(LABELS, -1))
    position = np.indices(b.image.shape, dtype=np.float32).reshape(b.image.ndim, -1)
    for sigmas, weight, more in (
        (kernels.bilateral, kernels.weights[0], [b.image.ravel() / kernels.intensity]),
        (kernels.spatial, kernels.weights[1], []),
    ):
        features = np.stack([*(p / s for p, s in zip(position, sigmas, strict=True)), *more])
        crf.addPairwiseEnergy(np.ascontiguousarray(features, np.float32), compat=weight)
    return np.array(crf.inference(ITERATIONS)).reshape(b.logits.shape)


def double_sum_error(b: Block, kernels: Kernels) -> float:
    """Largest relative error at 200 pixels of the filter that `exact` uses, against the plain sum over all pixels."""
    image = torch.from_numpy(b.image).double()
    how = {"method": kernels.exact, "tolerance": 1e-8, "normalisation": "none"}
    built = gaussian_filter(b.image.shape, kernels.bilateral, image[None, None], kernels.intensity, **how)
    values = torch.from_numpy(b.logits[:1]).double().softmax(0)[None]
    position = torch.from_numpy(np.indices(b.image.shape)).double().flatten(1).T / torch.tensor(kernels.bilateral)
    features = torch.cat([position, image.flatten()[:, None] / kernels.intensity], 1)
    chosen = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))[:200]
    plain = (-0.5 * torch.cdist(features[chosen], features).square()).exp() @ values.flatten()
    error = (built(values).flatten()[chosen] - plain) / plain
    return float(f"{error.abs().max():.2g}")


def in_turn(peers: dict[str, Callable[[], object]], rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    """Median seconds of each, all of them measured once per round."""
    times: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(rounds):
        for name, work in peers.items():
            start = clock()
            work()
            times[name].append(clock() - start)
    return {name: median(t) for name, t in times.items()}


def compare(blocks: list[Block], kernels: Kernels, rounds: int) -> dict[str, float]:
    """Means over blocks. One thread by CPU time, which other processes disturb least; two by the clock on the wall."""
    figures: dict[str, list[float]] = {}
    for b in blocks:
        torch.set_num_threads(1)
        exact = ours(b, kernels, exact=True)
        work = {"ours": lambda b=b: ours(b, kernels), "peer": lambda b=b: peer(b, kernels)}
        for name, solve in work.items():
            error = np.abs(solve() - exact)
            figures.setdefault(f"{name}_mean_error", []).append(error.mean())
            figures.setdefault(f"{name}_max_error", []).append(error.max())
        one = in_turn(work, rounds, time.process_time)
        torch.set_num_threads(2)
        two = in_turn(work, rounds, time.perf_counter)
        for name in work:
            figures.setdefault(f"{name}_ms_1_thread", []).append(1e3 * one[name])
            figures.setdefault(f"{name}_ms_2_threads", []).append(1e3 * two[name])
        figures.setdefault("speed_1_thread", []).append(one["peer"] / one["ours"])
        figures.setdefault("speed_2_threads", []).append(two["peer"] / two["ours"])
    return {key: float(f"{np.mean(values):.3g}") for key, values in figures.items()}


def nystroem(image: np.ndarray) -> dict[str, float]:
    """Three neighbouring slices as channels, 90 pixels, 0.15: filter and error of its sums at 200 pixels."""
    torch.set_num_threads(1)
    channels = torch.from_numpy(image)[None]
    space = image.shape[1:]
    start = time.process_time()
    built = gaussian_filter(space, 90.0, channels, 0.15, normalisation="none")
    ready = time.process_time()
    values = torch.from_numpy(image[:1] > image[:1].mean()).float()[None]
    found = built(values)
    done = time.process_time()
    position = torch.from_numpy(np.indices(space)).flatten(1).T / 90.0
    features = torch.cat([position, channels[0].flatten(1).T / 0.15], 1).double()
    chosen = torch.randperm(len(features), generator=torch.Generator().manual_seed(1))[:200]
    plain = (-0.5 * torch.cdist(features[chosen], features).square()).exp() @ values.flatten().double()
    error = (found.flatten()[chosen] - plain).abs()
    return {
        "set_up_ms": round(1e3 * (ready - start), 1),
        "filter_ms": round(1e3 * (done - ready), 1),
        "relative_error": float(f"{error.sum() / plain.sum():.2g}"),
    }


def throughput(b: Block, kernels: Kernels, batch: int, device: str) -> dict[str, float]:
    """Slices a second of a batch, set-up included, beside copies of the logits, one a kernel and iteration."""
    image, logits = (torch.from_numpy(a).to(device).expand(batch, *a.shape) for a in (b.image[None], b.logits))

    def seconds(work: Callable[[], object]) -> float:
        work()
        times = []
        for _ in range(3):
            start = time.perf_counter()
            work()
            if device == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        return median(times)

    def refine() -> None:
        filters = [
            gaussian_filter(b.image.shape, kernels.bilateral, image, kernels.intensity),
            gaussian_filter(b.image.shape, kernels.spatial),
        ]
        mean_field(logits, filters, kernels.weights, iterations=ITERATIONS, tolerance=TOLERANCE)

    floor = seconds(lambda: [logits.contiguous() + 0 for _ in range(2 * ITERATIONS)])
    return {
        "batch": batch,
        "per_second": round(batch / seconds(refine), 1),
        "floor_per_second": round(batch / floor, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=len(PATIENTS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="one slice of 64 x 64, one round")
    arguments = parser.parse_args()
    # A process that has worked for a while keeps the memory that it frees; glibc learns so from one large array.
    torch.zeros(8_000_000)
    images = list(volumes(1 if arguments.quick else arguments.patients))
    if arguments.quick:
        images = [(image[:, 96:160, 96:160], mask[:, 96:160, 96:160]) for image, mask in images]
    rounds = 1 if arguments.quick else arguments.rounds
    result: dict[str, dict[str, float]] = {}
    for name, kernels in (SLICES | VOLUMES).items():
        for noisy in (False, True):
            part = slice(None) if len(kernels.bilateral) == 3 else len(images[0][0]) // 2
            # The middle of a volume: whole, the exact answer would take minutes.
            crop = np.s_[..., 64:192, 64:192] if len(kernels.bilateral) == 3 and not arguments.quick else np.s_[...]
            blocks = [block(image[part][crop], mask[part][crop], noisy) for image, mask in images]
            figures = compare(blocks, kernels, rounds)
            result[f"{name}, {'noisy' if noisy else 'confident'}"] = figures
        result[f"{name}, {'noisy' if noisy else 'confident'}"]["double_sum_error"] = double_sum_error(
            blocks[0], kernels
        )
    middle = len(images[0][0]) // 2
    result["nystroem"] = nystroem(np.ascontiguousarray(images[0][0][middle - 1 : middle + 2]))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    example = block(images[0][0][middle], images[0][1][middle], noisy=False)
    for name in ("cardiac", "CRF-RNN"):
        result[f"throughput {name} {device}"] = throughput(example, SLICES[name], 64 if device == "cuda" else 2, device)
    report(result)


def report(result: dict[str, dict[str, float]]) -> None:
    """The table, and one line of JSON."""
    columns = ["speed_1_thread", "speed_2_threads", "ours_ms_1_thread", "peer_ms_1_thread"]
    columns += ["ours_mean_error", "peer_mean_error", "ours_max_error"]
    table = Table("", *(c.replace("_", " ") for c in columns), box=None)
    for name, figures in result.items():
        if "speed_1_thread" in figures:
            table.add_row(name, *(f"{figures[c]:.3g}" for c in columns))
    Console(width=160).print(table)
    print(json.dumps({"benchmark": "crf", "iterations": ITERATIONS, "tolerance": TOLERANCE, **result}))


if __name__ == "__main__":
    main()
