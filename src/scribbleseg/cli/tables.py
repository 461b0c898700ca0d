"""Verbs on recipes and papers' tables: recipes, reproduce, tune-crf."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer
from rich.table import Table

from scribbleseg.cli.app import (
    Accelerator,
    Data,
    Fold,
    Format,
    Place,
    Scribbles,
    Seed,
    Settings,
    Split,
    chosen,
    command,
    console,
    open_at,
    print_table,
    verb,
)
from scribbleseg.cli.use import SHOWN
from scribbleseg.plural import number_of

if TYPE_CHECKING:
    from scribbleseg.pipeline import AnyRecipe
    from scribbleseg.reproduce import Row
    from scribbleseg.tune import Trial
    from scribbleseg.types import Dataset

Paper = Literal["can2018", "ji2019"]


@verb
def recipes(
    name: Annotated[
        str | None,
        typer.Argument(help="Show the settings of this recipe, or list the recipes of this family, such as can2018."),
    ] = None,
) -> None:
    """List the recipes, those of the papers by family; the recipes of one family; or all the settings of one recipe.

    Example: `scribbleseg recipes can2018.acdc_base`
    """
    from scribbleseg.recipe_names import about, described, families  # without PyTorch

    known = families()
    if name is None:
        table = Table("recipe", "what it is", box=None)
        for family, rows in known.items():
            if family.startswith("default."):
                for each in rows:
                    table.add_row(each, described()[each])
            else:
                table.add_row(
                    f"{family}_..." if "." in family else f"{family}. ...", f"{about(family)}; {len(rows)} recipes"
                )
        print_table(table)
        console.print(
            "`scribbleseg recipes can2018.compact` lists a family, and `scribbleseg recipes default.quick` the "
            "settings of a recipe."
        )
    elif name not in described() and (listed := known.get(name) or _beginning(name, described())):
        table = Table("recipe", "what it is", title=about(name) if name in known else None, box=None)
        for each, what in listed.items():
            table.add_row(each, what)
        print_table(table)
    else:
        from scribbleseg.recipes import find
        from scribbleseg.settings import to_plain

        console.print_json(data=to_plain(find(name)))


def _beginning(name: str, described: Mapping[str, str]) -> dict[str, str]:
    """The recipes whose names begin so, as far as a dot."""
    return {each: what for each, what in described.items() if each.startswith(f"{name.rstrip('.')}.")}


@verb
def reproduce(
    paper: Annotated[Paper, typer.Argument(help="The paper whose table is trained.", show_default=False)],
    data: Annotated[Path, typer.Option(help="The folder of the data set.", show_default=False)],
    out: Annotated[
        Path, typer.Option(help="The folder for a run of each row and seed, and report.html.", show_default=False)
    ],
    family: Annotated[
        str,
        typer.Option(
            help="The scale. can2018: acdc or prostate, the paper's scale; compact or compact_prostate, a CPU's. "
            "ji2019: brats, the paper's scale; compact, a CPU's."
        ),
    ] = "compact",
    rows: Annotated[
        list[str] | None,
        typer.Option(
            help='The title of a row of the table, such as "Base + separate CRF". Repeatable. Default: all rows.'
        ),
    ] = None,
    iterations: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=10**9,
            help="Iterations of all rounds of training of a row together. Default: the recipes' own numbers.",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=1024, help="The number of random seeds: 0, 1, ...")] = 1,
    jobs: Annotated[int, typer.Option(min=1, max=1024, help="The number of rows that are trained at a time.")] = 1,
    set: Settings = None,
    format: Format = None,
    split: Split = None,
    fold: Fold = None,
    scribbles: Scribbles = None,
    accelerator: Accelerator = "auto",
) -> None:
    """Train the rows of a paper's table that are missing in OUT, and print the table, with pictures in OUT/report.html.

    Example: `scribbleseg reproduce can2018 --data ACDC/ --out runs/table_1 --seeds 3`
    """
    from scribbleseg.recipes import PAPERS
    from scribbleseg.reproduce import train_rows

    wanted = _rows_of(paper, family, iterations, rows, set)
    dataset = _with_scribbles(paper, Place(data, format, split, fold, scribbles), out)
    train_rows(wanted, dataset, out, range(seeds), jobs, accelerator)
    _print_tables({title: PAPERS[paper].paper(family)[title] for title in wanted}, out, seeds, accelerator)


def _rows_of(
    paper: str, family: str, iterations: int | None, titles: Sequence[str] | None, settings: Sequence[str] | None
) -> dict[str, "AnyRecipe"]:
    """The rows of a paper's table by title. Raises DataError for a title that there is not."""
    from scribbleseg.recipes import PAPERS
    from scribbleseg.settings import override
    from scribbleseg.types import DataError

    known = PAPERS[paper].table_1(family, iterations)
    if unknown := [title for title in titles or [] if title not in known]:
        listed = "; ".join(f'"{title}"' for title in known)
        raise DataError(f"--rows: expected titles of the table, {listed}; got {'; '.join(unknown)}")
    return {title: override(row, settings or []) for title, row in known.items() if not titles or title in titles}


def _with_scribbles(paper: str, place: Place, out: Path) -> "Dataset":
    """The data set, with scribbles by the paper's own rule where it takes one and nobody gave any."""
    from scribbleseg.annotate.simulate import RULES, write_simulation

    if paper in RULES and place.scribbles is None:
        drawn = write_simulation(open_at(place, notes=False), RULES[paper], out / "scribbles")
        place = place._replace(scribbles=drawn)
    return open_at(place)


