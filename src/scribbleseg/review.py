"""A run under review: its networks segment, are scored against references, and are shown in pictures."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from lightning_fabric import Fabric

from scribbleseg.data import fingerprint, fully_annotated, open_dataset
from scribbleseg.data.fingerprint import digest_of_files
from scribbleseg.data.orientation import Turn, is_picture, looked_at, sides
from scribbleseg.data.preprocess import Preprocess
from scribbleseg.data.slices import is_labelled, open_slices
from scribbleseg.data.views import in_labels
from scribbleseg.evaluation.metrics import Score, read_scores, score, write_scores
from scribbleseg.evaluation.report import MAX_PICTURES, Origin, Picture, RunSummary
from scribbleseg.files import first_of, read_json, write_json
from scribbleseg.pipeline import AnySegmenter, data_of, load, phase_recipe, phases, recipe_of
from scribbleseg.progress import track
from scribbleseg.runs import Run
from scribbleseg.types import UNLABELLED, Case, Cases, DataError, Dataset, Labels, spread
from scribbleseg.weights import load_segmenter

SCORED = "scored.json"
"""The file beside kept scores that says what they are of."""

MOST_NAMED = 5
"""Cases that a sentence names."""

PICTURED_CASES = 3
"""Cases in a report; each is shown once for every recursion."""


def dataset_of(run: Run) -> Dataset:
    """The data set that the run was trained on, opened again as it was then."""
    data = data_of(run)
    dataset = in_labels(open_dataset(data["folder"], data["format"], **data["options"]), run.details["label_names"])
    return fully_annotated(dataset) if recipe_of(run).is_upper_bound else dataset


def score_cases(segmenter: AnySegmenter, dataset: Dataset, cases: Cases, description: str = "Scoring") -> list[Score]:
    """Segment each case that has a reference and measure it in 3-D on its native grid."""
    scores: list[Score] = []
    for name in track(cases.names, description):
        scores += _score_case(segmenter, dataset, cases, name)
    return scores


def _score_case(segmenter: AnySegmenter, dataset: Dataset, cases: Cases, name: str) -> list[Score]:
    reference = dataset.read_reference(name)
    if reference is None or (reference == UNLABELLED).all():
        return []
    case = cases.named(name)
    labels, unmerged = segmenter.segment_unmerged(case)
    spacing_mm, in_pixels = case.spacing_mm, is_picture(case.geometry)
    del case  # its image takes memory
    scores = score(name, labels, reference, spacing_mm, dataset.scored, in_pixels)
    if regions := _unmerged_regions(dataset):
        scores += score(name, unmerged, reference, spacing_mm, regions, in_pixels)
    return scores


def _unmerged_regions(dataset: Dataset) -> dict[str, tuple[int, ...]]:
    """The region of all structures, which a hierarchy's second network finds, too: Ji et al. 2019's WT* (Table 1)."""
    structures = set(range(1, dataset.n_labels))
    return {f"{name}*": labels for name, labels in dataset.regions.items() if set(labels) == structures}


def test_scores(run: Run, fabric: Fabric) -> list[Score]:
    """Scores of the last network on the data set's test cases, kept in the run folder; none without references.

    A case that the run was trained on is no test case of it, whatever has become of its scribbles since.

    They are made again where anything that they depend on has changed: the weights, the recipe, the images or masks of
    the test cases, what values in masks mean, or the version of scribbleseg. `SCORED` beside them has digests of these.
    """
    *_, last = phases(run).values()
    folder = run.path / f"test_scores_{last.recursions - 1}"
    dataset, trained_on = dataset_of(run), open_slices(last.slices).index["cases"]
    unseen = [name for name in dataset.test.names if name not in trained_on]
    dataset = replace(dataset, test=dataset.test.only(unseen))
    of, asked = folder / SCORED, _scored(run, dataset)
    if _is_of(of, asked) and (kept := read_scores(folder / "scores.json")) is not None:
        if not (folder / "summary.json").exists():  # earlier versions could be stopped before it
            write_scores(kept, folder)
        return kept
    scores = score_cases(load(run, fabric), dataset, dataset.test)
    of.unlink(missing_ok=True)  # while scores are written, nothing says what they are of
    write_scores(scores, folder)
    write_json(of, asked)
    return scores


def _scored(run: Run, dataset: Dataset) -> dict[str, Any]:
    """All that the scores of a run's test cases depend on, as plain values."""
    return {
        "scribbleseg": version("scribbleseg"),
        "weights": run.weights,
        "recipe": run.recipe,
        "labels": [list(dataset.label_names), _plain(dataset.scored), _plain(dataset.mask_values)],
        "cases": {name: digest_of_files(dataset.files[name]) for name in dataset.test.names},
    }


