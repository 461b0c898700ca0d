"""Verbs that use a trained network: predict, evaluate, report."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from scribbleseg.cli.app import Accelerator, Data, Fold, Format, Place, Split, console, open_at, verb

if TYPE_CHECKING:
    from scribbleseg.api import Model
    from scribbleseg.evaluation.metrics import Score
    from scribbleseg.relabel.uncertainty import Rank
    from scribbleseg.types import Case, Cases, Dataset

SHOWN = 10
"""Rows of a ranking that are printed; the file has all."""

MAPS = ("_probabilities", "_uncertainty_p", "_entropy", "_mutual_information")
"""How the names of files end that `predict` writes beside label maps."""


@verb
def predict(
    run: Annotated[Path, typer.Argument(help="The run folder of `train`.", show_default=False)],
    images: Annotated[Path, typer.Argument(help="An image, a folder of images, or a data set.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The folder for the label maps, CASE.nii.gz (or .png for pictures).")],
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also write CASE_probabilities.nii.gz.")
    ] = False,
    uncertainty: Annotated[
        bool,
        typer.Option(
            "--uncertainty",
            help="Also write maps: CASE_uncertainty_p (high where 50 passes with dropout cannot tell the two likeliest "
            "labels apart), _entropy, _mutual_information; and rank the cases in uncertainty.csv.",
        ),
    ] = False,
    recursion: Annotated[
        int | None, typer.Option(min=0, help="Use the network of this recursion, counted from 0. Default: the last.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are in OUT already.")] = False,
    accelerator: Accelerator = "auto",
) -> None:
    """Segment new images with a trained network, each on its own grid.

    Given a data set, it segments the test cases of the split that the run was trained on, or all cases where there are
    no test cases.

    Example: `scribbleseg predict runs/first ACDC/patient006/patient006_frame01.nii.gz --out predictions`
    """
    from rich.progress import track

    from scribbleseg.api import load
    from scribbleseg.files import write_text
    from scribbleseg.relabel.uncertainty import write_ranking

    model = load(run, accelerator, recursion)
    if uncertainty:
        model.segmenter.check_dropout()
    cases = model.cases(images)
    declaration = _free_place(out, cases, model, overwrite)
    ranks = []
    for case in track(cases, "Segmenting", total=len(cases)):
        _segment(model, case, out, probabilities)
        if uncertainty:
            ranks.append(_uncertain(model, case, out))
    write_text(out / "dataset.json", declaration)  # last, and as nnU-Net does: `evaluate` reads it
    values = ", ".join(f"{value} {name}" for value, name in enumerate(model.label_names))
    console.print(f"{len(cases)} label maps in {out}, {values}")
    if ranks:
        write_ranking(out, ranks)
        table = Table("most uncertain first", "entropy, nats", "uncertain", box=None)
        for rank in sorted(ranks, key=lambda rank: -rank.score)[:SHOWN]:
            table.add_row(rank.case, f"{rank.score:.4f}", f"{rank.uncertain:.1%}")
        console.print(table)
        console.print(f"All cases: {out / 'uncertainty.csv'}")


def _free_place(out: Path, cases: "Cases", model: "Model", overwrite: bool) -> str:
    """The text of the dataset.json that will describe the label maps. Raises DataError where others lie in OUT."""
    from scribbleseg.data.formats import PNG
    from scribbleseg.types import DataError

    there = [f"{name}{end}" for name in cases.names for end in (".nii.gz", PNG) if (out / f"{name}{end}").exists()]
    if there and not overwrite:
        raise DataError(f"{out}: expected no file of these names, found {there[0]}; give another --out, or --overwrite")
    values = {name: value for value, name in enumerate(model.label_names)}
    file, text = out / "dataset.json", json.dumps({"labels": values}) + "\n"
    if file.exists() and file.read_text() != text:
        raise DataError(f"{file}: expected no description of another data set, found one; give another --out")
    return text


def _segment(model: "Model", case: "Case", out: Path, probabilities: bool) -> None:
    from scribbleseg.data.formats import label_ending, write_labels, write_probabilities

    if probabilities:
        likely = model.probabilities(case)
        write_probabilities(out / f"{case.name}_probabilities.nii.gz", likely, case.geometry)
        labels = likely.argmax(axis=0).astype("uint8")
    else:
        labels = model.segment(case)
    write_labels(out / f"{case.name}{label_ending(case.geometry)}", labels, case.geometry)


def _uncertain(model: "Model", case: "Case", out: Path) -> "Rank":
    """Write the maps of a case, and rank it."""
    from scribbleseg.relabel.decide import WelchTest
    from scribbleseg.relabel.uncertainty import rank, uncertainty, write_uncertainty

    test = WelchTest()
    found = uncertainty(model.segmenter, case, test)  # type: ignore[arg-type]  # of one network: it has dropout
    write_uncertainty(out, case, found)
    return rank(case.name, found, test)


@verb
def evaluate(
    predictions: Annotated[Path, typer.Argument(help="The folder of label maps, CASE.nii.gz.", show_default=False)],
    data: Data,
    out: Annotated[
        Path | None, typer.Option(help="The folder for scores.csv, .json and the summary. Default: PREDICTIONS.")
    ] = None,
    format: Format = None,
    split: Split = None,
    fold: Fold = None,
) -> None:
    """Score label maps against a data set's reference masks: Dice, HD95, ASSD and volume, in 3-D and millimetres.

    Example: `scribbleseg evaluate predictions ACDC/`
    """
    from rich.progress import track

    from scribbleseg.data.formats import check_same_grid, read_labels, volumes_in
    from scribbleseg.evaluation.metrics import score, write_scores
    from scribbleseg.types import DataError

    dataset = _as_declared(open_at(Place(data, format, split, fold)), predictions)
    files = {name: path for name, path in volumes_in(predictions).items() if not name.endswith(MAPS)}
    known = {name: cases for cases in (dataset.train, dataset.test) for name in cases.names}
    if not known.keys() & files.keys():
        raise DataError(
            f"{predictions}: expected label maps named like the cases of {data} ({', '.join(list(known)[:3])}, ...), "
            f"found {', '.join(list(files)[:3]) or 'none'}; name them so"
        )
    if strangers := sorted(files.keys() - known.keys()):
        console.print(f"[yellow]not cases of {data}, left out: {', '.join(strangers)}[/]")
    scored = [name for name in files if name in known]
    scores: list[Score] = []
    for name in track(scored, "Scoring"):
        case, reference = known[name].named(name), dataset.reference(name)
        labels, geometry = read_labels(files[name])
        check_same_grid(files[name], geometry, case.files[0], case.geometry)
        scores += score(name, labels.astype("uint8"), reference, case.spacing_mm, dataset.scored)
    write_scores(scores, out or predictions)
    trained = sum(name in dataset.train.names for name in scored)
    console.print(f"{len(scored)} cases scored ({trained} of them training cases) of the {len(known)} in {data}")
    console.print(score_table({predictions.name: scores}))
    console.print(f"Scores: {out or predictions}/scores.csv")


@verb
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, to be shown side by side.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The HTML file.")] = Path("report.html"),
    accelerator: Accelerator = "auto",
) -> None:
    """Write one self-contained HTML page: curves, scores of the test cases, and pictures of every recursion.

    Example: `scribbleseg report runs/first runs/second --out report.html`
    """
    from scribbleseg.evaluation.report import write_report
    from scribbleseg.review import summarise_run
    from scribbleseg.runs import open_run
    from scribbleseg.training.loop import make_fabric

    opened = [open_run(path) for path in runs]
    fabric = make_fabric(accelerator)
    summaries = [summary for run in opened for summary in summarise_run(run, fabric)]
    write_report(out, summaries)
    console.print(score_table({summary.name: summary.scores for summary in summaries}))
    console.print(f"Report: {out.resolve()}")


def _as_declared(dataset: "Dataset", predictions: Path) -> "Dataset":
    """The data set in the labels of a folder of label maps, where it says which those are (`predict` does)."""
    from scribbleseg.data.encoding import read_declaration
    from scribbleseg.data.views import in_labels

    file = predictions / "dataset.json"
    if not file.is_file():
        return dataset
    values = read_declaration(file)["labels"]
    return in_labels(dataset, sorted(values, key=lambda name: values[name]))


def score_table(scores: Mapping[str, Sequence["Score"]]) -> Table:
    """Means over cases, a line for each structure of each run."""
    from scribbleseg.evaluation.metrics import summarise

    heads = ("Dice", "recall", "precision", "HD95 mm", "ASSD mm", "missed")
    table = Table("", *heads, title="mean over cases", box=None)
    for name, of_run in scores.items():
        for row in summarise(of_run):
            overlaps = (f"{row[f'{measure}_mean']:.3f}" for measure in ("dice", "recall", "precision"))
            of = "" if row["distances"] == row["cases"] else f" ({row['distances']} of {row['cases']})"
            distances = (f"{row[f'{measure}_mean']:.3f}{of}" for measure in ("hd95_mm", "assd_mm"))
            table.add_row(f"{name}: {row['structure']}", *overlaps, *distances, str(row["missed"]))
    return table
