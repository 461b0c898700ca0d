"""The lock on a folder: one process at a time works on a run or on scribbles, and a second one is told which that is.

It is a lock of the operating system (`filelock`, which torch brings along): it ends with the process that holds it,
also with one that is killed, so that no lock is ever left to be cleared away by hand. It relies on the file system to
have such locks, and to pass them on to other machines where it is a network's, as NFS, SMB, GPFS, and Lustre mounted
with `flock` do. Where it does not (NFS mounted with `nolock`, Lustre with `localflock`), processes on one machine are
still kept apart, but not those on two. Where there are no locks at all, a warning says so.
"""

import atexit
import json
import logging
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from scribbleseg.files import FileError, parsed, write_text
from scribbleseg.types import DataError

log = logging.getLogger(__name__)

LOCK, HOLDER = "lock", "lock.json"
"""The two files in a folder: what is locked, and who has locked it, for people to read."""

_held: dict[Path, FileLock | None] = {}
"""The folders that this process holds; None where the file system has no locks."""


def hold(
    folder: Path,
    what: str = "a run",
    busy: str = "wait for its end or stop it, or give another --out",
    unwritable: str = "give another --out",
) -> None:
    """Take the lock of a folder for this process, which may hold it already; the folder is made if absent.

    A process is one holder: its threads are not told apart.

    Args:
        folder: the folder.
        what: what is in it, for messages.
        busy: what to do where another process holds it.
        unwritable: what to do where it cannot be written to.

    Raises:
        DataError: another process holds it, or the folder cannot be written to.
    """
    folder = folder.resolve()
    if folder in _held:
        return
    lock = FileLock(folder / LOCK, timeout=0, thread_local=False)
    taken: FileLock | None = lock
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise DataError(
            f"{folder}: expected {what} that no other process works on, found {_holder(folder)} at work on it; {busy}"
        ) from None
    except PermissionError as error:
        raise FileError(folder, f"could not be written: {error.strerror or error}", unwritable) from error
    except OSError as error:
        if not folder.is_dir():
            raise FileError(folder, f"could not be made: {error.strerror or error}", unwritable) from error
        log.warning("%s: its file system has no locks (%s): start nothing twice at once on it", folder, error.strerror)
        taken = None
    _held[folder] = taken
    since = datetime.now().astimezone().isoformat(" ", "minutes")
    about = {"pid": os.getpid(), "host": platform.node(), "since": since}
    write_text(folder / HOLDER, json.dumps(about) + "\n")


@contextmanager
def holding(folder: Path, what: str) -> Iterator[None]:
    """Holds the lock of a folder for a while, and leaves no trace of it. Raises DataError as `hold` does.

    Args:
        folder: the folder; it is made if absent.
        what: what is in it, for messages.
    """
    hold(folder, what)
    try:
        yield
    finally:
        with suppress(OSError):  # while it is held: afterwards it may be another process's
            (folder / LOCK).unlink(missing_ok=True)
        release(folder)


def is_held(folder: Path) -> bool:
    """Whether this process holds the lock of a run folder."""
    return folder.resolve() in _held


def release(folder: Path) -> None:
    """Give back the lock of a run folder, and those of folders inside it; what is not held is passed over."""
    folder = folder.resolve()
    for path in [path for path in _held if path == folder or folder in path.parents]:
        lock = _held.pop(path)
        with suppress(OSError):  # the folder may have been removed
            (path / HOLDER).unlink(missing_ok=True)
        if lock is not None:
            lock.release(force=True)


def at_work(folder: Path) -> int | None:
    """The number of the process of this machine that holds the lock of a run folder; None where there is none.

    What a killed process left of its name is taken away.
    """
    if not (folder / HOLDER).is_file() or is_held(folder):
        return None
    try:
        with FileLock(folder / LOCK, timeout=0, thread_local=False):
            (folder / HOLDER).unlink(missing_ok=True)
        return None
    except Timeout:
        pass
    except OSError:  # no locks here, or nothing may be written
        return None
    with suppress(OSError, ValueError, KeyError, TypeError):
        about = parsed((folder / HOLDER).read_bytes())
        if about["host"] == platform.node():
            return int(about["pid"])
    return None


def _holder(folder: Path) -> str:
    """Who holds a lock, in words, as far as is written down."""
    try:
        about = parsed((folder / HOLDER).read_bytes())
        return f"process {about['pid']} of {about['host']} (since {about['since']})"
    except (OSError, ValueError, KeyError, TypeError):  # that process is just about to write it
        return "another process"


@atexit.register
def _release_all() -> None:
    for folder in list(_held):
        release(folder)
