"""The cases that are open on pages, and a list of all of them with the progress of each."""

import logging
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import numpy as np
from jaxtyping import Bool

from scribbleseg.data.formats import read_geometry, read_image
from scribbleseg.files import FileError, Stamp, file_stamp
from scribbleseg.server.display import Channel, as_channel, described, kind_of
from scribbleseg.server.drawing import Drawing
from scribbleseg.server.project import Project
from scribbleseg.server.records import Record, State, read_record
from scribbleseg.types import UNLABELLED, DataError, Geometry, Image

if TYPE_CHECKING:
    from scribbleseg.server.areas import Areas

log = logging.getLogger(__name__)

IN_MEMORY = 2
"""Images that are kept in memory: the one that is drawn on, and the one before."""

GONE = 12.0
"""Seconds after which a tab that says nothing counts as closed."""


Drawn = tuple[Bool[np.ndarray, " depth"], Bool[np.ndarray, " height"], Bool[np.ndarray, " width"]]
"""Which slices along each axis of the array on the page have strokes."""


@dataclass
class Opened:
    """A case that is open: its image as on the page, and its scribbles.

    Args:
        drawing: the scribbles.
        image: float32 `channel depth height width`, as on the page.
        kind: "ct", "colour" or "".
    """

    drawing: Drawing
    image: Image
    kind: str

    def channel(self, number: int) -> Channel:
        """One channel as it is sent."""
        return as_channel(self.image[number])

    @cached_property
    def areas(self) -> "Areas":
        """What grows areas in this image."""
        from scribbleseg.server.areas import Areas

        spacing_mm = self.drawing.turn.spacing_mm(self.drawing.geometry)
        return Areas(self.image, self.drawing.labels, spacing_mm)

    def described(self) -> dict[str, Any]:
        """What the page needs to know before it is sent any voxels."""
        from scribbleseg.server.areas import AUTOMATIC, USUAL_TAU

        drawing = self.drawing
        return {
            "name": drawing.name,
            "version": drawing.version,
            "channels": len(self.image),
            "kind": self.kind,
            "walker": {"tau": USUAL_TAU, "beta": AUTOMATIC.beta},
            "record": drawing.record.model_dump(),
            **described(drawing.geometry, drawing.turn),
        }


class Store:
    """All cases of a project, read when they are asked for. Its methods may be called from several threads.

    Args:
        project: what is drawn on; its structures may be named later.
    """

    def __init__(self, project: Project) -> None:
        self.project = project
        self._drawings: dict[str, Drawing] = {}
        self._closed: WeakValueDictionary[str, Drawing] = WeakValueDictionary()  # which somebody may still work on
        self._versions: dict[str, tuple[int, Stamp]] = {}
        self._opened: OrderedDict[str, Opened] = OrderedDict()
        self._errors: dict[str, str] = {}
        self._lock = threading.RLock()
        self._reading: dict[str, threading.Lock] = {}
        self._holders: dict[str, tuple[str, float]] = {}
        self._drawn: dict[str, tuple[object, Drawn]] = {}

    def drawing(self, name: str) -> Drawing:
        """The scribbles of a case. Raises DataError where it cannot be read."""
        with self._reading_of(name):
            return self._drawing(name)

    def _drawing(self, name: str, geometry: Geometry | None = None) -> Drawing:
        """The only `Drawing` of a case: two would write over each other."""
        found = self._drawings.get(name) or self._closed.get(name)
        found = found or Drawing(self.project, name, geometry, self._versions.get(name))
        self._drawings[name] = found
        return found

    def opened(self, name: str) -> Opened:
        """A case with its image. Raises DataError where it cannot be read; the list says why from then on."""
        with self._reading_of(name):
            if name in self._opened:
                self._opened.move_to_end(name)
                return self._opened[name]
            try:
                image, geometry = read_image(self.project.image(name))
                drawing = self._drawing(name, geometry)
            except DataError as error:
                self._errors[name] = str(error)
                raise
            self._errors.pop(name, None)
            opened = Opened(drawing, drawing.turn(image), kind_of(image, geometry))
            with self._lock:
                self._opened[name] = opened
                while len(self._opened) > IN_MEMORY:
                    self._close(next(iter(self._opened)))
            return opened

    def _close(self, name: str) -> None:
        del self._opened[name]
        if not self._drawings[name].unsaved:
            drawing = self._closed[name] = self._drawings.pop(name)
            self._versions[name] = drawing.version, drawing.stamp

    def _reading_of(self, name: str) -> threading.Lock:
        with self._lock:
            return self._reading.setdefault(name, threading.Lock())

    def drawn(self, name: str, file: Path | None) -> Drawn | None:
        """Which slices of a case have strokes; None where it has none.

        A case that is not open is read, and not kept in memory.

        Args:
            name: the case.
            file: its scribbles, if there are any.

        Raises:
            DataError: it cannot be read.
        """
        with self._reading_of(name):
            drawing = self._drawings.get(name)
            if drawing is None and file is None:
                return None
            state = drawing.version if drawing else -1, file_stamp(file)
            if self._drawn.get(name, (None,))[0] != state:
                there = (drawing or Drawing(self.project, name)).labels != UNLABELLED
                self._drawn[name] = state, (there.any(axis=(1, 2)), there.any(axis=(0, 2)), there.any(axis=(0, 1)))
            return self._drawn[name][1]

    def look_at_all(self) -> None:
        """Reads the grid of every image, so that the list says which cannot be read before somebody opens them."""
        import scribbleseg.server.areas  # noqa: F401  # so that the first areas do not wait for it

        for name in self.project.names:
            try:
                read_geometry(self.project.image(name)[0])
            except DataError as error:
                self._errors[name] = str(error)
            except Exception:  # the list goes without it, and whoever opens the case is told
                log.exception("case %s", name)

    def listed(self) -> list[dict[str, Any]]:
        """The cases with their progress, in order."""
        try:
            drawn = self.project.drawn()
        except FileError as error:  # two files for one case: whoever opens it is told which
            log.warning("%s", error)
            drawn = {}
        return [self._row(name, name in drawn) for name in self.project.names]

    def _row(self, name: str, drawn: bool) -> dict[str, Any]:
        drawing = self._drawings.get(name)
        record = drawing.record if drawing else read_record(self.project.folder, name) or Record()
        begun = drawn or sum(record.ink_voxels.values()) > 0
        state: State = "done" if record.done else "begun" if begun else "untouched"
        return {
            "name": name,
            "state": state,
            "flag": record.flag,
            "slices": record.slices_drawn,
            "error": self._errors.get(name, ""),
        }

    def present(self, name: str, tab: str, take: bool, leave: bool) -> bool:
        """Notes that a tab has a case open. Returns whether another tab holds it."""
        with self._lock:
            holder, seen = self._holders.get(name, (tab, 0.0))
            free = holder == tab or time.monotonic() - seen > GONE
            if leave and holder == tab:
                self._holders.pop(name, None)
            elif free or take:
                self._holders[name] = tab, time.monotonic()
            return not (free or take)

    def flush(self) -> list[str]:
        """Tries once more to write what could not be written. Returns what is wrong with those that still cannot be."""
        problems = []
        for drawing in list(self._drawings.values()):
            if drawing.unsaved:
                try:
                    drawing.write()
                except DataError as error:
                    problems.append(str(error))
        return problems
