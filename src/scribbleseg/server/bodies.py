"""What the page sends: its shapes, and how much of it is read."""

import asyncio
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request

from scribbleseg.server.project import Project

MOST_JSON = 32 * 2**20
"""Bytes of a JSON body, at most: a change of every tenth voxel of a large volume fits (ours)."""

PATIENCE = 30.0
"""Seconds in which a body has to arrive."""

Tab = Annotated[str, Field(pattern=r"^[a-z0-9]{8,40}$")]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Structures(_Body):
    """The names of the structures of a data set."""

    names: Annotated[list[str], Field(min_length=1, max_length=200)]


class Strokes(_Body):
    """What was drawn since the page last said so; see `drawing.Change`."""

    tab: Tab
    base: int
    runs: list[tuple[int, int, int]]
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    strokes: Annotated[dict[str, Annotated[int, Field(ge=0, le=10**6)]], Field(max_length=256)] = {}


class Note(_Body):
    """Whether a case is done, and what is wrong with it."""

    done: bool
    flag: Annotated[str, Field(max_length=2000)] = ""


class Presence(_Body):
    """A tab that has a case open; `take` takes the case over from another tab."""

    tab: Tab
    take: bool = False
    leave: bool = False


class Start(_Body):
    """A training that is to begin, or to go on: the iterations of all its steps together; None is the recipe's own."""

    iterations: Annotated[int, Field(ge=2, le=10**7)] | None


class Stop(_Body):
    """A training that is to stop: the run folder that it works on."""

    folder: Annotated[str, Field(max_length=4096)]


Kind = TypeVar("Kind", bound=_Body)


async def read_json(request: Request, kind: type[Kind]) -> Kind:
    """Reads a JSON body of one kind. Raises HTTPException (4xx)."""
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "expected application/json")
    body = await read_bytes(request, MOST_JSON)
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise HTTPException(422, f"{where or 'body'}: {first['msg']}") from None


async def read_bytes(request: Request, most: int) -> bytes:
    """Reads a body of at most so many bytes. Raises HTTPException (4xx)."""
    parts, size = [], 0
    try:
        async with asyncio.timeout(PATIENCE):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise HTTPException(413, f"expected at most {most} bytes")
                parts.append(part)
    except TimeoutError:
        raise HTTPException(408, "the body did not arrive") from None
    return b"".join(parts)


def number(request: Request, name: str, low: float, high: float) -> float:
    """A number in the query of a request, within bounds. Raises HTTPException (4xx)."""
    text = request.query_params.get(name, "")
    try:
        value = float(text[:40])
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise HTTPException(422, f"{name}: expected a number from {low:g} to {high:g}")
    return value


def whole(text: str, below: int, what: str) -> int:
    """A whole number from 0 to below `below`. Raises HTTPException (404)."""
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) < below):
        raise HTTPException(404, f"no such {what}")
    return int(text)


def name_of(request: Request, project: Project) -> str:
    """The name of the case whose number is in the path of a request. Raises HTTPException (4xx)."""
    if not project.encoding:
        raise HTTPException(409, "name the structures first")
    return project.names[whole(request.path_params["case"], len(project.names), "case")]
