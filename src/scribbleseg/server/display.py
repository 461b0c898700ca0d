"""What the page is sent of an image: its voxels turned for the screen, and how they are shown.

On the page an array is `depth height width` of slices in the plane of acquisition, turned as radiologists look at them.
The two other planes are cut from the same array; a `View` says which of its axes run down and across the screen.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Shaped

from scribbleseg.data.intensities import AIR_HU
from scribbleseg.data.orientation import (
    LOOKED_AT,
    OPPOSITE,
    Turn,
    codes,
    common_orientation,
    is_picture,
    looked_at,
    plane,
    sides,
    turn_to,
    unit_of,
)
from scribbleseg.types import Geometry, Image

SHOWN_PERCENTILES = (1.0, 99.5)
"""Intensities beyond these are black and white at first; air, the lowest intensity, is not counted (ours)."""

SAMPLED = 2_000_000
"""Voxels from which the first window is taken, evenly spaced (ours)."""

LEVELS = 65535
"""Steps of intensity that are sent of a channel whose values are not whole numbers, or are too many."""

OUTLYING = 256
"""Where the extremes of a channel are so many times as far apart as almost all of its voxels, those are cut (ours)."""


@dataclass(frozen=True)
class Channel:
    """One channel as it is sent: the intensity of a voxel is `value * slope + intercept`.

    Args:
        values: uint8 or uint16 `depth height width`, little-endian.
        slope: intensity of one step.
        intercept: intensity of 0.
        window: the lowest and the highest intensity that are told apart at first.
        range: the lowest and the highest intensity that there are.
    """

    values: Shaped[np.ndarray, "depth height width"]
    slope: float
    intercept: float
    window: tuple[float, float]
    range: tuple[float, float]


def as_channel(image: Float[np.ndarray, "depth height width"]) -> Channel:
    """Returns one channel in as few bytes a voxel as keep whole numbers exact, or 65535 steps."""
    low, high = float(image.min()), float(image.max())
    some = np.asarray(image.reshape(-1)[:: max(1, image.size // SAMPLED)])
    window, range_ = _window(some, low), (low, high)
    if high - low <= LEVELS and _whole(some) and _whole(image):
        kind: Any = np.uint8 if high - low <= 255 else np.dtype("<u2")
        return Channel((image - np.float32(low)).astype(kind), 1.0, low, window, range_)
    near, far = (float(value) for value in np.percentile(some, (0.1, 99.9)))
    if high - low > OUTLYING * (far - near) > 0:
        low, high = max(low, near - 2 * (far - near)), min(high, far + 2 * (far - near))
    slope = (high - low) / LEVELS
    steps = (np.clip(image, low, high) - np.float32(low)) * np.float32(1 / slope)
    return Channel(np.rint(np.minimum(steps, LEVELS)).astype("<u2"), slope, low, window, range_)


def _whole(values: np.ndarray) -> bool:
    return bool((values == np.rint(values)).all())


def _window(some: np.ndarray, low: float) -> tuple[float, float]:
    tissue = some[some > low]
    black, white = np.percentile(tissue if tissue.size else some, SHOWN_PERCENTILES)
    return float(black), float(white if white > black else black + 1)


@dataclass(frozen=True)
class View:
    """How one plane is cut from the array on the page.

    Args:
        axis: the axis that slices are stacked along: 0 is the plane of acquisition.
        down: the axis that runs down the screen.
        across: the axis that runs across it.
        flip_down: whether that axis runs upwards.
        flip_across: whether it runs to the left.
        sides: the patient's sides at the left, the right, the top and the bottom, such as "RLAP", or "".
        plane: axial, coronal, sagittal, or "" where nobody knows.
    """

    axis: int
    down: int
    across: int
    flip_down: bool = False
    flip_across: bool = False
    sides: str = ""
    plane: str = ""


def views(geometry: Geometry, turn: Turn) -> tuple[View, View, View]:
    """Returns the three planes, that of acquisition first, as radiologists look at them where sides are known."""
    main = sides(geometry, turn)
    if not main:
        return View(0, 1, 2), View(1, 0, 2), View(2, 0, 1)
    own = codes(geometry)
    ends = [OPPOSITE[own[axis]] if flip else own[axis] for axis, flip in zip(turn.axes, turn.flips, strict=True)]
    first, second, third = (_view(axis, ends) for axis in range(3))
    return first, second, third


def _view(axis: int, ends: list[str]) -> View:
    """The plane across one axis, given what each axis grows towards."""
    name = plane(ends[axis])
    along = {letter: n for n, end in enumerate(ends) for letter in (end, OPPOSITE[end])}
    bottom, right = tuple(LOOKED_AT[name])
    down, across = along[bottom], along[right]
    shown = OPPOSITE[right] + right + OPPOSITE[bottom] + bottom
    seen = View(axis, down, across, ends[down] != bottom, ends[across] != right)
    return replace(seen, sides=shown, plane=name)


def turn_for_screen(geometry: Geometry) -> Turn:
    """How a volume is brought into the array on the page; it depends on nothing but the volume's grid."""
    return looked_at(geometry, turn_to(common_orientation([geometry]), geometry))


def to_world(geometry: Geometry, turn: Turn) -> np.ndarray:
    """Returns the affine 4 x 4 from an index `(depth, height, width, 1)` on the page to RAS+ millimetres."""
    to_stored = np.zeros((4, 4))  # (depth, height, width) on the page to (x, y, z) as stored
    to_stored[3, 3] = 1
    for shown, (stored, flip) in enumerate(zip(turn.axes, turn.flips, strict=True)):
        to_stored[2 - stored, shown] = -1 if flip else 1
        to_stored[2 - stored, 3] = geometry.shape[stored] - 1 if flip else 0
    return geometry.affine @ to_stored


Kind = Literal["ct", "colour", ""]


def kind_of(image: Image, geometry: Geometry) -> Kind:
    """What is special about an image: a picture of three colours, a CT (its lowest value is air), or nothing."""
    if is_picture(geometry):
        return "colour" if len(image) == 3 else ""
    low, high = AIR_HU
    return "ct" if len(image) == 1 and low <= float(image.min()) <= high else ""


def described(geometry: Geometry, turn: Turn) -> dict[str, Any]:
    """What the page needs to know of a grid, as plain values."""
    return {
        "shape": turn.shape(geometry),
        "spacing": turn.spacing_mm(geometry),
        "unit": unit_of(geometry),
        "views": [vars(view) for view in views(geometry, turn)],
        "affine": to_world(geometry, turn).tolist(),
    }
