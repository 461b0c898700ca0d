"""Blocks of slices as networks see them: cut out of the stack of one case, with nothing of another beyond its ends."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

Part = TypeVar("Part", Tensor, nn.Module)


@dataclass(frozen=True)
class Window:
    """A part of the stack of one case.

    Args:
        case: the slices of the case.
        places: some of them, counted in the same way; they may lie beyond its ends.
        plane: rows and columns.
    """

    case: slice
    places: Sequence[int]
    plane: tuple[slice, slice] = (slice(None), slice(None))


def cut(
    layer: Shaped[np.ndarray, "slice *values height width"], window: Window, outside: int | None = None
) -> Shaped[np.ndarray, "place *values rows columns"]:
    """The part of a layer that lies in a window; no more is read of a memory-mapped one.

    Args:
        layer: slices of all cases.
        window: the part.
        outside: the value beyond the ends of the case; None repeats the slice there.
    """
    there = [min(max(place, window.case.start), window.case.stop - 1) for place in window.places]
    values = np.stack([layer[(place, ..., *window.plane)] for place in there])
    if outside is not None:
        values[np.array(there) != np.array(window.places)] = outside
    return values


def with_neighbours(
    images: Float[np.ndarray, "slice channel height width"], window: Window, neighbours: int
) -> Float[np.ndarray, "channels rows columns"]:
    """The slice in a window with so many slices below it and above it as further channels: 2.5-D.

    The channels of the slice itself come first, so that they keep their numbers, then those of its neighbours from the
    nearest to the farthest. Beyond the ends of the case the slice there is repeated.
    """
    (place,) = window.places
    around = [place, *(place + sign * n for n in range(1, neighbours + 1) for sign in (-1, 1))]
    return np.concatenate(list(cut(images, replace(window, places=around))))


def channels_last(part: Part) -> Part:
    """Slices, or a 2-D network, in the order in memory in which convolutions are fastest; a network in place.

    Blocks of slices, and 3-D networks, stay in the usual one.
    """
    tensors = [part] if isinstance(part, Tensor) else list(part.parameters())
    if any(each.ndim == 5 for each in tensors):
        return part
    if isinstance(part, Tensor):
        return part.contiguous(memory_format=torch.channels_last)
    return part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
