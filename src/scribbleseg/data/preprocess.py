"""From native grids to the recipe's grid and back: resampling, cropping, normalisation."""

from dataclasses import dataclass, replace
from statistics import median

import numpy as np
import torch
from jaxtyping import Bool, Float32, UInt8
from pydantic import PositiveFloat, PositiveInt
from torch.nn import functional

from scribbleseg.types import UNLABELLED, Case, Cases, Image, Labels, Probabilities

CLIPPED_PERCENTILES = (0.5, 99.5)
"""Intensities beyond these are clipped before normalisation, so that a bright vessel does not set the scale (ours)."""

STRIDE = 16
"""An automatic slice size is a multiple of this: four poolings (scribbleseg.train.unet)."""


@dataclass(frozen=True)
class Preprocess:
    """In-plane resampling, centred crop or padding, and normalisation of each volume to zero mean and unit variance.

    Slices are not resampled through the plane: they are 5-10 mm apart in the papers' data, and the network is 2-D.

    Args:
        spacing_mm: in-plane pixel size of the grid; None is the data set's median, chosen by `resolve`.
        size: side of the square slice in pixels; None is the smallest multiple of 16 that covers every slice.
        brain: whether mean and variance are those of the brain alone: of the voxels that are not 0 in any channel of a
            skull-stripped scan. What is outside stays 0 then (Ji et al. 2019), and is background in every
            prediction and nowhere learned (ours): nobody scribbles on air, and three quarters of a slice that need no
            learning drown the rest in a mean over labelled pixels.
    """

    spacing_mm: PositiveFloat | None = None
    size: PositiveInt | None = None
    brain: bool = False

    def resolve(self, cases: Cases) -> "Preprocess":
        """The same with both numbers set, from the cases' geometries where they were None (reads every case once)."""
        if self.spacing_mm is not None and self.size is not None:
            return self
        grids = [(case.geometry.shape[1:], case.spacing_mm[1:]) for case in cases]
        spacing = self.spacing_mm or round(median(mm for _, in_plane in grids for mm in in_plane), 3)
        extent = max(n * mm / spacing for shape, in_plane in grids for n, mm in zip(shape, in_plane, strict=True))
        return replace(self, spacing_mm=spacing, size=self.size or STRIDE * int(np.ceil(round(extent) / STRIDE)))

    def resampled(self, case: Case) -> tuple[int, int]:
        """Height and width of the whole slice at the grid's spacing, before crop or padding."""
        assert self.spacing_mm is not None, "resolve() first"
        height, width = (
            max(1, round(n * mm / self.spacing_mm))
            for n, mm in zip(case.geometry.shape[1:], case.spacing_mm[1:], strict=True)
        )
        return height, width

    def image(self, case: Case) -> Float32[np.ndarray, "depth channel size size"]:
        """The case's slices on the grid, normalised; padding is air: each channel's minimum, or 0 around a brain."""
        assert self.size is not None, "resolve() first"
        normalised = normalise_brain(case.image) if self.brain else normalise(case.image)
        slices = functional.interpolate(
            torch.from_numpy(normalised.swapaxes(0, 1)), self.resampled(case), mode="bilinear", antialias=True
        ).numpy()
        floor = normalised.min(axis=(1, 2, 3))[:, None, None] * (not self.brain)
        return _fit(slices, self.size, np.broadcast_to(floor, (*slices.shape[:-2], 1, 1)))

    def labels(self, labels: Labels, case: Case) -> UInt8[np.ndarray, "depth size size"]:
        """Labels of the case's grid on this grid; strokes stay (see `resample_labels`), padding is UNLABELLED."""
        assert self.size is not None, "resolve() first"
        resampled = np.stack([resample_labels(plane, self.resampled(case)) for plane in labels])
        return _fit(resampled, self.size, UNLABELLED)

    def inside(self, case: Case) -> Bool[np.ndarray, "depth size size"]:
        """Which pixels of the grid show the image, or the brain; the others are never labelled in training."""
        assert self.size is not None, "resolve() first"
        if not self.brain:
            whole = np.ones(self.resampled(case), bool)
            return np.repeat(_fit(whole, self.size, False)[None], len(case.scribbles), axis=0)
        brain = torch.from_numpy((case.image != 0).any(axis=0)[:, None].astype(np.float32))
        shares = functional.interpolate(brain, self.resampled(case), mode="bilinear", antialias=True).numpy()
        return _fit(shares[:, 0] > 0, self.size, False)

    def native_probabilities(
        self, probabilities: Float32[np.ndarray, "depth label size size"], case: Case
    ) -> Probabilities:
        """Probabilities of this grid, interpolated to the case's own; outside crop and brain background is certain."""
        whole = np.zeros((*probabilities.shape[:2], *self.resampled(case)), np.float32)
        whole[:, 0] = 1
        _paste(whole, probabilities)
        native = functional.interpolate(torch.from_numpy(whole), case.geometry.shape[1:], mode="bilinear").numpy()
        native = np.ascontiguousarray(native.swapaxes(0, 1))
        if self.brain:
            outside = (case.image == 0).all(axis=0)
            native[:, outside] = 0
            native[0, outside] = 1
        return native

    def native_labels(self, labels: UInt8[np.ndarray, "depth size size"], case: Case) -> Labels:
        """Training labels of this grid on the case's own, by nearest pixel; outside the crop UNLABELLED."""
        whole = np.full((len(labels), *self.resampled(case)), UNLABELLED, np.uint8)
        _paste(whole, labels)
        height, width = case.geometry.shape[1:]
        rows, columns = _cells(height, whole.shape[1]), _cells(width, whole.shape[2])
        return np.ascontiguousarray(whole[:, rows][:, :, columns])


