"""Kills, damage, hostile inputs, full disks and broken ranks, tried on the whole program: what survived, as a table.

    python benchmarks/faults.py --out runs/faults

To survive means: no traceback, no hang, nothing lost, nothing silently wrong; bad input is one sentence and the right
exit code. Every command is the program itself in a process of its own; a process that has imported everything forks it,
so that thousands of tries take hours. What fell is named with the command and kept in OUT/fell. Full and read-only
disks need Linux and the right to mount (root); without it, file sizes are limited in their place. With --quick, each
section is tried a few times, which takes minutes.
"""

import argparse
import atexit
import hashlib
import json
import logging
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

LIMIT_S = 300
"""Seconds after which a command counts as hanging, on a machine that others use, too."""

AFTER_S = 15
"""Seconds after a kill within which nothing that belongs to the process may be left."""

MOST_GIB = 3.0
"""GiB of address space that reading one small file may take beside what the program has already."""

SMALL = ["--accelerator", "cpu"]


def settings(*fields: str) -> list[str]:
    """Changes of a recipe, as words."""
    return [word for field in fields for word in ("--set", field)]


TINY = settings("network.base=2", "stages.batch=2", "preprocess.spacing_mm=6.0", "preprocess.size=32", "stop_below=0")
SHORT = settings("stages.iterations=5", "stages.1.times=2")
EM = ["--recipe", "can2018.compact_crf", *TINY, *SHORT]
OURS = ["--recipe", "default.quick", *TINY, *SHORT]
TUMOURS = [
    *("--recipe", "ji2019.demo_full", *settings("whole.preprocess.spacing_mm=6.0", "whole.preprocess.size=32")),
    *settings("whole.network.base=2", "whole.stages.iterations=4", "whole.stages.batch=2"),
    *settings("substructures.network.base=2", "substructures.stages.iterations=4", "substructures.stages.batch=2"),
]


# What is tried, and what fell.


@dataclass
class Tally:
    """How often each kind of fault was tried, and what fell."""

    out: Path
    tried: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    fell: dict[tuple[str, str], list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, section: str, what: str, problem: str | None, how: str) -> None:
        """Count one try; `problem` is None where the program survived it, and `how` says how to do it again."""
        self.tried[section, what] += 1
        if problem is not None:
            self.fell[section, what].append(problem)
            sys.stderr.write(f"FELL {section}, {what}: {problem}\n     {how}\n")
            with (self.out / "fell.txt").open("a") as file:
                file.write(f"{section}, {what}: {problem}\n{how}\n\n")

    def markdown(self) -> str:
        """The table."""
        rows = ["| section | what | tried | survived |", "|---|---|---:|---:|"]
        for key, tried in self.tried.items():
            rows.append(f"| {' | '.join(key)} | {tried} | {tried - len(self.fell[key])} |")
        tried, fell = sum(self.tried.values()), sum(map(len, self.fell.values()))
        return "\n".join([*rows, f"| all | | {tried} | {tried - fell} |"])


# Processes. tests/faults uses these, and the damage and the mutations below, too.


def until(condition: Callable[[], object], seconds: float, every: float = 0.05) -> bool:
    """Wait until a condition is met, for so many seconds at the most; returns whether it is."""
    end = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < end:
        time.sleep(every)
    return bool(met)


def session_of(pid: int) -> int | None:
    """The session that a process belongs to; None for one that has ended, also where nobody has taken note of it."""
    try:
        state, _, _, session = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:4]
    except OSError:
        return None
    return None if state == "Z" else int(session)


