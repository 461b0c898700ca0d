"""The slice that is best drawn next: evenly spaced ones, of the images that a network is most in doubt about first."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from scribbleseg.ranking import middle, rank, widest_gap
from scribbleseg.server.predictions import Placed
from scribbleseg.server.store import Store
from scribbleseg.types import DataError

SLICES = 5
"""Slices of a case that are suggested, evenly spaced; ours: what `check` and the tutorial ask of a beginner."""

LISTED = 20
"""Slices of the ranking that can be gone through; as many as `scribbleseg suggest` lists."""


class Suggestion(NamedTuple):
    """One slice.

    Args:
        case: the name of the case.
        axis: the axis on the page that the slices are stacked along.
        slice_index: the slice along it, from 0.
        why: the reason, for people to read.
    """

    case: str
    axis: int
    slice_index: int
    why: str


def most_helpful(
    store: Store, looks: Mapping[str, Placed], shown: tuple[str, int, int] | None = None
) -> Suggestion | None:
    """Returns the slice in which strokes should help a network most, given the strokes that there are now.

    Args:
        store: the cases; those that are done, or cannot be read, are left out.
        looks: what the network makes of them.
        shown: case, axis and slice that are looked at; where these are in the list, the next of the list is returned.
    """
    files = store.project.drawn()
    left = {row["name"] for row in store.listed() if row["state"] != "done" and not row["error"]}
    now = []
    for name, placed in looks.items():
        try:
            drawn = store.drawn(name, files.get(name))
        except DataError:  # scribbles that cannot be read: whoever opens the case is told
            continue
        there = placed.along(drawn[placed.axis]) if drawn else placed.look.drawn
        if name not in left:
            there = np.ones_like(there)  # it still counts for what is usual
        now.append(replace(placed.look, drawn=there))
    found = [
        Suggestion(each.case, looks[each.case].axis, looks[each.case].on_page(each.slice), each.why)
        for each in rank(now, store.project.label_names, LISTED)
    ]
    if not found:
        return None
    places = [each[:3] for each in found]
    return found[(places.index(shown) + 1) % len(found) if shown in places else 0]


def spread_out(store: Store, start: int) -> Suggestion | None:
    """Returns the slice in the widest gap of the first case, from `start` on, in which too few are drawn."""
    files = store.project.drawn()
    rows: Sequence[Mapping[str, Any]] = store.listed()
    for row in [*rows[start:], *rows[:start]]:
        name = row["name"]
        if row["state"] == "done" or row["error"]:
            continue
        try:
            drawn = store.drawn(name, files.get(name))
            where = drawn[0] if drawn else np.zeros(len(store.drawing(name).labels), bool)
        except DataError:
            continue
        slice_index = evenly_spaced(where)
        if slice_index is not None:
            return Suggestion(name, 0, slice_index, "the widest gap between drawn slices")
    return None


def evenly_spaced(drawn: Bool[np.ndarray, " depth"], most: int = SLICES) -> int | None:
    """Returns the slice in the middle of the widest gap between drawn ones; None where `most` of them are drawn."""
    if drawn.sum() >= min(most, len(drawn)):
        return None
    return middle(widest_gap(drawn))
