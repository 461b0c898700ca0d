"""What the tests of both papers' recipes share: how rows differ, their learning rates, and toy trainings of them."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning_fabric import Fabric

from scribbleseg import pipeline
from scribbleseg.annotate.simulate import RULES, write_simulation
from scribbleseg.data import brats, open_dataset
from scribbleseg.phantoms import write_phantoms
from scribbleseg.recipe import Recipe
from scribbleseg.recipes import recipes
from scribbleseg.settings import to_plain
from scribbleseg.types import Dataset


def leaves(value: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for name, inner in items:
            yield from leaves(inner, f"{where}.{name}".strip("."))
    else:
        yield where, value


@pytest.fixture(scope="session")
def differences() -> Callable[[Any, Any], set[str]]:
    """The dotted names of the settings in which two recipes differ, or which one of them has alone."""

    def differ(one: Any, other: Any) -> set[str]:
        a, b = dict(leaves(to_plain(one))), dict(leaves(to_plain(other)))
        return {name for name in a.keys() | b.keys() if a.get(name, "absent") != b.get(name, "absent")}

    return differ


@pytest.fixture(scope="session")
def differs_in_one_thing(differences) -> Callable[..., None]:
    """Asserts that a row differs from the row that it is made of, and in nothing but what a pattern matches."""

    def compare(rows: dict[str, Any], end: str, changed: dict[str, tuple[str, str]]) -> None:
        other, thing = changed[end]
        found = differences(rows[end], rows[other])
        assert found
        assert {name for name in found if not re.match(thing, name)} == set()

    return compare


@pytest.fixture(scope="session")
def learning_rates() -> Callable[[Recipe], np.ndarray]:
    """The learning rate of every iteration of a recipe, one M step after the other."""

    walked: dict[Any, np.ndarray] = {}

    def walk(recipe: Recipe) -> np.ndarray:
        key = tuple((stage.iterations, stage.times, stage.restarts, stage.optimiser) for stage in recipe.stages)
        if key not in walked:
            rates = []
            for n, step in enumerate(recipe.steps):
                start, span = recipe.schedule(n)
                factors = [step.optimiser.factor(start + i, span) for i in range(step.iterations)]
                rates.append(step.optimiser.learning_rate * np.array(factors))
            walked[key] = np.concatenate(rates)
        return walked[key]

    return walk


GRIDS = {"heart": 6.0, "prostate": 2.0, "tumour": 6.0}
"""Toy pixel sizes, in mm, at which the phantoms fit a slice of 32 x 32 pixels."""


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory) -> dict[str, Dataset]:
    """One training case and one test case of each organ."""
    root = tmp_path_factory.mktemp("recipes")
    shapes = {"heart": (2, 48, 48), "prostate": (2, 64, 64), "tumour": (4, 96, 96)}
    places = {organ: write_phantoms(root / organ, organ, 1, 1, shape=shape) for organ, shape in shapes.items()}
    drawn = write_simulation(brats(places["tumour"]), RULES["ji2019"], root / "drawn")
    datasets = {organ: open_dataset(place) for organ, place in places.items() if organ != "tumour"}
    return {**datasets, "tumour": open_dataset(places["tumour"], scribbles=str(drawn))}


def at_toy_size(recipe: Recipe, organ: str) -> Recipe:
    """The recipe on a small grid, with a small network, two passes and two iterations in each repetition of a stage."""
    plain = getattr(recipe.network, "unaries", recipe.network)
    small: Any = plain
    if plain.kind == "monai":
        small = replace(plain, arguments={**plain.arguments, "filters": [2, 4, 4]})
    else:
        small = replace(plain, base=2)
    size = 32 if getattr(plain, "padded", True) else 36
    network = replace(recipe.network, unaries=small) if recipe.network.kind == "crf_rnn" else small
    stages = []
    for stage in recipe.stages:
        relabel = stage.relabel
        if relabel and relabel.decide.passes:
            relabel = replace(relabel, decide=replace(relabel.decide, passes=2))
        stages.append(replace(stage, iterations=2, batch=2, relabel=relabel))
    preprocess = replace(recipe.preprocess, spacing_mm=GRIDS[organ], size=size)
    return replace(recipe, preprocess=preprocess, network=network, stages=tuple(stages), stop_below=0.0)


def organ_of(name: str) -> str:
    if name.startswith("ji2019"):
        return "tumour"
    return "prostate" if "prostate" in name else "heart"


@pytest.fixture(scope="session")
def train_at_toy_size(phantoms) -> Callable[[str, Path], None]:
    """Trains the recipe of that name at a toy size, in every stage, and looks at what comes out."""

    def train(name: str, out: Path) -> None:
        recipe, organ = recipes()[name], organ_of(name)
        parts = (recipe,) if isinstance(recipe, Recipe) else (recipe.whole, recipe.substructures)
        toys = [at_toy_size(part, organ) for part in parts]
        toy = toys[0] if recipe.kind == "em" else replace(recipe, whole=toys[0], substructures=toys[1])
        fabric = Fabric(accelerator="cpu", devices=1)
        session = pipeline.begin(phantoms[organ], out, toy, fabric=fabric)
        done = [(recursion.phase, recursion.index) for recursion in pipeline.train(session)]
        phases = ("",) if recipe.kind == "em" else ("whole", "substructures")
        assert done == [(phase, n) for phase, part in zip(phases, parts, strict=True) for n in range(len(part.steps))]
        records = list(chain.from_iterable(run.metrics for run in pipeline.phases(session.run).values()))
        losses = [record["loss"] for record in records if record["event"] == "train"]
        assert len(losses) == len(done)
        assert all(map(isfinite, losses))
        assert any(loss > 0 for loss in losses)
        case = phantoms[organ].test[0]
        segmenter = pipeline.load(session.run, fabric)
        labels = segmenter.segment(case)
        assert labels.shape == case.geometry.shape
        assert labels.max() < len(segmenter.label_names)

    return train
