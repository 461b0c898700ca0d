"""The scribbles of one case while they are drawn: changes of voxels come from pages and go to the data set's file.

Pages speak of voxels by their place in the array on the page (`display`), in runs along its last axis. The array goes
back to the order of the image before it is written, in the data set's own values and with the image's own geometry.
"""

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
from scribbleseg.files import FileError, Stamp, atomically, file_stamp
from scribbleseg.server.display import turn_for_screen
from scribbleseg.server.project import WRITTEN, Project
from scribbleseg.server.records import Record, read_record, write_record
from scribbleseg.types import UNLABELLED, DataError, Geometry, Labels

KEPT = ".kept"
"""The folder, beside the scribbles, of files that were replaced though somebody else had made or changed them."""

RECOVERED = -1
"""The version on which strokes were drawn that a page could not save, as far as a later page knows: nobody can tell how
old they are, so that what they replace is kept."""

LONGEST = 3600.0
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
        base: the version that it was drawn on, or `RECOVERED`.
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
        before: version and stamp at which the case was closed, where it was open before.

    Attributes:
        labels: uint8 `depth height width` as on the page.
        version: the number of changes since the server began.
        stamp: that of the file that they were read from or written to (`files.file_stamp`).
        unsaved: whether the last attempt to write them failed.

    Raises:
        DataError: the image or the scribbles cannot be read.
    """

    def __init__(
        self, project: Project, name: str, geometry: Geometry | None = None, before: tuple[int, Stamp] | None = None
    ) -> None:
        self.project, self.name = project, name
        self.geometry = geometry or read_geometry(project.image(name)[0])
        self.turn = turn_for_screen(self.geometry)
        self.lock = threading.RLock()
        self.version, stamp = before or (0, None)
        self.unsaved = False
        self._read()
        self.version += before is not None and stamp != self.stamp  # other pages have to fetch it anew

    def _read(self) -> None:
        """Reads the scribbles as they are on disk; all is UNLABELLED where there are none."""
        project = self.project
        assert project.encoding, "name the structures first"
        self.record = read_record(project.folder, self.name) or Record(annotator=project.annotator)
        file = project.drawn().get(self.name)
        stamp = file_stamp(file)
        if file is None:
            stored: Labels = np.full(self.geometry.shape, UNLABELLED, np.uint8)
        else:
            project.check_inside(file)
            stored = read_drawing(file, project.encoding, project.image(self.name), self.geometry)
        self.stamp, self._source = stamp, file  # not before: what could not be read is to be kept, not replaced
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
            DataError: the scribbles could not be written.
        """
        with self.lock:
            runs = self._checked(change)
            alone = change.base == self.version
            flat = self.labels.reshape(-1)
            recovered = change.base == RECOVERED and self._replaces(runs) and not self._changed_on_disk()
            kept = self._keep(self._source) if recovered and self._source else ""
            for start, length, label in runs.tolist():
                flat[start : start + length] = label
            self.version += 1
            names = self.project.label_names
            strokes = {names[label]: n for label, n in (change.strokes or {}).items() if label < len(names)}
            seconds = min(change.seconds, LONGEST)
            before = self.record
            self.record = before.worked(self.project.annotator, seconds, strokes)
            try:
                return Saved(self.version, alone, self.write() or kept)
            except DataError:
                self.record = before  # the page sends the change again, and its time is counted then
                raise

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
            kept = self._write_labels()
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

    def _replaces(self, runs: np.ndarray) -> bool:
        """Whether runs change voxels that are labelled."""
        flat = self.labels.reshape(-1)
        parts = ((flat[start : start + length], label) for start, length, label in runs.tolist())
        return any(((part != UNLABELLED) & (part != label)).any() for part, label in parts)

    def _changed_on_disk(self) -> bool:
        file = self.project.drawn().get(self.name)
        return file != self._source or file_stamp(file) != self.stamp

    def _keep_other(self) -> str:
        """Keeps a copy of a file that is to be replaced and is not ours: changed meanwhile, or of another format."""
        file = self.project.drawn().get(self.name)
        if file is None or (ending(file) in WRITTEN and not self._changed_on_disk()):
            return ""
        return self._keep(file)

    def _keep(self, file: Path) -> str:
        """Keeps a copy of a file of scribbles. Returns where, within the data set."""
        now = datetime.now().astimezone().strftime("%Y-%m-%dT%H.%M.%S.%f")
        kept = self.project.folder / KEPT / f"{now}-{file.name}"
        if kept.parent.is_symlink():
            raise FileError(kept.parent, "expected a folder, found a link", "take the link away")
        with atomically(kept) as temporary:
            shutil.copy2(file, temporary)
        return str(kept.relative_to(self.project.root))

    def _write_labels(self) -> str:
        """Writes the scribbles, where there are or were any. Returns where a file of somebody else was put, or ""."""
        kept = ""
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
            kept = self._replace(target, values)
            self._source = target
        self.stamp = file_stamp(self._source)
        return kept

    def _replace(self, target: Path, values: np.ndarray) -> str:
        """Writes the scribbles in the place of those that are there, be they in another format.

        They are written first under a name that no data set reads. Then whatever somebody else has written meanwhile is
        kept, and at once replaced, so that at every moment there is one file, or none and the one that was kept.
        """
        with atomically(target) as temporary:
            try:
                write_labels(temporary, values, self.geometry)
            except FileError as error:
                raise FileError(target, error.problem, error.remedy) from error
            kept = self._keep_other()
            there = self.project.drawn().get(self.name)
            if there is not None and there != target:
                there.unlink()
        return kept

    def _write_record(self) -> None:
        self.project.check_place()
        counts = self.counts()
        ink = dict(zip(self.project.label_names, counts.sum(axis=0).tolist(), strict=True))
        drawn = int((counts > 0).any(axis=1).sum())
        self.record = self.record.model_copy(update={"ink_voxels": ink, "slices_drawn": drawn})
        write_record(self.project.folder, self.name, self.record)
