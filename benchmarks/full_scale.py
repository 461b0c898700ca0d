"""Can et al.'s Table 1 at the paper's scale on ACDC, in whatever time a GPU can be had: pack, run, table.

    SCRIBBLESEG_DATA=... python benchmarks/full_scale.py pack --out packed
    python benchmarks/full_scale.py run packed --out runs/full_scale --minutes 25
    python benchmarks/full_scale.py table runs/full_scale

`pack` writes ACDC's tree once more, with every volume on the grid of the recipes (1.36719 mm, 212 x 212) and
intensities as bytes between its 0.5th and 99.5th percentiles: small enough to carry to another machine, and read as
ACDC is. `run` trains row after row until the time is over and goes on there the next time; results.json has the rows
that are finished. Scores are taken on the packed grid. `--quick` packs phantoms and runs one iteration a stage, for a
minute at most.
"""

import argparse
import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from scribbleseg.data import acdc
from scribbleseg.data.encoding import to_disk
from scribbleseg.data.formats import write_labels
from scribbleseg.data.layouts.acdc import N_PATIENTS
from scribbleseg.evaluation.metrics import summarise
from scribbleseg.files import write_text
from scribbleseg.phantoms import draw_scribbles, heart
from scribbleseg.recipes import can2018
from scribbleseg.reproduce import run_folder, train_rows
from scribbleseg.review import test_scores
from scribbleseg.runs import open_run
from scribbleseg.settings import override
from scribbleseg.training.hardware import make_fabric
from scribbleseg.types import UNLABELLED, Case, Geometry, Labels

GRID = can2018.ACDC_BASE.preprocess
LIMIT_MB = 60
ENDS = ("base", "full", "crf_uncertainty", "crf_rnn", "no_recursion", "uncertainty", "crf", "crf_rnn_uncertainty")
"""The rows in the order in which they are trained: those that say most come first."""

QUICK = ("stages.iterations=1", "stages.batch=1")


class TimeIsOver(Exception):
    """Raised by the alarm."""


def volumes(quick: bool) -> Iterator[tuple[Case, Labels]]:
    """Every volume at hand with its scribbles, and its mask; phantoms where it is to be quick."""
    if quick:
        for patient in (1, 5):  # one to train on, one to test on in every split of the paper
            rng = np.random.default_rng(patient)
            image, truth = heart(rng, (4, 96, 96), (10.0, 2.0, 2.0))
            geometry = Geometry((4, 96, 96), np.diag([2.0, 2.0, 10.0, 1.0]))
            scribbles = draw_scribbles(truth, rng)
            yield Case(f"patient{patient:03d}_frame01", np.asarray(image, np.float32)[None], scribbles, geometry), truth
        return
    root = Path(os.environ["SCRIBBLESEG_DATA"]) / "acdc"
    dataset = acdc(root, train_patients=range(1, N_PATIENTS + 1), test_patients=[])
    for name in track(dataset.train.names, "Packing"):
        yield dataset.train.named(name), dataset.reference(name)


def pack(out: Path, quick: bool) -> None:
    """Every volume with its scribbles and mask, as `patientNNN/patientNNN_frameNN*.nii.gz` on the grid."""
    assert GRID.size is not None, "the recipe at the paper's scale has a grid of its own"
    count = 0
    for case, mask in volumes(quick):
        depth, mm = case.geometry.shape[0], float(GRID.spacing_mm or 1)
        geometry = Geometry((depth, GRID.size, GRID.size), np.diag([mm, mm, case.spacing_mm[0], 1.0]))
        stem = out / case.name.partition("_")[0] / case.name
        slices = GRID.image(case)[:, 0]
        low, high = slices.min(), slices.max()
        image = np.round(255 * (slices - low) / max(high - low, 1e-8)).astype(np.uint8)
        scribbles, full = (GRID.labels(labels, case.geometry) for labels in (case.scribbles, mask))
        write_labels(stem.with_name(f"{case.name}.nii.gz"), image, geometry)
        write_labels(stem.with_name(f"{case.name}_scribble.nii.gz"), to_disk(scribbles, 4), geometry)
        write_labels(
            stem.with_name(f"{case.name}_gt.nii.gz"), np.where(full == UNLABELLED, np.uint8(0), full), geometry
        )
        count += 1
    size = sum(file.stat().st_size for file in out.rglob("*.nii.gz")) / 1e6
    print(json.dumps({"volumes": count, "megabytes": round(size, 1), "within_limit": size <= LIMIT_MB}))


def run(packed: Path, out: Path, split: str, minutes: float, quick: bool) -> None:
    """Train and score row after row until the time is over; results.json has those that are finished."""
    signal.signal(signal.SIGALRM, _time_is_over)
    signal.setitimer(signal.ITIMER_REAL, 60 * minutes)
    fabric, started = make_fabric("cpu" if quick else "auto"), time.perf_counter()
    dataset, accelerator = acdc(packed, split), "cpu" if quick else "auto"
    try:
        for end in ENDS:
            recipe = override(can2018.FAMILIES["acdc"][end], QUICK if quick else ())
            title = can2018.TITLES[end]
            train_rows({title: recipe}, dataset, out, [0], accelerator=accelerator)
            scores = test_scores(open_run(run_folder(out, title, 0)), fabric)
            file = out / "results.json"
            known = json.loads(file.read_text()) if file.exists() else {}
            known[end] = {row["structure"]: round(row["dice_mean"], 4) for row in summarise(scores)}
            write_text(file, json.dumps(known, indent=1) + "\n")
    except TimeIsOver:
        print("The time is over; the same command goes on.")
    print(json.dumps({"minutes": round((time.perf_counter() - started) / 60, 1), "finished": len(_results(out))}))


def _time_is_over(*_: object) -> None:
    raise TimeIsOver


def _results(out: Path) -> dict[str, dict[str, float]]:
    file = out / "results.json"
    return json.loads(file.read_text()) if file.exists() else {}


def table(out: Path) -> None:
    """The finished rows beside the paper's."""
    structures = ("LV", "RV", "Myo", "mean")
    printed = Table("row", *(f"{name} (paper)" for name in structures), box=None)
    for end, dice in _results(out).items():
        paper = can2018.HEART[end]
        printed.add_row(can2018.TITLES[end], *(f"{dice[name]:.3f} ({paper[name]:.3f})" for name in structures))
    Console(width=120).print(printed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["pack", "run", "table"], nargs="?", default="run")
    parser.add_argument(
        "folder", type=Path, nargs="?", default=Path("packed"), help="run: packed data; table: the runs"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/full_scale"))
    parser.add_argument("--split", default="published_validation", help="of `data.acdc`; paper_validation is the other")
    parser.add_argument("--minutes", type=float, default=25.0)
    parser.add_argument("--quick", action="store_true", help="phantoms, one iteration a stage, one minute at most")
    arguments = parser.parse_args()
    if arguments.quick:
        with tempfile.TemporaryDirectory() as scratch:
            pack(Path(scratch) / "packed", quick=True)
            run(Path(scratch) / "packed", Path(scratch) / "runs", "paper_validation", 1.0, quick=True)
            table(Path(scratch) / "runs")
    elif arguments.verb == "pack":
        pack(arguments.out, quick=False)
    elif arguments.verb == "run":
        run(arguments.folder, arguments.out, arguments.split, arguments.minutes, quick=False)
    else:
        table(arguments.folder)


if __name__ == "__main__":
    main()
