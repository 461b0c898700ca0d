"""Audits a data set before training: finds every fault, with its case, its file and what to do about it."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from scipy import ndimage

from scribbleseg.annotate.describe import Description
from scribbleseg.data import coarse
from scribbleseg.data.layouts.case_files import CaseError
from scribbleseg.data.orientation import Turn, codes, common_orientation, plane, slice_axis, turn_to
from scribbleseg.data.preprocess import out_of_scale
from scribbleseg.files import FileError
from scribbleseg.types import UNLABELLED, Case, Cases, DataError, Dataset, Geometry, Labels

DATA_SET = "(data set)"
"""Stands for a case's name where the fault is one of the whole data set."""

Part = Literal["train", "test"]


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
    severity: Literal["fault", "warning", "note"]
    problem: str
    remedy: str


@dataclass(frozen=True)
class ClassCoverage:
    """How much of one class is scribbled in the training cases: the number of cases, and the share of all voxels."""

    name: str
    n_cases: int
    n_voxels: int
    share: float


@dataclass(frozen=True)
class Coverage:
    """How much of the training images is scribbled; counts only the cases that could be read.

    Args:
        classes: one row for each label of the scribbles, background first.
        n_cases: number of cases that were read.
        n_voxels: number of their voxels.
    """

    classes: tuple[ClassCoverage, ...]
    n_cases: int
    n_voxels: int


@dataclass(frozen=True)
class Audit:
    """The result of `check`. `sound` is False if there is any fault; warnings and notes are not faults.

    Args:
        faults: what was found.
        coverage: how much of the training images is scribbled.
        images: what the images of each part are like, by name (`Description`).
        drawn: the training cases in which a structure is drawn; those with most labels first.
    """

    faults: tuple[Fault, ...]
    coverage: Coverage
    images: Mapping[Part, Mapping[str, str]] = field(default_factory=dict)
    drawn: tuple[str, ...] = ()

    @property
    def sound(self) -> bool:
        """True where training can start."""
        return not any(fault.severity == "fault" for fault in self.faults)


def check(
    dataset: Dataset, progress: Callable[[Sequence[tuple[Part, str]]], Iterable[tuple[Part, str]]] = iter
) -> Audit:
    """Reads every file of a data set and reports everything that is wrong, without stopping at the first fault.

    Args:
        dataset: the data set to audit.
        progress: wraps the sequence of `(part, case name)` to go through, such as `rich.progress.track`.
    """
    parts: dict[Part, Cases] = {"train": dataset.train, "test": dataset.test}
    label_names = coarse(dataset).label_names  # what scribbles tell apart
    faults = [Fault(DATA_SET, None, "note", note, "nothing, if that is intended") for note in dataset.notes]
    faults += _in_both_parts(dataset)
    duplicates = _Duplicates()
    described: dict[Part, Description] = {"train": Description(), "test": Description()}
    counts: list[np.ndarray] = []
    channels: dict[str, tuple[int, Path | None]] = {}
    present: dict[str, frozenset[int] | None] = {}
    geometries: dict[Part, dict[str, Geometry]] = {"train": {}, "test": {}}
    n_voxels = 0
    for part, name in progress([(part, name) for part, cases in parts.items() for name in cases.names]):
        reference: Labels | None = None
        try:
            reference = dataset.read_reference(name)
        except DataError as error:
            faults += _of_error(name, error)
        try:
            case = parts[part].named(name)
        except DataError as error:
            faults += _of_error(name, error)
            continue
        geometries[part][name] = case.geometry
        channels[name] = len(case.image), case.files[0] if case.files else None
        described[part].add(case)
        faults += [*_of_image(case), *duplicates.of(case, part)]
        if part == "train":
            shown = _shown(case, dataset)
            faults += [*_of_scribbles(case, label_names, shown), *_of_present(case, dataset, shown, reference)]
            present[name] = case.present
            counts.append(_counted(case.scribbles)[: len(label_names)])
            n_voxels += case.scribbles.size
        del case, reference  # which would be kept while the next ones are read
    usual = common_orientation(geometries["train"].values())
    faults += [*_of_channels(channels), *_without_present(present)]
    faults += [*_of_spacing(geometries, usual), *_of_orientation(geometries, usual)]
    coverage = _coverage(label_names, counts, n_voxels)
    faults += _of_coverage(coverage)
    described_parts = {part: each.rows for part, each in described.items() if each.rows}
    return Audit(tuple(faults), coverage, described_parts, _drawn(dict(zip(present, counts, strict=True))))


