"""The verbs of the command line; each imports what it needs, so that --help is instant."""

import functools
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from scribbleseg.em import Recipe
    from scribbleseg.evaluate.metrics import Score
    from scribbleseg.pipeline import Pipeline
    from scribbleseg.reproduce import Row
    from scribbleseg.runs import Run
    from scribbleseg.types import Dataset

# Threads that wait by spinning starve each other where somebody else uses the cores, too (figures in docs/LOG.md).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

app = typer.Typer(
    help="Train segmentation networks from scribbles. Start with: scribbleseg demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
console = Console()
errors = Console(stderr=True)

DEFAULT_RECIPE = "can2018.compact_base"

DEMO = {
    "heart": {
        "no recursion": "can2018.demo_no_recursion",
        "base": "can2018.demo_base",
        "fully supervised": "can2018.demo_full",
    },
    "tumour": {"weakly supervised": "ji2019.demo_full", "fully supervised": "ji2019.demo_sub_full"},
}
"""The rows of a demonstration, and their recipes."""

SHOWN = 10
"""Rows of a ranking that are printed; the file has all."""

MAPS = ("_probabilities", "_uncertainty_p", "_entropy", "_mutual_information")
"""How the names of files end that `predict` writes beside label maps."""

Data = Annotated[Path, typer.Argument(help="Folder of the data set.", show_default=False)]
Format = Annotated[
    str | None,
    typer.Option(
        help="Its layout: acdc, brats, nci_isbi, prostate158, promise12, nnunet or folder. Default: recognised."
    ),
]
Split = Annotated[
    str | None,
    typer.Option(help="acdc: paper, published or published_validation; nci_isbi: paper or paper_validation."),
]
Fold = Annotated[int | None, typer.Option(help="acdc, split paper: 0 to 4; brats: 0 to 3; promise12: 0 to 2.")]
Scribbles = Annotated[
    Path | None, typer.Option(help="Train on these instead of the data set's own: a folder as `simulate` writes it.")
]
Paper = Literal["can2018", "ji2019"]
Organ = Literal["heart", "tumour"]
Rule = Literal["full", "half", "quarter", "spots", "ji2019"]
Source = Literal["masks", "scribbles"]
Drawn = Literal["scribbled", "all"]
Name = Annotated[str, typer.Option("--recipe", help="A name that `scribbleseg recipes` lists.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Change a field that `recipes NAME` lists; repeatable."),
]
Seed = Annotated[int, typer.Option(help="Of weights, order, augmentation and dropout.")]
Accelerator = Annotated[str, typer.Option(help="cpu, cuda, mps, or auto.")]
Workers = Annotated[int, typer.Option(help="Processes for the seed areas; 0 is one a core.")]


def verb(function: Callable[..., None]) -> Callable[..., None]:
    """Register a verb whose bad input ends in one clear line and exit code 2, without a traceback."""

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> None:
        from scribbleseg.types import DataError

        logging.basicConfig(format="%(message)s", level=logging.WARNING)
        try:
            function(*args, **kwargs)
        except DataError as error:
            raise _refusal(str(error)) from None
        except OSError as error:
            raise _refusal(
                f"{error.filename or 'output'}: {error.strerror or error}; check the path, its permissions "
                "and the room on the disk, and give the same command again (train: with --resume); "
                "what was complete is kept"
            ) from None
        except KeyboardInterrupt:
            errors.print("Stopped. What was complete is kept; the same command goes on (train: with --resume).")
            raise typer.Exit(130) from None

    return app.command()(guarded)


def _refusal(message: str) -> typer.Exit:
    errors.print(f"[bold red]error[/]: {escape(message)}", soft_wrap=True)
    return typer.Exit(2)


@verb
def demo(
    out: Annotated[Path, typer.Option(help="Folder for phantoms, runs and the report.")] = Path("demo"),
    organ: Annotated[Organ, typer.Option(help="heart: Can et al. 2018; tumour: Ji et al. 2019.")] = "heart",
    seed: Seed = 0,
) -> None:
    """Train on synthetic patients, from scribbles and on full masks; print the scores, write the report.

    Example: `scribbleseg demo --out demo`
    """
    from scribbleseg.annotate.simulate import RULES, write_simulation
    from scribbleseg.data.phantoms import write_phantoms
    from scribbleseg.evaluate.report import write_report
    from scribbleseg.recipes import find
    from scribbleseg.review import summarise_run
    from scribbleseg.train.loop import make_fabric

    fabric = make_fabric("cpu")
    write_phantoms(out / "phantoms", organ)
    dataset = _open(out / "phantoms")
    if dataset.scribble_names:  # phantoms of tumours come without scribbles, as BraTS does
        dataset = _open(
            out / "phantoms", scribbles=write_simulation(dataset, RULES["ji2019"], out / "scribbles"), notes=False
        )
    summaries = []
    for name, recipe in DEMO[organ].items():
        console.rule(name)
        run = _train(dataset, find(recipe), out / recipe.partition(".")[2], seed, fabric, resume=True, workers=1)
        summaries += summarise_run(run, fabric, name)
    console.print(_score_table({summary.name: summary.scores for summary in summaries}))
    write_report(out / "report.html", summaries, "scribbleseg demo")
    console.print(f"Report: {(out / 'report.html').resolve()}")


@verb
def check(
    data: Data, format: Format = None, split: Split = None, fold: Fold = None, scribbles: Scribbles = None
) -> None:
    """Audit a data set before training: every fault with its case, its file and what to do. Exits 2 if there are any.

    Example: `scribbleseg check ACDC/`
    """
    from rich.progress import track

    from scribbleseg.annotate.check import check as audit_of

    dataset = _open(data, format, split, fold, scribbles, notes=False)
    audit = audit_of(dataset, lambda cases: track(cases, "Checking"))
    coverage = Table(
        "class", "cases", "voxels", "share", title=f"Scribbles in {audit.coverage.n_cases} training cases", box=None
    )
    for row in audit.coverage.classes:
        coverage.add_row(row.name, str(row.n_cases), str(row.n_voxels), f"{row.share:.2%}")
    console.print(coverage)
    for fault in audit.faults:
        colour = {"fault": "red", "warning": "yellow", "note": "dim"}[fault.severity]
        where = escape(f"{fault.case}{f' ({fault.file})' if fault.file else ''}")
        console.print(
            f"[{colour}]{fault.severity}[/] {where}: {escape(f'{fault.problem}; {fault.remedy}')}", soft_wrap=True
        )
    count = Counter(fault.severity for fault in audit.faults)
    n_cases = len(dataset.train) + len(dataset.test)
    console.print(f"{count['fault']} faults, {count['warning']} warnings in {n_cases} cases")
    if not audit.sound:
        raise typer.Exit(2)


@verb
def seeds(
    data: Data,
    out: Annotated[Path, typer.Option(help="Run folder; `train --out` the same with --resume goes on from there.")],
    recipe: Name = DEFAULT_RECIPE,
    set: Settings = None,
    format: Format = None,
    split: Split = None,
    fold: Fold = None,
    scribbles: Scribbles = None,
    seed: Seed = 0,
    workers: Workers = 0,
) -> None:
    """Grow scribbles into seed areas and stop, to look at them: label maps in OUT/labels/0, in original geometry.

    Example: `scribbleseg seeds ACDC/ --out runs/first --set seeds.tau=0.95`
    """
    from scribbleseg.em import grow_seeds, resolve, taught
    from scribbleseg.pipeline import start_run
    from scribbleseg.train.loop import make_fabric

    one = _of_one_network(recipe, set)
    dataset = taught(one, _open(data, format, split, fold, scribbles))
    chosen = resolve(one, dataset)
    run = start_run(out, chosen, dataset, seed, resume=True)
    slices = grow_seeds(chosen, dataset, run, make_fabric("cpu"), workers or _cores())
    table = Table("class", "scribbles", "seed areas", box=None)
    grown = slices.labels("labels_0")
    for value, name in enumerate(dataset.label_names):
        table.add_row(name, *(f"{slices.share(labels == value):.2%}" for labels in (slices.scribbles, grown)))
    console.print(table)
    console.print(f"Label maps: {run.labels(0)}")


@verb
def train(
    data: Data,
    out: Annotated[Path, typer.Option(help="Run folder.")],
    recipe: Name = DEFAULT_RECIPE,
    set: Settings = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run that was stopped.")] = False,
    format: Format = None,
    split: Split = None,
    fold: Fold = None,
    scribbles: Scribbles = None,
    seed: Seed = 0,
    accelerator: Accelerator = "auto",
    devices: Annotated[int, typer.Option(help="On each node.")] = 1,
    nodes: Annotated[int, typer.Option(help="That share the file system.")] = 1,
    workers: Workers = 0,
) -> None:
    """Train a network from scribbles: seed areas, then M and E steps by turns. Interrupt it at will; --resume goes on.

    Example: `scribbleseg train ACDC/ --out runs/first --set training.iterations=4000`
    """
    from scribbleseg.recipes import find
    from scribbleseg.settings import override
    from scribbleseg.train.loop import make_fabric

    fabric = make_fabric(accelerator, devices, nodes)
    fabric.launch()
    dataset = _open(data, format, split, fold, scribbles, notes=fabric.is_global_zero)
    chosen = override(find(recipe), set or [])
    run = _train(dataset, chosen, out, seed, fabric, resume, workers)
    if fabric.is_global_zero:
        console.print(f"Trained: {run.path}. Next: scribbleseg predict {run.path} IMAGES --out PREDICTIONS")


@verb
def simulate(
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for the scribbles; `train --scribbles` takes it.")],
    rule: Annotated[
        Rule,
        typer.Option(help="full, half, quarter: so much of each middle line; spots; ji2019: that paper's lines."),
    ] = "full",
    length: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SHARE", help="Of each curve, 0 (a spot) to 1, of all labels (0.5) or one (WT=0.25); repeatable."
        ),
    ] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Of the pen, in pixels. Default: the rule's.")] = None,
    labels: Annotated[
        Drawn, typer.Option(help="scribbled: what scribbles tell apart (BraTS: the whole tumour); all: all structures.")
    ] = "scribbled",
    source: Annotated[
        Source, typer.Option(help="Draw on the masks, or keep a part of the scribbles that are there.")
    ] = "masks",
    seed: Annotated[int, typer.Option(min=0, help="Of the places; another draws other scribbles.")] = 0,
    format: Format = None,
    split: Split = None,
    fold: Fold = None,
) -> None:
    """Draw scribbles by rule for the training cases, to measure what they are worth before anybody draws.

    Example: `scribbleseg simulate BraTS/ --out scribbles --rule ji2019`
    """
    from scribbleseg.annotate.simulate import RULES, drawn_in, with_lengths, write_simulation

    dataset = _open(data, format, split, fold)
    chosen = replace(RULES[rule], seed=seed)
    if width is not None:
        chosen = replace(chosen, width=width)
    if length:
        chosen = with_lengths(chosen, length, drawn_in(dataset, labels).label_names)
    folder = write_simulation(dataset, chosen, out, source, labels)
    recipe = "--recipe ji2019.compact_full " if dataset.scribble_names and labels == "scribbled" else ""
    console.print(f"Scribbles: {folder}. Next: scribbleseg train {data} --scribbles {folder} {recipe}--out RUN")


