"""What k-means' clusters are worth before any network: Dice of ET, NCR/NET, ED and TC in the whole tumour, and time.

The whole tumour is the reference's, and the reference's 3 mm larger and 3 mm smaller; what lies outside the reference
counts as wrong. Image-level labels are those of the reference. "Best names" gives the paper's clusters the names that
agree best with the reference: what is then missing is the clusters' fault, not the names'. The variants under it are
measured only; their numbers (1 and 2 standard deviations) were chosen on the same cases. Dice of ET is over the cases
that have ET. Times are of this process on one thread, for a whole volume, on the largest tumour; memory is
tracemalloc's peak above the image. On BraTS where SCRIBBLESEG_DATA is set, else on phantoms of the same size.

    OMP_NUM_THREADS=1 SCRIBBLESEG_DATA=... python benchmarks/clusters.py
"""

import argparse
import json
import os
import time
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import permutations
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy import ndimage
from scipy.stats import multivariate_normal

from scribbleseg.data import brats
from scribbleseg.data.brain import normalise_brain
from scribbleseg.data.layouts.brats import ET, T1, T1CE
from scribbleseg.evaluation.metrics import dice
from scribbleseg.phantoms import brain_tumour
from scribbleseg.substructures import KMeans, merge
from scribbleseg.substructures.cluster import depth_mm, features, named_clusters

REGIONS = {"ET": (3,), "NCR/NET": (1,), "ED": (2,), "TC": (1, 3)}
MM = (1.0, 1.0, 1.0)
OFF_MM = 3
MARGIN = 8
"""Voxels around the tumour in which Dice is measured: more than OFF_MM."""

PAPER = KMeans()


class Volume(NamedTuple):
    """A case: image `channel depth height width`, normalised over the brain, and its reference."""

    name: str
    image: np.ndarray
    reference: np.ndarray

    @property
    def present(self) -> frozenset[int]:
        """The image-level labels."""
        return frozenset(np.unique(self.reference[self.reference > 0]).tolist())

    def around_tumour(self) -> "Volume":
        """The part that holds the tumour."""
        (box,) = ndimage.find_objects((self.reference > 0).astype(np.uint8))
        box = tuple(slice(max(side.start - MARGIN, 0), side.stop + MARGIN) for side in box)
        return Volume(self.name, self.image[:, *box], self.reference[box])


def volumes(quick: bool) -> Iterator[Volume]:
    folder = os.environ.get("SCRIBBLESEG_DATA")
    if folder and not quick:
        dataset = brats(Path(folder) / "brats")
        for name in sorted([*dataset.train.names, *dataset.test.names]):
            case = (dataset.train if name in dataset.train.names else dataset.test).named(name)
            yield Volume(case.name, normalise_brain(case.image), dataset.reference(case.name))
        return
    shape = (60, 80, 72) if quick else (155, 240, 240)
    for seed, present in enumerate([{1, 2, 3}, {1, 2}, {2, 3}][: 2 if quick else 3]):
        image, truth = brain_tumour(np.random.default_rng(seed), shape, (155 / shape[0],) * 3, frozenset(present))
        yield Volume(f"phantom {seed}", normalise_brain(image), truth)


def best_names(volume: Volume, tumour: np.ndarray) -> np.ndarray:
    """The paper's clusters, named as agrees best with the reference."""
    labels, present = PAPER(volume.image, tumour, volume.present, MM), sorted(volume.present)
    tables = []
    for order in permutations(present):
        table = np.zeros(4, np.uint8)
        table[present] = order
        tables.append(table)
    return max(
        (table[labels] for table in tables), key=lambda named: sum(dice(named, volume.reference, REGIONS).values())
    )


