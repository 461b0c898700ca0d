"""Fingerprints: digests by which a run knows its data again, of what is read from files and of the files themselves."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from scribbleseg.data.formats.names import DETACHED, ending
from scribbleseg.types import UNLABELLED, Case, Cases, Labels


class Fingerprint:
    """A sha256 of what training sees of cases: names, intensities, labels and geometry; cases are added one by one.

    The same images give the same fingerprint wherever they lie and however they are compressed; another label encoding,
    masks in the place of scribbles, or other image-level labels give another. So does another order.
    """

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, case: Case) -> None:
        """Adds a case to the digest."""
        affine = np.round(case.geometry.affine, 4) + 0.0  # 1e-4 mm; and -0.0 is 0.0
        self._digest.update(f"{case.name} {case.image.shape}".encode())
        for part in (affine, *(slice_ for channel in case.image for slice_ in channel), *case.scribbles):
            self._digest.update(part.tobytes())  # a copy of a slice; that of a volume takes memory
        if case.present is not None:
            self._digest.update(f"present {sorted(case.present)}".encode())

    def hexdigest(self) -> str:
        """Returns the digest of the cases that have been added so far; more can be added."""
        return self._digest.hexdigest()


def fingerprint(cases: Cases) -> str:
    """Returns the `Fingerprint` of all these cases. Reads each of them once."""
    whole = Fingerprint()
    for name in cases.names:
        whole.add(cases.named(name))  # by no name, which would keep it while the next one is read
    return whole.hexdigest()


def digest_of_strokes(labels: Labels) -> str:
    """Returns a sha256 of the scribbles of a case, uint8 `depth height width` as stored; "" where nobody drew."""
    if (labels == UNLABELLED).all():
        return ""
    whole = hashlib.sha256(f"{labels.shape}".encode())
    for slice_ in labels:
        whole.update(slice_.tobytes())  # a copy of a slice; that of a volume takes memory
    return whole.hexdigest()


def digest_of_files(files: Iterable[Path]) -> str:
    """Returns a sha256 of what is in these files, in their order, whatever their names and dates are.

    It is quicker than a `Fingerprint`, for nothing is unpacked; but the same voxels, compressed anew, give another one.
    The folder of a DICOM series stands for all its files, a header for the file of voxels that it names, too. A file
    that is missing counts as such, and so does what is no file, such as a device, which is not read.
    """
    whole = hashlib.sha256()
    for path in files:
        for part in _parts(path):
            whole.update(f"{_digest(part)}\n".encode())
    return whole.hexdigest()


def _parts(path: Path) -> Iterator[Path]:
    """The file and those that its voxels lie in."""
    if path.is_dir():
        yield from sorted(path.iterdir())
        return
    yield path
    if ending(path) in DETACHED and path.is_file():
        header, beside = path.read_bytes(), [each for each in sorted(path.parent.iterdir()) if each != path]
        yield from [each for each in beside if each.name.encode() in header] or beside


def _digest(path: Path) -> str:
    if not path.is_file():
        return "not a file" if path.exists() else "missing"
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