@verb
def reproduce(
    paper: Annotated[Paper, typer.Argument(help="Whose table.", show_default=False)],
    data: Annotated[Path, typer.Option(help="Folder of the data set.", show_default=False)],
    out: Annotated[Path, typer.Option(help="A run folder for each row and seed, and report.html.", show_default=False)],
    family: Annotated[
        str,
        typer.Option(
            help="can2018: acdc and prostate, the paper's scale; compact and compact_prostate, a CPU's. "
            "ji2019: brats; compact."
        ),
    ] = "compact",
    rows: Annotated[
        list[str] | None, typer.Option(help='A title of the table, such as "separate CRF"; repeatable. Default: all.')
    ] = None,
    iterations: Annotated[
        int | None, typer.Option(min=1, help="Of all M steps of a row together. Default: the recipes'.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many, from 0 on.")] = 1,
    jobs: Annotated[int, typer.Option(min=1, help="Rows at a time.")] = 1,
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
    from scribbleseg.annotate.simulate import RULES, write_simulation
    from scribbleseg.evaluate.report import write_report
    from scribbleseg.recipes import can2018, ji2019
    from scribbleseg.reproduce import run_folder, summarise, train_rows
    from scribbleseg.review import summarise_run
    from scribbleseg.runs import open_run
    from scribbleseg.settings import override
    from scribbleseg.train.loop import make_fabric
    from scribbleseg.types import DataError

    known = {"can2018": can2018, "ji2019": ji2019}[paper].table_1(family, iterations)
    if unknown := [title for title in rows or [] if title not in known]:
        titles = "; ".join(f'"{title}"' for title in known)
        raise DataError(f"--rows: expected titles of the table, {titles}; got {'; '.join(unknown)}")
    recipes = {title: override(row, set or []) for title, row in known.items() if not rows or title in rows}
    if paper == "ji2019" and scribbles is None:
        scribbles = write_simulation(_open(data, format, split, fold, notes=False), RULES["ji2019"], out / "scribbles")
    dataset = _open(data, format, split, fold, scribbles)
    train_rows(recipes, dataset, out, range(seeds), jobs, accelerator)
    fabric = make_fabric(accelerator)
    summary = summarise(recipes, out, range(seeds), fabric)
    for structures in dict.fromkeys(row.structures for row in summary):  # a table for rows that are scored alike
        table = _paper_table([row for row in summary if row.structures == structures], can2018.FULLY_SUPERVISED)
        # Wider than many terminals: a row that a pipe or a scroll bar keeps whole beats one wrapped in its cells.
        Console(width=max(console.width, 130)).print(table)
    if paper == "can2018":
        console.print(
            f"Paper: its best row loses {can2018.FAMILIES[family]:.3f} to full supervision, at its own scale."
        )
    runs = {title: open_run(run_folder(out, title, 0)) for title in recipes}
    pages = [summarise_run(run, fabric, title)[-1] for title, run in runs.items()]
    write_report(out / "report.html", pages)
    console.print(f"Report: {(out / 'report.html').resolve()}")


@verb
def tune_crf(
    data: Data,
    out: Annotated[Path, typer.Option(help="Run folder of the network that the CRF is tried on.")],
    recipe: Name = DEFAULT_RECIPE,
    set: Settings = None,
    format: Format = None,
    split: Split = None,
    fold: Fold = None,
    scribbles: Scribbles = None,
    seed: Seed = 0,
    accelerator: Accelerator = "auto",
) -> None:
    """Search the dense CRF's weights and sigmas on scribbles held out from training; masks are not looked at.

    Example: `scribbleseg tune-crf ACDC/ --out runs/tuning`
    """
    from scribbleseg import tune
    from scribbleseg.em import resolve, taught
    from scribbleseg.pipeline import start_run
    from scribbleseg.train.loop import make_fabric

    one = replace(_of_one_network(recipe, set), recursions=0)
    dataset = taught(one, _open(data, format, split, fold, scribbles))
    chosen = resolve(one, dataset)
    rest, held_out = tune.hold_out(dataset)
    console.print(f"{len(held_out)} cases held out: {', '.join(held_out.names)}")
    run = start_run(out, chosen, rest, seed, resume=True)
    trials = tune.tune_crf(chosen, rest, held_out, run, make_fabric(accelerator), tune.GRID, seed)
    table = Table("Dice on held-out scribbles", "w1", "w2", "sigma_alpha px", "sigma_beta", "sigma_gamma px", box=None)
    for trial in trials[:SHOWN]:
        crf = trial.crf
        numbers = (crf.w1, crf.w2, crf.sigma_alpha, crf.sigma_beta, crf.sigma_gamma) if crf else ("no CRF",)
        table.add_row(f"{trial.dice:.4f}", *map(str, numbers))
    console.print(table)
    without = next(trial.dice for trial in trials if trial.crf is None)
    console.print(f"Without a CRF: {without:.4f}. All trials: {out / 'trials.jsonl'}")
    if best := trials[0].crf:
        words = " ".join(f"--set refine.{name}={getattr(best, name)}" for name in ("unit", *tune.GRID))
        console.print(f"Next: scribbleseg train {data} --recipe can2018.compact_crf {words} --out RUN", soft_wrap=True)


@verb
def predict(
    run: Annotated[Path, typer.Argument(help="Run folder of `train`.", show_default=False)],
    images: Annotated[Path, typer.Argument(help="An image, a folder of images, or a data set.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for the label maps, CASE.nii.gz (or .png for pictures).")],
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
    recursion: Annotated[int | None, typer.Option(help="Which network; default: the last.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are in OUT already.")] = False,
    accelerator: Accelerator = "auto",
) -> None:
    """Segment new images with a trained network, each on its own grid. Of a data set, its test cases, if it has any.

    Example: `scribbleseg predict runs/first ACDC/patient006/patient006_frame01.nii.gz --out predictions`
    """
    from rich.progress import track

    from scribbleseg.data import images as open_images
    from scribbleseg.data.volumes import PNG, write_labels, write_probabilities
    from scribbleseg.pipeline import load
    from scribbleseg.relabel import uncertainty as passes
    from scribbleseg.relabel.decide import WelchTest
    from scribbleseg.relabel.predict import Segmenter, check_dropout
    from scribbleseg.runs import open_run, write_text
    from scribbleseg.train.loop import make_fabric
    from scribbleseg.types import DataError

    segmenter = load(open_run(run), make_fabric(accelerator), recursion)
    network = segmenter if isinstance(segmenter, Segmenter) else None
    if (probabilities or uncertainty) and network is None:
        raise DataError(
            f"{run}: expected a run of one network for --probabilities and --uncertainty, found two whose labels are "
            f"merged; give one of its phases, {run / 'whole'} or {run / 'substructures'}"
        )
    if uncertainty and network:
        check_dropout(network.network)
    cases = _cases_in(images) or open_images(images, segmenter.channels)
    there = [f"{name}{end}" for name in cases.names for end in (".nii.gz", PNG) if (out / f"{name}{end}").exists()]
    if there and not overwrite:
        raise DataError(f"{out}: expected no file of these names, found {there[0]}; give another --out, or --overwrite")
    values = {name: value for value, name in enumerate(segmenter.label_names)}
    declaration, declared = out / "dataset.json", json.dumps({"labels": values}) + "\n"
    if declaration.exists() and declaration.read_text() != declared:
        raise DataError(f"{declaration}: expected no description of another data set, found one; give another --out")
    test, ranks = WelchTest(), []
    for case in track(cases, "Segmenting", total=len(cases)):
        suffix = PNG if case.geometry.suffix == PNG else ".nii.gz"
        if probabilities and network:
            likely = network.probabilities(case)
            write_probabilities(out / f"{case.name}_probabilities.nii.gz", likely, case.geometry)
            labels = likely.argmax(axis=0).astype("uint8")
        else:
            labels = segmenter.segment(case)
        write_labels(out / f"{case.name}{suffix}", labels, case.geometry)
        if uncertainty and network:
            found = passes.uncertainty(network, case, test)
            passes.write_uncertainty(out, case, found)
            ranks.append(passes.rank(case.name, found, test))
    write_text(declaration, declared)  # last, and as nnU-Net does: `evaluate` reads it
    console.print(f"{len(cases)} label maps in {out}, {', '.join(f'{v} {name}' for name, v in values.items())}")
    if ranks:
        passes.write_ranking(out, ranks)
        table = Table("most uncertain first", "entropy, nats", "uncertain", box=None)
        for rank in sorted(ranks, key=lambda rank: -rank.score)[:SHOWN]:
            table.add_row(rank.case, f"{rank.score:.4f}", f"{rank.uncertain:.1%}")
        console.print(table)
        console.print(f"All cases: {out / 'uncertainty.csv'}")


@verb
def evaluate(
    predictions: Annotated[Path, typer.Argument(help="Folder of label maps, CASE.nii.gz.", show_default=False)],
    data: Data,
    out: Annotated[
        Path | None, typer.Option(help="Folder for scores.csv, .json and summary; default: PREDICTIONS.")
    ] = None,
    format: Format = None,
    split: Split = None,
    fold: Fold = None,
) -> None:
    """Score label maps against a data set's reference masks: Dice, HD95, ASSD and volume, in 3-D and millimetres.

    Example: `scribbleseg evaluate predictions ACDC/`
    """
    from rich.progress import track

    from scribbleseg.data.volumes import check_same_grid, read_labels, volumes_in
    from scribbleseg.evaluate.metrics import score, write_scores
    from scribbleseg.types import DataError

    dataset = _as_declared(_open(data, format, split, fold), predictions)
    files = {name: path for name, path in volumes_in(predictions).items() if not name.endswith(MAPS)}
    known = {name: cases for cases in (dataset.train, dataset.test) for name in cases.names}
    if not known.keys() & files.keys():
        raise DataError(
            f"{predictions}: expected label maps named like the cases of {data} ({', '.join(list(known)[:3])}, ...), "
            f"found {', '.join(list(files)[:3]) or 'none'}; name them so"
        )
    if strangers := sorted(files.keys() - known.keys()):
        console.print(f"[yellow]not cases of {data}, left out: {', '.join(strangers)}[/]")
    scores: list[Score] = []
    for name in track([name for name in files if name in known], "Scoring"):
        case, reference = known[name].named(name), dataset.reference(name)
        labels, geometry = read_labels(files[name])
        check_same_grid(files[name], geometry, case.files[0], case.geometry)
        scores += score(name, labels.astype("uint8"), reference, case.spacing_mm, dataset.scored)
    write_scores(scores, out or predictions)
    scored = [name for name in files if name in known]
    trained = sum(name in dataset.train.names for name in scored)
    console.print(f"{len(scored)} cases scored ({trained} of them training cases) of the {len(known)} in {data}")
    console.print(_score_table({predictions.name: scores}))
    console.print(f"Scores: {out or predictions}/scores.csv")


@verb
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, side by side.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The HTML file.")] = Path("report.html"),
    accelerator: Accelerator = "auto",
) -> None:
    """Write one self-contained HTML page: curves, scores of the test cases, and pictures of every recursion.

    Example: `scribbleseg report runs/first runs/second --out report.html`
    """
    from scribbleseg.evaluate.report import write_report
    from scribbleseg.review import summarise_run
    from scribbleseg.runs import open_run
    from scribbleseg.train.loop import make_fabric

    opened = [open_run(path) for path in runs]
    fabric = make_fabric(accelerator)
    summaries = [summary for run in opened for summary in summarise_run(run, fabric)]
    write_report(out, summaries)
    console.print(_score_table({summary.name: summary.scores for summary in summaries}))
    console.print(f"Report: {out.resolve()}")


