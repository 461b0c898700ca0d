"""One pass of a network over slices or many with dropout, and the segmenter that returns to the image's own grid."""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from lightning_fabric import Fabric
from scipy.special import entr
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.dropout import _DropoutNd

from scribbleseg.data.blocks import Window, channels_last, cut, with_neighbours
from scribbleseg.data.orientation import unit_of
from scribbleseg.data.preprocess import Preprocess
from scribbleseg.progress import within
from scribbleseg.relabel.components import only_largest
from scribbleseg.types import Case, DataError, Labels, Parts, Probabilities

log = logging.getLogger(__name__)

BATCH = 16
"""Slices in one forward pass."""

DIVERGED = "expected finite logits, got others: the network's training has diverged; train it again, more slowly"


@dataclass(frozen=True)
class Views:
    """How a network looks at slices that it relabels or segments.

    Args:
        rotations: degrees, for test-time augmentation: slices are also seen rotated by each of them. Probabilities are
            the mean of all views that show the pixel.
        window: side in pixels of what the network learned from. Larger slices are seen in squares of that side that
            overlap by half, weighted by a Gaussian around each square's centre, as nnU-Net does (Isensee et al. 2021):
            a network that has always had a border within reach errs where there is none. None is any side.
        neighbours: so many slices below and above each slice are further channels of it.
        depth: the number of slices in the blocks that a 3-D network learned from. It sees blocks of as many slices,
            which overlap by half, weighted by a Gaussian through the block. None sees slices.
    """

    rotations: tuple[float, ...] = ()
    window: int | None = None
    neighbours: int = 0
    depth: int | None = None

    @property
    def of_single_slices(self) -> bool:
        """Whether a slice is seen without those beside it; else the whole stack of a case has to be given."""
        return not self.neighbours and self.depth is None


@dataclass(frozen=True, eq=False)
class Samples:
    """The running moments of T stochastic passes, which stand for their logits (Can et al. 2018, section 2.4).

    Args:
        passes: T, at least 2.
        mean: the mean of the logits over the passes; those of a CRF-RNN are the RNN's input.
        variance: the unbiased variance of the logits (divided by T - 1).
        probabilities: mean over the passes of the softmax of the whole network's output.
        mean_entropy: mean over the passes of the softmax's entropy, in nats.
    """

    passes: int
    mean: Float32[np.ndarray, "slice label height width"]
    variance: Float32[np.ndarray, "slice label height width"]
    probabilities: Float32[np.ndarray, "slice label height width"]
    mean_entropy: Float32[np.ndarray, "slice height width"]

    @property
    def entropy(self) -> Float32[np.ndarray, "slice height width"]:
        """The entropy of the mean softmax, in nats: all of the uncertainty, the image's own ambiguity included."""
        return entr(self.probabilities).sum(axis=1)

    @property
    def mutual_information(self) -> Float32[np.ndarray, "slice height width"]:
        """The mutual information of label and weights, in nats: how far the passes disagree.

        Houlsby et al. 2011, arXiv:1112.5745.
        """
        return np.maximum(self.entropy - self.mean_entropy, 0)  # below 0 by rounding only


def predict(
    fabric: Fabric,
    network: nn.Module,
    images: Float32[np.ndarray, "slice channel height width"],
    views: Views = Views(),  # a frozen dataclass
) -> Float32[np.ndarray, "slice label height width"]:
    """Softmax probabilities of every slice; dropout is off and batch statistics are the running ones.

    Args:
        fabric: where it runs.
        network: any of the recipes' networks.
        images: square slices, of the grid or larger; all of a case, in order, unless `views.of_single_slices`.
        views: how it looks at them.

    Raises:
        DataError: the network's logits are not finite.
    """
    return np.concatenate(list(predict_parts(fabric, network, images, views)))


