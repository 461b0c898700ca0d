"""The nouns: Image, Labels, Probabilities, Geometry, Case, Cases, Dataset, and UNLABELLED.

Weak supervision is the movement of voxels out of UNLABELLED and back: scribbles, seed areas, pseudo-labels and
reference masks are all `Labels`. Everything here is NumPy and knows neither files nor networks.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float32, Float64, UInt8

UNLABELLED = 255
"""The value of a voxel that nobody has labelled. Never a class, never background: a loss is zero there."""

Image = Float32[np.ndarray, "channel *space"]
"""float32, `channel depth height width`; a 2-D picture has depth 1."""

Item = TypeVar("Item")

Labels = UInt8[np.ndarray, "*space"]
"""uint8, 0 background, 1.. structures, UNLABELLED = 255."""

Probabilities = Float32[np.ndarray, "label *space"]
"""float32, sums to 1 over `label`."""

Parts = Iterator[tuple[slice, Float32[np.ndarray, "slice label height width"]]]
"""Probabilities of a volume a few slices at a time, and which of its slices they are: all may not fit in memory."""


class DataError(Exception):
    """Bad input. The message says what was expected, what came, in which case and file, and what to do.

    The command line prints it without a traceback and exits with 2.
    """


@dataclass(frozen=True, eq=False)
class Geometry:
    """Where a voxel grid lies in the patient, and how to write another array on the same grid.

    Args:
        shape: `(depth, height, width)` in voxels; array order is the reverse of NIfTI's (x, y, z).
        affine: float64 4 x 4, voxel index (x, y, z, 1) to RAS+ millimetres, nibabel's convention.
        suffix: the ending of the file it came from (".nii.gz", ".nrrd", ".mha", ".png", ...); "" for an array.
        header: the NIfTI header of that file, so that qform, sform, their codes and units survive; else None.
    """

    shape: tuple[int, int, int]
    affine: Float64[np.ndarray, "4 4"]
    suffix: str = ".nii.gz"
    header: object | None = field(default=None, repr=False, compare=False)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along `(depth, height, width)`, in millimetres (pixels for pictures without a scale)."""
        x, y, z = np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0))
        return float(z), float(y), float(x)


@dataclass(frozen=True)
class Case:
    """What training may see of one patient's volume. No reference mask: its type does not carry one.

    Args:
        name: unique within the data set.
        image: raw intensities on the native grid, `channel depth height width`.
        scribbles: labels on the same grid; entirely UNLABELLED where nobody has drawn.
        geometry: that grid.
        present: labels of the structures known to be in the case (image-level labels), or None where nobody said;
            where its scribbles are of one region, of the structures that it is made of.
        files: what it was read from, images first, for messages and fingerprints.
    """

    name: str
    image: Image
    scribbles: Labels
    geometry: Geometry
    present: frozenset[int] | None = None
    files: tuple[Path, ...] = ()

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along `(depth, height, width)`, in millimetres."""
        return self.geometry.spacing_mm


class Cases(Sequence):  # not Sequence[Case]: a runtime type checker would read a case to look at its type
    """Cases that are read from disk one at a time, when they are asked for, and not kept.

    Args:
        names: the unique names, in order.
        read: reads one of them; raises DataError.
        read_geometry: reads the grid of one of them, without its voxels where the format allows it; None reads the
            whole case.
        images: the files of the image of each, one a channel, for who reads images alone; None where nobody said.
    """

    def __init__(
        self,
        names: Sequence[str],
        read: Callable[[str], Case],
        read_geometry: Callable[[str], Geometry] | None = None,
        images: Mapping[str, tuple[Path, ...]] | None = None,
    ) -> None:
        self.names = tuple(names)
        self.images = {} if images is None else {name: images[name] for name in self.names}
        self._read = read
        self._read_geometry = read_geometry

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index):  # int -> Case, slice -> Cases
        if isinstance(index, slice):
            return self.only(self.names[index])
        return self._read(self.names[index])

    def __iter__(self) -> Iterator[Case]:
        return (self._read(name) for name in self.names)

    def named(self, name: str) -> Case:
        """The case of that name. Raises KeyError."""
        self._check(name)
        return self._read(name)

    def geometry(self, name: str) -> Geometry:
        """The grid of the case of that name. Raises KeyError, and DataError for an image that cannot be read."""
        self._check(name)
        return self._read_geometry(name) if self._read_geometry else self._read(name).geometry

    def only(self, names: Sequence[str]) -> "Cases":
        """Some of these cases, in the order of `names`."""
        return Cases(names, self._read, self._read_geometry, self.images or None)

    def read_by(self, read: Callable[[str], Case]) -> "Cases":
        """Cases of the same names and grids that are read in another way, such as with other scribbles."""
        return Cases(self.names, read, self._read_geometry, self.images or None)

    def _check(self, name: str) -> None:
        if name not in self.names:
            raise KeyError(f"no case {name!r} among {len(self)}: {', '.join(self.names[:5])}, ...")


def spread(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many of the items, evenly spaced from the first to the last, without repetition."""
    places = np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int)
    return [items[place] for place in places]


