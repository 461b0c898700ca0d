"""The run folder: recipe, provenance, weights, labels per recursion, metrics. Writes are atomic: a kill costs little.

RUN/
  recipe.json            the resolved recipe
  run.json               name, seed, versions, command, data set and its fingerprint
  metrics.jsonl          one JSON record a line; the same curves are under tensorboard/
  recursion_0/           network.pt (weights after its M step), m_step.ckpt (while it runs)
  labels/0/CASE.nii.gz   what recursion 0 trained on (the seeds), in the case's own geometry; labels/1/ ...
  slices/                the cache: preprocessed slices and label maps, memory-mapped

A hierarchy's has recipe.json and run.json, and such a folder for each phase: whole/ and substructures/.
"""

import json
import os
import platform
import shutil
import sys
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from scribbleseg.data.volumes import atomically, link_or_copy
from scribbleseg.types import DataError

PACKAGES = ("scribbleseg", "torch", "numpy", "scipy", "lightning-fabric", "monai", "nibabel", "simpleitk")


class Run:
    """A run folder that exists."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def recipe(self) -> dict[str, Any]:
        """The resolved recipe, as plain data."""
        return json.loads((self.path / "recipe.json").read_text())

    @property
    def details(self) -> dict[str, Any]:
        """Name, seed, versions, command, data set, fingerprint."""
        return json.loads((self.path / "run.json").read_text())

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """All records, oldest first."""
        return read_records(self.path / "metrics.jsonl")

    @property
    def slices(self) -> Path:
        """Folder of the cache."""
        return self.path / "slices"

    def recursion(self, index: int) -> Path:
        """Folder of one recursion's weights; what is written there makes it."""
        return self.path / f"recursion_{index}"

    def network(self, index: int) -> Path:
        """The weights after the M step of that recursion."""
        return self.recursion(index) / "network.pt"

    @property
    def recursions(self) -> int:
        """How many recursions have finished their M step."""
        index = 0
        while self.network(index).exists():
            index += 1
        return index

    def labels(self, index: int) -> Path:
        """Folder of the label maps that recursion trained on."""
        return self.path / "labels" / str(index)

    def log(self, record: dict[str, Any]) -> None:
        """Append one record to metrics.jsonl and its numbers to TensorBoard, against the iteration over all M steps."""
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")
        step = record.get("total_iteration", record.get("recursion", 0))
        for name, value in record.items():
            if isinstance(value, float):
                self._tensorboard.add_scalar(f"{record.get('event', 'run')}/{name}", value, step)

    def forget_after(self, recursion: int, iteration: int) -> None:
        """Drop the records of training that a resumed run will make again."""

        def kept(record: dict[str, Any]) -> bool:
            return (record["recursion"], record.get("iteration", 0)) <= (recursion, iteration)

        write_text(self.path / "metrics.jsonl", "".join(json.dumps(r) + "\n" for r in self.metrics if kept(r)))

    def inherit(self, donor: "Run", recursions: int = 1) -> None:
        """Begin as another run did: its cache, and labels, records and weights of so many recursions.

        The weights come last: after a kill, what had not come over yet is made anew.
        """
        own = range(recursions)
        cache = {"index.json", "images.raw", "scribbles.raw", *(f"labels_{index}.raw" for index in own)}

        def left_out(folder: str, names: list[str]) -> set[str]:
            return {*names} - cache if folder == str(donor.slices) else set()

        for name in ("slices", *(f"labels/{index}" for index in own)):
            partial = self.path / f"{name}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(donor.path / name, partial, ignore=left_out, copy_function=link_or_copy)
            finish_folder(partial, self.path / name)
        records = (json.dumps(record) + "\n" for record in donor.metrics if record["recursion"] in own)
        write_text(self.path / "metrics.jsonl", "".join(records))
        for index in own:
            with atomically(self.network(index)) as temporary:
                shutil.copyfile(donor.network(index), temporary)

    @cached_property
    def _tensorboard(self):
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(self.path / "tensorboard")


def create_run(path: Path, recipe: dict[str, Any], details: dict[str, Any], resume: bool) -> Run:
    """Make a run folder, or with `resume` continue one of the same recipe, seed and data.

    Raises:
        DataError: if the folder exists and `resume` is off, or holds a run of something else.
    """
    if path.exists() and not path.is_dir():
        raise DataError(f"{path}: expected a folder for the run, found a file; give another --out")
    begun = next(path.glob("**/slices/index.json"), None)  # else nothing is there yet that anybody could want back
    if not ((path / "run.json").exists() and begun):
        if not (path / "run.json").exists() and path.exists() and any(path.iterdir()):
            raise DataError(f"{path}: expected a new or empty folder for the run, found files; give another --out")
        path.mkdir(parents=True, exist_ok=True)
        write_text(path / "recipe.json", json.dumps(recipe, indent=1) + "\n")
        write_text(path / "run.json", json.dumps(details | provenance(), indent=1) + "\n")
        return Run(path)
    run = Run(path)
    if not resume:
        raise DataError(f"{path}: expected no run here, found one; add --resume to continue it, or give another --out")
    for what, old, new in [("recipe", run.recipe, recipe), *((k, run.details[k], v) for k, v in details.items())]:
        if old != json.loads(json.dumps(new)):
            raise DataError(
                f"{path}: expected to resume with the same {what}, {_difference(old, new)}; "
                "resume with what it was started with, or give another --out"
            )
    return run


def open_run(path: Path) -> Run:
    """A run folder that `create_run` made. Raises DataError if it is not one."""
    for name in ("run.json", "recipe.json"):
        if not (path / name).exists():
            raise DataError(f"{path}: expected a run folder with {name}, found none; give the --out of `train`")
    return Run(path)


def provenance() -> dict[str, Any]:
    """Versions, platform and the command that was given."""
    return {
        "versions": {name: version(name) for name in PACKAGES} | {"python": platform.python_version()},
        "platform": platform.platform(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def write_text(path: Path, text: str) -> None:
    """Write a file as a whole or not at all. Raises DataError where it cannot be written."""
    with atomically(path) as temporary:
        temporary.write_text(text)


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a file with one JSON object a line; a line that a kill cut short is left out, no file is empty."""
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines if line.endswith("}")]


def finish_folder(partial: Path, folder: Path) -> None:
    """Give a folder that is complete its name, replacing what had it."""
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def _difference(old: Any, new: Any, at: str = "") -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old.keys() | new.keys():
            if old.get(key) != new.get(key):
                return _difference(old.get(key), new.get(key), f"{at}.{key}" if at else str(key))
    return f"found {at + ' = ' if at else ''}{old!r} there and {new!r} now"
