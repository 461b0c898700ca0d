"""What the report draws of arrays: images, label maps, errors as data URIs, outlines and strokes as SVG paths."""

import base64
import hashlib
import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Num, UInt8
from PIL import Image as PillowImage
from skimage.measure import approximate_polygon, find_contours

from scribbleseg.types import UNLABELLED

ERRORS = ("missed", "invented", "confused")
"""What can be wrong with a pixel: the reference has a structure there and the prediction none, the prediction has one
and the reference none, or they have different ones."""

ERROR_COLOURS = dict(zip(ERRORS, ("#ff2d6f", "#19d3ff", "#ffd400"), strict=True))
"""Red, cyan, yellow: they differ in lightness, too, for readers who confuse hues (ours)."""

LARGEST = 1024
"""Images and label maps with more pixels along a side are made smaller; few screens show a tile larger (ours)."""

FINE = 512
"""Outlines of maps with more pixels along a side are simplified, within a pixel of the screen (ours)."""


def embedded(image: Num[np.ndarray, "height width *rgb"], box: tuple[slice, slice]) -> tuple[str, str]:
    """Returns part of an image as an id, which equal images share, and a JPEG's data URI.

    Intensities are shown between the 1st and 99th percentile of the whole; colours of 0 to 255 as they are.
    """
    image = np.nan_to_num(image, posinf=0, neginf=0)
    low, high = np.percentile(image, (1, 99))
    if image.ndim == 3 and image.min() >= 0 and 1 < image.max() <= 255:
        low, high = 0, 255
    shades = np.clip((image[box] - low) / ((high - low) or 1.0), 0, 1) * 255
    picture = PillowImage.fromarray(shades.astype(np.uint8))
    picture.thumbnail((LARGEST, LARGEST))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return _identifier(buffer.getvalue()), _uri("jpeg", buffer.getvalue())


def overlay(labels: UInt8[np.ndarray, "height width"], palette: Sequence[str], background: bool) -> str:
    """A label map as a PNG's data URI: labels in their colours, UNLABELLED clear.

    Args:
        labels: the map.
        palette: the colour of each label, background first.
        background: whether background is tinted, half as strongly as structures; else it is clear.
    """
    rest = 256 - len(palette)
    alphas = [128 if background else 0, *([255] * (len(palette) - 1)), *([0] * rest)]
    return _palette_png(labels, [*palette, *(["#000000"] * rest)], alphas)


def errors(labels: UInt8[np.ndarray, "height width"], reference: UInt8[np.ndarray, "height width"]) -> str:
    """The pixels that a prediction has wrong, in ERROR_COLOURS, as a PNG's data URI (see `error_map`)."""
    return _palette_png(error_map(labels, reference), ["#000000", *ERROR_COLOURS.values()], [0, 255, 255, 255])


def error_map(labels: UInt8[np.ndarray, "..."], reference: UInt8[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """Which of ERRORS each pixel is, counted from 1; 0 where it is right or where either map is UNLABELLED."""
    known = (labels != UNLABELLED) & (reference != UNLABELLED)
    kinds = [(reference > 0) & (labels == 0), (reference == 0) & (labels > 0), labels != reference]
    return np.select([~known, *kinds], [0, 1, 2, 3], 0).astype(np.uint8)


def outline(mask: Bool[np.ndarray, "height width"]) -> str:
    """The outline of a mask as an SVG path, pixels that touch at a corner being one; pixel (0, 0) covers [0, 1]²."""
    lines = find_contours(np.pad(mask, 1).astype(float), 0.5, fully_connected="high")
    if max(mask.shape) > FINE:
        lines = [approximate_polygon(line, max(mask.shape) / LARGEST) for line in lines]
    return "".join("M" + "L".join(f"{x - 0.5:g} {y - 0.5:g}" for y, x in np.round(line, 1)) + "Z" for line in lines)


def outlines(labels: UInt8[np.ndarray, "height width"], background: bool = False) -> dict[int, str]:
    """The outline of each label of a map, by its value; that of background if asked for, never of UNLABELLED."""
    values = [int(value) for value in np.unique(labels) if value != UNLABELLED and (value or background)]
    return {value: outline(labels == value) for value in values}


def identifier(paths: Sequence[str]) -> str:
    """An id for paths, which equal ones share."""
    return _identifier("".join(paths).encode())


def _identifier(data: bytes) -> str:
    return f"d-{hashlib.sha256(data).hexdigest()[:16]}"


def _palette_png(values: UInt8[np.ndarray, "height width"], colours: Sequence[str], alphas: Sequence[int]) -> str:
    step = -(-max(values.shape) // LARGEST)
    image = PillowImage.fromarray(np.ascontiguousarray(values[::step, ::step]))
    image.putpalette(bytes(int(colour[i : i + 2], 16) for colour in colours for i in (1, 3, 5)))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=bytes(alphas), optimize=True)
    return _uri("png", buffer.getvalue())


def _uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
