"""The same command on two processes: seeds, M step and E step shared out."""

import json
import os
import subprocess
import sys
from pathlib import Path

from scribbleseg.phantoms import write_phantoms

SETTINGS = (
    "network.base=4", "stages.iterations=2", "stages.0.iterations=4", "stages.batch=2", "stages.1.times=1",
    "preprocess.spacing_mm=3.0", "preprocess.size=32",
)  # fmt: skip


def test_two_processes_share_one_run(tmp_path):
    data = write_phantoms(tmp_path / "hearts", train=3, test=0, shape=(3, 48, 48))
    command = [str(Path(sys.executable).with_name("scribbleseg")), "train", str(data), "--out", str(tmp_path / "run")]
    command += ["--accelerator", "cpu", "--devices", "2", "--workers", "1"]
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
