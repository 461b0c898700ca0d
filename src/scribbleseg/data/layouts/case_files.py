"""Makes a `Dataset` from lists of files, which are read one case at a time, when a case is asked for."""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from scribbleseg.data.drawing import open_drawing, read_drawing
from scribbleseg.data.encoding import Encoding
from scribbleseg.data.formats import NIFTI, read_geometry, read_image, to_rename
from scribbleseg.files import FileError, is_text
from scribbleseg.types import UNLABELLED, Case, Cases, DataError, Dataset, Geometry, Image, Labels

WITHOUT_SCRIBBLES = "no training case has scribbles: `scribbleseg simulate` draws some from the masks"
"""The note (`Dataset.notes`) of a data set that has masks only."""


@dataclass(frozen=True)
class CaseFiles:
    """The files of one case. Files that should be there and are not are found when the case is read.

    Args:
        name: unique within the data set.
        images: one file for each channel.
        scribbles: or None where nobody drew any (a test case, or masks only): the case is then entirely UNLABELLED.
        reference: the full mask, or None.
        misnamed: what is wrong with the name of the scribbles, where no image has it and another one may be meant.
    """

    name: str
    images: tuple[Path, ...]
    scribbles: Path | None = None
    reference: Path | None = None
    misnamed: FileError | None = None

    @property
    def all(self) -> tuple[Path, ...]:
        """The images, the scribbles and the mask, as far as there are any."""
        return (*self.images, *(file for file in (self.scribbles, self.reference) if file is not None))


class CaseError(DataError):
    """The error of one case: everything that is wrong with it. `errors` holds one FileError for each problem."""

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
    """Returns a `Dataset` whose cases are read from their files when they are asked for.

    Raises DataError for names of files that are no text, which could be neither printed nor written down.
    """
    for each in (*train, *test):
        if not is_text(each.name):
            raise DataError(f"{root}: expected names of files that are text, found {each.name!a}; rename that file")
    files = {each.name: each for each in (*train, *test)}
    read_reference = partial(_read_reference, files, encoding.of_references)
    opened = Dataset(name, root, encoding.label_names, cases(train, encoding), cases(test, encoding), read_reference)
    declared = [file for file in (root / "dataset.json",) if file.is_file()]
    return replace(
        opened,
        notes=tuple(notes),
        mask_values=encoding.of_references.labels,
        scribble_values=encoding.by_name,
        files={each.name: (*each.all, *declared) for each in files.values()},
    )


def cases(files: Sequence[CaseFiles], encoding: Encoding) -> Cases:
    """Returns cases, in the order of `files`, that are read when they are asked for."""
    by_name = {each.name: each for each in files}
    images = {each.name: each.images for each in files}
    return Cases(list(by_name), partial(_read_named, by_name, encoding), partial(_read_geometry, by_name), images)


def read_case(files: CaseFiles, encoding: Encoding) -> Case:
    """Reads one case. Raises CaseError with everything that is wrong with it, not only the first problem."""
    if files.misnamed is not None:
        raise CaseError(files.name, [files.misnamed])
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
            drawing = open_drawing(files.scribbles, encoding, files.images)
            if geometry is not None:
                with _collected(errors):
                    drawing = drawing.on(files.images[0], geometry)
            scribbles = drawing.decode(encoding)
    elif geometry is not None:
        scribbles = np.full(geometry.shape, UNLABELLED, np.uint8)
    if errors or image is None or scribbles is None or geometry is None:
        raise CaseError(files.name, list({str(error): error for error in errors}.values()))  # each once
    paths = (*files.images, files.scribbles) if files.scribbles else files.images
    return Case(files.name, image, scribbles, geometry, files=paths)


def misnamed(path: Path | None, undrawn: Collection[str]) -> FileError | None:
    """The error of scribbles whose name no image has, where one of the images without any may be meant; else None."""
    if path is None or not (advice := to_rename(path, undrawn)):
        return None
    return FileError(path, "expected an image of that name, found none, but one without scribbles", advice)


def masks_without_image(masks: Mapping[str, Path], images: Collection[str]) -> list[str]:
    """The note of masks that no image is named like, with the images without a mask that may be meant; else none."""
    free = [name for name in images if name not in masks]
    advice = [to_rename(path, free) or name for name, path in sorted(masks.items()) if name not in images]
    return [f"masks without an image are skipped: {', '.join(advice)}"] if advice else []


def nifti(name: str, *places: Path) -> Path:
    """Returns `name.nii.gz` or `name.nii` in the first folder that has it, else the file that should be there.

    What is there and is no file, such as a link that leads nowhere or to a device, is returned where there is no file:
    reading it says so.
    """
    candidates = [place / f"{name}{ending}" for place in places for ending in NIFTI]
    files = (path for path in candidates if path.is_file())
    return next(files, None) or next((path for path in candidates if is_there(path)), candidates[0])


def is_there(path: Path) -> bool:
    """Whether a file is there, or a link or something else that was meant as one; folders of that name are not."""
    return os.path.lexists(path) and not path.is_dir()


@contextmanager
def _collected(errors: list[FileError]) -> Iterator[None]:
    try:
        yield
    except FileError as error:
        errors.append(error)


def _read_named(by_name: Mapping[str, CaseFiles], encoding: Encoding, name: str) -> Case:
    return read_case(by_name[name], encoding)


def _read_geometry(by_name: Mapping[str, CaseFiles], name: str) -> Geometry:
    if (misnamed := by_name[name].misnamed) is not None:
        raise CaseError(name, [misnamed])
    try:
        return read_geometry(by_name[name].images[0])
    except FileError as error:
        raise CaseError(name, [error]) from error


def _read_reference(by_name: Mapping[str, CaseFiles], encoding: Encoding, name: str) -> Labels | None:
    files = by_name[name]
    if files.reference is None:
        return None
    errors: list[FileError] = []
    with _collected(errors):
        return read_drawing(files.reference, encoding, files.images, read_geometry(files.images[0]))
    raise CaseError(name, errors)
