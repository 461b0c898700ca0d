"""Resampling of a stack along its depth: whole, or in parts where the whole does not fit in memory."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from jaxtyping import Float32
from torch.nn import functional

Stack = Float32[np.ndarray, "slice *values height width"]


def resample_stack(stack: Stack, n: int) -> Float32[np.ndarray, "new_slice *values height width"]:
    """The stack in n slices over the same extent, linear, and smoothed first where these are fewer."""
    if n == len(stack):
        return stack
    columns = torch.from_numpy(np.ascontiguousarray(stack)).reshape(1, 1, len(stack), -1)
    resampled = functional.interpolate(columns, (n, columns.shape[-1]), mode="bilinear", antialias=True)
    return resampled.reshape(n, *stack.shape[1:]).numpy()


def in_slices(parts: Iterable[Stack], before: int, n: int) -> Iterator[Stack]:
    """The parts of a stack in n slices over the same extent, by linear interpolation; few slices are held at a time.

    Args:
        parts: the slices from the first to the last, so many at a time.
        before: their number.
        n: the number of slices to give.
    """
    if n == before:
        yield from parts
        return
    places = np.clip((np.arange(n) + 0.5) * before / n - 0.5, 0, before - 1)
    lower = places.astype(int)
    upper = np.minimum(lower + 1, before - 1)
    held: np.ndarray | None = None
    first = given = 0  # the number of the first slice that is held, and how many have been given
    for part in parts:
        held = part if held is None else np.concatenate([held, part])
        ready = int(np.searchsorted(upper, first + len(held)))
        if ready > given:
            here = slice(given, ready)
            share = (places - lower)[here].reshape(-1, *[1] * (part.ndim - 1)).astype(np.float32)
            yield held[lower[here] - first] * (1 - share) + held[upper[here] - first] * share
            given = ready
        if given < n:
            done = min(int(lower[given]) - first, len(held))
            held, first = held[done:], first + done