def _counted(labels: Labels) -> np.ndarray:
    """The number of voxels of each value, 0 to 255; slice by slice, as counting takes 8 bytes a voxel."""
    return np.sum([np.bincount(slice_.ravel(), minlength=256) for slice_ in labels], axis=0)


def _drawn(counts: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """Returns the cases in which a structure is drawn, those with most labels first."""
    labels = {name: np.count_nonzero(of_case) for name, of_case in counts.items() if of_case[1:].any()}
    return tuple(sorted(labels, key=lambda name: -labels[name]))


def _of_error(name: str, error: DataError) -> Iterator[Fault]:
    for each in error.errors if isinstance(error, CaseError) else [error]:
        if isinstance(each, FileError):
            yield Fault(name, each.file, "fault", each.problem, each.remedy)
        else:
            yield Fault(name, None, "fault", str(each), "do what the problem says")


def _of_channels(channels: Mapping[str, tuple[int, Path | None]]) -> Iterator[Fault]:
    """Yields faults of cases whose number of channels is not that of most."""
    numbers = Counter(n for n, _ in channels.values())
    usual = next((n for n, _ in numbers.most_common(1)), 0)
    for name, (n, file) in channels.items():
        if n != usual:
            problem = f"expected {usual} channel(s) as {numbers[usual]} cases have, found {n}"
            yield Fault(name, file, "fault", problem, "give every case the same channels, or leave this one out")


def _of_image(case: Case) -> Iterator[Fault]:
    """Yields faults of the intensities."""
    file = case.files[0] if case.files else None
    for index, channel in enumerate(case.image):
        if channel.min() == channel.max():
            yield Fault(
                case.name,
                case.files[index] if index < len(case.files) else file,
                "fault",
                f"expected an image, found the same intensity {channel.min():g} everywhere in channel {index}",
                "export it again or leave the case out",
            )


def _of_spacing(geometries: Mapping[Part, Mapping[str, Geometry]], usual: str | None) -> Iterator[Fault]:
    """Yields headers that are likely wrong: faults where pixels of a training case are, for `train` refuses those."""
    sizes = {name: geometry.spacing_mm for part in geometries.values() for name, geometry in part.items()}
    of_pixels = {name: turn_to(usual, each).spacing_mm(each)[1:] for name, each in geometries["train"].items()}
    refused = out_of_scale(of_pixels) if of_pixels else {}
    doubtful = out_of_scale(sizes) if sizes else {}
    for name, usual_mm in {**doubtful, **refused}.items():
        found = " x ".join(f"{mm:.3g}" for mm in sizes[name])
        problem = f"expected voxels of about {usual_mm:.3g} mm as in most cases, found {found} mm"
        severity: Literal["fault", "warning"] = "fault" if name in refused else "warning"
        yield Fault(name, None, severity, problem, "correct its header or the unit in it, or leave the case out")


def _of_orientation(geometries: Mapping[Part, Mapping[str, Geometry]], usual: str | None) -> Iterator[Fault]:
    """Yields notes of cases that are turned before they are cut into slices, and of another plane than most."""
    for name, geometry in {**geometries["train"], **geometries["test"]}.items():
        turn = turn_to(usual, geometry)
        if usual is None or turn == Turn():
            continue
        found, its = codes(geometry), plane("".join(codes(geometry)[axis] for axis in turn.axes))
        problem = f"stored as {found} (depth, height and width grow towards these), most training cases as {usual}"
        if its != plane(usual):
            problem += f"; its slices are {its}, theirs {plane(usual)}"
        yield Fault(name, None, "note", problem, "its slices are turned, and its label maps turned back")


def _shown(case: Case, dataset: Dataset) -> set[int]:
    """Returns the labels that the case's scribbles may have by its image-level labels, all where it has none."""
    if case.present is None or (dataset.scribble_names and case.present):
        return set(range(1, coarse(dataset).n_labels))
    return set(case.present)


def _of_present(case: Case, dataset: Dataset, shown: set[int], reference: Labels | None) -> Iterator[Fault]:
    """Yields faults of the image-level labels: scribbles or a mask that contradict them."""
    if case.present is None:
        return
    said = _names(dataset.label_names, case.present)
    file = case.files[-1] if case.files else None
    if contrary := set(np.unique(case.scribbles).tolist()) - {0, UNLABELLED} - shown:
        drawn = _names(coarse(dataset).label_names, contrary)
        problem = f"image-level labels say {said}, there are scribbles of {drawn}"
        yield Fault(case.name, file, "fault", problem, "correct the labels in its present file, or the scribbles")
    if reference is not None and (masked := set(np.unique(reference).tolist()) - {0, UNLABELLED}) != case.present:
        problem = f"image-level labels say {said}, the reference mask has {_names(dataset.label_names, masked)}"
        yield Fault(case.name, None, "warning", problem, "correct the labels in its present file, if the mask is right")


def _without_present(present: Mapping[str, frozenset[int] | None]) -> Iterator[Fault]:
    example = next((name for name, labels in present.items() if labels is not None), None)
    for name, labels in present.items():
        if example and labels is None:
            problem = f"expected image-level labels, as {example} has them, found none"
            yield Fault(name, None, "warning", problem, "list it in the present file: recipes with clusters need them")


def _names(label_names: Sequence[str], labels: Iterable[int]) -> str:
    return ", ".join(label_names[label] for label in sorted(labels)) or "nothing"


def _of_scribbles(case: Case, label_names: Sequence[str], shown: set[int]) -> Iterator[Fault]:
    file = case.files[-1] if case.files else None
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
            "fault",
            "expected scribbles on the background, found none: a network trained on this finds structures everywhere",
            "draw some background in each slice that has other scribbles",
        )
    elif slices := _without_background(case):
        yield Fault(
            case.name,
            file,
            "warning",
            f"structures are scribbled but no background in slice(s) {', '.join(map(str, slices))} (the first is 0)",
            "draw some background there",
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
        'nothing, if it is one; else declare the value of unlabelled voxels as "ignore"',
    )


