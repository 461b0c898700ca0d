"""Can et al.'s Table 1 at CPU scale: every row at the same total of iterations, and what the E steps' labels are worth.

    SCRIBBLESEG_DATA=... python benchmarks/can2018_cpu.py --data acdc --out runs/can2018_acdc
    SCRIBBLESEG_DATA=... python benchmarks/can2018_cpu.py --data acdc --scribbles spots --out runs/can2018_spots

acdc: 20 patients to train on and 20 to test on (below), 2.5 mm grid, 96 x 96. promise12 and prostate158: the adapters'
splits, scribbles simulated. Compact U-Net of base 16, 4000 iterations in all (2000 + 1000 + 1000 with recursion), last
checkpoint, scored in 3-D on the native grid.

Continues where it was stopped. Without SCRIBBLESEG_DATA, or with --quick, it runs on phantoms at a toy size.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from scribbleseg.annotate.simulate import RULES, Rule, Source, write_simulation
from scribbleseg.data import open_dataset
from scribbleseg.data.preprocess import Preprocess
from scribbleseg.data.slices import open_slices
from scribbleseg.phantoms import write_phantoms
from scribbleseg.pipeline import phase_recipe
from scribbleseg.recipe import Recipe
from scribbleseg.recipes import can2018, default
from scribbleseg.reproduce import Row, run_folder, summarise, train_rows
from scribbleseg.review import dataset_of
from scribbleseg.runs import open_run
from scribbleseg.training.hardware import make_fabric
from scribbleseg.types import UNLABELLED, Dataset

ACDC_TRAIN = [1, 2, 3, 4, 21, 22, 23, 25, 42, 43, 45, 46, 61, 62, 63, 65, 81, 83, 84, 85]
ACDC_TEST = [6, 7, 8, 9, 26, 27, 28, 29, 47, 48, 49, 50, 66, 67, 68, 70, 86, 87, 88, 89]
SCRIBBLES_ONLY = "scribbles only"
VARIANTS: dict[str, Callable[[Recipe], Recipe]] = {
    "Base, no augmentation": lambda base: replace(base, augment=None),
    "Base, earlier code's walker": lambda base: replace(base, seeds=replace(base.seeds, beta=2000.0, scale="slice")),
    "Base, learning rate starts anew": lambda base: replace(
        base, stages=tuple(replace(stage, restarts=True) for stage in base.stages)
    ),
}
"""The row "Base" with something changed that the paper leaves open."""
GRIDS = {
    "acdc": Preprocess(spacing_mm=2.5, size=96),
    "promise12": Preprocess(spacing_mm=1.5, size=96),  # its spacing is not known: 1 stands for a pixel
    "prostate158": Preprocess(spacing_mm=1.0, size=96),
    "phantoms": Preprocess(spacing_mm=2.5, size=64),
}


def main() -> None:
    titles = list(can2018.TITLES.values())
    arguments = parse(__doc__, Path("runs/can2018_acdc"), [SCRIBBLES_ONLY, *titles, *VARIANTS], titles)
    with opened(arguments) as dataset:
        rows = {title: at_scale(title, arguments.data, arguments.iterations) for title in arguments.rows}
        train_rows(rows, dataset, arguments.out, arguments.seeds, arguments.jobs, "cpu")
        peers = tuple(can2018.TITLES[end] for end in ("full", "no_recursion"))
        report("can2018_cpu", rows, arguments.out, arguments.seeds, peers)


def parse(description: str | None, out: Path, rows: list[str], default: list[str]) -> argparse.Namespace:
    """The arguments of a table at CPU scale; phantoms and a toy size where there is no data, or with --quick."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=["acdc", "promise12", "prostate158"], default="acdc")
    parser.add_argument("--scribbles", choices=["expert", *RULES], help="default: expert on acdc, full elsewhere")
    parser.add_argument("--out", type=Path, default=out)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", choices=rows, default=default)
    parser.add_argument("--iterations", type=int, default=4000, help="in all, in every row")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--quick", action="store_true", help="phantoms, 40 iterations, one seed")
    arguments = parser.parse_args()
    if arguments.quick or not os.environ.get("SCRIBBLESEG_DATA"):
        arguments.data, arguments.seeds, arguments.iterations = "phantoms", [0], 40
    return arguments


@contextmanager
def opened(arguments: argparse.Namespace) -> Iterator[Dataset]:
    """The data set that is asked for."""
    with found(arguments) as root:
        real = arguments.data != "phantoms"
        yield open_data(root, arguments.scribbles, arguments.out) if real else open_dataset(root)


@contextmanager
def found(arguments: argparse.Namespace, train: int = 2) -> Iterator[Path]:
    """The folder of the data that is asked for; phantoms, so many for training, and runs on them are for once."""
    if arguments.data != "phantoms":
        yield Path(os.environ["SCRIBBLESEG_DATA"]) / arguments.data
        return
    with tempfile.TemporaryDirectory() as scratch:
        arguments.out = Path(scratch) / "runs"
        yield write_phantoms(Path(scratch) / "phantoms", train=train, test=2)


def open_data(root: Path, scribbles: str | None, out: Path) -> Dataset:
    """The data set with its experts' scribbles, or with simulated ones or a part of the experts'."""
    acdc = root.name == "acdc"
    rule = scribbles or ("expert" if acdc else "full")
    if rule == "expert":
        return open_dataset(root, root.name, **split_of(root))
    source: Source = "scribbles" if acdc and RULES[rule].kind == "skeleton" else "masks"
    return drawn(root, RULES[rule], out / f"scribbles_{rule}", source)


