"""Writes files as a whole or not at all, and reports errors by the file that they are about."""

import errno
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from scribbleseg.types import DataError


class FileError(DataError):
    """A `DataError` about one file, in parts, so that an audit can print them in columns.

    Args:
        file: the offending file.
        problem: what was expected and what came.
        remedy: what to do about it.
    """

    def __init__(self, file: Path, problem: str, remedy: str) -> None:
        super().__init__(f"{file}: {problem}; {remedy}")
        self.file, self.problem, self.remedy = file, problem, remedy

    def __reduce__(self):  # so that it comes through from another process
        return FileError, (self.file, self.problem, self.remedy)


@contextmanager
def atomically(path: Path) -> Iterator[Path]:
    """Gives a temporary path in the same folder (made if absent) that replaces `path` when the block ends well.

    Raises:
        FileError: the disk is full or the folder cannot be written to; the temporary file is removed and a file that
            was at `path` before is still there.
    """
    temporary = path.with_name(f".{os.getpid()}-{path.name}")  # the same ending: writers look at it
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "free some space" if full else "check the folder and its permissions"
        raise FileError(
            path,
            f"could not be written: {error.strerror or error}",
            f"{remedy} or choose another folder, and run again",
        ) from error
    finally:
        with suppress(OSError):  # where the folder itself could not be made there is nothing to remove
            temporary.unlink(missing_ok=True)


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Links a file to a second name, or copies it where links are not possible. The file must not change any more."""
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def write_text(path: Path, text: str) -> None:
    """Writes a file as a whole or not at all. Raises DataError where it cannot be written."""
    with atomically(path) as temporary:
        temporary.write_text(text)


def read_records(path: Path) -> list[dict[str, Any]]:
    """Reads a file of one JSON object a line, without a last line that a kill cut short; no file means no records."""
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines if line.endswith("}")]


def finish_folder(partial: Path, folder: Path) -> None:
    """Gives a complete folder its name, in the place of what had that name before."""
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def first_of(names: Sequence[str], most: int = 10) -> str:
    """The first few names, and how many there are besides, for a message."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
