"""The program that has networks look at the images ahead of the page, in a process of its own that steps back for it.

What it finds goes to RUN/page, one file a case, and stays there: predictions, doubt, and what slices are ranked by.
It ends with its standard input; a line on it is the name of a case that is to come first.
"""

import json
import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np

from scribbleseg.api import Model, load
from scribbleseg.data.formats import read_image
from scribbleseg.files import atomically
from scribbleseg.relabel.components import only_largest
from scribbleseg.relabel.predict import Segmenter
from scribbleseg.server.display import turn_for_screen
from scribbleseg.server.predictions import Found, found_file, image_stamp, network_stamp, read_found, write_found
from scribbleseg.server.project import Project, open_again
from scribbleseg.server.series import scribbles_of
from scribbleseg.suggest import look_at
from scribbleseg.types import UNLABELLED, Case, Cases, DataError, Parts

NICENESS = 10
"""How far it steps back for the page and for a training (ours)."""


def main(root: str, annotator: str, *runs: str) -> None:
    """Has the networks of some runs look at all images, one run after the other. Raises DataError."""
    with suppress(AttributeError, OSError):  # Windows has no such call
        os.nice(NICENESS)
    wanted: deque[str] = deque()
    threading.Thread(target=_listen, args=(wanted,), daemon=True).start()
    project = open_again(root, annotator)
    for run in runs:
        _look_at_all(project, load(run), wanted)


def _listen(wanted: deque[str]) -> None:
    """Notes the names of cases that are to come first, until the server has ended."""
    for line in sys.stdin:
        wanted.append(line.rstrip("\n"))
    os._exit(0)


def _order(names: list[str], wanted: deque[str]) -> Iterator[str]:
    """The names, each once, those that somebody waits for first."""
    left = dict.fromkeys(names)
    while left:
        name = wanted[-1] if wanted and wanted[-1] in left else next(iter(left))
        del left[name]
        yield name


def _look_at_all(project: Project, model: Model, wanted: deque[str]) -> None:
    scribbles = scribbles_of(project)
    try:
        to_draw_in: Cases | None = model.to_draw_in(project.root, scribbles)
    except DataError as error:  # nothing is ranked; what the network makes of the images is shown all the same
        logging.warning("%s", error)
        to_draw_in = None
    network = network_stamp(model.run)
    for left in found_file(model.run, "").parent.glob(".*.npz"):  # by a process that was ended
        left.unlink(missing_ok=True)
    found = read_found(model.run)
    if found.network != network:
        found = Found(network=network)
    found.ranked = [name for name in project.names if to_draw_in and name in to_draw_in.names]
    for name in _order(project.names, wanted):
        try:
            stamp = image_stamp(project.image(name))
            if found.seen.get(name) != stamp:
                _look(model, _case(project, to_draw_in, name), network)
                found.seen[name] = stamp
            found.errors.pop(name, None)
        except DataError as error:
            if isinstance(error.__cause__, OSError) and str(model.run.path) in str(error):
                raise  # the disk is full
            found.seen.pop(name, None)
            found.errors[name] = str(error)
        write_found(model.run, found)


def _case(project: Project, cases: Cases | None, name: str) -> Case:
    """The case as the ranking sees it; where it is none of those, its image alone."""
    if cases and name in cases.names:
        return cases.named(name)
    image, geometry = read_image(project.image(name))
    return Case(name, image, np.full(geometry.shape, UNLABELLED, np.uint8), geometry)


def _look(model: Model, case: Case, network: str) -> None:
    """Writes what a network makes of a case. Raises DataError."""
    segmenter = model.segmenter
    assert isinstance(segmenter, Segmenter)  # a run of two networks is refused
    labels, doubt = np.empty((2, *case.geometry.shape), np.uint8)
    cut = segmenter.preprocess.turn(case.geometry)
    seen = look_at(_noted(segmenter.parts(case), cut(labels), cut(doubt)), segmenter, case)
    labels = only_largest(labels, segmenter.single)
    turn = turn_for_screen(case.geometry)
    axis = turn.axes.index(seen.stack.axis)
    place = {"axis": axis, "flip": bool(turn.flips[axis])}
    present = None if seen.present is None else sorted(seen.present)
    about = {"network": network, "stack": vars(seen.stack), "present": present, **place}
    arrays: dict[str, Any] = {"labels": turn(labels), "doubt": turn(doubt)}
    looks: dict[str, Any] = {"look_doubt": seen.doubt, "look_area": seen.area, "look_likely": seen.likely}
    with atomically(found_file(model.run, case.name)) as temporary:
        np.savez_compressed(temporary, about=json.dumps(about), **arrays, **looks)


def _noted(parts: Parts, labels: np.ndarray, doubt: np.ndarray) -> Parts:
    """The parts, of each of which the likeliest labels and the doubt are written into these arrays."""
    for where, part in parts:
        labels[where] = part.argmax(axis=1)
        doubt[where] = np.rint(255 * (1 - np.clip(part.max(axis=1), 0, 1)))
        yield where, part


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        main(*sys.argv[1:])
    except DataError as problem:
        sys.exit(str(problem))
    finally:
        sys.stdout.flush()
