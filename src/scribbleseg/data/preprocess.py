"""Brings images and labels from native grids to the recipe's and back: resampling, cropping, normalisation."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Bool, Float32, UInt8
from pydantic import Field
from torch.nn import functional

from scribbleseg.data.brain import brain_normaliser, in_brain
from scribbleseg.data.drawn_plane import drawn_plane
from scribbleseg.data.intensities import Windows, ct_windows, normaliser
from scribbleseg.data.orientation import Orientation, Plane, Turn, common_orientation, is_oblique, plane, turn_to
from scribbleseg.data.through_plane import in_slices, resample_stack
from scribbleseg.files import first_of
from scribbleseg.types import UNLABELLED, Case, Cases, DataError, Geometry, Labels, Probabilities

log = logging.getLogger(__name__)

OUT_OF_SCALE = 10
"""A voxel that is so many times as large or as small as the others is a mistake in a header (ours)."""

STRIDE = 16
"""An automatic slice size is a multiple of this: four poolings (scribbleseg.training.unet)."""

AT_A_TIME = 16
"""Slices that are brought to a grid, segmented and brought back at a time: one batch of a network."""

MOST_PIXELS = 16384
"""On a side of a resampled slice (ours): 1 GiB a slice and channel."""

LARGEST_SIZE = 4096
"""Pixels on a side of the grid (ours): what a network keeps of a larger slice while it trains fits into no memory."""


@dataclass(frozen=True)
class Preprocess:
    """In-plane resampling, centred crop or padding, and normalisation of each volume to zero mean and unit variance.

    Slices are resampled through the plane only where `depth_mm` says so, which 2-D networks have no need of: slices are
    5-10 mm apart in ACDC, 3-4 mm in NCI-ISBI 2013 and 1 mm in BraTS.

    Args:
        spacing_mm: in-plane pixel size of the grid; None is the data set's median, chosen by `resolve`.
        size: side of the square slice in pixels; None is the smallest multiple of 16 that covers every slice.
        brain: True normalises by mean and variance of the brain alone (`data.brain.in_brain`), for skull-stripped
            scans. What is outside stays 0 then (Ji et al. 2019), is background in every prediction and is never
            learned (ours): nobody scribbles on air, and three quarters of a slice that need no learning drown the rest
            in a mean over labelled pixels.
        crops: whether the network's field of view ends with the grid: what lies outside is background in every
            prediction, as in the papers, whose training images are cut. False segments images whole that are larger
            than the grid. None leaves it to `resolve`: True if training slices are larger than a `size` that the recipe
            gives.
        largest_size: the largest side that `resolve` chooses: where slices need more pixels at the data set's spacing,
            the grid is made coarser until they do not. None is no limit.
        usual_mm: the median pixel size of the training images, written down by `resolve`: an image whose pixels are 10
            times as large or as small is refused.
        windows: for each channel the lowest and the highest intensity that are told apart, in the image's unit; a
            channel of which that is None, and all of them where there are none, is clipped at its own percentiles, for
            its intensities have no unit. None leaves it to `resolve`: CT has windows (`intensities.ct_windows`).
        depth_mm: the distance of the grid's slices; None keeps the slices of each case.
        plane: that of the slices. None stacks them along the axis of the longest voxels, or, where voxels are of much
            the same length along all of them, cuts them in the plane that was drawn in (`drawn_plane`).
        orientation: that of the slices, written down by `resolve`: most training images'.
    """

    spacing_mm: Annotated[float, Field(ge=0.001, le=1000)] | None = None
    size: Annotated[int, Field(gt=0, le=LARGEST_SIZE)] | None = None
    brain: bool = False
    crops: bool | None = None
    largest_size: Annotated[int, Field(ge=STRIDE, le=LARGEST_SIZE)] | None = None
    usual_mm: Annotated[float, Field(ge=0.001, le=1000)] | None = None
    plane: Plane | None = None
    orientation: Orientation | None = None
    windows: Windows | None = ()
    depth_mm: Annotated[float, Field(ge=0.001, le=1000)] | None = None

    def __post_init__(self) -> None:
        for window in self.windows or ():
            if window is not None and not window[0] < window[1]:
                raise ValueError(f"windows: expected the lower intensity first, got {list(window)}")

    def resolve(self, cases: Cases) -> "Preprocess":
        """Returns the same with what was None set from the cases: from their grids; `windows` from a few images.

        Where the grids do not say which plane the slices are of, the strokes of a few cases do.

        Raises:
            DataError: a case whose pixels are 10 times as large or as small as they usually are, or slices of more than
                `LARGEST_SIZE` pixels on a side.
        """
        geometries = {name: cases.geometry(name) for name in cases.names}
        drawn = None if self.plane else drawn_plane(cases, geometries)
        orientation = self.orientation or common_orientation(geometries.values(), self.plane or drawn)
        self._say_what_is_not_cut_so(geometries, orientation, drawn)
        turns = {name: turn_to(orientation, each, self.plane) for name, each in geometries.items()}
        in_plane = {name: turns[name].spacing_mm(each)[1:] for name, each in geometries.items()}
        for name, usual in out_of_scale(in_plane).items():
            raise _absurd(name, geometries[name], usual, "most training cases have them")
        grids = [(turns[name].shape(each)[1:], in_plane[name]) for name, each in geometries.items()]
        usual_mm = _rounded(median(mm for sizes in in_plane.values() for mm in sizes))
        spacing = self.spacing_mm or usual_mm
        extent_mm = max(n * mm for shape, sizes in grids for n, mm in zip(shape, sizes, strict=True))
        if self.largest_size and self.size is None and self.spacing_mm is None:
            largest = STRIDE * (self.largest_size // STRIDE)
            spacing = max(spacing, _rounded(1.001 * extent_mm / largest))
        size = self.size or STRIDE * int(np.ceil(round(extent_mm / spacing) / STRIDE))
        if size > LARGEST_SIZE:
            raise DataError(
                f"recipe field preprocess.spacing_mm: expected slices of at most {LARGEST_SIZE} pixels on a side, got "
                f"{size} with pixels of {spacing:g} mm; give larger pixels, or the size of a crop (preprocess.size)"
            )
        crops = extent_mm / spacing > size + 1 if self.crops is None else self.crops
        resolved = replace(self, spacing_mm=spacing, size=size, usual_mm=usual_mm, crops=crops, orientation=orientation)
        return replace(resolved, windows=ct_windows(cases)) if self.windows is None else resolved

    def _say_what_is_not_cut_so(
        self, geometries: Mapping[str, Geometry], orientation: str | None, drawn: Plane | None
    ) -> None:
        """Warns of volumes to which the plane that is asked for does not apply, and of strokes of another plane."""
        if drawn and orientation and plane(orientation) != drawn:
            log.warning(
                f"scribbles were drawn in {drawn} slices, and the recipe's orientation {orientation} cuts "
                f"{plane(orientation)} ones, in which they are dots; draw in these, or leave preprocess.orientation out"
            )
        askew = [name for name, geometry in geometries.items() if is_oblique(geometry)]
        if askew and self.plane not in (None, "stored"):
            log.warning(
                f"preprocess.plane={self.plane} does not apply to volumes that lie askew ({first_of(askew)}): they are "
                "cut into slices as their files have them"
            )

    def turn(self, geometry: Geometry) -> Turn:
        """Returns how arrays on a native grid are brought into the grid's plane and orientation."""
        return turn_to(self.orientation, geometry, self.plane)

    def side(self, geometry: Geometry) -> int:
        """Returns the side of the square, in pixels of the grid, that is segmented of an image."""
        assert self.size is not None, "resolve() first"
        side = max(self.resampled(geometry))
        return self.size if self.crops is not False or side <= self.size + 1 else side  # a pixel more is rounding

    def resampled(self, geometry: Geometry) -> tuple[int, int]:
        """Returns height and width of the whole slice at the grid's spacing, before crop or padding.

        Raises DataError for more than `MOST_PIXELS` on a side.
        """
        assert self.spacing_mm is not None, "resolve() first"
        turn = self.turn(geometry)
        sides = zip(turn.shape(geometry)[1:], turn.spacing_mm(geometry)[1:], strict=True)
        height, width = (max(1, round(n * mm / self.spacing_mm)) for n, mm in sides)
        if max(height, width) > MOST_PIXELS:
            raise DataError(
                f"preprocess.spacing_mm: expected slices of at most {MOST_PIXELS} pixels on a side, got {height} x "
                f"{width} with {self.spacing_mm:g} mm; give larger pixels"
            )
        return height, width

    def depth(self, geometry: Geometry) -> int:
        """Returns the number of the grid's slices. Raises DataError for more than `MOST_PIXELS`."""
        turn = self.turn(geometry)
        n = turn.shape(geometry)[0]
        if self.depth_mm is None:
            return n
        depth = max(1, round(n * turn.spacing_mm(geometry)[0] / self.depth_mm))
        if depth > MOST_PIXELS:
            raise DataError(
                f"preprocess.depth_mm: expected at most {MOST_PIXELS} slices, got {depth} with {self.depth_mm:g} mm; "
                "give a larger distance"
            )
        return depth

    def voxel_mm(self, geometry: Geometry) -> tuple[float, float, float]:
        """Returns the voxel size of the grid, along depth, height and width."""
        assert self.spacing_mm is not None, "resolve() first"
        distance = self.depth_mm or self.turn(geometry).spacing_mm(geometry)[0]
        return distance, self.spacing_mm, self.spacing_mm

    def image(self, case: Case, side: int | None = None) -> Float32[np.ndarray, "depth channel side side"]:
        """Returns the case's slices on the grid, normalised. Padding is air: the channel's minimum, 0 for a brain.

        Args:
            case: with an image.
            side: that of the square slices, in pixels; None is the grid's.

        Raises:
            DataError: pixels that are 10 times as large or as small as in training: the header is likely wrong.
        """
        return np.concatenate(list(self.image_parts(case, side)))

    def image_parts(
        self, case: Case, side: int | None = None
    ) -> Iterator[Float32[np.ndarray, "slice channel side side"]]:
        """Yields what `image` returns, AT_A_TIME slices at a time: of a large volume, a copy may not fit in memory.

        The whole is held all the same where slices are resampled through the plane.
        """
        parts = self._in_plane(case, side)
        if self.depth_mm is not None:
            stack = resample_stack(np.concatenate(list(parts)), self.depth(case.geometry))
            parts = (stack[start : start + AT_A_TIME] for start in range(0, len(stack), AT_A_TIME))
        yield from parts

    def _in_plane(self, case: Case, side: int | None) -> Iterator[Float32[np.ndarray, "slice channel side side"]]:
        assert self.size is not None, "resolve() first"
        turn = self.turn(case.geometry)
        if self.usual_mm and any(_differ(mm, self.usual_mm) for mm in turn.spacing_mm(case.geometry)[1:]):
            raise _absurd(case.name, case.geometry, self.usual_mm, "the training images have them")
        if self.windows and len(self.windows) != len(case.image):
            raise DataError(
                f"case {case.name}: expected {len(self.windows)} channels, one for each of preprocess.windows, got "
                f"{len(case.image)}; give every case the same channels"
            )
        scaled = brain_normaliser(case.image) if self.brain else normaliser(case.image, self.windows or ())
        lowest = case.image.min(axis=(1, 2, 3), keepdims=True)  # scaling keeps the order
        floor = (scaled(lowest) * (not self.brain))[..., 0]
        slices, shape = turn(case.image), self.resampled(case.geometry)
        for start in range(0, slices.shape[1], AT_A_TIME):
            part = np.ascontiguousarray(scaled(slices[:, start : start + AT_A_TIME]))
            resampled = functional.interpolate(
                torch.from_numpy(part.swapaxes(0, 1)), shape, mode="bilinear", antialias=True
            ).numpy()
            yield _fit(resampled, side or self.size, np.broadcast_to(floor, (*resampled.shape[:-2], 1, 1)))

    def labels(self, labels: Labels, geometry: Geometry) -> UInt8[np.ndarray, "depth size size"]:
        """Returns labels of a native grid on this grid; strokes stay (`resample_labels`), padding is UNLABELLED."""
        return self.through_plane(self.labels_in_plane(labels, geometry), geometry)

    def labels_in_plane(self, labels: Labels, geometry: Geometry) -> UInt8[np.ndarray, "slice size size"]:
        """Returns the same in the native slices, before they are resampled through the plane."""
        assert self.size is not None, "resolve() first"
        shape, slices = self.resampled(geometry), self.turn(geometry)(labels)
        return _fit(np.stack([resample_labels(each, shape) for each in slices]), self.size, UNLABELLED)

    def through_plane(
        self, labels: UInt8[np.ndarray, "slice size size"], geometry: Geometry
    ) -> UInt8[np.ndarray, "depth size size"]:
        """Returns labels of native slices in the grid's; strokes stay, and are as thick as the slice they were in."""
        depth = self.depth(geometry)
        if depth == len(labels):
            return labels
        columns = labels.reshape(len(labels), -1)
        return resample_labels(columns, (depth, columns.shape[1])).reshape(depth, *labels.shape[1:])

    def inside(self, case: Case) -> Bool[np.ndarray, "depth size size"]:
        """Returns which pixels of the grid show the image, or the brain; the others are never labelled in training."""
        assert self.size is not None, "resolve() first"
        if not self.brain:
            whole = np.ones(self.resampled(case.geometry), bool)
            return np.repeat(_fit(whole, self.size, False)[None], self.depth(case.geometry), axis=0)
        in_slices = self.turn(case.geometry)(in_brain(case.image))[:, None]
        brain = torch.from_numpy(np.ascontiguousarray(in_slices, np.float32))
        shares = functional.interpolate(brain, self.resampled(case.geometry), mode="bilinear", antialias=True).numpy()
        return _fit(resample_stack(shares[:, 0], self.depth(case.geometry)) > 0, self.size, False)

    def native_probabilities(
        self, probabilities: Float32[np.ndarray, "depth label side side"], case: Case
    ) -> Probabilities:
        """Interpolates probabilities of this grid to the native one; all is background outside, and off the brain."""
        native = np.empty((probabilities.shape[1], *case.geometry.shape), np.float32)
        starts = range(0, len(probabilities), AT_A_TIME)
        parts = (probabilities[start : start + AT_A_TIME] for start in starts)
        slices = self.turn(case.geometry)(native)
        for where, part in self.native_parts(parts, case):
            slices[:, where] = part.swapaxes(0, 1)
        return native

    def native_parts(
        self, parts: Iterable[Float32[np.ndarray, "slice label side side"]], case: Case
    ) -> Iterator[tuple[slice, Float32[np.ndarray, "slice label height width"]]]:
        """Yields what `native_probabilities` returns, some slices at a time, in the grid's plane and orientation.

        Args:
            parts: probabilities of this grid, from the first slice to the last, so many at a time.
            case: with the image.

        Yields:
            Which slices they are after `turn`, and their probabilities at native resolution.
        """
        turn, start = self.turn(case.geometry), 0
        (depth, *shape), resampled = turn.shape(case.geometry), self.resampled(case.geometry)
        for part in in_slices(parts, self.depth(case.geometry), depth):
            whole = np.zeros((*part.shape[:2], *resampled), np.float32)
            whole[:, 0] = 1
            _paste(whole, part)
            native = functional.interpolate(torch.from_numpy(whole), shape, mode="bilinear").numpy()
            where = slice(start, start + len(part))
            start = where.stop
            if self.brain:
                outside = ~in_brain(turn(case.image)[:, where])
                background = np.zeros(native.shape[1], np.float32)
                background[0] = 1
                native.swapaxes(0, 1)[:, outside] = background[:, None]
            yield where, native

    def native_labels(self, labels: UInt8[np.ndarray, "depth size size"], geometry: Geometry) -> Labels:
        """Returns training labels of this grid on a native one, by nearest pixel; outside the crop UNLABELLED."""
        whole = np.full((len(labels), *self.resampled(geometry)), UNLABELLED, np.uint8)
        _paste(whole, labels)
        turn = self.turn(geometry)
        slices, rows, columns = (_cells(n, cells) for n, cells in zip(turn.shape(geometry), whole.shape, strict=True))
        return turn.back(whole[slices][:, rows][:, :, columns])


