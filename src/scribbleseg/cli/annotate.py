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
    annotator: Annotated[
        str, typer.Option(help="Your name: your scribbles then go to a folder of their own, annotators/NAME.")
    ] = "",
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="The port of the page. Default: 8017, or the next free one.")
    ] = None,
    opens: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = True,
) -> None:
    """Draw scribbles in the browser, see the areas that they grow into, and save them in the data set's own format.

    The page is served on this machine alone. To draw from another one, forward the port: `ssh -L 8017:127.0.0.1:8017`.

    Example: `scribbleseg annotate hearts`
    """
    from scribbleseg.server.run import serve

    serve(data, annotator, port=port, opens=opens, say=lambda line: console.print(line, soft_wrap=True))
