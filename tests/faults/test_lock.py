"""One process at a time works on a run; the lock of a dead process does not hold."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
from typer.testing import CliRunner

import scribbleseg as ss
from scribbleseg import lock, pipeline
from scribbleseg.cli import app
from scribbleseg.data.preprocess import Preprocess
from scribbleseg.lock import HOLDER, LOCK, hold, release
from scribbleseg.recipe import Recipe, Stage
from scribbleseg.reproduce import train_rows
from scribbleseg.seeds.strokes import Strokes
from scribbleseg.training.hardware import make_fabric
from scribbleseg.training.unet import UNet
from scribbleseg.types import DataError

TINY = Recipe(
    preprocess=Preprocess(spacing_mm=6.0, size=32),
    seeds=Strokes(),
    network=UNet(base=4, padded=True),
    stages=(Stage(iterations=1, batch=2),),
)

HOLDS = "import sys, time; from pathlib import Path; from scribbleseg.lock import hold; hold(Path(sys.argv[1])); "
WAITS = HOLDS + "print('held', flush=True); time.sleep(60)"


@pytest.fixture
def other(tmp_path):
    """Another process that holds tmp_path/run, until the test ends."""
    process = subprocess.Popen([sys.executable, "-c", WAITS, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def refusal(process) -> str:
    return rf"expected a run that no other process works on, found process {process.pid} of .+ \(since \d{{4}}-.+\) at"


def files(path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.glob("*")}


def test_a_second_process_is_refused_and_told_which_the_first_is(hearts, other, tmp_path):
    before = files(tmp_path / "run")
    with pytest.raises(DataError, match=refusal(other)):
        ss.train(hearts, tmp_path / "run", TINY, resume=True, accelerator="cpu")
    assert files(tmp_path / "run") == before, "nothing was written"


@pytest.mark.parametrize("verb", ["train", "seeds", "tune-crf"])
def test_every_verb_that_writes_into_a_run_is_refused(verb, hearts, other, tmp_path):
    words = [verb, str(hearts.root), "--out", str(tmp_path / "run"), "--set", "preprocess.size=32"]
    words += ["--recipe", "can2018.compact_crf"] if verb != "train" else ["--recipe", "can2018.compact_base"]
    answer = CliRunner().invoke(app, words)
    assert answer.exit_code == 2, answer.output
    assert f"found process {other.pid} of" in " ".join(answer.output.split())


def test_reproduce_twice_is_refused(hearts, tmp_path):
    row = tmp_path / "base_seed0"
    process = subprocess.Popen([sys.executable, "-c", WAITS, str(row)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(DataError, match=refusal(process)):
            train_rows({"base": TINY}, hearts, tmp_path, [0], accelerator="cpu")
    finally:
        process.kill()
        process.communicate()


def test_a_phase_of_a_run_that_is_trained_is_locked_too(hearts, tmp_path):
    """The folder of a phase is a run by itself, which `train --out RUN/whole` would go on with."""
    hold(tmp_path / "run")
    hold(tmp_path / "run" / "whole")
    asked = subprocess.run(
        [sys.executable, "-c", HOLDS, str(tmp_path / "run" / "whole")], capture_output=True, text=True, check=False
    )
    release(tmp_path / "run")
    assert f"found process {os.getpid()} of" in asked.stderr
    subprocess.run([sys.executable, "-c", HOLDS, str(tmp_path / "run" / "whole")], check=True)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="a signal of Unix")
def test_the_lock_of_a_killed_process_does_not_hold(other, tmp_path):
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert (tmp_path / "run" / HOLDER).exists(), "it had no time to tidy up"
    hold(tmp_path / "run")
    assert json.loads((tmp_path / "run" / HOLDER).read_text())["pid"] == os.getpid()
    release(tmp_path / "run")


def test_the_lock_is_given_back_at_the_end_and_on_errors(hearts, tmp_path):
    ss.train(hearts, tmp_path / "run", TINY, accelerator="cpu")
    other_recipe = replace(TINY, seeds=Strokes(), network=UNet(base=2, padded=True))
    with pytest.raises(DataError, match="begun with another recipe"):
        ss.train(hearts, tmp_path / "run", other_recipe, resume=True, accelerator="cpu")

    def interrupted(recursion):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ss.train(hearts, tmp_path / "run", TINY, resume=True, accelerator="cpu", on_recursion=interrupted)
    assert not (tmp_path / "run" / HOLDER).exists()
    subprocess.run([sys.executable, "-c", HOLDS, str(tmp_path / "run")], check=True)


def test_one_process_may_begin_again_what_it_holds(hearts, tmp_path):
    """As in a notebook, in which a cell was interrupted."""
    for _ in range(2):
        session = pipeline.begin(hearts, tmp_path / "run", TINY, fabric=make_fabric("cpu"), resume=True)
    with session:
        assert (tmp_path / "run" / LOCK).exists()
    assert not (tmp_path / "run" / HOLDER).exists()


def test_a_folder_of_something_else_is_not_locked(hearts, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match="new or empty folder"):
        ss.train(hearts, tmp_path, TINY, accelerator="cpu")
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_system_without_locks_is_warned_of(monkeypatch, tmp_path, caplog):
    def unsupported(self):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(lock.FileLock, "acquire", unsupported)
    hold(tmp_path / "run")
    release(tmp_path / "run")
    assert "has no locks (Operation not supported)" in caplog.text


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file/run: could not be made"):
        hold(tmp_path / "file" / "run")


@pytest.mark.parametrize("content", [b"[" * 100_000, b"\xff", b"[1]", b'{"pid": ' + b"1" * 5000 + b"}", b""])
def test_who_holds_a_run_may_be_unreadable(content, other, tmp_path):
    (tmp_path / "run" / HOLDER).write_bytes(content)
    with pytest.raises(DataError, match="found another process at work on it"):
        hold(tmp_path / "run")
    assert lock.at_work(tmp_path / "run") is None
