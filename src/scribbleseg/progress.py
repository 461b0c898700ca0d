"""How far long work has come: a bar on a terminal, a line once a minute in a log."""

import time
from collections.abc import Iterable, Iterator, Sized
from datetime import timedelta
from multiprocessing import parent_process
from typing import TypeVar

from rich import get_console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")

EVERY = 60.0
"""Seconds between two lines in a log; ours."""

MANY = 200
"""Slices from which on a volume has a bar of its own; ours."""


def track(items: Iterable[T], description: str, total: int | None = None, disable: bool = False) -> Iterator[T]:
    """Goes through items and shows how many are done.

    Args:
        items: gone through once.
        description: what is done with them, in a word or two.
        total: how many there are, where they do not tell.
        disable: whether nothing is shown.
    """
    total = len(items) if total is None and isinstance(items, Sized) else total
    console = get_console()
    if disable or console.quiet:
        yield from items
    elif console.is_terminal or console.is_jupyter:
        with _bar() as progress:
            yield from progress.track(items, total=total, description=description)
    else:
        done, began = 0, time.monotonic()
        try:
            for item in _with_lines(items, description, total):
                yield item
                done += 1
        finally:
            console.print(f"{description}: {done} in {_spoken(time.monotonic() - began)}")


def within(parts: Iterable[T], total: int, slices: int) -> Iterator[T]:
    """Goes through the parts of one volume, and shows how far it has come where that has MANY slices.

    Not in a worker, whose bar would be written over that of others.
    """
    console = get_console()
    if slices < MANY or console.quiet or parent_process() is not None:
        yield from parts
    elif console.is_terminal or console.is_jupyter:
        with _bar(transient=True) as progress:
            yield from progress.track(parts, total=total, description="  within the volume")
    else:
        yield from _with_lines(parts, "  within the volume", total)


def _bar(transient: bool = False) -> Progress:
    texts = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    return Progress(*texts, TimeElapsedColumn(), TimeRemainingColumn(), console=get_console(), transient=transient)


def _with_lines(items: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    """Goes through items and prints a line now and then."""
    began = told = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if done and now - told >= EVERY:
            told = now
            left = "" if total is None else f" of {total}, {_spoken((now - began) * (total - done) / done)} left"
            get_console().print(f"{description}: {done}{left}")
        yield item


def _spoken(seconds: float) -> str:
    """Hours, minutes and seconds, such as 0:01:05."""
    return str(timedelta(seconds=round(seconds)))
