"""The cache of all training slices on the recipe's grid: memory-mapped, so that the data set need not fit in memory."""

import json
import logging
import math
import os
import shutil
from bisect import bisect
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float16, Float32, Int, UInt8

from scribbleseg.data.cache_index import made_again, read_index
from scribbleseg.data.checksums import CHECKSUM, checksum, checksum_beside
from scribbleseg.data.fingerprint import Fingerprint, digest_of_files, digest_of_strokes
from scribbleseg.data.formats import geometry_from_plain, geometry_to_plain
from scribbleseg.data.held_out import slices_to_hold_out
from scribbleseg.data.preprocess import Preprocess
from scribbleseg.files import FileError, atomically, link_or_copy, write_json, write_text
from scribbleseg.plural import number_of
from scribbleseg.progress import track
from scribbleseg.types import UNLABELLED, Case, Cases, DataError, Geometry

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layer:
    """How one kind of array in the cache is stored, and how augmentation moves it.

    Args:
        dtype: the type on disk.
        per: what a pixel has: one value, or one for each channel or each label.
        interpolation: "nearest" for labels, which have nothing between them; "linear" for quantities.
        outside: what moves in from outside the slice; None repeats the border.
    """

    dtype: type[np.generic]
    per: Literal["pixel", "channel", "label"]
    interpolation: Literal["nearest", "linear"]
    outside: int | None


LAYERS: dict[str, Layer] = {
    "images": Layer(np.float16, "channel", "linear", None),
    "inside": Layer(np.bool_, "pixel", "nearest", 0),
    "scribbles": Layer(np.uint8, "pixel", "nearest", UNLABELLED),
    "held_out": Layer(np.uint8, "pixel", "nearest", UNLABELLED),
    "labels": Layer(np.uint8, "pixel", "nearest", UNLABELLED),
    "soft": Layer(np.float16, "label", "linear", 0),
    "confidence": Layer(np.float16, "pixel", "linear", 0),
}
"""Every kind of layer. The first four are written once, with the cache; the others once for each map of labels."""

FIXED = ("images", "inside", "scribbles", "held_out")


def is_labelled(labels: UInt8[np.ndarray, "*any"]) -> Bool[np.ndarray, "*any"]:
    """Where there is a label."""
    return labels != UNLABELLED


