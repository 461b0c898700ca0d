"""Verbs on data before training: check, simulate, seeds."""

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from operator import eq
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table
from rich.text import Text

from scribbleseg import ranks
from scribbleseg.cli.app import (
    Data,
    Fold,
    Format,
    Name,
    Place,
    Scribbles,
    Seed,
    Settings,
    Split,
    Workers,
    chosen,
    chosen_or_fitting,
    command,
    console,
    held_out_line,
    open_at,
    print_table,
    say_held_out,
    shared_verb,
    verb,
)
from scribbleseg.plural import number_of

if TYPE_CHECKING:
    from scribbleseg.annotate.check import Part
    from scribbleseg.recipe import Recipe
    from scribbleseg.session import Session
    from scribbleseg.types import Dataset

Rule = Literal["full", "half", "quarter", "spots", "boundary", "ji2019"]
Source = Literal["masks", "scribbles"]
Drawn = Literal["scribbled", "all"]

LOOKED_AT = 5
"""Training cases whose scribbles `check` grows, at most; ours."""

HARDLY = 1.5
"""A class that grows to less than so many times its scribbles is named; ours."""


@shared_verb
def check(
    data: Data,
    recipe: Name = None,
    set: Settings = None,
    format: Format = None,
    split: Split = None,
    fold: Fold = None,
    scribbles: Scribbles = None,
) -> None:
    """Audit a data set before training: list every fault with its case, its file and what to do.

    Where there are none, it also says what `train` with this recipe would do on this machine, and how long that takes.

    The exit code is 2 if there are faults, and 0 if there are none.

    Example: `scribbleseg check ACDC/`
    """
    from scribbleseg.annotate.check import check as audit_of
    from scribbleseg.annotate.check import sentences
    from scribbleseg.pipeline import begin, first_recipe, plan
    from scribbleseg.training.hardware import make_fabric

    dataset = open_at(Place(data, format, split, fold, scribbles), notes=False)
    asked = first_recipe(chosen(recipe or "default.quick", set)).preprocess.plane  # all of our own leave it open
    audit = audit_of(dataset, lambda look, cases: ranks.share(cases, look, "Checking"), asked)
    if not ranks.leads():
        return
    print_images(audit.images)
    drawn, of = audit.coverage.n_drawn, audit.coverage.n_cases
    title = f"Scribbles in {f'{drawn} of ' if drawn != of else ''}{number_of(of, 'training case')}"
    coverage = Table("class", "cases", "voxels", "share", title=title, box=None)
    for row in audit.coverage.classes:
        coverage.add_row(row.name, str(row.n_cases), str(row.n_voxels), f"{row.share:.2%}")
    print_table(coverage)
    for severity, said in sentences(audit.faults):
        colour = {"fault": "red", "warning": "yellow", "note": "dim"}[severity]
        console.print(Text.assemble((severity, colour), f" {said}"))
    found = Counter(fault.severity for fault in audit.faults)
    counts = ", ".join(number_of(found[severity], severity) for severity in ("fault", "warning"))
    console.print(f"{counts} in {number_of(len(dataset.train) + len(dataset.test), 'case')}")
    if not audit.sound:
        raise typer.Exit(2)
    with tempfile.TemporaryDirectory() as scratch:
        fabric = make_fabric()
        one = chosen_or_fitting(recipe, set, Path(scratch), fabric)
        with begin(dataset, Path(scratch) / "run", one, fabric=fabric) as session:
            console.print(f"`scribbleseg train` would do: {plan(session)}")
            if recipe is None:
                _say_what_else(session, dataset)
            say_what_grows(session, audit.drawn, audit.coverage.n_slices)


def print_images(images: Mapping["Part", Mapping[str, str]]) -> None:
    """What the images of the training and the test cases are like, side by side."""
    table = Table("images", *(f"{part}ing" for part in images), box=None)
    for name in dict.fromkeys(name for rows in images.values() for name in rows):
        table.add_row(name, *(rows.get(name, "") for rows in images.values()))
    print_table(table)


