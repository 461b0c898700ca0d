"""The same command on two processes: seeds, M step and E step shared out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from lightning_fabric import Fabric

from scribbleseg.data.slices import open_slices
from scribbleseg.phantoms import write_phantoms
from scribbleseg.pipeline import phase_recipe
from scribbleseg.relabel.decide import clamp
from scribbleseg.relabel.predict import predict
from scribbleseg.runs import open_run
from scribbleseg.types import UNLABELLED
from scribbleseg.weights import load_segmenter

SETTINGS = (
    "network.base=4", "stages.iterations=2", "stages.0.iterations=4", "stages.batch=2", "stages.1.times=1",
    "preprocess.spacing_mm=3.0", "preprocess.size=32",
)  # fmt: skip


def test_two_processes_share_one_run(tmp_path):
    data = write_phantoms(tmp_path / "hearts", train=3, test=0, shape=(3, 48, 48))
    command = [str(Path(sys.executable).with_name("scribbleseg")), "train", str(data), "--out", str(tmp_path / "run")]
    command += ["--recipe", "can2018.compact_base", "--accelerator", "cpu", "--devices", "2", "--workers", "1"]
    command += [word for setting in SETTINGS for word in ("--set", setting)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("Trained: ") == 1
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(r["event"], r["recursion"]) for r in records] == [
        ("relabel", 0), ("train", 0), ("relabel", 1), ("train", 1),
    ]  # fmt: skip
    for index in (0, 1):
        assert len(list((tmp_path / "run" / "labels" / str(index)).glob("*.nii.gz"))) == 3
    relabelled_by_the_saved_network(tmp_path / "run")
    refused = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert refused.returncode == 2
    assert refused.stderr.count("error: ") == 1, refused.stderr
    assert "Traceback" not in refused.stderr


def relabelled_by_the_saved_network(folder: Path) -> None:
    """Every rank's share of the E step comes from the network that was saved, batch statistics included."""
    run, fabric = open_run(folder), Fabric(accelerator="cpu", devices=1)
    slices = open_slices(run.slices)
    network = load_segmenter(phase_recipe(run), run, fabric, 0).network
    seeds = slices.layer("labels", 0)
    expected = clamp(predict(fabric, network, np.array(slices.images)).argmax(axis=1).astype(np.uint8), seeds)
    labels = slices.layer("labels", 1)
    assert (labels == np.where(slices.inside, expected, UNLABELLED)).mean() > 0.999  # batches differ in the last bit
