"""What can be trained: a `Recipe` (em.py) or a `Hierarchy` (hierarchy.py), by the same verbs."""

from collections.abc import Iterator
from pathlib import Path

from lightning_fabric import Fabric

from scribbleseg.data import fingerprint
from scribbleseg.em import Recipe, Recursion, em, load_segmenter
from scribbleseg.em import resolve as resolve_recipe
from scribbleseg.em import taught as taught_by_recipe
from scribbleseg.hierarchy import (
    SUBSTRUCTURES,
    WHOLE,
    Hierarchy,
    HierarchySegmenter,
    load_hierarchy,
    resolve_hierarchy,
    train_hierarchy,
)
from scribbleseg.relabel.predict import Segmenter
from scribbleseg.runs import Run, create_run, open_run
from scribbleseg.settings import from_plain, to_plain
from scribbleseg.types import Dataset

Pipeline = Recipe | Hierarchy


def fit(recipe: Pipeline, dataset: Dataset) -> tuple[Pipeline, Dataset]:
    """The recipe with what it leaves to the data, and the data set with what the recipe trains on.

    Raises:
        DataError: as `em.resolve` and `resolve_hierarchy`.
    """
    dataset = taught(recipe, dataset)
    resolved = resolve_hierarchy(recipe, dataset) if isinstance(recipe, Hierarchy) else resolve_recipe(recipe, dataset)
    return resolved, dataset


def taught(recipe: Pipeline, dataset: Dataset) -> Dataset:
    """The data set as the recipe trains on it and is scored on it."""
    return dataset if isinstance(recipe, Hierarchy) else taught_by_recipe(recipe, dataset)


def start_run(path: str | Path, recipe: Pipeline, dataset: Dataset, seed: int = 0, resume: bool = False) -> Run:
    """Make the run folder of a resolved recipe on a data set, or with `resume` go on with the one that is there.

    Raises:
        DataError: if the folder holds something else, or a run of another recipe, seed or data.
    """
    details = {
        "name": Path(path).name,
        "seed": seed,
        "label_names": dataset.label_names,
        "data": {"folder": str(dataset.root.resolve()), "format": dataset.name, "options": dataset.options},
        "fingerprint": fingerprint(dataset.train),
    }
    return create_run(Path(path), to_plain(recipe), details, resume)


def train(
    recipe: Pipeline, dataset: Dataset, run: Run, fabric: Fabric, seed: int = 0, workers: int = 1
) -> Iterator[tuple[str, Recursion]]:
    """Train; yields after each M step the phase ("" where there are none) and what it gave. Arguments as of `em`."""
    if isinstance(recipe, Hierarchy):
        yield from train_hierarchy(recipe, dataset, run, fabric, seed, workers)
    else:
        yield from (("", recursion) for recursion in em(recipe, dataset, run, fabric, seed, workers))


def recipe_of(run: Run) -> Pipeline:
    """What a run was trained by."""
    data = run.recipe
    return from_plain(Hierarchy, data) if WHOLE in data else from_plain(Recipe, data)


def phases(run: Run) -> dict[str, Run]:
    """The runs that hold networks, by phase: those inside a hierarchy's, or the run itself."""
    if WHOLE in run.recipe:
        return {phase: open_run(run.path / phase) for phase in (WHOLE, SUBSTRUCTURES)}
    return {"": run}


def load(run: Run, fabric: Fabric, recursion: int | None = None) -> Segmenter | HierarchySegmenter:
    """The network of a recursion of a run, the last finished one by default, or a hierarchy's two networks.

    Raises:
        DataError: if that has not finished.
    """
    return load_hierarchy(run, fabric, recursion) if WHOLE in run.recipe else load_segmenter(run, fabric, recursion)
