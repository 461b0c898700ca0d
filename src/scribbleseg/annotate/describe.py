"""What the images of a data set are like: shapes, voxels, orientation, channels and intensities, in words."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from scribbleseg.data.orientation import codes, is_picture, unit_of
from scribbleseg.types import Case, Geometry

PERCENTILES = (1, 99)
"""Between these lie the intensities that are told; what is brighter or darker is seldom tissue (ours)."""


@dataclass(frozen=True)
class ImageProperties:
    """What is told of one image.

    Args:
        geometry: its grid.
        channels: how many it has.
        intensities: float64 `percentile channel`, at PERCENTILES.
    """

    geometry: Geometry
    channels: int
    intensities: np.ndarray

    @classmethod
    def of(cls, case: Case) -> "ImageProperties":
        """Those of a case's image."""
        intensities = np.stack([np.percentile(channel, PERCENTILES) for channel in case.image], axis=1)
        return cls(replace(case.geometry, header=None), len(case.image), intensities)


class Description:
    """Gathers what the images of some cases are like, one case after the other.

    `rows` says it by name: "cases", "voxels", "voxel size", "orientation", "channels", "intensities".
    """

    def __init__(self) -> None:
        self._shapes: list[tuple[int, ...]] = []
        self._sizes: list[tuple[float, ...]] = []
        self._units: set[str] = set()
        self._orientations: Counter[str] = Counter()
        self._channels: Counter[int] = Counter()
        self._intensities: list[np.ndarray] = []

    def add(self, image: ImageProperties) -> None:
        """Count in a case."""
        picture = is_picture(image.geometry)
        self._shapes.append(image.geometry.shape)
        self._sizes.append(image.geometry.spacing_mm)
        self._units.add(unit_of(image.geometry))
        self._orientations["picture" if picture else codes(image.geometry)] += 1
        self._channels[image.channels] += 1
        self._intensities.append(image.intensities)

    @property
    def rows(self) -> dict[str, str]:
        """What there is to say, by name; nothing where no case was added."""
        if not self._shapes:
            return {}
        rows = {
            "cases": str(len(self._shapes)),
            "voxels (depth x height x width)": _ranges(self._shapes),
            "voxel size": f"{_ranges(self._sizes)} {' or '.join(sorted(self._units))}",
            "orientation": _counted(self._orientations),
            "channels": _counted(self._channels),
        }
        if len(self._channels) == 1:
            low, high = np.median(self._intensities, axis=0)
            each = [f"{a:.4g} to {b:.4g}" for a, b in zip(low, high, strict=True)]
            rows["intensities (most of them)"] = "; ".join(each)
        return rows


def _ranges(values: Sequence[Sequence[float | int]]) -> str:
    """The smallest and the largest value of each column: "9-12 x 256 x 216-256"."""
    columns = np.array(values).T
    return " x ".join(
        f"{low:.3g}" if f"{low:.3g}" == f"{high:.3g}" else f"{low:.3g}-{high:.3g}"
        for low, high in ((column.min(), column.max()) for column in columns)
    )


def _counted(counts: Counter) -> str:
    """The values, most frequent first, with their counts where there are several: "SPL (12), LPS (2)"."""
    if len(counts) == 1:
        return str(next(iter(counts)))
    return ", ".join(f"{value} ({count})" for value, count in counts.most_common())
