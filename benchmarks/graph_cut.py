"""Seed areas of tumours by graph cut: how much they label, how much of that is right, and what they cost.

Scribbles of the whole tumour are drawn by the rule of Ji et al. 2019 on the reference, background inside the brain.
From them grow the areas of GraphCut, of GraphCut by hard seeds and edges alone, and of the random walker that a user
has as an alternative (tau 0.99, on FLAIR). Per case and seeder:

    dice       of the cut before erosion with the whole tumour (of the areas themselves, for the walker)
    labelled   share of the brain's voxels that have a label
    tumour, healthy       purity: the share of the voxels so labelled that are so in the reference
    found      share of the tumour that is labelled tumour

Seconds are of this process on one thread; memory is the most that NumPy and Python hold beyond the case, and does not
see what ITK and maxflow hold. With `--spacing-mm 2` on the grid of the CPU recipes. scikit-image's SLIC makes as many
supervoxels on the first case's box, once, in the same run. On BraTS where SCRIBBLESEG_DATA is set, else on phantoms of
the same size. The numbers of GraphCut were chosen on these eight cases, by the Dice of the cut over a coarse grid.

    OMP_NUM_THREADS=1 SCRIBBLESEG_DATA=... python benchmarks/graph_cut.py
"""

import argparse
import json
import os
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy import ndimage
from scipy.sparse import coo_array
from skimage.segmentation import slic

from scribbleseg.annotate.simulate import RULES, simulate
from scribbleseg.data import brats
from scribbleseg.data.brain import in_brain, normalise_brain
from scribbleseg.phantoms import brain_tumour
from scribbleseg.seeds import GraphCut, RandomWalker
from scribbleseg.seeds.graph_cut import contacts, eroded, minimum_cut, supervoxels
from scribbleseg.types import UNLABELLED

OURS = GraphCut()
EDGES = replace(OURS, sigma=0.15, likelihood=0.0)
"""The best without histograms."""


class Volume(NamedTuple):
    """A case: image `channel depth height width`, normalised over the brain, scribbles, whole tumour, spacing."""

    name: str
    image: np.ndarray
    scribbles: np.ndarray
    tumour: np.ndarray
    spacing_mm: tuple[float, float, float]

    @property
    def brain(self) -> np.ndarray:
        """Mask of the brain."""
        return in_brain(self.image)

    def within(self, box: tuple[slice, ...]) -> "Volume":
        """The part in a box."""
        image = np.ascontiguousarray(self.image[:, *box])
        return Volume(self.name, image, self.scribbles[box], self.tumour[box], self.spacing_mm)


def cases(quick: bool) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, image and reference."""
    folder = os.environ.get("SCRIBBLESEG_DATA")
    if folder and not quick:
        dataset = brats(Path(folder) / "brats")
        for name in sorted([*dataset.train.names, *dataset.test.names]):
            case = (dataset.train if name in dataset.train.names else dataset.test).named(name)
            yield name, case.image, dataset.reference(name)
        return
    shape = (60, 96, 84) if quick else (155, 240, 240)
    for seed in range(2):
        yield f"phantom {seed}", *brain_tumour(np.random.default_rng(seed), shape, (155 / shape[0],) * 3)


def volumes(quick: bool, step: int) -> Iterator[Volume]:
    """With every `step`-th row and column of images that were averaged over as many."""
    for name, image, reference in cases(quick):
        brain = in_brain(image)
        tumour = (reference > 0).astype(np.uint8)
        scribbles = simulate(tumour, RULES["ji2019"], name, inside=brain)
        thin = np.s_[..., ::step, ::step]
        image = normalise_brain(image)
        if step > 1:
            image = ndimage.uniform_filter(image, (1, 1, step, step)) * brain
        spacing = 155 / len(brain)
        image = np.ascontiguousarray(image[thin], np.float32)
        yield Volume(name, image, scribbles[thin].copy(), tumour[thin] > 0, (spacing, spacing * step, spacing * step))


def seconds_of(work: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def quality(volume: Volume, labels: np.ndarray, whole: np.ndarray) -> dict[str, float]:
    """What the module's docstring lists."""
    tumour, brain = volume.tumour, volume.brain
    as_tumour, as_healthy = labels == 1, (labels == 0) & brain
    return {
        "dice": float(2 * (tumour & (whole == 1)).sum() / (tumour.sum() + (whole == 1).sum())),
        "labelled": float((labels[brain] != UNLABELLED).mean()),
        "tumour": float(tumour[as_tumour].mean()),
        "healthy": float(1 - tumour[as_healthy].mean()),
        "found": float(as_tumour[tumour].mean()),
    }


