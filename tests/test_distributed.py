"""The same command on two processes, which share it out: started by Lightning, and by torchrun."""

import json
import os
import shutil
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from lightning_fabric import Fabric

from command_line import call
from scribbleseg import ranks
from scribbleseg.cli import use
from scribbleseg.data.slices import open_slices
from scribbleseg.phantoms import write_phantoms
from scribbleseg.pipeline import phase_recipe
from scribbleseg.relabel.decide import clamp
from scribbleseg.relabel.predict import predict
from scribbleseg.runs import open_run
from scribbleseg.training import loop
from scribbleseg.training.hardware import shared_fabric
from scribbleseg.types import UNLABELLED, DataError
from scribbleseg.weights import load_segmenter
from scribbleseg.workers import RANK_LOST

SETTINGS = (
    "network.base=4", "stages.iterations=2", "stages.0.iterations=4", "stages.batch=2", "stages.1.times=1",
    "preprocess.spacing_mm=3.0", "preprocess.size=32",
)  # fmt: skip

RECIPE = ("--recipe", "can2018.compact_base", *(word for setting in SETTINGS for word in ("--set", setting)))

LEADERS = ("RANK", "SLURM_PROCID", "LOCAL_RANK")
"""What says which rank a process is; 0 leads."""

VERBS = """
import json, os, sys
from scribbleseg.cli import app
if __name__ == "__main__":
    for words in json.loads(sys.argv[1]):
        if os.environ["RANK"] == "0":
            print("verb", words[0], flush=True)
        assert not app(words, standalone_mode=False)
"""

KILLED = """
import os
from scribbleseg import ranks
from scribbleseg.cli import app

def joined(join=ranks.join):
    join()
    from scribbleseg.annotate import check
    if ranks.started().rank == int(os.environ["KILLED"]):
        check._look_at = lambda *_: os.kill(os.getpid(), 9)

if __name__ == "__main__":
    ranks.join = joined
    app()
"""


def torchrun(*words) -> subprocess.CompletedProcess[str]:
    """What two processes that torchrun starts say, and its exit code."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *map(str, words)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400, check=False)


def errors_of(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The lines that the program itself has to say of why it ended; torchrun adds its own."""
    return [line for line in done.stderr.splitlines() if line.startswith(("error: ", "Stopped", "not segmented"))]


