"""The verb that says where to draw next: suggest."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from scribbleseg import ranks
from scribbleseg.cli.app import Accelerator, Scribbles, console, errors, print_table, shared_verb
from scribbleseg.plural import number_of

if TYPE_CHECKING:
    from scribbleseg.api import Model
    from scribbleseg.ranking import Look
    from scribbleseg.types import Cases


@shared_verb
def suggest(
    run: Annotated[Path, typer.Argument(help="The run folder of `train`.", show_default=False)],
    data: Annotated[
        Path, typer.Argument(help="The data set that is being drawn, or a folder of images.", show_default=False)
    ],
    count: Annotated[int, typer.Option(min=1, max=10**9, help="The number of slices.")] = 20,
    scribbles: Scribbles = None,
    accelerator: Accelerator = "auto",
) -> None:
    """Say where to draw next: the slices in which strokes should help a trained network most.

    Training cases are ranked, and images with neither scribbles nor a mask. Slices are spread evenly: first come cases
    with the fewest drawn slices, and in each of them the middle of the widest gap between drawn ones. Of cases with as
    few, those come first that the network is most in doubt about. Masks are not looked at.

    Example: `scribbleseg suggest runs/first hearts --count 10`
    """
    from scribbleseg.api import load
    from scribbleseg.ranking import rank
    from scribbleseg.types import DataError

    model = load(run, accelerator)
    cases = model.to_draw_in(data, scribbles)
    looks, failed = _look_at(model, cases)
    if not looks:
        raise DataError(failed[0])
    if not ranks.leads():
        return
    for error in failed:
        errors.print(f"not looked at: {error}", style="yellow")
    heads = ["", "case", "slice", "structure", "doubt", "why"]
    table = Table(*heads, box=None)
    for n, each in enumerate(rank(looks, model.label_names, count), start=1):
        stack = each.stack
        where = f"{each.slice + 1} of {stack.slices} {stack.plane}".rstrip()
        table.add_row(str(n), each.case, where, each.structure, f"{each.doubt:.2f}", each.why)
    if table.rows:
        print_table(table)
        console.print(
            "Slices count from 1, as the file stores them. A doubt of 1 is that of one slice in which all of a "
            "structure is in doubt; it is summed over the slices between drawn ones."
        )
    else:
        console.print(
            f"Nothing to suggest: every slice of {number_of(len(looks), 'case')} has strokes already. "
            "Add images that nobody has drawn in, or look at the worst cases in the report."
        )
    if failed:
        raise typer.Exit(1)


def _look_at(model: "Model", cases: "Cases") -> tuple[list["Look"], list[str]]:
    """What a network makes of each case, and the errors of those that cannot be read.

    The first case tells how long the others take. Raises DataError where the network cannot look at it.
    """
    import time

    from scribbleseg.duration import in_words
    from scribbleseg.suggest import look
    from scribbleseg.types import DataError

    def first() -> tuple[list["Look | str"], float]:
        found: list[Any] = []
        for name in cases.names:
            started = time.perf_counter()
            try:
                case = cases.named(name)
            except DataError as error:
                found.append(str(error))
            else:
                return [*found, look(model.segmenter, case)], time.perf_counter() - started
        return found, 0.0

    def look_or_say(name: str) -> "Look | str":
        try:
            return look(model.segmenter, cases.named(name))
        except DataError as error:
            return str(error)

    found, took = ranks.on_leader(first)
    if left := cases.names[len(found) :]:
        there = ranks.started()
        each = -(-len(left) // (there.number if there else 1))
        time_left = in_words(took * each)
        done = number_of(len(found), "case")
        console.print(f"{done} looked at. To do: {len(left)} more. This takes about {time_left} here.")
        found += ranks.share(left, look_or_say, "Looking")
    failed = [each for each in found if isinstance(each, str)]
    return [each for each in found if not isinstance(each, str)], failed
