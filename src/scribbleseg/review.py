"""A run under review: its networks segment, are scored against references, and are shown in pictures."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from lightning_fabric import Fabric
from rich.progress import track

from scribbleseg.data import fully_annotated, open_dataset
from scribbleseg.data.preprocess import Preprocess
from scribbleseg.data.slices import open_slices
from scribbleseg.data.views import in_labels
from scribbleseg.evaluation.metrics import Score, read_scores, score, write_scores
from scribbleseg.evaluation.report import Picture, RunSummary
from scribbleseg.pipeline import AnySegmenter, data_of, load, phase_recipe, phases, recipe_of
from scribbleseg.runs import Run
from scribbleseg.types import UNLABELLED, Cases, Dataset, Labels, spread
from scribbleseg.weights import load_segmenter

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
        reference = dataset.read_reference(name)
        if reference is not None and (reference != UNLABELLED).any():
            case = cases.named(name)
            labels, unmerged = segmenter.segment_unmerged(case)
            scores += score(name, labels, reference, case.spacing_mm, dataset.scored)
            if regions := _unmerged_regions(dataset):
                scores += score(name, unmerged, reference, case.spacing_mm, regions)
    return scores


def _unmerged_regions(dataset: Dataset) -> dict[str, tuple[int, ...]]:
    """The region of all structures, which a hierarchy's second network finds, too: Ji et al. 2019's WT* (Table 1)."""
    structures = set(range(1, dataset.n_labels))
    return {f"{name}*": labels for name, labels in dataset.regions.items() if set(labels) == structures}


def test_scores(run: Run, fabric: Fabric) -> list[Score]:
    """Scores of the last network on the data set's test cases, kept in the run folder; none without references."""
    *_, last = phases(run).values()
    folder = run.path / f"test_scores_{last.recursions - 1}"
    if (kept := read_scores(folder / "scores.json")) is not None:
        return kept
    dataset = dataset_of(run)
    scores = score_cases(load(run, fabric), dataset, dataset.test)
    write_scores(scores, folder)
    return scores


def summarise_run(run: Run, fabric: Fabric, name: str | None = None) -> list[RunSummary]:
    """All that a report says of a run; a hierarchy's first phase is summed up by itself, before the whole.

    Raises:
        DataError: where its data set has gone, or it has not finished.
    """
    name = name or run.details["name"]
    *before, last = phases(run).items()
    summaries = [summary for phase, each in before for summary in summarise_run(each, fabric, f"{name}: {phase}")]
    scores = test_scores(run, fabric)
    pictures = [
        *_test_pictures(run, fabric, scores, phase_recipe(last[1]).preprocess),
        *_training_pictures(run, *last, fabric),
    ]
    summary = RunSummary(name, run.details["label_names"], scores=scores, pictures=pictures)
    summary = replace(summary, recipe=run.recipe, details=run.details, metrics=last[1].metrics)
    return [*summaries, replace(summary, is_upper_bound=recipe_of(run).is_upper_bound)]


def _training_pictures(run: Run, phase: str, part: Run, fabric: Fabric) -> Iterator[Picture]:
    """The middle slice of a few training cases: scribbles, seeds, and what each recursion was taught and learned."""
    recipe = phase_recipe(part)
    dataset, slices = dataset_of(run), open_slices(part.slices)
    segmenters = [load_segmenter(recipe, part, fabric, index) for index in range(part.recursions)]
    for name in spread(dataset.train.names, PICTURED_CASES):
        case = dataset.train.named(name)
        rows = slices.rows[name]
        turn = recipe.preprocess.turn(case.geometry)
        scribbles = case.scribbles
        if phase:
            scribbles = recipe.preprocess.native_labels(slices.scribbles[rows], case.geometry)
        scribbles = turn(scribbles)
        z = _fullest(scribbles)
        reference = dataset.read_reference(name)
        taught = [slices.layer("labels", recipe.labels_of(index))[rows] for index in range(part.recursions)]
        maps = [turn(recipe.preprocess.native_labels(labels, case.geometry))[z] for labels in taught]
        for index, segmenter in enumerate(segmenters):
            shown = {"scribbles": scribbles[z], "seeds": maps[0], "pseudo_labels": maps[index]}
            shown |= {
                "prediction": turn(segmenter.segment(case))[z],
                "reference": None if reference is None else turn(reference)[z],
            }
            title = f"training case{f', {phase}' if phase else ''}"
            yield Picture(name, z, index, turn(case.image)[dataset.shown, z], title=title, **shown)


def _test_pictures(run: Run, fabric: Fabric, scores: list[Score], grid: Preprocess) -> Iterator[Picture]:
    """The best, the median and the worst test case."""
    if not scores:
        return
    dataset = dataset_of(run)
    segmenter = load(run, fabric)
    names = list(dict.fromkeys(s.case for s in scores))
    by_dice = sorted(names, key=lambda name: np.mean([s.dice for s in scores if s.case == name and not s.auxiliary]))
    for title, name in zip(("worst", "median", "best"), spread(by_dice, PICTURED_CASES), strict=False):
        case = dataset.test.named(name)
        turn = grid.turn(case.geometry)
        reference = turn(dataset.reference(name))
        z = _fullest(np.where(reference == 0, UNLABELLED, reference).astype(np.uint8))
        shown = {"prediction": turn(segmenter.segment(case))[z], "reference": reference[z]}
        yield Picture(name, z, None, turn(case.image)[dataset.shown, z], title=f"{title} test case", **shown)


def _fullest(labels: Labels) -> int:
    """The slice with most labelled voxels, of those with most classes."""
    return max(range(len(labels)), key=lambda z: (len(np.unique(labels[z])), np.count_nonzero(labels[z] != UNLABELLED)))