@dataclass(frozen=True)
class Dataset:
    """Cases to train on, cases to test on, and what their label values mean.

    Args:
        name: the layout it was read as ("acdc", "nnunet", "folder", ...).
        root: its folder.
        label_names: the labels' names by value; `label_names[0]` is "background".
        train: cases with scribbles.
        test: held-out cases; may be empty.
        read_reference: the reference mask of a case by name, or None where the data set has none.
            Only evaluate/, annotate/simulate and the fully supervised rows call it, through `reference`.
        notes: what was skipped or assumed while reading (absent patients, ...), for people to read.
        options: what else the adapter was given, as plain values, so that the same data set can be opened again.
        regions: what is scored, by name: the labels that it is made of. Empty: every structure by itself.
        scribble_names: what the values of the training scribbles mean where these are coarser than `label_names`:
            ("background", REGION), REGION being one of all structures. Empty where they are the same.
        shown: the channel that pictures show.
        mask_values: what the values in the files of its masks mean: file value to label.
        scribble_values: the values in the files of its scribbles, by the names of the labels and "ignore".
        undrawn: test cases that have no mask and become training cases once somebody draws in them.
        files: all that a case and its reference mask are read from, by the case's name, with the files that declare
            what values mean; so that a change is noticed.
    """

    name: str
    root: Path
    label_names: tuple[str, ...]
    train: Cases
    test: Cases
    read_reference: Callable[[str], Labels | None] = field(repr=False, compare=False)
    notes: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    scribble_names: tuple[str, ...] = ()
    shown: int = 0
    mask_values: Mapping[int, int] = field(default_factory=dict)
    scribble_values: Mapping[str, int] = field(default_factory=dict)
    undrawn: tuple[str, ...] = ()
    files: Mapping[str, tuple[Path, ...]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def scored(self) -> Mapping[str, tuple[int, ...]]:
        """What is scored, by name: `regions`, or every structure by itself."""
        return self.regions or {name: (value,) for value, name in list(enumerate(self.label_names))[1:]}

    @property
    def n_labels(self) -> int:
        """Background included."""
        return len(self.label_names)

    @property
    def to_draw_in(self) -> Cases:
        """The cases in which somebody may draw: those for training, and those that become so by it (`undrawn`)."""

        def part(name: str) -> Cases:
            return self.test if name in self.undrawn else self.train

        names = (*self.train.names, *self.undrawn)
        return Cases(names, lambda name: part(name).named(name), lambda name: part(name).geometry(name))

    def reference(self, name: str) -> Labels:
        """The reference mask of a case on its native grid. Raises DataError where there is none."""
        labels = self.read_reference(name)
        if labels is None:
            raise DataError(
                f"case {name}: expected a reference mask, found none in {self.root}; "
                "choose cases or a data set that has one"
            )
        return labels
