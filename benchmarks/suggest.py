"""Does `suggest` earn its place: Dice against ink where slices are chosen by it, at random, and evenly spaced.

    SCRIBBLESEG_DATA=... python benchmarks/suggest.py --data acdc --out runs/suggest_acdc
    SCRIBBLESEG_DATA=... python benchmarks/suggest.py --data promise12 --out runs/suggest_promise12

A simulated annotator begins with the middle slice of a few training cases. A network is trained on these strokes, each
strategy asks for more slices, the annotator draws in them by the rule "full" from the reference masks, and a network is
trained anew on all strokes, round after round. Grids and scores are those of can2018_cpu.py, and so is ACDC's split;
no more than 20 training cases, and one E step. Evenly spaced means: the case with the fewest strokes is next, and in it
1/2, 1/4, 3/4, 1/8, 5/8, ... of the stack. With the defaults it takes about 40 minutes of one core for each seed.

Continues where it was stopped. Without SCRIBBLESEG_DATA, or with --quick, it runs on phantoms at a toy size.
"""

import argparse
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from can2018_cpu import drawn, figures_of, found, ours, split_of
from scribbleseg.annotate.simulate import RULES
from scribbleseg.api import load
from scribbleseg.data import open_dataset
from scribbleseg.data.encoding import declared, to_disk
from scribbleseg.data.formats import write_labels
from scribbleseg.files import write_text
from scribbleseg.recipe import Recipe
from scribbleseg.recipes import default
from scribbleseg.reproduce import run_folder, summarise, train_rows
from scribbleseg.suggest import suggest
from scribbleseg.training.hardware import make_fabric
from scribbleseg.types import UNLABELLED, Dataset, spread

Asked = dict[str, list[int]]
"""The slices that were asked for so far, by case; both organs' stacks lie along the first axis of the array."""

Chosen = tuple[str, int]
"""A slice: its case, and its index."""

MOST_CASES = 20
"""Training cases, at most."""


def main() -> None:
    arguments = parse()
    with opened(arguments) as (root, full):
        recipe = ours(arguments.data, arguments.iterations)
        recipe = replace(recipe, stages=default.training(arguments.iterations, e_steps=1))
        annotator = Annotator(root, full, recipe, arguments.out)
        first = middles(full, arguments.first)
        for seed in arguments.seeds:
            annotator.train("first", first, seed)
            for name in STRATEGIES:
                follow(annotator, name, first, arguments, seed)
        report(annotator, arguments)


def follow(annotator: "Annotator", name: str, first: "Asked", arguments: argparse.Namespace, seed: int) -> None:
    """Round after round of one strategy."""
    asked, before = first, "first"
    for n in range(1, arguments.rounds + 1):
        title = round_of(name, n)
        file = annotator.asked_file(title, seed)
        if not file.exists():
            chosen = STRATEGIES[name](annotator, before, asked, seed, arguments.more)
            write_text(file, json.dumps(added(asked, chosen)))
        asked, before = annotator.asked(title, seed), title
        annotator.train(title, asked, seed)


def round_of(name: str, n: int) -> str:
    """The title of a round."""
    return f"{name}, round {n}"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = as_arguments(parser, Path("runs/suggest_acdc"))
    if arguments.data == "phantoms":
        arguments.rounds = 2
    return arguments


def as_arguments(parser: argparse.ArgumentParser, out: Path) -> argparse.Namespace:
    """What an annotator works on, and for how long; at a toy size on phantoms."""
    parser.add_argument("--data", choices=["acdc", "promise12"], default="acdc")
    parser.add_argument("--out", type=Path, default=out)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--iterations", type=int, default=500, help="of each training")
    parser.add_argument("--first", type=int, default=10, help="slices to begin with, each of a case")
    parser.add_argument("--more", type=int, default=15, help="slices that are added at a time")
    parser.add_argument("--quick", action="store_true", help="phantoms, 20 iterations, one seed, two rounds")
    arguments = parser.parse_args()
    if arguments.quick or not os.environ.get("SCRIBBLESEG_DATA"):
        vars(arguments).update({"data": "phantoms", "seeds": [0], "iterations": 20, "first": 2, "more": 3})
    return arguments


@contextmanager
def opened(arguments: argparse.Namespace) -> Iterator[tuple[Path, Dataset]]:
    """The folder of the data, and the data set with strokes in every slice, of which the annotator's are a part."""
    with found(arguments, train=4) as root:
        full = drawn(root, RULES["full"], arguments.out / "every_slice", "masks")
        yield root, few(full)


def few(dataset: Dataset) -> Dataset:
    """The data set with no more than so many training cases."""
    return replace(dataset, train=dataset.train.only(spread(dataset.train.names, MOST_CASES)))


