"""Where to draw next: what a network is in doubt about in each slice of each case, ranked (`ranking`)."""

import numpy as np
from jaxtyping import Float32, Float64

from scribbleseg.data.orientation import codes, is_picture, looked_at, plane, unit_of
from scribbleseg.pipeline import AnySegmenter
from scribbleseg.ranking import Look, Stack, Suggestion, rank
from scribbleseg.relabel.predict import Segmenter
from scribbleseg.types import UNLABELLED, Case, Cases, Parts

SURE = 0.95
"""Pixels whose likeliest label is at least so probable are not in doubt: in all the background of a slice their small
doubts would add up to a structure's area."""


def suggest(segmenter: AnySegmenter, cases: Cases, count: int = 20) -> list[Suggestion]:
    """Rank the slices of some cases by how much strokes should help there. Masks are not looked at.

    Args:
        segmenter: a trained network.
        cases: with the strokes that there are; a case may have none.
        count: the number of slices; fewer come back where there are no more without strokes.

    Returns:
        The slices, the most helpful first. Slices with strokes are never among them. The order of the cases makes no
        difference.

    Raises:
        DataError: a case that cannot be read or has other channels than training, or a segmenter of two networks.
    """
    return rank([look(segmenter, case) for case in cases], segmenter.label_names, count)


def look(segmenter: AnySegmenter, case: Case) -> Look:
    """What the network makes of a case: the part of `suggest` that takes time.

    Raises:
        DataError: other channels than training, or a segmenter of two networks, whose labels have no probabilities.
    """
    parts = segmenter.parts(case)
    assert isinstance(segmenter, Segmenter)  # two networks have no probabilities
    return look_at(parts, segmenter, case)


def look_at(parts: Parts, segmenter: Segmenter, case: Case) -> Look:
    """The same for who sees the parts of the probabilities, too (`Segmenter.parts`)."""
    geometry = case.geometry
    cut = segmenter.preprocess.turn(geometry)
    turn = looked_at(geometry, cut)
    structures, depth = len(segmenter.label_names) - 1, turn.shape(geometry)[0]
    spacing_mm, height_mm, width_mm = turn.spacing_mm(geometry)
    seen = np.zeros((3, structures, depth))
    for where, part in parts:
        seen[:, :, where] = height_mm * width_mm * _by_slice(part)
    doubt, area, likely = seen[:, :, ::-1] if turn.flips[0] != cut.flips[0] else seen
    drawn = (turn(case.scribbles) != UNLABELLED).any(axis=(1, 2))
    axis = turn.axes[0]
    across = "" if is_picture(geometry) else plane(codes(geometry)[axis])
    stack = Stack(case.name, len(drawn), axis, across, spacing_mm, unit_of(geometry))
    present = case.present
    if present and structures == 1:  # a region is there where any of the structures is that it is made of
        present = frozenset({1})
    return Look(stack, doubt, area, likely, drawn, present)


def _by_slice(
    probabilities: Float32[np.ndarray, "slice label height width"],
) -> Float64[np.ndarray, "3 structure slice"]:
    """Doubt, area and likely of `Look`, in pixels."""
    structures = probabilities.shape[1] - 1
    doubt, area, likely = found = np.zeros((3, structures, len(probabilities)))
    for z, here in enumerate(probabilities):
        wrong = 1 - here.max(axis=0)
        doubtful = wrong > 1 - SURE
        doubt[:, z] = np.bincount(here[1:].argmax(axis=0)[doubtful], wrong[doubtful].astype(np.float64), structures)
        area[:, z] = np.bincount(here.argmax(axis=0).ravel(), minlength=structures + 1)[1:]
        likely[:, z] = here[1:].sum(axis=(1, 2), dtype=np.float64)
    return found