def normalise(image: Image) -> Image:
    """Each channel clipped at its 0.5th and 99.5th percentile, then shifted and scaled to mean 0, variance 1."""
    low, high = np.percentile(image, CLIPPED_PERCENTILES, axis=(1, 2, 3), keepdims=True)
    clipped = np.clip(image, low, high)
    mean, std = clipped.mean(axis=(1, 2, 3), keepdims=True), clipped.std(axis=(1, 2, 3), keepdims=True)
    return ((clipped - mean) / np.maximum(std, 1e-8)).astype(np.float32)


def normalise_brain(image: Image) -> Image:
    """Each channel shifted and scaled to mean 0, variance 1 over the brain: what is not 0 in every channel."""
    brain = (image != 0).any(axis=0)
    normalised = np.zeros_like(image)
    for channel, values in enumerate(image[:, brain]):
        scaled = (values - values.mean(dtype=np.float64)) / max(values.std(dtype=np.float64), 1e-8)
        normalised[channel, brain] = scaled
    return normalised


def resample_labels(
    labels: UInt8[np.ndarray, "height width"], shape: tuple[int, int]
) -> UInt8[np.ndarray, "new_height new_width"]:
    """Resample a slice of labels so that no stroke vanishes and none changes its class.

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
    """For each of n pixels along an axis, the one of `cells` cells along the same extent that holds its centre."""
    return np.minimum(((np.arange(n) + 0.5) * cells / n).astype(int), cells - 1)


def _overlap(whole: int, size: int) -> tuple[slice, slice]:
    """Where a centred window of `size` and an axis of `whole` pixels overlap: in the axis, in the window."""
    start = (whole - size) // 2
    return slice(max(start, 0), min(start + size, whole)), slice(max(-start, 0), min(whole - start, size))


def _fit(slices: np.ndarray, size: int, fill: np.ndarray | int) -> np.ndarray:
    """Crop or pad the last two axes to `size`, centred."""
    window = np.empty((*slices.shape[:-2], size, size), slices.dtype)
    window[...] = fill
    (rows, to_rows), (columns, to_columns) = (_overlap(n, size) for n in slices.shape[-2:])
    window[..., to_rows, to_columns] = slices[..., rows, columns]
    return window


def _paste(whole: np.ndarray, window: np.ndarray) -> None:
    """Undo `_fit`: put the window back where it was cropped from, in place."""
    (rows, to_rows), (columns, to_columns) = (_overlap(n, window.shape[-1]) for n in whole.shape[-2:])
    whole[..., rows, columns] = window[..., to_rows, to_columns]
