"""What networks make of the images, for the page: read from RUN/page, where a process of its own writes it (`look`)."""

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal
from urllib.parse import quote

import numpy as np
from jaxtyping import Bool, UInt8
from pydantic import BaseModel

from scribbleseg.files import write_text
from scribbleseg.ranking import Look, Stack
from scribbleseg.runs import Run
from scribbleseg.server.project import Project
from scribbleseg.server.series import Series

FOLDER = "page"
"""The folder in a run that holds what the page shows of it."""

What = Literal["labels", "doubt"]


class Found(BaseModel):
    """Which cases the network of a run has looked at.

    Args:
        network: says which network that was (`network_stamp`).
        seen: for each case, which state of its image that was (`image_stamp`).
        ranked: the cases whose slices are ranked, as `scribbleseg suggest` does.
        errors: what is wrong with images that could not be looked at.
    """

    network: str = ""
    seen: dict[str, str] = {}
    ranked: list[str] = []
    errors: dict[str, str] = {}


def network_stamp(run: Run) -> str:
    """What changes when the newest network of a run does; "" where there is none."""
    newest = run.recursions - 1
    return f"{newest} {_stamp(run.network(newest))}" if newest >= 0 else ""


def image_stamp(files: Sequence[Path]) -> str:
    """What changes when an image does."""
    return "; ".join(_stamp(file) for file in files)


def _stamp(file: Path) -> str:
    status = file.stat()
    return f"{status.st_mtime_ns} {status.st_size}"


def found_file(run: Run, name: str) -> Path:
    """The file of one case. It is read by `np.load`."""
    return run.path / FOLDER / f"{quote(name, safe=' ')}.npz"


def read_found(run: Run) -> Found:
    """Reads which cases have been looked at: none, where that cannot be read."""
    with suppress(OSError, ValueError):
        return Found.model_validate_json((run.path / FOLDER / "found.json").read_bytes())
    return Found()


def write_found(run: Run, found: Found) -> None:
    """Writes which cases have been looked at. Raises FileError."""
    write_text(run.path / FOLDER / "found.json", found.model_dump_json() + "\n")


@dataclass(frozen=True)
class Placed:
    """A look, and how its slices lie on the page.

    Args:
        look: what the network makes of the case.
        axis: the axis on the page that its slices are stacked along.
        flip: whether they count the other way there.
    """

    look: Look
    axis: int
    flip: bool

    def on_page(self, index: int) -> int:
        """The slice on the page of a slice as it is stored, or the reverse."""
        return self.look.stack.slices - 1 - index if self.flip else index

    def along(self, drawn: Bool[np.ndarray, " slice"]) -> Bool[np.ndarray, " slice"]:
        """What is known of the slices on the page, by the slices as they are stored, or the reverse."""
        return drawn[::-1] if self.flip else drawn


