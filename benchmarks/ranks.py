"""What a second process is worth: each verb in two processes by torchrun, beside one with twice the threads of each.

    python benchmarks/ranks.py --threads 2

The data are synthetic hearts. A process has THREADS threads, or half of them where there are two. Efficiency is the
time of one process over that of two; 100 % means that two processes lose nothing. Training is compared by slices a
second at the same number of slices in a step, the other verbs by all the seconds that they take, in which both import
PyTorch once. The machine should do nothing else.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from scribbleseg.phantoms import write_phantoms

SHAPE = (12, 160, 160)
BATCH = 10


def seconds(words: list[str], processes: int, threads: int) -> float:
    """How long the command takes; so many processes share that many threads. Ends the benchmark where it fails."""
    spread = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(spread if processes > 1 else []), "-m", "scribbleseg", *words]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads // processes)}
    started = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return time.perf_counter() - started


def commands(data: Path, run: Path, processes: int, iterations: int) -> dict[str, list[str]]:
    """The verbs' arguments, in an order in which each finds what it needs."""
    changes = [f"stages.iterations={iterations}", "stages.1.times=1", f"stages.batch={BATCH // processes}"]
    recipe = ["--recipe", "default.quick", *(word for change in changes for word in ("--set", change))]
    out = str(run.with_name(f"{run.name}_labels"))
    on_cpu = ["--accelerator", "cpu"]
    return {
        "check": ["check", str(data)],
        "seeds": ["seeds", str(data), "--out", str(run), *recipe],
        "train": ["train", str(data), "--out", str(run), "--resume", *on_cpu],
        "predict": ["predict", str(run), str(data), "--out", out, *on_cpu],
        "evaluate": ["evaluate", out, str(data)],
        "suggest": ["suggest", str(run), str(data), *on_cpu],
    }


def slices_a_second(run: Path) -> float:
    """The median speed of a training."""
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return median(record["images_per_second"] for record in records if "images_per_second" in record)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 2, help="of one process, an even number")
    parser.add_argument("--cases", type=int, default=24, help="to train on, and as many to test on")
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--quick", action="store_true", help="few cases and iterations, whose figures mean nothing")
    arguments = parser.parse_args()
    cases, iterations = (2, 2) if arguments.quick else (arguments.cases, arguments.iterations)
    took: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        data = write_phantoms(Path(scratch) / "hearts", train=cases, test=cases, shape=SHAPE)
        for processes in (1, 2):
            run = Path(scratch) / f"run{processes}"
            for verb, words in commands(data, run, processes, iterations).items():
                spent = seconds(words, processes, arguments.threads)
                took.setdefault(verb, []).append(1 / slices_a_second(run) if verb == "train" else spent)
    table = Table("verb", "one process", "two", "efficiency", box=None)
    for verb, (one, two) in took.items():
        shown = [f"{1 / each:.1f} slices/s" if verb == "train" else f"{each:.1f} s" for each in (one, two)]
        table.add_row(verb, *shown, f"{one / two:.0%}")
    Console().print(table)


if __name__ == "__main__":
    main()
