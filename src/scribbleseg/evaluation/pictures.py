"""The report's pictures: a slice with its label maps laid over it, in the order in which they came about."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Num, UInt8

from scribbleseg.evaluation.drawing import (
    embedded,
    errors,
    identifier,
    outlines,
    overlay,
)
from scribbleseg.evaluation.metrics import dice
from scribbleseg.evaluation.palette import BACKGROUND_COLOUR, STRUCTURE_COLOURS
from scribbleseg.types import UNLABELLED, DataError

MAX_PICTURES = 12
"""How many slices of each run are shown (ours: nobody looks at more, and the file stays small)."""

NAMED = 6
"""With more structures than this, tables and pictures give means, and single structures elsewhere (ours)."""

LAYERS = ("scribbles", "pseudo_labels", "prediction", "reference")
"""The label maps of a picture."""


@dataclass(frozen=True)
class Picture:
    """One slice after one recursion, with its label maps. Everything but the image may be missing.

    Args:
        case: the name of the case.
        slice_index: the slice's index along depth, from 0.
        recursion: the recursion's number, from 0, or None where there is none.
        image: the slice's intensities, `height width`, shown between their 1st and 99th percentile, or its red, green
            and blue, `height width 3`.
        scribbles: the scribbles, uint8 `height width` like all label maps here.
        pseudo_labels: what the network was trained on in this recursion: first the seed areas.
        prediction: the network's prediction after this recursion.
        reference: the reference mask.
        title: a remark, such as why this slice is shown. Pictures of one slice with different titles are shown in
            different figures.
        n_slices: the number of slices of the case.
        pixel: height and width of a pixel, in mm or any other unit.
        sides: letters of the patient's sides that are at the left, the right, the top and the bottom, such as "RLAP";
            "" where nobody knows.
    """

    case: str
    slice_index: int
    recursion: int | None
    image: Num[np.ndarray, "height width *rgb"]
    scribbles: UInt8[np.ndarray, "..."] | None = None
    pseudo_labels: UInt8[np.ndarray, "..."] | None = None
    prediction: UInt8[np.ndarray, "..."] | None = None
    reference: UInt8[np.ndarray, "..."] | None = None
    title: str = ""
    n_slices: int = 1
    pixel: tuple[float, float] = (1.0, 1.0)
    sides: str = ""


@dataclass
class Shared:
    """What several pictures of a page show, kept once, by id.

    Args:
        images: data URIs of images with their width and height in pixels of the slice.
        outlines: the outlines of all structures of a slice.
    """

    images: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    outlines: dict[str, list[str]] = field(default_factory=dict)


def label_colours(label_names: Iterable[Sequence[str]]) -> dict[str, str]:
    """A colour for each label name: the same on the whole page, whatever the label's value in each run.

    Args:
        label_names: the label names of each run, background first.
    """
    names = dict.fromkeys(itertools.chain.from_iterable(of_run[1:] for of_run in label_names))
    return dict(zip(names, itertools.cycle(STRUCTURE_COLOURS), strict=False))


def figures(
    pictures: Sequence[Picture], label_names: Sequence[str], colours: Mapping[str, str], shared: Shared
) -> list[dict[str, Any]]:
    """The figures of a run, one for each slice and title, as the template shows them; of MAX_PICTURES slices.

    A figure has columns: the scribbles, then for each recursion what it was trained on above what it predicted, then
    the reference above the errors of the last prediction. Without recursions each map is a column by itself.

    Args:
        pictures: the pictures of one run.
        label_names: the run's label names by value, background first.
        colours: the colour of each label, by its name.
        shared: what the page shows several times; images and outlines of these figures are added.

    Raises:
        DataError: a picture's maps differ in shape or hold undeclared values.
    """
    groups: dict[tuple[str, int, str], list[Picture]] = {}
    for picture in pictures:
        groups.setdefault((picture.case, picture.slice_index, picture.title), []).append(picture)
    shown = list(groups.values())[:MAX_PICTURES]
    for picture in itertools.chain.from_iterable(shown):
        _check(picture, len(label_names))
    return [_figure(group, label_names, colours, shared) for group in shown]


def n_figures(pictures: Sequence[Picture]) -> int:
    """How many slices, by title, the pictures are of."""
    return len({(picture.case, picture.slice_index, picture.title) for picture in pictures})


def _figure(
    group: list[Picture], label_names: Sequence[str], colours: Mapping[str, str], shared: Shared
) -> dict[str, Any]:
    """The figure of one slice, from its pictures."""
    group = sorted(group, key=lambda picture: -1 if picture.recursion is None else picture.recursion)
    first, box = group[0], _box(group)
    height, width = (edge.stop - edge.start for edge in box)
    image, uri = embedded(first.image, box)
    shared.images[image] = uri, width, height
    palette = [BACKGROUND_COLOUR, *(colours[name] for name in label_names[1:])]
    return {
        "case": first.case,
        "slice": f"slice {first.slice_index + 1} of {first.n_slices}" if first.n_slices > 1 else "",
        "title": first.title,
        "columns": _columns(group, label_names, box, palette),
        "width": width,
        "height": height,
        "aspect": width * first.pixel[1] / (height * first.pixel[0]),
        "sides": first.sides,
        "image": image,
        "outline": _shared_outline(group[-1], box, shared),
    }


def _shared_outline(picture: Picture, box: tuple[slice, slice], shared: Shared) -> str | None:
    """The id of the outlines of a picture's reference, which are added to what the page shows several times."""
    paths = [] if picture.reference is None else list(outlines(picture.reference[box]).values())
    if not paths:
        return None
    name = identifier(paths)
    shared.outlines[name] = paths
    return name


