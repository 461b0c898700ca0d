"""From lists of files to a `Dataset`: what label values mean, and one case read at a time."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Integer

from scribbleseg.data.volumes import NIFTI, FileError, check_same_grid, read_geometry, read_image, read_labels
from scribbleseg.types import UNLABELLED, Case, Cases, DataError, Dataset, Geometry, Image, Labels

WITHOUT_SCRIBBLES = "no training case has scribbles: `scribbleseg simulate` draws some from the masks"
"""A note of data sets that have masks only."""


@dataclass(frozen=True)
class CaseFiles:
    """Where a case lies on disk. Files that should be there and are not are found when the case is read.

    Args:
        name: unique within the data set.
        images: one file a channel.
        scribbles: or None where nobody drew any (a test case, or masks only): the case is then entirely UNLABELLED.
        reference: the full mask, or None.
    """

    name: str
    images: tuple[Path, ...]
    scribbles: Path | None = None
    reference: Path | None = None


@dataclass(frozen=True)
class Encoding:
    """What the values in a label file mean.

    Args:
        label_names: by label; `label_names[0]` is "background".
        labels: file value -> label, or UNLABELLED.
        remedy: what to do about a file with another value.
    """

    label_names: tuple[str, ...]
    labels: Mapping[int, int]
    remedy: str = "correct the file, or declare the value where the data set's labels are declared"

    @property
    def of_references(self) -> "Encoding":
        """The encoding of full masks: nothing in them is unlabelled, and 0 is background unless it is a structure."""
        known = {value: label for value, label in self.labels.items() if label != UNLABELLED}
        return replace(self, labels={0: 0, **known})

    def decode(self, path: Path, values: Integer[np.ndarray, "*space"]) -> Labels:
        """File values to labels. Raises FileError naming each value that was not declared."""
        found, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        undeclared = [f"{v} ({n} voxels)" for v, n in zip(found, counts, strict=True) if int(v) not in self.labels]
        if undeclared:
            raise FileError(
                path,
                f"expected the values {self}, found {', '.join(undeclared[:8])}{', ...' if undeclared[8:] else ''}",
                self.remedy,
            )
        labels = np.array([self.labels[int(value)] for value in found], np.uint8)
        return labels[inverse].reshape(values.shape)

    def __str__(self) -> str:
        names = {UNLABELLED: "unlabelled", **dict(enumerate(self.label_names))}
        return ", ".join(f"{value} {names[label]}" for value, label in sorted(self.labels.items()))


class CaseError(DataError):
    """Everything that is wrong with one case. `errors` holds one FileError a problem."""

    def __init__(self, name: str, errors: Sequence[FileError]) -> None:
        super().__init__(f"case {name}: " + "\n".join(str(error) for error in errors))
        self.name, self.errors = name, tuple(errors)

    def __reduce__(self):  # so that it comes through from another process
        return CaseError, (self.name, self.errors)


def dataset(
    name: str,
    root: Path,
    encoding: Encoding,
    train: Sequence[CaseFiles],
    test: Sequence[CaseFiles],
    notes: Sequence[str] = (),
) -> Dataset:
    """A `Dataset` whose cases are read from their files when asked for."""
    references = {files.name: files for files in (*train, *test)}
    return Dataset(
        name=name,
        root=root,
        label_names=encoding.label_names,
        train=cases(train, encoding),
        test=cases(test, encoding),
        read_reference=partial(_read_reference, references, encoding.of_references),
        notes=tuple(notes),
    )


def cases(files: Sequence[CaseFiles], encoding: Encoding) -> Cases:
    """Lazy cases, in the order of `files`."""
    by_name = {each.name: each for each in files}
    return Cases(list(by_name), partial(_read_named, by_name, encoding))


def read_case(files: CaseFiles, encoding: Encoding) -> Case:
    """Reads one case. Raises CaseError with everything that is wrong with it, not only the first problem."""
    errors: list[FileError] = []
    image: Image | None = None
    geometry: Geometry | None = None
    scribbles: Labels | None = None
    with _collected(errors):
        image, geometry = read_image(files.images)
    if geometry is None:  # the header may be whole where the voxels are not, and the scribbles can be compared with it
        with _collected(errors):
            geometry = read_geometry(files.images[0])
    if files.scribbles is not None:
        with _collected(errors):
            values, grid = read_labels(files.scribbles)
            with _collected(errors):
                scribbles = encoding.decode(files.scribbles, values)
            if geometry is not None:
                check_same_grid(files.scribbles, grid, files.images[0], geometry)
    elif geometry is not None:
        scribbles = np.full(geometry.shape, UNLABELLED, np.uint8)
    if errors or image is None or scribbles is None or geometry is None:
        raise CaseError(files.name, list({str(error): error for error in errors}.values()))  # each once
    paths = (*files.images, files.scribbles) if files.scribbles else files.images
    return Case(files.name, image, scribbles, geometry, files=paths)


def nifti(name: str, *places: Path) -> Path:
    """`name.nii.gz` or `name.nii` in the first of the folders that has it, else the file that should be there."""
    candidates = [place / f"{name}{ending}" for place in places for ending in NIFTI]
    return next((path for path in candidates if path.is_file()), candidates[0])


@contextmanager
def _collected(errors: list[FileError]) -> Iterator[None]:
    try:
        yield
    except FileError as error:
        errors.append(error)


def _read_named(by_name: Mapping[str, CaseFiles], encoding: Encoding, name: str) -> Case:
    return read_case(by_name[name], encoding)


def _read_reference(by_name: Mapping[str, CaseFiles], encoding: Encoding, name: str) -> Labels | None:
    files = by_name[name]
    if files.reference is None:
        return None
    errors: list[FileError] = []
    with _collected(errors):
        values, geometry = read_labels(files.reference)
        check_same_grid(files.reference, geometry, files.images[0], read_geometry(files.images[0]))
        return encoding.decode(files.reference, values)
    raise CaseError(name, errors)