@dataclass(frozen=True)
class Slices:
    """Slices of all cases one after the other: `images[rows[name]]` are those of one case, from the bottom up.

    Args:
        folder: holds a file for each layer, such as `images.raw` and `labels_0.raw` (with `labels_0.crc32`), and
            `index.json`.
        index: what `index.json` holds.
    """

    folder: Path
    index: dict[str, Any]

    @cached_property
    def rows(self) -> dict[str, slice]:
        """The slices of each case, by its name."""
        rows, start = {}, 0
        for name, case in self.index["cases"].items():
            rows[name] = slice(start, start + case["slices"])
            start += case["slices"]
        return rows

    def rows_of(self, index: int) -> slice:
        """The slices of the case that a slice belongs to."""
        return self._cases[bisect(self._cases, index, key=lambda rows: rows.stop)]

    @cached_property
    def _cases(self) -> list[slice]:
        return list(self.rows.values())

    @cached_property
    def spacing_mm(self) -> dict[str, tuple[float, float, float]]:
        """The voxel size of each case on the grid, along depth, height and width."""
        return {name: tuple(case["spacing_mm"]) for name, case in self.index["cases"].items()}

    @cached_property
    def present(self) -> dict[str, frozenset[int] | None]:
        """The image-level labels of each case, or None where nobody gave any."""
        given = {name: case["present"] for name, case in self.index["cases"].items()}
        return {name: None if labels is None else frozenset(labels) for name, labels in given.items()}

    @cached_property
    def n_pixels(self) -> int:
        """The number of pixels of all slices together, without padding and the air around a brain."""
        return sum(case["pixels"] for case in self.index["cases"].values())

    def images(self, places: slice | np.ndarray = slice(None)) -> Float32[np.ndarray, "slice channel size size"]:
        """Normalised intensities of some slices, or of all; on disk they have half of the precision."""
        return self.layer("images")[places].astype(np.float32)

    @cached_property
    def scribbles(self) -> UInt8[np.ndarray, "slice size size"]:
        """What people drew and the training sees, memory-mapped."""
        return self.layer("scribbles")

    @property
    def held_out(self) -> UInt8[np.ndarray, "slice size size"] | None:
        """What people drew in the slices whose scribbles are held out, memory-mapped; None where none are."""
        return self.layer("held_out") if self.has("held_out") else None

    @cached_property
    def inside(self) -> Bool[np.ndarray, "slice size size"]:
        """Which pixels show the image, or the brain: no padding, no air. Memory-mapped."""
        return self.layer("inside")

    def __len__(self) -> int:
        return sum(case["slices"] for case in self.index["cases"].values())

    @property
    def channels(self) -> int:
        """The number of channels of the images."""
        return int(self.index["shape"][0])

    def geometry(self, name: str) -> Geometry:
        """The native grid of a case, as it was when the cache was made; no image is read. Raises FileError."""
        try:
            return geometry_from_plain(self.index["cases"][name]["geometry"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:  # each of a header's fields has its own
            problem = f"expected the grid of case {name}, found a damaged one ({error})"
            raise FileError(self.folder / "index.json", problem, made_again(self.folder)) from error

    def share(self, holds: Callable[..., np.ndarray], *layers: np.ndarray) -> float:
        """The share of the pixels that show an image (`inside`) where `holds`, given a case of each layer, is true."""
        return float(sum(np.count_nonzero(here) for here in self._of_cases(holds, layers)) / self.n_pixels)

    def places(self, holds: Callable[..., np.ndarray], *layers: np.ndarray) -> Int[np.ndarray, "place"]:
        """The slices in some pixel of which something holds of these layers, as in `share`."""
        return np.flatnonzero(np.concatenate([here.any(axis=(1, 2)) for here in self._of_cases(holds, layers)]))

    def _of_cases(self, holds: Callable[..., np.ndarray], layers: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        return (holds(*(layer[rows] for layer in layers)) for rows in self._cases)

    def layer(self, kind: str, index: int | str | None = None) -> np.memmap:
        """A complete layer, memory-mapped read-only.

        Args:
            kind: a name in `LAYERS`.
            index: the map of labels that it belongs to; None for layers that are written once.

        Raises:
            FileNotFoundError: it is not complete.
            FileError: it is damaged, which the first look at it tells by its checksum.
        """
        path = self._path(kind, index)
        size = path.stat().st_size
        if path not in self._sound:
            known = self.index.get("checksums", {}).get(kind) if index is None else checksum_beside(path)
            if known is not None and checksum(path) != known:
                raise FileError(path, "its checksum does not match: it is damaged", made_again(self.folder))
            self._sound.add(path)
        shape = self._shape(kind, size)
        if size != (claimed := math.prod(shape) * self._dtype(kind).itemsize) or not claimed:
            problem = f"expected {claimed} bytes, as index.json beside it says, found {size}"
            raise FileError(path, problem, made_again(self.folder))
        return np.memmap(path, self._dtype(kind), "r", shape=shape)

    @cached_property
    def _sound(self) -> set[Path]:
        """The layers whose checksums have been compared."""
        return set()

    def has(self, kind: str, index: int | str | None = None) -> bool:
        """Whether that layer is complete on disk."""
        return self._path(kind, index).exists()

    def writable(self, kind: str, index: int | str, labels: int = 1) -> np.memmap:
        """An unfinished layer, at first entirely what is outside of slices; `finish` gives it its name.

        Args:
            kind: a name in `LAYERS`.
            index: the map of labels that it belongs to.
            labels: the number of labels, for a layer that has a value for each.
        """
        layer, path = LAYERS[kind], self._path(kind, index).with_suffix(".partial")
        size = len(self) * int(np.prod(self.index["shape"][1:])) * np.dtype(layer.dtype).itemsize
        shape = self._shape(kind, size * (labels if layer.per == "label" else 1))
        if not path.exists():
            # Written in full: a map over a hole in a file dies of a full disk without a word.
            with atomically(path) as temporary:
                one = np.full(shape[1:], layer.outside, layer.dtype).tobytes()
                with temporary.open("wb") as file:
                    file.writelines(one for _ in range(shape[0]))
        return np.memmap(path, layer.dtype, "r+", shape=shape)

    def finish(self, kind: str, index: int | str) -> None:
        """Declare a layer complete, in one atomic rename, with its checksum in a file beside it."""
        path = self._path(kind, index)
        write_text(path.with_suffix(CHECKSUM), f"{checksum(path.with_suffix('.partial'))}\n")
        os.replace(path.with_suffix(".partial"), path)

    def _dtype(self, kind: str) -> np.dtype:
        """What a layer is stored as; caches of earlier versions have images in single precision."""
        return np.dtype(self.index.get("images_as", np.float32) if kind == "images" else LAYERS[kind].dtype)

    def _path(self, kind: str, index: int | str | None) -> Path:
        return self.folder / (f"{kind}.raw" if index is None else f"{kind}_{index}.raw")

    def _shape(self, kind: str, n_bytes: int) -> tuple[int, ...]:
        """The shape of a layer, given the size of its file, which tells the number of labels."""
        channels, *space = self.index["shape"]
        per_pixel = n_bytes // (len(self) * int(np.prod(space)) * self._dtype(kind).itemsize)
        values = {"pixel": (), "channel": (channels,), "label": (per_pixel,)}[LAYERS[kind].per]
        return (len(self), *values, *space)


def build_slices(
    cases: Cases,
    preprocess: Preprocess,
    folder: Path,
    label_names: Sequence[str] = (),
    held_out: float = 0.0,
    files: Mapping[str, Sequence[Path]] = MappingProxyType({}),
) -> Slices:
    """Write the cache of these cases, or open the one that is there; nothing is left half-written. Reads cases once.

    Warns of labels that no case has a scribble of.

    Args:
        cases: the training cases.
        preprocess: the grid, resolved.
        folder: that of the cache.
        label_names: the labels that are to be learned, background first; none asks for any scribble at all.
        held_out: the share of the drawn slices whose scribbles are held out (`slices_to_hold_out`).
        files: what each case is read from (`Dataset.files`), whose digests are noted.

    Raises:
        DataError: if no case has a scribble, all have scribbles of one of the labels alone, channels differ between
            cases, or the folder holds another cache.
    """
    key = {"preprocess": asdict(preprocess), "cases": list(cases.names), "held_out": held_out}
    key = json.loads(json.dumps(key))  # lists for tuples, as it comes back
    if (folder / "index.json").exists():
        slices = open_slices(folder)
        known = slices.index["key"]
        earlier = {"depth_mm": None}  # versions before it have none
        if {**known, "preprocess": earlier | known["preprocess"]} == key:
            return slices
        raise DataError(f"{folder}: expected the cache of this data set and recipe, found another; give a new folder")
    with _complete_or_absent(folder) as partial:
        digests = {name: digest_of_files(files[name]) for name in cases.names if name in files}
        index = _write_layers(cases, preprocess, partial, label_names, held_out)
        for name, digest in digests.items():
            index["cases"][name]["files"] = digest
        checksums = {path.stem: checksum(path) for path in sorted(partial.glob("*.raw"))}
        write_json(partial / "index.json", {"key": key, **index, "checksums": checksums})
    return open_slices(folder)


@contextmanager
def _complete_or_absent(folder: Path) -> Iterator[Path]:
    """A folder to write into that gets its name once everything is there, and is gone if it does not come to that."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        os.replace(partial, folder)
    except OSError as error:
        raise DataError(
            f"{folder}: could not be written ({error.strerror or error}); free some space or choose another folder"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_layers(
    cases: Cases, preprocess: Preprocess, folder: Path, label_names: Sequence[str], held_out: float
) -> dict:
    """The fixed layers; returns the fingerprint, the shape of a slice, and what there is to know of each case."""
    index: dict[str, dict] = {}
    shape: tuple[int, ...] | None = None
    drawn: set[int] = set()
    any_held = False
    seen = Fingerprint()
    with ExitStack() as stack:
        files = {kind: stack.enter_context((folder / f"{kind}.raw").open("wb")) for kind in FIXED}
        for name in track(cases.names, "Preprocessing"):
            case = cases.named(name)
            seen.add(case)
            for part in preprocess.image_parts(case):
                shape = shape or part.shape[1:]
                if part.shape[1:] != shape:
                    raise DataError(
                        f"case {name}: expected {shape[0]} channels as in the cases before, got {part.shape[1]}; "
                        "give every case the same channels"
                    )
                files["images"].write(halved(part).tobytes())
            strokes, shown = preprocess.labels_in_plane(case.scribbles, case.geometry), preprocess.inside(case)
            held = slices_to_hold_out(case.name, strokes, held_out, drawn)[:, None, None]
            kept, withheld = (
                preprocess.through_plane(np.where(held == away, np.uint8(UNLABELLED), strokes), case.geometry)
                for away in (True, False)
            )
            withheld[~shown] = UNLABELLED  # no training says what the network makes of what shows no image
            for kind, layer in zip(FIXED[1:], (shown, kept, withheld), strict=True):
                files[kind].write(layer.tobytes())
            any_held = any_held or bool(np.any(withheld != UNLABELLED))
            drawn |= set(np.unique(kept).tolist()) - {UNLABELLED}
            index[name] = _describe(case, preprocess) | {"slices": len(kept), "pixels": int(shown.sum())}
            _warn_of_lost_classes(name, case.scribbles, strokes)
            del case  # which would be kept while the next one is read
    if not drawn:
        raise DataError(
            f"expected scribbles, found every voxel of {number_of(len(cases), 'case')} unlabelled; draw some, or "
            "declare which value means unlabelled (dataset.json, 'ignore')"
        )
    _check_drawn(drawn, label_names)
    if not any_held:
        (folder / "held_out.raw").unlink()
    stored_as = {"images_as": np.dtype(LAYERS["images"].dtype).name}
    return {"fingerprint": seen.hexdigest(), "shape": shape, "cases": index, **stored_as}


def halved(images: Float32[np.ndarray, "*any"]) -> Float16[np.ndarray, "*any"]:
    """Normalised intensities in half precision, for the cache: 11 bits of each, more than images have over noise.

    What is beyond its range, 65504, is clipped: normalised intensities are small numbers.
    """
    largest = np.finfo(np.float16).max
    return images.clip(-largest, largest).astype(np.float16)


def _check_drawn(drawn: Set[int], label_names: Sequence[str]) -> None:
    """Raises DataError where one label alone was drawn: there is nothing to learn."""
    missing = [name for value, name in enumerate(label_names) if value not in drawn]
    if len(label_names) > 1 and len(missing) + 1 >= len(label_names):
        there = next(name for name in label_names if name not in missing)
        raise DataError(
            f"expected scribbles of at least two labels in the training cases, found {there} alone; label "
            f"{' and '.join(missing)}, too"
        )


def _describe(case: Case, preprocess: Preprocess) -> dict[str, Any]:
    return {
        "spacing_mm": preprocess.voxel_mm(case.geometry),
        "present": None if case.present is None else sorted(case.present),
        "geometry": geometry_to_plain(case.geometry),
        "strokes": digest_of_strokes(case.scribbles),
    }


def derive_slices(slices: Slices, scribbles: UInt8[np.ndarray, "slice size size"], folder: Path) -> Slices:
    """Write a cache of the same images with other scribbles; the images are shared on disk where links are possible.

    An existing one is opened. Raises DataError where it cannot be written.
    """
    if not (folder / "index.json").exists():
        with _complete_or_absent(folder) as partial:
            for kind in ("images", "inside"):
                link_or_copy(slices.folder / f"{kind}.raw", partial / f"{kind}.raw")
            scribbles.tofile(partial / "scribbles.raw")
            checksums = {path.stem: checksum(path) for path in sorted(partial.glob("*.raw"))}
            write_json(partial / "index.json", {**slices.index, "checksums": checksums})
    return open_slices(folder)


def open_slices(folder: Path) -> Slices:
    """Open a cache that `build_slices` wrote; reads nothing but its index. Raises FileError where that is damaged."""
    return Slices(folder, read_index(folder))


def _warn_of_lost_classes(name: str, before: np.ndarray, after: np.ndarray) -> None:
    lost = set(np.unique(before).tolist()) - set(np.unique(after).tolist()) - {UNLABELLED}
    if lost:
        log.warning(
            "case %s: the crop to %d pixels loses every scribble of label %s; raise preprocess.size",
            name, after.shape[-1], ", ".join(map(str, sorted(lost))),
        )  # fmt: skip
