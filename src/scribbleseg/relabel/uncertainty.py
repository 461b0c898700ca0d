"""Uncertainty of a segmentation from passes with dropout: maps of a case on its own grid, and a ranking of cases."""

import csv
import io
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from scribbleseg.data.formats import write_map
from scribbleseg.files import atomically
from scribbleseg.relabel.decide import WelchTest, welch_p
from scribbleseg.relabel.predict import Segmenter
from scribbleseg.types import Case, Probabilities

Map = Float32[np.ndarray, "depth height width"]


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """The uncertainty of one case, on its native grid.

    Maps are interpolated from the network's grid as probabilities are. Outside the network's field of view background
    is certain, by declaration: there all three are 0.

    Args:
        probabilities: mean softmax of the passes.
        p: the p-value of Welch's t-test between the two likeliest labels, 0 (told apart) to 1.
        entropy: the entropy of the mean softmax, in nats. It is high on every border, also where no network could know
            better.
        mutual_information: the mutual information of label and weights, in nats. It is high where the passes disagree,
            each sure of itself.
    """

    probabilities: Probabilities
    p: Map
    entropy: Map
    mutual_information: Map


@dataclass(frozen=True)
class Rank:
    """One case in the ranking.

    Args:
        case: its name.
        score: mean entropy, in nats, over the voxels that are a structure or uncertain (ours). Not over all voxels,
            because easy background would rank by the size of the image; not mutual information, because it followed
            Dice less well (benchmarks/uncertainty.py). 0 where there is no such voxel.
        uncertain: share of these voxels that are uncertain: p at or above the test's significance.
        voxels: their number.
    """

    case: str
    score: float
    uncertain: float
    voxels: int


def uncertainty(segmenter: Segmenter, case: Case, test: WelchTest, seed: int = 0) -> Uncertainty:
    """Maps of a case from `test.passes` passes with dropout; of a CRF-RNN, those of the network inside.

    Raises:
        DataError: the network has no dropout, or the case has other channels than training.
    """
    samples = segmenter.samples(case, test.passes, seed)
    maps = np.stack([welch_p(samples).astype(np.float32), samples.entropy, samples.mutual_information], axis=1)
    # Beside the probabilities, as further labels: outside the field of view those are 0.
    native = segmenter.preprocess.native_probabilities(np.concatenate([samples.probabilities, maps], axis=1), case)
    return Uncertainty(native[:-3], *native[-3:])


def rank(case: str, found: Uncertainty, test: WelchTest) -> Rank:
    """The case's place in a ranking, by the rule of `Rank.score`."""
    uncertain = found.p >= test.significance
    looked_at = uncertain | (found.probabilities.argmax(axis=0) > 0)
    if not looked_at.any():
        return Rank(case, 0.0, 0.0, 0)
    score = found.entropy[looked_at].mean(dtype=np.float64)
    return Rank(case, float(score), float(uncertain[looked_at].mean()), int(looked_at.sum()))


def write_uncertainty(folder: Path, case: Case, found: Uncertainty) -> None:
    """Write CASE_uncertainty_p.nii.gz, CASE_entropy.nii.gz and CASE_mutual_information.nii.gz, float32.

    Raises:
        DataError: a file cannot be written; none is left half-written.
    """
    maps = {"uncertainty_p": found.p, "entropy": found.entropy, "mutual_information": found.mutual_information}
    for name, values in maps.items():
        write_map(folder / f"{case.name}_{name}.nii.gz", values, case.geometry)


def write_ranking(folder: Path, ranks: Iterable[Rank]) -> None:
    """Write uncertainty.csv, one row a case, the most uncertain first; cases of the same score by name.

    Raises:
        DataError: the file cannot be written; it is not left half-written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Rank)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in sorted(ranks, key=lambda row: (-row.score, row.case)))
    with atomically(folder / "uncertainty.csv") as path:
        path.write_text(text.getvalue(), encoding="utf-8")
