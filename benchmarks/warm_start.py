"""What a network that has been trained already is worth when strokes are added: training from it, and anew.

    SCRIBBLESEG_DATA=... python benchmarks/warm_start.py --data acdc --out runs/warm_acdc
    SCRIBBLESEG_DATA=... python benchmarks/warm_start.py --data promise12 --out runs/warm_promise12

A network is trained on the middle slices of a few training cases; then evenly spaced slices are added, and training
starts from it (`train --start-from`), or from random weights, for all of the iterations or half of them. Data, strokes
and recipe are those of suggest.py, whose first network is taken where --out holds it.

Continues where it was stopped. Without SCRIBBLESEG_DATA, or with --quick, it runs on phantoms at a toy size.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from can2018_cpu import figures_of, ours
from scribbleseg.api import train
from scribbleseg.recipe import Recipe
from scribbleseg.recipes import default
from scribbleseg.reproduce import run_folder, summarise
from scribbleseg.training.hardware import make_fabric
from suggest import Annotator, added, as_arguments, evenly, middles, opened

ROWS = {
    "anew": (1.0, False),
    "anew, half": (0.5, False),
    "from the last network": (1.0, True),
    "from the last network, half": (0.5, True),
}
"""The share of the iterations, and whether training starts from the first network."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments = as_arguments(parser, Path("runs/warm_acdc"))
    with opened(arguments) as (root, full):
        annotator = Annotator(root, full, at_length(arguments.data, arguments.iterations), arguments.out)
        first = middles(full, arguments.first)
        for seed in arguments.seeds:
            annotator.train("first", first, seed)
            more = added(first, evenly(annotator, "first", first, seed, arguments.more))
            dataset = annotator.drawn("more", more, seed)
            for title, (share, warm) in ROWS.items():
                recipe = at_length(arguments.data, round(share * arguments.iterations))
                start = run_folder(arguments.out, "first", seed) if warm else None
                out = run_folder(arguments.out, title, seed)
                train(dataset, out, recipe, seed, resume=True, accelerator="cpu", start_from=start)
        report(arguments)


def at_length(data: str, iterations: int) -> Recipe:
    """The recipe on this grid, with so many iterations in all and one E step."""
    recipe = ours(data, iterations)
    return replace(recipe, stages=default.training(iterations, e_steps=1))


def report(arguments: argparse.Namespace) -> None:
    """A table and one line of JSON; differences are to training anew with all iterations."""
    titles = [next(iter(ROWS)), "first", *list(ROWS)[1:]]
    rows = summarise(titles, arguments.out, arguments.seeds, make_fabric("cpu"))
    table = Table("training", *rows[0].structures, "mean", "minus anew", box=None)
    for row in rows:
        gap = row.minus(rows[0])
        said = "" if row is rows[0] else f"{gap[0]:+.3f} [{gap[1]:+.3f}, {gap[2]:+.3f}]"
        table.add_row(row.title, *(f"{value:.3f}" for value in (*row.by_structure, row.dice.mean())), said)
    Console(width=140).print(table)
    figures = {row.title: figures_of(row) | {"minus_anew": np.round(row.minus(rows[0]), 4).tolist()} for row in rows}
    print(json.dumps({"benchmark": "warm_start", "data": arguments.data, "seeds": arguments.seeds, "rows": figures}))


if __name__ == "__main__":
    main()