def predict_parts(
    fabric: Fabric, network: nn.Module, images: Float32[np.ndarray, "slice channel height width"], views: Views
) -> Iterator[Float32[np.ndarray, "slice label height width"]]:
    """What `predict` returns, some slices at a time, from the first to the last. Raises DataError."""

    def seen(batch: Tensor) -> Tensor:
        return _in_windows(lambda tiles: network(tiles).float(), batch, views.window).softmax(dim=1)

    @torch.inference_mode()
    def look(batch: Tensor) -> tuple[Tensor, ...]:
        with _evaluating(network, fabric), fabric.autocast():
            return (_mean_of_views(seen, batch, views.rotations),)

    step = BATCH if views.depth is None else max(1, views.depth // 2)
    parts = _parts(look, images, views, fabric.device)
    for (part,) in within(parts, math.ceil(len(images) / step), len(images)):
        probabilities = part.cpu().numpy()
        if not np.isfinite(probabilities).all():
            raise DataError(DIVERGED)
        yield probabilities


def _parts(
    look: Callable[[Tensor], tuple[Tensor, ...]], images: np.ndarray, views: Views, device: torch.device
) -> Iterator[tuple[Tensor, ...]]:
    """What a look at slices gives, `slice ... height width`, some slices at a time, from the first to the last."""
    if views.depth is not None:
        yield from _along_depth(look, images, views.depth, device)
        return
    whole = slice(0, len(images))
    for start in range(0, len(images), BATCH):
        places = range(start, min(start + BATCH, len(images)))
        batch = np.stack([with_neighbours(images, Window(whole, [place]), views.neighbours) for place in places])
        yield look(channels_last(torch.from_numpy(batch).to(device)))


def _along_depth(
    look: Callable[[Tensor], tuple[Tensor, ...]], images: np.ndarray, depth: int, device: torch.device
) -> Iterator[tuple[Tensor, ...]]:
    """The same in blocks of so many slices that overlap by half: their mean, weighted by a Gaussian along depth.

    Never more than one block is held. Beyond the ends of a stack that is shorter than a block, its last slice is
    repeated.
    """
    n = len(images)
    starts = [*range(0, n - depth, max(1, depth // 2)), n - depth] if n >= depth else [(n - depth) // 2]
    gaussian = torch.exp(-0.5 * ((torch.arange(depth, device=device) - (depth - 1) / 2) / (depth / 8)) ** 2)
    sums: tuple[Tensor, ...] = ()  # of the slices that both the blocks before and this one see; the last are weights
    for start, following in pairwise([*starts, n]):
        block = cut(images, Window(slice(0, n), range(start, start + depth))).swapaxes(0, 1)
        found = look(torch.from_numpy(np.ascontiguousarray(block)[None]).to(device))
        there = slice(max(0, -start), n - start)  # up to the block's end where that comes first
        weights = gaussian.view(-1, 1, 1, 1)
        parts = [*(part[0].swapaxes(0, 1) * weights for part in found), weights.expand(-1, 1, 1, 1)]
        parts = [part[there].clone() for part in parts]
        for part, before in zip(parts, sums, strict=False):
            part[: len(before)] += before
        done = following - max(0, start)
        yield tuple(part[:done] / parts[-1][:done] for part in parts[:-1])
        sums = tuple(part[done:] for part in parts)


def _in_windows(look: Callable[[Tensor], Any], batch: Tensor, window: int | None) -> Any:
    """What a network makes of slices, or of overlapping squares of them put together where they are larger."""
    if window is None or max(batch.shape[-2:]) <= window:
        return look(batch)

    from monai.inferers import sliding_window_inference  # not at the top: most commands need not wait for it

    depth = batch.shape[2:-2]  # none of slices
    side = (*depth, window, window)
    at_once = max(1, BATCH // math.prod(depth))
    return sliding_window_inference(
        batch, side, at_once, lambda tiles: look(channels_last(tiles)), overlap=0.5, mode="gaussian"
    )


def _mean_of_views(seen: Callable[[Tensor], Tensor], batch: Tensor, rotations: Sequence[float]) -> Tensor:
    """The mean of the probabilities of the slices as they are and rotated by so many degrees."""
    total = seen(batch)
    views = torch.ones_like(total[:, :1])
    for degrees in rotations:
        rotated = seen(channels_last(_rotated(batch, degrees, "border")))
        total = total + _rotated(rotated, -degrees, "zeros")
        views = views + _rotated(torch.ones_like(views), -degrees, "zeros")
    return total / views


def _rotated(batch: Tensor, degrees: float, padding: str) -> Tensor:
    """Square slices rotated about their centre; what moves in is the border repeated, or zeros."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    rotation = torch.tensor([[[cos, -sin, 0.0], [sin, cos, 0.0]]], device=batch.device).expand(len(batch), 2, 3)
    with torch.autocast(batch.device.type, enabled=False):  # bfloat16 would be off by a pixel and more
        slices = batch.float().flatten(1, -3)  # those of a block are turned alike
        grid = functional.affine_grid(rotation, list(slices.shape), align_corners=False)
        turned = functional.grid_sample(slices, grid, padding_mode=padding, align_corners=False)
        return turned.view(batch.shape)


@torch.inference_mode()
def sample(
    fabric: Fabric,
    network: nn.Module,
    images: Float32[np.ndarray, "slice channel height width"],
    passes: int,
    seed: int,
    views: Views = Views(),  # a frozen dataclass
) -> Samples:
    """Many passes with dropout on and running batch statistics: Monte Carlo dropout (Can et al. 2018, section 2.4).

    What comes before the first dropout is computed once, and only running moments are kept: memory does not grow with
    the number of passes. The same call gives the same samples on the same machine; a slice's masks depend on the
    slices beside it in its batch, for each batch draws its masks together.

    Args:
        fabric: where it runs.
        network: any of the recipes' networks, with dropout.
        images: square slices, of the grid or larger; all of a case, in order, unless `views.of_single_slices`.
        passes: T; 50 in the paper.
        seed: the random seed for the dropout masks; torch's global generators are left as they were.
        views: how it looks at slices, but for rotations, which are left out; the moments of overlapping squares and
            blocks are put together.

    Raises:
        DataError: the network has no dropout, or its logits are not finite.
        ValueError: fewer than two passes, which have no variance, or no slices.
    """
    if passes < 2:
        raise ValueError(f"expected at least 2 passes, a variance needs them, got {passes}")
    if not len(images):
        raise ValueError("expected at least one slice, got none")
    check_dropout(network)
    stochastic = channels_last(network.for_passes().to(fabric.device))  # type: ignore[operator]

    def look(batch: Tensor) -> tuple[Tensor, ...]:
        return _in_windows(lambda tiles: _moments(stochastic, tiles, passes), batch, views.window)

    devices = [fabric.device] if fabric.device.type == "cuda" else []
    with torch.random.fork_rng(devices), fabric.autocast():
        torch.manual_seed(seed)
        batches = list(_parts(look, images, views, fabric.device))
    mean, variance, likely, entropy = (torch.cat(parts).cpu().numpy() for parts in zip(*batches, strict=True))
    samples = Samples(passes, mean, variance, likely, entropy[:, 0])
    if not all(np.isfinite(getattr(samples, field.name)).all() for field in fields(samples)):
        raise DataError(DIVERGED)
    return samples


@lru_cache  # once
def _warn_of_crop(side: str) -> None:
    log.warning(
        "what lies outside the central %s of an image is background, as the recipe of this run says "
        "(preprocess.crops); a recipe without a preprocess.size of its own segments images whole",
        side,
    )


def check_dropout(network: nn.Module) -> None:
    """Raises DataError for a network without dropout, whose passes are all equal."""
    if not any(isinstance(module, _DropoutNd) and module.p > 0 for module in network.modules()):
        raise DataError(
            "expected a network with dropout, got one without: all its passes are equal and say nothing about its "
            "uncertainty; set its dropout (network.dropout=0.5), or take an ..._uncertainty recipe, and train again"
        )


def _moments(network: nn.Module, batch: Tensor, passes: int) -> tuple[Tensor, ...]:
    """Mean and variance of the logits (Welford 1962, doi:10.1080/00401706.1962.10490022), mean softmax and entropy."""
    fixed = network.before_dropout(batch)  # type: ignore[operator]
    mean = squares = probabilities = entropy = torch.zeros(())
    for n in range(1, passes + 1):
        logits = network.after_dropout(fixed).float()  # type: ignore[operator]
        change = logits - mean
        mean = mean + change / n
        squares = squares + change * (logits - mean)
        log_softmax = network.output(logits, fixed).float().log_softmax(dim=1)  # type: ignore[operator]
        softmax = log_softmax.exp()
        probabilities = probabilities + softmax
        entropy = entropy - (softmax * log_softmax).sum(dim=1, keepdim=True)
    return mean, squares / (passes - 1), probabilities / passes, entropy / passes


@contextmanager
def _evaluating(network: nn.Module, fabric: Fabric) -> Iterator[None]:
    """The network on its device, with dropout off and running batch statistics; given back in the mode it was in."""
    training = network.training
    channels_last(network.to(fabric.device)).eval()
    try:
        yield
    finally:
        network.train(training)


@dataclass(frozen=True)
class Segmenter:
    """A trained network and what it needs to be used on a new image.

    Args:
        network: maps slices of the grid to logits.
        preprocess: the grid it was trained on, resolved.
        label_names: the labels' names by value, background first.
        fabric: where it runs.
        views: how the network looks at slices.
        single: the structures of which only the largest connected component in a volume is kept.
    """

    network: nn.Module
    preprocess: Preprocess
    label_names: tuple[str, ...]
    fabric: Fabric
    views: Views = Views()
    single: frozenset[int] = frozenset()

    @property
    def channels(self) -> int:
        """The number of channels of the images it was trained on."""
        return int(self.network.channels) // (1 + 2 * self.views.neighbours)  # type: ignore[arg-type]

    def slices(self, case: Case) -> Float32[np.ndarray, "depth channel side side"]:
        """The case at the grid's spacing: whole, or cut to the grid where the recipe cuts training images, too.

        Raises DataError where its channels are not those of training.
        """
        return self.preprocess.image(case, self._side(case))

    def _side(self, case: Case) -> int:
        """The side of the square that it sees of a case, in pixels of the grid. Raises DataError for other channels."""
        if len(case.image) != self.channels:
            raise DataError(
                f"case {case.name} ({', '.join(map(str, case.files))}): expected {self.channels} channels as in "
                f"training, got {len(case.image)}; give the same modalities in the same order"
            )
        side = self.preprocess.side(case.geometry)
        if max(self.preprocess.resampled(case.geometry)) > side + 1:
            _warn_of_crop(f"{side * (self.preprocess.spacing_mm or 0):.0f} {unit_of(case.geometry)}")
        return side

    def parts(self, case: Case) -> Parts:
        """What `probabilities` returns by slices after `Preprocess.turn`. Raises DataError for other channels."""
        alone = self.views.of_single_slices
        stacks = self.preprocess.image_parts(case, self._side(case)) if alone else iter((self.slices(case),))
        on_grid = (each for part in stacks for each in predict_parts(self.fabric, self.network, part, self.views))
        return self.preprocess.native_parts(on_grid, case)

    def probabilities(self, case: Case) -> Probabilities:
        """Probabilities on the case's native grid. Raises DataError where its channels are not those of training."""
        native = np.empty((len(self.label_names), *case.geometry.shape), np.float32)
        slices = self.preprocess.turn(case.geometry)(native)
        for where, part in self.parts(case):
            slices[:, where] = part.swapaxes(0, 1)
        return native

    def check_dropout(self) -> None:
        """Raises DataError for a network without dropout, whose passes are all equal."""
        check_dropout(self.network)

    def samples(self, case: Case, passes: int, seed: int) -> Samples:
        """Passes with dropout over the case's slices on the network's grid (see `sample`). Raises DataError."""
        return sample(self.fabric, self.network, self.slices(case), passes, seed, self.views)

    def segment_unmerged(self, case: Case) -> tuple[Labels, Labels]:
        """The labels twice: those of a single network are not merged with any others."""
        labels = self.segment(case)
        return labels, labels

    def segment(self, case: Case) -> Labels:
        """The most probable label of every voxel, decided on the native grid: probabilities are resampled, not labels.

        Voxels outside the network's field of view are background, where it has one (`Preprocess.crops`).
        """
        labels = np.empty(case.geometry.shape, np.uint8)
        slices = self.preprocess.turn(case.geometry)(labels)
        for where, part in self.parts(case):
            slices[where] = part.argmax(axis=1)
        return only_largest(labels, self.single)

    def labels(self, probabilities: Probabilities) -> Labels:
        """The most probable labels; of a structure that is a single component, the largest one alone."""
        labels = np.empty(probabilities.shape[1:], np.uint8)
        for z in range(len(labels)):  # at once it would take 8 bytes a voxel
            labels[z] = probabilities[:, z].argmax(axis=0)
        return only_largest(labels, self.single)
