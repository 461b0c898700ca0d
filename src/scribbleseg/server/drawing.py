"""The scribbles of one case while they are drawn: changes of voxels come from pages and go to the data set's file.

Pages speak of voxels by their place in the array on the page (`display`), in runs along its last axis. The array goes
back to the order of the image before it is written, in the data set's own values and with the image's own geometry.
"""

import os
import shutil
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from scribbleseg.data.drawing import read_drawing
from scribbleseg.data.encoding import in_values
from scribbleseg.data.formats import ending, read_geometry, write_labels
from scribbleseg.files import FileError, file_stamp
from scribbleseg.server.display import turn_for_screen
from scribbleseg.server.project import WRITTEN, Project
from scribbleseg.server.records import Record, read_record, write_record
from scribbleseg.types import UNLABELLED, DataError, Geometry, Labels

KEPT = ".kept"
"""The folder, beside the scribbles, of files that were replaced though somebody else had made or changed them."""

SHORTEST_PAUSE = 3600.0
"""Seconds of drawing that one change may claim, at most."""


class BadChange(ValueError):
    """A change that no page can have sent: voxels outside of the image, or labels that there are not."""


class Saved(NamedTuple):
    """What came of a change.

    Args:
        version: the number of the state of the scribbles after it.
        alone: whether nothing else had changed since the version that the page knew.
        kept: where a file was put that somebody else had written meanwhile; "" for nowhere.
    """

    version: int
    alone: bool
    kept: str = ""


@dataclass(frozen=True)
class Change:
    """What a page has drawn since it last said so.

    Args:
        base: the version that it was drawn on.
        runs: `start length label` of each run of voxels, by their place in the flat array on the page.
        seconds: how long that took.
        strokes: how many strokes of each label were drawn.
    """

    base: int
    runs: Sequence[tuple[int, int, int]]
    seconds: float = 0.0
    strokes: Mapping[int, int] | None = None


