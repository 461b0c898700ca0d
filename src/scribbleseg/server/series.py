"""The runs that belong to a page: RUN, and those that were trained beside it on later strokes: RUN_2, RUN_3, ..."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

from scribbleseg.data.cache_index import read_index
from scribbleseg.data.drawing import read_drawing
from scribbleseg.data.fingerprint import digest_of_strokes
from scribbleseg.data.formats import read_geometry, read_image
from scribbleseg.files import file_stamp, read_json
from scribbleseg.plural import number_of
from scribbleseg.runs import RESTORE, Run, open_run
from scribbleseg.server.project import Project
from scribbleseg.types import DataError


class Series:
    """The folders of a page's runs, which share one name.

    Args:
        first: the first of them; it need not exist.
    """

    def __init__(self, first: Path) -> None:
        self.first = first.resolve()
        self._read: dict[Path, tuple[object, Any]] = {}

    def _named(self, number: int) -> Path:
        return self.first if number == 1 else self.first.with_name(f"{self.first.name}_{number}")

    @property
    def folders(self) -> list[Path]:
        """The run folders that exist, oldest first."""
        found: list[Path] = []
        for number in count(1):
            folder = self._named(number)
            if not (folder / "run.json").is_file():
                return found
            found.append(folder)
        raise AssertionError("counting does not end")

    @property
    def free(self) -> Path:
        """The folder for the next run."""
        return self._named(len(self.folders) + 1)

    def shown(self, project: Project, but: Path | None = None) -> list[Run]:
        """The two newest runs that have a network for the labels of a project, the newest first.

        Args:
            project: what is drawn on.
            but: a run that is being trained, whose networks come and go.
        """
        found: list[Run] = []
        for run in (Run(folder) for folder in reversed(self.folders) if folder != but):
            with suppress(DataError):  # a damaged run is passed over
                if run.recursions and not _misfit(run, project):
                    found.append(run)
        return found[:2]

    def tau(self, project: Project, but: Path | None = None) -> float | None:
        """The tau that the newest shown run grew its areas with, chosen for its scribbles; None where none says it.

        One that was chosen beside a likelihood is not for the page, whose walker heeds edges alone.
        """
        for run in self.shown(project, but)[:1]:
            tau, beside = (run.details.get(name) for name in ("tau", "likelihood"))
            if isinstance(tau, float) and 0.5 < tau <= 1.0 and not beside:
                return tau
        return None

    def is_of_these_strokes(self, run: Run, project: Project) -> bool:
        """Whether a run has been begun on these images, and on their strokes as they are now.

        Strokes are compared by what is in them, which the cache of the run tells. Where it does not, for it has not
        been made yet or is of an earlier version, dates of files have to do.
        """
        scribbles = scribbles_of(project)
        try:
            data, begun = run.details["data"], datetime.fromisoformat(run.details["date"]).timestamp()
            folder, theirs = Path(data["folder"]), data["options"].get("scribbles")
        except (DataError, TypeError, ValueError):  # damaged, or of an old version: it cannot go on
            return False
        if folder != project.root.resolve() or theirs != (str(scribbles.resolve()) if scribbles else None):
            return False
        drawn = project.drawn()
        trained_on = self._trained_on(run)
        if trained_on is None:
            return all(file.stat().st_mtime <= begun for file in drawn.values())
        if not drawn.keys() <= trained_on.keys():
            return False
        return all(self._strokes(project, name, drawn.get(name)) == strokes for name, strokes in trained_on.items())

    def _trained_on(self, run: Run) -> dict[str, str] | None:
        """The digest of the strokes of each case that a run learns from; None where it does not tell."""
        index = run.slices / "index.json"
        if not index.is_file():
            return None
        cases = self._remembered(index, lambda: read_index(run.slices)["cases"])
        found = {name: case.get("strokes") for name, case in cases.items()}
        return None if None in found.values() else found

    def _strokes(self, project: Project, name: str, file: Path | None) -> str:
        """The digest of the strokes of a case as they are now; that of no strokes where they cannot be read."""
        if file is None or name not in project.images:
            return ""

        def read() -> str:
            assert project.encoding, "name the structures first"
            image = project.image(name)
            return digest_of_strokes(read_drawing(file, project.encoding, image, read_geometry(image[0])))

        try:
            return self._remembered(file, read)
        except DataError:
            return "unread"

    def _remembered(self, file: Path, read: Callable[[], Any]) -> Any:
        """What `read` makes of a file, which is read again when it has changed."""
        stamp = file_stamp(file)
        if self._read.get(file, (None,))[0] != stamp:
            self._read[file] = stamp, read()
        return self._read[file][1]


def check_run(folder: Path, project: Project) -> None:
    """Checks that a run fits what is drawn on. Raises DataError for a folder that is no run, or one of other data."""
    if problem := _misfit(open_run(folder), project):
        raise DataError(f"--run {folder}: {problem}")
    index = folder / "slices" / "index.json"
    if not index.is_file() or not project.names:
        return
    files = project.image(project.names[0])
    expected, found = int(read_json(index, RESTORE)["shape"][0]), len(files)
    if found == 1:
        with suppress(DataError):  # the list of cases says what is wrong with that image
            found = len(read_image(files)[0])
    if found != expected:
        raise DataError(
            f"--run {folder}: expected a run on images of {number_of(found, 'channel')}, as {files[0]} has, "
            f"found one on {expected}; give the run of these images"
        )


def check_free(folder: Path) -> None:
    """Raises DataError where a folder that holds no run cannot become one."""
    if folder.is_dir() and any(folder.iterdir()):
        raise DataError(f"--run {folder}: expected a run folder, or a new one, found other files; give another --run")
    if folder.exists() and not folder.is_dir():
        raise DataError(f"--run {folder}: expected a folder, found a file; give another --run")


def _misfit(run: Run, project: Project) -> str:
    """Why a run cannot be shown on these images; "" where it can."""
    if run.recipe.get("kind", "em") != "em":
        return "expected a run of one network, found one of two, whose labels have no probabilities; give another"
    names, ours = tuple(run.details["label_names"]), project.label_names
    if ours and names != ours:
        return f"expected the labels {', '.join(ours)} of {project.root}, found {', '.join(names)}; give another run"
    return ""


def steps(recipe: Mapping[str, Any]) -> list[int]:
    """The iterations of each M step of a recipe, as plain data."""
    return [stage["iterations"] for stage in recipe.get("stages", ()) for _ in range(stage.get("times", 1))]


def iterations(recipe: Mapping[str, Any]) -> int:
    """The iterations of all M steps of a recipe, as plain data."""
    return sum(steps(recipe))


def scribbles_of(project: Project) -> Path | None:
    """The folder of scribbles that a verb has to be told of; None where the data set has them itself."""
    return None if project.own or not (project.folder / "dataset.json").is_file() else project.folder
