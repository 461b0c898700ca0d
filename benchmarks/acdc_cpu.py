"""ACDC at CPU scale: what seed areas and recursion are worth, at the same total of iterations, beside full masks.

Protocol: 20 patients to train on and 20 to test on (below), 2.5 mm grid, 96 x 96 crop, compact U-Net of base 16,
4000 iterations in all (2000 + 1000 + 1000 with recursion), last checkpoint, scored in 3-D on the native grid.

    SCRIBBLESEG_DATA=... python benchmarks/acdc_cpu.py --out runs/acdc_cpu

Continues where it was stopped. Without SCRIBBLESEG_DATA, or with --quick, it runs on phantoms at a toy size.
"""

import argparse
import json
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from scribbleseg.data import acdc, folder, fully_annotated
from scribbleseg.data.phantoms import write_phantoms
from scribbleseg.data.preprocess import Preprocess
from scribbleseg.em import em, start_run
from scribbleseg.evaluate.metrics import paired_interval, read_scores, write_scores
from scribbleseg.recipes import can2018
from scribbleseg.review import score_cases
from scribbleseg.train.loop import make_fabric

TRAIN = (1, 2, 3, 4, 21, 22, 23, 25, 42, 43, 45, 46, 61, 62, 63, 65, 81, 83, 84, 85)
TEST = (6, 7, 8, 9, 26, 27, 28, 29, 47, 48, 49, 50, 66, 67, 68, 70, 86, 87, 88, 89)
GRID = Preprocess(spacing_mm=2.5, size=96)
ROWS = {
    "scribbles only": can2018.COMPACT_STROKES,
    "seeds, no recursion": can2018.COMPACT_NO_RECURSION,
    "base (recursion)": can2018.COMPACT_BASE,
    "fully supervised": can2018.COMPACT_FULL,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/acdc_cpu"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--quick", action="store_true", help="phantoms, 40 iterations, one seed")
    arguments = parser.parse_args()
    data = os.environ.get("SCRIBBLESEG_DATA")
    quick = arguments.quick or not data
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "phantoms" if quick else Path(str(data)) / "acdc"
        if quick:
            write_phantoms(root, train=2, test=2)
        out = Path(scratch) if quick else arguments.out
        seeds = [0] if quick else arguments.seeds
        # Seeds in the outer loop: a table with fewer seeds is there early.
        jobs = [(root, out, row, seed, quick) for seed, row in product(seeds, arguments.rows)]
        with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
            list(pool.map(train_and_score, *zip(*jobs, strict=True)))
        report(out, arguments.rows, seeds)


def train_and_score(root: Path, out: Path, row: str, seed: int, quick: bool) -> None:
    """One cell of the table; nothing is done again that is on disk."""
    torch.set_num_threads(1)
    dataset = folder(root) if quick else acdc(root, train_patients=TRAIN, test_patients=TEST)
    recipe = replace(ROWS[row], preprocess=GRID)
    if quick:
        shorter = replace(recipe.training, batch=4, iterations=20 * (1 + recipe.recursions), iterations_again=10)
        recipe = replace(recipe, training=shorter)
    path = folder_of(out, row, seed)
    if (path / "scores.json").exists():
        return
    if recipe.annotation == "masks":
        dataset = fully_annotated(dataset)
    fabric = make_fabric("cpu")
    *_, last = em(recipe, dataset, start_run(path, recipe, dataset, seed, resume=True), fabric, seed)
    write_scores(score_cases(last.segmenter, dataset, dataset.test), path)


def folder_of(out: Path, row: str, seed: int) -> Path:
    """Run folder of a cell."""
    return out / f"{row.replace(' ', '_').replace(',', '')}_seed{seed}"


def report(out: Path, rows: list[str], seeds: list[int]) -> None:
    """The table, and one line of JSON."""
    dices, hd95 = {}, {}
    for row in rows:
        scores = [read_scores(folder_of(out, row, seed) / "scores.json") for seed in seeds]
        structures = list(dict.fromkeys(s.structure for s in scores[0]))
        # seed, case, structure
        dices[row] = np.array([[s.dice for s in run] for run in scores]).reshape(len(seeds), -1, len(structures))
        hd95[row] = float(np.nanmean([[s.hd95_mm for s in run] for run in scores]))
    peers = [peer for peer in ("fully supervised", "seeds, no recursion") if peer in rows]
    table = Table("row", *structures, "mean", "over seeds", "HD95 mm", *(f"minus {peer}" for peer in peers), box=None)
    figures = {}
    for row in rows:
        means, by_seed = dices[row].mean(axis=(0, 1)), dices[row].mean(axis=(1, 2))
        # Seeds are averaged first: the interval is over cases.
        gaps = {p: paired_interval(dices[row].mean(axis=(0, 2)), dices[p].mean(axis=(0, 2))) for p in peers if p != row}
        cells = [f"{gaps[p][0]:+.3f} [{gaps[p][1]:+.3f}, {gaps[p][2]:+.3f}]" if p in gaps else "" for p in peers]
        spread = f"{by_seed.min():.3f}-{by_seed.max():.3f}"
        table.add_row(row, *(f"{m:.3f}" for m in means), f"{means.mean():.3f}", spread, f"{hd95[row]:.1f}", *cells)
        figures[row] = {
            "dice": dict(zip(structures, means.round(4).tolist(), strict=True)),
            "mean": round(float(means.mean()), 4),
            "by_seed": by_seed.round(4).tolist(),
            "hd95_mm": round(hd95[row], 2),
            **{f"minus {p}": [round(g, 4) for g in gap] for p, gap in gaps.items()},
        }
    Console(width=160).print(table)
    print(json.dumps({"benchmark": "acdc_cpu", "seeds": seeds, "cases": dices[rows[0]].shape[1], "rows": figures}))


if __name__ == "__main__":
    main()
