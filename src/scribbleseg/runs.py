"""The run folder: recipe, provenance, weights, labels per recursion, metrics. Writes are atomic: a kill costs little.

RUN/
  recipe.json            the resolved recipe
  run.json               name, seed, date, versions, command, data set, and its fingerprint once it has been read
  metrics.jsonl          one JSON record a line; the same curves are under tensorboard/
  start.pt               the weights of another run that the first M step starts from, where there are any
  recursion_0/           network.pt (weights after its M step), m_step.ckpt and m_step.previous.ckpt (the last two
                         checkpoints, while it runs), optimiser.pt (where the next stage carries its optimiser on)
  labels/0/CASE.nii.gz   what recursion 0 trained on (the seeds), in the geometry and the values of the data set, with
                         dataset.json; another folder for each recursion that relabelled
  slices/                the cache: preprocessed slices and label maps, memory-mapped
  lock, lock.json        held by the process that works on the run, and which one that is

A hierarchy's folder has recipe.json and run.json, and such a folder for each phase: whole/ and substructures/.
"""

import hashlib
import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import cached_property
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat

from scribbleseg.data.formats import volumes_in
from scribbleseg.files import (
    FileError,
    atomically,
    check_plain,
    finish_folder,
    found_at,
    is_text,
    is_within,
    link_or_copy,
    read_json,
    read_records,
    write_json,
    write_text,
)
from scribbleseg.lock import HOLDER, LOCK, hold
from scribbleseg.types import UNLABELLED, DataError

PACKAGES = ("scribbleseg", "torch", "numpy", "scipy", "lightning-fabric", "monai", "nibabel", "simpleitk")

RESTORE = "restore it from a copy, or train anew into another --out"
"""What to do about a damaged file of a run."""

OWN = ("labels", "slices", "tensorboard", "recursion_*", "test_scores_*")
"""The folders that a run keeps its own files in."""

MOST_DIFFERENCES = 3
"""Differences that are named where a run is to be resumed with something else."""

IN_WORDS = {"label_names": "other labels", "data": "another data set"}
"""What run.json keeps of how a run was begun, where its own name is no word for people."""


class _Data(BaseModel):
    model_config = ConfigDict(strict=True)

    folder: Annotated[str, Field(pattern=r"^[^\x00]+$")]
    format: str
    options: dict[str, Any]


class _Details(BaseModel):
    """What run.json says, of which versions of scribbleseg have written more or less."""

    model_config = ConfigDict(strict=True)

    name: str = ""
    seed: int = 0
    label_names: Annotated[list[str], Field(min_length=2, max_length=UNLABELLED)] = ["background", ""]
    data: _Data = _Data(folder="unknown", format="", options={})
    fingerprint: str = ""
    tau: FiniteFloat = 0.0
    likelihood: FiniteFloat = 0.0
    start: str = ""
    date: Annotated[str, AfterValidator(datetime.fromisoformat)] = ""
    versions: dict[str, str] = {}


