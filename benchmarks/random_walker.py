"""The random walker beside scikit-image's: time, error against a direct solve, and what each labels at tau 0.99.

Both solve the same systems (beta 1000, the same weights), in turn, in one run: slices one by one in this process,
slices over a pool of two processes that both use, and whole volumes. Errors are against scikit-image's sparse direct
solver (mode "bf"): of every slice, and of the middle of each volume, where a direct solve still fits. On ACDC where
SCRIBBLESEG_DATA is set, else on phantoms of the same size.

    python benchmarks/random_walker.py
"""

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import numpy as np
from rich.console import Console
from rich.table import Table
from skimage.segmentation import random_walker

from scribbleseg.data import acdc
from scribbleseg.phantoms import draw_scribbles, heart
from scribbleseg.seeds import RandomWalker
from scribbleseg.types import UNLABELLED

BETA, TAU = 1000.0, 0.99
PATIENTS = (1, 22, 46, 62, 83, 6)
WORKERS = 2


@dataclass(frozen=True)
class Block:
    """A slice (depth 1) or a volume: image float32 `1 depth height width`, scribbles, spacing_mm."""

    image: np.ndarray
    scribbles: np.ndarray
    spacing_mm: tuple[float, float, float]

    def part(self, *box: slice) -> "Block":
        """The voxels in the box `depth height width`."""
        return Block(self.image[:, *box], self.scribbles[box], self.spacing_mm)

    @property
    def several_classes(self) -> bool:
        """Whether the walker is defined."""
        return len(np.unique(self.scribbles)) > 2  # UNLABELLED is one of them


def volumes(count: int) -> Iterator[Block]:
    folder = os.environ.get("SCRIBBLESEG_DATA")
    if folder:
        names = [f"patient{patient:03d}_frame01" for patient in PATIENTS[:count]]
        cases = acdc(Path(folder) / "acdc", train_patients=PATIENTS, test_patients=()).train
        for case in map(cases.named, names):
            yield Block(case.image, case.scribbles, case.spacing_mm)
        return
    for seed in range(count):
        rng = np.random.default_rng(seed)
        image, truth = heart(rng, (9, 256, 216), (10.0, 1.5, 1.5))
        yield Block(np.asarray(image, np.float32)[None], draw_scribbles(truth, rng), (10.0, 1.5, 1.5))


def ours(block: Block) -> np.ndarray:
    dimensions = 2 if len(block.scribbles) == 1 else 3
    return RandomWalker(tau=TAU, beta=BETA, dimensions=dimensions).probabilities(
        block.image, block.scribbles, block.spacing_mm
    )


