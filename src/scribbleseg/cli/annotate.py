"""The verb that draws: annotate."""

from pathlib import Path
from typing import Annotated

import typer

from scribbleseg.cli.app import console, verb

Images = Annotated[
    Path, typer.Argument(help="A data set, or a folder that holds nothing but images.", show_default=False)
]


@verb
def annotate(
    data: Images,
    run: Annotated[
        Path | None,
        typer.Option(
            help="The run folder: what its network predicts is shown, and the page trains there. It need not exist. "
            "Default: DATA/run.",
            show_default=False,
        ),
    ] = None,
    annotator: Annotated[
        str, typer.Option(help="Your name: your scribbles then go to a folder of their own, annotators/NAME.")
    ] = "",
    merge: Annotated[
        list[str] | None,
        typer.Option(help="Merge what these annotators drew, and correct it in a folder of its own. Repeatable."),
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="The port of the page. Default: 8017, or the next free one.")
    ] = None,
    opens: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = True,
) -> None:
    """Draw scribbles in the browser, see the areas that they grow into, train, and draw where the network is in doubt.

    Scribbles are saved in the data set's own format. Each training on new scribbles goes to a new folder beside the
    run: RUN_2, RUN_3, and so on; the newest is shown.

    The page is served on this machine alone. To draw from another one, forward the port: `ssh -L 8017:127.0.0.1:8017`.

    Example: `scribbleseg annotate hearts --run runs/hearts`
    """
    from scribbleseg.server.run import serve
    from scribbleseg.types import DataError

    if merge and annotator:
        raise DataError("expected --annotator or --merge, found both; what is merged goes to a folder of its own")
    serve(data, merge or annotator, run=run, port=port, opens=opens, say=console.print)
