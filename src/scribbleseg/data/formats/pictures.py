"""Pictures: PNG, TIFF and JPEG, grey or coloured, or with a palette whose indices are labels."""

import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import tifffile
from jaxtyping import Integer, Shaped, UInt8

from scribbleseg.data.formats.checks import DEFLATE_RATIO, check_claim, damage_reported
from scribbleseg.data.formats.checksums import check_png
from scribbleseg.data.formats.content import holds
from scribbleseg.data.formats.names import JPEG, PNG, TIFF, ending
from scribbleseg.files import FileError
from scribbleseg.types import Geometry

GREY_ALPHA, RGB_OR_RGBA = 4, (2, 6)
"""The colour types of PNG with several samples a pixel."""

SAMPLES = {GREY_ALPHA: 2, 2: 3, 6: 4}
"""The samples of a pixel of those colour types; others have one."""

BY_TIFFFILE = ("NONE", "ADOBE_DEFLATE", "DEFLATE", "PACKBITS")
"""The compressions of TIFF that tifffile undoes by itself; Pillow undoes others."""

LOSSLESS = (*BY_TIFFFILE, "LZW", "LZMA", "ZSTD", "CCITTRLE", "CCITTFAX3", "CCITTFAX4")

RATIOS = {"NONE": 1, "ADOBE_DEFLATE": DEFLATE_RATIO, "DEFLATE": DEFLATE_RATIO, "PACKBITS": 64}
"""What each compression makes of a byte at the most; others have no bound that helps."""

TIFF_HEADER = 8
"""The bytes that a TIFF begins with, at the least, before any pixels."""

MOST_PAGES = 1000
"""The most pages of a TIFF that are looked at: there may be one, and previews of it."""

GREY, RGB, PALETTE, YCBCR = "MINISBLACK", "RGB", "PALETTE", "YCBCR"
"""What the samples of a TIFF may be; inverted grey, CMYK and others are refused."""


def read_picture(path: Path, labels: bool) -> tuple[Shaped[np.ndarray, "channel 1 height width"], Geometry]:
    """Reads a picture without its transparency, which says nothing about tissue.

    Args:
        path: the file.
        labels: whether it is a label map: the indices of a palette are kept, instead of their colours, and what was
            compressed with losses is refused.

    Raises:
        FileError: missing, damaged, of several pages, CMYK, or another kind that would be misread.
    """
    pixels, alpha = _pixels(path, indices=labels, lossless=labels)
    channels = np.moveaxis(pixels[..., : pixels.shape[-1] - alpha], -1, 0)[:, None]
    return channels, _geometry(path, pixels)


def read_colours(path: Path) -> tuple[UInt8[np.ndarray, "height width 4"], Geometry] | None:
    """Reads a drawing as red, green, blue and alpha, each 0..255; None for one without colours.

    Raises:
        FileError: as `read_picture`, or colours of more than 8 bits.
    """
    pixels, alpha = _pixels(path, indices=False, lossless=True)
    if pixels.shape[-1] - alpha != 3:
        return None
    if pixels.dtype != np.uint8:
        raise FileError(path, f"expected colours of 8 bits, found {pixels.dtype}", "save it with 8 bits a channel")
    opaque = np.full((*pixels.shape[:2], 1 - alpha), 255, np.uint8)
    return np.concatenate([pixels, opaque], -1), _geometry(path, pixels)


def save_png(path: Path, labels: Integer[np.ndarray, "1 height width"]) -> None:
    """Writes labels of depth 1 as a grey picture, at once: `write_labels` is the atomic way."""
    PIL.Image.fromarray(labels[0]).save(path, format="PNG")


def colour_names(codes: Sequence[int] | np.ndarray) -> list[str]:
    """Returns colours as they are written in a dataset.json, such as "#ff0000", given 256 * (256 * r + g) + b."""
    return [f"#{int(code):06x}" for code in codes]


