"""Stopped at any moment: one line, no worker left behind, and no traceback."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import faults
from faults import lives, until
from scribbleseg.__main__ import main
from scribbleseg.annotate import check
from scribbleseg.cli import app
from scribbleseg.phantoms import write_phantoms
from scribbleseg.signals import STOPS, postponing, stopping
from scribbleseg.workers import GRACE_S, LEADER, RANK_LOST, WorkerDied, Workers

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="signals of Unix")

SCRIPT = """
import os, sys, time
from pathlib import Path
from scribbleseg.workers import LEADER, Workers

def work(folder):
    Path(folder, str(os.getpid())).touch()
    time.sleep(60)

if __name__ == "__main__":
    with Workers(2, sys.argv[1]) as pool:
        for future in [pool.submit(work, sys.argv[2]) for _ in range(6)]:
            future.result()
"""

RUNS_QUIETLY = """
import sys
del sys.argv[0]
try:
    runpy.run_path(sys.argv[0], run_name='__main__')
except KeyboardInterrupt:
    sys.exit(130)
"""

RANK = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import os, sys, time; from pathlib import Path; "
    "from scribbleseg.workers import end_with_parent; end_with_parent(); "
    "Path(sys.argv[1], str(os.getpid())).touch(); time.sleep(60)", sys.argv[1]])
time.sleep(60)
"""

ON = "import sys; import scribbleseg.__main__ as program; print('on', flush=True); program.main()"


def killed_with_its_workers(command: list[str], folder: Path, workers: int, environment: dict[str, str]) -> bool:
    """Whether all processes that leave their number in the folder are gone soon after the main one was killed."""
    main = subprocess.Popen(command, env=os.environ | environment)
    try:
        assert until(lambda: len(list(folder.iterdir())) == workers, 60)
        pids = [int(file.name) for file in folder.iterdir()]
        assert all(map(lives, pids))
    finally:
        main.kill()
        main.wait()
    try:
        return until(lambda: not any(map(lives, pids)), GRACE_S)
    finally:
        for pid in filter(lives, pids):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_end_with_a_killed_parent(method, tmp_path):
    script, folder = tmp_path / "script.py", tmp_path / "pids"
    script.write_text(SCRIPT)
    folder.mkdir()
    assert killed_with_its_workers([sys.executable, str(script), method, str(folder)], folder, 2, {})


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_closed_terminal_ends_all_processes_without_a_word(method, tmp_path):
    """It sends SIGHUP to all of them, also to those that Python starts for its own ends."""
    script, folder = tmp_path / "script.py", tmp_path / "pids"
    script.write_text(SCRIPT)
    folder.mkdir()
    program = f"import runpy, signal; signal.signal(signal.SIGHUP, signal.default_int_handler); {RUNS_QUIETLY}"
    command = [sys.executable, "-c", program, str(script), method, str(folder)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert until(lambda: len(list(folder.iterdir())) == 2, 60)
    os.killpg(process.pid, signal.SIGHUP)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said == ""


def test_other_ranks_end_with_a_killed_rank_0(tmp_path):
    ranks = {"LOCAL_RANK": "1", LEADER: ""}
    assert killed_with_its_workers([sys.executable, "-c", RANK, str(tmp_path)], tmp_path, 1, ranks)


def test_a_rank_ends_whose_rank_0_was_killed_before_it_was_there():
    with subprocess.Popen([sys.executable, "-c", ""]) as leader:
        leader.wait(60)
    code = "from scribbleseg.workers import end_with_parent; end_with_parent(); import time; time.sleep(100)"
    rank = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"LOCAL_RANK": "1", LEADER: str(leader.pid)})
    assert rank.wait(60) == 1


@pytest.mark.parametrize(
    ("rank", "code", "said"), [("os.kill(os.getpid(), 9)", 1, f"error: {RANK_LOST}\n"), ("pass", 0, "")]
)
def test_rank_0_ends_in_a_sentence_where_a_rank_is_lost_that_it_waits_for(rank, code, said, tmp_path):
    """Both ranks run this; the second one is gone before they have joined."""
    script = f"""
import os, time
from scribbleseg import workers
workers.RANK_GRACE_S = 0.2
from scribbleseg.training.hardware import shared_fabric
if os.environ.get("LOCAL_RANK") == "1":
    {rank}
shared_fabric("cpu", 2)
"""
    program = tmp_path / "program.py"
    program.write_text(script)
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stderr) == (code, said)


def test_workers_are_let_go_where_the_block_is_left():
    left = []

    def leave_early():
        with Workers(1, "spawn") as pool:
            assert pool.submit(abs, -1).result() == 1
            pool.submit(time.sleep, 60)
            pool.submit(time.sleep, 60)
            left.append(time.monotonic())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        leave_early()
    assert time.monotonic() - left[0] < GRACE_S


