"""What is wrong with one training case: its intensities, its scribbles, and what is said to be in it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from scipy import ndimage

from scribbleseg.data import coarse
from scribbleseg.data.drawn_plane import plane_of_strokes
from scribbleseg.data.orientation import Plane, Turn, codes, plane
from scribbleseg.types import UNLABELLED, Case, Dataset, Labels

LARGEST = 1e10
"""Intensities beyond this are no measurement; ours. Those of positron emission, in Bq/ml, come to 1e8."""

DATA_SET = "(data set)"
"""Stands for a case's name where the fault is one of the whole data set."""

Severity = Literal["fault", "warning", "note"]


@dataclass(frozen=True)
class Fault:
    """Something that the audit found: wrong (training or testing would fail or mislead), worth a look, or a note.

    Args:
        case: its name, or `DATA_SET`.
        file: the file to open, or None where no single file is at fault.
        severity: "fault" for what is wrong, "warning" for what is worth a look, "note" for one of `Dataset.notes`.
        problem: what was expected and what came.
        remedy: what to do about it.
    """

    case: str
    file: Path | None
    severity: Severity
    problem: str
    remedy: str


def of_case(case: Case, dataset: Dataset, turn: Turn, reference: Labels | None = None) -> Iterator[Fault]:
    """Yields what is wrong with a training case.

    Args:
        case: the case.
        dataset: its data set, or that in the labels of its scribbles (`data.coarse`).
        turn: how it is brought into the slices that are trained on.
        reference: its mask, to compare with the image-level labels; None compares nothing.
    """
    label_names = coarse(dataset).label_names  # what scribbles tell apart
    shown = _shown(case, label_names)
    drawn_in = case.files[len(dataset.train.images.get(case.name, case.files[:1])) :]
    file = drawn_in[-1] if drawn_in else None
    yield from of_image(case)
    yield from _of_scribbles(case, label_names, shown, turn, file)
    yield from _of_present(case, dataset, shown, reference, file)


def of_image(case: Case) -> Iterator[Fault]:
    """Yields faults of the intensities."""
    file = case.files[0] if case.files else None
    flat = [index for index, channel in enumerate(case.image) if channel.min() == channel.max()]
    for index in flat:
        yield Fault(
            case.name,
            case.files[index] if index < len(case.files) else file,
            "fault" if len(flat) == len(case.image) else "warning",  # a colour may well be the same everywhere
            f"expected an image, found the same intensity {case.image[index].flat[0]:g} everywhere in channel {index}",
            "export it again or leave the case out",
        )
    for index, channel in enumerate(case.image):
        if (largest := float(max(channel.max(), -channel.min()))) > LARGEST:
            yield Fault(
                case.name,
                case.files[index] if index < len(case.files) else file,
                "warning",
                f"expected intensities of some size, found {largest:g} in channel {index}, which may stand for no data",
                "export it with the lowest intensity there; beside such values all others look alike",
            )


def _shown(case: Case, label_names: Sequence[str]) -> set[int]:
    """Returns the labels that the case's scribbles may have by its image-level labels, all where it has none.

    Where scribbles are of one region, whichever of its structures is there shows it.
    """
    if case.present is None or (len(label_names) == 2 and case.present):
        return set(range(1, len(label_names)))
    return set(case.present)


def _of_present(
    case: Case, dataset: Dataset, shown: set[int], reference: Labels | None, file: Path | None
) -> Iterator[Fault]:
    """Yields faults of the image-level labels: scribbles or a mask that contradict them."""
    if case.present is None:
        return
    if contrary := set(np.unique(case.scribbles).tolist()) - {0, UNLABELLED} - shown:
        drawn = _names(coarse(dataset).label_names, contrary)
        said = _names(dataset.label_names, case.present)
        problem = f"image-level labels say {said}, there are scribbles of {drawn}"
        yield Fault(case.name, file, "fault", problem, "correct the labels in its present file, or the scribbles")
    if reference is not None and (masked := set(np.unique(reference).tolist()) - {0, UNLABELLED}) != case.present:
        said, there = (_names(dataset.label_names, labels) for labels in (case.present, masked))
        problem = f"image-level labels say {said}, the reference mask has {there}"
        yield Fault(case.name, None, "warning", problem, "correct the labels in its present file, if the mask is right")


def _names(label_names: Sequence[str], labels: Iterable[int]) -> str:
    return ", ".join(label_names[label] for label in sorted(labels)) or "nothing"


