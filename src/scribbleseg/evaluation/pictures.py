"""The report's pictures: slices with their label maps laid over them, as data URIs of the page."""

import base64
import hashlib
import io
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image as PillowImage
from skimage.measure import find_contours

from scribbleseg.evaluation.metrics import dice
from scribbleseg.types import UNLABELLED, DataError

MAX_PICTURES = 12
"""How many pictures of each run are shown (ours: nobody looks at more, and the file stays small)."""

STRUCTURE_COLOURS = ("#56b4e9", "#e69f00", "#cc79a7", "#009e73", "#f0e442", "#d55e00", "#0072b2")
"""Okabe & Ito's palette (jfly.uni-koeln.de/color), made to be told apart with every kind of colour vision."""

BACKGROUND_COLOUR = "#4b5b9a"
"""The colour of what is labelled as background: a blue that no structure has and that leaves the image visible."""

LAYERS = {
    "image": ("Image", 0.0, False, False),
    "scribbles": ("Scribbles", 1.0, True, False),
    "seeds": ("Seeds", 0.55, True, False),
    "pseudo_labels": ("Pseudo-labels", 0.55, True, False),
    "prediction": ("Prediction", 0.45, False, True),
    "reference": ("Reference", 0.45, False, True),
}
"""The layers in the order of the pipeline: title, opacity, is background tinted, is the reference's outline drawn."""


@dataclass(frozen=True)
class Picture:
    """One slice after one recursion, with its label maps. Everything but the image may be missing.

    Args:
        case: the name of the case.
        slice_index: the slice's index along depth, from 0.
        recursion: the recursion's number, from 0, or None where there is none.
        image: the slice's intensities, `height width`; shown between their 1st and 99th percentile.
        scribbles: the scribbles, uint8 `height width` like all label maps here.
        seeds: the seed areas grown from the scribbles.
        pseudo_labels: what the network was trained on in this recursion.
        prediction: the network's prediction after this recursion.
        reference: the reference mask.
        title: a remark, such as why this slice is shown. Pictures of one slice with different titles are shown in
            different figures.
    """

    case: str
    slice_index: int
    recursion: int | None
    image: Float[np.ndarray, "height width"]
    scribbles: UInt8[np.ndarray, "..."] | None = None
    seeds: UInt8[np.ndarray, "..."] | None = None
    pseudo_labels: UInt8[np.ndarray, "..."] | None = None
    prediction: UInt8[np.ndarray, "..."] | None = None
    reference: UInt8[np.ndarray, "..."] | None = None
    title: str = ""


def label_colours(label_names: Iterable[Sequence[str]]) -> dict[str, str]:
    """A colour for each label name: the same on the whole page, whatever the label's value in each run.

    Args:
        label_names: the label names of each run, background first.
    """
    names = dict.fromkeys(itertools.chain.from_iterable(of_run[1:] for of_run in label_names))
    return dict(zip(names, itertools.cycle(STRUCTURE_COLOURS), strict=False))


def picture_groups(
    pictures: Sequence[Picture], label_names: Sequence[str], colours: Mapping[str, str], images: dict[str, str]
) -> list[dict[str, Any]]:
    """The figures of a run, one for each slice and title, as the template shows them.

    In a figure there is a row for each recursion, with its layers side by side; what stays the same is shown once.

    Args:
        pictures: the pictures of one run, of which the first MAX_PICTURES are shown.
        label_names: the run's label names by value, background first.
        colours: the colour of each label, by its name.
        images: the page's images by id; those of the figures are added.

    Raises:
        DataError: a picture's maps differ in shape or hold undeclared values.
    """
    groups: dict[tuple[str, int, str], list[Picture]] = {}
    for picture in pictures[:MAX_PICTURES]:
        _check(picture, len(label_names))
        groups.setdefault((picture.case, picture.slice_index, picture.title), []).append(picture)
    return [_figure(group, label_names, colours, images) for group in groups.values()]


def _figure(
    group: list[Picture], label_names: Sequence[str], colours: Mapping[str, str], images: dict[str, str]
) -> dict[str, Any]:
    """The figure of one slice, from its pictures."""
    group.sort(key=lambda picture: -1 if picture.recursion is None else picture.recursion)
    layers = [layer for layer in LAYERS if any(getattr(picture, layer) is not None for picture in group)]
    palette = [BACKGROUND_COLOUR, *(colours[name] for name in label_names[1:])]
    box = _box(group)
    rows = []
    for picture, above in zip(group, [None, *group], strict=False):
        tiles = [_tile(picture, layer, box, palette) if _is_new(picture, above, layer) else None for layer in layers]
        rows.append({"recursion": picture.recursion, "dice": _slice_dice(picture, label_names), "tiles": tiles})
    height, width = (edge.stop - edge.start for edge in box)
    return {
        "case": group[0].case,
        "slice": group[0].slice_index,
        "title": group[0].title,
        "layers": [LAYERS[layer][0] for layer in layers],
        "rows": rows,
        "width": width,
        "height": height,
        "image": _embed(group[0].image, box, images),
    }


