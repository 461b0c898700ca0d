"""Training from the page: `scribbleseg train` in a process of its own, which outlives the page and its server.

Its output goes to RUN.log beside the run folder. The lock of the run folder says whether a process is at work on it,
so that a server that was started anew finds it again.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scribbleseg.files import FileError, read_records
from scribbleseg.lock import at_work
from scribbleseg.runs import Run, has_begun
from scribbleseg.server.project import Project
from scribbleseg.server.series import Series, iterations, scribbles_of, steps
from scribbleseg.types import DataError

NICENESS = 5
"""How far the training steps back for the page, which has to answer the pen at once (ours)."""

SHOWN_LOG = 8000
"""Bytes of the log that the page shows, from its end."""

PLAN = re.compile(r"^To do: (.*)", re.MULTILINE)
"""The line of the log that says what is trained, and for how long."""


DEFAULT = {"stages": [{"iterations": 4}, {"iterations": 1, "times": 4}]}
"""How the recipes of `recipes.default` spread their iterations: half, then four equal parts."""


class Busy(Exception):
    """A training is at work already, or none is that could be stopped."""


@dataclass(eq=False)
class Training:
    """Starts, watches and stops the training of a series of runs. Its methods may be called from several threads.

    Args:
        series: the runs.
    """

    series: Series
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _process: subprocess.Popen | None = field(default=None, init=False)
    _folder: Path | None = field(default=None, init=False)

    def start(self, project: Project, wanted: int | None) -> None:
        """Starts a training, or goes on with one that was stopped.

        Args:
            project: what is drawn on.
            wanted: the iterations of all M steps together; None leaves them to the recipe.

        Raises:
            Busy: one is at work.
            FileError: the log cannot be written.
        """
        with self._lock:
            if self._pid() is not None:
                raise Busy("a training is at work already")
            folder, goes_on = self.target(project, wanted)
            words = ["train", str(project.root.resolve()), "--out", str(folder), "--resume"]
            if scribbles := scribbles_of(project):
                words += ["--scribbles", str(scribbles.resolve())]
            start = None if goes_on else self.start_of(project, folder)
            if start:
                words += ["--start-from", str(start.path)]
            if wanted and not goes_on:
                words += settings(wanted, start.recipe if start else DEFAULT)
            self._process = _started(words, log_of(folder))
            self._folder = folder

    def stop(self) -> None:
        """Tells the training to stop: it leaves a checkpoint, from which the next start goes on. Raises Busy."""
        pid = self._pid()
        if pid is None:
            raise Busy("no training is at work")
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)

    def _pid(self) -> int | None:
        """The process that is at work on the newest run; None where there is none."""
        if self._process is not None and self._process.poll() is None:
            return self._process.pid
        folders = self.series.folders
        return at_work(folders[-1]) if folders else None

    @property
    def folder(self) -> Path | None:
        """The run that a training is at work on; None where none is."""
        if self._pid() is None:
            return None
        folders = self.series.folders
        return self._folder or (folders[-1] if folders else None)

    def target(self, project: Project, wanted: int | None) -> tuple[Path, bool]:
        """The folder that a start would train in, and whether it goes on with the run there.

        A run whose strokes are those of now goes on, unless another number of iterations is wanted.
        """
        folders = self.series.folders
        if not folders or not has_begun(folders[-1]):
            return (folders or [self.series.first])[-1], False
        run = Run(folders[-1])
        if self.series.is_of_these_strokes(run, project) and wanted in (None, iterations(run.recipe)):
            return run.path, True
        return self.series.free, False

    def start_of(self, project: Project, target: Path) -> Run | None:
        """The run whose network a new run in `target` starts from: the newest one for these labels, if there is any."""
        return next(iter(self.series.shown(project, but=target)), None)

    def state(self, project: Project) -> dict[str, Any]:
        """What the page shows of the training."""
        folders = self.series.folders
        process, pid = self._process, self._pid()
        folder = self._folder or (folders[-1] if folders else None)
        try:
            target, goes_on = self.target(project, None)
        except DataError:  # a damaged run: the next one begins anew
            target, goes_on = self.series.free, False
        start = None if goes_on else self.start_of(project, target)
        log = _tail(log_of(folder)) if folder else ""
        plans = PLAN.findall(log)
        return {
            "working": pid is not None,
            "folder": str(folder) if folder else "",
            "code": process.poll() if process else None,
            "plan": plans[-1] if plans else "",
            "log": log,
            "next": target.name,
            "goes_on": goes_on,
            "starts_from": start.path.name if start else "",
            **_progress(folder),
        }


def settings(wanted: int, recipe: Mapping[str, Any]) -> list[str]:
    """The options that spread so many iterations over the stages of a recipe, as plain data, as it does itself."""
    total = iterations(recipe)
    shares = [max(1, wanted * stage["iterations"] // total) for stage in recipe["stages"]]
    return [word for n, share in enumerate(shares) for word in ("--set", f"stages.{n}.iterations={share}")]


def log_of(folder: Path) -> Path:
    """The file beside a run folder that the output of its training goes to."""
    return folder.with_name(f"{folder.name}.log")


def _started(words: list[str], log: Path) -> subprocess.Popen:
    """Starts the program with these words, and its output at the end of a log. Raises FileError."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "110"}
    command = [sys.executable, "-m", "scribbleseg", *words]
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            file.write(f"$ scribbleseg {shlex.join(words)}\n".encode())
            file.flush()
            output: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": subprocess.STDOUT}
            process = subprocess.Popen(command, env=environment, start_new_session=True, **output)
    except OSError as error:
        problem = f"could not be written: {error.strerror or error}"
        raise FileError(log, problem, "free some space, or choose another --run") from error
    with suppress(AttributeError, OSError):  # Windows has no such call
        os.setpriority(os.PRIO_PROCESS, process.pid, NICENESS)
    return process


def _tail(file: Path) -> str:
    """The end of a log, in whole lines, of the newest command alone."""
    try:
        with file.open("rb") as opened:
            size = opened.seek(0, os.SEEK_END)
            opened.seek(max(0, size - SHOWN_LOG))
            text = opened.read().decode(errors="replace")
    except OSError:
        return ""
    whole = text if size <= SHOWN_LOG else text.partition("\n")[2]
    return whole[max(0, whole.rfind("$ scribbleseg ")) :]


def _progress(folder: Path | None) -> dict[str, Any]:
    """How far the training of a run has come: iterations done and in all, and the last loss."""
    nothing = {"iteration": 0, "of": 0, "loss": None}
    if folder is None or not (folder / "recipe.json").is_file():
        return nothing
    try:
        run = Run(folder)
        records = [record for record in read_records(folder / "metrics.jsonl") if record.get("event") == "train"]
        total = iterations(run.recipe)
        finished = sum(steps(run.recipe)[: run.recursions])
    except (DataError, KeyError, TypeError):  # it is being written, or damaged: the log says which
        return nothing
    last = records[-1] if records else {}
    done = max(int(last.get("total_iteration", 0)), finished)
    return {"iteration": done, "of": total, "loss": last.get("loss")}