def _say_what_else(session: "Session[Any]", dataset: "Dataset") -> None:
    """Print which other kind of recipe may fit the data, or why none does."""
    from scribbleseg.pipeline import advice

    if advised := advice(session):
        console.print(advised)
    if dataset.scribble_names:
        console.print(
            f"Scribbles are of {dataset.scribble_names[1]} alone, and so is what this learns. With a list of the "
            "structures in each case, --recipe ji2019.compact_full learns them, too."
        )


def say_what_grows(begun: "Session[Any]", drawn: Sequence[str], n_slices: int) -> None:
    """Print how many slices a training holds out, and how far the scribbles of a few of the drawn cases grow.

    Args:
        begun: the training, in a run folder that is for once.
        drawn: the cases with scribbles, the best ones first.
        n_slices: the number of their slices that have scribbles.
    """
    from scribbleseg.em import grow_seeds
    from scribbleseg.pipeline import first_phase
    from scribbleseg.training.hardware import cores

    first = first_phase(begun)
    if first.recipe.is_upper_bound:
        return  # nothing grows
    if share := first.recipe.held_out:
        console.print(held_out_line(round(share * n_slices), n_slices, share, about=True))
    some = drawn[:LOOKED_AT]
    few = replace(first.dataset, train=first.dataset.train.only(some))
    session = replace(first, dataset=few, workers=cores())
    session.prepare(session.recipe.preprocess, checked=True)
    grow_seeds(session)
    print_growth(session, f"Seed areas in {number_of(len(some), 'training case')}, nothing held out")


def print_growth(session: "Session[Recipe]", title: str | None = None) -> None:
    """How much of the pixels is scribbled and how much is grown, by class; names the classes that hardly grow."""
    slices = session.slices
    table = Table("class", "scribbles", "seed areas", title=title, box=None)
    stuck = []
    for value, name in enumerate(session.dataset.label_names):
        layers, is_of_it = (slices.scribbles, slices.layer("labels", 0)), partial(eq, value)
        drawn, grown = (slices.share(is_of_it, labels) for labels in layers)
        table.add_row(name, f"{drawn:.2%}", f"{grown:.2%}")
        if 0 < grown < HARDLY * drawn:
            stuck.append(name)
    print_table(table)
    details = session.run.details
    if details.get("likelihood"):
        console.print("Grown by intensities, too, for these tell the scribbles of the labels apart.")
    elif tau := details.get("tau"):
        console.print(f"Grown with tau {tau}, chosen by how far the structures grow.")
    _print_direction(session)
    if stuck and session.recipe.seeds.kind == "random_walker":
        console.print(
            f"{' and '.join(stuck)} hardly grew beyond the scribbles: a network has little to learn from there. "
            "Draw more of it, or let it grow further by a smaller seeds.tau or seeds.beta.",
            style="yellow",
        )


def _print_direction(session: "Session[Recipe]") -> None:
    """Whether areas grew across slices, where that was left to the data, and why."""
    from scribbleseg.seeds.random_walker import NEAR

    seeder, slices = session.recipe.seeds, session.slices
    stacks = [slices.spacing_mm[name] for name, rows in slices.rows.items() if rows.stop - rows.start > 1]
    if not stacks or seeder.kind != "random_walker" or seeder.dimensions is not None:
        return
    if across := sum(map(seeder.goes_across, stacks)):
        volumes = f"{across} of {number_of(len(stacks), 'volume')}"
        console.print(f"Grown across slices in {volumes}, for there they are at most {NEAR:g} pixels apart.")
    else:
        console.print(f"Grown within slices, for they are more than {NEAR:g} pixels apart.")


