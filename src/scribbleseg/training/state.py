"""The state of networks and optimisers on disk: written as a whole or not at all, and read only where it is whole."""

import io
import logging
import zipfile
from pathlib import Path
from typing import Any

import torch

from scribbleseg.files import FileError, atomically

log = logging.getLogger(__name__)


def save_state(path: Path, state: dict) -> None:
    """Write tensors and plain values as a whole or not at all. Raises DataError where they cannot be written."""
    buffer = io.BytesIO()  # torch.save itself hides why a file could not be written
    torch.save(state, buffer)
    with atomically(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def read_state(path: Path) -> dict[str, Any]:
    """Read what `save_state` wrote, onto the CPU. torch's files have a checksum of each part, which is compared here.

    Raises:
        FileError: the file is missing or damaged.
    """
    remedy = f"copy it again, or delete {path.parent} and go on with `train --resume`, which trains it anew"
    try:
        content = io.BytesIO(path.read_bytes())
        with zipfile.ZipFile(content) as parts:
            if (damaged := parts.testzip()) is not None:
                raise zipfile.BadZipFile(f"the checksum of its part {damaged} is another")
        content.seek(0)
        return torch.load(content, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise FileError(path, "expected this file, found none", remedy) from None
    except OSError:
        raise
    except Exception as error:  # zipfile, zlib, pickle and torch each have their own; any of them means this
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise FileError(path, f"expected whole weights, found a damaged file ({reason})", remedy) from error


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    """Read the state of an M step that was stopped; None where there is none, or, with a warning, a damaged one."""
    if not path.exists():
        return None
    try:
        return read_state(path)
    except FileError as error:
        log.warning("%s: %s; this M step begins anew", path, error.problem)
        return None
