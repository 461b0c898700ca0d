"""The routes about runs: what networks make of the images, the slice to draw next, and training from the page."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from anyio.to_thread import run_sync
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from scribbleseg.files import FileError
from scribbleseg.server.bodies import Start, Stop, name_of, read_json, whole
from scribbleseg.server.predictions import Predictions
from scribbleseg.server.series import Series
from scribbleseg.server.store import Store
from scribbleseg.server.suggest import Suggestion, most_helpful, spread_out
from scribbleseg.server.training import Busy, Training

MAPS: dict[str, dict[str, Any]] = {
    "labels": {"what": "labels"},
    "doubt": {"what": "doubt"},
    "before": {"what": "labels", "before": True},
}
"""What can be asked for of a case: the prediction, its doubt, and the prediction of the run before."""


class RunPages:
    """The handlers of these routes.

    Args:
        store: the cases.
        run: the folder of the first run; it need not exist.
    """

    def __init__(self, store: Store, run: Path) -> None:
        self.store = store
        self.series = Series(run)
        self.predictions, self.training = Predictions(self.series), Training(self.series)

    @property
    def routes(self) -> list[Route]:
        """All routes."""
        return [
            Route("/api/next", self.next),
            Route("/api/run", self.run),
            Route("/api/training", self.start, methods=["POST"]),
            Route("/api/training/stop", self.stop, methods=["POST"]),
            Route("/api/cases/{case}/predicted/{what}", self.predicted),
        ]

    async def run(self, request: Request) -> Response:
        """The runs that are shown, how far their networks have looked at the images, and the state of the training."""
        return JSONResponse(await run_sync(self._state))

    def _state(self) -> dict[str, Any]:
        project = self.store.project
        if not project.encoding:
            raise HTTPException(409, "name the structures first")
        training = self.training.state(project)
        shown = self.predictions.state(project, self.training.folder)
        return {**shown, "tau": self.series.tau(project, self.training.folder), "training": training}

    async def start(self, request: Request) -> Response:
        """Starts a training, or goes on with one; 409 where one is at work, 507 where its log cannot be written."""
        body = await read_json(request, Start)
        return await self._do(partial(self.training.start, self.store.project, body.iterations))

    async def stop(self, request: Request) -> Response:
        """Tells the training to stop; 409 where none is at work on the folder that is named."""
        body = await read_json(request, Stop)
        if body.folder != str(self.training.folder):
            raise HTTPException(409, "no training is at work there")
        return await self._do(self.training.stop)

    async def _do(self, work: Callable[[], None]) -> Response:
        if not self.store.project.encoding:
            raise HTTPException(409, "name the structures first")
        try:
            await run_sync(work)
        except Busy as error:
            raise HTTPException(409, str(error)) from None
        except FileError as error:
            raise HTTPException(507, str(error)) from None
        return JSONResponse(await run_sync(self._state))

    async def predicted(self, request: Request) -> Response:
        """One byte a voxel of what a network makes of a case; empty where it has not looked at it yet."""
        name = name_of(request, self.store.project)
        asked = MAPS.get(request.path_params["what"])
        if asked is None:
            raise HTTPException(404, "no such map")
        self.predictions.first(name)
        find = partial(self.predictions.of, self.store.project, name, training=self.training.folder, **asked)
        found = await run_sync(find)
        content = b"" if found is None else await run_sync(found.tobytes)
        return Response(content, media_type="application/octet-stream")

    async def next(self, request: Request) -> Response:
        """The slice that is best drawn next, given the case, axis and slice that are shown; null where there is none.

        Where no network has looked at any case, these are evenly spaced slices.
        """
        names = self.store.project.names
        start = whole(request.query_params.get("case", ""), len(names), "case")
        shown = None
        if "slice" in request.query_params:
            axis = whole(request.query_params.get("axis", ""), 3, "axis")
            shown = names[start], axis, whole(request.query_params["slice"], 10**6, "slice")
        found = await run_sync(self._next, start, shown)
        return JSONResponse(found._asdict() if found else None)

    def _next(self, start: int, shown: tuple[str, int, int] | None) -> Suggestion | None:
        looks = self.predictions.looks(self.store.project, self.training.folder)
        return most_helpful(self.store, looks, shown) if looks else spread_out(self.store, start)
