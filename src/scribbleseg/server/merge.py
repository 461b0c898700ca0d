"""Merges the scribbles of several annotators into a folder of their own, which is then drawn on like any other."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from scribbleseg.server.drawing import Drawing
from scribbleseg.server.project import Project, open_merged, open_project
from scribbleseg.types import UNLABELLED, DataError, Labels

log = logging.getLogger(__name__)


def merge(root: str | Path, annotators: Sequence[str]) -> tuple[Project, dict[str, int]]:
    """Merges what annotators drew, in each case that has not been merged before.

    A case on which they disagree is flagged with the slices in which they do.

    Args:
        root: the data set.
        annotators: two or more names.

    Returns:
        What is to be drawn on, and how many voxels of each case the annotators disagree on, where there are any.

    Raises:
        DataError: unknown annotators, structures that nobody has named, or files that cannot be written.
    """
    project = open_merged(root, annotators)
    if not project.encoding:
        raise DataError(f"{project.root}: expected structures with names; draw first, then merge")
    sources = [open_project(root, annotator) for annotator in annotators]
    drawn, done = [source.drawn() for source in sources], project.drawn()
    differ = {}
    for name in project.names:
        if name in done or not any(name in files for files in drawn):
            continue
        try:
            both = [Drawing(source, name).labels for source in sources]
        except DataError as error:  # the list of cases on the page says so, too
            log.warning("%s", error)
            continue
        labels, apart = merged(both)
        drawing = Drawing(project, name)
        drawing.labels = labels
        drawing.write()
        if apart.any():
            differ[name] = int(apart.sum())
            slices = ", ".join(str(z + 1) for z in np.flatnonzero(apart.any(axis=(1, 2))))
            drawing.note(False, f"{' and '.join(annotators)} differ in {differ[name]} voxels of slices {slices}")
    return project, differ


def merged(drawings: Sequence[Labels]) -> tuple[Labels, np.ndarray]:
    """Merges label maps of one shape, `depth height width`.

    Returns:
        Each voxel's label where all who labelled it say the same, UNLABELLED elsewhere; and where they disagree, bool.
    """
    labels = np.full_like(drawings[0], UNLABELLED)
    apart = np.zeros(labels.shape, bool)
    for drawing in drawings:
        known = drawing != UNLABELLED
        apart |= known & (labels != UNLABELLED) & (labels != drawing)
        labels[known] = drawing[known]
    labels[apart] = UNLABELLED
    return labels, apart
