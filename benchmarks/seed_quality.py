"""What seed areas are worth on ACDC: share of pixels labelled and how many of them are right, by beta, scale and tau.

The random walker runs slice by slice on the native grid, from the expert scribbles, and is compared with the reference
masks in the slices in which it is defined (scribbles of at least two classes). "Near" means within 10 mm of a
structure in the slice: elsewhere background is easy. Strokes count as labelled pixels. On phantoms, with the strokes
that the library draws, where SCRIBBLESEG_DATA is not set.

    SCRIBBLESEG_DATA=... python benchmarks/seed_quality.py
"""

import argparse
import json
import os
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from scipy import ndimage

from scribbleseg.data import acdc
from scribbleseg.phantoms import draw_scribbles, heart
from scribbleseg.seeds import RandomWalker
from scribbleseg.types import UNLABELLED

WALKERS = (
    *(RandomWalker(beta=beta) for beta in (50.0, 130.0, 400.0, 1000.0)),
    *(RandomWalker(beta=beta, scale="slice") for beta in (1000.0, 2000.0)),
)
TAUS = (0.9, 0.99)
PATIENTS = (1, 4, 21, 23, 42, 45, 61, 63, 81, 84, 6, 26)
STRUCTURES = ("RV", "Myo", "LV")
NEAR_MM = 10.0

Volume = tuple[np.ndarray, np.ndarray, np.ndarray, tuple[float, float, float]]


def volumes(patients: tuple[int, ...]) -> Iterator[Volume]:
    """Image `1 depth height width`, scribbles and reference `depth height width`, spacing_mm."""
    folder = os.environ.get("SCRIBBLESEG_DATA")
    if folder:
        dataset = acdc(Path(folder) / "acdc", train_patients=patients, test_patients=())
        for patient in patients:
            case = dataset.train.named(f"patient{patient:03d}_frame01")
            yield case.image, case.scribbles, dataset.reference(case.name), case.spacing_mm
        return
    for seed in patients:
        rng = np.random.default_rng(seed)
        image, truth = heart(rng, (6, 128, 128), (10.0, 1.5, 1.5))
        yield np.asarray(image, np.float32)[None], draw_scribbles(truth, rng), truth, (10.0, 1.5, 1.5)


def defined(scribbles: np.ndarray) -> np.ndarray:
    """Slices with scribbles of at least two classes."""
    return np.array([len(np.unique(one[one != UNLABELLED])) >= 2 for one in scribbles])


def near(reference: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Pixels within NEAR_MM of a structure in their slice."""
    return np.stack(
        [
            ndimage.distance_transform_edt(one == 0, sampling=spacing_mm[1:]) <= NEAR_MM if one.any() else one > 0
            for one in reference
        ]
    )


def count(probabilities: np.ndarray, scribbles: np.ndarray, reference: np.ndarray, close: np.ndarray, tau: float):
    """Pixel counts that add up over volumes: all, labelled, right, the same near structures, and of each label."""
    labels = np.where(probabilities.max(axis=0) >= tau, probabilities.argmax(axis=0), UNLABELLED)
    labels = np.where(scribbles != UNLABELLED, scribbles, labels)
    labelled, right = labels != UNLABELLED, labels == reference
    counts = [labels.size, labelled.sum(), right.sum(), (labelled & close).sum(), (right & close).sum()]
    counts += [(reference > 0).sum(), (labelled & (reference > 0)).sum()]
    for k in range(1, len(STRUCTURES) + 1):
        counts += [(labels == k).sum(), (right & (labels == k)).sum()]
    return np.array(counts, dtype=np.float64)


def sweep(patients: tuple[int, ...], walkers: tuple[RandomWalker, ...]) -> dict[tuple[RandomWalker, float], np.ndarray]:
    """Counts by walker and tau, over all patients."""
    totals: dict[tuple[RandomWalker, float], np.ndarray] = {}
    for image, scribbles, reference, spacing_mm in track(list(volumes(patients)), description="Volumes"):
        use = defined(scribbles)
        close = near(reference[use], spacing_mm)
        for walker in walkers:
            probabilities = walker.probabilities(image, scribbles, spacing_mm)[:, use]
            for tau in TAUS:
                counts = count(probabilities, scribbles[use], reference[use], close, tau)
                totals[walker, tau] = totals.get((walker, tau), 0) + counts
    return totals


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 patients and 3 walkers instead of 12 and 6")
    quick = parser.parse_args().quick
    patients, walkers = (PATIENTS[:3], WALKERS[1::2]) if quick else (PATIENTS, WALKERS)
    totals = sweep(patients, walkers)

    heads = ["beta", "scaled by", "tau", "pixels labelled", "structure labelled", "right", "right near"]
    heads += [f"{name} right" for name in STRUCTURES]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---:|" * len(heads)]
    figures = []
    for walker, tau in product(walkers, TAUS):
        n, labelled, right, labelled_near, right_near, structure, structure_labelled, *each = totals[walker, tau]
        row = [labelled / n, structure_labelled / structure, right / labelled, right_near / labelled_near]
        row += [b / a for a, b in zip(each[::2], each[1::2], strict=True)]
        lines.append(
            f"| {walker.beta:g} | {walker.scale} | {tau:g} | "
            + " | ".join(f"{100 * share:.1f} %" for share in row)
            + " |"
        )
        figures.append(
            {
                "beta": walker.beta,
                "scale": walker.scale,
                "tau": tau,
                **dict(zip(heads[3:], map(float, row), strict=True)),
            }
        )
    Console(width=200).print("\n".join(lines), markup=False)
    data = "acdc" if os.environ.get("SCRIBBLESEG_DATA") else "phantoms"
    print(json.dumps({"data": data, "patients": len(patients), "rows": figures}))


if __name__ == "__main__":
    main()
