"""Reproduces a paper's table: trains the rows that are missing in a folder, scores them, and sums them up."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import as_completed
from contextlib import redirect_stdout
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from rich import get_console

from scribbleseg.em import carries_on
from scribbleseg.evaluation.metrics import Score, paired_interval
from scribbleseg.pipeline import AnyRecipe, begin, first_phase, phase_recipe, phases, recipe_of, train
from scribbleseg.progress import track
from scribbleseg.recipe import Recipe, begins_as
from scribbleseg.review import test_scores
from scribbleseg.runs import Run, open_run
from scribbleseg.session import Session
from scribbleseg.training.hardware import make_fabric
from scribbleseg.types import DataError, Dataset
from scribbleseg.workers import Workers


@dataclass(frozen=True)
class Row:
    """A row of the table, over seeds and test cases.

    Args:
        title: the title in the paper.
        dice: `seed case structure`.
        recall: mean over everything.
        precision: mean over everything.
        hd95_mm: mean over everything, cases in which a structure was missed left out.
        empty_slices_ml: mean over everything.
        structures: the names of the last axis.
        is_upper_bound: whether it was trained on full masks.
    """

    title: str
    dice: np.ndarray
    recall: float
    precision: float
    hd95_mm: float
    empty_slices_ml: float
    structures: tuple[str, ...]
    is_upper_bound: bool

    @property
    def main(self) -> np.ndarray:
        """Dice without auxiliary regions, those that end in *: what means over structures are taken of."""
        return self.dice[:, :, [not name.endswith("*") for name in self.structures]]

    @property
    def by_structure(self) -> np.ndarray:
        """The mean Dice of each structure."""
        return self.dice.mean(axis=(0, 1))

    @property
    def by_seed(self) -> np.ndarray:
        """The mean Dice of each seed."""
        return self.main.mean(axis=(1, 2))

    def minus(self, other: "Row") -> tuple[float, float, float]:
        """Mean difference of the cases' Dice and its paired 95 % bootstrap interval; seeds are averaged first."""
        return paired_interval(self.main.mean(axis=(0, 2)), other.main.mean(axis=(0, 2)))


def run_folder(out: Path, title: str, seed: int) -> Path:
    """Where a row's run of one seed lies."""
    words = re.findall("[a-z0-9*]+", title.lower())
    return out / f"{'_'.join(words)}_seed{seed}"


def train_rows(
    rows: Mapping[str, AnyRecipe],
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
        accelerator: the hardware, as in `make_fabric`.

    Raises:
        DataError: for data that cannot be trained on or scored, a folder that holds the row of another recipe or
            data set or that another process works on, or a worker that has died. Rows beside it stop at a checkpoint.
    """
    if all(dataset.read_reference(name) is None for name in dataset.test.names):
        raise DataError(
            f"{dataset.root}: expected reference masks of test cases to score the rows with, found none among "
            f"{len(dataset.test)}; give the data set some, or train a single recipe with `scribbleseg train`"
        )
    work = [(title, rows[title], dataset, out, seed, accelerator) for seed, title in product(seeds, rows)]
    if jobs == 1:
        for n, each in enumerate(work, start=1):
            get_console().print(f"Row {n} of {len(work)}: {each[0]}, seed {each[4]}", markup=False)
            _train_row(*each)
        return
    out.mkdir(parents=True, exist_ok=True)
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with Workers(jobs, "spawn", torch.set_num_threads, (threads,)) as pool:
        futures = [pool.submit(_train_row_quietly, *each) for each in work]
        for future in track(as_completed(futures), "Rows", total=len(futures)):
            future.result()


def _train_row_quietly(title: str, recipe: AnyRecipe, dataset: Dataset, out: Path, seed: int, accelerator: str) -> None:
    progress = run_folder(out, title, seed).with_suffix(".progress.txt")
    with progress.open("a") as file, redirect_stdout(file):
        _train_row(title, recipe, dataset, out, seed, accelerator)
    progress.unlink()


def _train_row(title: str, recipe: AnyRecipe, dataset: Dataset, out: Path, seed: int, accelerator: str) -> None:
    fabric = make_fabric(accelerator)
    with begin(dataset, run_folder(out, title, seed), recipe, fabric=fabric, seed=seed, resume=True) as session:
        _inherit(first_phase(session), out)
        for _ in train(session):
            pass
        test_scores(session.run, fabric)


def _inherit(session: Session[Recipe], out: Path) -> None:
    """Copy the M steps that a row of the same seed and data has done alike, as many as can be had from one row."""
    if session.run.recursions:
        return
    session.prepare(session.recipe.preprocess, session.recipe.held_out)
    donors = [donor for path in sorted(out.glob("*/run.json")) if (donor := _first(path.parent)) is not None]
    donor = max(donors, key=lambda each: _shared(session, each))  # this run is among them, with nothing done
    if shared := _shared(session, donor):
        session.run.inherit(donor, shared)


def _first(path: Path) -> Run | None:
    """The run of the first phase, which depends on the data alone; None where another process has yet to begin it."""
    try:
        return next(iter(phases(open_run(path)).values()))
    except DataError:
        return None


def _shared(session: Session[Recipe], donor: Run) -> int:
    """The number of M steps that another run has done as this session would do them."""
    keys = ("seed", "fingerprint", "label_names")
    if any(donor.details.get(key) != session.run.details[key] for key in keys) or donor.version != session.run.version:
        return 0
    theirs, own = phase_recipe(donor), session.recipe
    steps = range(min(donor.recursions, len(own.steps)), 0, -1)
    return next((n for n in steps if begins_as(own, theirs, n) and carries_on(own, donor, n)), 0)


def summarise(rows: Iterable[str], out: Path, seeds: Sequence[int], fabric: Fabric) -> list[Row]:
    """Sum up trained rows, given by their titles. Raises DataError where one is missing."""
    summed = []
    for title in rows:
        runs = [open_run(run_folder(out, title, seed)) for seed in seeds]
        summed.append(_row(title, [test_scores(run, fabric) for run in runs], recipe_of(runs[0]).is_upper_bound))
    return summed


def _row(title: str, scores: Sequence[Sequence[Score]], is_upper_bound: bool) -> Row:
    structures = tuple(dict.fromkeys(score.structure for score in scores[0]))
    dice = np.array([[score.dice for score in run] for run in scores]).reshape(len(scores), -1, len(structures))
    means = {}
    for name in ("recall", "precision", "hd95_mm", "empty_slices_ml"):
        values = np.array([getattr(score, name) for run in scores for score in run if not score.auxiliary])
        known = values[~np.isnan(values)]
        means[name] = float(known.mean()) if len(known) else float("nan")
    return Row(title, dice, structures=structures, is_upper_bound=is_upper_bound, **means)