@dataclass(frozen=True)
class Annotator:
    """Draws in the slices that are asked for, and trains on what is drawn.

    Args:
        root: the folder of the data.
        full: the data set with strokes in every slice.
        recipe: what is trained.
        out: the folder of scribbles and runs.
    """

    root: Path
    full: Dataset
    recipe: Recipe
    out: Path

    def asked_file(self, title: str, seed: int) -> Path:
        """Where the slices of a round are written down."""
        return run_folder(self.out, title, seed).with_suffix(".json")

    def asked(self, title: str, seed: int) -> Asked:
        """All slices that were asked for by the end of a round."""
        return json.loads(self.asked_file(title, seed).read_text())

    def train(self, title: str, asked: Asked, seed: int) -> None:
        """Draw, train and score, unless that has been done."""
        train_rows({title: self.recipe}, self.drawn(title, asked, seed), self.out, [seed], 1, "cpu")

    def drawn(self, title: str, asked: Asked, seed: int) -> Dataset:
        """The data set with strokes in these slices alone."""
        folder = self.out / "scribbles" / run_folder(self.out, title, seed).name
        folder.mkdir(parents=True, exist_ok=True)
        for name, slices in asked.items():
            case = self.full.train.named(name)
            kept = np.full_like(case.scribbles, UNLABELLED)
            kept[slices] = case.scribbles[slices]
            write_labels(folder / f"{name}.nii.gz", to_disk(kept, self.full.n_labels), case.geometry)
        write_text(folder / "dataset.json", json.dumps({"labels": declared(self.full.label_names)}))
        form = None if self.full.name == "folder" else self.full.name
        dataset = open_dataset(self.root, form, **split_of(self.root), scribbles=str(folder.resolve()))
        return replace(dataset, train=dataset.train.only(self.full.train.names))

    def depths(self) -> dict[str, int]:
        """The number of slices of each training case."""
        return {name: self.full.train.geometry(name).shape[0] for name in self.full.train.names}

    def ink(self, asked: Asked) -> int:
        """The number of drawn voxels."""
        scribbles = ((self.full.train.named(name).scribbles, slices) for name, slices in asked.items())
        return sum(int(np.count_nonzero(drawn[slices] != UNLABELLED)) for drawn, slices in scribbles)


def middles(dataset: Dataset, count: int) -> Asked:
    """The middle slice of so many training cases."""
    return {name: [dataset.train.geometry(name).shape[0] // 2] for name in spread(dataset.train.names, count)}


def added(asked: Asked, chosen: list[Chosen]) -> Asked:
    """The slices that were asked for, and more."""
    every = sorted({*chosen, *((name, z) for name, slices in asked.items() for z in slices)})
    return {name: [z for other, z in every if other == name] for name in dict.fromkeys(name for name, _ in every)}


def by_suggest(annotator: Annotator, title: str, asked: Asked, seed: int, count: int) -> list[Chosen]:
    """The slices that `suggest` names, given the last network."""
    dataset = annotator.drawn(title, asked, seed)
    model = load(run_folder(annotator.out, title, seed), "cpu")
    return [(each.case, each.slice) for each in suggest(model.segmenter, dataset.train, count)]


def at_random(annotator: Annotator, title: str, asked: Asked, seed: int, count: int) -> list[Chosen]:
    """Slices at random, all equally likely."""
    left = [(name, z) for name, n in annotator.depths().items() for z in range(n) if z not in asked.get(name, [])]
    rng = np.random.default_rng((seed, total(asked)))
    return [left[n] for n in rng.permutation(len(left))[:count]]


def evenly(annotator: Annotator, title: str, asked: Asked, seed: int, count: int) -> list[Chosen]:
    """Evenly spaced slices: of the case that has the fewest, 1/2, 1/4, 3/4, 1/8, 5/8, ... of the stack."""
    depths = annotator.depths()
    drawn = {name: set(asked.get(name, [])) for name in depths}
    chosen = []
    for _ in range(count):
        name = min((name for name, n in depths.items() if len(drawn[name]) < n), key=lambda name: len(drawn[name]))
        chosen.append((name, next(z for z in halves(depths[name]) if z not in drawn[name])))
        drawn[name].add(chosen[-1][1])
    return chosen


def halves(depth: int) -> Iterator[int]:
    """All slices of a stack in the order 1/2, 1/4, 3/4, 1/8, 5/8, 3/8, 7/8, ... of it, some of them repeatedly."""
    yield from (int(depth * int(f"{n:b}"[::-1], 2) / 2 ** n.bit_length()) for n in range(1, 4 * depth))


STRATEGIES: Mapping[str, Callable[[Annotator, str, Asked, int, int], list[Chosen]]] = {
    "evenly": evenly,
    "at random": at_random,
    "suggest": by_suggest,
}
"""Each is given the round before, all slices so far, the seed, and the number of slices to choose."""


def report(annotator: Annotator, arguments: argparse.Namespace) -> None:
    """A table and one line of JSON; differences are to evenly spaced slices of the same round."""
    seeds, fabric, figures = arguments.seeds, make_fabric("cpu"), {}
    titles = ["first", *(round_of(name, n) for n in range(1, arguments.rounds + 1) for name in STRATEGIES)]
    rows = summarise(titles, annotator.out, seeds, fabric)
    even = rows[0]
    table = Table("slices by", "slices", "voxels drawn", *even.structures, "mean", "minus evenly", box=None)
    for row in rows:
        first = [middles(annotator.full, arguments.first)] * len(seeds)
        asked = first if row is rows[0] else [annotator.asked(row.title, seed) for seed in seeds]
        slices, ink = np.mean([(total(each), annotator.ink(each)) for each in asked], axis=0).tolist()
        even = row if row.title.startswith("evenly") else even
        gap = row.minus(even)
        said = "" if row is even else f"{gap[0]:+.3f} [{gap[1]:+.3f}, {gap[2]:+.3f}]"
        dice = [f"{value:.3f}" for value in (*row.by_structure, row.main.mean())]
        table.add_row(row.title, f"{slices:.0f}", f"{ink:.0f}", *dice, said)
        beside = np.round(gap, 4).tolist()
        figures[row.title] = figures_of(row) | {"slices": slices, "voxels": ink, "minus_evenly": beside}
    Console(width=180).print(table)
    print(json.dumps({"benchmark": "suggest", "data": arguments.data, "seeds": seeds, "rows": figures}))


def total(asked: Asked) -> int:
    """The number of slices."""
    return sum(map(len, asked.values()))


if __name__ == "__main__":
    main()
