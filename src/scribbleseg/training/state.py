"""The state of networks and optimisers on disk: written as a whole or not at all, and read only where it is whole."""

import io
import logging
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from scribbleseg.files import FileError, atomically, link_or_copy

log = logging.getLogger(__name__)


def save_state(path: Path, state: dict) -> None:
    """Write tensors and plain values as a whole or not at all. Raises DataError where they cannot be written."""
    buffer = io.BytesIO()  # torch.save itself hides why a file could not be written
    torch.save(state, buffer)
    with atomically(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def read_state(path: Path, needs: Mapping[str, type] = MappingProxyType({})) -> dict[str, Any]:
    """Read what `save_state` wrote, onto the CPU. torch's files have a checksum of each part, which is compared here.

    Args:
        path: the file.
        needs: what has to be in it, with the types.

    Raises:
        FileError: the file is missing, damaged, or of something else.
    """
    remedy = f"copy it again, or delete {path.parent} and go on with `train --resume`, which trains it anew"
    try:
        content = io.BytesIO(path.read_bytes())
        with zipfile.ZipFile(content) as parts:
            if (damaged := parts.testzip()) is not None:
                raise zipfile.BadZipFile(f"the checksum of its part {damaged} is another")
        content.seek(0)
        state = torch.load(content, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise FileError(path, "expected this file, found none", remedy) from None
    except OSError:
        raise
    except Exception as error:  # zipfile, zlib, pickle and torch each have their own; any of them means this
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise FileError(path, f"expected whole weights, found a damaged file ({reason})", remedy) from error
    if not isinstance(state, dict) or not all(isinstance(state.get(name), kind) for name, kind in needs.items()):
        raise FileError(path, f"expected whole weights with {', '.join(needs)}, found something else", remedy)
    return state


def save_checkpoint(path: Path, state: dict) -> None:
    """Write the state of an M step, and keep the checkpoint before it, too. Raises DataError where it cannot."""
    if path.exists():
        with atomically(_before(path)) as temporary:
            link_or_copy(path, temporary)
    save_state(path, state)


def settle_checkpoint(path: Path) -> int:
    """Go back to the last whole checkpoint, with a warning where that is not the last one that was written.

    It is at `path` afterwards; where none is whole, nothing is.

    Returns:
        The iterations that it has done; 0 where there is none.
    """
    damaged: list[FileError] = []
    for file in filter(Path.exists, (path, _before(path))):
        try:
            done = read_state(file, {"iteration": int})["iteration"]
        except FileError as error:
            damaged.append(error)
            continue
        if file != path:
            os.replace(file, path)
            problem = f"{damaged[0].problem}; " if damaged else ""
            log.warning("%s: %sgoing back to the checkpoint before it, of iteration %d", path, problem, done)
        return done
    if damaged:
        log.warning("%s: %s; this round of training begins anew", damaged[0].file, damaged[0].problem)
    remove_checkpoints(path)
    return 0


def remove_checkpoints(path: Path) -> None:
    """Remove the checkpoints of an M step; there may be none."""
    for file in (path, _before(path)):
        file.unlink(missing_ok=True)


def _before(path: Path) -> Path:
    """The checkpoint before the last one."""
    return path.with_suffix(f".previous{path.suffix}")