def _columns(
    group: Sequence[Picture], label_names: Sequence[str], box: tuple[slice, slice], palette: Sequence[str]
) -> list[dict[str, Any]]:
    """The columns of a figure, each with a head and its tiles from top to bottom."""
    first, last = group[0], group[-1]
    drawn = None if first.scribbles is None else outlines(first.scribbles[box], background=True)
    given: list[dict[str, Any]] = [{"title": "Image"}]
    if drawn:
        strokes = [(palette[value], path) for value, path in drawn.items()]
        given.insert(0, {"title": "Scribbles", "strokes": strokes})
    columns = [_column("Input", *given)]
    for picture in group:
        taught, predicted = picture.pseudo_labels, picture.prediction
        title = "Trained on" if picture.recursion or not drawn else "Seed areas"
        tiles = [
            None if taught is None else {"title": title, "labels": overlay(taught[box], palette, True)},
            None if predicted is None else _predicted(picture, label_names, box, palette),
        ]
        columns.append(_column("" if picture.recursion is None else f"Recursion {picture.recursion}", *tiles))
    if last.reference is not None:
        reference = last.reference[box]
        tiles = [{"title": "Reference", "labels": overlay(reference, palette, False), "outlined": True}]
        if last.prediction is not None:
            of = "" if last.recursion is None else f" of recursion {last.recursion}"
            tiles.append({"title": f"Errors{of}", "errors": errors(last.prediction[box], reference), "outlined": True})
        columns.append(_column("Comparison", *tiles))
    if last.recursion is not None:
        return columns
    single = [tile for column in columns for tile in column["tiles"] if tile]
    return [_column("", tile) for tile in sorted(single, key=lambda tile: tile["title"] != "Image")]


def _predicted(
    picture: Picture, label_names: Sequence[str], box: tuple[slice, slice], palette: Sequence[str]
) -> dict[str, Any]:
    """The tile of a prediction, with the Dice of this slice: in short, and of each of its structures."""
    assert picture.prediction is not None
    scores = _slice_dice(picture, label_names)
    each = ", ".join(f"{name} {value:.2f}" for name, value in scores.items())
    mean = f"mean {np.mean(list(scores.values())):.2f}" if scores else ""
    labels = overlay(picture.prediction[box], palette, False)
    tile = {"title": "Predicted", "labels": labels, "outlined": picture.reference is not None}
    return tile | {"note": each if len(scores) <= NAMED else mean, "each": each}


def _column(head: str, *tiles: dict[str, Any] | None) -> dict[str, Any]:
    """A column with its head; a tile has a title and what is laid over the image, None is an empty place."""
    nothing = {"labels": None, "errors": None, "strokes": None, "outlined": False, "note": "", "each": ""}
    return {"head": head, "tiles": [tile and nothing | tile for tile in tiles]}


def _check(picture: Picture, n_labels: int) -> None:
    """Raises DataError for maps of another shape than the image's, or with undeclared values."""
    for layer in LAYERS:
        labels = getattr(picture, layer)
        where = f"picture of case {picture.case}, slice {picture.slice_index}, {layer}: "
        if labels is None:
            continue
        if labels.shape != picture.image.shape[:2]:
            raise DataError(f"{where}expected the image's shape {picture.image.shape[:2]}, got {labels.shape}")
        if (unknown := np.unique(labels[(labels >= n_labels) & (labels != UNLABELLED)])).size:
            raise DataError(f"{where}expected values 0 to {n_labels - 1} or {UNLABELLED}, got {unknown.tolist()}")


def _slice_dice(picture: Picture, label_names: Sequence[str]) -> dict[str, float]:
    """Dice of this slice alone, for each structure in it; empty unless both maps are there and complete."""
    labels, reference = picture.prediction, picture.reference
    if labels is None or reference is None or UNLABELLED in labels or UNLABELLED in reference:
        return {}
    seen = {label_names[value]: (int(value),) for value in np.union1d(labels, reference) if value}
    return dice(labels, reference, seen)


def _box(group: Sequence[Picture]) -> tuple[slice, slice]:
    """The part of a slice that is shown: all that was drawn and every structure in any map, with a margin around."""
    shape = group[0].image.shape[:2]
    inside = np.zeros(shape, bool)
    for picture in group:
        for layer in LAYERS:
            labels = getattr(picture, layer)
            if labels is not None:
                inside |= (labels != UNLABELLED) & ((labels > 0) | (layer == "scribbles"))
    rows, columns = np.nonzero(inside)
    if not len(rows):
        return slice(0, shape[0]), slice(0, shape[1])
    pixel = group[0].pixel
    side = max(1.35 * np.ptp(edge) * size + 8 * max(pixel) for edge, size in zip((rows, columns), pixel, strict=True))
    edges = [  # a square, so that tiles line up
        (edge.min() + edge.max() + 1) / 2 + np.array([-side, side]) / 2 / size
        for edge, size in zip((rows, columns), pixel, strict=True)
    ]
    (top, bottom), (left, right) = (
        (max(0, int(np.floor(low))), min(n, int(np.ceil(high)))) for (low, high), n in zip(edges, shape, strict=True)
    )
    return slice(top, bottom), slice(left, right)
