"""How to draw: which way of drawing gives the most Dice for the same ink, by our own recipe, on two organs.

    SCRIBBLESEG_DATA=... python benchmarks/how_to_draw.py --data acdc --iterations 2000 --out runs/draw_acdc
    SCRIBBLESEG_DATA=... python benchmarks/how_to_draw.py --data promise12 --iterations 1000 --out runs/draw_promise12

Scribbles are simulated on the masks of the training cases. The first ways have about the same number of drawn voxels,
a third of what whole middle lines in every slice take; the last two show what more ink gives. Data, splits, grids and
scores are those of can2018_cpu.py. Continues where it was stopped. Without SCRIBBLESEG_DATA, or with --quick, it runs
on phantoms at a toy size.
"""

import json
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from can2018_cpu import drawn, figures_of, found, ours, parse
from scribbleseg.annotate.simulate import Boundary, Rule, Skeleton
from scribbleseg.reproduce import Row, summarise, train_rows
from scribbleseg.training.hardware import make_fabric
from scribbleseg.types import UNLABELLED, Dataset

WAYS: dict[str, Rule] = {
    "every third slice: whole middle lines": Skeleton(every=3),
    "every third slice: middle lines, and a piece along each border": Boundary(width=1, every=3),
    "every slice: a third of each middle line": Skeleton(length=1 / 3),
    "every slice: a spot of 8 pixels": Skeleton(length=0.0, width=8),
    "every slice: whole middle lines": Skeleton(),
    "every slice: middle lines, and a piece along each border, pen of 3 pixels": Boundary(),
}


def main() -> None:
    arguments = parse(__doc__, Path("runs/draw_acdc"), list(WAYS), list(WAYS))
    if arguments.scribbles:
        sys.exit("how_to_draw.py draws its own scribbles: leave --scribbles out, and choose --rows")
    with found(arguments) as root:
        recipe = ours(arguments.data, arguments.iterations)
        rows, ink = [], []
        for way in arguments.rows:
            dataset = drawn(root, WAYS[way], arguments.out / f"way_{list(WAYS).index(way)}", "masks")
            train_rows({way: recipe}, dataset, arguments.out, arguments.seeds, arguments.jobs, "cpu")
            rows += summarise([way], arguments.out, arguments.seeds, make_fabric("cpu"))
            ink.append(voxels(dataset))
        report(rows, ink, arguments.seeds)


def voxels(dataset: Dataset) -> float:
    """The mean number of drawn voxels in a training volume."""
    return float(np.mean([np.count_nonzero(case.scribbles != UNLABELLED) for case in dataset.train]))


def report(rows: list[Row], ink: list[float], seeds: list[int]) -> None:
    """A table and one line of JSON; differences are to the first way."""
    heads = ["way", "voxels drawn", *rows[0].structures, "mean", "HD95 mm", "in empty slices ml", "minus the first"]
    table, figures = Table(*heads, box=None), {}
    for row, drawn_voxels in zip(rows, ink, strict=True):
        gap = row.minus(rows[0])
        dice = [f"{value:.3f}" for value in (*row.by_structure, row.main.mean())]
        others = [f"{row.hd95_mm:.1f}", f"{row.empty_slices_ml:.1f}"]
        said = "" if row is rows[0] else f"{gap[0]:+.3f} [{gap[1]:+.3f}, {gap[2]:+.3f}]"
        table.add_row(row.title, f"{drawn_voxels:.0f}", *dice, *others, said)
        figures[row.title] = figures_of(row) | {"voxels": round(drawn_voxels), "minus_first": np.round(gap, 4).tolist()}
    Console(width=180).print(table)
    print(json.dumps({"benchmark": "how_to_draw", "seeds": seeds, "rows": figures}))


if __name__ == "__main__":
    main()