@verb
def recipes(name: Annotated[str | None, typer.Argument(help="Show this one's fields.")] = None) -> None:
    """List the recipes, one a line, or show all the fields of one.

    Example: `scribbleseg recipes can2018.acdc_base`
    """
    from scribbleseg.recipes import find
    from scribbleseg.recipes import recipes as all_recipes
    from scribbleseg.settings import to_plain

    if name is None:
        console.print("\n".join(all_recipes()), highlight=False)
    else:
        console.print_json(data=to_plain(find(name)))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _open(
    folder: Path, format: str | None = None, split: str | None = None, fold: int | None = None,
    scribbles: Path | None = None, notes: bool = True,
) -> "Dataset":  # fmt: skip
    from scribbleseg.data import open_dataset

    given = {"split": split, "fold": fold, "scribbles": scribbles and str(scribbles.resolve())}
    options = {key: value for key, value in given.items() if value is not None}
    dataset = open_dataset(folder, format, **options)
    for note in dataset.notes if notes else ():
        console.print(f"[yellow]{escape(note)}[/]")
    return dataset


def _train(
    dataset: "Dataset", recipe: "Pipeline", out: Path, seed: int, fabric: "Fabric", resume: bool, workers: int = 0
) -> "Run":
    from scribbleseg import pipeline
    from scribbleseg.runs import open_run

    recipe, dataset = pipeline.fit(recipe, dataset)
    if fabric.is_global_zero:
        pipeline.start_run(out, recipe, dataset, seed, resume)
    fabric.barrier()
    run = open_run(out)
    for phase, recursion in pipeline.train(recipe, dataset, run, fabric, seed, workers or _cores()):
        changed = "" if recursion.changed is None else f", {recursion.changed:.1%} changed by relabelling"
        if fabric.is_global_zero:
            name = f"{phase}: recursion" if phase else "Recursion"
            console.print(f"{name} {recursion.index}: trained on {recursion.labelled:.1%} of the pixels{changed}")
    return run