def described_by(
    describe: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> Callable[[Volume, np.ndarray], np.ndarray]:
    """K-means on other features, which are made from the voxels (`channel voxel`) and their depth."""

    def cluster(volume: Volume, tumour: np.ndarray) -> np.ndarray:
        voxels, depth = volume.image[:, tumour], depth_mm(tumour, MM)
        labels = np.zeros(tumour.shape, np.uint8)
        labels[tumour] = named_clusters(describe(voxels, depth), voxels[T1CE], depth, volume.present)
        return labels

    return cluster


def with_depth(voxels: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """The distance to the tumour's surface as a sixth feature, of standard deviation 2."""
    return np.column_stack([features(voxels), 2 * depth / max(depth.std(), 1e-9)])


def enhancing_first(volume: Volume, tumour: np.ndarray, describe: Callable) -> np.ndarray:
    """ET is where T1ce - T1 > 1, if it is present; k-means divides the rest."""
    if ET not in volume.present or len(volume.present) < 2:
        return described_by(describe)(volume, tumour)
    enhancing = tumour & (volume.image[T1CE] - volume.image[T1] > 1)
    rest, voxels, depth = tumour & ~enhancing, volume.image[:, tumour], depth_mm(tumour, MM)
    labels = np.where(enhancing, np.uint8(ET), np.uint8(0))
    kept = rest[tumour]
    voxels, depth = voxels[:, kept], depth[kept]
    labels[rest] = named_clusters(describe(voxels, depth), voxels[T1CE], depth, volume.present - {ET})
    return labels


def mixture(volume: Volume, tumour: np.ndarray) -> np.ndarray:
    """A Gaussian mixture with full covariances: EM from k-means' clusters, which keep their names."""
    labels, present = PAPER(volume.image, tumour, volume.present, MM), sorted(volume.present)
    described = features(volume.image[:, tumour])
    sample = np.random.default_rng(0).permutation(len(described))[:20_000]
    belongs = (labels[tumour][sample, None] == present).astype(float)

    def likelihood(points: np.ndarray) -> np.ndarray:
        columns = [np.log(w) + multivariate_normal(m, c, allow_singular=True).logpdf(points) for w, m, c in parts]
        return np.column_stack(columns)

    for _ in range(50):
        weights = belongs.sum(axis=0) + 1e-9
        means = (belongs.T @ described[sample]) / weights[:, None]
        covariances = [np.cov(described[sample].T, aweights=share + 1e-12) + 1e-4 * np.eye(5) for share in belongs.T]
        parts = list(zip(weights / weights.sum(), means, covariances, strict=True))
        log = likelihood(described[sample])
        belongs = np.exp(log - np.logaddexp.reduce(log, axis=1, keepdims=True))
    labels[tumour] = np.array(present, np.uint8)[likelihood(described).argmax(axis=1)]
    return labels


def smoothed(volume: Volume, tumour: np.ndarray) -> np.ndarray:
    return PAPER(ndimage.gaussian_filter(volume.image, (0, 1, 1, 1)), tumour, volume.present, MM)


VARIANTS: dict[str, Callable[[Volume, np.ndarray], np.ndarray]] = {
    "paper": lambda volume, tumour: PAPER(volume.image, tumour, volume.present, MM),
    "paper, best names": best_names,
    "enhancement 1": lambda volume, tumour: KMeans(enhancement=1.0)(volume.image, tumour, volume.present, MM),
    "images smoothed, 1 mm": smoothed,
    "Gaussian mixture": mixture,
    "depth as a feature": described_by(with_depth),
    "ET by T1ce - T1 > 1": lambda volume, tumour: enhancing_first(volume, tumour, lambda voxels, _: features(voxels)),
    "both": lambda volume, tumour: enhancing_first(volume, tumour, with_depth),
}


def tumours(reference: np.ndarray) -> dict[str, np.ndarray]:
    whole = reference > 0
    return {
        "reference": whole,
        f"{OFF_MM} mm larger": ndimage.distance_transform_edt(~whole) <= OFF_MM,
        f"{OFF_MM} mm smaller": ndimage.distance_transform_edt(whole) > OFF_MM,
    }


def scores(volume: Volume) -> dict[tuple[str, str], dict[str, float]]:
    """Dice by (whole tumour, variant), NaN for ET where there is none."""
    part = volume.around_tumour()
    found = {}
    for where, tumour in tumours(part.reference).items():
        for name, variant in VARIANTS.items():
            each = dice(variant(part, tumour), part.reference, REGIONS)
            found[where, name] = each if ET in part.present else each | {"ET": float("nan")}
    return found


def cost(volume: Volume, rounds: int) -> dict[str, float]:
    """Median CPU seconds and peak memory of clusters and merge, on a whole volume."""
    tumour = volume.reference > 0
    work = {
        "clusters": lambda: PAPER(volume.image, tumour, volume.present, MM),
        "merge": lambda: merge(tumour, volume.reference),
    }
    figures: dict[str, float] = {"tumour_voxels": int(tumour.sum())}
    for name, call in work.items():
        times = []
        for _ in range(rounds):
            start = time.process_time()
            call()
            times.append(time.process_time() - start)
        tracemalloc.start()
        call()
        figures |= {f"{name}_s": median(times), f"{name}_mb": tracemalloc.get_traced_memory()[1] / 1e6}
        tracemalloc.stop()
    return figures


def show(title: str, rows: dict[str, dict[str, float]]) -> None:
    table = Table(title=title)
    for column in ("", *REGIONS):
        table.add_column(column, justify="right" if column else "left")
    for name, each in rows.items():
        table.add_row(name, *("" if np.isnan(each[region]) else f"{each[region]:.2f}" for region in REGIONS))
    Console(width=120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two small phantoms, also where SCRIBBLESEG_DATA is set")
    quick = parser.parse_args().quick
    all_scores, costs = {}, {}
    for volume in track(volumes(quick), description="Cases", transient=True):
        all_scores[volume.name] = scores(volume)
        costs[volume.name] = cost(volume, rounds=3)
    places = dict.fromkeys(where for each in all_scores.values() for where, _ in each)
    means = {
        where: {
            name: {
                region: float(np.nanmean([each[where, name][region] for each in all_scores.values()]))
                for region in REGIONS
            }
            for name in VARIANTS
        }
        for where in places
    }
    for where in places:
        show(f"Paper, tumour: {where}", {name: each[where, "paper"] for name, each in all_scores.items()})
    for where in places:
        show(f"Mean of {len(all_scores)} cases, tumour: {where}", means[where])
    largest = max(costs.values(), key=lambda each: each["tumour_voxels"])
    figures = {
        "data": "brats" if os.environ.get("SCRIBBLESEG_DATA") and not quick else "phantoms",
        "cases": len(all_scores),
        "paper": {where: {name: each[where, "paper"] for name, each in all_scores.items()} for where in places},
        "means": means,
        "largest": largest,
    }
    print(json.dumps(_without_nan(figures)))


def _without_nan(figures):
    if isinstance(figures, dict):
        return {key: _without_nan(value) for key, value in figures.items()}
    return None if isinstance(figures, float) and np.isnan(figures) else figures


if __name__ == "__main__":
    main()