def test_a_worker_that_dies_is_said_in_a_sentence():
    with pytest.raises(WorkerDied, match="one of them has died.*give the same command again"), Workers(1, "spawn") as p:
        p.submit(os._exit, 3).result()


@pytest.fixture(scope="module")
def hearts(tmp_path_factory):
    return write_phantoms(tmp_path_factory.mktemp("hearts") / "data", train=1, test=0, shape=(3, 48, 48))


def answer_where_check(does, hearts, monkeypatch):
    monkeypatch.setattr(check, "check", does)
    before = [signal.getsignal(each) for each in STOPS]
    answer = CliRunner().invoke(app, ["check", str(hearts)])
    assert [signal.getsignal(each) for each in STOPS] == before
    return answer


@pytest.mark.parametrize("number", STOPS, ids=lambda number: number.name)
@pytest.mark.parametrize("masked", [False, True], ids=["", "as another error"])
def test_every_signal_that_stops_is_one_line_and_exit_130(number, masked, hearts, monkeypatch):
    def stopped(*_, **__):
        try:
            os.kill(os.getpid(), number)
            time.sleep(5)
        except KeyboardInterrupt:
            if masked:  # as C extensions do that are just being imported
                raise ImportError("initialization failed") from None
            raise

    answer = answer_where_check(stopped, hearts, monkeypatch)
    assert answer.exit_code == 130
    assert len([line for line in answer.output.splitlines() if "Stopped" in line]) == 1
    assert "initialization" not in answer.output


def test_a_signal_that_is_ignored_stays_ignored(hearts, monkeypatch):
    """As under `nohup`."""
    went_on = []

    def hung_up(*_, **__):
        os.kill(os.getpid(), signal.SIGHUP)
        went_on.append(True)
        raise SystemExit(7)

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        answer = answer_where_check(hung_up, hearts, monkeypatch)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert went_on
    assert answer.exit_code == 7


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (WorkerDied("expected an answer"), "error: expected an answer"),
        (RuntimeError("[gloo/transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]:1"), "go on together"),
    ],
)
def test_a_broken_worker_or_rank_is_one_sentence_and_exit_1(error, sentence, hearts, monkeypatch):
    def broken(*_, **__):
        raise error

    answer = answer_where_check(broken, hearts, monkeypatch)
    assert answer.exit_code == 1
    assert sentence in " ".join(answer.output.split())


@pytest.mark.parametrize("seconds", [0.05, 1.5])
def test_interrupted_while_its_parts_are_imported(seconds, hearts, tmp_path):
    command = [sys.executable, "-c", ON, "train", str(hearts), "--out", str(tmp_path / "run")]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout.readline() == "on\n"
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert said.startswith("Stopped.")
    assert said.count("\n") == 1


def test_interrupted_before_the_verb_begins(monkeypatch, capsys):
    interrupted = typer.Typer()

    @interrupted.command()
    def verb() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("scribbleseg.cli.app", interrupted)
    monkeypatch.setattr(sys, "argv", ["scribbleseg"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 130
    assert capsys.readouterr().err == "Stopped.\n"


def test_a_postponed_signal_waits_for_the_end_of_the_block_and_a_second_one_does_not():
    done = []

    def twice(times):
        with stopping(), postponing() as asked:
            assert not asked()
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.01)
            done.append(asked())

    for times, expected in ((1, [True]), (2, [True])):
        with pytest.raises(KeyboardInterrupt):
            twice(times)
        assert done == expected


def test_stopping_the_trial_of_faults_ends_what_it_had_started(tmp_path, monkeypatch, capsys):
    started: list[subprocess.Popen] = []

    def stopped(bench, counts):
        started.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True))
        faults.STARTED.add(started[0].pid)
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["faults.py", "--out", str(tmp_path), "--sections", "pairs"])
    monkeypatch.setattr(faults, "import_everything", lambda: None)
    monkeypatch.setattr(faults.Bench, "make_data", lambda bench: None)
    monkeypatch.setitem(faults.SECTIONS, "pairs", stopped)
    with pytest.raises(SystemExit) as end:
        faults.main()
    assert end.value.code == 130
    assert "| all |" in capsys.readouterr().out
    assert started[0].wait(10) == -signal.SIGKILL


def test_a_signal_in_a_callback_is_not_lost():
    """An exception that is raised there is printed and forgotten."""

    class Callback:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    def waits():
        with stopping() as stopped:
            Callback()
            assert stopped()
            time.sleep(20)

    with pytest.raises(KeyboardInterrupt):
        waits()


def test_no_traceback_while_python_ends():
    ends = "import atexit, sys, time; atexit.register(lambda: (print('end', flush=True), time.sleep(20))); "
    words = [sys.executable, "-c", f"{ends}sys.argv[1:] = ['--version']; {ON}"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert any(line == "end\n" for line in process.stdout)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert "Traceback" not in said
    assert process.returncode == -signal.SIGINT
