"""File names: which formats there are, and the case that a file's name stands for."""

import re
import unicodedata
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from scribbleseg.files import FileError

NIFTI = (".nii.gz", ".nii")
SEGMENTS = ".seg.nrrd"
"""The ending of 3D Slicer's segmentations, which are label maps and never images."""
NRRD = (SEGMENTS, ".nrrd", ".nhdr")
META = (".mha", ".mhd")
DETACHED = (".nhdr", ".mhd")
"""The endings of headers whose voxels lie in other files."""
ITK = (*NRRD, *META)
PNG = ".png"
TIFF = (".tif", ".tiff")
JPEG = (".jpg", ".jpeg")
"""JPEG is for images only: its compression changes values."""
DICOM = ".dcm"
PICTURES = (PNG, *TIFF, *JPEG)
ENDINGS = (*NIFTI, *ITK, *PICTURES)
"""All endings of file names that can be read."""
LABEL_ENDINGS = tuple(known for known in ENDINGS if known not in JPEG)
"""The endings that label maps can have."""
IMAGE_ENDINGS = tuple(known for known in ENDINGS if known != SEGMENTS)
"""The endings that images can have."""

COMPANIONS = (".raw", ".zraw", ".json", ".txt", ".csv", ".tsv", ".md", ".html", ".pdf", ".yaml", ".yml")
"""Endings of what people keep beside images: voxels of a header of its own, notes, tables."""


def ending(path: Path) -> str | None:
    """Returns the file ending among `ENDINGS`, lower case, or None where there is no reader for it."""
    return next((known for known in ENDINGS if path.name.lower().endswith(known)), None)


def what_is(path: Path) -> str:
    """Returns what a path leads to, in words. Nothing is opened: a pipe or a device would not end."""
    if not path.exists():
        return "a link that leads nowhere" if path.is_symlink() else "none"
    kinds = {"a file": Path.is_file, "a folder": Path.is_dir, "a pipe": Path.is_fifo, "a socket": Path.is_socket}
    kind = next((name for name, test in kinds.items() if test(path)), "a device")
    return f"a link to {kind}" if path.is_symlink() else kind


def stem(path: Path) -> str:
    """Returns the name of the file without its ending: `patient001.nii.gz` -> `patient001`.

    Letters with accents come composed (Unicode's NFC), whichever way the file system stores them.
    """
    return unicodedata.normalize("NFC", path.name[: -len(ending(path) or path.suffix) or None])


def meant(path: Path, names: Iterable[str]) -> str | None:
    """Returns the name among those of images that a file is probably meant to have, or None.

    It is the same but for capital letters, or the longest that the file's name begins with: p02 for p02_scribble, and
    not p0. Else it is the only one that is spelt nearly like it, with the same numbers: 03-follow-up for 03-folow-up.
    """
    own, names = stem(path).lower(), list(names)
    fitting = [name for name in names if own.startswith(name.lower()) and not _goes_on(own, len(name))]
    return max(fitting, key=len, default=None) or _spelt_alike(own, names)


ALIKE = 0.9
"""How alike two names are at least of which one may be a slip of the other, as difflib counts (ours)."""


def _spelt_alike(own: str, names: Iterable[str]) -> str | None:
    """The only name that is spelt nearly so; other numbers are another case, however alike."""
    numbers = re.findall(r"\d+", own)
    lower = {name.lower(): name for name in names if re.findall(r"\d+", name.lower()) == numbers}
    alike = get_close_matches(own, lower, n=2, cutoff=ALIKE)
    return lower[alike[0]] if len(alike) == 1 else None


def _goes_on(name: str, at: int) -> bool:
    """Whether the word or the number before a place in a name goes on there."""
    before, after = name[:at][-1:], name[at:][:1]
    return (before.isdigit() and after.isdigit()) or (before.isalpha() and after.isalpha())


def to_rename(path: Path, names: Iterable[str]) -> str:
    """Returns which image a file of no image's name probably belongs to, and how to rename it; "" where none is."""
    name = meant(path, names)
    if name is None:
        return ""
    return f"{path.name} probably belongs to image {name}: rename it to {name}{path.name[len(stem(path)) :]}"


def volumes_in(folder: Path, endings: tuple[str, ...] = ENDINGS) -> dict[str, Path]:
    """Returns the readable files of a folder by stem, sorted; empty where there is no such folder.

    Files of other kinds, hidden ones, and JPEG files beside volumes, which are previews, are passed over; `unread_in`
    names them.

    Args:
        folder: the folder.
        endings: those that are looked for, such as `IMAGE_ENDINGS`.

    Raises:
        FileError: two files share a stem, so that nobody can say which one is meant, a link leads nowhere, or what has
            such a name is no file but a folder, a device or a pipe.
    """
    found: dict[str, Path] = {}
    read = _read_in(folder, endings)
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith(".") or ending(path) not in read:
            continue
        if path.is_symlink() and not path.exists():
            raise FileError(
                path,
                "expected a file, found a link that leads nowhere",
                "fetch what it stands for (git annex get, datalad get), mount the disk, or take the link away",
            )
        if not path.is_file():
            raise FileError(
                path, f"expected a file, found {what_is(path)}", "give a regular file of that name, or take it away"
            )
        if stem(path) in found:
            raise FileError(
                path, f"expected one file named {stem(path)}, also found {found[stem(path)].name}", "keep one"
            )
        found[stem(path)] = path
    return dict(sorted(found.items()))


def series_in(folder: Path) -> dict[str, Path]:
    """Returns the folders of DICOM series (*.dcm) in a folder by their names, sorted, or itself where it is one."""
    if not folder.is_dir():
        return {}
    inside = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    found = [path for path in (folder, *inside) if any(each.suffix.lower() == DICOM for each in path.iterdir())]
    return {unicodedata.normalize("NFC", path.resolve().name): path for path in found}


def unread_in(folder: Path, companions: bool = False, endings: tuple[str, ...] = ENDINGS) -> list[Path]:
    """Returns what is in a folder and cannot be read as an image, sorted.

    Args:
        folder: the folder.
        companions: whether `COMPANIONS` are among it. Hidden files are not.
        endings: those that are read.
    """
    read = _read_in(folder, endings)
    return sorted(
        path
        for path in (folder.iterdir() if folder.is_dir() else ())
        if not path.name.startswith(".")
        and (companions or not path.name.lower().endswith(COMPANIONS))
        and not (ending(path) in read and path.is_file())
    )


def _read_in(folder: Path, endings: tuple[str, ...]) -> tuple[str, ...]:
    """The endings that are read in a folder: no JPEG where there are volumes."""
    volumes = {*NIFTI, *ITK} - {SEGMENTS}
    if any(ending(path) in volumes for path in (folder.iterdir() if folder.is_dir() else ())):
        return tuple(known for known in endings if known not in JPEG)
    return endings