def by_cut(volume: Volume, seeder: GraphCut) -> dict[str, float]:
    seconds, whole = seconds_of(lambda: seeder.cut(volume.image, volume.scribbles, volume.spacing_mm))
    erosion, areas = seconds_of(lambda: eroded(whole, seeder.erosion))
    labels = np.where(volume.scribbles != UNLABELLED, volume.scribbles, areas)
    return quality(volume, labels, whole) | {"seconds": seconds + erosion}


def by_walker(volume: Volume, dimensions: int) -> dict[str, float]:
    flair = np.ascontiguousarray(volume.image[OURS.channel : OURS.channel + 1])
    walker = RandomWalker(dimensions=2 if dimensions == 2 else 3)
    seconds, labels = seconds_of(lambda: walker(flair, volume.scribbles, volume.spacing_mm))
    return quality(volume, labels, labels) | {"seconds": seconds}


def steps(volume: Volume) -> dict[str, float]:
    """Seconds of supervoxels, their contacts and the cut; how many there are; megabytes of the whole."""
    inside, flair = volume.brain, volume.image[OURS.channel]
    made = {}
    made["supervoxels_s"], regions = seconds_of(
        lambda: supervoxels(flair, inside, volume.spacing_mm, OURS.size_mm, OURS.compactness)
    )
    n = int(regions.max()) + 1
    made["contacts_s"], area = seconds_of(lambda: contacts(regions, n, volume.spacing_mm))
    mean = ndimage.mean(flair, regions, np.arange(n))
    edges = coo_array(
        (area.data * np.exp(-((mean[area.row] - mean[area.col]) ** 2) / (2 * OURS.sigma**2)), area.coords), (n, n)
    )
    seeds = [ndimage.maximum(volume.scribbles == value, regions, np.arange(n)).astype(float) for value in (0, 1)]
    made["cut_s"], _ = seconds_of(lambda: minimum_cut(edges, seeds[1] - seeds[0], np.zeros(n)))
    tracemalloc.start()
    OURS(volume.image, volume.scribbles, volume.spacing_mm)
    made["mb"] = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    return made | {"supervoxels": n}


def peer(volume: Volume, n: int) -> float:
    """Seconds of scikit-image's SLIC, as many supervoxels and iterations, without a mask (with one it takes longer)."""
    flair = np.where(volume.brain, volume.image[OURS.channel], volume.image[OURS.channel].min() - 5)
    n = round(n * volume.brain.size / volume.brain.sum())
    return seconds_of(
        lambda: slic(
            flair,
            n,
            compactness=OURS.compactness,
            max_num_iter=3,
            spacing=volume.spacing_mm,
            channel_axis=None,
        )
    )[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two small phantoms")
    parser.add_argument("--spacing-mm", type=int, default=1, choices=(1, 2), help="of the pixels in a slice")
    parser.add_argument("--walker", type=int, nargs="*", default=[2], choices=(2, 3), help="its dimensions")
    arguments = parser.parse_args()
    found: dict[str, dict[str, dict[str, float]]] = {}
    cost: dict[str, dict[str, float]] = {}
    ratio = None
    for whole in track(volumes(arguments.quick, arguments.spacing_mm), "Cases"):
        volume = whole.within(ndimage.find_objects(whole.brain.astype(np.uint8))[0])
        cost[whole.name] = steps(volume)
        found.setdefault("graph cut", {})[whole.name] = by_cut(whole, OURS)
        found.setdefault("graph cut, edges only", {})[whole.name] = by_cut(whole, EDGES)
        for dimensions in arguments.walker:
            found.setdefault(f"random walker, {dimensions}-D", {})[whole.name] = by_walker(volume, dimensions)
        if ratio is None:
            n = int(cost[whole.name]["supervoxels"])
            boxed, _ = seconds_of(lambda v=volume: supervoxels(v.image[3], v.brain, v.spacing_mm, OURS.size_mm, 0.3))
            ratio = peer(volume, n) / boxed

    console = Console(width=120)
    for seeder, rows in found.items():
        table = Table("case", *next(iter(rows.values())), title=seeder)
        mean = {key: float(np.mean([row[key] for row in rows.values()])) for key in next(iter(rows.values()))}
        for name, row in {**rows, "mean": mean}.items():
            table.add_row(name, *(f"{value:.3f}" for value in row.values()))
        console.print(table)
    table = Table("case", *next(iter(cost.values())), title="cost of the graph cut")
    for name, row in cost.items():
        table.add_row(name, *(f"{value:.3g}" for value in row.values()))
    console.print(table)
    data = "brats" if os.environ.get("SCRIBBLESEG_DATA") and not arguments.quick else "phantoms"
    figures = {"data": data, "spacing_mm": arguments.spacing_mm, "areas": found, "cost": cost}
    print(json.dumps(figures | {"skimage_slic_over_simpleitk": ratio}))


if __name__ == "__main__":
    main()
