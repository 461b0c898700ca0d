"""From a folder of images to a first prediction on the page: minutes of the machine, and how good the prediction is.

The page of a folder that holds nothing but images is opened by the program; structures are named, strokes are sent
slice by slice, a training is started, and its end and the predictions are waited for, through the routes that the page
itself uses. Strokes are those of phantoms, or of the experts of ACDC; images without strokes are predicted, and scored
against their masks. A person's time of drawing comes on top, and is not measured.

    python benchmarks/first_prediction.py
    SCRIBBLESEG_DATA=... python benchmarks/first_prediction.py --data acdc
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from annotate import Served
from scribbleseg.data import acdc, folder
from scribbleseg.evaluation.metrics import Score, Scores, score
from scribbleseg.phantoms import write_phantoms
from scribbleseg.server.display import turn_for_screen
from scribbleseg.types import UNLABELLED, Case, Cases, Dataset

DRAWN = 5
"""Images with strokes."""

ACDC_GROUP = tuple(range(1, 9))
"""Patients of one diagnosis, dilated cardiomyopathy: the strokes of the first ones, and the masks of the others."""

POLL_SECONDS = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=["phantoms", "acdc"], default="phantoms")
    parser.add_argument("--slices", type=int, default=4, help="slices with strokes in each of the images drawn on")
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--quick", action="store_true", help="phantoms, 4 iterations")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.data, arguments.iterations = "phantoms", 4
    with tempfile.TemporaryDirectory() as scratch:
        dataset = opened(arguments.data, Path(scratch))
        root = images_alone(dataset.train, Path(scratch) / "images alone")
        print(json.dumps(walk(root, dataset, arguments.slices, arguments.iterations)))


def opened(data: str, scratch: Path) -> Dataset:
    """A data set whose first training cases are drawn on, and whose others are scored."""
    if data == "phantoms":
        return folder(write_phantoms(scratch / "phantoms", train=DRAWN + 3, test=0))
    whole = acdc(Path(os.environ["SCRIBBLESEG_DATA"]) / "acdc", train_patients=ACDC_GROUP, test_patients=())
    return replace(whole, train=whole.train.only([name for name in whole.train.names if "frame01" in name]))


def images_alone(cases: Cases, root: Path) -> Path:
    """A folder of their images."""
    (root / "images").mkdir(parents=True)
    for case in cases:
        shutil.copyfile(case.files[0], root / "images" / f"{case.name}.nii.gz")
    return root


def walk(root: Path, dataset: Dataset, slices: int, iterations: int) -> dict[str, Any]:
    """Draws, trains and predicts on the page. Gives the seconds of each step, and the mean Dice of each structure."""
    with Served(root) as served:
        times = {"page": served.seconds}
        start = time.perf_counter()
        served.ask("/api/project/structures", {"names": list(dataset.label_names[1:])})
        voxels = sum(draw(served, n, case, slices) for n, case in enumerate(dataset.train) if n < DRAWN)
        times["saving strokes"] = time.perf_counter() - start
        start = time.perf_counter()
        served.ask("/api/training", {"iterations": iterations})
        wait_for(lambda: trained(served))
        times["training"] = time.perf_counter() - start
        start = time.perf_counter()
        scores = [predicted(served, n, case, dataset) for n, case in enumerate(dataset.train) if n >= DRAWN]
        times["predictions"] = time.perf_counter() - start
    dice = Scores([one for of_case in scores for one in of_case]).by_structure
    return {"minutes": sum(times.values()) / 60, "seconds": times, "voxels drawn": voxels, "dice": dice}


def draw(served: Served, number: int, case: Case, count: int) -> int:
    """Sends the strokes of so many slices, one slice after the other, and gives the number of voxels."""
    shown = turn_for_screen(case.geometry)(case.scribbles)
    drawn = np.flatnonzero((shown != UNLABELLED).any(axis=(1, 2)))
    version = json.loads(served.ask(f"/api/cases/{number}"))["version"]
    voxels = 0
    for z in np.unique(drawn[np.linspace(0, len(drawn) - 1, min(count, len(drawn))).astype(int)]):
        labels = shown[z].ravel()
        runs = [(int(z * labels.size + at), 1, int(labels[at])) for at in np.flatnonzero(labels != UNLABELLED)]
        body = {"tab": "benchmark", "base": version, "runs": runs}
        version = json.loads(served.ask(f"/api/cases/{number}/strokes", body))["version"]
        voxels += len(runs)
    return voxels


def trained(served: Served) -> bool:
    """Whether the training has ended. Raises RuntimeError where it failed."""
    state = json.loads(served.ask("/api/run"))["training"]
    if not state["working"] and state["code"]:
        raise RuntimeError(state["log"])
    return not state["working"]


def predicted(served: Served, number: int, case: Case, dataset: Dataset) -> list[Score]:
    """Waits for the prediction of a case, and scores it."""
    content = wait_for(lambda: served.ask(f"/api/cases/{number}/predicted/labels"))
    turn, reference = turn_for_screen(case.geometry), dataset.reference(case.name)
    labels = turn.back(np.frombuffer(content, np.uint8).reshape(turn.shape(case.geometry)))
    return score(case.name, labels, reference, case.geometry.spacing_mm, dataset.scored)


def wait_for(ask: Callable[[], Any]) -> Any:
    """Asks until there is an answer."""
    while not (answer := ask()):
        time.sleep(POLL_SECONDS)
    return answer


if __name__ == "__main__":
    main()
