"""Audits a data set before training: finds every fault, with its case, its file and what to do about it."""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from scribbleseg.annotate.case_faults import DATA_SET, Fault, Severity, drawn_slices, of_case, of_image
from scribbleseg.annotate.describe import Description, ImageProperties
from scribbleseg.annotate.planes import common_of, of_planes
from scribbleseg.data import coarse
from scribbleseg.data.layouts.case_files import CaseError
from scribbleseg.data.layouts.folder import draw_in
from scribbleseg.data.orientation import Plane, turn_to
from scribbleseg.data.preprocess import out_of_scale
from scribbleseg.files import FileError, first_of
from scribbleseg.plural import number_of
from scribbleseg.types import Case, DataError, Dataset, Geometry, Labels

Part = Literal["train", "test"]


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
        n_drawn: number of the cases in which something is drawn.
        n_slices: number of the slices in which something is drawn.
    """

    classes: tuple[ClassCoverage, ...]
    n_cases: int
    n_voxels: int
    n_drawn: int
    n_slices: int = 0


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


@dataclass(frozen=True)
class _Looked:
    """What `check` keeps of a case: little, and it can be sent to another process.

    Args:
        part: that of the data set.
        name: the case.
        of_mask: what is wrong with its mask.
        faults: what else is wrong with it, on its own.
        seen: what was seen of it; None where it cannot be read.
    """

    part: Part
    name: str
    of_mask: tuple[Fault, ...]
    faults: tuple[Fault, ...]
    seen: "_Seen | None"


@dataclass(frozen=True)
class _Strokes:
    """What was seen of the scribbles of a training case: voxels of each label, and slices with any."""

    counts: np.ndarray
    n_slices: int


@dataclass(frozen=True)
class _Seen:
    """What was seen of an image, and of the scribbles of a training case."""

    image: ImageProperties
    file: Path | None
    digest: bytes
    present: frozenset[int] | None
    strokes: _Strokes | None


Item = tuple[Part, str]
"""The part of a data set, and the name of a case."""


def check(
    dataset: Dataset,
    each: Callable[[Callable[[Item], _Looked], Sequence[Item]], Iterable[_Looked]] = map,
    asked: Plane | None = None,
) -> Audit:
    """Reads every file of a data set and reports everything that is wrong, without stopping at the first fault.

    Args:
        dataset: the data set to audit.
        each: calls a function for each `(part, case name)`, as `map` does; with a progress bar, or on several ranks.
        asked: the plane of the slices that a recipe asks for.
    """
    names: list[Item] = [("train", name) for name in dataset.train.names]
    names += [("test", name) for name in dataset.test.names]
    usual, drawn_in = common_of(dataset.train, asked)
    looked = list(each(lambda item: _look_at(dataset, *item, usual, asked), names))
    faults = [Fault(DATA_SET, None, "note", note, "nothing to do if that is intended") for note in dataset.notes]
    faults += in_both_parts(dataset)
    duplicates = _Duplicates()
    described: dict[Part, Description] = {"train": Description(), "test": Description()}
    channels: dict[str, tuple[int, Path | None]] = {}
    drawn: dict[str, _Strokes] = {}
    present: dict[str, frozenset[int] | None] = {}
    geometries: dict[Part, dict[str, Geometry]] = {"train": {}, "test": {}}
    for one in looked:
        faults += one.of_mask
        if one.seen is None:
            faults += one.faults
            continue
        geometries[one.part][one.name] = one.seen.image.geometry
        channels[one.name] = one.seen.image.channels, one.seen.file
        described[one.part].add(one.seen.image)
        faults += [*one.faults, *duplicates.of(one.seen, one.name, one.part)]
        if one.seen.strokes is not None:
            drawn[one.name], present[one.name] = one.seen.strokes, one.seen.present
    faults += [*_of_channels(channels), *_without_present(present), *_of_spacing(geometries, usual, asked)]
    faults += of_planes({**geometries["train"], **geometries["test"]}, usual, drawn_in, asked)
    counts = {name: seen.counts for name, seen in drawn.items()}
    n_voxels = sum(math.prod(geometries["train"][name].shape) for name in drawn)
    coverage = coverage_of(coarse(dataset).label_names, list(counts.values()), n_voxels)
    coverage = replace(coverage, n_slices=sum(seen.n_slices for seen in drawn.values()))
    faults += of_coverage(coverage, dataset.root)
    described_parts = {part: told.rows for part, told in described.items() if told.rows}
    return Audit(tuple(faults), coverage, described_parts, _drawn(counts))


def _look_at(dataset: Dataset, part: Part, name: str, usual: str | None, asked: Plane | None) -> _Looked:
    """Read a case and its mask; the last two are the slices' orientation and the plane that a recipe asks for."""
    reference: Labels | None = None
    of_mask: tuple[Fault, ...] = ()
    try:
        reference = dataset.read_reference(name)
    except DataError as error:
        of_mask = tuple(_of_error(name, error))
    try:
        case = (dataset.train if part == "train" else dataset.test).named(name)
    except DataError as error:
        return _Looked(part, name, of_mask, tuple(_of_error(name, error)), None)
    trains = part == "train"
    turn = turn_to(usual, case.geometry, asked)
    faults = tuple(of_case(case, dataset, turn, reference) if trains else of_image(case))
    seen = _Seen(
        ImageProperties.of(case),
        case.files[0] if case.files else None,
        _digest(case),
        case.present,
        _Strokes(counted(case.scribbles)[: coarse(dataset).n_labels], drawn_slices(case, turn)) if trains else None,
    )
    return _Looked(part, name, of_mask, faults, seen)


