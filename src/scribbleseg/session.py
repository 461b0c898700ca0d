"""A session: one training run with everything that its steps need, made once and handed on whole."""

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

import numpy as np
from lightning_fabric import Fabric

from scribbleseg.annotate.watch import watched
from scribbleseg.data import fingerprint
from scribbleseg.data.encoding import declared, in_values
from scribbleseg.data.formats import PNG, label_ending, write_labels
from scribbleseg.data.preprocess import Preprocess
from scribbleseg.data.slices import Slices, build_slices, open_slices
from scribbleseg.files import finish_folder, write_text
from scribbleseg.lock import release
from scribbleseg.ranks import on_leader
from scribbleseg.runs import Run
from scribbleseg.settings import from_plain
from scribbleseg.types import UNLABELLED, DataError, Dataset

RecipeT = TypeVar("RecipeT")

Beliefs = dict[str, np.ndarray]
"""Layers of one case by their kind: "labels" always, "soft" and "confidence" where a loss needs them."""


@dataclass(frozen=True)
class Session(Generic[RecipeT]):
    """A recipe on a data set, in a run folder, on some hardware; `with` gives the run's lock back at the end.

    Args:
        recipe: fitted to the data.
        dataset: as the recipe sees it; its training cases, and nothing else of it, are used.
        run: an existing run folder.
        fabric: launched; preprocessing runs on rank 0, everything else on all.
        seed: fixes weights, batch order, augmentation, dropout and clusters.
        workers: processes for the seed areas.
    """

    recipe: RecipeT
    dataset: Dataset
    run: Run
    fabric: Fabric
    seed: int = 0
    workers: int = 1

    def __enter__(self) -> "Session[RecipeT]":
        return self

    def __exit__(self, *_: object) -> None:
        release(self.run.path)

    @property
    def leads(self) -> bool:
        """Whether this is the one process that writes what is written once."""
        return self.fabric.is_global_zero

    @cached_property
    def slices(self) -> Slices:
        """The cache, once it has been prepared."""
        return open_slices(self.run.slices)

    @property
    def cases(self) -> list[str]:
        """This rank's share of the training cases."""
        return list(self.slices.rows)[self.fabric.global_rank :: self.fabric.world_size]

    def within(self, phase: str, recipe: Any, dataset: Dataset) -> "Session[Any]":
        """The session of a phase, whose run lies inside this one's; the same one whenever it is asked for."""
        if phase not in self._phases:
            run = Run(self.run.path / phase)
            self._phases[phase] = Session(recipe, dataset, run, self.fabric, self.seed, self.workers)
        return self._phases[phase]

    @cached_property
    def _phases(self) -> "dict[str, Session]":
        return {}

    @cached_property
    def _prepared(self) -> list[Preprocess]:
        return []

    def prepare(self, preprocess: Preprocess, held_out: float = 0.0, checked: bool = False) -> None:
        """Build the cache of the training cases, or check that the one there is of the same images and scribbles.

        Reads every training case once, however often it is called.

        Args:
            preprocess: the grid, fitted to the data.
            held_out: that of the recipe.
            checked: whether `check` has looked at the data already, so that nothing is said of it again.

        Raises:
            DataError: the data has changed since the run was started, or has what `check` calls a fault.
        """
        if self._prepared:
            return
        on_leader(lambda: self._prepare(preprocess, held_out, checked), self.fabric)
        self._prepared.append(preprocess)

    def _prepare(self, preprocess: Preprocess, held_out: float, checked: bool) -> None:
        there = (self.run.slices / "index.json").exists()
        names, files = self.dataset.label_names, self.dataset.files
        masks = getattr(self.recipe, "is_upper_bound", False)
        cases = self.dataset.train if checked or masks else watched(self.dataset, preprocess.turn)
        slices = build_slices(cases, preprocess, self.run.slices, names, held_out, files)
        found = fingerprint(self.dataset.train) if there else slices.index["fingerprint"]
        if found != self.run.details.get("fingerprint", slices.index["fingerprint"]):
            if not there:  # somebody deleted the cache, and the data has changed since
                shutil.rmtree(self.run.slices)
            raise DataError(
                f"{self.run.path}: expected the images and scribbles that this run was begun with, found that they "
                "have changed since; bring those back, or give another --out (a single network can be taken over there "
                "by --start-from)"
            )
        self.run.add(fingerprint=slices.index["fingerprint"])

    def store(self, index: int, found: Iterable[tuple[str, Beliefs]], kinds: Iterable[str] = ()) -> None:
        """Store what M step `index` learns from: in the cache, and as label maps in original geometry.

        Label maps have the values of the data set's own scribbles, and dataset.json beside them says which. Nothing
        outside of the image, or of the brain, is labelled. Images are not read.

        Args:
            index: number of the M step.
            found: this rank's cases with their layers on the recipe's grid.
            kinds: the layers to store besides "labels".
        """
        kinds = ("labels", *kinds)
        unfinished = self.run.labels(index).with_name(f"{index}.partial")
        n_labels = self.dataset.n_labels
        if self.leads:
            shutil.rmtree(unfinished, ignore_errors=True)  # what a killed process left
            unfinished.mkdir(parents=True)
            for kind in kinds:
                self.slices.writable(kind, index, n_labels)
        self.fabric.barrier()
        layers = {kind: self.slices.writable(kind, index, n_labels) for kind in kinds}
        preprocess = from_plain(Preprocess, self.slices.index["key"]["preprocess"])
        values = self._values
        for name, beliefs in found:
            rows = self.slices.rows[name]
            inside = self.slices.inside[rows]
            for kind, layer in layers.items():
                shown = inside if beliefs[kind].ndim == inside.ndim else inside[:, None]
                layer[rows] = np.where(shown, beliefs[kind], UNLABELLED if kind == "labels" else 0)
            geometry = self.slices.geometry(name)
            native = preprocess.native_labels(layers["labels"][rows], geometry)
            file = unfinished / f"{name}{label_ending(geometry)}"
            write_labels(file, in_values(native, self.dataset.label_names, values), geometry)
        for layer in layers.values():
            layer.flush()
        self.fabric.barrier()
        if self.leads:
            write_text(unfinished / "dataset.json", json.dumps({"labels": values}, indent=1) + "\n")
            finish_folder(unfinished, self.run.labels(index))
            for kind in reversed(kinds):  # labels last: where they are, everything is
                self.slices.finish(kind, index)
        self.fabric.barrier()

    @property
    def _values(self) -> Mapping[str, int]:
        """The value of each label on disk: that of the data set's scribbles, where they tell these labels apart.

        Pictures hold no values below 0: where there are any, all label maps have nnU-Net's.
        """
        values = self.dataset.scribble_values
        written = {label_ending(self.slices.geometry(name)) for name in self.slices.rows}
        fit = PNG not in written or all(0 <= value <= np.iinfo(np.uint16).max for value in values.values())
        known = {*self.dataset.label_names, "ignore"} <= values.keys()
        return values if known and fit else declared(self.dataset.label_names)
