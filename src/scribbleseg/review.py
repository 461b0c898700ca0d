"""A run under review: its networks segment, are scored against references, and are shown in pictures."""

from collections.abc import Iterator

import numpy as np
from lightning_fabric import Fabric
from rich.progress import track

from scribbleseg.data import open_dataset
from scribbleseg.data.slices import open_slices
from scribbleseg.em import load_segmenter
from scribbleseg.evaluate.metrics import Score, read_scores, score, write_scores
from scribbleseg.evaluate.report import Picture, RunSummary
from scribbleseg.hierarchy import HierarchySegmenter
from scribbleseg.pipeline import load, phases, recipe_of, taught
from scribbleseg.relabel.predict import Segmenter
from scribbleseg.runs import Run
from scribbleseg.types import UNLABELLED, Cases, Dataset, Labels

PICTURED_CASES = 3
"""Cases in a report; each is shown once for every recursion."""


def dataset_of(run: Run) -> Dataset:
    """The data set that the run was trained on, opened again as it was then."""
    data = run.details["data"]
    return taught(recipe_of(run), open_dataset(data["folder"], data["format"], **data["options"]))


def score_cases(
    segmenter: Segmenter | HierarchySegmenter, dataset: Dataset, cases: Cases, description: str = "Scoring"
) -> list[Score]:
    """Segment each case that has a reference and measure it in 3-D on its native grid."""
    scores: list[Score] = []
    for name in track(cases.names, description):
        reference = dataset.read_reference(name)
        if reference is not None:
            case = cases.named(name)
            scores += score(name, segmenter.segment(case), reference, case.spacing_mm, dataset.scored)
    return scores


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
    scores, details = test_scores(run, fabric), run.details
    pictures = [*_test_pictures(run, fabric, scores), *_training_pictures(run, *last, fabric)]
    summary = RunSummary(name, details["label_names"], run.recipe, details, last[1].metrics, scores, pictures)
    return [*summaries, summary]


def _training_pictures(run: Run, phase: str, part: Run, fabric: Fabric) -> Iterator[Picture]:
    """The middle slice of a few training cases: scribbles, seeds, and what each recursion was taught and learned."""
    dataset, slices = dataset_of(run), open_slices(part.slices)
    segmenters = [load_segmenter(part, fabric, index) for index in range(part.recursions)]
    preprocess = segmenters[0].preprocess
    for name in _spread(dataset.train.names):
        case = dataset.train.named(name)
        rows = slices.rows[name]
        scribbles = preprocess.native_labels(slices.scribbles[rows], case) if phase else case.scribbles
        z = _fullest(scribbles)
        reference = dataset.read_reference(name)
        on_grid = [slices.labels(f"labels_{index}")[rows] for index in range(part.recursions)]
        learned = [preprocess.native_labels(labels, case)[z] for labels in on_grid]
        for index, segmenter in enumerate(segmenters):
            yield Picture(
                name, z, index, case.image[dataset.shown, z], scribbles[z], learned[0], learned[index],
                segmenter.segment(case)[z], None if reference is None else reference[z],
                f"training case{f', {phase}' if phase else ''}",
            )  # fmt: skip


def _test_pictures(run: Run, fabric: Fabric, scores: list[Score]) -> Iterator[Picture]:
    """The best, the median and the worst test case."""
    if not scores:
        return
    dataset = dataset_of(run)
    segmenter = load(run, fabric)
    names = list(dict.fromkeys(s.case for s in scores))
    by_dice = sorted(names, key=lambda name: np.mean([s.dice for s in scores if s.case == name]))
    for title, name in zip(("worst", "median", "best"), _spread(by_dice), strict=False):
        case, reference = dataset.test.named(name), dataset.reference(name)
        z = _fullest(np.where(reference == 0, UNLABELLED, reference).astype(np.uint8))
        labels = segmenter.segment(case)[z]
        yield Picture(
            name,
            z,
            None,
            case.image[dataset.shown, z],
            prediction=labels,
            reference=reference[z],
            title=f"{title} test case",
        )


def _spread(names: list[str] | tuple[str, ...]) -> list[str]:
    """First, middle and last, without repetition."""
    places = np.linspace(0, len(names) - 1, min(PICTURED_CASES, len(names))).round().astype(int)
    return [names[place] for place in places]


def _fullest(labels: Labels) -> int:
    """The slice with most labelled voxels, of those with most classes."""
    return max(range(len(labels)), key=lambda z: (len(np.unique(labels[z])), np.count_nonzero(labels[z] != UNLABELLED)))
