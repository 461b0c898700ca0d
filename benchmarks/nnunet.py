"""nnU-Net v2 with its ignore label, on the same scribbles, split, grid, width, batch and number of iterations as ours.

    python -m venv nnunet && nnunet/bin/pip install torch nnunetv2    # an environment of its own
    SCRIBBLESEG_DATA=... python benchmarks/nnunet.py --python nnunet/bin/python --out runs/nnunet_acdc
    SCRIBBLESEG_DATA=... python benchmarks/nnunet.py --python nnunet/bin/python --masks --out runs/nnunet_acdc_full

Data, split and grid are those of can2018_cpu.py. nnU-Net plans its 2-D configuration; its patch, spacing, batch and
filters are then set to ours. Its optimiser, schedule, losses, augmentation, deep supervision and mirrored test views
are its own. Its predictions are scored as ours are. With --defaults its plan stays as it is. Without SCRIBBLESEG_DATA,
or with --quick, it runs on phantoms for two iterations.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np

from can2018_cpu import GRIDS, open_data
from scribbleseg.annotate.simulate import RULES
from scribbleseg.data import fully_annotated, open_dataset
from scribbleseg.data.encoding import to_disk
from scribbleseg.data.formats import read_labels, write_labels
from scribbleseg.evaluation.metrics import score, summarise, write_scores
from scribbleseg.phantoms import write_phantoms
from scribbleseg.types import Case, Dataset

TRAINER = Path(__file__).parent / "peers" / "nnunet_trainer.py"
NAME = "Dataset001_Scribbles"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, required=True, help="the interpreter of nnU-Net's environment")
    parser.add_argument("--data", choices=["acdc", "promise12", "prostate158"], default="acdc")
    parser.add_argument("--scribbles", choices=["expert", *RULES], help="default: expert on acdc, full elsewhere")
    parser.add_argument("--masks", action="store_true", help="train on full masks")
    parser.add_argument("--iterations", type=int, default=4000)
    parser.add_argument("--defaults", action="store_true", help="its own patch, spacing, batch and filters")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/nnunet_acdc"))
    parser.add_argument("--quick", action="store_true", help="phantoms, two iterations")
    arguments = parser.parse_args()
    data = os.environ.get("SCRIBBLESEG_DATA")
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.quick or not data:
            arguments.data, arguments.iterations, arguments.out = "phantoms", 2, Path(scratch) / "out"
            dataset = open_dataset(write_phantoms(Path(scratch) / "phantoms", train=2, test=1))
        else:
            dataset = open_data(Path(data) / arguments.data, arguments.scribbles, arguments.out)
        run(arguments, dataset)


def run(arguments: argparse.Namespace, dataset: Dataset) -> None:
    """Exports the data set, trains, scores, and prints one line of JSON."""
    out = arguments.out.resolve()
    export(fully_annotated(dataset) if arguments.masks else dataset, out / "raw" / NAME)
    grid = GRIDS[arguments.data]
    ours = {"spacing": [grid.spacing_mm] * 2, "patch_size": [grid.size] * 2, "batch_size": 10}
    settings = {
        "configuration": {} if arguments.defaults else ours,
        "features": None if arguments.defaults else [16, 32, 64, 128, 256],
        "iterations": arguments.iterations,
        "seed": arguments.seed,
        "threads": arguments.threads,
        "images": str(out / "test"),
        "predictions": str(out / "predictions"),
    }
    (out / "settings.json").write_text(json.dumps(settings))
    (out / "predictions").mkdir(exist_ok=True)
    folders = {f"nnUNet_{name}": str(out / name) for name in ("raw", "preprocessed", "results")}
    environment = {**os.environ, **folders, "nnUNet_n_proc_DA": "1", "OMP_NUM_THREADS": str(arguments.threads)}
    environment.pop("PYTHONPATH", None)
    started = time.perf_counter()
    subprocess.run([arguments.python, TRAINER, out / "settings.json"], env=environment, check=True)
    scores = scored(dataset, out / "predictions")
    write_scores(scores, out)
    figures = {row["structure"]: round(row["dice_mean"], 4) for row in summarise(scores)}
    hd95 = float(np.nanmean([each.hd95_mm for each in scores]))
    mean = round(float(np.mean([each.dice for each in scores])), 4)
    times = json.loads((out / "times.json").read_text())
    minutes = round((time.perf_counter() - started) / 60, 1)
    line = {"benchmark": "nnunet", "dice": figures, "mean": mean, "hd95_mm": round(hd95, 2), "minutes": minutes}
    print(json.dumps(line | times))


def export(dataset: Dataset, folder: Path) -> None:
    """Writes the data set in nnU-Net's layout, and the test images beside it in test/."""
    if (folder / "dataset.json").exists():
        return
    for case in dataset.train:
        write_images(case, folder / "imagesTr")
        labels = to_disk(case.scribbles, dataset.n_labels)
        write_labels(folder / "labelsTr" / f"{case.name}.nii.gz", labels, case.geometry)
    for case in dataset.test:
        write_images(case, folder.parents[1] / "test")
    values = {name: value for value, name in enumerate((*dataset.label_names, "ignore"))}
    declaration = {"channel_names": {"0": "MRI"}, "labels": values, "numTraining": len(dataset.train)}
    (folder / "dataset.json").write_text(json.dumps(declaration | {"file_ending": ".nii.gz"}))


def write_images(case: Case, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for channel, image in enumerate(case.image):
        volume = nib.Nifti1Image(image.transpose(2, 1, 0), case.geometry.affine)
        nib.save(volume, folder / f"{case.name}_{channel:04d}.nii.gz")


def scored(dataset: Dataset, predictions: Path) -> list:
    """Scores of all test cases."""
    scores = []
    for name in dataset.test.names:
        labels, _ = read_labels(predictions / f"{name}.nii.gz")
        spacing = dataset.test.geometry(name).spacing_mm
        scores += score(name, labels.astype("uint8"), dataset.reference(name), spacing, dataset.scored)
    return scores


if __name__ == "__main__":
    main()