def _plain(mapping: Mapping[Any, Any]) -> list[list[Any]]:
    return [[key, list(value) if isinstance(value, tuple) else value] for key, value in mapping.items()]


def _is_of(file: Path, asked: Mapping[str, Any]) -> bool:
    """Whether kept scores are of this; what is damaged, and what earlier versions wrote, does not tell."""
    try:
        return file.exists() and read_json(file, "") == json.loads(json.dumps(asked))
    except DataError:
        return False


@dataclass(frozen=True)
class Training:
    """The training cases of a run, as they are now.

    Args:
        cases: those whose files are what the run was trained on.
        changed: one sentence that says how the data set has changed since; "" where it has not, and where an old run
            does not tell.
    """

    cases: tuple[str, ...]
    changed: str


def training_of(run: Run) -> Training:
    """Compare a run's training cases with what it was trained on; they are read only where a file has changed.

    Raises:
        DataError: its data set has gone, or cannot be read.
    """
    first = next(iter(phases(run).values()))  # what others learn from depends on it
    dataset, slices = dataset_of(first), open_slices(first.slices)
    names, trained_on = dataset.train.names, slices.index["cases"]
    same = {n for n in names if n in trained_on and trained_on[n].get("files") == digest_of_files(dataset.files[n])}
    if len(same) == len(names) == len(trained_on):
        return Training(names, "")
    gone, new = sorted(trained_on.keys() - set(names)), sorted(set(names) - trained_on.keys())
    known = first.details.get("fingerprint")
    if known is None or (not gone and not new and fingerprint(dataset.train) == known):  # only packed anew
        return Training(tuple(name for name in names if name in trained_on), "")
    noted = all("files" in case for case in trained_on.values())
    changed = [name for name in names if name in trained_on and name not in same] if noted else []
    found = {"other files": changed, "gone": gone, "new": new}
    said = "; ".join(f"{what}: {first_of(cases, MOST_NAMED)}" for what, cases in found.items() if cases)
    sentence = (
        f"The training cases are no longer those that this run was trained on{f' ({said})' if said else ''}: images, "
        "scribbles or the values of labels have changed since, and what is told of the training is of the earlier ones."
    )
    return Training(tuple(name for name in names if name in same), sentence)


def summarise_run(run: Run, fabric: Fabric, name: str | None = None) -> list[RunSummary]:
    """All that a report says of a run; a hierarchy's first phase is summed up by itself, before the whole.

    Raises:
        DataError: where its data set has gone, or it has not finished.
    """
    name = name or run.details["name"]
    *before, last = phases(run).items()
    summaries = [summary for phase, each in before for summary in summarise_run(each, fabric, f"{name}: {phase}")]
    scores, training = test_scores(run, fabric), training_of(run)
    pictures = [
        *_test_pictures(run, fabric, scores, phase_recipe(last[1]).preprocess),
        *_training_pictures(run, *last, fabric, training.cases),
    ]
    warnings = (training.changed,) if training.changed else ()
    summary = RunSummary(name, run.details["label_names"], scores=scores, pictures=pictures, warnings=warnings)
    summary = replace(summary, recipe=run.recipe, details=run.details, metrics=last[1].metrics)
    return [*summaries, replace(summary, is_upper_bound=recipe_of(run).is_upper_bound, origin=origin_of(run))]


def summarise_seeds(run: Run) -> RunSummary:
    """What a report says of a run of one network that has grown its seed areas, and trained nothing yet.

    Raises:
        DataError: where its data set has gone.
    """
    recipe, dataset, slices = phase_recipe(run), dataset_of(run), open_slices(run.slices)
    pictures = []
    for name in spread(dataset.train.names, MAX_PICTURES):
        case = dataset.train.named(name)
        areas = recipe.preprocess.native_labels(slices.layer("labels", 0)[slices.rows[name]], case.geometry)
        view = _view(case, recipe.preprocess, case.scribbles, dataset.shown)
        layers = {"scribbles": view.of(case.scribbles), "pseudo_labels": view.of(areas)}
        pictures.append(view.picture(None, "training case", **layers))
        del case, view  # which would be kept while the next one is read
    summary = RunSummary(run.details["name"], run.details["label_names"], pictures=pictures, origin=origin_of(run))
    return replace(summary, recipe=run.recipe, details=run.details)