@verb
def simulate(
    data: Data,
    out: Annotated[Path, typer.Option(help="The folder for the scribbles; `train --scribbles` takes it.")],
    rule: Annotated[
        Rule,
        typer.Option(
            help="full, half or quarter: that share of a line along the middle of each structure; spots: one spot in "
            "each; boundary: full, and a short line along each border; ji2019: the lines of Ji et al. 2019."
        ),
    ] = "full",
    length: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SHARE",
            help="The share of each line that is drawn, from 0 (a spot) to 1: for all labels (0.5) or for one "
            "(WT=0.25). Repeatable.",
        ),
    ] = None,
    width: Annotated[
        int | None, typer.Option(min=1, max=1000, help="The pen's width in pixels. Default: the rule's.")
    ] = None,
    every: Annotated[
        int, typer.Option(min=1, max=10**9, help="Draw in one slice of so many: 3 draws in every third slice.")
    ] = 1,
    labels: Annotated[
        Drawn,
        typer.Option(
            help="scribbled: draw what the data set's scribbles tell apart (BraTS: the whole tumour); all: draw all "
            "structures of the masks."
        ),
    ] = "scribbled",
    source: Annotated[
        Source, typer.Option(help="masks: draw on the masks; scribbles: keep a part of the scribbles that are there.")
    ] = "masks",
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Random seed for where lines are drawn.")] = 0,
    format: Format = None,
    split: Split = None,
    fold: Fold = None,
) -> None:
    """Draw scribbles on the masks of the training cases by a rule, to measure what scribbles are worth before drawing.

    Example: `scribbleseg simulate BraTS/ --out scribbles --rule ji2019`
    """
    from scribbleseg.annotate.simulate import RULES, drawn_in, with_lengths, write_simulation

    dataset = open_at(Place(data, format, split, fold))
    drawn_by = replace(RULES[rule], seed=seed, every=every)
    if width is not None:
        drawn_by = replace(drawn_by, width=width)
    if length:
        drawn_by = with_lengths(drawn_by, length, drawn_in(dataset, labels).label_names)
    folder = write_simulation(dataset, drawn_by, out, source, labels)
    recipe = ["--recipe", "ji2019.compact_full"] if dataset.scribble_names and labels == "scribbled" else []
    words = ["train", data, "--scribbles", folder, *recipe, "--out", "RUN"]
    console.print(f"Scribbles: {folder}. Next: {command(*words)}")


@shared_verb
def seeds(
    data: Data,
    out: Annotated[
        Path, typer.Option(help="The run folder. `train --out` with the same folder and --resume goes on from there.")
    ],
    recipe: Name = None,
    set: Settings = None,
    format: Format = None,
    split: Split = None,
    fold: Fold = None,
    scribbles: Scribbles = None,
    seed: Seed = 0,
    workers: Workers = 0,
) -> None:
    """Grow scribbles into seed areas, the pixels that they make nearly sure, and stop, to look at them.

    OUT/seeds.html has pictures, OUT/labels/0 label maps.

    Example: `scribbleseg seeds ACDC/ --out runs/first --set seeds.tau=0.95`
    """
    from scribbleseg.em import grow_seeds
    from scribbleseg.evaluation.report import write_report
    from scribbleseg.pipeline import begin
    from scribbleseg.review import summarise_seeds
    from scribbleseg.training.hardware import cores_of_rank, make_fabric, shared_fabric

    fabric = shared_fabric("cpu")
    dataset = open_at(Place(data, format, split, fold, scribbles))
    here = make_fabric()  # `train` goes on with the run, perhaps on a GPU
    one = ranks.on_leader(lambda: chosen_or_fitting(recipe, set, out, here, kind="em"), fabric)
    with begin(dataset, out, one, fabric=fabric, seed=seed, resume=True) as begun:
        session = replace(begun, workers=workers or cores_of_rank(fabric))
        session.prepare(session.recipe.preprocess, session.recipe.held_out)
        grow_seeds(session)
        if not session.leads:
            return
        print_growth(session)
        say_held_out(session)
        write_report(out / "seeds.html", [summarise_seeds(session.run)], "Seed areas")
    console.print(f"Pictures: {(out / 'seeds.html').resolve()}. Label maps: {session.run.labels(0).resolve()}")