def _check(picture: Picture, n_labels: int) -> None:
    """Raises DataError for maps of another shape than the image's, or with undeclared values."""
    for layer in LAYERS:
        labels = getattr(picture, layer)
        where = f"picture of case {picture.case}, slice {picture.slice_index}, {layer}: "
        if labels is None:
            continue
        if labels.shape != picture.image.shape:
            raise DataError(f"{where}expected the image's shape {picture.image.shape}, got {labels.shape}")
        if layer != "image" and (unknown := np.unique(labels[(labels >= n_labels) & (labels != UNLABELLED)])).size:
            raise DataError(f"{where}expected values 0 to {n_labels - 1} or {UNLABELLED}, got {unknown.tolist()}")


def _is_new(picture: Picture, above: Picture | None, layer: str) -> bool:
    """Whether a row shows the layer: it is there, and it may change by recursion or differs from the row above."""
    labels = getattr(picture, layer)
    if labels is None:
        return False
    changes = layer in ("pseudo_labels", "prediction")
    return above is None or changes or not np.array_equal(labels, getattr(above, layer))


def _slice_dice(picture: Picture, label_names: Sequence[str]) -> dict[str, float]:
    """Dice of this slice alone, for each structure in it; empty unless both maps are there and complete."""
    labels, reference = picture.prediction, picture.reference
    if labels is None or reference is None or UNLABELLED in labels or UNLABELLED in reference:
        return {}
    seen = {label_names[value]: (int(value),) for value in np.union1d(labels, reference) if value}
    return dice(labels, reference, seen)


def _box(group: Sequence[Picture]) -> tuple[slice, slice]:
    """The part of a slice that is shown: every structure in any of its maps, with a margin around them."""
    shape = group[0].image.shape
    inside = np.zeros(shape, bool)
    for picture in group:
        for layer in list(LAYERS)[1:]:
            labels = getattr(picture, layer)
            if labels is not None:
                inside |= (labels > 0) & (labels != UNLABELLED)
    rows, columns = np.nonzero(inside)
    if not len(rows):
        return slice(0, shape[0]), slice(0, shape[1])
    side = 1.35 * max(np.ptp(rows), np.ptp(columns)) + 8  # a square, so that tiles line up
    edges = [(edge.min() + edge.max() + 1) / 2 + np.array([-side, side]) / 2 for edge in (rows, columns)]
    (top, bottom), (left, right) = (np.clip(np.round(e), 0, n).astype(int) for e, n in zip(edges, shape, strict=True))
    return slice(int(top), int(bottom)), slice(int(left), int(right))


def _embed(image: Float[np.ndarray, "height width"], box: tuple[slice, slice], images: dict[str, str]) -> str:
    """Adds an image to those of the page, once, and returns its id."""
    image = np.nan_to_num(image, posinf=0, neginf=0)
    low, high = np.percentile(image, (1, 99))
    grey = np.clip((image[box] - low) / max(high - low, 1e-12), 0, 1) * 255
    buffer = io.BytesIO()
    PillowImage.fromarray(grey.astype(np.uint8)).save(buffer, "JPEG", quality=90)
    uri = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    name = f"image-{hashlib.sha256(buffer.getvalue()).hexdigest()[:16]}"  # several runs show the same slice
    images[name] = uri
    return name


def _tile(picture: Picture, layer: str, box: tuple[slice, slice], palette: Sequence[str]) -> dict[str, Any]:
    """One label map laid over the image, as a PNG with a palette, and the reference's contours."""
    title, opacity, background, contours = LAYERS[layer]
    tile: dict[str, Any] = {"title": title, "overlay": None, "contours": []}
    if layer == "image":
        return tile
    tile["overlay"] = _overlay(getattr(picture, layer)[box], palette, opacity, background)
    if contours and picture.reference is not None:
        reference = picture.reference[box]
        tile["contours"] = [_contour(reference == v) for v in np.unique(reference) if v not in (0, UNLABELLED)]
    return tile


def _overlay(
    labels: UInt8[np.ndarray, "height width"], palette: Sequence[str], opacity: float, background: bool
) -> str:
    """A label map as a data URI: labels in their colours, background faint or clear, UNLABELLED clear."""
    colours = [*palette, *([BACKGROUND_COLOUR] * (256 - len(palette)))]
    alpha = [opacity / 2 if background else 0.0, *([opacity] * 254), 0.0]
    if opacity == 1 and background:
        alpha[0] = 1.0  # strokes are thin: show all of them as they are
    image = PillowImage.fromarray(np.ascontiguousarray(labels))
    image.putpalette(bytes(int(colour[i : i + 2], 16) for colour in colours for i in (1, 3, 5)))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=bytes(round(255 * a) for a in alpha), optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _contour(mask: Bool[np.ndarray, "height width"]) -> str:
    """The outline of a mask as an SVG path; pixel (0, 0) covers [0, 1] x [0, 1]."""
    lines = find_contours(np.pad(mask, 1).astype(float), 0.5)
    return "".join("M" + "L".join(f"{x - 0.5:.1f} {y - 0.5:.1f}" for y, x in line) + "Z" for line in lines)