def same_files(one: Path, other: Path, pattern: str, number: int) -> None:
    names = sorted(path.name for path in one.glob(pattern))
    assert len(names) == number
    assert names == sorted(path.name for path in other.glob(pattern))
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with data, and what two processes said and wrote of it."""
    place = tmp_path_factory.mktemp("torchrun")
    data, run = write_phantoms(place / "hearts", train=3, test=2, shape=(3, 48, 48)), place / "run"
    (place / "verbs.py").write_text(VERBS)
    growing = ("--workers", "1", "--out", run, *RECIPE)
    (place / "maps").mkdir()
    for name in ("test000.nii.gz", "test001.nii.gz", "train000.nii.gz"):
        mask = nib.load(data / "masks" / name)
        nib.save(nib.Nifti1Image(np.roll(np.asarray(mask.dataobj), 2, axis=0), mask.affine), place / "maps" / name)
    verbs = [("check", data), ("evaluate", place / "maps", data, "--out", place / "scores")]
    verbs += [("seeds", data, *growing), ("train", data, *growing, "--accelerator", "cpu", "--resume")]
    verbs += [("suggest", run, data / "images", "--accelerator", "cpu")]
    done = torchrun(place / "verbs.py", json.dumps([list(map(str, words)) for words in verbs]))
    assert done.returncode == 0, done.stdout + done.stderr
    (place / "said").write_text(done.stdout)
    return place


def test_check_says_what_one_process_says(place):
    said = (place / "said").read_text()
    checked, alone = said[said.index("verb check") : said.index("verb evaluate")], call("check", place / "hearts")
    words = alone[alone.index("Scribbles in 3") : alone.index("takes about")].split()  # without a time
    assert " ".join(words) in " ".join(checked.split())
    assert checked.count("0 faults, ") == 1


def test_evaluate_scores_what_one_process_scores(place):
    call("evaluate", place / "maps", place / "hearts", "--out", place / "scores_alone")
    same_files(place / "scores_alone", place / "scores", "scores.*", 2)
    assert (place / "said").read_text().count("2 of 2 test cases scored") == 1


def test_suggest_says_what_one_process_says(place):
    said = " ".join((place / "said").read_text().split())
    alone = call("suggest", place / "run", place / "hearts" / "images", "--accelerator", "cpu")
    assert alone[alone.index("case slice structure") :] in said


def test_seeds_are_those_of_one_process_and_train_goes_on_from_them(place):
    call("seeds", place / "hearts", "--workers", 1, "--out", place / "alone", *RECIPE)
    same_files(place / "alone" / "labels" / "0", place / "run" / "labels" / "0", "*.nii.gz", 3)
    said = (place / "said").read_text()
    assert said.count("Trained: ") == said.count("Pictures: ") == 1
    records = [json.loads(line) for line in (place / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(r["event"], r["recursion"]) for r in records if r["event"] != "agreement"] == [
        ("relabel", 0), ("train", 0), ("relabel", 1), ("train", 1),
    ]  # fmt: skip
    relabelled_by_the_saved_network(place / "run")
    assert "nothing: all rounds of training are done" in call(
        "train", place / "hearts", "--out", place / "run", *RECIPE, "--resume", "--accelerator", "cpu"
    )


def test_predict_goes_on_on_other_numbers_of_ranks(place, monkeypatch):
    images, out = place / "new" / "images", place / "out"
    shutil.copytree(place / "hearts", place / "new")
    command = ("predict", place / "run", images, "--accelerator", "cpu", "--out")
    call(*command, place / "whole")

    def stopped(model, case, *_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        segment = use._segment
        patch.setattr(use, "_segment", lambda model, case, *rest: (
            segment(model, case, *rest) if case.name == "test000" else stopped(model, case)
        ))  # fmt: skip
        call(*command, out, code=130)
    first = (out / "test000.nii.gz").stat().st_mtime_ns
    bad = images / "train000.nii.gz"  # the second of those that are left, and so rank 1's
    whole = bad.read_bytes()
    bad.write_bytes(whole[:500])
    done = torchrun("-m", "scribbleseg", *command, out)
    assert done.returncode == 1
    assert "4 label maps in" in done.stdout
    [said] = errors_of(done)
    assert "train000.nii.gz" in said
    assert len(list(out.glob("*.nii.gz"))) == 4
    assert len(list(out.glob("*.unfinished.json"))) == 2
    bad.write_bytes(whole)
    assert "(4 were there already)" in call(*command, out)
    assert (out / "test000.nii.gz").stat().st_mtime_ns == first
    same_files(place / "whole", out, "*", 6)


def test_an_error_on_one_rank_is_said_once_and_ends_all(place):
    shutil.copytree(place / "maps", place / "broken")
    (place / "broken" / "test001.nii.gz").write_bytes(b"")
    done = torchrun("-m", "scribbleseg", "evaluate", place / "broken", place / "hearts", "--out", place / "no")
    assert done.returncode == 1
    [said] = errors_of(done)
    assert "test001.nii.gz" in said
    assert not (place / "no").exists()


def test_a_rank_that_is_killed_ends_all_in_a_sentence(place, monkeypatch):
    monkeypatch.setenv("KILLED", "1")
    (place / "killed.py").write_text(KILLED)
    done = torchrun(place / "killed.py", "check", place / "hearts")
    assert done.returncode == 1
    [said] = errors_of(done)
    assert said == f"error: {RANK_LOST}" or said.startswith("Stopped")  # whichever is first to notice
    assert "faults" not in done.stdout


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({}, None),
        ({"LOCAL_RANK": "1", "WORLD_SIZE": "2"}, None),
        ({"TORCHELASTIC_RUN_ID": "none", "RANK": 3, "WORLD_SIZE": 4, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 2},
         ("torchrun", 3, 4, 1, 2)),
        ({"TORCHELASTIC_RUN_ID": "none", "RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}, None),
        ({"SLURM_STEP_ID": 0, "SLURM_PROCID": 5, "SLURM_NTASKS": 8, "SLURM_LOCALID": 1, "SLURM_NNODES": 2},
         ("srun", 5, 8, 1, 4)),
        ({"SLURM_PROCID": 0, "SLURM_NTASKS": 8, "SLURM_LOCALID": 0, "SLURM_NNODES": 2}, None),
        ({"SLURM_STEP_ID": 0, "SLURM_JOB_NAME": "bash", "SLURM_NTASKS": 8, "SLURM_NNODES": 1}, None),
    ],
    ids=["alone", "Lightning", "torchrun", "torchrun of one", "srun", "sbatch without srun", "a shell of SLURM"],
)  # fmt: skip
def test_started(told, expected, monkeypatch):
    for name, value in told.items():
        monkeypatch.setenv(name, str(value))
    assert ranks.started() == expected
    assert ranks.leads() == (not told or not any(told.get(name, 0) not in (0, "0") for name in LEADERS))


def test_other_numbers_than_torchrun_started_and_verbs_of_one_process_are_refused(place, monkeypatch):
    told = {"TORCHELASTIC_RUN_ID": "none", "RANK": 0, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 2}
    for name, value in told.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(DataError, match="the 2 processes that torchrun has started, 2 on this machine, got"):
        shared_fabric("cpu", 3)
    assert "report: expected a single process, got 2 by torchrun" in call("report", place / "run", code=2)


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


def test_a_training_that_one_process_left_within_a_round_is_gone_on_with_by_two(place, monkeypatch):
    data, run = place / "hearts", place / "left"
    command = ["train", str(data), "--out", str(run), *RECIPE, "--accelerator", "cpu", "--workers", "1"]
    log = type(open_run(place / "run")).log

    def stop(self, record):
        log(self, record)
        if record["event"] == "train" and record["iteration"] == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "LOG_EVERY", 1)
        patch.setattr(loop, "CHECKPOINT_EVERY", 1)
        patch.setattr("scribbleseg.runs.Run.log", stop)
        call(*command, code=130)
    assert open_run(run).checkpoint(0).exists()
    assert not open_run(run).network(0).exists()
    done = torchrun("-m", "scribbleseg", *command, "--resume")
    assert done.returncode == 0, done.stdout + done.stderr
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(r["recursion"], r["iteration"]) for r in records if r["event"] == "train"] == [(0, 1), (0, 4), (1, 2)]
    relabelled_by_the_saved_network(run)


def relabelled_by_the_saved_network(folder: Path) -> None:
    """Every rank's share of the E step comes from the network that was saved, batch statistics included."""
    run, fabric = open_run(folder), Fabric(accelerator="cpu", devices=1)
    slices = open_slices(run.slices)
    network = load_segmenter(phase_recipe(run), run, fabric, 0).network
    seeds = slices.layer("labels", 0)
    expected = clamp(predict(fabric, network, slices.images()).argmax(axis=1).astype(np.uint8), seeds)
    labels = slices.layer("labels", 1)
    assert (labels == np.where(slices.inside, expected, UNLABELLED)).mean() > 0.999  # batches differ in the last bit