def origin_of(run: Run) -> Origin:
    """What a run was made from, as its folder says."""
    data, (first, *_) = data_of(run), phases(run).values()
    slices = open_slices(first.slices)
    drawn = sum(slices.share(is_labelled, layer) for layer in (slices.scribbles, slices.held_out) if layer is not None)
    return Origin(
        data_set=f"{Path(data['folder']).name} ({data['format']})",
        begun=run.details.get("date", ""),
        training_cases=len(slices.rows),
        drawn=None if recipe_of(run).is_upper_bound else drawn,
    )


@dataclass(frozen=True)
class _View:
    """One slice of a case as people look at it.

    Args:
        case: the case, with its image.
        turn: brings its arrays into slices to look at.
        z: the slice's index, from 0.
        shown: the channel that is shown where the image is not in colour.
    """

    case: Case
    turn: Turn
    z: int
    shown: int

    def of(self, labels: Labels | None) -> UInt8[np.ndarray, "height width"] | None:
        """This slice of a label map of the case on its native grid; a copy, for a view would keep the volume."""
        return None if labels is None else self.turn(labels)[self.z].copy()

    def picture(self, recursion: int | None, title: str, **layers: Any) -> Picture:
        """The slice's picture, with slices of label maps (`of`) by their names in `Picture`."""
        image, geometry = self.turn(self.case.image)[:, self.z].copy(), self.case.geometry
        in_colour = is_picture(geometry) and len(image) == 3
        shown = np.moveaxis(image, 0, -1) if in_colour else image[self.shown]
        picture = Picture(self.case.name, self.z, recursion, shown, **layers)
        pixel = self.turn.spacing_mm(geometry)[1:]
        picture = replace(picture, title=title, n_slices=self.turn.shape(geometry)[0], pixel=pixel)
        return replace(picture, sides=sides(geometry, self.turn))


def _view(case: Case, grid: Preprocess, labels: Labels, shown: int) -> _View:
    """The fullest slice of a case in these labels."""
    turn = looked_at(case.geometry, grid.turn(case.geometry))
    return _View(case, turn, _fullest(turn(labels)), shown)


def _training_pictures(run: Run, phase: str, part: Run, fabric: Fabric, names: Sequence[str]) -> Iterator[Picture]:
    """A slice of a few of these training cases: scribbles, and what each recursion was taught and learned."""
    recipe = phase_recipe(part)
    dataset, slices = dataset_of(run), open_slices(part.slices)
    segmenters = [load_segmenter(recipe, part, fabric, index) for index in range(part.recursions)]
    title = f"training case{f', {phase}' if phase else ''}"
    for name in spread(names, PICTURED_CASES):
        case, rows = dataset.train.named(name), slices.rows[name]
        scribbles = case.scribbles
        if phase:
            scribbles = recipe.preprocess.native_labels(slices.scribbles[rows], case.geometry)
        view = _view(case, recipe.preprocess, scribbles, dataset.shown)
        reference, drawn = view.of(dataset.read_reference(name)), view.of(scribbles)
        del scribbles  # volumes take memory while the network looks
        for index, segmenter in enumerate(segmenters):
            taught = slices.layer("labels", recipe.labels_of(index))[rows]
            yield view.picture(
                index,
                title,
                scribbles=None if recipe.is_upper_bound else drawn,
                pseudo_labels=view.of(recipe.preprocess.native_labels(taught, case.geometry)),
                prediction=view.of(segmenter.segment(case)),
                reference=reference,
            )
        del case, view  # which would be kept while the next one is read


def _test_pictures(run: Run, fabric: Fabric, scores: list[Score], grid: Preprocess) -> Iterator[Picture]:
    """The best, the median and the worst test case."""
    if not scores:
        return
    dataset = dataset_of(run)
    segmenter = load(run, fabric)
    names = list(dict.fromkeys(s.case for s in scores))
    by_dice = sorted(names, key=lambda name: np.mean([s.dice for s in scores if s.case == name and not s.auxiliary]))
    for title, name in zip(("worst", "median", "best"), spread(by_dice, PICTURED_CASES), strict=False):
        case, mask = dataset.test.named(name), dataset.reference(name)
        view = _view(case, grid, np.where(mask == 0, np.uint8(UNLABELLED), mask), dataset.shown)
        reference = view.of(mask)
        del mask
        prediction = view.of(segmenter.segment(case))
        yield view.picture(None, f"{title} test case", prediction=prediction, reference=reference)
        del case, view


def _fullest(labels: Labels) -> int:
    """The slice with most labelled voxels, of those with most classes."""
    return max(range(len(labels)), key=lambda z: (len(np.unique(labels[z])), np.count_nonzero(labels[z] != UNLABELLED)))
