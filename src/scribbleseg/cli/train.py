"""Verbs that train one network or one hierarchy: train, demo."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from scribbleseg import ranks
from scribbleseg.cli.app import (
    UNMEASURED,
    Accelerator,
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
    open_at,
    print_table,
    say_held_out,
    shared_verb,
    verb,
)
from scribbleseg.cli.measure import agreement_line, score_table

if TYPE_CHECKING:
    from scribbleseg.api import Model
    from scribbleseg.em import Recursion
    from scribbleseg.session import Session

Organ = Literal["heart", "tumour"]

DEMO = {
    "heart": {
        "no recursion": "can2018.demo_no_recursion",
        "base": "can2018.demo_base",
        "fully supervised": "can2018.demo_full",
    },
    "tumour": {"weakly supervised": "ji2019.demo_full", "fully supervised": "ji2019.demo_sub_full"},
}
"""The rows of a demonstration, and their recipes."""


@verb
def demo(
    out: Annotated[Path, typer.Option(help="The folder for synthetic images, runs and the report.")] = Path("demo"),
    organ: Annotated[Organ, typer.Option(help="heart: Can et al. 2018; tumour: Ji et al. 2019.")] = "heart",
    seed: Seed = 0,
) -> None:
    """Train on synthetic patients, from scribbles and on full masks; print the scores, write the report.

    Example: `scribbleseg demo --out demo`
    """
    from scribbleseg.annotate.simulate import RULES, write_simulation
    from scribbleseg.evaluation.report import write_report
    from scribbleseg.phantoms import write_phantoms
    from scribbleseg.pipeline import begin
    from scribbleseg.review import summarise_run
    from scribbleseg.training.hardware import make_fabric

    fabric = make_fabric("cpu")
    write_phantoms(out / "phantoms", organ)
    dataset = open_at(Place(out / "phantoms"))
    if dataset.scribble_names:  # phantoms of tumours come without scribbles, as BraTS does
        drawn = write_simulation(dataset, RULES["ji2019"], out / "scribbles")
        dataset = open_at(Place(out / "phantoms", scribbles=drawn), notes=False)
    summaries = []
    for title, name in DEMO[organ].items():
        console.rule(title)
        folder = out / name.partition(".")[2]
        session = begin(dataset, folder, chosen(name, None), fabric=fabric, seed=seed, resume=True)
        summaries += summarise_run(train_to_end(session).run, fabric, title)
    print_table(score_table({summary.name: summary.scores for summary in summaries}))
    write_report(out / "report.html", summaries, "scribbleseg demo")
    console.print(f"Report: {(out / 'report.html').resolve()}")


@shared_verb
def train(
    data: Data,
    out: Annotated[Path, typer.Option(help="The run folder.")],
    recipe: Name = None,
    set: Settings = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run that was stopped.")] = False,
    start_from: Annotated[
        Path | None,
        typer.Option(help="A run whose network (and recipe) training starts from, when you have drawn more since."),
    ] = None,
    format: Format = None,
    split: Split = None,
    fold: Fold = None,
    scribbles: Scribbles = None,
    seed: Seed = 0,
    accelerator: Accelerator = "auto",
    devices: Annotated[
        int, typer.Option(min=1, max=1024, help="GPUs (or other devices) on each machine; torchrun and srun know.")
    ] = 1,
    nodes: Annotated[
        int, typer.Option(min=1, max=1024, help="The number of machines, which have to share the file system.")
    ] = 1,
    workers: Workers = 0,
) -> None:
    """Train a network from scribbles: grow seed areas, then train and relabel in turn. Interrupt it at will.

    The same command with --resume goes on where a run was interrupted.

    Example: `scribbleseg train ACDC/ --out runs/first --set stages.0.iterations=4000`
    """
    from scribbleseg.pipeline import begin
    from scribbleseg.pipeline import start_from as begin_with
    from scribbleseg.training.hardware import cores_of_rank, shared_fabric

    fabric = shared_fabric(accelerator, devices, nodes)
    dataset = open_at(Place(data, format, split, fold, scribbles), notes=fabric.is_global_zero)
    one = chosen_or_fitting(recipe, set, out, fabric, start_from=start_from)
    session = begin(dataset, out, one, fabric=fabric, seed=seed, resume=resume)
    if start_from is not None:
        begin_with(session, start_from)
    if session.leads and session.dataset.n_labels < dataset.n_labels:
        learned = ", ".join(session.dataset.label_names[1:])
        console.print(
            f"This recipe learns {learned} alone. A recipe of two phases, such as ji2019.compact_full, learns all "
            "structures.",
            style="yellow",
        )
    model = train_to_end(replace(session, workers=workers or cores_of_rank(fabric)))
    if fabric.is_global_zero:
        console.print(
            f"Trained: {model.run.path}. Next: {command('predict', model.run.path, 'IMAGES', '--out', 'PREDICTIONS')}"
        )


def train_to_end(session: "Session") -> "Model":
    """Train, and print the plan and a line for each round of training."""
    from scribbleseg.api import finish
    from scribbleseg.pipeline import first_phase, plan
    from scribbleseg.runs import Run

    told: list[Recursion] = []

    def say(recursion: "Recursion") -> None:
        told.append(recursion)
        changed = "" if recursion.changed is None else f", {recursion.changed:.1%} changed by relabelling"
        if recursion.index == 0 and (tau := Run(session.run.path / recursion.phase).details.get("tau")):
            changed = f", seed areas grown with tau {tau}"
        name = f"{recursion.phase}: round" if recursion.phase else "Round"
        console.print(
            f"{name} {recursion.index} of training (recursion {recursion.index}) is done: it learned from labels of "
            f"{recursion.labelled:.1%} of the pixels{changed}"
        )
        if recursion.agreement:
            console.print(agreement_line(recursion.agreement))

    first = first_phase(session)
    with session:
        first.prepare(first.recipe.preprocess, first.recipe.held_out)  # an error of the data comes before any promise
        ranks.on_leader(lambda: console.print(f"To do: {plan(session)}"), session.fabric)
        if session.leads:
            say_held_out(first)
        if session.leads and session.recipe.is_upper_bound:
            console.print("This recipe trains on full reference masks. Scribbles are not used.", style="yellow")
        model = finish(session, say if session.leads else None)
    for recursion in told[-1:]:
        warn_of_disagreement(recursion.agreement)
    if told and first.recipe.held_out and not any(recursion.agreement for recursion in told):
        console.print(UNMEASURED, style="yellow")
    return model


def warn_of_disagreement(agreement: Mapping[str, float]) -> None:
    """Name the labels that a network does not find where people drew them."""
    from scribbleseg.evaluation.agreement import DIFFERS

    for label, value in agreement.items():
        if value < DIFFERS:
            console.print(
                f"The network does not know {label}: its agreement with scribbles that it has not seen is "
                f"{value:.2f}, and 1 is best. Draw it in more cases, or train longer.",
                style="yellow",
            )