class Predictions:
    """Has networks look at the images, and gives what they found. Its methods may be called from several threads.

    Args:
        series: the runs.
    """

    def __init__(self, series: Series) -> None:
        self.series = series
        self._lock = threading.Lock()
        self._process: subprocess.Popen | None = None
        self._said: IO[bytes] | None = None
        self._started, self.problem = "", ""
        self._looks: dict[tuple[Path, str], tuple[str, Placed]] = {}

    def state(self, project: Project, training: Path | None) -> dict[str, Any]:
        """What the page shows, and has the newest network look at images that it has not seen.

        Args:
            project: what is drawn on.
            training: the run that is being trained, which is not shown.
        """
        runs = self.series.shown(project, training)
        with self._lock:
            self._ensure(project, runs)
        found = [self._fresh(run, project) for run in runs]
        numbers = {name: n for n, name in enumerate(project.names)}
        seen = [sorted(numbers[name] for name in each) for each in found]
        return {
            "runs": [{"name": run.path.name, "network": network_stamp(run)} for run in runs],
            "seen": seen[0] if seen else [],
            "seen_before": seen[1] if len(seen) > 1 else [],
            "errors": read_found(runs[0]).errors if runs else {},
            "looking": self._process is not None and self._process.poll() is None,
            "problem": self.problem,
        }

    def _fresh(self, run: Run, project: Project) -> list[str]:
        """The cases that the newest network of a run has looked at as they are now."""
        found = read_found(run)
        if found.network != network_stamp(run):
            return []
        return [name for name, stamp in found.seen.items() if name in project.images and _is(project, name, stamp)]

    def _ensure(self, project: Project, runs: Sequence[Run]) -> None:
        """Starts the process where there is something to look at, once for each network."""
        wanted = " ".join(f"{run.path} {network_stamp(run)}" for run in runs)
        if self._process is not None and self._process.poll() not in (None, 0) and self._said:
            self._said.seek(0)
            lines = self._said.read().decode(errors="replace").strip().splitlines()
            self.problem = lines[-1] if lines else "the process that looks at images has ended"
        if not runs or wanted == self._started:
            return
        self.close()
        self._started, self.problem = wanted, ""
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  # it outlives this call
        words = [str(project.root.resolve()), project.annotator, *(str(run.path) for run in runs)]
        command = [sys.executable, "-m", "scribbleseg.server.look", *words]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._said, start_new_session=True
        )

    def first(self, name: str) -> None:
        """Has a case looked at before all others."""
        process = self._process
        if process is not None and process.poll() is None and process.stdin and "\n" not in name:
            with suppress(OSError):
                process.stdin.write(f"{name}\n".encode())
                process.stdin.flush()

    def close(self) -> None:
        """Ends the process; what it has found stays."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        if self._process.stdin:
            with suppress(OSError):
                self._process.stdin.close()
        if self._said:
            self._said.close()
        self._process = self._said = None

    def of(
        self, project: Project, name: str, what: What, training: Path | None, before: bool = False
    ) -> UInt8[np.ndarray, "depth height width"] | None:
        """What a network makes of a case, as on the page; None where it has not looked at it.

        Args:
            project: what is drawn on.
            name: the case.
            what: "labels", or "doubt": 255 times 1 - the probability of the likeliest label.
            training: the run that is being trained, which is not shown.
            before: whether that of the run before is asked for.
        """
        runs = self.series.shown(project, training)[before : before + 1]
        if not runs or name not in self._fresh(runs[0], project):
            return None
        with suppress(OSError, ValueError, KeyError), np.load(found_file(runs[0], name)) as found:
            return np.ascontiguousarray(found[what])
        return None

    def looks(self, project: Project, training: Path | None) -> dict[str, Placed]:
        """What the newest network makes of the cases that are ranked, as far as it has looked at them."""
        runs = self.series.shown(project, training)
        if not runs:
            return {}
        run, ranked = runs[0], set(read_found(runs[0]).ranked)
        found = {}
        for name in self._fresh(run, project):
            file = found_file(run, name)
            if name in ranked:
                with suppress(OSError, ValueError, KeyError, TypeError):
                    stamp, key = _stamp(file), (run.path, name)
                    if self._looks.get(key, ("",))[0] != stamp:
                        self._looks[key] = stamp, _placed(file)
                    found[name] = self._looks[key][1]
        return found


def _is(project: Project, name: str, stamp: str) -> bool:
    try:
        return image_stamp(project.images[name]) == stamp
    except OSError:
        return False


def _placed(file: Path) -> Placed:
    with np.load(file) as found:
        about = json.loads(str(found["about"]))
        doubt, area, likely = (found[f"look_{name}"] for name in ("doubt", "area", "likely"))
    present = None if about["present"] is None else frozenset(about["present"])
    stack = Stack(**about["stack"])
    look = Look(stack, doubt, area, likely, np.zeros(stack.slices, bool), present)
    return Placed(look, about["axis"], about["flip"])