def colour_codes(pixels: UInt8[np.ndarray, "height width 4"]) -> Integer[np.ndarray, "height width"]:
    """Returns 256 * (256 * r + g) + b for each pixel."""
    return pixels[..., :3].astype(np.int32) @ np.array([65536, 256, 1], np.int32)


def pens(path: Path, most: int = 6) -> list[str]:
    """Returns the most frequent colours of a drawing but that of its ground, such as "#ff0000", for a message."""
    read = read_colours(path)
    if read is None:
        return []
    clear = read[0][..., 3] == 0
    found, counts = np.unique(colour_codes(read[0])[~clear], return_counts=True)
    usual = found[np.argsort(-counts, kind="stable")]
    return colour_names(usual[0 if clear.any() else 1 :][:most])


def _geometry(path: Path, pixels: np.ndarray) -> Geometry:
    return Geometry((1, *pixels.shape[:2]), np.eye(4), str(ending(path)))


def _pixels(path: Path, indices: bool, lossless: bool) -> tuple[Shaped[np.ndarray, "height width channel"], bool]:
    """Reads the pixels as stored, and whether the last channel is alpha; `indices` keeps those of a palette."""
    if lossless and path.is_file() and holds(path, JPEG):  # whatever its name says
        raise FileError(
            path,
            "expected a label map or a drawing as PNG or TIFF, found JPEG, whose compression changes values",
            "save it as PNG from the program that it was drawn in; a converted JPEG is no better",
        )
    with damage_reported(path):
        if ending(path) in TIFF:
            return _tiff(path, indices, lossless)
        if ending(path) == PNG:
            _check_png_header(path)
            check_png(path)
        if ending(path) == PNG and (deep := _deep_png(path)) is not None:
            return deep, deep.shape[-1] == 4
        with _opened(path, "PNG" if ending(path) == PNG else "JPEG") as picture:
            if picture.mode not in ("1", "L", "LA", "I", "I;16", "P", "PA", "RGB", "RGBA"):
                raise FileError(path, f"expected grey or RGB, found {picture.mode}", "save it as RGB or grey")
            if getattr(picture, "is_animated", False) and picture.format == "PNG":
                raise FileError(path, "expected one picture, found an animation", "save each as a file of its own")
            upright = PIL.ImageOps.exif_transpose(picture)  # as people see it, and draw on it
            if (upright.mode in ("P", "PA") and not indices) or (
                upright.mode == "RGB" and "transparency" in upright.info
            ):
                upright = upright.convert("RGBA")
            pixels = np.asarray(upright)
            return np.atleast_3d(pixels), upright.mode in ("LA", "RGBA", "PA")


@contextmanager
def _opened(path: Path, kind: str) -> Iterator[PIL.Image.Image]:
    """Opens a picture of one format by Pillow, whose own bound on pixels is below ours. Raises FileError beyond it."""
    with warnings.catch_warnings(action="ignore", category=PIL.Image.DecompressionBombWarning):
        try:
            with PIL.Image.open(path, formats=[kind]) as picture:  # no other: some run programs
                check_claim(path, (*picture.size, len(picture.getbands())), 1, None)
                yield picture
        except PIL.Image.DecompressionBombError as error:
            raise FileError(path, f"expected fewer pixels: {error}", "cut it into smaller pictures") from error


def _check_png_header(path: Path) -> None:
    """Raises FileError for a PNG that claims more than its compressed bytes can hold; Pillow would allocate it."""
    with path.open("rb") as file:
        header = file.read(26)
    if header[12:16] != b"IHDR":
        return  # no PNG, as its reader will say
    width, height, bits, kind = struct.unpack(">16xIIBB", header)
    check_claim(path, (width, height, SAMPLES.get(kind, 1)), bits, path.stat().st_size * DEFLATE_RATIO)