class Run:
    """A run folder that exists."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def recipe(self) -> dict[str, Any]:
        """The resolved recipe, as plain data."""
        return read_json(self.path / "recipe.json", RESTORE)

    @property
    def details(self) -> dict[str, Any]:
        """Name, seed, versions, command, data set, fingerprint."""
        details = read_json(self.path / "run.json", RESTORE)
        check_plain(self.path / "run.json", details, _Details.model_validate, RESTORE)
        return details

    @property
    def version(self) -> str:
        """The version of scribbleseg that made it."""
        version = self.details["versions"]["scribbleseg"]
        try:
            _release(version)
        except (AttributeError, ValueError) as error:
            problem = f"expected the version that a run was made with, found {version!r}"
            raise FileError(self.path / "run.json", problem, RESTORE) from error
        return version

    def add(self, **details: Any) -> None:
        """Add to what run.json says, or change it."""
        known = self.details
        if any(known.get(key) != value for key, value in details.items()):
            write_json(self.path / "run.json", known | details)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """All records by recursion: one that was made anew has its own at the file's end. Raises FileError."""
        records = read_records(self.path / "metrics.jsonl", {"event": str, "recursion": int})
        return sorted(records, key=lambda record: record["recursion"])

    @property
    def slices(self) -> Path:
        """The folder of the cache."""
        return self.path / "slices"

    def recursion(self, index: int) -> Path:
        """The folder of one recursion's weights; what is written there makes it."""
        return self.path / f"recursion_{index}"

    def network(self, index: int) -> Path:
        """The weights after the M step of that recursion."""
        return self.recursion(index) / "network.pt"

    @property
    def start(self) -> Path:
        """The weights of another run that the first M step starts from; run.json has their digest."""
        return self.path / "start.pt"

    def checkpoint(self, index: int) -> Path:
        """The state of that recursion's M step while it runs."""
        return self.recursion(index) / "m_step.ckpt"

    def optimiser(self, index: int) -> Path:
        """The last checkpoint of that recursion's M step, kept where the next one carries its optimiser on."""
        return self.recursion(index) / "optimiser.pt"

    @property
    def recursions(self) -> int:
        """How many recursions have finished their M step."""
        index = 0
        while self.network(index).exists():
            index += 1
        return index

    @property
    def weights(self) -> str:
        """A digest of all its weights."""
        digest = hashlib.sha256()
        for path in sorted(self.path.rglob("network.pt")):
            digest.update(path.read_bytes())
        return digest.hexdigest()

    def labels(self, index: int) -> Path:
        """The folder of the label maps that recursion trained on."""
        return self.path / "labels" / str(index)

    def log(self, record: dict[str, Any]) -> None:
        """Append one record to metrics.jsonl and its numbers to TensorBoard, against the iteration over all M steps."""
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")
        step = record.get("total_iteration", record.get("recursion", 0))
        for name, value in record.items():
            if isinstance(value, float):
                self._tensorboard.add_scalar(f"{record.get('event', 'run')}/{name}", value, step)

    def forget_beyond(self, done: Mapping[int, int]) -> None:
        """Drop what will be recorded again: of recursions without a network, what is beyond the iterations done."""

        def kept(record: dict[str, Any]) -> bool:
            index, again = record["recursion"], record["event"] == "agreement"
            begun = done.get(index) or index == min(done, default=None)
            return index not in done or bool(begun and not again and record.get("iteration", 0) <= done[index])

        write_text(self.path / "metrics.jsonl", "".join(json.dumps(r) + "\n" for r in self.metrics if kept(r)))

    def inherit(self, donor: "Run", recursions: int) -> None:
        """Begin as another run of the same data did: with labels, records and weights of so many recursions.

        Of the donor's cache nothing comes over but the layers of these recursions, and the images, which are the same.
        The weights come last: after a kill, what had not come over yet is made anew.
        """
        own = range(recursions)
        for name in ("images.raw", "inside.raw"):  # one copy on disk
            if (donor.slices / name).stat().st_size == (self.slices / name).stat().st_size:  # 0.2 has twice as many
                with atomically(self.slices / name) as temporary:
                    link_or_copy(donor.slices / name, temporary)
        for index in own:
            for ending in ("crc32", "raw"):
                for layer in donor.slices.glob(f"*_{index}.{ending}"):
                    with atomically(self.slices / layer.name) as temporary:
                        link_or_copy(layer, temporary)
            if donor.labels(index).is_dir():
                partial = self.labels(index).with_name(f"{index}.partial")
                shutil.rmtree(partial, ignore_errors=True)
                shutil.copytree(donor.labels(index), partial, copy_function=link_or_copy)
                finish_folder(partial, self.labels(index))
        self.add(**{name: donor.details[name] for name in ("tau", "likelihood") if name in donor.details})
        records = (json.dumps(record) + "\n" for record in donor.metrics if record["recursion"] in own)
        write_text(self.path / "metrics.jsonl", "".join(records))
        for index in own:
            for file in (donor.optimiser(index), donor.network(index)):
                if file.exists():
                    with atomically(self.recursion(index) / file.name) as temporary:
                        shutil.copyfile(file, temporary)

    @cached_property
    def _tensorboard(self):
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(self.path / "tensorboard")


READ = ("images", "scribbles", "masks", "imagesTr", "imagesTs", "labelsTr", "labelsTs", "masksTr", "annotators")
"""The names of folders in a data set that hold images and labels."""


def check_outside(out: Path, *inputs: Path) -> None:
    """Raises DataError where files would be written among those of a data set, or those that a run consists of.

    A folder of its own inside a data set or a run folder, such as RUN/predictions, is nobody else's.

    Args:
        out: the folder that is to be written to; it need not exist.
        inputs: folders of data sets.
    """
    for folder in inputs:
        if is_within(out, folder) and (is_within(folder, out) or _is_read(out)):
            raise DataError(
                f"{out}: expected a folder outside of the data, found one in {folder}, whose files would be replaced "
                "or mixed with others; give another --out"
            )
    real = Path(os.path.realpath(out))
    for run in (real, *real.parents):
        if all((run / name).is_file() for name in ("run.json", "recipe.json")):
            parts = [part for name in OWN for part in run.glob(name)]
            if real == run or any(is_within(real, part) for part in parts):
                raise DataError(
                    f"{out}: expected a folder that no run keeps its own files in, found that of the run {run}; give "
                    f"another --out, such as {run / 'predictions'}"
                )


def _is_read(out: Path) -> bool:
    """Whether a folder has a name that data sets are read by, or files that may be theirs and not another verb's."""
    written = any((out / name).exists() for name in ("dataset.json", "simulation.json"))
    return out.resolve().name in READ or (not written and bool(volumes_in(out)))


def has_begun(path: Path) -> bool:
    """Whether a run is there that has read its data; before that, nothing is there that anybody could want back."""
    signs = ("**/slices/index.json", "**/recursion_*/network.pt", "**/recursion_*/m_step.ckpt")
    return (path / "run.json").exists() and any(next(path.glob(sign), None) is not None for sign in signs)


