"""The cache of all training slices on the recipe's grid: memory-mapped, so that the data set need not fit in memory."""

import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from rich.progress import track

from scribbleseg.data.preprocess import Preprocess
from scribbleseg.data.volumes import atomically, link_or_copy
from scribbleseg.types import UNLABELLED, Cases, DataError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Slices:
    """Slices of all cases one after the other: `images[rows[name]]` are those of one case, from the bottom up.

    Args:
        folder: holds `images.raw` (float32), `scribbles.raw` (uint8), label maps of the same shape, and `index.json`.
        rows: case name to its slices.
        spacing_mm: case name to voxel size along depth, height, width on the grid.
        images: `slice channel height width`.
        scribbles: `slice height width`.
        n_pixels: of all slices together, without padding and the air around a brain.
        present: case name to its image-level labels, or None where nobody gave any.
    """

    folder: Path
    rows: dict[str, slice]
    spacing_mm: dict[str, tuple[float, float, float]]
    images: Float32[np.ndarray, "slice channel size size"]
    scribbles: UInt8[np.ndarray, "slice size size"]
    n_pixels: int
    present: dict[str, frozenset[int] | None]

    def share(self, mask: Bool[np.ndarray, "slice size size"]) -> float:
        """The share of the pixels that show an image (see `Preprocess.inside`) where `mask` is true."""
        return float(np.count_nonzero(mask) / self.n_pixels)

    def __len__(self) -> int:
        return len(self.images)

    def labels(self, name: str) -> UInt8[np.ndarray, "slice size size"]:
        """A label map written by `save_labels`, memory-mapped read-only. Raises FileNotFoundError."""
        return np.memmap(self.folder / f"{name}.raw", np.uint8, "r", shape=self.scribbles.shape)

    def has_labels(self, name: str) -> bool:
        """Whether that label map is complete on disk."""
        return (self.folder / f"{name}.raw").exists()

    def writable_labels(self, name: str) -> np.memmap:
        """An unfinished label map, entirely UNLABELLED at first; `finish_labels` gives it its name."""
        path = self.folder / f"{name}.partial"
        if not path.exists():
            # Written in full: a map over a hole in a file dies of a full disk without a word.
            with atomically(path) as temporary:
                temporary.write_bytes(np.full(self.scribbles.shape, UNLABELLED, np.uint8).tobytes())
        return np.memmap(path, np.uint8, "r+", shape=self.scribbles.shape)

    def finish_labels(self, name: str) -> None:
        """Declare the label map complete, in one atomic rename."""
        os.replace(self.folder / f"{name}.partial", self.folder / f"{name}.raw")


def build_slices(cases: Cases, preprocess: Preprocess, folder: Path) -> None:
    """Write the cache of these cases; nothing is left half-written, and an existing one of the same is kept.

    Raises:
        DataError: if no case has a scribble, or channels differ between cases.
    """
    key = {"preprocess": asdict(preprocess), "cases": list(cases.names)}
    if (folder / "index.json").exists():
        if json.loads((folder / "index.json").read_text())["key"] == key:
            return
        raise DataError(f"{folder}: expected the cache of this data set and recipe, found another; give a new folder")
    with _complete_or_absent(folder) as partial:
        index = _write_arrays(cases, preprocess, partial)
        (partial / "index.json").write_text(json.dumps({"key": key, **index}, indent=1))


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


def _write_arrays(cases: Cases, preprocess: Preprocess, folder: Path) -> dict:
    """`images.raw` and `scribbles.raw`; returns the shape of a slice and, by case, how many there are."""
    index: dict[str, dict] = {}
    shape: tuple[int, ...] | None = None
    labelled = 0
    with (folder / "images.raw").open("wb") as images, (folder / "scribbles.raw").open("wb") as scribbles:
        for case in track(cases, "Preprocessing", total=len(cases)):
            image, strokes = preprocess.image(case), preprocess.labels(case.scribbles, case)
            shape = shape or image.shape[1:]
            if image.shape[1:] != shape:
                raise DataError(
                    f"case {case.name}: expected {shape[0]} channels as in the cases before, got {image.shape[1]}; "
                    "give every case the same channels"
                )
            images.write(image.tobytes())
            scribbles.write(strokes.tobytes())
            labelled += int(np.count_nonzero(strokes != UNLABELLED))
            spacing_mm = (case.spacing_mm[0], preprocess.spacing_mm, preprocess.spacing_mm)
            n_pixels = int(preprocess.inside(case).sum())
            index[case.name] = {"slices": len(image), "pixels": n_pixels, "spacing_mm": spacing_mm}
            index[case.name]["present"] = None if case.present is None else sorted(case.present)
            _warn_of_lost_classes(case.name, case.scribbles, strokes)
    if not labelled:
        raise DataError(
            f"expected scribbles in at least one of {len(cases)} cases, found every voxel unlabelled; draw some, or "
            "declare which value means unlabelled (dataset.json, 'ignore')"
        )
    return {"shape": shape, "cases": index}


def derive_slices(slices: Slices, scribbles: UInt8[np.ndarray, "slice size size"], folder: Path) -> None:
    """Write a cache of the same images with other scribbles; the images are shared on disk where links are possible.

    An existing one is kept. Raises DataError where it cannot be written.
    """
    if (folder / "index.json").exists():
        return
    with _complete_or_absent(folder) as partial:
        link_or_copy(slices.folder / "images.raw", partial / "images.raw")
        (partial / "scribbles.raw").write_bytes(np.ascontiguousarray(scribbles).tobytes())
        shutil.copyfile(slices.folder / "index.json", partial / "index.json")


def open_slices(folder: Path) -> Slices:
    """Map a cache that `build_slices` wrote; reads nothing but its index."""
    index = json.loads((folder / "index.json").read_text())
    rows, start = {}, 0
    for name, case in index["cases"].items():
        rows[name] = slice(start, start + case["slices"])
        start += case["slices"]
    channels, height, width = index["shape"]
    return Slices(
        folder,
        rows,
        {name: tuple(case["spacing_mm"]) for name, case in index["cases"].items()},
        np.memmap(folder / "images.raw", np.float32, "r", shape=(start, channels, height, width)),
        np.memmap(folder / "scribbles.raw", np.uint8, "r", shape=(start, height, width)),
        sum(case["pixels"] for case in index["cases"].values()),
        {name: None if (p := case["present"]) is None else frozenset(p) for name, case in index["cases"].items()},
    )


def _warn_of_lost_classes(name: str, before: np.ndarray, after: np.ndarray) -> None:
    lost = set(np.unique(before).tolist()) - set(np.unique(after).tolist()) - {UNLABELLED}
    if lost:
        log.warning(
            "case %s: the crop to %d pixels loses every scribble of label %s; raise preprocess.size",
            name, after.shape[-1], ", ".join(map(str, sorted(lost))),
        )  # fmt: skip
