"""The routes of the annotation page: its files, the list of cases, their voxels, what is drawn, and areas."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from importlib.resources import files
from pathlib import Path

import numpy as np
from anyio.to_thread import run_sync
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from scribbleseg.evaluation.palette import BACKGROUND_COLOUR, STRUCTURE_COLOURS
from scribbleseg.files import FileError
from scribbleseg.server.bodies import Note, Presence, Strokes, Structures, name_of, number, read_bytes, read_json, whole
from scribbleseg.server.drawing import BadChange, Change, Drawing
from scribbleseg.server.project import Project, named, open_project
from scribbleseg.server.run_pages import RunPages
from scribbleseg.server.store import Store
from scribbleseg.types import UNLABELLED, DataError

KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
"""The media types of the page's files: what the system believes of `.js` may be wrong, and is then not run."""

Handler = Callable[[Request], Awaitable[Response]]


class Pages:
    """The handlers of all routes.

    Args:
        store: the cases.
        colours: the colour of background, and those of structures, in order.

    Attributes:
        files: content and media type of each of the page's files, by its name.
        growing: held while areas grow, one slice at a time.
        newest: for each tab, how often it has asked for areas: only the newest question is answered.
    """

    def __init__(self, store: Store, colours: list[str]) -> None:
        self.store, self.colours = store, colours
        self.files = {
            file.name: (file.read_bytes(), KINDS[file.name[file.name.rindex(".") :]])
            for file in files("scribbleseg.server").joinpath("static").iterdir()
            if file.name.endswith(tuple(KINDS))
        }
        self.growing = asyncio.Lock()
        self.newest: dict[str, int] = {}

    @property
    def routes(self) -> list[Route]:
        """All routes."""
        case = "/api/cases/{case}"
        return [
            Route("/", self.page),
            Route("/static/{name}", self.static),
            Route("/api/project", self.project),
            Route("/api/project/structures", self.name_structures, methods=["POST"]),
            Route("/api/cases", self.cases),
            Route(case, self.case),
            Route(f"{case}/channels/{{channel}}", self.channel),
            Route(f"{case}/labels", self.labels),
            Route(f"{case}/labels/{{annotator}}", self.labels_of),
            Route(f"{case}/strokes", self.strokes, methods=["POST"]),
            Route(f"{case}/note", self.note, methods=["POST"]),
            Route(f"{case}/presence", self.presence, methods=["POST"]),
            Route(f"{case}/areas", self.areas, methods=["POST"]),
        ]

    async def page(self, request: Request) -> Response:
        """The page itself."""
        return self._file("index.html")

    async def static(self, request: Request) -> Response:
        """One of the page's files, by a name that is looked up in a list: no path is ever made of it."""
        return self._file(request.path_params["name"])

    def _file(self, name: str) -> Response:
        if name not in self.files:
            raise HTTPException(404, "no such file")
        content, kind = self.files[name]
        return Response(content, media_type=kind)

    async def project(self, request: Request) -> Response:
        """What is drawn on: its name, its labels with their colours, and the annotators that are merged in it."""
        project = self.store.project
        structures = [self.colours[1 + n % (len(self.colours) - 1)] for n in range(len(project.label_names) - 1)]
        return JSONResponse(
            {
                "name": project.root.resolve().name,
                "id": str(project.folder.resolve()),
                "folder": str(project.folder),
                "merged": list(project.merged),
                "labels": list(project.label_names),
                "colours": [self.colours[0], *structures],
            }
        )

    async def name_structures(self, request: Request) -> Response:
        """Names the structures of a data set that nobody has named yet."""
        body = await read_json(request, Structures)
        self.store.project = await run_sync(named, self.store.project, body.names)
        return JSONResponse({"labels": list(self.store.project.label_names)})

    async def cases(self, request: Request) -> Response:
        """The cases with their progress."""
        return JSONResponse(await run_sync(self.store.listed))

    async def case(self, request: Request) -> Response:
        """What the page needs to know of a case; scribbles that another program has changed are read again."""
        opened = await run_sync(self.store.opened, self._name(request))
        await run_sync(opened.drawing.refresh)
        counts = await run_sync(opened.drawing.counts)
        return JSONResponse({**opened.described(), "counts": counts.tolist()})

    async def channel(self, request: Request) -> Response:
        """The voxels of one channel, as bytes; how they are read is in the headers."""
        opened = await run_sync(self.store.opened, self._name(request))
        number_ = whole(request.path_params["channel"], len(opened.image), "channel")
        channel = await run_sync(opened.channel, number_)
        return Response(
            await run_sync(channel.values.tobytes),
            media_type="application/octet-stream",
            headers={
                "X-Bytes": str(channel.values.dtype.itemsize),
                "X-Scale": f"{channel.slope!r} {channel.intercept!r}",
                "X-Window": f"{channel.window[0]!r} {channel.window[1]!r}",
                "X-Range": f"{channel.range[0]!r} {channel.range[1]!r}",
            },
        )

    async def labels(self, request: Request) -> Response:
        """The scribbles, one byte a voxel."""
        drawing = await run_sync(self.store.drawing, self._name(request))
        with drawing.lock:
            content, version = drawing.labels.tobytes(), drawing.version
        return Response(content, media_type="application/octet-stream", headers={"X-Version": str(version)})

    async def labels_of(self, request: Request) -> Response:
        """What one of the annotators drew whose scribbles are merged, one byte a voxel, as it is on disk now."""
        name, merged = self._name(request), self.store.project.merged
        annotator = merged[whole(request.path_params["annotator"], len(merged), "annotator")]
        theirs = await run_sync(open_project, self.store.project.root, annotator)
        drawing = await run_sync(Drawing, theirs, name)
        return Response(drawing.labels.tobytes(), media_type="application/octet-stream")

    async def strokes(self, request: Request) -> Response:
        """Takes what was drawn, and answers when it is on disk; 507 where it cannot be written."""
        name = self._name(request)
        body = await read_json(request, Strokes)
        drawing = await run_sync(self.store.drawing, name)
        counts = {int(label): n for label, n in body.strokes.items() if label.isdecimal() and len(label) < 4}
        change = Change(body.base, body.runs, body.seconds, counts)
        try:
            saved = await run_sync(drawing.change, change)
        except BadChange as error:
            raise HTTPException(422, str(error)) from None
        except DataError as error:
            raise HTTPException(507, str(error)) from None
        return JSONResponse(saved._asdict())

    async def note(self, request: Request) -> Response:
        """Says whether a case is done, or flags it."""
        name = self._name(request)
        body = await read_json(request, Note)
        drawing = await run_sync(self.store.drawing, name)
        try:
            await run_sync(drawing.note, body.done, body.flag.strip())
        except FileError as error:
            raise HTTPException(507, str(error)) from None
        return JSONResponse(drawing.record.model_dump())

    async def presence(self, request: Request) -> Response:
        """A tab says that it has a case open; it hears whether another one has, and which version is the newest."""
        name = self._name(request)
        body = await read_json(request, Presence)
        drawing = await run_sync(self.store.drawing, name)
        taken = self.store.present(name, body.tab, body.take, body.leave)
        changed = await run_sync(drawing.refresh)
        answer = {"taken": taken, "version": drawing.version, "changed": changed, "unsaved": drawing.unsaved}
        return JSONResponse(answer)

    async def areas(self, request: Request) -> Response:
        """The areas of one slice, grown from the strokes that are sent; 409 where the page has asked anew since."""
        opened = await run_sync(self.store.opened, self._name(request))
        depth, height, width = opened.drawing.labels.shape
        index = whole(request.query_params.get("slice", ""), depth, "slice")
        tau, beta = number(request, "tau", 0.5001, 1.0), number(request, "beta", 1.0, 1e5)
        body = await read_bytes(request, height * width)
        scribbles = np.frombuffer(body, np.uint8)
        known = (scribbles < len(self.store.project.label_names)) | (scribbles == UNLABELLED)
        if scribbles.size != height * width or not known.all():
            raise HTTPException(422, f"expected {height} x {width} labels")
        tab = request.query_params.get("tab", "")[:40]
        self.newest[tab] = mine = self.newest.get(tab, 0) + 1
        async with self.growing:
            if self.newest.get(tab) != mine:
                raise HTTPException(409, "asked again since")
            grow = partial(opened.areas.grow, index, scribbles.reshape(height, width), tau, beta)
            grown = await run_sync(grow, abandon_on_cancel=True)
        return Response(grown.tobytes(), media_type="application/octet-stream")

    def _name(self, request: Request) -> str:
        return name_of(request, self.store.project)


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, status_code=error.status_code)


def _bad_data(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, status_code=422)


def _gone(request: Request, error: Exception) -> Response:
    """The page was closed while it sent something: nobody hears the answer."""
    return Response(status_code=400)


def make_app(project: Project, run: Path | None = None) -> tuple[Starlette, Store, RunPages]:
    """Returns the application, without its guard, the cases that it serves, and what knows of runs.

    Args:
        project: what is drawn on.
        run: the folder of its run; None is a folder in the data set.
    """
    store = Store(project)
    pages = Pages(store, [BACKGROUND_COLOUR, *STRUCTURE_COLOURS])
    runs = RunPages(store, run or project.root / "run")
    handlers = {HTTPException: _refused, DataError: _bad_data, ClientDisconnect: _gone}
    app = Starlette(routes=[*pages.routes, *runs.routes], exception_handlers=handlers)
    return app, store, runs