def lives(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return not Path("/proc/self/stat").exists() or session_of(pid) is not None


def others_of(session: int) -> list[int]:
    """The processes of a session beside the one that leads it."""
    pids = (int(folder.name) for folder in Path("/proc").glob("[0-9]*"))
    return [pid for pid in pids if pid != session and session_of(pid) == session]


def orphans(session: int) -> list[str]:
    """Processes that outlive the one that leads their session, `AFTER_S` later; they are killed."""
    until(lambda: not others_of(session), AFTER_S, 0.1)
    left = others_of(session)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return [str(pid) for pid in left]


# Commands: forked, watched, judged.


@dataclass(frozen=True)
class Answer:
    """What a command did: its exit code (negative: the signal that ended it; None: it hung), and what it said."""

    code: int | None
    said: str

    def problem(self, *codes: int) -> str | None:
        """What is wrong with it, where one of these exit codes is right; None where nothing is."""
        if self.code is None:
            return "it hung"
        if "Traceback (most recent call last)" in self.said:
            return "a traceback: " + self.said.strip().splitlines()[-1][:200]
        if self.code not in codes:
            return f"exit code {self.code}, expected {' or '.join(map(str, codes))}: {self.said.strip()[-300:]}"
        if self.code in (1, 2) and not any(word in self.said for word in ("error: ", "not segmented: ", "fault (")):
            usage = "Usage: " in self.said  # what the command line itself refuses
            return None if usage else f"exit code {self.code} without a sentence: {self.said.strip()[-300:]}"
        if self.code == 2 and self.said.count("error: ") > 1:
            return f"more than one error: {self.said.strip()[-300:]}"
        return None


STARTED: set[int] = set()
"""Processes that lead a session of their own, which no Ctrl-C of a terminal reaches."""


def end_started() -> None:
    """Kill what was started and has not ended, with all that belongs to it."""
    for pid in STARTED:
        if session_of(pid) == pid:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
    STARTED.clear()


class Command:
    """The program with some words, in a process and a group of its own, forked from this one.

    Args:
        words: its arguments.
        log: what it says goes there.
        prepare: called in the process before the program.
    """

    def __init__(self, words: Sequence[object], log: Path, prepare: Callable[[], object] = lambda: None) -> None:
        self.words, self.log = [str(word) for word in words], log
        sys.stdout.flush()
        sys.stderr.flush()
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_bytes(b"")
        self.pid = os.fork()
        if self.pid == 0:
            self._run(prepare)
        STARTED.add(self.pid)

    def _run(self, prepare: Callable[[], object]) -> None:
        code = 70
        try:
            os.setsid()
            said, nothing = os.open(self.log, os.O_WRONLY | os.O_APPEND), os.open(os.devnull, os.O_RDONLY)
            for source, target in ((nothing, 0), (said, 1), (said, 2)):
                os.dup2(source, target)
            sys.argv = ["scribbleseg", *self.words]
            prepare()
            code = call_main()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def wait(self, seconds: float = LIMIT_S) -> Answer:
        """Wait for its end; a command that hangs is killed."""
        if not until(lambda: self.poll() is not None, seconds, 0.01):
            os.killpg(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            STARTED.discard(self.pid)
            return Answer(None, self.log.read_text(errors="replace"))
        return Answer(self.poll(), self.log.read_text(errors="replace"))

    def wait_or_stop(self, seconds: float) -> Answer:
        """Wait for its end, and stop it as Ctrl-C does where it has more to do than that."""
        if not until(lambda: self.poll() is not None, seconds, 0.02):
            os.kill(self.pid, signal.SIGINT)
        return self.wait(LIMIT_S)

    def poll(self) -> int | None:
        """Its exit code, or None while it runs."""
        if not hasattr(self, "code"):
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if not pid:
                return None
            self.code = os.waitstatus_to_exitcode(status)
            STARTED.discard(self.pid)
        return self.code


def call_main() -> int:
    """The program in this process, as `python -m scribbleseg` runs it; returns the exit code."""
    from scribbleseg.__main__ import main

    code = 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    return code


class Bench:
    """Scratch folders, tiny data sets, and undisturbed runs to compare with.

    Args:
        out: the folder for everything.
        seed: fixes when and where faults come.
    """

    def __init__(self, out: Path, seed: int) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.out, self.tally, self.rng = out, Tally(out), np.random.default_rng(seed)
        self._n = 0
        self._runs: dict[str, Path] = {}
        self.took_s: dict[str, float] = {}

    def fresh(self) -> Path:
        """A path for a folder that is not there."""
        self._n += 1
        path = self.out / "tries" / f"{self._n:05d}"
        shutil.rmtree(path, ignore_errors=True)
        path.parent.mkdir(exist_ok=True)
        return path

    def start(self, words: Sequence[object], prepare: Callable[[], object] = lambda: None) -> Command:
        """Start a command."""
        self._n += 1
        return Command(words, self.out / "said" / f"{self._n:05d}.txt", prepare)

    def do(self, words: Sequence[object], prepare: Callable[[], object] = lambda: None) -> Answer:
        """Do a command to its end."""
        return self.start(words, prepare).wait()

    def undisturbed(self, pipeline: str) -> Path:
        """The run folder of a training that nothing has happened to; read only."""
        if pipeline not in self._runs:
            run, began = self.out / f"undisturbed_{pipeline}", time.monotonic()
            shutil.rmtree(run, ignore_errors=True)
            answer = self.do(self.train(pipeline, run))
            if problem := answer.problem(0):
                raise SystemExit(f"the undisturbed training of {pipeline} failed: {problem}")
            self.took_s[pipeline], self._runs[pipeline] = time.monotonic() - began, run
        return self._runs[pipeline]

    def train(self, pipeline: str, run: Path, *more: object) -> list[object]:
        """The words of a training."""
        return ["train", *self.given(pipeline), "--out", run, *SMALL, "--workers", 1, *more]

    def given(self, pipeline: str) -> list[object]:
        """A data set and a recipe, as words."""
        recipe = {"em": EM, "ours": OURS, "hierarchy": TUMOURS}[pipeline]
        return [self.tumours, "--scribbles", self.drawn, *recipe] if pipeline == "hierarchy" else [self.hearts, *recipe]

    def make_data(self) -> None:
        """Synthetic hearts and tumours, and scribbles of the tumours."""
        from scribbleseg.phantoms import write_phantoms

        self.hearts = write_phantoms(self.out / "hearts", train=3, test=2, shape=(3, 48, 48))
        self.tumours = write_phantoms(self.out / "tumours", "tumour", train=2, test=1, shape=(12, 40, 40))
        self.drawn = self.out / "drawn"
        if not self.drawn.exists():
            self.do(["simulate", self.tumours, "--out", self.drawn, "--rule", "ji2019"])


def outcome(folder: Path) -> dict[str, str]:
    """What a run has to show: a digest of each network, label map, layer of the cache and list of records."""
    from scribbleseg.files import read_records
    from scribbleseg.weights import read_weights

    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if path.name.startswith(".") or ".partial" in name:
            continue
        if path.name == "network.pt":
            weights = read_weights(path)
            parts = [(key, value.numpy().tobytes()) for key, value in weights["state"].items()]
            found[name] = digest(repr(parts).encode() + repr(weights.get("single_components")).encode())
        elif path.name == "metrics.jsonl":
            records = [{k: v for k, v in r.items() if k != "images_per_second"} for r in read_records(path)]
            records.sort(key=lambda record: record["recursion"])  # what was made anew comes last in the file
            found[name] = digest(json.dumps(records).encode())
        elif path.name.endswith((".nii.gz", ".raw", ".csv", "scores.json", "summary.json", "trials.jsonl")):
            found[name] = digest(path.read_bytes())
    return found


def digest(content: bytes) -> str:
    """A short digest."""
    return hashlib.sha256(content).hexdigest()[:16]


def differences(found: dict[str, str], expected: dict[str, str]) -> str | None:
    """What is missing or another, by name; None where all is as expected."""
    other = [name for name in expected if found.get(name) != expected[name]]
    return f"other results: {', '.join(other[:5])}" if other else None


# Kills.


def kill_at_random(bench: Bench, command: Command, took_s: float, files: Sequence[Path]) -> str:
    """Kill a command at a random time, or as soon as one of the files is there; returns when, in words.

    By files, stages that take a moment are met as often as long ones.
    """
    if files and bench.rng.random() < 0.7:
        file, delay = files[int(bench.rng.integers(len(files)))], float(bench.rng.choice([0, 0.003, 0.02]))
        while command.poll() is None and not file.exists():
            time.sleep(0.0005)
        time.sleep(delay)
        when = f"{delay} s after {file.name} of {file.parent.name}"
    else:
        delay = float(bench.rng.uniform(0, took_s))
        end = time.monotonic() + delay
        while command.poll() is None and time.monotonic() < end:
            time.sleep(0.005)
        when = f"after {delay:.2f} s"
    if command.poll() is None:
        os.kill(command.pid, signal.SIGKILL)
        command.wait()
    return when


def kills_of_training(bench: Bench, count: int) -> None:
    """SIGKILL over all stages of training, once or several times in one training, which is then resumed."""
    for n in range(count):
        pipeline = ("em", "hierarchy", "ours")[n % 3]
        expected = bench.undisturbed(pipeline)
        names = [path.relative_to(expected) for path in expected.rglob("*") if path.is_file()]
        names += [name.with_name("m_step.ckpt") for name in names if name.name == "network.pt"]
        run, history = bench.fresh(), []
        for _ in range(1 + int(bench.rng.integers(3))):
            command = bench.start(bench.train(pipeline, run, "--resume"))
            history.append(kill_at_random(bench, command, bench.took_s[pipeline], [run / name for name in names]))
            if left := orphans(command.pid):
                history.append(f"processes left: {left}")
        answer = bench.do(bench.train(pipeline, run, "--resume"))
        problem = answer.problem(0) or differences(outcome(run), outcome(expected))
        problem = problem or next((each for each in history if "left" in each), None)
        how = f"{' '.join(map(str, bench.train(pipeline, run, '--resume')))}; killed {', then '.join(history)}"
        finish(bench, "kills of training", pipeline, problem, how, run)


def verbs(bench: Bench, out: Path) -> dict[str, list[object]]:
    """Every other verb that takes its time or writes, as words; each writes into `out` alone."""
    run, other = bench.undisturbed("em"), bench.undisturbed("hierarchy")
    base = ["can2018", "--data", bench.hearts, "--rows", "Base", "--iterations", 8]
    return {
        "predict": ["predict", run, bench.hearts / "images", "--out", out / "maps", *SMALL],
        "check": ["check", bench.hearts],
        "simulate": ["simulate", bench.hearts, "--out", out / "drawn"],
        "seeds": ["seeds", bench.hearts, "--out", out / "run", *EM, "--workers", 2],
        "predict hierarchy": ["predict", other, bench.tumours, "--out", out / "maps", *SMALL],
        "predict maps": ["predict", run, bench.hearts, "--out", out / "maps", "--probabilities", *SMALL],
        "evaluate": ["evaluate", bench.hearts / "masks", bench.hearts, "--out", out / "scores"],
        "report": ["report", out / "copy", "--out", out / "report.html", *SMALL],
        "reproduce": ["reproduce", *base, "--out", out / "table", *TINY, *SMALL],
        "reproduce, 2 jobs": [
            *("reproduce", *base, "--rows", "Base (no recursion)", "--jobs", 2),
            *("--out", out / "table", *TINY, *SMALL),
        ],
        "tune-crf": ["tune-crf", bench.hearts, "--out", out / "run", "--trials", 2, *EM, *SMALL],
    }


def kills_of_verbs(bench: Bench, count: int) -> None:
    """SIGKILL over the other verbs; the same command again has to give what it would have given."""
    known: dict[str, tuple[dict[str, str], float, list[Path]]] = {}
    for n in range(count):
        out = bench.fresh()
        name = list(verbs(bench, out))[n % len(verbs(bench, out))]
        if name not in known:
            whole, began = bench.fresh(), time.monotonic()
            make_copy(bench, name, whole)
            answer = bench.do(verbs(bench, whole)[name])
            if problem := answer.problem(0):
                finish(bench, "kills of verbs", name, f"undisturbed: {problem}", str(verbs(bench, whole)[name]), whole)
                known[name] = ({}, 1.0, [])
                continue
            names = [path.relative_to(whole) for path in whole.rglob("*") if path.is_file()]
            known[name] = outcome(whole), time.monotonic() - began, names
        expected, took_s, names = known[name]
        make_copy(bench, name, out)
        words = verbs(bench, out)[name]
        command = bench.start(words)
        when = kill_at_random(bench, command, took_s, [out / each for each in names if not (out / each).exists()])
        left = orphans(command.pid)
        problem = f"processes left: {left}" if left else finished(bench, words, command.poll(), out, expected)
        finish(bench, "kills of verbs", name, problem, f"{' '.join(map(str, words))}; killed {when}", out)


def finished(
    bench: Bench, words: Sequence[object], code: int | None, out: Path, expected: dict[str, str]
) -> str | None:
    """Give a command again that had this exit code, unless it had done everything; what is wrong with the outcome.

    One that was killed at its very end has done everything, and may refuse to do it once more.
    """
    done = not differences(outcome(out), expected) and not list(out.rglob("*.unfinished.json"))
    problem = bench.do(words).problem(*((0, 2) if done else (0,))) if code else None
    return problem or differences(outcome(out), expected)


def make_copy(bench: Bench, name: str, out: Path) -> None:
    """What a verb needs that writes into a run."""
    out.mkdir(parents=True, exist_ok=True)
    if name == "report":
        shutil.copytree(bench.undisturbed("em"), out / "copy")


def finish(bench: Bench, section: str, what: str, problem: str | None, how: str, folder: Path) -> None:
    """Count a try; its folder is kept where the program fell."""
    bench.tally.add(section, what, problem, how)
    if problem is None:
        shutil.rmtree(folder, ignore_errors=True)
    elif folder.exists():
        kept = bench.out / "fell" / folder.name
        kept.parent.mkdir(exist_ok=True)
        shutil.rmtree(kept, ignore_errors=True)
        shutil.move(folder, kept)


def signals_at_random(bench: Bench, count: int) -> None:
    """Ctrl-C, SIGTERM and SIGHUP at any moment: one line, exit 130, no process left; resumed, the same results."""
    for n in range(count):
        number = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)[n % 3]
        pipeline, run = ("em", "hierarchy", "ours")[n // 3 % 3], bench.fresh()
        words = bench.train(pipeline, run, "--resume")
        words[words.index("--workers") + 1] = 2
        expected = bench.undisturbed(pipeline)
        command = bench.start(words)
        time.sleep(float(bench.rng.uniform(0.05, bench.took_s[pipeline])))
        whole_group = number != signal.SIGTERM and bench.rng.random() < 0.5  # as a terminal does
        ended = command.poll() is not None
        if not ended:
            (os.killpg if whole_group else os.kill)(command.pid, number)
        answer = command.wait(60)
        left = orphans(command.pid)
        problem = answer.problem(0, 130) or (f"processes left: {left}" if left else None)
        if answer.code == 130 and answer.said.count("Stopped.") != 1:
            problem = problem or f"not one line: {answer.said[-300:]}"
        again = bench.do(bench.train(pipeline, run, "--resume"))
        problem = problem or again.problem(0) or differences(outcome(run), outcome(expected))
        finish(bench, "signals", number.name, problem, f"{' '.join(map(str, words))}; {command.log}", run)


def interrupted_imports(bench: Bench, count: int) -> None:
    """The same while the program is being imported, in a new interpreter."""
    for _ in range(count):
        command = [sys.executable, "-m", "scribbleseg", *map(str, bench.train("em", bench.fresh()))]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        STARTED.add(process.pid)
        delay = float(bench.rng.uniform(0.3, 8.0))
        time.sleep(delay)  # before that Python itself is starting
        os.killpg(process.pid, signal.SIGINT)
        said, _ = process.communicate(timeout=LIMIT_S)
        STARTED.discard(process.pid)
        problem = Answer(process.returncode, said).problem(0, 130)
        bench.tally.add("signals", "SIGINT, imports", problem, f"{' '.join(command)}; after {delay:.2f} s")


# Two processes at once.


def pairs(bench: Bench, count: int) -> None:
    """Two processes on one run folder: one is refused or finds everything done; the results are the usual ones."""
    for n in range(count):
        pipeline = ("em", "hierarchy")[n // 3 % 2]
        kind = ("train and train", "train and report", "reproduce twice")[n % 3]
        expected, run = bench.undisturbed(pipeline), bench.fresh()
        first = second = bench.train(pipeline, run, "--resume")
        if kind == "train and report":
            second = ["report", run, "--out", run.with_suffix(".html"), *SMALL]
        if kind == "reproduce twice":
            first = second = verbs(bench, run)["reproduce"]
        one = bench.start(first)
        delay = float(bench.rng.choice([0, bench.rng.uniform(0, bench.took_s[pipeline])]))
        time.sleep(delay)
        other = bench.start(second)
        answers = [one.wait(), other.wait()]
        problem = next((found for each in answers if (found := each.problem(0, 2))), None)
        if all(each.code for each in answers):
            problem = problem or f"both were refused: {answers[0].said[-200:]} {answers[1].said[-200:]}"
        again = bench.do(first)
        problem = problem or again.problem(0)
        if kind != "reproduce twice":
            problem = problem or differences(outcome(run), outcome(expected))
        how = f"{' '.join(map(str, first))} and {delay:.2f} s later {' '.join(map(str, second))}"
        finish(bench, "pairs", kind, problem, how, run)


# Damage.


def cut(content: bytes, rng: np.random.Generator) -> bytes:
    """A file that ends early."""
    return content[: int(rng.integers(len(content)))] if content else b""


def flip(content: bytes, bit: int) -> bytes:
    """A file with that bit flipped."""
    return content[: bit // 8] + bytes([content[bit // 8] ^ 1 << bit % 8]) + content[bit // 8 + 1 :]


def flips(content: bytes, count: int, seed: int = 0) -> Iterator[tuple[int, bytes]]:
    """Bits, drawn without repetition, each with the file in which it alone is flipped."""
    n = len(content) * 8
    for bit in np.random.default_rng(seed).choice(n, min(count, n), replace=False):
        yield int(bit), flip(content, int(bit))


def flipped(content: bytes, rng: np.random.Generator) -> bytes:
    """A file with one flipped bit."""
    return flip(content, int(rng.integers(len(content) * 8))) if content else b"1"


def garbage(content: bytes, rng: np.random.Generator) -> bytes:
    """Something else under the same name."""
    others = [
        b"", b"\x00" * 4096, rng.bytes(len(content)), b"{}", b"[]", b"null", b"[" * 100_000, b'{"a":' * 100_000,
        b'{"cases": "\\ud800", "kind": "\\udcff", "event": 1}', b"NaN", b"1" * 5000, "{'é': 1}".encode("latin-1"),
    ]  # fmt: skip
    return others[int(rng.integers(len(others)))]


DAMAGE = {"truncated": cut, "bit flipped": flipped, "garbage": garbage}


def damaged_runs(bench: Bench, times: float) -> None:
    """Every file of a run folder, damaged three ways, and every verb that reads a run.

    A run is whole, or one that was stopped within an M step.
    """
    for pipeline in ("em", "hierarchy", "ours"):
        whole, half = bench.undisturbed(pipeline), half_done(bench, pipeline)
        for state, source in (("finished", whole), ("stopped", half)):
            files = [path.relative_to(source) for path in sorted(source.rglob("*")) if path.is_file()]
            for name in files:
                for way in DAMAGE:
                    for _ in range(int(times) + (bench.rng.random() < times % 1)):
                        damaged_run(bench, pipeline, source, name, way)
            bench.tally.tried[f"damage, {pipeline}", f"files of a {state} run: {len(files)}"] += 0


def half_done(bench: Bench, pipeline: str) -> Path:
    """A run that was stopped within its second M step, with two checkpoints."""
    run = bench.out / f"half_{pipeline}"
    shutil.rmtree(run, ignore_errors=True)
    part = run / "substructures" / "recursion_0" if pipeline == "hierarchy" else run / "recursion_1"
    command = bench.start(bench.train(pipeline, run))
    until(lambda: command.poll() is not None or (part / "m_step.previous.ckpt").exists(), LIMIT_S, 0.0005)
    os.kill(command.pid, signal.SIGKILL)
    command.wait()
    return run


def damaged_run(bench: Bench, pipeline: str, source: Path, name: Path, way: str) -> None:
    """Damage one file, and have it read by each verb."""
    rng = np.random.default_rng((int(bench.rng.integers(2**31)),))
    content = DAMAGE[way]((source / name).read_bytes(), rng)
    finished = bench.undisturbed(pipeline) == source
    images = bench.tumours if pipeline == "hierarchy" else bench.hearts
    for verb in ("train --resume", "predict", "report") if finished else ("train --resume",):
        place = bench.fresh()
        run = place / "run"
        shutil.copytree(source, run)
        (run / name).write_bytes(content)
        words: list[object] = {
            "train --resume": bench.train(pipeline, run, "--resume"),
            "predict": ["predict", run, images, "--out", place / "maps", *SMALL],
            "report": ["report", run, "--out", place / "report.html", *SMALL],
        }[verb]
        answer = bench.do(words)
        problem = answer.problem(0, 2)
        if problem is None and answer.code == 2 and name.name not in answer.said and str(run) not in answer.said:
            problem = f"the file is not named: {answer.said[-300:]}"
        if problem is None and answer.code == 2 and verb == "train --resume":
            problem = remedied(bench, pipeline, run, answer)
        if problem is None and answer.code == 0:
            problem = wrong(bench, pipeline, place, verb, name)
        section = f"damage, {pipeline}"
        finish(bench, section, f"{verb}, {way}", problem, f"{' '.join(map(str, words))}; {name} {way}", place)


def remedied(bench: Bench, pipeline: str, run: Path, answer: Answer) -> str | None:
    """Do what an error says, where it says to delete a folder and go on; what is wrong with the outcome."""
    found = re.search(r"delete (\S+) and go on", " ".join(answer.said.split()))
    if not found:
        return None
    shutil.rmtree(found[1], ignore_errors=True)
    again = bench.do(bench.train(pipeline, run, "--resume"))
    problem = again.problem(0) or differences(outcome(run), outcome(bench.undisturbed(pipeline)))
    return problem and f"after its own remedy ({found[0]}): {problem}"


def wrong(bench: Bench, pipeline: str, place: Path, verb: str, name: Path) -> str | None:
    """What a command that passed over a damaged file has made otherwise than without the damage, if anything."""
    whole = bench.undisturbed(pipeline)
    if verb == "train --resume":
        expected = outcome(whole)
        expected.pop(name.as_posix(), None)  # what nobody reads stays as it is
        try:
            return differences(outcome(place / "run"), expected)
        except Exception as error:  # a file that the training has passed over is still damaged
            return None if name.name in str(error) else repr(error)
    if verb == "predict":
        maps = bench.out / f"maps_{pipeline}"
        if not maps.exists():
            images = bench.tumours if pipeline == "hierarchy" else bench.hearts
            bench.do(["predict", whole, images, "--out", maps, *SMALL])
        return differences(outcome(place / "maps"), outcome(maps))
    return None


# Hostile inputs.


def mutated(content: bytes, rng: np.random.Generator) -> tuple[bytes, int]:
    """A file as a hostile person, a bad disk or a bad cable leaves it, and the first byte that is another."""
    way = int(rng.integers(6))
    at = int(rng.integers(len(content)) if rng.random() < 0.5 else rng.integers(min(len(content), 400)))
    if way == 0:
        return content[:at], at
    if way == 1:
        return content[:at] + bytes([content[at] ^ (1 << int(rng.integers(8)))]) + content[at + 1 :], at
    if way == 2:
        return content[:at] + rng.bytes(int(rng.integers(1, 40))) + content[at:], at
    if way == 3:
        n = int(rng.integers(1, 9))
        return content[:at] + b"\xff" * n + content[at + n :], at
    if way == 4:
        n = int(rng.integers(1, 60))
        return content[:at] + content[at + n :], at
    digits = [match.span() for match in re.finditer(rb"[0-9]+", content[:2000])]
    if not digits:
        return rng.bytes(len(content)), 0
    first, last = digits[int(rng.integers(len(digits)))]
    numbers = [b"0", b"-1", b"99999999999", b"32767", b"1e20", b"nan", b"2147483647", b"4294967296"]
    return content[:first] + numbers[int(rng.integers(len(numbers)))] + content[last:], first


def write_inputs(folder: Path) -> dict[str, int | None]:
    """A file of each format; gives for each the first byte that a checksum covers, or None where nothing does."""
    import nibabel as nib
    import PIL.Image
    import SimpleITK

    rng = np.random.default_rng(0)
    voxels = (rng.integers(0, 4, (4, 24, 24)) * (rng.random((4, 24, 24)) > 0.6)).astype(np.uint8)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in ("a.nii", "a.nii.gz"):
        nib.save(nib.Nifti1Image(voxels.T, np.eye(4)), folder / name)
    image = SimpleITK.GetImageFromArray(voxels)
    for name, packed in (("b.nrrd", True), ("c.nrrd", False), ("b.mha", True), ("c.mha", False)):
        SimpleITK.WriteImage(image, str(folder / name), packed)
    for key, value in (("Segment0_Name", "heart"), ("Segment0_LabelValue", "1"), ("Segment0_Layer", "0")):
        image.SetMetaData(key, value)
    SimpleITK.WriteImage(image, str(folder / "d.seg.nrrd"), True)
    slice_ = SimpleITK.GetImageFromArray(voxels[0].astype(np.int16))
    slice_ = SimpleITK.JoinSeries([slice_])
    for key, value in (("0008|0060", "MR"), ("0020|000d", "1.2.3"), ("0020|000e", "1.2.3.4"), ("0020|0013", "1")):
        slice_.SetMetaData(key, value)
    SimpleITK.WriteImage(slice_[:, :, 0], str(folder / "e.dcm"))
    picture = PIL.Image.fromarray(voxels[0] * 60)
    for name in ("a.png", "a.tif", "a.jpg"):
        picture.save(folder / name)
    sums: dict[str, int | None] = {path.name: None for path in sorted(folder.iterdir())}
    for name in ("b.nrrd", "d.seg.nrrd"):
        sums[name] = (folder / name).read_bytes().index(b"\n\n") + 2
    sums["b.mha"] = (folder / "b.mha").read_bytes().index(b"LOCAL\n") + 6
    return sums | {"a.nii.gz": 10, "a.png": 8}


def mutated_inputs(bench: Bench, count: int) -> None:
    """Mutated files over all readers: an error that names the file, or the same voxels where a checksum covers them."""
    folder = bench.out / "inputs"
    sums = write_inputs(folder)
    names = [*sums, "dataset.json"]
    for n in range(count):
        name = names[n % len(names)]
        seed = int(bench.rng.integers(2**31))
        rng, place = np.random.default_rng(seed), bench.fresh()
        if name == "dataset.json":
            shutil.copytree(bench.hearts, place)
            content = (place / name).read_bytes()
            changed, _ = mutated(content, rng) if rng.random() < 0.7 else (garbage(content, rng), 0)
            (place / name).write_bytes(changed)
            problem = bench.do(["check", place], limited).problem(0, 1, 2)
        else:
            place.mkdir(parents=True)
            whole = (folder / name).read_bytes()
            changed, at = mutated(whole, rng)
            (place / name).write_bytes(changed)
            strict = sums[name] is not None and at >= (sums[name] or 0)
            problem = read_in_a_fork(place / name, folder / name, strict)
        finish(bench, "mutated inputs", name.partition(".")[2] if name != "dataset.json" else name, problem,
               f"mutated(..., default_rng({seed}))", place)  # fmt: skip


def limited() -> None:
    """Limit this process to what it has already and some GiB more."""
    has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (has + int(MOST_GIB * 2**30),) * 2)


def read_in_a_fork(path: Path, whole: Path, strict: bool, seconds: float = 30) -> str | None:
    """Read a file as an image and as labels in a process that may crash; what is wrong with that."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        limited()
        try:
            os.write(writing, (reads_wrongly(path, whole, strict) or "").encode()[:2000])
        finally:
            os._exit(0)
    os.close(writing)
    end = time.monotonic() + seconds
    while not (ended := os.waitpid(pid, os.WNOHANG))[0] and time.monotonic() < end:
        time.sleep(0.002)
    if not ended[0]:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    said = os.read(reading, 4096).decode()
    os.close(reading)
    if not ended[0]:
        return "it hung"
    return f"ended by signal {ended[1]}" if ended[1] else said or None


def reads_wrongly(path: Path, whole: Path, strict: bool) -> str | None:
    """What is wrong with how a file is read; `strict` asks for an error or the voxels of the whole file."""
    from scribbleseg.data.formats import read_image, read_labels
    from scribbleseg.files import FileError

    for read in (read_image, read_labels):
        try:
            found = read(path)[0]
        except FileError as error:
            if path.name not in str(error):
                return f"the file is not named: {error}"
        except BaseException as error:
            return f"{read.__name__}: {error!r}"
        else:
            if strict and not np.array_equal(found, read(whole)[0]):
                return f"{read.__name__}: other voxels, and no error"
    return None


# Settings.

ABSURD = [
    "1e99", "-1", "0", "nan", "inf", "-inf", "1e-300", "null", "[]", "{}", "x", '""', "10000000000000000000000",
    "[[1]]", '{"kind": "x"}', "true", '"\\ud800"', "1.5", "[" * 5000,
]  # fmt: skip


def absurd_settings(bench: Bench, count: int) -> None:
    """Absurd values of every field of the recipes of both pipelines; a training that begins is stopped soon."""
    from scribbleseg.recipes import find
    from scribbleseg.settings import to_plain

    def paths(node: object, at: str = "") -> Iterator[str]:
        if isinstance(node, dict):
            for name, value in node.items():
                yield from paths(value, f"{at}.{name}" if at else name)
                yield f"{at}.{name}" if at else name
        if isinstance(node, list):
            for n, value in enumerate(node):
                yield from paths(value, f"{at}.{n}")

    choices = [
        (pipeline, path, value)
        for pipeline, name in (("em", EM[1]), ("ours", OURS[1]), ("hierarchy", TUMOURS[1]))
        for path in dict.fromkeys(paths(to_plain(find(name))))
        for value in ABSURD
    ]
    for n in bench.rng.choice(len(choices), min(count, len(choices)), replace=False):
        pipeline, path, value = choices[int(n)]
        run = bench.fresh()
        command = bench.start(bench.train(pipeline, run, "--set", f"{path}={value}"), limited)
        answer = command.wait_or_stop(10 + 2 * bench.took_s.get(pipeline, 10))
        problem = answer.problem(0, 2, 130)
        finish(bench, "settings", pipeline, problem, f"--set {path}={value[:40]}", run)


def absurd_words(bench: Bench) -> None:
    """Absurd options of the command line, once each."""
    run = bench.undisturbed("em")
    bad = os.fsdecode(b"\xff")
    for words in (
        *([*bench.train("em", bench.fresh()), option, value] for option, value in (
            ("--seed", -1), ("--seed", 10**30), ("--workers", -1), ("--devices", 0), ("--devices", -1),
            ("--accelerator", "abacus"), ("--recipe", "x"), ("--set", "x"), ("--fold", 99), ("--split", "x"),
        )),
        bench.train("em", bench.fresh().with_name(bad)), ["check", bench.hearts.with_name(bad)],
        ["predict", run, bench.hearts / bad, "--out", bench.fresh()],
        ["predict", run, bench.hearts, "--out", bench.fresh(), "--recursion", -1],
        ["predict", run, bench.hearts, "--out", bench.fresh(), "--recursion", 99],
        ["report", run, run.with_name("absent"), "--out", bench.fresh()],
        ["reproduce", "can2018", "--data", bench.hearts, "--out", bench.fresh(), "--seeds", 0],
        ["tune-crf", bench.hearts, "--out", bench.fresh(), "--trials", 0],
    ):  # fmt: skip
        bench.tally.add("settings", "options", bench.do(words).problem(2), ascii([str(word) for word in words]))


def lone_surrogates(bench: Bench) -> None:
    """Names that no text can hold: of a label, a channel, a case's file, a folder."""
    for what in ("label", "file", "folder"):
        data = bench.fresh()
        if what == "folder":
            data = data.with_name(os.fsdecode(b"f\xff"))
            shutil.rmtree(data, ignore_errors=True)
        shutil.copytree(bench.hearts, data)
        if what == "label":
            text = (data / "dataset.json").read_text()
            (data / "dataset.json").write_text(re.sub(r'"(RV|LV|Myo)"', r'"\1\\ud800"', text))
        if what == "file":
            for part in ("images", "masks", "scribbles"):
                (data / part / "train000.nii.gz").rename(data / part / os.fsdecode(b"tr\xff.nii.gz"))
        for words in (["check", data], ["train", data, "--out", bench.fresh(), *EM, *SMALL, "--workers", 1]):
            answer = bench.do(words)
            bench.tally.add(
                "settings", f"lone surrogate, {what}", answer.problem(0, 1, 2), ascii(list(map(str, words)))
            )


# Disks.


@contextmanager
def disk(place: Path, kib: int) -> Iterator[Callable[[str], None]]:
    """A small disk of its own; gives what mounts it anew with other options, such as "ro"."""
    place.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(place)]
    subprocess.run(mount, check=True, capture_output=True)
    try:
        yield lambda options: subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True) and None
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def may_mount(place: Path) -> bool:
    """Whether this process may mount a disk."""
    try:
        with disk(place, 64):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def file_limit(kib: int) -> None:
    """Let no file of this process grow beyond a size."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (kib * 1024, resource.RLIM_INFINITY))


def disks(bench: Bench, count: int) -> None:
    """Full disks, at a random size, and read-only ones, at every verb that writes; with room, the usual results."""
    mounts = may_mount(bench.fresh())
    names = [name for name in verbs(bench, Path()) if name != "check"]
    writers = ["train em", "train hierarchy", "train ours", *names]
    usual: dict[str, tuple[dict[str, str], int]] = {}
    for n in range(count):
        name = writers[n % len(writers)]
        if name not in usual:
            place = bench.fresh()
            make_copy(bench, name, place)
            bench.do(writer(bench, name, place))
            size = sum(-(-path.stat().st_size // 4096) * 4 for path in place.rglob("*") if path.is_file())
            usual[name] = outcome(place), size
        expected, kib = usual[name]
        room = int(bench.rng.integers(8, max(kib, 9) + 8))
        if mounts and n // len(writers) % 3 == 2:
            read_only(bench, name)
        else:
            full(bench, name, (room if mounts else -room), expected)


def writer(bench: Bench, name: str, out: Path) -> list[object]:
    """The words of a command that writes into `out`."""
    verb, _, pipeline = name.partition(" ")
    return bench.train(pipeline, out / "run", "--resume") if verb == "train" else verbs(bench, out)[name]


def full(bench: Bench, name: str, room: int, expected: dict[str, str]) -> None:
    """A disk of so many KiB or, below 0, files of at most so many; then room enough."""
    place = bench.fresh()
    words, how = writer(bench, name, place), f"{name} with {abs(room)} KiB"
    if room < 0:
        make_copy(bench, name, place)
        answer = bench.do(words, lambda: file_limit(-room))
        problem = answer.problem(0, 2) or finished(bench, words, answer.code, place, expected)
    else:
        with disk(place, 2**20) as remount:
            make_copy(bench, name, place)
            used = shutil.disk_usage(place).used // 1024
            remount(f"size={used + room}k")
            answer = bench.do(words)
            remount("size=1g")
            problem = answer.problem(0, 2) or finished(bench, words, answer.code, place, expected)
            how += f"; {answer.said[-200:]}" if problem else ""
    finish(bench, "disks", f"full, {name}", problem, how, place)


def read_only(bench: Bench, name: str) -> None:
    """A disk that takes nothing."""
    place = bench.fresh()
    with disk(place, 2**20) as remount:
        make_copy(bench, name, place)
        remount("ro")
        problem = bench.do(writer(bench, name, place)).problem(2)
    finish(bench, "disks", f"read-only, {name}", problem, name, place)


# Several processes in one training.


def ranks(bench: Bench, count: int) -> None:
    """`--devices 2` with one rank killed: one sentence, exit 1, nothing left; resumed on another number."""
    for n in range(count):
        pipeline, rank, run = ("em", "hierarchy", "ours")[n % 3], n // 3 % 2, bench.fresh()
        took_s = 12 + 2 * bench.took_s.get(pipeline, 5)
        command = Ranks(bench, bench.train(pipeline, run, "--resume", "--devices", 2))
        delay = float(bench.rng.uniform(2, took_s))
        problem = command.kill(rank, delay)
        for devices in (2, 1) if n % 2 else (1,):
            again = Ranks(bench, bench.train(pipeline, run, "--resume", "--devices", devices)).wait()
            problem = problem or again.problem(0)
        maps = {name for name in outcome(bench.undisturbed(pipeline)) if name.endswith((".nii.gz", "network.pt"))}
        problem = problem or ("label maps or networks are missing" if maps - outcome(run).keys() else None)
        how = (
            f"{' '.join(map(str, bench.train(pipeline, run, '--resume', '--devices', 2)))}, killed after {delay:.1f} s"
        )
        finish(bench, "ranks", f"{pipeline}, rank {rank} killed", problem, how, run)


class Ranks:
    """A training in new interpreters, for ranks start themselves by the words of the first."""

    def __init__(self, bench: Bench, words: Sequence[object]) -> None:
        self.log = bench.fresh().with_suffix(".txt")
        script = "from scribbleseg.training import loop; loop.CHECKPOINT_EVERY = 2; "
        program = bench.out / "program.py"
        program.write_text(f"if __name__ == '__main__':\n    {script}from scribbleseg.__main__ import main; main()\n")
        self.process = subprocess.Popen(
            [sys.executable, str(program), *map(str, words)],
            stdout=self.log.open("wb"), stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        STARTED.add(self.process.pid)

    def kill(self, rank: int, after_s: float) -> str | None:
        """Kill a rank; what is wrong with what the other one does then."""
        session, end = self.process.pid, time.monotonic() + after_s
        until(
            lambda: (
                self.process.poll() is not None or (time.monotonic() >= end and (rank == 0 or bool(others_of(session))))
            ),
            LIMIT_S,
            0.02,
        )
        ended = self.process.poll() is not None
        if not ended:
            for pid in others_of(session) if rank else [session]:
                os.kill(pid, signal.SIGKILL)
        answer = self.wait()
        if left := orphans(session):
            return f"processes left: {left}"
        if ended or rank == 0:
            return answer.problem(0) if ended else None
        return answer.problem(0, 1)

    def wait(self) -> Answer:
        """Wait for the end of rank 0."""
        try:
            code: int | None = self.process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            code = None
        STARTED.discard(self.process.pid)
        return Answer(code, self.log.read_text(errors="replace"))


# All of it.


def both_signals(bench: Bench, counts: argparse.Namespace) -> None:
    """Signals while it works, and while it is imported."""
    signals_at_random(bench, counts.signals)
    interrupted_imports(bench, counts.signals // 3)


def all_settings(bench: Bench, counts: argparse.Namespace) -> None:
    """Options, names and fields of recipes."""
    absurd_words(bench)
    lone_surrogates(bench)
    absurd_settings(bench, counts.settings)


SECTIONS: dict[str, Callable[[Bench, argparse.Namespace], None]] = {
    "training": lambda bench, counts: kills_of_training(bench, counts.kills),
    "verbs": lambda bench, counts: kills_of_verbs(bench, counts.verb_kills),
    "signals": both_signals,
    "pairs": lambda bench, counts: pairs(bench, counts.pairs),
    "damage": lambda bench, counts: damaged_runs(bench, counts.damages),
    "inputs": lambda bench, counts: mutated_inputs(bench, counts.inputs),
    "settings": all_settings,
    "disks": lambda bench, counts: disks(bench, counts.disks),
    "ranks": lambda bench, counts: ranks(bench, counts.ranks),
}

COUNTS = {
    "kills": (50, 3), "verb_kills": (50, 3), "signals": (60, 3), "pairs": (20, 2), "damages": (1, 0.01),
    "inputs": (5000, 60), "settings": (400, 10), "disks": (84, 4), "ranks": (12, 1),
}  # fmt: skip
"""How often each is tried, and with --quick. `damages` is for each file and way; below 1, a part of them is tried."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/faults"))
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--seed", type=int, default=0, help="when and where faults come")
    for name, (count, _) in COUNTS.items():
        kind = float if name == "damages" else int
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help=f"default: {count}")
    parser.add_argument("--quick", action="store_true", help="each section a few times, and nothing is kept")
    arguments = parser.parse_args()
    for name, counts in COUNTS.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, counts[arguments.quick])
    # No TemporaryDirectory, which every forked command would delete at its own end.
    out = Path(tempfile.mkdtemp()) if arguments.quick else arguments.out.resolve()
    bench = Bench(out, arguments.seed)
    try:
        import_everything()
        bench.make_data()
        for name in arguments.sections:
            began = time.monotonic()
            SECTIONS[name](bench, arguments)
            sys.stderr.write(f"{name}: {time.monotonic() - began:.0f} s\n")
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    finally:  # also of what was tried until somebody stopped it
        end_started()
        print(bench.tally.markdown(), flush=True)
        if arguments.quick:
            shutil.rmtree(out, ignore_errors=True)
    sys.exit(any(bench.tally.fell.values()))


def import_everything() -> None:
    """Import what the verbs do, so that forked commands begin at once; checkpoints come often."""
    import SimpleITK  # noqa: F401
    import torch
    import torch.utils.tensorboard

    import scribbleseg.cli
    import scribbleseg.evaluation.report
    import scribbleseg.reproduce
    import scribbleseg.tune  # noqa: F401
    from scribbleseg.training import loop

    torch.set_num_threads(1)
    loop.CHECKPOINT_EVERY, loop.LOG_EVERY = 2, 1
    logging.captureWarnings(False)


if __name__ == "__main__":
    main()