def srun(rank: int, place, *program: str, **more: str) -> "subprocess.Popen[str]":
    """`check`, by that program, as srun would start one of two ranks on this machine."""
    told = {"STEP_ID": 0, "NTASKS": 2, "JOB_ID": 7, "LOCALID": rank, "PROCID": rank, "NNODES": 1, "NODEID": 0}
    told |= {"JOB_NAME": "ours", "NODELIST": "localhost"}
    environment = os.environ | {f"SLURM_{name}": str(value) for name, value in told.items()} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, *(program or ("-m", "scribbleseg")), "check", str(place / "hearts")]
    return subprocess.Popen(
        command, env=environment | more, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_ranks_of_srun_find_each_other_and_one_alone_says_that_it_waits(place):
    ranks_of_it = [srun(rank, place) for rank in (1, 0)]
    said = [each.communicate(timeout=300)[0] for each in ranks_of_it]
    assert [each.returncode for each in ranks_of_it] == [0, 0], said
    assert "0 faults" in said[1]
    for rank in (0, 1):
        with srun(rank, place) as alone:
            line = alone.stdout.readline()
            assert line.startswith("Waiting for 1 of the 2 processes that srun was to start"), line
            alone.send_signal(signal.SIGINT)
            assert alone.wait(timeout=60) != 0


def test_where_the_first_rank_is_lost_the_second_says_so_in_a_sentence(place):
    (place / "killed.py").write_text(KILLED)
    both = [srun(rank, place, str(place / "killed.py"), KILLED="0") for rank in (1, 0)]
    (said, _), _ = [each.communicate(timeout=300) for each in both]
    assert both[0].returncode != 0
    assert both[1].returncode == -signal.SIGKILL
    assert said.replace("\n", " ").strip() == f"error: {RANK_LOST}"


def test_ranks_that_do_not_come_are_not_waited_for_for_ever(monkeypatch):
    monkeypatch.setattr(ranks, "JOINING", timedelta(0))
    with pytest.raises(DataError, match="expected 4 processes by srun, 3 did not come; start all of them with `srun`"):
        ranks._Waiting(ranks.Started("srun", 0, 4, 0, 4)).tell(3)
