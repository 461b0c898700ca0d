"""Label files as labels on the grid of their image: by their values, by the names of segments, or by colours."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Integer, UInt8

from scribbleseg.data.colours import decode_colours
from scribbleseg.data.encoding import Encoding
from scribbleseg.data.formats import (
    PICTURES,
    Segment,
    check_same_grid,
    ending,
    read_colours,
    read_image,
    read_labels,
    read_segments,
)
from scribbleseg.files import FileError
from scribbleseg.plural import number_of
from scribbleseg.types import UNLABELLED, DataError, Geometry, Image, Labels

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Drawing:
    """What a label file holds, before anybody says what it means.

    Args:
        path: the file.
        geometry: its grid, or the image's once it was brought there.
        values: its values; None for colours.
        segments: the segments that a file of 3D Slicer lists, or None.
        colours: red, green, blue and alpha of a drawing that is read by its colours, or None.
        covered: the voxels of the image that the file covers; None for all.
        images: the files of the image, for drawings that were exported with it.
    """

    path: Path
    geometry: Geometry
    values: Integer[np.ndarray, "depth height width"] | None
    segments: tuple[Segment, ...] | None = None
    colours: UInt8[np.ndarray, "height width 4"] | None = None
    covered: Bool[np.ndarray, "depth height width"] | None = field(default=None, repr=False)
    images: tuple[Path, ...] = ()

    def on(self, image: Path, geometry: Geometry) -> "Drawing":
        """The same on the grid of the image; 3D Slicer stores only the box that was drawn in, which is pasted.

        Raises:
            FileError: another grid, or something drawn outside of the image.
        """
        if self.segments is None or self.values is None:
            check_same_grid(self.path, self.geometry, image, geometry)
            return self
        values = np.zeros(geometry.shape, self.values.dtype)
        covered = np.zeros(geometry.shape, bool)
        if self.values.size > 1 or self.values.any():  # one voxel of 0 is how Slicer writes that nothing was drawn
            into, box = _place(self, image, geometry)
            outside = np.count_nonzero(self.values) - np.count_nonzero(self.values[box])
            if outside:
                raise FileError(
                    self.path,
                    f"expected segments within {image.name}, found {number_of(int(outside), 'voxel')} outside of it",
                    "give the image that they were drawn on, or crop the segmentation to it",
                )
            values[into], covered[into] = self.values[box], True
        return replace(self, geometry=geometry, values=values, covered=covered)

    def decode(self, encoding: Encoding) -> Labels:
        """The labels, `depth height width`. Raises FileError where the file holds what nobody declared."""
        if self.colours is not None:
            labels, ground = decode_colours(self.path, self.colours, encoding.colours, self._image)
            if encoding.full and not (labels == 0).any():
                labels = np.where(ground, np.uint8(0), labels)
            return labels[None]
        assert self.values is not None
        if self.segments is None:
            return encoding.decode(self.path, self.values)
        return self._decode_segments(encoding, self.segments)

    def _decode_segments(self, encoding: Encoding, segments: Sequence[Segment]) -> Labels:
        """Decodes by the names of segments, or by the declared values where names are not declared.

        Value 0 is what nobody drew, and so is what the file does not cover. It is background in full masks that do not
        draw background, and in scribbles that declare it so and draw what is to be ignored; else it is UNLABELLED.
        """
        assert self.values is not None
        there = {int(value) for value in np.unique(self.values)} - {0}
        drawn = [segment for segment in segments if segment.value in there]
        named = {segment.value: encoding.label(segment.name) for segment in drawn}
        labels = {value: label for value, label in named.items() if label is not None}
        if len(labels) < len(named):
            agree = all(encoding.labels.get(value) == label for value, label in labels.items())
            if not agree or any(value not in encoding.labels for value in there):
                names = {UNLABELLED: "ignore", **dict(enumerate(encoding.label_names))}
                found = ", ".join(f"{segment.name} (value {segment.value})" for segment in drawn)
                known = ", ".join(names[label] for label in sorted({*encoding.labels.values()}))
                raise FileError(
                    self.path,
                    f"expected segments named {known}, or with the values {encoding}, found {found}",
                    "rename the segments in 3D Slicer, or declare their names where the labels are declared",
                )
            labels = {value: encoding.labels[value] for value in there}
        background = any(label == 0 for label in labels.values())
        labels[0] = self._undrawn(encoding, background, {*labels.values()}, segments)
        decoded = replace(encoding, labels=labels).decode(self.path, self.values)
        if self.covered is not None and not encoding.full:
            decoded[~self.covered] = UNLABELLED
        return decoded

    def _undrawn(self, encoding: Encoding, background: bool, drawn: set[int], segments: Sequence[Segment]) -> int:
        """The label of value 0, which is in no segment."""
        if encoding.full:
            return UNLABELLED if background else 0
        listed = any(encoding.label(segment.name) == 0 for segment in segments)
        if background or listed or not drawn or encoding.labels.get(0) != 0:
            return UNLABELLED
        if UNLABELLED in drawn:
            return 0
        raise FileError(
            self.path,
            f"expected a segment called background or ignore, found {', '.join(s.name for s in segments)} alone, so "
            "that all that nobody drew (0) would be background, as 0 is declared",
            'draw strokes of background in a segment of that name, or declare "ignore": 0 and another value for '
            "background; put full masks into masks/",
        )

    def _image(self) -> Image | None:
        try:
            return read_image(self.images)[0] if self.images else None
        except DataError:  # which is reported where the image itself is read
            return None


def open_drawing(path: Path, encoding: Encoding, images: Sequence[Path] = ()) -> Drawing:
    """Reads a label file, by its colours where the encoding has some and the file is coloured.

    Args:
        path: the file.
        encoding: what is declared.
        images: the files of the image that it belongs to.

    Raises:
        FileError: missing, damaged, overlapping segments, or neither values nor colours that are declared.
    """
    if encoding.colours and ending(path) in PICTURES and (read := read_colours(path)) is not None:
        return Drawing(path, read[1], None, colours=read[0], images=tuple(images))
    values, geometry = read_labels(path)
    return Drawing(path, geometry, values, read_segments(path))


def read_drawing(path: Path, encoding: Encoding, images: Sequence[Path], geometry: Geometry) -> Labels:
    """Reads a label file as labels on the grid of the image. Raises FileError."""
    return open_drawing(path, encoding, images).on(images[0], geometry).decode(encoding)


def _place(drawing: Drawing, image: Path, geometry: Geometry) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where the box of a segmentation lies in the image, and which part of the box that is.

    Raises:
        FileError: the voxels of the two do not coincide.
    """
    affine = geometry.affine
    if geometry.suffix in PICTURES:  # Slicer counts the rows of a picture towards posterior, from the spacing it finds
        affine = LPS @ np.diag([*drawing.geometry.spacing_mm[::-1], 1.0])
    offset = np.round(np.linalg.solve(affine, drawing.geometry.affine[:, 3])[:3])
    there = np.array(affine)
    there[:, 3] = affine @ [*offset, 1.0]
    check_same_grid(drawing.path, drawing.geometry, image, Geometry(drawing.geometry.shape, there, geometry.suffix))
    first = [int(n) for n in offset[::-1]]
    sizes = list(zip(first, drawing.geometry.shape, geometry.shape, strict=True))
    into = tuple(slice(min(max(n, 0), whole), max(min(n + size, whole), 0)) for n, size, whole in sizes)
    box = tuple(slice(part.start - n, part.stop - n) for part, n in zip(into, first, strict=True))
    return into, tuple(slice(max(part.start, 0), max(part.stop, 0)) for part in box)