def split_of(root: Path) -> dict[str, list[int]]:
    """The options that divide a data set into training and test cases, where its own split is not taken."""
    return {"train_patients": ACDC_TRAIN, "test_patients": ACDC_TEST} if root.name == "acdc" else {}


def drawn(root: Path, rule: Rule, folder: Path, source: Source) -> Dataset:
    """The data set with scribbles that are drawn by a rule into that folder; phantoms have no format of their own."""
    form = root.name if root.name in GRIDS and root.name != "phantoms" else None
    scribbles = write_simulation(open_dataset(root, form, **split_of(root)), rule, folder, source)
    return open_dataset(root, form, **split_of(root), scribbles=str(scribbles.resolve()))


def at_scale(title: str, data: str, iterations: int) -> Recipe:
    """The row on this grid, at this total of iterations."""
    family = "compact_prostate" if data.startswith("pro") else "compact"
    strokes = can2018.at_length(can2018.FAMILIES[family]["strokes"], iterations)
    rows = {SCRIBBLES_ONLY: strokes, **can2018.table_1(family, iterations)}
    rows |= {variant: change(rows[can2018.TITLES["base"]]) for variant, change in VARIANTS.items()}
    return replace(rows[title], preprocess=GRIDS[data])


def ours(data: str, iterations: int) -> Recipe:
    """Our own recipe on this grid; areas stay within slices, for how far apart those of promise12 are is not known."""
    row = default.sized(16, iterations)
    return replace(row, preprocess=GRIDS[data], seeds=replace(row.seeds, dimensions=2))


def report(name: str, rows: dict[str, Recipe], out: Path, seeds: list[int], peers: Iterable[str]) -> None:
    """Both tables, with differences to some of the rows, and one line of JSON."""
    summary = {row.title: row for row in summarise(rows, out, seeds, make_fabric("cpu"))}
    peers = [title for title in peers if title in summary]
    structures = next(iter(summary.values())).structures
    heads = [
        "row",
        *structures,
        "mean",
        "over seeds",
        "HD95 mm",
        "in empty slices ml",
        *(f"minus {peer}" for peer in peers),
    ]
    table, figures = Table(*heads, box=None), {}
    for title, row in summary.items():
        gaps = {peer: row.minus(summary[peer]) for peer in peers if peer != title}
        cells = [f"{gaps[p][0]:+.3f} [{gaps[p][1]:+.3f}, {gaps[p][2]:+.3f}]" if p in gaps else "" for p in peers]
        spread = f"{row.by_seed.min():.3f}-{row.by_seed.max():.3f}"
        dice = [f"{mean:.3f}" for mean in (*row.by_structure, row.main.mean())]
        table.add_row(title, *dice, spread, f"{row.hd95_mm:.1f}", f"{row.empty_slices_ml:.1f}", *cells)
        figures[title] = figures_of(row) | {f"minus {p}": np.round(gap, 4).tolist() for p, gap in gaps.items()}
    console = Console(width=180)
    console.print(table)
    labels = Table("labels", "of recursion", "labelled", "right", *(f"Dice {s}" for s in structures), box=None)
    for title in (title for title, row in summary.items() if not row.is_upper_bound):
        by_seed = [label_quality(run_folder(out, title, seed)) for seed in seeds]
        shortest = min(map(len, by_seed))  # a run may have stopped early
        quality = np.mean([each[:shortest] for each in by_seed], axis=0)
        for index, (labelled, right, *dice) in enumerate(quality):
            labels.add_row(title, str(index), f"{labelled:.1%}", f"{right:.1%}", *(f"{d:.3f}" for d in dice))
        figures[title]["labels"] = quality.round(4).tolist()
    console.print(labels)
    n_cases = next(iter(summary.values())).dice.shape[1]
    print(json.dumps({"benchmark": name, "seeds": seeds, "cases": n_cases, "rows": figures}))


def figures_of(row: Row) -> dict:
    """What the JSON line says of a row."""
    return {
        "dice": dict(zip(row.structures, row.by_structure.round(4).tolist(), strict=True)),
        "mean": round(float(row.dice.mean()), 4),
        "by_seed": row.by_seed.round(4).tolist(),
        "hd95_mm": round(row.hd95_mm, 2),
        "empty_slices_ml": round(row.empty_slices_ml, 2),
    }


def label_quality(folder: Path) -> np.ndarray:
    """By recursion: share of the training pixels that its labels cover, share of those right, Dice by structure.

    Against the reference on the recipe's grid, UNLABELLED counted as background in the Dice. Shape `recursion measure`.
    """
    run = open_run(folder)
    dataset, slices, recipe = dataset_of(run), open_slices(run.slices), phase_recipe(run)
    truth = np.full_like(slices.scribbles, UNLABELLED)
    for name, rows in slices.rows.items():
        truth[rows] = recipe.preprocess.labels(dataset.reference(name), slices.geometry(name))
    inside = truth != UNLABELLED
    quality = []
    for index in range(run.recursions):
        labels = np.where(inside, slices.layer("labels", recipe.labels_of(index)), UNLABELLED)
        labelled = labels != UNLABELLED
        hits = [2 * np.sum((labels == k) & (truth == k)) for k in range(1, dataset.n_labels)]
        sizes = [np.sum(labels == k) + np.sum(truth == k) for k in range(1, dataset.n_labels)]
        shares = np.mean(labelled[inside]), np.mean((labels == truth)[labelled])
        quality.append([*shares, *np.divide(hits, sizes)])
    return np.array(quality)


if __name__ == "__main__":
    main()
