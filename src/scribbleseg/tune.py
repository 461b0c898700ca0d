"""Chooses the numbers of the dense CRF on scribbles that were held out from training; no mask is looked at."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from scribbleseg.em import train
from scribbleseg.evaluation.agreement import mean_agreement
from scribbleseg.files import read_records, write_text
from scribbleseg.progress import track
from scribbleseg.recipe import Recipe
from scribbleseg.relabel.predict import predict
from scribbleseg.relabel.refine import DenseCRF
from scribbleseg.session import Session
from scribbleseg.types import UNLABELLED, Cases, DataError, Dataset

GRID: dict[str, tuple[float, ...]] = {
    "w1": (1.0, 5.0, 10.0),
    "w2": (1.0, 5.0, 10.0),
    "sigma_alpha": (1.0, 2.0, 5.0),
    "sigma_beta": (0.01, 0.03, 0.1),
    "sigma_gamma": (1.0, 3.0, 5.0),
}
"""What is tried, distances in pixels of the recipe's grid. The paper searches the same five; the values are ours."""

HELD_OUT_EVERY = 5
"""Every fifth patient's scribbles are held out (ours)."""


@dataclass(frozen=True)
class Trial:
    """One setting and what it gave.

    Args:
        crf: the setting; None is the network without a CRF.
        dice: mean over labels of the Dice on held-out scribbled pixels.
    """

    crf: DenseCRF | None
    dice: float


def hold_out(dataset: Dataset) -> tuple[Dataset, Cases]:
    """The data set without every fifth patient's training cases, and those cases.

    Cases whose names agree up to the last underscore (patient001_frame01, patient001_frame12) are taken for one
    patient's. Raises DataError with fewer than two patients.
    """
    patient_of = {name: name.rpartition("_")[0] or name for name in dataset.train.names}
    patients = list(dict.fromkeys(patient_of.values()))
    if len(patients) < 2:
        raise DataError(f"{dataset.root}: expected training cases of two patients or more, found {len(patients)}")
    held = set(patients[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY] or patients[-1:])
    rest = [name for name, patient in patient_of.items() if patient not in held]
    out = [name for name, patient in patient_of.items() if patient in held]
    return replace(dataset, train=dataset.train.only(rest)), dataset.train.only(out)


def tune_crf(
    session: Session[Recipe],
    held_out: Cases,
    grid: Mapping[str, Sequence[float]] = GRID,
    most: int | None = None,
) -> list[Trial]:
    """Train one M step, then try every setting of the grid on the held-out cases, whose scribbles clamp nothing.

    Can et al. 2018 searches the same five numbers. Trials are kept in RUN/trials.jsonl and not done again, as long as
    they are of the same network, images and scribbles.

    Args:
        session: a recipe with a single stage, on the cases that are not held out.
        held_out: cases with scribbles.
        grid: what is tried of each field of `DenseCRF`.
        most: how many settings of the grid are tried, drawn by the session's seed; None tries all.

    Returns:
        Best first; of equals the one that changes least: no CRF, then the smaller weights.

    Raises:
        DataError: if no held-out case has a scribble.
    """
    recipe, fabric, run = session.recipe, session.fabric, session.run
    network = next(train(session)).segmenter.network
    planes = []
    for case in track(held_out, "Held-out cases", total=len(held_out)):
        image, strokes = recipe.preprocess.image(case), recipe.preprocess.labels(case.scribbles, case.geometry)
        drawn = (strokes != UNLABELLED).any(axis=(1, 2))
        if drawn.any():
            planes.append((image[drawn], strokes[drawn], predict(fabric, network, image, recipe.views)[drawn]))
    if not planes:
        raise DataError(
            f"{session.dataset.root}: expected scribbles in the held-out cases {held_out.names}, found none"
        )
    images, scribbles, probabilities = (np.concatenate(part) for part in zip(*planes, strict=True))
    free = np.full_like(scribbles, UNLABELLED)
    path = run.path / "trials.jsonl"
    records = read_records(path)
    write_text(path, "".join(json.dumps(record) + "\n" for record in records))  # without a line that a kill cut short
    of = hashlib.sha256(b"".join([run.weights.encode(), images.tobytes(), scribbles.tobytes()])).hexdigest()
    done = {tuple(record[name] for name in grid): record["dice"] for record in records if record.get("of") == of}
    trials = [Trial(None, mean_agreement(probabilities.argmax(axis=1).astype(np.uint8), scribbles))]
    settings = list(product(*grid.values()))
    chosen = np.random.default_rng(session.seed).permutation(len(settings))[:most]
    for values in track([settings[n] for n in sorted(chosen)], "Trials"):
        numbers: dict[str, Any] = dict(zip(grid, values, strict=True))
        crf = DenseCRF(**numbers)
        if values not in done:
            labels = crf(probabilities, images, free, fabric.device).argmax(axis=1).astype(np.uint8)
            done[values] = mean_agreement(labels, scribbles)
            with path.open("a") as file:
                file.write(json.dumps({**asdict(crf), "dice": done[values], "of": of}) + "\n")
        trials.append(Trial(crf, done[values]))
    return sorted(trials, key=lambda trial: (-trial.dice, trial.crf.w1 + trial.crf.w2 if trial.crf else 0.0))