def peer(block: Block, mode: str = "cg_j") -> np.ndarray:
    image = block.image[0].astype(np.float64)
    image = (image - image.min()) / (image.max() - image.min())
    drawn = np.unique(block.scribbles[block.scribbles != UNLABELLED])
    marks = np.where(block.scribbles == UNLABELLED, 0, block.scribbles.astype(np.int32) + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that its probabilities leave [0, 1] is what this measures
        found = random_walker(
            image,
            marks,
            beta=BETA,
            mode=mode,
            return_full_prob=True,
            spacing=np.divide(block.spacing_mm, block.spacing_mm[-1]),
        )
    probabilities = np.zeros((int(drawn.max()) + 1, *marks.shape))
    probabilities[drawn] = found
    return probabilities


def direct(block: Block) -> np.ndarray:
    return peer(block, mode="bf")


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turn(peers: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each, all of them measured once per round."""
    times: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(rounds):
        for name, work in peers.items():
            times[name].append(seconds(work))
    return {name: median(t) for name, t in times.items()}


def accuracy(blocks: list[Block]) -> dict[str, float]:
    """Mean and largest error of a probability, and the share of pixels at or above tau, of each solver."""
    figures: dict[str, list[float]] = {"exact_labelled": []}
    for block in blocks:
        exact = direct(block)
        figures["exact_labelled"].append((exact.max(axis=0) >= TAU).mean())
        for name, solve in (("ours", ours), ("cg_j", peer)):
            found = solve(block)
            error = np.abs(found - exact)
            for key, value in (("mean_error", error.mean()), ("max_error", error.max())):
                figures.setdefault(f"{name}_{key}", []).append(value)
            figures.setdefault(f"{name}_labelled", []).append((found.max(axis=0) >= TAU).mean())
    return {key: float(max(v) if "max" in key else np.mean(v)) for key, v in figures.items()}


def middle(block: Block, side: int) -> Block:
    """A part around the structures' scribbles. With a side of 64 it can still be solved directly."""
    drawn = (block.scribbles != UNLABELLED) & (block.scribbles != 0)
    centre = [int(np.median(where)) for where in np.nonzero(drawn)[1:]]
    return block.part(slice(None), *(slice(max(c - side // 2, 0), max(c - side // 2, 0) + side) for c in centre))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="4 slices and 1 small volume instead of 16 and 2")
    quick = parser.parse_args().quick
    whole = list(volumes(1 if quick else len(PATIENTS)))
    slices = [v.part(slice(z, z + 1)) for v in whole for z in range(len(v.scribbles))]
    slices = [s for s in slices if s.several_classes]
    slices = slices[:: max(len(slices) // (4 if quick else 16), 1)][: 4 if quick else 16]
    whole = [middle(whole[0], 128)] if quick else whole[:2]

    with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as pool:
        list(pool.map(ours, slices[:WORKERS]))  # imports
        times_2d = in_turn(
            {
                "cg_j": lambda: [peer(s) for s in slices],
                "ours": lambda: [ours(s) for s in slices],
                "cg_j, pool": lambda: list(pool.map(peer, slices)),
                "ours, pool": lambda: list(pool.map(ours, slices)),
            },
            rounds=5,
        )
    times_3d = in_turn({"cg_j": lambda: [peer(v) for v in whole], "ours": lambda: [ours(v) for v in whole]}, rounds=5)
    accuracy_2d = accuracy(slices)
    accuracy_3d = accuracy([middle(v, 64) for v in whole])

    table = Table(title=f"Random walker, beta {BETA:g}: {len(slices)} slices, {len(whole)} volumes")
    for column in ("", "cg_j, ms", "scribbleseg, ms", "times faster", "cg_j mean error", "mean error", "max error"):
        table.add_column(column, justify="right" if column else "left")
    rows = (
        ("slice", "", times_2d, len(slices), accuracy_2d),
        (f"slice, {WORKERS} processes", ", pool", times_2d, len(slices), accuracy_2d),
        ("volume", "", times_3d, len(whole), accuracy_3d),
    )
    for name, suffix, times, count, errors in rows:
        a, b = times["cg_j" + suffix], times["ours" + suffix]
        table.add_row(
            name,
            f"{1e3 * a / count:.0f}",
            f"{1e3 * b / count:.0f}",
            f"{a / b:.1f}",
            f"{errors['cg_j_mean_error']:.1e}",
            f"{errors['ours_mean_error']:.1e}",
            f"{errors['ours_max_error']:.1e}",
        )
    Console(width=120).print(table)
    figures = {
        "data": "acdc" if os.environ.get("SCRIBBLESEG_DATA") else "phantoms",
        "slices": len(slices),
        "volumes": len(whole),
        "slice_ms": {k: 1e3 * t / len(slices) for k, t in times_2d.items()},
        "volume_ms": {k: 1e3 * t / len(whole) for k, t in times_3d.items()},
        "speedup_slice": times_2d["cg_j"] / times_2d["ours"],
        "speedup_slice_pool": times_2d["cg_j, pool"] / times_2d["ours, pool"],
        "speedup_volume": times_3d["cg_j"] / times_3d["ours"],
        "accuracy_slice": accuracy_2d,
        "accuracy_volume_middle": accuracy_3d,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