def out_of_scale(sizes: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Returns the usual voxel size, by name, of cases that have one 10 times as large or as small along some axis.

    Args:
        sizes: voxel sizes by the case's name, for each the same axes.
    """
    table = np.array(list(sizes.values()))
    usual = np.quantile(table, 0.5, axis=0, method="lower")
    found = {}
    for name, size in zip(sizes, table, strict=True):
        for mm, usual_mm in zip(size, usual, strict=True):
            if _differ(mm, usual_mm):
                found[name] = float(usual_mm)
    return found


def _rounded(mm: float) -> float:
    """Returns four significant digits."""
    return float(f"{mm:.4g}")


def _differ(mm: float, usual_mm: float) -> bool:
    return not usual_mm / OUT_OF_SCALE < mm < usual_mm * OUT_OF_SCALE


def _absurd(name: str, geometry: Geometry, usual_mm: float, where: str) -> DataError:
    found = " x ".join(f"{mm:.3g}" for mm in geometry.spacing_mm)
    return DataError(
        f"case {name}: expected pixels of about {usual_mm:.3g} mm, as {where}, found voxels of {found} mm "
        "(depth x height x width); its header is likely wrong or in another unit: correct it, or leave the case out"
    )


def resample_labels(
    labels: UInt8[np.ndarray, "height width"], shape: tuple[int, int]
) -> UInt8[np.ndarray, "new_height new_width"]:
    """Resamples a slice of labels so that no stroke vanishes and none changes its class.

    Every labelled pixel votes for the cell its centre falls into; a cell takes the class with most votes, the rarer
    class of the slice where they tie, and never UNLABELLED while it has a vote. A class that would lose all its cells
    keeps the one where it has most votes. Cells without any pixel's centre, which exist only where the new grid is
    finer, copy the nearest pixel.
    """
    height, width = shape
    cells = _cells(labels.shape[0], height)[:, None] * width + _cells(labels.shape[1], width)
    nearest = labels[_cells(height, labels.shape[0])][:, _cells(width, labels.shape[1])]
    present = [int(value) for value in np.unique(labels) if value != UNLABELLED]
    if not present:
        return np.ascontiguousarray(nearest)
    votes = np.stack([np.bincount(cells[labels == value], minlength=height * width) for value in present])
    rarity = 1 / (1 + votes.sum(axis=1, keepdims=True))  # below 1: it decides between equal numbers of votes only
    winner = np.argmax(votes + rarity * (votes > 0), axis=0)
    for lost in set(range(len(present))) - set(winner[votes.any(axis=0)].tolist()):
        winner[votes[lost].argmax()] = lost
    voted = votes.any(axis=0).reshape(shape)
    return np.where(voted, np.array(present, np.uint8)[winner].reshape(shape), nearest)


def _cells(n: int, cells: int) -> np.ndarray:
    """Returns for each of n pixels along an axis which of `cells` cells along the same extent holds its centre."""
    return np.minimum(((np.arange(n) + 0.5) * cells / n).astype(int), cells - 1)


def _overlap(whole: int, size: int) -> tuple[slice, slice]:
    """Returns where a centred window of `size` and an axis of `whole` pixels overlap: in the axis, in the window."""
    start = (whole - size) // 2
    return slice(max(start, 0), min(start + size, whole)), slice(max(-start, 0), min(whole - start, size))


def _fit(slices: np.ndarray, size: int, fill: np.ndarray | int) -> np.ndarray:
    """Crops or pads the last two axes to `size`, centred."""
    window = np.empty((*slices.shape[:-2], size, size), slices.dtype)
    window[...] = fill
    (rows, to_rows), (columns, to_columns) = (_overlap(n, size) for n in slices.shape[-2:])
    window[..., to_rows, to_columns] = slices[..., rows, columns]
    return window


def _paste(whole: np.ndarray, window: np.ndarray) -> None:
    """Undoes `_fit`: puts the window back where it was cropped from, in place."""
    (rows, to_rows), (columns, to_columns) = (_overlap(n, window.shape[-1]) for n in whole.shape[-2:])
    whole[..., rows, columns] = window[..., to_rows, to_columns]