def _print_tables(paper: dict[str, dict[str, float]], out: Path, seeds: int, accelerator: str) -> None:
    """Print a table for rows that are scored alike, beside the paper's figures of each row, and write the report."""
    from scribbleseg.evaluation.report import write_report
    from scribbleseg.reproduce import run_folder, summarise
    from scribbleseg.review import summarise_run
    from scribbleseg.runs import open_run
    from scribbleseg.training.hardware import make_fabric

    fabric = make_fabric(accelerator)
    summary = summarise(paper, out, range(seeds), fabric)
    for structures in dict.fromkeys(row.structures for row in summary):
        table = _paper_table([row for row in summary if row.structures == structures], paper)
        print_table(table)
    console.print("In brackets: the paper's figures, at its own scale and on its own test cases.")
    runs = {title: open_run(run_folder(out, title, 0)) for title in paper}
    pages = [replace(summarise_run(run, fabric, title)[-1], paper=paper[title]) for title, run in runs.items()]
    write_report(out / "report.html", pages)
    console.print(f"Report: {(out / 'report.html').resolve()}")


def _paper_table(rows: Sequence["Row"], paper: Mapping[str, Mapping[str, float]]) -> Table:
    """The rows beside the paper's figures, and beside the one that was trained on full masks, if it is among them."""
    full = next((row for row in rows if row.is_upper_bound), None)
    measures = ("mean Dice", "over seeds", "recall", "precision", "HD95 mm")

    def beside(row: "Row", name: str, value: float) -> str:
        return f"{value:.3f} ({paper[row.title][name]:.3f})" if name in paper[row.title] else f"{value:.3f}"

    table = Table("row", *rows[0].structures, *measures, box=None)
    if full:
        table.add_column("minus fully supervised")
    for row in rows:
        dice = [beside(row, name, dice) for name, dice in zip(row.structures, row.by_structure, strict=True)]
        dice.append(beside(row, "mean", float(row.main.mean())))
        others = [f"{row.by_seed.min():.3f}-{row.by_seed.max():.3f}"]
        others += [beside(row, "recall", row.recall), beside(row, "precision", row.precision)]
        gap = []
        if full:
            mean, low, high = row.minus(full)
            gap = [f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]" if row is not full else ""]
        table.add_row(row.title, *dice, *others, f"{row.hd95_mm:.1f}", *gap)
    return table


@verb
def tune_crf(
    data: Data,
    out: Annotated[Path, typer.Option(help="The run folder of the network that the CRF is tried on.")],
    recipe: Annotated[str, typer.Option(help="The recipe whose network and grid are taken.")] = "can2018.compact_crf",
    trials: Annotated[
        int | None,
        typer.Option(min=1, max=10**9, help="How many settings are tried, at random; the default tries all 243."),
    ] = None,
    set: Settings = None,
    format: Format = None,
    split: Split = None,
    fold: Fold = None,
    scribbles: Scribbles = None,
    seed: Seed = 0,
    accelerator: Accelerator = "auto",
) -> None:
    """Search the weights and widths of the dense CRF (conditional random field), which sharpens new labels along edges.

    They are tried on scribbles that are held out from training. Masks are not looked at.

    Example: `scribbleseg tune-crf ACDC/ --out runs/tuning`
    """
    from scribbleseg import tune
    from scribbleseg.pipeline import begin, plan
    from scribbleseg.recipe import Recipe
    from scribbleseg.training.hardware import make_fabric

    one = cast(Recipe, chosen(recipe, set, kind="em"))
    dataset = open_at(Place(data, format, split, fold, scribbles))
    rest, held_out = tune.hold_out(dataset)
    console.print(f"{number_of(len(held_out), 'case')} held out: {', '.join(held_out.names)}")
    with begin(rest, out, one.beginning(1), fabric=make_fabric(accelerator), seed=seed, resume=True) as session:
        session.prepare(session.recipe.preprocess, session.recipe.held_out)  # an error of the data comes first
        console.print(f"To do: {plan(session)} After that the settings of the CRF are tried.")
        found = tune.tune_crf(session, held_out, most=trials)
    _print_trials(found, data, out)


def _print_trials(trials: Sequence["Trial"], data: Path, out: Path) -> None:
    """Print the best settings, and the command that trains with the best one."""
    from scribbleseg.tune import GRID

    table = Table("Dice on held-out scribbles", "w1", "w2", box=None)
    for column in ("sigma_alpha px", "sigma_beta", "sigma_gamma px"):
        table.add_column(column)
    for trial in trials[:SHOWN]:
        crf = trial.crf
        numbers = (crf.w1, crf.w2, crf.sigma_alpha, crf.sigma_beta, crf.sigma_gamma) if crf else ("no CRF",)
        table.add_row(f"{trial.dice:.4f}", *map(str, numbers))
    print_table(table)
    without = next(trial.dice for trial in trials if trial.crf is None)
    console.print(f"Without a CRF: {without:.4f}. All trials: {out / 'trials.jsonl'}")
    best = trials[0].crf
    if best is None:
        console.print("No setting that was tried agrees better with people than no CRF does: leave the CRF out.")
    else:
        refine = [f"--set=stages.relabel.refine.{name}={getattr(best, name)}" for name in ("unit", *GRID)]
        words = ["train", data, "--recipe", "can2018.compact_crf", *refine, "--out", "RUN"]
        console.print(f"Next: {command(*words)}")