def _of_one_network(name: str, settings: Sequence[str] | None) -> "Recipe":
    """The recipe of that name, changed; a hierarchy is refused."""
    from scribbleseg.em import Recipe
    from scribbleseg.recipes import find
    from scribbleseg.settings import override
    from scribbleseg.types import DataError

    recipe = find(name)
    if not isinstance(recipe, Recipe):
        raise DataError(f"--recipe: expected a recipe of one network, got {name}; give that of its first phase")
    return override(recipe, settings or [])


def _as_declared(dataset: "Dataset", predictions: Path) -> "Dataset":
    """The data set in the labels of a folder of label maps, where it says which those are (`predict` does)."""
    from scribbleseg.data import coarse
    from scribbleseg.data.folder import read_declaration
    from scribbleseg.types import DataError

    file = predictions / "dataset.json"
    if not file.is_file():
        return dataset
    values = read_declaration(file)["labels"]
    for seen in (dataset, coarse(dataset)):
        if values == {name: value for value, name in enumerate(seen.label_names)}:
            return seen
    raise DataError(
        f"{file}: expected label maps of {', '.join(dataset.label_names[1:])}, found those of "
        f"{', '.join(name for name in values if name != 'background')}; give the data set that they belong to"
    )


def _cases_in(folder: Path):  # type: ignore[no-untyped-def]
    """The test cases of a data set, or all its cases if it has none; None if the folder is not a data set."""
    from scribbleseg.data import open_dataset
    from scribbleseg.types import DataError

    try:
        dataset = open_dataset(folder)
    except DataError:
        return None
    return dataset.test if len(dataset.test) else dataset.train


