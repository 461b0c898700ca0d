"""Brings drawings onto the grid of their image: the same grid, in whichever order its axes are stored."""

from pathlib import Path

import numpy as np
from jaxtyping import Integer

from scribbleseg.data.drawing import Drawing
from scribbleseg.data.formats import PICTURES, Segment, check_same_grid
from scribbleseg.data.orientation import codes, is_picture
from scribbleseg.files import FileError
from scribbleseg.types import Geometry

REMEDY = (
    "give the image that it was drawn on, or resample it onto that grid (labels with nearest neighbours); lines that "
    "were resampled may have holes"
)


def on_grid(
    path: Path,
    layers: Integer[np.ndarray, "layer depth height width"],
    geometry: Geometry,
    segments: tuple[Segment, ...] | None,
    image: tuple[str, Geometry],
) -> Integer[np.ndarray, "layer depth2 height2 width2"]:
    """Returns the layers on the grid of the image; voxels are reordered, never resampled.

    Args:
        path: the file that they came from, for messages.
        layers: values as they stand in the file.
        geometry: their grid. TIFF and PNG have none: they count as the image's where the shapes are the same.
        segments: those of 3D Slicer, which stores only the box that was drawn in; None for files of whole images.
        image: the name of the case, and the image's grid.

    Raises:
        FileError: another grid; the message names both.
    """
    name, wanted = image
    if segments is None and (geometry.suffix in PICTURES or is_picture(wanted)):
        if geometry.shape != wanted.shape:
            raise _another(path, geometry, name, wanted)
        return layers
    if segments is not None and geometry.shape == (1, 1, 1) and not layers.any():
        return np.zeros((len(layers), *wanted.shape), layers.dtype)  # how Slicer writes that nothing was drawn
    stored = geometry
    if not is_picture(wanted):
        layers, geometry = _reordered(path, layers, geometry, image)
    if segments is None:
        try:
            check_same_grid(path, geometry, Path(name), wanted)
        except FileError as error:
            raise _another(path, stored, name, wanted) from error
        return layers
    drawn = [Drawing(path, geometry, values, segments).on(Path(name), wanted).values for values in layers]
    return np.stack([values for values in drawn if values is not None])


def _reordered(
    path: Path,
    layers: Integer[np.ndarray, "layer depth height width"],
    geometry: Geometry,
    image: tuple[str, Geometry],
) -> tuple[Integer[np.ndarray, "layer depth2 height2 width2"], Geometry]:
    """Brings the axes into the order and the directions that the image has them in. Raises FileError."""
    name, wanted = image
    relative = np.linalg.solve(wanted.affine[:3, :3], geometry.affine[:3, :3])
    signs = np.round(relative)
    once = np.abs(signs).sum(axis=0).tolist() == [1, 1, 1] == np.abs(signs).sum(axis=1).tolist()
    if not once:  # rotated, or of another spacing
        raise _another(path, geometry, name, wanted)
    axes = [int(np.abs(signs[axis]).argmax()) for axis in range(3)]  # x, y and z of the image, among those of the file
    flips = [signs[axis, own] < 0 for axis, own in enumerate(axes)]
    affine = geometry.affine.copy()
    for own, flip in zip(axes, flips, strict=True):
        if flip:
            affine[:3, 3] += (geometry.shape[2 - own] - 1) * geometry.affine[:3, own]
    affine[:3, :3] = geometry.affine[:3, axes] * np.where(flips, -1.0, 1.0)
    order = [2 - own for own in reversed(axes)]
    turned = layers.transpose(0, *(1 + axis for axis in order))
    turned = np.flip(turned, tuple(1 + at for at, flip in enumerate(reversed(flips)) if flip))
    return np.ascontiguousarray(turned), Geometry(turned.shape[1:], affine, geometry.suffix)


def _another(path: Path, found: Geometry, name: str, wanted: Geometry) -> FileError:
    return FileError(path, f"expected the grid of the image of {name} ({_said(wanted)}), found {_said(found)}", REMEDY)


def _said(geometry: Geometry) -> str:
    shape = " x ".join(map(str, geometry.shape))
    if is_picture(geometry):
        return f"{shape} pixels without a place in space"
    spacing = " x ".join(f"{mm:.4g}" for mm in geometry.spacing_mm)
    origin = ", ".join(f"{mm:.4g}" for mm in geometry.affine[:3, 3])
    return f"{shape} voxels of {spacing} mm, axes towards {codes(geometry)}, first voxel at {origin} mm"
