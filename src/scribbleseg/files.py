"""Writes files as a whole or not at all, and reports errors by the file that they are about."""

import errno
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

from scribbleseg.types import DataError

DIGEST = "sha256"
"""The field of a JSON object that holds the digest of all others."""

MOST_NESTED = 100
"""Levels of objects and lists in a JSON file that is read (ours); those of the program have ten."""


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
    # A name for each thread, for two may write the same file; the same ending, for writers look at it.
    temporary = path.with_name(f".{os.getpid()}-{threading.get_native_id()}-{path.name}")
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


def write_json(path: Path, plain: Mapping[str, Any]) -> None:
    """Writes a JSON object with a digest of it, as a whole or not at all. Raises DataError where it cannot be written.

    Args:
        path: the file.
        plain: values that JSON can hold.
    """
    write_text(path, json.dumps({DIGEST: _digest(plain), **plain}, indent=1) + "\n")


def parsed(text: str | bytes, object_hook: Callable[[dict], Any] | None = None) -> Any:
    """The values in a text in JSON, of which the bytes are UTF-8.

    Raises:
        ValueError: it is another text, nested too deeply, or has names with half of a character (lone surrogates),
            which can be neither printed nor written.
    """
    text = text if isinstance(text, str) else text.decode()
    too_deep = ValueError(f"it is nested more than {MOST_NESTED} levels deep")
    try:
        plain = json.loads(text, object_hook=object_hook)
    except RecursionError:
        raise too_deep from None
    level = [plain]
    for _ in range(MOST_NESTED):
        inner = (each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list))
        level = [value for values in inner for value in values]
    if level:
        raise too_deep
    if "\\ud" in text.lower():
        json.dumps(plain, ensure_ascii=False).encode()
    return plain


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """Reads a JSON object, and compares its digest where it has one. Fields that are missing raise FileError, too.

    Args:
        path: the file.
        remedy: what to do where it is damaged.

    Raises:
        FileError: it is missing or damaged.
    """
    if not path.is_file():
        raise FileError(path, "expected this file, found none", remedy)
    try:
        plain = parsed(path.read_bytes(), lambda pairs: _Fields(pairs).of(path, remedy))
    except ValueError as error:
        raise FileError(path, f"expected whole JSON, found a damaged file ({error})", remedy) from error
    if not isinstance(plain, dict):
        raise FileError(path, f"expected a JSON object, found {type(plain).__name__}", remedy)
    if plain.pop(DIGEST, None) not in (None, _digest(plain)):
        by_hand = f"where somebody changed it on purpose, delete its line {DIGEST}"
        problem = f"its checksum ({DIGEST}) does not match: it is damaged, or was changed"
        raise FileError(path, problem, f"{remedy}; {by_hand}")
    return plain


def check_plain(path: Path, plain: Mapping[str, Any], check: Callable[[Any], object], remedy: str) -> None:
    """Raises FileError where the values of a JSON file are not of the types that they should be.

    Args:
        path: the file, for the message.
        plain: what `read_json` gave.
        check: raises pydantic's ValidationError.
        remedy: what to do about it.
    """
    try:
        check(plain)
    except ValueError as error:
        first = error.errors()[0] if hasattr(error, "errors") else {"loc": (), "msg": str(error)}
        at, found = ".".join(map(str, first["loc"])), f", found {first['input']!a:.80}" if "input" in first else ""
        raise FileError(path, f"expected other values, at {at!a}: {first['msg']}{found}", remedy) from None


class _Fields(dict):
    """A JSON object of a file, in which a field that is missing is an error about the file."""

    def of(self, file: Path, remedy: str) -> "_Fields":
        self.file, self.remedy = file, remedy
        return self

    def __missing__(self, name: str) -> Any:
        raise FileError(self.file, f"expected a field {name}, found none", self.remedy)


def _digest(plain: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def read_records(path: Path, needs: Mapping[str, type] = MappingProxyType({})) -> list[dict[str, Any]]:
    """Reads a file of one JSON object a line, without a last line that a kill cut short; no file means no records.

    Args:
        path: the file.
        needs: the fields that every record has, with their types.

    Raises:
        FileError: a line is damaged.
    """
    try:
        *lines, last = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    records = []
    for number, line in enumerate([*lines, last], start=1):
        try:
            record = parsed(line)
            if not all(isinstance(record[name], kind) for name, kind in needs.items()):
                raise ValueError("a field has another type")
            records.append(record)
        except (ValueError, KeyError, TypeError) as error:
            if number <= len(lines):
                problem = f"expected one JSON record a line, found line {number} damaged ({error!r})"
                raise FileError(path, problem, "delete that line") from error
    return records


def finish_folder(partial: Path, folder: Path) -> None:
    """Gives a complete folder its name, in the place of what had that name before."""
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def is_text(name: str) -> bool:
    """Whether a name can be printed and written: one of a file may be any bytes, and JSON may hold half a character."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_file_name(name: str) -> bool:
    """Whether a name is that of a file in a folder, and leads nowhere else: no path, not "..", not empty."""
    return is_text(name) and "\0" not in name and name not in ("", "..") and Path(name).name == name


def found_at(path: Path) -> str:
    """What lies where a folder is expected and none is, for a message."""
    return "a file" if path.exists() else "no such folder"


def is_within(path: Path, folder: Path) -> bool:
    """Whether a path is a folder or lies in it, by whatever links, letters or relative names either is given.

    Args:
        path: a file or folder that need not exist.
        folder: the folder; nothing lies in one that does not exist.
    """
    real = Path(os.path.realpath(path))
    return folder.exists() and any(each.exists() and each.samefile(folder) for each in (real, *real.parents))


Stamp = tuple[int, int, int] | None
"""What changes when a file does: its date in nanoseconds, its size in bytes and its inode; None for no file."""


def file_stamp(file: Path | None) -> Stamp:
    """The stamp of a file, by which it is known whether it has changed."""
    if file is None:
        return None
    with suppress(OSError):
        status = file.stat()
        return status.st_mtime_ns, status.st_size, status.st_ino
    return None


def first_of(names: Sequence[str], most: int = 10) -> str:
    """The first few names, and how many there are besides, for a message."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
