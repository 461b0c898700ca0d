"""PNG pictures: grey, coloured, or with a palette whose indices are labels."""

from pathlib import Path

import numpy as np
import PIL.Image
from jaxtyping import Integer, Shaped

from scribbleseg.data.formats.checks import damage_reported
from scribbleseg.data.formats.names import PNG
from scribbleseg.types import Geometry


def read_png(path: Path, palette: bool) -> tuple[Shaped[np.ndarray, "channel 1 height width"], Geometry]:
    """Reads a picture; `palette` keeps the indices of a palette PNG instead of their colours. Raises FileError."""
    with damage_reported(path), PIL.Image.open(path) as picture:
        if picture.mode == "LA":  # how transparent a pixel is says nothing about the tissue
            pixels = np.asarray(picture.convert("L"))
        elif picture.mode in ("RGBA", "PA") or (picture.mode == "P" and not palette):
            pixels = np.asarray(picture.convert("RGB"))
        else:
            pixels = np.asarray(picture)
    channels = np.moveaxis(np.atleast_3d(pixels), -1, 0)[:, None]
    return channels, Geometry(channels.shape[1:], np.eye(4), PNG)


def save_png(path: Path, labels: Integer[np.ndarray, "1 height width"]) -> None:
    """Writes labels of depth 1 as a grey picture, at once: `write_labels` is the atomic way."""
    PIL.Image.fromarray(labels[0]).save(path, format="PNG")
