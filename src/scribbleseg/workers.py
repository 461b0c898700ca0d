"""Worker processes: they end with the process that started them, however that ends, and leave Ctrl-C to it."""

import _thread
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection, wait
from types import FrameType
from typing import Any

from scribbleseg.signals import inherited_blocked
from scribbleseg.types import DataError

LEADER = "SCRIBBLESEG_LEADER"
"""The environment variable that tells ranks which process has started them."""

GRACE_S = 5.0
"""Seconds that a worker has to leave its files in order once it is let go (ours)."""


RANK_GRACE_S = 10.0
"""Seconds that rank 0 has to notice by itself that another rank is lost, and to leave its files in order (ours)."""

RANK_LOST = (
    "expected all processes of this job to go on together, but one of them has ended (it may have been killed, or "
    "been out of memory); give the same command again (train: with --resume)"
)


class WorkerDied(DataError):
    """A worker process ended without an answer."""


class Workers(ProcessPoolExecutor):
    """Processes that work for this one, as a context manager. They do not fork: torch would not survive it.

    Each holds the end of a pipe whose other end is held by this process alone, so that it learns when this process
    ends, even by SIGKILL, or when the block is left by an error or by Ctrl-C: then KeyboardInterrupt is raised in what
    it is at, and `GRACE_S` later it is gone in any case.

    Args:
        number: how many processes.
        method: "spawn", or "forkserver", which starts them faster, where there is one.
        prepare: called in each worker before any work, with `arguments`.
        arguments: what `prepare` is called with.
    """

    def __init__(
        self, number: int, method: str, prepare: Callable[..., object] | None = None, arguments: tuple = ()
    ) -> None:
        known = multiprocessing.get_all_start_methods()
        context: Any = multiprocessing.get_context(method if method in known else "spawn")
        self._theirs, self._leash = context.Pipe(duplex=False)
        with inherited_blocked():  # its locks start a process of Python's own that counts them, and has to outlive it
            super().__init__(number, context, _begin, (self._theirs, prepare, arguments))

    def submit(self, function: Callable, /, *args: Any, **kwargs: Any) -> Future:
        """Have a function called by one of the workers, which are started by the first call."""
        with inherited_blocked():
            return super().submit(_work, function, args, kwargs)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is not None:
            self._leash.close()
        self.shutdown(cancel_futures=kind is not None)
        self._leash.close()
        self._theirs.close()
        if kind is not None and issubclass(kind, BrokenProcessPool):
            raise WorkerDied(
                "expected an answer of every worker process, but one of them has died (it may have been killed, or "
                "been out of memory); give the same command again, with fewer processes (--workers, --jobs) if need be"
            ) from None


def end_with_parent() -> None:
    """End this process once the one that started it has ended: torchrun, or rank 0 where `Fabric.launch` did.

    To be called before the ranks wait for each other. Where processes do not pass to another parent (Windows), nothing
    happens.
    """
    parent = os.getppid()
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            os.environ[LEADER] = str(os.getpid())  # it may have ended before a rank comes here
            return
        parent = int(os.environ.get(LEADER) or parent)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def end_with_ranks(child_processes: list[subprocess.Popen]) -> None:
    """End this process, rank 0, once one of the ranks that it has started has ended by an error; in a sentence.

    While it trains it notices that by itself. Before, where it waits for the ranks to join it, it would not.
    """

    def watch() -> None:
        while not any(codes := [rank.poll() for rank in child_processes]):
            if None not in codes:
                return  # all have come to their end
            time.sleep(0.5)
        time.sleep(RANK_GRACE_S)
        for rank in child_processes:
            rank.kill()
        sys.stderr.write(f"error: {RANK_LOST}\n")
        sys.stderr.flush()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


_busy = threading.Event()


def _begin(theirs: Connection, prepare: Callable[..., object] | None, arguments: tuple) -> None:
    """What a worker does first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where the mask of signals is not inherited
    signal.signal(signal.SIGTERM, _stop)
    threading.Thread(target=_follow, args=(theirs,), daemon=True).start()
    if prepare is not None:
        prepare(*arguments)


def _stop(number: int, frame: FrameType | None) -> None:
    if not _busy.is_set():
        os._exit(1)
    raise KeyboardInterrupt


def _follow(theirs: Connection) -> None:
    """End this process once the other end of the pipe is closed, which the process that holds it does or its end."""
    wait([theirs])
    if hasattr(signal, "pthread_kill"):  # it also wakes a thread that sleeps
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
    else:
        _thread.interrupt_main(signal.SIGTERM)
    time.sleep(GRACE_S)
    os._exit(1)


def _work(function: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Call a function in a worker; a KeyboardInterrupt ends the worker."""
    try:
        _busy.set()
        return function(*args, **kwargs)
    except KeyboardInterrupt:
        os._exit(1)
    finally:
        _busy.clear()