def _is_thin(drawn: np.ndarray) -> bool:
    """Returns whether strokes are all there is: an erosion by 5 x 5 pixels in the slice leaves the inside of masks."""
    return bool(ndimage.binary_erosion(drawn, np.ones((1, 5, 5), bool)).sum() <= 0.05 * drawn.sum())


def _without_background(case: Case) -> list[int]:
    slices = np.moveaxis(case.scribbles, slice_axis(case.geometry), 0)
    flat = slices.reshape(len(slices), -1)
    structures = ((flat != UNLABELLED) & (flat != 0)).any(axis=1)
    return np.flatnonzero(structures & ~(flat == 0).any(axis=1)).tolist()


def _in_both_parts(dataset: Dataset) -> Iterator[Fault]:
    remedy = "take it out of one: a test score of a training case means nothing"
    for name in sorted(set(dataset.train.names) & set(dataset.test.names)):
        yield Fault(name, None, "fault", "is in the training and in the test set", remedy)


class _Duplicates:
    """Finds images that occur twice: remembers each image by its intensities."""

    def __init__(self) -> None:
        self._seen: dict[bytes, tuple[str, Part]] = {}

    def of(self, case: Case, part: Part) -> Iterator[Fault]:
        digest = hashlib.sha256(repr(case.image.shape).encode())
        for slice_ in case.image.reshape(-1, *case.image.shape[2:]):  # a copy of all is 8 bytes a voxel
            digest.update(np.ascontiguousarray(slice_).data)
        other, other_part = self._seen.setdefault(digest.digest(), (case.name, part))
        if other == case.name:
            return
        leak = part != other_part
        where = f", which is in the {other_part} set: its test score means nothing" if leak else ""
        yield Fault(
            case.name,
            case.files[0] if case.files else None,
            "fault" if leak else "warning",
            f"is the same image as {other}{where}",
            "keep one of the two",
        )


def _coverage(label_names: Sequence[str], counts: Sequence[np.ndarray], n_voxels: int) -> Coverage:
    table = np.array(counts, np.int64).reshape(-1, len(label_names))
    classes = tuple(
        ClassCoverage(name, int((column > 0).sum()), int(column.sum()), float(column.sum() / max(n_voxels, 1)))
        for name, column in zip(label_names, table.T, strict=True)
    )
    return Coverage(classes, len(table), n_voxels)


def _of_coverage(coverage: Coverage) -> Iterator[Fault]:
    if not any(row.n_voxels for row in coverage.classes):
        yield Fault(
            DATA_SET,
            None,
            "fault",
            f"expected scribbles to train on, found none in {coverage.n_cases} readable training case(s)",
            'draw some, simulate some from masks, or check which value is declared as "ignore"',
        )
        return
    for row in coverage.classes[1:]:  # the background has been asked for in each case
        if not row.n_voxels:
            yield Fault(
                DATA_SET,
                None,
                "fault",
                f"expected scribbles of {row.name} in some case, found none: it cannot be learnt",
                "draw some, or take it out of the declared labels",
            )
