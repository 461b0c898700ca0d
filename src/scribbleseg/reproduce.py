"""Reproduces a paper's table: trains the rows that are missing in a folder, scores them, and sums them up."""

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from rich.progress import track

from scribbleseg.em import Recipe
from scribbleseg.evaluate.metrics import Score, paired_interval
from scribbleseg.hierarchy import WHOLE, Hierarchy, start_phase
from scribbleseg.pipeline import Pipeline, fit, recipe_of, start_run, train
from scribbleseg.review import test_scores
from scribbleseg.runs import Run, open_run
from scribbleseg.train.loop import make_fabric
from scribbleseg.types import DataError, Dataset

BEGINNING = ("annotation", "preprocess", "seeds", "network", "augment", "loss")
"""The fields of a recipe that its first recursion depends on, beside the training's."""


@dataclass(frozen=True)
class Row:
    """A row of the table, over seeds and test cases.

    Args:
        title: as in the paper.
        dice: `seed case structure`.
        recall: mean over everything.
        precision: mean over everything.
        hd95_mm: mean over everything, cases in which a structure was missed left out.
        structures: the names of the last axis.
    """

    title: str
    dice: np.ndarray
    recall: float
    precision: float
    hd95_mm: float
    structures: tuple[str, ...]

    @property
    def by_structure(self) -> np.ndarray:
        """Mean Dice of each."""
        return self.dice.mean(axis=(0, 1))

    @property
    def by_seed(self) -> np.ndarray:
        """Mean Dice of each."""
        return self.dice.mean(axis=(1, 2))

    def minus(self, other: "Row") -> tuple[float, float, float]:
        """Mean difference of the cases' Dice and its paired 95 % bootstrap interval; seeds are averaged first."""
        return paired_interval(self.dice.mean(axis=(0, 2)), other.dice.mean(axis=(0, 2)))


def run_folder(out: Path, title: str, seed: int) -> Path:
    """Where a row's run of one seed lies."""
    words = title.replace(",", "").replace(" + ", " and ").replace("+", " ").lower().split()
    return out / f"{'_'.join(words)}_seed{seed}"


def train_rows(
    rows: Mapping[str, Pipeline],
    dataset: Dataset,
    out: Path,
    seeds: Sequence[int],
    jobs: int = 1,
    accelerator: str = "auto",
) -> None:
    """Train and score every row with every seed; whatever `out` holds already is not done again.

    Rows that begin alike (the same seed areas, network and first M step) share their beginning.

    Args:
        rows: title to recipe.
        dataset: with references for its test cases, and for its training cases where a row is fully supervised.
        out: a folder a row and seed.
        seeds: the outer loop, so that a table with fewer seeds is there early.
        jobs: rows at a time, each a process with its share of the cores; progress is in ROW_seedN.progress.txt.
        accelerator: of `make_fabric`.

    Raises:
        DataError: for data that cannot be trained on or scored, or a folder that holds the row of another recipe or
            data set.
    """
    if all(dataset.read_reference(name) is None for name in dataset.test.names):
        raise DataError(
            f"{dataset.root}: expected reference masks of test cases to score the rows with, found none among "
            f"{len(dataset.test)}; give the data set some, or train a single recipe with `scribbleseg train`"
        )
    work = [(title, rows[title], dataset, out, seed, accelerator) for seed, title in product(seeds, rows)]
    if jobs == 1:
        for each in work:
            _train_row(*each)
        return
    out.mkdir(parents=True, exist_ok=True)
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with ProcessPoolExecutor(jobs, get_context("spawn"), torch.set_num_threads, (threads,)) as pool:
        futures = [pool.submit(_train_row_quietly, *each) for each in work]
        try:
            for future in track(as_completed(futures), "Rows", total=len(futures)):
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _train_row_quietly(title: str, recipe: Pipeline, dataset: Dataset, out: Path, seed: int, accelerator: str) -> None:
    progress = run_folder(out, title, seed).with_suffix(".progress.txt")
    with progress.open("w") as file, redirect_stdout(file):
        _train_row(title, recipe, dataset, out, seed, accelerator)
    progress.unlink()


def _train_row(title: str, recipe: Pipeline, dataset: Dataset, out: Path, seed: int, accelerator: str) -> None:
    recipe, dataset = fit(recipe, dataset)
    fabric = make_fabric(accelerator)
    run = start_run(run_folder(out, title, seed), recipe, dataset, seed, resume=True)
    if isinstance(recipe, Hierarchy):
        _inherit(start_phase(recipe, dataset, run, fabric, WHOLE), recipe.whole, out)
    else:
        _inherit(run, recipe, out)
    for _ in train(recipe, dataset, run, fabric, seed):
        pass
    test_scores(run, fabric)


def _inherit(run: Run, recipe: Recipe, out: Path) -> None:
    """Copy what a row of the same seed and data that began alike has done: all of it, or its first M step."""
    if run.recursions:
        return
    for path in sorted([*out.glob("*/run.json"), *out.glob(f"*/{WHOLE}/run.json")]):
        donor = open_run(path.parent)
        if any(donor.details[key] != run.details[key] for key in ("seed", "fingerprint", "label_names")):
            continue
        if donor.recipe == run.recipe and donor.recursions > recipe.recursions:
            run.inherit(donor, donor.recursions)
            return
        if donor.recursions and _beginning(recipe_of(donor)) == _beginning(recipe):
            run.inherit(donor)
            return


def _beginning(recipe: Pipeline) -> Recipe:
    """What the first recursion depends on; everything else at its default."""
    assert isinstance(recipe, Recipe), "a hierarchy has no networks of its own"
    training = replace(recipe.training, iterations_again=1)
    return replace(Recipe(training=training), **{name: getattr(recipe, name) for name in BEGINNING})


def summarise(titles: Iterable[str], out: Path, seeds: Sequence[int], fabric: Fabric) -> list[Row]:
    """Sum up trained rows. Raises DataError where one is missing."""
    rows = []
    for title in titles:
        scores = [test_scores(open_run(run_folder(out, title, seed)), fabric) for seed in seeds]
        rows.append(_row(title, scores))
    return rows


def _row(title: str, scores: Sequence[Sequence[Score]]) -> Row:
    structures = tuple(dict.fromkeys(score.structure for score in scores[0]))
    dice = np.array([[score.dice for score in run] for run in scores]).reshape(len(scores), -1, len(structures))
    means = {}
    for name in ("recall", "precision", "hd95_mm"):
        values = np.array([getattr(score, name) for run in scores for score in run])
        known = values[~np.isnan(values)]
        means[name] = float(known.mean()) if len(known) else float("nan")
    return Row(title, dice, structures=structures, **means)
