"""Coloured drawings: which pen drew each pixel, given the "colors" that a dataset.json declares."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from scribbleseg.data.formats import colour_codes, colour_names
from scribbleseg.files import FileError
from scribbleseg.types import UNLABELLED, DataError, Image, Labels

HEX = re.compile(r"#[0-9a-fA-F]{6}")

STRAY = 0.05
"""The largest share of drawn pixels that may have a colour of no pen (ours). They are unlabelled: where a pen's edge is
smoothed, colours lie between it and what is below."""

FAINT = 0.5
"""A pixel that is less opaque than this share of the most opaque one is the smoothed edge of a stroke (ours)."""


def declared_colours(file: Path, label_names: tuple[str, ...], colours: Any) -> dict[int, int]:
    """Returns the label of each colour that `{"disc": "#ff0000", "background": "#00ff00"}` declares.

    Args:
        file: the file that declares it, for messages.
        label_names: the name of each label; "ignore" may be declared too.
        colours: what "colors" is in that file.

    Returns:
        256 * (256 * red + green) + blue -> label, or UNLABELLED.

    Raises:
        DataError: a name that is no label, something that is no colour, or a colour that stands twice.
    """
    if not isinstance(colours, dict) or not colours:
        raise DataError(f'{file}: expected "colors": {{"{label_names[-1]}": "#ff0000", ...}}, found {colours!r}')
    found: dict[int, int] = {}
    for name, colour in colours.items():
        if name not in (*label_names, "ignore"):
            known = ", ".join((*label_names, "ignore"))
            raise DataError(f'{file}: expected names of labels in "colors" ({known}), found "{name}"; declare it there')
        if not isinstance(colour, str) or not HEX.fullmatch(colour):
            raise DataError(f'{file}: expected a colour such as "#ff0000" for "{name}", found {colour!r}; write one')
        code = int(colour[1:], 16)
        if code in found:
            raise DataError(f'{file}: expected a colour of its own for each label, found "{colour}" twice; change one')
        found[code] = UNLABELLED if name == "ignore" else label_names.index(name)
    return found


def decode_colours(
    path: Path,
    pixels: UInt8[np.ndarray, "height width 4"],
    labels: Mapping[int, int],
    image: Callable[[], Image | None],
) -> tuple[Labels, Bool[np.ndarray, "height width"]]:
    """Tells the label of each pixel by its exact colour.

    The ground, where nobody drew, is what is transparent. In a drawing without transparency it is the pixels that are
    those of the image, or those of the most frequent colour that no pen has, whichever are more.

    Args:
        path: the drawing, for messages.
        pixels: its red, green, blue and alpha.
        labels: 256 * (256 * red + green) + blue -> label.
        image: reads the image below, raw intensities, `channel 1 height width`; asked only where it is needed.

    Returns:
        Labels, UNLABELLED where no pen drew, and where the ground is. Smoothed edges are UNLABELLED and no ground.

    Raises:
        FileError: more than a few per cent of the drawn pixels have colours of no pen.
    """
    codes, alpha = colour_codes(pixels), pixels[..., 3]
    found, inverse = np.unique(codes, return_inverse=True)
    by_colour = np.array([labels.get(int(code), UNLABELLED) for code in found], np.uint8)
    pen = np.isin(codes, list(labels))
    ground = alpha == 0
    if not ground.any():
        ground = _opaque_ground(codes, pen, pixels, image)
    solid = pen & ~ground & (alpha >= FAINT * float(alpha.max()))
    stray = ~pen & ~ground
    if stray.sum() > STRAY * (solid.sum() + stray.sum()):
        colours, counts = np.unique(codes[stray], return_counts=True)
        usual = np.argsort(-counts, kind="stable")[:4]
        some = [f"{name} ({counts[n]} pixels)" for name, n in zip(colour_names(colours[usual]), usual, strict=True)]
        raise FileError(
            path,
            f"expected the colours {', '.join(colour_names(list(labels)))} on a transparent or even ground, found "
            f"{stray.sum()} of {solid.sum() + stray.sum()} drawn pixels in others, such as {', '.join(some)}",
            'declare what they mean in "colors"; if the pen was antialiased (smooth edges), draw with one that is not, '
            "and export the drawing's layer alone",
        )
    return np.where(solid, by_colour[inverse].reshape(codes.shape), np.uint8(UNLABELLED)), ground


def _opaque_ground(
    codes: np.ndarray, pen: np.ndarray, pixels: np.ndarray, image: Callable[[], Image | None]
) -> Bool[np.ndarray, "height width"]:
    others, counts = np.unique(codes[~pen], return_counts=True)
    if not len(others):
        return np.zeros(codes.shape, bool)
    even = codes == others[counts.argmax()]
    if counts.max() == counts.sum() or (below := image()) is None or below.shape[2:] != codes.shape:
        return even
    if len(below) not in (1, 3):
        return even
    same = ~pen & (pixels[..., :3] == np.moveaxis(below[:, 0], 0, -1)).all(-1)
    return same if same.sum() > even.sum() else even
