"""TIFF files of many pages, the slices of one label map, as napari, ilastik and ImageJ write them."""

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageSequence
import tifffile
from jaxtyping import Integer, Shaped

from scribbleseg.data.formats.checks import damage_reported
from scribbleseg.data.formats.names import ending
from scribbleseg.data.formats.pictures import BY_TIFFFILE, GREY, LOSSLESS, PALETTE, check_tiff_page
from scribbleseg.files import FileError
from scribbleseg.types import Geometry

SEPARATE = 2
"""The planar configuration of a TIFF whose samples are stored one after the other."""


def read_stack(path: Path) -> tuple[Shaped[np.ndarray, "1 depth height width"], Geometry] | None:
    """Reads the slices of a TIFF, in the order of its pages; None for one picture, which `read_labels` reads.

    TIFF says nothing of where a volume lies: the grid of the result is a picture's, with as many slices as pages.

    Raises:
        FileError: missing, damaged, coloured, compressed with losses, or of more dimensions than three.
    """
    with damage_reported(path), tifffile.TiffFile(path) as file:
        everything: list[Any] = list(file.pages)
        pages = [page for page in everything if not page.is_reduced]  # a preview is no page
        shape = [n for n in file.series[0].shape if n > 1]
        if len(pages) == 1 and len(shape) <= 2:
            return None
        page = pages[0]
        photometric, compression = (getattr(each, "name", str(each)) for each in (page.photometric, page.compression))
        # tifffile, and so napari, has stored 3 or 4 slices as separate planes of one coloured picture.
        planes = len(pages) == 1 and page.planarconfig == SEPARATE and page.samplesperpixel > 1
        grey = photometric in (GREY, PALETTE) and page.samplesperpixel == 1
        if not (grey or planes) or compression not in LOSSLESS:
            raise FileError(
                path,
                f"expected slices of one label a pixel, without losses, found {photometric} of "
                f"{page.samplesperpixel} samples, compressed by {compression}",
                "export the labels themselves, not a picture of them",
            )
        if len(shape) > 3 or any(each.shape != page.shape or each.dtype != page.dtype for each in pages):
            sizes = " x ".join(map(str, shape)) if len(shape) > 3 else "pages of different sizes"
            raise FileError(
                path,
                f"expected the slices of one volume, found a TIFF of {sizes}",
                "export one volume, without channels and time points",
            )
        for each in pages:
            check_tiff_page(path, each, max(len(pages), file.series[0].size // page.size))
        if compression not in BY_TIFFFILE:
            with PIL.Image.open(path, formats=["TIFF"]) as picture:
                voxels = np.stack([np.asarray(each) for each in PIL.ImageSequence.Iterator(picture)])
        elif len(pages) > 1:
            voxels = np.stack([each.asarray() for each in pages])
        else:  # all slices follow one header, as ImageJ writes large volumes
            voxels = file.series[0].asarray()
    slices = voxels.reshape(-1, page.imagelength, page.imagewidth)
    slices = slices.view(slices.dtype.str)  # the same, where tifffile says longlong for int64
    return slices[None], Geometry(slices.shape, np.eye(4), str(ending(path)))


def save_stack(path: Path, labels: Integer[np.ndarray, "depth height width"]) -> None:
    """Writes a label map as a grey TIFF with a page for each slice, at once; a picture where the depth is 1."""
    flat = len(labels) == 1
    tifffile.imwrite(
        path,
        labels[0] if flat else labels,
        photometric="minisblack",
        compression="zlib",
        metadata={"axes": "YX" if flat else "ZYX"},
    )
