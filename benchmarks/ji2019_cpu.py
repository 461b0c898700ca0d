"""Ji et al.'s Table 1 at CPU scale on BraTS, and what every stage's labels are worth before any network sees them.

    SCRIBBLESEG_DATA=... python benchmarks/ji2019_cpu.py --out runs/ji2019

Four folds (`data.brats`): each case is tested once, by networks that were trained on the other folds. Scribbles are
simulated by the paper's rule. Grid of 2 mm, 96 x 96; U-Net of base 16; in every network the same number of iterations,
a third of them before the fine-tuning; last checkpoint, scored in 3-D on the native grid.

Continues where it was stopped; folds may be given to several processes and summed up by one more call. Without
SCRIBBLESEG_DATA, or with --quick, it runs on phantoms at a toy size.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from scribbleseg.annotate.simulate import RULES, write_simulation
from scribbleseg.data import coarse, open_dataset
from scribbleseg.data.brain import in_brain
from scribbleseg.data.slices import open_slices
from scribbleseg.phantoms import write_phantoms
from scribbleseg.pipeline import phase_recipe, phases
from scribbleseg.recipe import Recipe
from scribbleseg.recipes import default, ji2019
from scribbleseg.reproduce import Row, run_folder, summarise, train_rows
from scribbleseg.runs import open_run
from scribbleseg.training.hardware import make_fabric
from scribbleseg.types import UNLABELLED, Dataset

FOLDS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/ji2019"))
    parser.add_argument("--folds", type=int, nargs="+", default=list(range(FOLDS)))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    titles = list(ji2019.TITLES.values())
    parser.add_argument("--rows", nargs="+", choices=[*titles, *ours(0)], default=titles)
    parser.add_argument("--iterations", type=int, default=900, help="of every network, in all")
    parser.add_argument("--jobs", type=int, default=1, help="rows at a time")
    parser.add_argument("--quick", action="store_true", help="phantoms, 12 iterations, one fold")
    arguments = parser.parse_args()
    data = os.environ.get("SCRIBBLESEG_DATA")
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(data or "") / "brats"
        if arguments.quick or not data:
            root = write_phantoms(Path(scratch) / "phantoms", "tumour", train=2, test=1)
            arguments.out, arguments.folds, arguments.iterations = Path(scratch) / "out", [0], 12
        table = ji2019.table_1("compact", arguments.iterations) | ours(arguments.iterations)
        rows = {title: table[title] for title in arguments.rows}
        datasets = {}
        for fold in arguments.folds:
            out = arguments.out / f"fold_{fold}"
            scribbles = write_simulation(
                open_dataset(root, "brats", fold=fold, folds=FOLDS), RULES["ji2019"], out / "scribbles"
            )
            datasets[out] = open_dataset(root, "brats", fold=fold, folds=FOLDS, scribbles=str(scribbles.resolve()))
            train_rows(rows, datasets[out], out, arguments.seeds, arguments.jobs, "cpu")
        report(list(rows), datasets, arguments.seeds)


def ours(iterations: int) -> dict[str, Recipe]:
    """Our own recipes of the whole tumour on this grid, from scribbles and from masks."""
    row = replace(default.sized(16, iterations), preprocess=ji2019.COMPACT["wt_sc"].preprocess)
    full = replace(default.on_masks(row), annotation="coarse_masks")
    return {"default.quick": row, "default.quick3d": default.of_blocks(row), "default.quick_full": full}


def report(titles: Sequence[str], datasets: dict[Path, Dataset], seeds: Sequence[int]) -> None:
    """Both tables, the quality of the stages, and one line of JSON."""
    fabric, console = make_fabric("cpu"), Console(width=180)
    by_fold = [summarise(titles, out, seeds, fabric) for out in datasets]
    summary = [joined([fold[n] for fold in by_fold]) for n in range(len(titles))]
    figures = {}
    for structures in dict.fromkeys(row.structures for row in summary):
        rows = [row for row in summary if row.structures == structures]
        full = next((row for row in rows if row.is_upper_bound), None)
        table = Table("row", *structures, "mean", "recall", "precision", "HD95 mm", "minus full", box=None)
        for row in rows:
            gap = row.minus(full) if full and row is not full else None
            dice = [f"{mean:.3f}" for mean in (*row.by_structure, row.main.mean())]
            others = f"{row.recall:.3f}", f"{row.precision:.3f}", f"{row.hd95_mm:.1f}"
            table.add_row(row.title, *dice, *others, "{:+.3f} [{:+.3f}, {:+.3f}]".format(*gap) if gap else "")
            figures[row.title] = {
                "dice": dict(zip(structures, row.by_structure.round(4).tolist(), strict=True)),
                "recall": round(row.recall, 4), "precision": round(row.precision, 4), "hd95_mm": round(row.hd95_mm, 2),
                "by_case": row.dice.mean(axis=0).round(3).tolist(), "minus_full": gap and np.round(gap, 4).tolist(),
            }  # fmt: skip
        console.print(table)
    stages = Table("labels", "labelled", "right", "Dice", box=None)
    quality = {}
    for title in (row.title for row in summary if not row.is_upper_bound):
        folders = {run_folder(out, title, seeds[0]): dataset for out, dataset in datasets.items()}
        quality[title] = np.mean([label_quality(folder, dataset) for folder, dataset in folders.items()], axis=0)
    for title, (labelled, right, *dice) in quality.items():
        stages.add_row(title, f"{labelled:.2%}", f"{right:.2%}", "  ".join(f"{d:.3f}" for d in dice))
    console.print(stages)
    labels = {title: values.round(4).tolist() for title, values in quality.items()}
    print(json.dumps({"benchmark": "ji2019_cpu", "seeds": list(seeds), "rows": figures, "labels": labels}))


def joined(folds: Sequence[Row]) -> Row:
    """One row of all folds' cases; folds have the same number of them."""
    measures = ("recall", "precision", "hd95_mm")
    means = {name: float(np.nanmean([getattr(row, name) for row in folds])) for name in measures}
    return replace(folds[0], dice=np.concatenate([row.dice for row in folds], axis=1), **means)


def label_quality(folder: Path, dataset: Dataset) -> np.ndarray:
    """Of the labels that the row's last network began with: share of the brain labelled, of those right, Dice by label.

    On the grid, against the reference mask, over all training cases; UNLABELLED counts as background in the Dice.
    """
    *_, (phase, run) = phases(open_run(folder)).items()
    seen = dataset if phase else coarse(dataset)
    slices, preprocess = open_slices(run.slices), phase_recipe(run).preprocess
    truth = np.full_like(slices.scribbles, UNLABELLED)
    for name, rows in slices.rows.items():
        truth[rows] = preprocess.labels(seen.reference(name), slices.geometry(name))
    brain = np.concatenate([in_brain(slices.images(rows).swapaxes(0, 1)) for rows in slices.rows.values()])
    inside = (truth != UNLABELLED) & brain
    labels = np.where(inside, slices.layer("labels", 0), UNLABELLED)
    labelled = labels != UNLABELLED
    dice = [
        2 * np.sum((labels == k) & (truth == k)) / max(np.sum(labels == k) + np.sum(truth == k), 1)
        for k in range(1, seen.n_labels)
    ]
    return np.array([np.mean(labelled[inside]), np.mean((labels == truth)[labelled]), *dice])


if __name__ == "__main__":
    main()