def counted(labels: Labels) -> np.ndarray:
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
            problem = f"expected {number_of(usual, 'channel')}, as in {number_of(numbers[usual], 'case')}, found {n}"
            yield Fault(name, file, "fault", problem, "give every case the same channels, or leave this one out")


def _of_spacing(
    geometries: Mapping[Part, Mapping[str, Geometry]], usual: str | None, asked: Plane | None
) -> Iterator[Fault]:
    """Yields headers that are likely wrong: faults where pixels of a training case are, for `train` refuses those."""
    sizes = {name: geometry.spacing_mm for part in geometries.values() for name, geometry in part.items()}
    of_pixels = {name: turn_to(usual, each, asked).spacing_mm(each)[1:] for name, each in geometries["train"].items()}
    refused = out_of_scale(of_pixels) if of_pixels else {}
    doubtful = out_of_scale(sizes) if sizes else {}
    for name, usual_mm in {**doubtful, **refused}.items():
        found = " x ".join(f"{mm:.3g}" for mm in sizes[name])
        problem = f"expected voxels of about {usual_mm:.3g} mm as in most cases, found {found} mm"
        severity: Literal["fault", "warning"] = "fault" if name in refused else "warning"
        yield Fault(name, None, severity, problem, "correct its header or the unit in it, or leave the case out")


def _without_present(present: Mapping[str, frozenset[int] | None]) -> Iterator[Fault]:
    example = next((name for name, labels in present.items() if labels is not None), None)
    for name, labels in present.items():
        if example and labels is None:
            problem = f"expected image-level labels, as {example} has them, found none"
            yield Fault(name, None, "warning", problem, "list it in the present file: recipes with clusters need them")


def in_both_parts(dataset: Dataset) -> Iterator[Fault]:
    """Yields faults of cases that are trained and tested on, by their names."""
    remedy = "take it out of one: a test score of a training case means nothing"
    for name in sorted(set(dataset.train.names) & set(dataset.test.names)):
        yield Fault(name, None, "fault", "is in the training and in the test set", remedy)


class _Duplicates:
    """Finds images that occur twice: remembers each image by its intensities."""

    def __init__(self) -> None:
        self._seen: dict[bytes, tuple[str, Part]] = {}

    def of(self, seen: _Seen, name: str, part: Part) -> Iterator[Fault]:
        other, other_part = self._seen.setdefault(seen.digest, (name, part))
        if other == name:
            return
        leak = part != other_part
        where = f", which is in the {other_part} set: its test score means nothing" if leak else ""
        yield Fault(
            name,
            seen.file,
            "fault" if leak else "warning",
            f"is the same image as {other}{where}",
            "keep one of the two",
        )


def _digest(case: Case) -> bytes:
    """What tells an image from all others."""
    digest = hashlib.sha256(repr(case.image.shape).encode())
    for slice_ in case.image.reshape(-1, *case.image.shape[2:]):  # a copy of all is 8 bytes a voxel
        digest.update(np.ascontiguousarray(slice_).data)
    return digest.digest()


def coverage_of(label_names: Sequence[str], counts: Sequence[np.ndarray], n_voxels: int) -> Coverage:
    """Sums up the numbers of voxels of each label (`counted`) in each case."""
    table = np.array(counts, np.int64).reshape(-1, len(label_names))
    classes = tuple(
        ClassCoverage(name, int((column > 0).sum()), int(column.sum()), float(column.sum() / max(n_voxels, 1)))
        for name, column in zip(label_names, table.T, strict=True)
    )
    return Coverage(classes, len(table), n_voxels, int(table.any(axis=1).sum()))


def of_coverage(coverage: Coverage, root: Path) -> Iterator[Fault]:
    """Yields faults of classes that nobody drew in any case."""
    if not any(row.n_voxels for row in coverage.classes):
        yield Fault(
            DATA_SET,
            None,
            "fault",
            f"expected scribbles to train on, found none in {number_of(coverage.n_cases, 'readable training case')}",
            f"draw some ({draw_in(root)} opens a page for it), simulate some from masks, or check which value is "
            'declared as "ignore"',
        )
        return
    background, *structures = coverage.classes
    if not background.n_voxels:
        yield Fault(
            DATA_SET,
            None,
            "fault",
            "expected scribbles on the background, found none: a network trained on this finds structures everywhere",
            "draw some background in each slice that has other scribbles",
        )
    if not any(row.n_voxels for row in structures):
        names = ", ".join(row.name for row in structures)
        problem = f"expected scribbles of a structure ({names}), found none: there is nothing to be learnt"
        yield Fault(DATA_SET, None, "fault", problem, "draw some")
        return
    if coverage.n_drawn == 1:
        problem = "expected several scribbled training cases, found one: a network trained on one case fits that case"
        yield Fault(DATA_SET, None, "warning", problem, "draw in more cases")
    for row in structures:
        if not row.n_voxels:
            yield Fault(
                DATA_SET,
                None,
                "warning",
                f"expected scribbles of {row.name} in some case, found none: it cannot be learnt",
                "draw some, or take it out of the declared labels",
            )


SHOWN = 5
"""Cases with the same fault that are named."""


def sentences(faults: Iterable[Fault]) -> list[tuple[Severity, str]]:
    """Says what was found, in its order, with how bad it is; the same fault of several cases is said once."""
    groups: dict[tuple[Severity, str, str], list[str]] = {}
    for fault in faults:
        where = f"{fault.case}{f' ({fault.file})' if fault.file else ''}"
        groups.setdefault((fault.severity, fault.problem, fault.remedy), []).append(where)
    return [
        (severity, f"{first_of(where, SHOWN)}: {problem}; {remedy}")
        for (severity, problem, remedy), where in groups.items()
    ]
