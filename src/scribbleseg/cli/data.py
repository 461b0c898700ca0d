"""Verbs on data before training: check, simulate, seeds."""

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table
from rich.text import Text

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
    chosen_or_fitting,
    console,
    open_at,
    print_table,
    verb,
)

if TYPE_CHECKING:
    from scribbleseg.annotate.check import Fault, Part
    from scribbleseg.recipe import Recipe
    from scribbleseg.session import Session
    from scribbleseg.types import Dataset

Rule = Literal["full", "half", "quarter", "spots", "boundary", "ji2019"]
Source = Literal["masks", "scribbles"]
Drawn = Literal["scribbled", "all"]

SHOWN = 5
"""Cases with the same fault that are named."""

LOOKED_AT = 5
"""Training cases whose scribbles `check` grows, at most; ours."""

HARDLY = 1.5
"""A class that grows to less than so many times its scribbles is named; ours."""


@verb
def check(
    data: Data, format: Format = None, split: Split = None, fold: Fold = None, scribbles: Scribbles = None
) -> None:
    """Audit a data set before training: list every fault with its case, its file and what to do.

    Where there are none, it also says what `train` would do with the data on this machine, and how long that takes.

    The exit code is 2 if there are faults, and 0 if there are none.

    Example: `scribbleseg check ACDC/`
    """
    from rich.progress import track

    from scribbleseg.annotate.check import check as audit_of
    from scribbleseg.files import first_of

    dataset = open_at(Place(data, format, split, fold, scribbles), notes=False)
    audit = audit_of(dataset, lambda cases: track(cases, "Checking"))
    print_images(audit.images)
    coverage = Table(
        "class", "cases", "voxels", "share", title=f"Scribbles in {audit.coverage.n_cases} training cases", box=None
    )
    for row in audit.coverage.classes:
        coverage.add_row(row.name, str(row.n_cases), str(row.n_voxels), f"{row.share:.2%}")
    console.print(coverage)
    for same in _grouped(audit.faults):
        fault = same[0]
        where = first_of([f"{each.case}{f' ({each.file})' if each.file else ''}" for each in same], SHOWN)
        colour = {"fault": "red", "warning": "yellow", "note": "dim"}[fault.severity]
        said = Text.assemble((fault.severity, colour), f" {where}: {fault.problem}; {fault.remedy}")
        console.print(said, soft_wrap=True)
    count = Counter(fault.severity for fault in audit.faults)
    n_cases = len(dataset.train) + len(dataset.test)
    console.print(f"{count['fault']} faults, {count['warning']} warnings in {n_cases} cases")
    if not audit.sound:
        raise typer.Exit(2)
    say_what_will_happen(dataset, audit.drawn)


def print_images(images: Mapping["Part", Mapping[str, str]]) -> None:
    """What the images of the training and the test cases are like, side by side."""
    table = Table("images", *(f"{part}ing" for part in images), box=None)
    for name in dict.fromkeys(name for rows in images.values() for name in rows):
        table.add_row(name, *(rows.get(name, "") for rows in images.values()))
    print_table(table)


def say_what_will_happen(dataset: "Dataset", drawn: Sequence[str]) -> None:
    """Print what `train` would do with this data here, and how far the scribbles of a few of the drawn cases grow."""
    from scribbleseg.em import grow_seeds
    from scribbleseg.pipeline import begin, plan
    from scribbleseg.training.hardware import cores, make_fabric

    fabric = make_fabric()
    with tempfile.TemporaryDirectory() as scratch:
        recipe = chosen_or_fitting(None, None, Path(scratch), fabric)
        with begin(dataset, Path(scratch) / "run", recipe, fabric=fabric) as begun:
            console.print(f"`scribbleseg train` would do: {plan(begun)}", soft_wrap=True)
            some = drawn[:LOOKED_AT]
            few = replace(begun.dataset, train=begun.dataset.train.only(some))
            session = replace(begun, dataset=few, workers=cores())
            session.prepare(session.recipe.preprocess)
            grow_seeds(session)
            print_growth(session, f"Seed areas in {len(some)} training case(s)")


def print_growth(session: "Session[Recipe]", title: str | None = None) -> None:
    """How much of the pixels is scribbled and how much is grown, by class; names the classes that hardly grow."""
    slices = session.slices
    table = Table("class", "scribbles", "seed areas", title=title, box=None)
    stuck = []
    for value, name in enumerate(session.dataset.label_names):
        drawn, grown = (slices.share(labels == value) for labels in (slices.scribbles, slices.layer("labels", 0)))
        table.add_row(name, f"{drawn:.2%}", f"{grown:.2%}")
        if 0 < grown < HARDLY * drawn:
            stuck.append(name)
    console.print(table)
    if tau := session.run.details.get("tau"):
        console.print(f"Grown with tau {tau}, chosen by how far the structures grow.")
    if stuck and session.recipe.seeds.kind == "random_walker":
        console.print(
            f"{' and '.join(stuck)} hardly grew beyond the scribbles: a network has little to learn from there. "
            "Draw more of it, or let it grow further by a smaller seeds.tau or seeds.beta.",
            style="yellow",
            soft_wrap=True,
        )


def _grouped(faults: Sequence["Fault"]) -> list[list["Fault"]]:
    """The faults in their order, equal ones of different cases together."""
    groups: dict[tuple[str, str, str], list[Fault]] = {}
    for fault in faults:
        groups.setdefault((fault.severity, fault.problem, fault.remedy), []).append(fault)
    return list(groups.values())


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
    width: Annotated[int | None, typer.Option(min=1, help="The pen's width in pixels. Default: the rule's.")] = None,
    every: Annotated[int, typer.Option(min=1, help="Draw in every so manyth slice: 3 draws in a third of them.")] = 1,
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
    seed: Annotated[int, typer.Option(min=0, help="Random seed for where lines are drawn.")] = 0,
    format: Format = None,
    split: Split = None,
    fold: Fold = None,
) -> None:
    """Draw scribbles by rule for the training cases, to measure what they are worth before anybody draws.

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
    recipe = "--recipe ji2019.compact_full " if dataset.scribble_names and labels == "scribbled" else ""
    console.print(
        f"Scribbles: {folder}. Next: scribbleseg train {data} --scribbles {folder} {recipe}--out RUN", soft_wrap=True
    )


@verb
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
    """Grow scribbles into seed areas and stop, to look at them: OUT/seeds.html, and label maps in OUT/labels/0.

    Example: `scribbleseg seeds ACDC/ --out runs/first --set seeds.tau=0.95`
    """
    from scribbleseg.em import grow_seeds
    from scribbleseg.evaluation.report import write_report
    from scribbleseg.pipeline import begin
    from scribbleseg.review import summarise_seeds
    from scribbleseg.training.hardware import cores, make_fabric

    fabric = make_fabric("cpu")
    dataset = open_at(Place(data, format, split, fold, scribbles))
    one = chosen_or_fitting(recipe, set, out, make_fabric(), kind="em")  # `train` goes on with it, perhaps on a GPU
    with begin(dataset, out, one, fabric=fabric, seed=seed, resume=True) as begun:
        session = replace(begun, workers=workers or cores())
        session.prepare(session.recipe.preprocess, session.recipe.held_out)
        grow_seeds(session)
        print_growth(session)
        write_report(out / "seeds.html", [summarise_seeds(session.run)], "Seed areas")
    console.print(f"Pictures: {(out / 'seeds.html').resolve()}. Label maps: {session.run.labels(0)}")
