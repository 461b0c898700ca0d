"""Verbs that say how good a network is: evaluate, report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from scribbleseg import ranks
from scribbleseg.cli.app import (
    Accelerator,
    Data,
    Fold,
    Format,
    Place,
    Split,
    console,
    open_at,
    print_table,
    shared_verb,
    verb,
)
from scribbleseg.plural import number_of

if TYPE_CHECKING:
    from scribbleseg.data.predictions import Predictions
    from scribbleseg.evaluation.metrics import Score
    from scribbleseg.evaluation.report import RunSummary


@shared_verb
def evaluate(
    predictions: Annotated[
        Path, typer.Argument(help="The folder of label maps, CASE.nii.gz or .png.", show_default=False)
    ],
    data: Data,
    out: Annotated[
        Path | None,
        typer.Option(help="A folder for scores.csv, scores.json and their summary. Default: none is written."),
    ] = None,
    format: Format = None,
    split: Split = None,
    fold: Fold = None,
) -> None:
    """Score label maps against a data set's reference masks: overlap (Dice), distances (HD95, ASSD), volume, in 3-D.

    Values mean what the dataset.json beside the label maps declares (`predict` and nnU-Net write one), else what they
    mean in the masks. Cases without a mask, and test cases without a label map, are named and not scored. Training
    cases are summed up by themselves, for a network knows them.

    Example: `scribbleseg evaluate predictions ACDC/ --out scores`
    """
    from scribbleseg.data.predictions import open_predictions
    from scribbleseg.evaluation.metrics import write_scores
    from scribbleseg.files import first_of
    from scribbleseg.runs import check_outside
    from scribbleseg.types import DataError

    if out:
        check_outside(out, data)
    opened = open_predictions(predictions, open_at(Place(data, format, split, fold)))
    dataset = opened.dataset
    if opened.strangers:
        console.print(f"not cases of {data}, left out: {first_of(opened.named_strangers)}", style="yellow")
    if missing := sorted(set(dataset.test.names) - opened.files.keys()):
        console.print(f"test cases without a label map, not scored: {first_of(missing)}", style="yellow")
    scores, without_mask, left_out = _scored(opened)
    if scores and not ranks.leads():
        return
    if without_mask:
        console.print(f"cases without a reference mask, not scored: {first_of(without_mask)}", style="yellow")
    if left_out:
        console.print(f"declared as ignore, and not scored: {number_of(left_out, 'voxel')}", style="yellow")
    if not scores:
        raise DataError(
            f"{dataset.root}: expected reference masks, found none of {number_of(len(opened.files), 'case')}; add "
            "masks to score with"
        )
    learned = set(dataset.train.names)
    parts = {
        predictions.name: [score for score in scores if score.case not in learned],
        f"{predictions.name}, training cases": [score for score in scores if score.case in learned],
    }
    tested, trained = (len({score.case for score in part}) for part in parts.values())
    also = f"; training cases, summed up by themselves: {trained}" if trained else ""
    console.print(f"{tested} of {number_of(len(dataset.test), 'test case')} scored{also}")
    print_table(score_table({name: part for name, part in parts.items() if part}))
    for folder, part in zip((out, out and out / "training"), parts.values(), strict=True):
        if folder and part:
            write_scores(part, folder)
            console.print(f"Scores: {folder}/scores.csv")


def _scored(opened: "Predictions") -> tuple[list["Score"], list[str], int]:
    """The scores of all cases that have a mask, the cases that have none, and the voxels that masks leave out."""
    from scribbleseg.data.orientation import is_picture
    from scribbleseg.evaluation.metrics import score
    from scribbleseg.types import UNLABELLED

    dataset = opened.dataset

    def score_of(name: str) -> "tuple[list[Score], int] | None":
        reference = dataset.read_reference(name)
        if reference is None or (reference == UNLABELLED).all():
            return None
        case = (dataset.train if name in dataset.train.names else dataset.test).named(name)
        left_out = int((reference == UNLABELLED).sum())
        labels, spacing_mm, in_pixels = opened.read(case), case.spacing_mm, is_picture(case.geometry)
        del case  # its image takes memory
        return score(name, labels, reference, spacing_mm, dataset.scored, in_pixels), left_out

    names = list(opened.files)
    found = ranks.share(names, score_of, "Scoring")
    without_mask = [name for name, each in zip(names, found, strict=True) if each is None]
    scored = [each for each in found if each is not None]
    return [score for scores, _ in scored for score in scores], without_mask, sum(left for _, left in scored)


@verb
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, to be shown side by side.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The HTML file.")] = Path("report.html"),
    accelerator: Accelerator = "auto",
) -> None:
    """Write one self-contained HTML page: curves, scores of the test cases, and pictures of every round.

    Example: `scribbleseg report runs/first runs/second --out report.html`
    """
    from scribbleseg.evaluation.report import check_page, write_report
    from scribbleseg.review import summarise_run
    from scribbleseg.runs import open_run
    from scribbleseg.training.hardware import make_fabric

    check_page(out)
    opened = [open_run(path) for path in runs]
    fabric = make_fabric(accelerator)
    summaries = [summary for run in opened for summary in summarise_run(run, fabric)]
    write_report(out, summaries)
    for summary in summaries:
        for sentence in summary.warnings:
            console.print(f"{summary.name}: {sentence}", style="yellow")
    print_scores(summaries)
    console.print(f"Report: {out.resolve()}")


def print_scores(summaries: Sequence["RunSummary"]) -> None:
    """The scores of runs, and for those that have none what else is known of them."""
    from scribbleseg.evaluation.curves import by_recursion
    from scribbleseg.evaluation.verdict import verdict

    if scored := {summary.name: summary.scores for summary in summaries if summary.scores}:
        print_table(score_table(scored))
    for summary in summaries:
        if summary.scores:
            continue
        agreed = by_recursion(summary.metrics)["agreement"]
        console.print(f"{summary.name}: {' '.join(verdict((), agreement=agreed[-1][1] if agreed else None))}")
        last = [record["agreement"] for record in summary.metrics if record["event"] == "agreement"][-1:]
        for labels in last:
            console.print(agreement_line(labels))


def agreement_line(labels: Mapping[str, float]) -> str:
    """The agreement with held-out scribbles, by the name of the label."""
    agreed = ", ".join(f"{label} {value:.2f}" for label, value in labels.items())
    return f"  Agreement with held-out scribbles, as Dice: {agreed}"


def score_table(scores: Mapping[str, Sequence["Score"]]) -> Table:
    """Means over cases, a line for each structure of each run."""
    from scribbleseg.evaluation.metrics import DISTANCES, TABLE, summarise, titles

    everything = [each for of_run in scores.values() for each in of_run]
    table = Table("", *titles(everything), title="mean over cases", box=None)
    for name, of_run in scores.items():
        for row in summarise(of_run):
            of = "" if row["distances"] == row["cases"] else f" ({row['distances']} of {row['cases']})"
            cells = (f"{row[key]:.{digits}f}{of if key in DISTANCES else ''}" for _, key, digits in TABLE)
            table.add_row(f"{name}: {row['structure']}", *cells)
    return table
