"""The app, how its verbs refuse bad input, and the options that several verbs share."""

import functools
import logging
import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from scribbleseg import ranks
from scribbleseg.plural import number_of
from scribbleseg.signals import stopping

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from scribbleseg.pipeline import AnyRecipe
    from scribbleseg.recipe import Recipe
    from scribbleseg.session import Session
    from scribbleseg.types import Dataset

# Threads that wait by spinning starve each other where somebody else uses the cores, too (figures in docs/LOG.md).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

OUT_OF_MEMORY = re.compile("out of memory|not enough memory|can't allocate memory", re.IGNORECASE)
"""What torch says where memory runs out, in errors of no type of their own."""

LOST_RANK = re.compile("gloo|nccl|connection (closed|reset) by peer", re.IGNORECASE)
"""What torch says where another process of a distributed training has ended, in errors of no type of their own."""


class _Verbs(TyperGroup):
    """Says what is wrong with an option without the words that pydantic puts before it."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = error.message.removeprefix("Value error, ")
            raise


app = typer.Typer(
    cls=_Verbs,
    help="Train segmentation networks from scribbles. Start with: scribbleseg demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
# Names of people's structures and files may look like markup. No line is broken: a broken command cannot be copied.
console = Console(markup=False, emoji=False, soft_wrap=True)
errors = Console(stderr=True, markup=False, emoji=False, soft_wrap=True)


def _version(asked: bool) -> bool:
    if asked:
        from importlib.metadata import version

        console.print(version("scribbleseg"), highlight=False)
        raise typer.Exit
    return asked


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


WIDE = 160
"""Characters in a line of a table, also where the terminal has fewer."""

Data = Annotated[Path, typer.Argument(help="The folder of the data set.", show_default=False)]
Format = Annotated[
    str | None,
    typer.Option(
        help="The layout of the data set: acdc, brats, nci_isbi, prostate158, promise12, nnunet or folder. Default: "
        "recognised from the folder."
    ),
]
Split = Annotated[
    str | None,
    typer.Option(
        help="Which cases train and which test. acdc: paper, paper_validation, published or "
        "published_validation; nci_isbi: paper, paper_validation, both or both_validation."
    ),
]
Fold = Annotated[
    int | None,
    typer.Option(
        help="The fold of a cross-validation. acdc with a split of the paper: 0 to 4; brats: 0 to 4; promise12: 0 to 2."
    ),
]
Scribbles = Annotated[
    Path | None,
    typer.Option(
        help="A folder of scribbles with dataset.json, as `simulate` writes it, instead of the data set's own."
    ),
]
Name = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        help="The name of a recipe, which says how the network is trained; `scribbleseg recipes` lists them. Default: "
        "default.quick, .standard or .long, whichever fits the machine.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="Change a setting of the recipe, such as seeds.tau=0.9, or stages.batch=4 in all stages and "
        "stages.0.iterations=500 in the first. `scribbleseg recipes NAME` lists them. It can be given several times.",
    ),
]
Seed = Annotated[
    int, typer.Option(min=0, max=2**63 - 1, help="Random seed for weights, batch order, augmentation and dropout.")
]
Accelerator = Annotated[str, typer.Option(help="The hardware to compute on: cpu, cuda, mps, or auto.")]
Workers = Annotated[int, typer.Option(min=0, max=1024, help="Processes that grow seed areas; 0 is one for each core.")]


class Place(NamedTuple):
    """A data set as the options of a verb name it."""

    folder: Path
    format: str | None = None
    split: str | None = None
    fold: int | None = None
    scribbles: Path | None = None


def verb(function: Callable[..., None], shared: bool = False) -> Callable[..., None]:
    """Register a verb whose bad input ends in one clear line and exit code 2, without a traceback.

    Args:
        function: the verb.
        shared: whether ranks share its work out; else several of them are refused.
    """

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> None:
        with stopping() as stopped:
            try:
                ranks.settle()
                console.quiet = not ranks.leads()
                logging.basicConfig(format="%(message)s", level=logging.WARNING)
                if shared:
                    ranks.join()
                else:
                    ranks.refuse(function.__name__)
                function(*args, **kwargs)
            except typer.Exit:
                raise
            except BaseException as error:
                if stopped() or isinstance(error, KeyboardInterrupt):
                    why = "Stopped, or another process of this job was lost." if ranks.started() else "Stopped."
                    _say(f"{why} What was complete is kept; the same command goes on (train: with --resume).")
                    raise typer.Exit(130) from None
                if (explained := _explained(error)) is None:
                    ranks.may_say_why()  # as the traceback does
                    raise
                raise _refusal(*explained) from None

    return app.command()(guarded)


shared_verb = functools.partial(verb, shared=True)
"""Registers a verb whose work ranks share out."""


def _explained(error: BaseException) -> tuple[str, int] | None:
    """An error in one sentence, and the exit code for it; None for a mistake in the program."""
    from scribbleseg.types import DataError
    from scribbleseg.workers import RANK_LOST, WorkerDied

    if isinstance(error, DataError):
        return str(error), 1 if isinstance(error, WorkerDied) else 2
    if isinstance(error, OSError):
        return (
            f"{error.filename or 'output'}: {error.strerror or error}; check the path, its permissions "
            "and the room on the disk, and give the same command again (train: with --resume); "
            "what was complete is kept"
        ), 2
    if isinstance(error, UnicodeEncodeError):
        return (
            f"expected names that are text, got {error.object[:80]!a}, of which {error.object[error.start]!a} "
            "is none; rename that file, folder or label"
        ), 2
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(str(error))):
        reason = (str(error).splitlines() or ["no more is free"])[0]
        return (
            f"expected enough memory, ran out of it ({reason}); take a machine with more, or train on smaller "
            "batches (stages.batch) or a coarser grid (preprocess.spacing_mm)"
        ), 2
    if isinstance(error, RuntimeError) and LOST_RANK.search(str(error)):
        return RANK_LOST, 1
    return None


def _refusal(message: str, code: int = 2) -> typer.Exit:
    _say(Text.assemble(("error", "bold red"), f": {message}"))
    return typer.Exit(code)


def _say(message: str | Text) -> None:
    if ranks.may_say_why():
        errors.print(message)


def command(*words: object) -> str:
    """A command of the program, to be copied: words with spaces are quoted."""
    return shlex.join(["scribbleseg", *map(str, words)])


def say_held_out(session: "Session[Recipe]") -> None:
    """How many of the drawn slices of a session that is prepared are held out; silent where its recipe wants none."""
    import numpy as np

    from scribbleseg.types import UNLABELLED

    slices, share = session.slices, session.recipe.held_out
    if share:
        kept, held = (
            0 if layer is None else int(np.count_nonzero((layer != UNLABELLED).any(axis=(1, 2))))
            for layer in (slices.scribbles, slices.held_out)
        )
        console.print(held_out_line(held, kept + held, share))


UNMEASURED = "How far the network agrees with people was not measured: too few slices are drawn to hold any out."


def held_out_line(held: int, drawn: int, share: float, about: bool = False) -> str:
    """What is said of the slices that are held out; `about` where their number is a guess."""
    if not held:
        return (
            f"Held out: {'probably ' if about else ''}nothing, for too few slices are drawn ({drawn}). So how far the "
            "network agrees with people will not be measured."
        )
    drawn_slices = number_of(drawn, "drawn slice")
    return (
        f"Held out: {'about ' if about else ''}{held} of {drawn_slices} ({share:.0%} of each case, on average). Their "
        "scribbles are neither grown nor trained on; they measure how far the network agrees with people. held_out=0 "
        "uses all (--set)."
    )


def print_table(table: Table) -> None:
    """Print a table whole: a row that a pipe or a scroll bar keeps in one piece beats one wrapped in its cells."""
    Console(width=max(console.width, WIDE), markup=False, emoji=False, quiet=console.quiet).print(table)


def open_at(place: Place, notes: bool = True) -> "Dataset":
    """Open a data set, and print what it has to say of itself. Raises DataError."""
    from scribbleseg.data import open_dataset

    given = {
        "split": place.split,
        "fold": place.fold,
        "scribbles": place.scribbles and str(place.scribbles.resolve()),
    }
    options = {name: value for name, value in given.items() if value is not None}
    dataset = open_dataset(place.folder, place.format, **options)
    for note in dataset.notes if notes else ():
        console.print(note, style="yellow")
    return dataset


def chosen(name: str, settings: list[str] | None, kind: str | None = None) -> "AnyRecipe":
    """The recipe of that name, with fields changed.

    Args:
        name: the name of a recipe.
        settings: as --set takes them.
        kind: the only pipeline whose recipes the verb takes.

    Raises:
        DataError: no such recipe or field, or a recipe of another pipeline.
    """
    from scribbleseg.recipes import find

    return _changed(find(name), settings, kind)


def chosen_or_fitting(
    name: str | None,
    settings: list[str] | None,
    out: Path,
    fabric: "Fabric",
    kind: str | None = None,
    start_from: Path | None = None,
) -> "AnyRecipe":
    """As `chosen`; without a name, that of the run in `out`, or in `start_from`, or the one that fits the machine."""
    from scribbleseg.recipes import choose

    if name is not None:
        return chosen(name, settings, kind)
    recipe, why = choose(out, fabric, start_from)
    console.print(why)
    return _changed(recipe, settings, kind)


def _changed(recipe: "AnyRecipe", settings: list[str] | None, kind: str | None) -> "AnyRecipe":
    from scribbleseg.settings import override
    from scribbleseg.types import DataError

    if kind and recipe.kind != kind:
        raise DataError("--recipe: expected a recipe of one network, got one of two; give that of its first phase")
    return override(recipe, settings or [])