def _of_scribbles(
    case: Case, label_names: Sequence[str], shown: set[int], turn: Turn, file: Path | None
) -> Iterator[Fault]:
    labelled = case.scribbles != UNLABELLED
    if not labelled.any():
        yield Fault(case.name, file, "warning", "expected scribbles, found every voxel unlabelled", "draw some")
        return
    if (fault := _fully_labelled(case, file)) is not None:
        yield fault
        return
    drawn = set(np.unique(case.scribbles[labelled]).tolist())
    if 0 not in drawn:
        yield Fault(
            case.name,
            file,
            "warning",
            "structures are scribbled but no background: their areas do not grow",
            "draw some background in each slice that has other scribbles",
        )
    elif slices := _without_background(case, turn):
        turned = f"{_plane_of(case, turn)} " if turn.axes[0] else ""
        yield Fault(
            case.name,
            file,
            "warning",
            f"structures are scribbled but no background in {turned}{_numbered(slices)} (the first is 1)",
            "draw some background there",
        )
    its, drawn_in = _plane_of(case, turn), plane_of_strokes(case.scribbles, case.geometry)
    if drawn_in not in (None, its):
        yield Fault(
            case.name,
            file,
            "warning",
            f"strokes were drawn in {drawn_in} slices, but training cuts {its} ones, in which they are dots",
            f"draw in {its} slices, or have all volumes cut into {drawn_in} ones: --set preprocess.plane={drawn_in}",
        )
    if missing := shown - drawn:
        yield Fault(
            case.name,
            file,
            "warning",
            f"no scribble of {_names(label_names, missing)}",
            "draw one, unless the case does not show it",
        )


def _fully_labelled(case: Case, file: Path | None) -> Fault | None:
    """Returns the fault of a case in which next to nothing is unlabelled, or None.

    That is a full mask, or strokes on a value that is declared as background where it means that nobody drew. A stroke
    or two of another value, which then is declared as "ignore", do not hide it.
    """
    unlabelled = case.scribbles == UNLABELLED
    if not _is_thin(unlabelled) or (case.scribbles == 0).mean() < 0.5:
        return None if unlabelled.any() else _full_mask(case, file)
    structures = (case.scribbles != 0) & ~unlabelled
    if (structures.any() or unlabelled.any()) and _is_thin(structures):
        return Fault(
            case.name,
            file,
            "fault",
            "expected unlabelled voxels between the strokes, found nearly all of them declared to be background",
            'declare the value between the strokes as "ignore", and that of the background strokes as "background"',
        )
    return None if unlabelled.any() else _full_mask(case, file)


def _full_mask(case: Case, file: Path | None) -> Fault:
    return Fault(
        case.name,
        file,
        "warning",
        "expected scribbles, found a full mask: no voxel is unlabelled",
        'nothing to do if it is one; else declare the value of unlabelled voxels as "ignore"',
    )


def _is_thin(drawn: np.ndarray) -> bool:
    """Returns whether strokes are all there is: an erosion by 5 x 5 pixels in the slice leaves the inside of masks."""
    return bool(ndimage.binary_erosion(drawn, np.ones((1, 5, 5), bool)).sum() <= 0.05 * drawn.sum())


def drawn_slices(case: Case, turn: Turn) -> int:
    """Returns the number of slices in which something is drawn, of those that are trained on."""
    return int(_slices_with(case.scribbles != UNLABELLED, turn).sum())


def _numbered(slices: Sequence[int]) -> str:
    """Slices by their numbers for people, which begin with 1: "slice 4", "slices 4, 7"."""
    return f"slice{'' if len(slices) == 1 else 's'} {', '.join(str(index + 1) for index in slices)}"


def _without_background(case: Case, turn: Turn) -> list[int]:
    """Returns the indices, from 0, of the slices with structures but no background, as they are stored."""
    structures = _slices_with((case.scribbles != UNLABELLED) & (case.scribbles != 0), turn)
    return np.flatnonzero(structures & ~_slices_with(case.scribbles == 0, turn)).tolist()


def _slices_with(drawn: np.ndarray, turn: Turn) -> np.ndarray:
    """Returns of each slice whether anything in it is true."""
    return np.asarray(drawn.any(axis=turn.axes[1:]))


def _plane_of(case: Case, turn: Turn) -> Plane:
    """Returns the plane of the slices that are trained on."""
    return plane(codes(case.geometry)[turn.axes[0]])