class Drawing:
    """The scribbles of one case.

    Args:
        project: what is drawn on; its structures are named.
        name: the case.
        geometry: the grid of its image, where that has been read already.

    Attributes:
        labels: uint8 `depth height width` as on the page.
        version: the number of changes since the server began.
        unsaved: whether the last attempt to write them failed.

    Raises:
        DataError: the image or the scribbles cannot be read.
    """

    def __init__(self, project: Project, name: str, geometry: Geometry | None = None) -> None:
        self.project, self.name = project, name
        self.geometry = geometry or read_geometry(project.image(name)[0])
        self.turn = turn_for_screen(self.geometry)
        self.lock = threading.RLock()
        self.version, self.unsaved = 0, False
        self._read()

    def _read(self) -> None:
        """Reads the scribbles as they are on disk; all is UNLABELLED where there are none."""
        project = self.project
        assert project.encoding, "name the structures first"
        self.record = read_record(project.folder, self.name) or Record(annotator=project.annotator)
        file = project.drawn().get(self.name)
        self._stamp, self._source = file_stamp(file), file
        if file is None:
            stored: Labels = np.full(self.geometry.shape, UNLABELLED, np.uint8)
        else:
            stored = read_drawing(file, project.encoding, project.image(self.name), self.geometry)
        self.labels: Labels = np.ascontiguousarray(self.turn(stored))

    def refresh(self) -> bool:
        """Reads the scribbles again where another program has changed the file; returns whether it has."""
        with self.lock:
            changed = not self.unsaved and self._changed_on_disk()
            if changed:
                self._read()
                self.version += 1
            return changed

    def change(self, change: Change) -> Saved:
        """Applies a change and writes the scribbles.

        What has been applied stays, also where it cannot be written: the next change writes it, or `write`.

        Raises:
            BadChange: it is not one of this case; nothing has been applied.
            FileError: the scribbles could not be written.
        """
        with self.lock:
            runs = self._checked(change)
            alone = change.base == self.version
            flat = self.labels.reshape(-1)
            for start, length, label in runs.tolist():
                flat[start : start + length] = label
            self.version += 1
            names = self.project.label_names
            strokes = {names[label]: n for label, n in (change.strokes or {}).items() if label < len(names)}
            seconds = min(change.seconds, SHORTEST_PAUSE)
            self.record = self.record.worked(self.project.annotator, seconds, strokes)
            return Saved(self.version, alone, self.write())

    def note(self, done: bool, flag: str) -> None:
        """Says whether the case is done, and what is wrong with it. Raises FileError."""
        with self.lock:
            worked = self.record.worked(self.project.annotator, 0.0, {})
            self.record = worked.model_copy(update={"done": done, "flag": flag})
            self._write_record()

    def write(self) -> str:
        """Writes the scribbles and their record. Returns where a file of somebody else was put, or "".

        Raises:
            FileError: they cannot be written; `unsaved` says so until they can.
        """
        with self.lock:
            self.unsaved = True
            self.project.check_place()
            kept = self._keep_other()
            self._write_labels()
            self.unsaved = False
            self._write_record()
            return kept

    def counts(self) -> Int64[np.ndarray, "depth label"]:
        """How many voxels of each label each slice of the plane of acquisition has."""
        depth = len(self.labels)
        counts = np.zeros((depth, len(self.project.label_names)), np.int64)
        where = np.flatnonzero(self.labels != UNLABELLED)
        np.add.at(counts, (where // (self.labels.size // depth), self.labels.reshape(-1)[where]), 1)
        return counts

    def _checked(self, change: Change) -> np.ndarray:
        """The runs as an array. Raises BadChange."""
        runs = np.array(change.runs, np.int64).reshape(-1, 3)
        start, length, label = runs.T
        size, n_labels = self.labels.size, len(self.project.label_names)
        if ((start < 0) | (length < 1) | (start >= size) | (length > size) | (start + length > size)).any():
            raise BadChange(f"expected runs of voxels within the {size} of case {self.name}")
        if ((label < 0) | ((label >= n_labels) & (label != UNLABELLED))).any():
            raise BadChange(f"expected labels 0 to {n_labels - 1}, or {UNLABELLED} for unlabelled")
        return runs

    def _changed_on_disk(self) -> bool:
        file = self.project.drawn().get(self.name)
        return file != self._source or file_stamp(file) != self._stamp

    def _keep_other(self) -> str:
        """Keeps a copy of a file that is to be replaced and is not ours: changed meanwhile, or of another format."""
        file = self.project.drawn().get(self.name)
        if file is None or (ending(file) in WRITTEN and not self._changed_on_disk()):
            return ""
        now = datetime.now().astimezone().strftime("%Y-%m-%dT%H.%M.%S.%f")
        kept = self.project.folder / KEPT / f"{now}-{file.name}"
        try:
            kept.parent.mkdir(exist_ok=True)
            shutil.copy2(file, kept)
        except OSError as error:
            raise FileError(kept, f"could not be written: {error.strerror or error}", "free some space") from error
        return str(kept.relative_to(self.project.root))

    def _write_labels(self) -> None:
        project = self.project
        assert project.encoding, "name the structures first"
        before = project.drawn().get(self.name)
        target = project.target(self.name, self.geometry)
        if project.needs_all or before is not None or (self.labels != UNLABELLED).any():
            project.declare()
            stored = self.turn.back(self.labels)
            values = in_values(stored, project.label_names, project.encoding.by_name)
            if ending(target) not in WRITTEN[:2] and not 0 <= values.min() <= values.max() <= np.iinfo(np.uint16).max:
                raise DataError(f"{target}: expected values of 0 to 65535 in pictures; declare others in dataset.json")
            if before is not None and before != target:
                self._replace_format(before, target, values)
            else:
                write_labels(target, values, self.geometry)
            self._source = target
        self._stamp = file_stamp(self._source)

    def _replace_format(self, before: Path, target: Path, values: np.ndarray) -> None:
        """Writes the scribbles in the place of a file of another format, which has been kept elsewhere.

        They are written first under a name that no data set reads, so that at every moment there is one file, or none
        and the one that was kept.
        """
        waiting = target.parent / KEPT / target.name
        write_labels(waiting, values, self.geometry)
        before.unlink()
        os.replace(waiting, target)

    def _write_record(self) -> None:
        counts = self.counts()
        ink = dict(zip(self.project.label_names, counts.sum(axis=0).tolist(), strict=True))
        drawn = int((counts > 0).any(axis=1).sum())
        self.record = self.record.model_copy(update={"ink_voxels": ink, "slices_drawn": drawn})
        write_record(self.project.folder, self.name, self.record)
