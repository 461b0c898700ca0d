"""Signals that stop a program: Ctrl-C, SIGTERM and SIGHUP all raise KeyboardInterrupt, when it does no harm."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
"""Ctrl-C, what `kill` and cluster schedulers send, and what a closed terminal sends."""

STOPS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))


AGAIN_S = 0.05
"""Seconds after which a signal comes again whose exception was lost."""


@contextmanager
def stopping() -> Iterator[Callable[[], bool]]:
    """While it lasts, all of these signals raise KeyboardInterrupt; signals that are ignored (`nohup`) stay ignored.

    It does nothing outside of the main thread, where signals cannot be handled. Where one comes in a place that no
    exception leaves, such as a callback of the garbage collector, it comes again a moment later.

    Yields:
        Whether one has come. Where it came during an import, the error that is raised may be any.
    """
    came: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        came.append(number)
        raise KeyboardInterrupt

    def lost(what: "sys.UnraisableHookArgs") -> None:
        if came and issubclass(what.exc_type, KeyboardInterrupt):
            threading.Timer(AGAIN_S, os.kill, (os.getpid(), came[-1])).start()
        else:
            hook(what)

    hook, sys.unraisablehook = sys.unraisablehook, lost
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {each: signal.getsignal(each) for each in STOPS}
    for each, handler in before.items():
        if handler not in (signal.SIG_IGN, None):
            signal.signal(each, stop)
    try:
        yield lambda: bool(came)
    finally:
        sys.unraisablehook = hook
        for each, handler in before.items():
            if handler is not None:
                signal.signal(each, handler)


@contextmanager
def postponing() -> Iterator[Callable[[], bool]]:
    """While it lasts, the first signal that would raise an exception waits for the end of the block; a second does not.

    Yields:
        Whether one has come, so that the block can end early.
    """
    waiting: list[tuple[int, Callable]] = []
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {each: handler for each in STOPS if callable(handler := signal.getsignal(each))}

    def wait(number: int, frame: FrameType | None) -> None:
        if waiting:
            before[number](number, frame)
        waiting.append((number, before[number]))

    for each in before:
        signal.signal(each, wait)
    try:
        yield lambda: bool(waiting)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    if waiting:
        number, handler = waiting[0]
        handler(number, None)


@contextmanager
def inherited_blocked() -> Iterator[None]:
    """Programs that are started in this block never see Ctrl-C or a closed terminal: their parent tells them to stop.

    This process gets such a signal after the block. Nothing happens on Windows, which has no masks of signals.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
