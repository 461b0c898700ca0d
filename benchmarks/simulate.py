"""Scribbles by the rule of Ji et al. 2019: time per case, how much is drawn and whether it is right, by length.

On whole tumours, and on all structures, with background inside the brain, on BraTS' grid of 155 x 240 x 240. Seconds
are of one core (process time: other work on the machine does not count), the median of the cases; memory is the most
that NumPy and Python hold beyond the case itself. "Right" are voxels that the mask gives the same label; "slices" are
pairs of a slice and a structure in it. On tumour phantoms of the same size where SCRIBBLESEG_DATA is not set.

    SCRIBBLESEG_DATA=... python benchmarks/simulate.py
"""

import argparse
import json
import os
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np
from rich.console import Console
from rich.progress import track

from scribbleseg.annotate.simulate import ShiftedSkeleton, simulate
from scribbleseg.data import brats
from scribbleseg.data.brain import surrounded
from scribbleseg.phantoms import brain_tumour
from scribbleseg.types import UNLABELLED

SHAPE = (155, 240, 240)
LENGTHS = (1.0, 0.5, 0.25, 0.0)

Volume = tuple[str, np.ndarray, np.ndarray]


def volumes(count: int) -> Iterator[Volume]:
    """Name, image `4 depth height width`, mask `depth height width`."""
    folder = os.environ.get("SCRIBBLESEG_DATA")
    if folder:
        dataset = brats(Path(folder) / "brats")
        for case in [case for cases in (dataset.train, dataset.test) for case in cases][:count]:
            yield case.name, case.image, dataset.reference(case.name)
        return
    for seed in range(count):
        image, mask = brain_tumour(np.random.default_rng(seed), SHAPE, (1.0, 1.0, 1.0))
        yield f"phantom{seed}", np.asarray(image, np.float32), mask


def seconds_of(work) -> tuple[float, object]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def peak_mb(work) -> float:
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6


def drawn_slices(scribbles: np.ndarray, mask: np.ndarray) -> tuple[int, int]:
    """Pairs of a slice and a structure in it, and how many of them have a scribble."""
    structures = range(1, int(mask.max()) + 1)
    there = np.stack([(mask == value).any((1, 2)) for value in structures])
    drawn = np.stack([(scribbles == value).any((1, 2)) for value in structures])
    return int(there.sum()), int((there & drawn).sum())


def measure(name: str, mask: np.ndarray, inside: np.ndarray, length: float) -> np.ndarray:
    """Seconds; then counts that add up: voxels inside, of structures, drawn on either, right; slices there, drawn."""
    rule = ShiftedSkeleton(length=length)
    seconds, scribbles = seconds_of(lambda: simulate(mask, rule, name, inside))
    on, structure = scribbles != UNLABELLED, mask > 0
    counts = [inside.sum(), structure.sum(), on.sum(), (on & structure).sum(), (scribbles == mask).sum()]
    return np.array([seconds, *counts, *drawn_slices(scribbles, mask)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1 case and 2 lengths instead of 8 and 4")
    quick = parser.parse_args().quick
    count, lengths = (1, LENGTHS[::3]) if quick else (8, LENGTHS)

    found: dict[tuple[str, float], list[np.ndarray]] = {}
    surround, memory, cases = [], 0.0, 0
    for name, image, mask in track(volumes(count), "Cases", total=count):
        seconds, inside = seconds_of(lambda image=image: surrounded(image))
        surround.append(seconds)
        for kind, drawn_on in (("whole tumour", (mask > 0).astype(np.uint8)), ("all structures", mask)):
            for length in lengths:
                found.setdefault((kind, length), []).append(measure(name, drawn_on, inside, length))
        if not cases:
            memory = peak_mb(lambda image=image, mask=mask: simulate(mask, ShiftedSkeleton(), "", surrounded(image)))
        cases += 1

    heads = ["drawn on", "length", "seconds", "of the brain", "of structures", "right", "slices", "with a scribble"]
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]
    figures = []
    for (kind, length), rows in found.items():
        brain, structures, on, on_structures, right, there, drawn = np.sum(rows, axis=0)[1:]
        seconds = median(row[0] for row in rows)
        shares = [on / brain, on_structures / structures, right / on]
        percent = " | ".join(f"{100 * share:.2f} %" for share in shares)
        lines.append(f"| {kind} | {length:g} | {seconds:.2f} | {percent} | {there:.0f} | {drawn:.0f} |")
        row = [kind, length, seconds, *shares, there, drawn]
        figures.append(dict(zip(heads, [row[0], *map(float, row[1:])], strict=True)))
    Console(width=160).print("\n".join(lines), markup=False)
    data = "brats" if os.environ.get("SCRIBBLESEG_DATA") else "phantoms"
    extra = {"surrounded_seconds": median(surround), "peak_mb": memory}
    print(json.dumps({"data": data, "cases": cases, **extra, "rows": figures}))


if __name__ == "__main__":
    main()
