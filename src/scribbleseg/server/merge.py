"""Merges the scribbles of several annotators into a folder of their own, which is then drawn on like any other."""

import logging
from collections.abc import Sequence

import numpy as np

from scribbleseg.plural import number_of
from scribbleseg.server.drawing import Drawing
from scribbleseg.server.project import Project, open_project
from scribbleseg.types import UNLABELLED, DataError, Labels

log = logging.getLogger(__name__)


def merge(project: Project) -> dict[str, int]:
    """Merges what the annotators of a merged project drew, in each case that has not been merged before.

    A case on which they disagree is flagged with the slices in which they do.

    Returns:
        How many voxels of each case they disagree on, where there are any.

    Raises:
        DataError: structures that nobody has named, or files that cannot be written.
    """
    if not project.encoding:
        raise DataError(f"{project.root}: expected structures with names; draw first, then merge")
    sources = [open_project(project.root, annotator) for annotator in project.merged]
    drawn, done = [source.drawn() for source in sources], project.drawn()
    differ = {}
    for name in project.names:
        if name in done or not any(name in files for files in drawn):
            continue
        try:
            labels, apart = merged([Drawing(source, name).labels for source in sources])
        except DataError as error:  # the list of cases on the page says so, too
            log.warning("%s", error)
            continue
        drawing = Drawing(project, name)
        drawing.labels = labels
        if apart.any():  # first: a case that has been merged is not looked at again
            differ[name] = int(apart.sum())
            slices = ", ".join(str(z + 1) for z in np.flatnonzero(apart.any(axis=(1, 2))))
            voxels = number_of(differ[name], "voxel")
            drawing.note(False, f"{' and '.join(project.merged)} differ in {voxels} of slices {slices}")
        drawing.write()
    return differ


def merged(drawings: Sequence[Labels]) -> tuple[Labels, np.ndarray]:
    """Merges label maps of one shape.

    Args:
        drawings: uint8 `depth height width` each.

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