def _deep_png(path: Path) -> Shaped[np.ndarray, "height width channel"] | None:
    """Reads a PNG with several samples of 16 bits a pixel, of which Pillow would keep 8; None for any other."""
    import SimpleITK

    with path.open("rb") as file:
        header = file.read(26)
    if len(header) < 26 or header[24] != 16 or header[25] not in (GREY_ALPHA, *RGB_OR_RGBA):
        return None
    if header[25] == GREY_ALPHA:
        raise FileError(path, "expected grey without alpha where it has 16 bits, found alpha", "save it without alpha")
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(path, imageIO="PNGImageIO"))


def _tiff(path: Path, indices: bool, lossless: bool) -> tuple[Shaped[np.ndarray, "height width channel"], bool]:
    with tifffile.TiffFile(path) as file:
        pages: list[Any] = list(islice(file.pages, MOST_PAGES))
        page = pages[0]
        n_pages = sum(not each.is_reduced for each in pages)  # a preview is no page
        if n_pages < 2 and len(pages) < MOST_PAGES:  # else series would look at all of them, without end if damaged
            n_pages = max(file.series[0].size // page.size, page.shaped[1])
        if n_pages > 1 or len(pages) == MOST_PAGES:
            raise FileError(
                path,
                f"expected one picture, found a TIFF of {max(n_pages, len(pages))} pages",
                "save each page as a file of its own, or a volume as NIfTI or NRRD",
            )
        check_tiff_page(path, page)
        photometric, compression = (getattr(each, "name", str(each)) for each in (page.photometric, page.compression))
        orientation = page.tags.get("Orientation")
        if photometric not in (GREY, RGB, PALETTE, YCBCR) or (orientation and orientation.value != 1):
            what = f"{photometric}, orientation {orientation.value if orientation else 1}"
            raise FileError(
                path, f"expected grey (0 is black), RGB or a palette, upright, found {what}", "save it so, or as PNG"
            )
        if lossless and compression not in LOSSLESS:
            raise FileError(
                path,
                f"expected a label map or a drawing without losses, found one compressed by {compression}",
                "save it as PNG from the program that it was drawn in",
            )
        pixels = _decoded(path, page, compression)
        alpha = [each.name for each in page.extrasamples][-1:] in (["UNASSALPHA"], ["ASSOCALPHA"])
        if photometric == PALETTE and not indices:
            table = page.colormap >> (8 if page.colormap.max() > 255 else 0)  # some write 8 bits, against the rules
            return table.astype(np.uint8).T[pixels[..., 0]], False
    return pixels, alpha


def check_tiff_page(path: Path, page: Any, n_pages: int = 1) -> None:
    """Raises FileError for so many pages that claim more than the file can hold, ValueError for one with parts nowhere.

    Those would be read as zeros.
    """
    compression = getattr(page.compression, "name", str(page.compression))
    ratio = RATIOS.get(compression)
    there = None if ratio is None else path.stat().st_size * ratio
    check_claim(path, (n_pages, *page.shape) if n_pages > 1 else page.shape, page.bitspersample, there)
    if min(page.dataoffsets, default=0) < TIFF_HEADER or min(page.databytecounts, default=0) < 1:
        raise ValueError("its header does not say where all of its pixels are")


def _decoded(path: Path, page: Any, compression: str) -> Shaped[np.ndarray, "height width channel"]:
    """The samples of one page, by tifffile, or by Pillow where tifffile has no decoder."""
    if compression in BY_TIFFFILE and int(page.predictor) in (1, 2):
        separate, _, height, width, together = page.shaped
        return np.moveaxis(page.asarray().reshape(separate, height, width, together), 0, -2).reshape(height, width, -1)
    try:
        with _opened(path, "TIFF") as picture:
            pixels = np.atleast_3d(np.asarray(picture))
    except PIL.UnidentifiedImageError:
        pixels = np.empty(0)
    if pixels.dtype != page.dtype or pixels.size != page.size:
        raise FileError(
            path,
            f"expected a compression that can be undone for {page.dtype} samples, found {compression}",
            "save it without compression, or with deflate (zip) and no predictor",
        )
    return pixels