def _is_free(path: Path, recipe: dict[str, Any]) -> bool:
    """Whether nothing lies in a folder but what a run leaves that was stopped while its folder was being made."""
    for file in path.glob("*"):
        temporary = file.name.startswith(".") and file.name.endswith(("-run.json", "-recipe.json", f"-{HOLDER}"))
        same = file.name == "recipe.json" and read_json(file, RESTORE) == json.loads(json.dumps(recipe))
        if not (temporary or same or file.name in (LOCK, HOLDER)):
            return False
    return True


def create_run(
    path: Path,
    recipe: dict[str, Any],
    details: dict[str, Any],
    resume: bool,
    goes_on: Callable[[Run], bool] = lambda run: False,
) -> Run:
    """Make a run folder, or with `resume` continue one of the same recipe, seed and data, and hold its lock.

    `lock.release` gives the lock back.

    Args:
        path: the folder.
        recipe: as plain data.
        details: what run.json says beside versions and the command; all but the name have to stay the same.
        resume: whether a run may be there.
        goes_on: says of a run of another recipe whether what it has done is what this recipe would have done; then it
            takes this recipe from now on.

    Raises:
        DataError: if the folder exists and `resume` is off, or holds a run of something else or of another version, or
            another process works on it.
    """
    if not is_text(str(path)):
        raise DataError(f"{str(path)!a}: expected a name that is text; give another --out")
    if path.exists() and not path.is_dir():
        raise DataError(f"{path}: expected a folder for the run, found a file; give another --out")
    if not (path / "run.json").exists() and not _is_free(path, recipe):
        raise DataError(f"{path}: expected a new or empty folder for the run, found files; give another --out")
    hold(path)
    if not has_begun(path):
        write_json(path / "run.json", details | provenance())  # first: it says that this is a run
        write_json(path / "recipe.json", recipe)
        return Run(path)
    run = Run(path)
    if not resume:
        raise DataError(f"{path}: expected no run here, found one; add --resume to continue it, or give another --out")
    if _release(run.version) != _release(version("scribbleseg")):
        raise DataError(
            f"{path}: expected to resume a run of scribbleseg {version('scribbleseg')}, found one that {run.version} "
            f"made; `predict` and `report` read it, but to go on training it install scribbleseg {run.version}, or "
            "train anew into another --out"
        )
    recipe = json.loads(json.dumps(recipe))
    changed = run.recipe != recipe
    _check_same(run, details, recipe if changed and not goes_on(run) else run.recipe)
    if changed:
        write_json(path / "recipe.json", recipe)
    return run


def _check_same(run: Run, details: Mapping[str, Any], recipe: Mapping[str, Any]) -> None:
    """Raises DataError, which says what is another one, where a run was begun with something else."""
    differ = {k: _differences({k: run.details[k]}, {k: v}) for k, v in details.items() if k != "name"}
    if not any(differ.values()):  # other data changes what the recipe leaves to it
        differ["recipe"] = _differences(run.recipe, recipe)
    if different := [what for what, found in differ.items() if found]:
        others = " and ".join(IN_WORDS.get(what, f"another {what}") for what in different)
        raise DataError(
            f"{run.path}: expected a run of this command to go on with, found one that was begun with {others} "
            f"({'; '.join(differ[what] for what in different)}); give another --out, or what it was begun with"
        )


def open_run(path: Path) -> Run:
    """A run folder that `create_run` made. Raises DataError if it is not one."""
    if not path.is_dir():
        raise DataError(f"{path}: expected a run folder, found {found_at(path)}; give the --out of `train`")
    for name in ("run.json", "recipe.json"):
        if not (path / name).exists():
            raise DataError(f"{path}: expected a run folder with {name}, found none; give the --out of `train`")
    run = Run(path)
    if _release(run.version) > _release(version("scribbleseg")):
        raise DataError(
            f"{path}: expected a run of scribbleseg {version('scribbleseg')} or older, found one that {run.version} "
            "made; update scribbleseg to read it"
        )
    return run


def provenance() -> dict[str, Any]:
    """Date and time, versions, platform and the command that was given."""
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "versions": {name: version(name) for name in PACKAGES} | {"python": platform.python_version()},
        "platform": platform.platform(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def _release(version: str) -> tuple[int, ...]:
    """Major and minor version: runs of the same release can be resumed."""
    return tuple(int(number) for number in version.split(".")[:2])


def _differences(old: Any, new: Any) -> str:
    """The first few values that differ, by name; "" where none does."""
    found = list(islice(_leaves(old, json.loads(json.dumps(new))), MOST_DIFFERENCES + 1))
    if not found and old != json.loads(json.dumps(new)):
        return "with fields that one of the two lacks"
    return "; ".join(found[:MOST_DIFFERENCES]) + ", and others" * (len(found) > MOST_DIFFERENCES)


def _leaves(old: Any, new: Any, at: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        pairs = [(str(key), old.get(key), new.get(key)) for key in dict.fromkeys([*old, *new])]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(str(n), *pair) for n, pair in enumerate(zip(old, new, strict=True))]
    else:
        if old != new:
            yield f"{at + ' = ' if at else ''}{old!r} there and {new!r} now"
        return
    for name, before, now in pairs:
        yield from _leaves(before, now, f"{at}.{name}" if at else name)
