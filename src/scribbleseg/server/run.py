"""Starts the server of the annotation page, and ends it without losing a stroke."""

import asyncio
import logging
import socket
import threading
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from scribbleseg.lock import release
from scribbleseg.plural import number_of
from scribbleseg.server.project import Project, open_merged, open_project
from scribbleseg.server.series import check_free, check_run
from scribbleseg.types import DataError

if TYPE_CHECKING:
    import uvicorn

    from scribbleseg.server.run_pages import RunPages
    from scribbleseg.server.store import Store

HOST, PORT, TRIED = "127.0.0.1", 8017, 20
"""Where the page is served: the first of so many ports that is free. A page finds the strokes that it could not save
again only at the same port, so that each start asks for the same one first."""

KEPT_BY_PAGES = (
    "The page keeps them while it is open: free some space, start `scribbleseg annotate` again on the same port, and "
    "open the address that it prints."
)


def serve(
    data: str | Path,
    annotator: str | Sequence[str] = "",
    *,
    run: str | Path | None = None,
    port: int | None = None,
    opens: bool = True,
    say: Callable[[str], None] = print,
) -> None:
    """Serves the annotation page of a data set until it is interrupted.

    Args:
        data: the data set, or a folder of images.
        annotator: the name of the person who draws; "" draws in the data set's own scribbles. Several names: what they
            drew is merged, and then drawn on together.
        run: the run whose predictions are shown, and that is trained; it need not exist. None is a folder in the data
            set.
        port: the port; 0 is any that is free, None the usual one or the next that is free.
        opens: whether the page is opened in a browser.
        say: prints a line.

    Raises:
        DataError: what cannot be drawn on, scribbles that another server draws in, a run of other labels or channels,
            a port that is taken, or strokes that could not be saved at the end.
    """
    project = open_project(data, annotator) if isinstance(annotator, str) else open_merged(data, annotator)
    folder = Path(run) if run is not None else None
    if folder is not None and (folder / "run.json").is_file():
        check_run(folder, project)
    elif folder is not None:
        check_free(folder)
    with _listening(port) as listener, _alone(project):
        if project.merged:
            _merge(project, say)
        served = prepared(project, listener, folder)
        say(f"Scribbles go to {project.folder}")
        say(f"The page is at {served.address}")
        say("Ctrl-C ends it; every stroke is saved as it is drawn.")
        threading.Thread(target=served.store.look_at_all, daemon=True).start()
        if opens:
            threading.Thread(target=webbrowser.open, args=(served.address,), daemon=True).start()
        with suppress(KeyboardInterrupt):
            served.server.run(sockets=[listener])
        served.runs.predictions.close()
        if training := served.runs.training.folder:
            say(f"The training in {training} goes on; `scribbleseg annotate` shows it again.")
        if problems := served.store.flush():
            for problem in problems:  # said here, for whoever pressed Ctrl-C is told of nothing else
                say(f"Strokes are not saved: {problem}")
            say(KEPT_BY_PAGES)
            raise DataError(f"expected to save all strokes, could not in {number_of(len(problems), 'case')}")


@contextmanager
def _alone(project: Project) -> Iterator[None]:
    """While it lasts, no other server draws in the folder of the scribbles. Raises DataError where one does."""
    place = project.lock()
    try:
        yield
    finally:
        release(place)


def _merge(project: Project, say: Callable[[str], None]) -> None:
    from scribbleseg.server.merge import merge

    differ = merge(project)
    cases = number_of(len(differ), "case")
    say(f"Voxels on which annotators disagree are left unlabelled: {sum(differ.values())} in {cases}")


class Served(NamedTuple):
    """A server that has not been started yet.

    Args:
        server: the server; `run` serves until it is interrupted.
        store: the cases.
        runs: what knows of runs.
        address: the page's address, with its key.
    """

    server: "uvicorn.Server"
    store: "Store"
    runs: "RunPages"
    address: str


def _of_the_page(record: logging.LogRecord) -> bool:
    """Whether a line of the server's log is of interest: that its end cut an answer short is not."""
    cut_short = record.exc_info is not None and isinstance(record.exc_info[1], asyncio.CancelledError)
    return not cut_short and not record.getMessage().startswith("Cancel ")


def prepared(project: Project, listener: socket.socket, run: Path | None = None) -> Served:
    """Prepares the server of a project, and its run, on a socket that listens already."""
    import uvicorn

    from scribbleseg.server.app import make_app
    from scribbleseg.server.guard import Guard

    app, store, runs = make_app(project, run)
    number = listener.getsockname()[1]
    guard = Guard(app, cookie=f"scribbleseg_{number}")
    config = uvicorn.Config(guard, http="h11", ws="none", loop="asyncio", lifespan="off", log_level="warning")
    config.server_header, config.access_log, config.timeout_graceful_shutdown = False, False, 1
    logging.getLogger("uvicorn.error").addFilter(_of_the_page)
    return Served(uvicorn.Server(config), store, runs, f"http://{HOST}:{number}/?key={guard.key}")


def _listening(port: int | None) -> socket.socket:
    """A socket on this machine alone. Raises DataError where the port is taken."""
    ports = range(PORT, PORT + TRIED) if port is None else [port]
    for number in ports:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, number))
            listener.listen()
            return listener
        except OSError:
            listener.close()
    taken = f"{ports[0]}" if len(ports) == 1 else f"{ports[0]} to {ports[-1]}"
    raise DataError(f"--port: expected a free port, found {taken} taken; give another one, or 0 for any that is free")
