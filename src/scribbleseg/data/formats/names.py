"""File names: which formats there are, and the case that a file's name stands for."""

from pathlib import Path

from scribbleseg.files import FileError

NIFTI = (".nii.gz", ".nii")
ITK = (".nrrd", ".nhdr", ".mha", ".mhd")
PNG = ".png"
ENDINGS = (*NIFTI, *ITK, PNG)
"""All endings of file names that can be read."""


def ending(path: Path) -> str | None:
    """Returns the file ending among `ENDINGS`, lower case, or None where there is no reader for it."""
    return next((known for known in ENDINGS if path.name.lower().endswith(known)), None)


def stem(path: Path) -> str:
    """Returns the name of the file without its ending: `patient001.nii.gz` -> `patient001`."""
    return path.name[: -len(ending(path) or path.suffix) or None]


def volumes_in(folder: Path) -> dict[str, Path]:
    """Returns the readable files of a folder by stem, sorted; empty where there is no such folder.

    Files of other kinds (notes, thumbnails, the .raw beside a .mhd) and hidden ones are passed over.

    Raises:
        FileError: two files share a stem, so that nobody can say which one is meant.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith(".") or ending(path) is None or not path.is_file():
            continue
        if stem(path) in found:
            raise FileError(
                path, f"expected one file named {stem(path)}, also found {found[stem(path)].name}", "keep one"
            )
        found[stem(path)] = path
    return dict(sorted(found.items()))
