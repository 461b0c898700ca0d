"""What a file holds, by its first bytes: where its name says something else, one sentence says what to rename."""

import gzip
import zlib
from contextlib import suppress
from pathlib import Path

from scribbleseg.data.formats.names import JPEG, META, NRRD, PNG, TIFF, ending
from scribbleseg.files import FileError

GZIP = b"\x1f\x8b"

FIRST_BYTES: dict[bytes, tuple[str, ...]] = {
    **dict.fromkeys((b"\x5c\x01\0\0", b"\0\0\x01\x5c", b"\x1c\x02\0\0", b"\0\0\x02\x1c"), (".nii",)),
    b"NRRD": (".nrrd", *NRRD),
    b"ObjectType": META,
    b"\x89PNG": (PNG,),
    **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), TIFF),
    b"\xff\xd8\xff": JPEG,
}
"""How files of each format begin, and the endings that they have, the usual one first. A NIfTI file begins with the
length of its header, 348 or 540 bytes, in either byte order."""


def check_ending(path: Path) -> None:
    """Raises FileError for a file of a known format that has the ending of another; says what to rename it to."""
    with path.open("rb") as file:
        start = file.read(10)
    kind = str(ending(path))
    name = path.name[: -len(kind)]
    if start.startswith(GZIP):
        with suppress(OSError, EOFError, zlib.error):  # what is damaged is for the reader to report
            with gzip.open(path) as unpacked:
                start = unpacked.read(10)
            inside = _endings(start)
            if kind == ".nii.gz" and inside in ((), (".nii",)):
                return
            if inside == (".nii",):
                raise FileError(path, "is compressed (gzip)", f"rename it to {name}.nii.gz")
            usual = kind if kind in inside or kind != ".nii.gz" else inside[0]
            raise FileError(
                path,
                f"expected a {kind} file, found one that is compressed as a whole (gzip)",
                f"rename it to {name}{usual}.gz and unpack it (gunzip {name}{usual}.gz)",
            )
        return
    inside = _endings(start)
    if kind == ".nii.gz" and inside == (".nii",):
        raise FileError(path, "is not compressed", f"rename it to {name}.nii")
    if inside and kind not in inside:
        raise FileError(
            path, f"expected a {kind} file, found one that is {inside[0]} inside", f"rename it to {name}{inside[0]}"
        )


def holds(path: Path, endings: tuple[str, ...]) -> bool:
    """Whether a file is, by its first bytes, of the format with these endings."""
    with path.open("rb") as file:
        return _endings(file.read(10)) == endings


def _endings(start: bytes) -> tuple[str, ...]:
    return next((endings for first, endings in FIRST_BYTES.items() if start.startswith(first)), ())