def _paper_table(rows: Sequence["Row"], upper_bound: str) -> Table:
    """The rows beside the fully supervised one, if it is among them."""
    full = next((row for row in rows if row.title.endswith(upper_bound)), None)
    table = Table("row", *rows[0].structures, "mean Dice", "over seeds", "recall", "precision", "HD95 mm", box=None)
    if full:
        table.add_column(f"minus {upper_bound}")
    for row in rows:
        gap, low, high = row.minus(full) if full else (0.0, 0.0, 0.0)
        table.add_row(
            row.title, *(f"{dice:.3f}" for dice in row.by_structure), f"{row.dice.mean():.3f}",
            f"{row.by_seed.min():.3f}-{row.by_seed.max():.3f}", f"{row.recall:.3f}", f"{row.precision:.3f}",
            f"{row.hd95_mm:.1f}",
            *([f"{gap:+.3f} [{low:+.3f}, {high:+.3f}]" if row is not full else ""] if full else []),
        )  # fmt: skip
    return table


def _score_table(scores: Mapping[str, Sequence["Score"]]) -> Table:
    from scribbleseg.evaluate.metrics import summarise

    heads = ("Dice", "recall", "precision", "HD95 mm", "ASSD mm", "missed")
    table = Table("", *heads, title="mean over cases", box=None)
    for name, of_run in scores.items():
        for row in summarise(of_run):
            overlaps = (f"{row[f'{measure}_mean']:.3f}" for measure in ("dice", "recall", "precision"))
            of = "" if row["distances"] == row["cases"] else f" ({row['distances']} of {row['cases']})"
            distances = (f"{row[f'{measure}_mean']:.3f}{of}" for measure in ("hd95_mm", "assd_mm"))
            table.add_row(f"{name}: {row['structure']}", *overlaps, *distances, str(row["missed"]))
    return table
