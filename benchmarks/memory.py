"""Memory and time that each verb takes for large volumes, or for many cases.

    OMP_NUM_THREADS=1 python benchmarks/memory.py --shape 300 512 512
    OMP_NUM_THREADS=1 python benchmarks/memory.py --shape 24 160 160 --cases 8 32 128 512 --plot memory.png

The data set is a made-up CT: int16, half of the cases with a few strokes and a mask to train on, half to test on. Each
verb runs in a process of its own; seed areas are grown in one process, and the recipe is default.quick with a short
training. The first command tells the bytes a voxel of one volume: two cases of each kind of SHAPE, which show whether
one is kept while the next is read, and as many tiny ones; the figure is the difference of the largest resident sets of
any one process, over the voxels of one volume. The second tells memory and seconds for each number of cases, and draws
them: the largest resident set, and what of it is the process's own (on Linux). The rest are pages of files, the
training cache most of all, which the system takes back when it needs them.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from rich.console import Console
from rich.table import Table

SHAPE = (150, 256, 256)
TINY = (24, 48, 48)
ORGANS = {1: (0.35, 0.3), 2: (0.65, 0.6)}
"""Where along each axis the centre of an organ lies, by its label: along depth and width, and along height."""

IGNORE = 3
LABELS = '{"labels": {"background": 0, "liver": 1, "spleen": 2, "ignore": 3}}'
OFTEN = 0.05
"""Seconds between two looks at what memory is a program's own."""


class Measured(NamedTuple):
    """What a verb took: bytes of the largest resident set, bytes of its own, seconds."""

    resident: int
    own: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.own / 1e6:.0f} of {self.resident / 1e6:.0f} MB, {self.seconds:.0f} s"


Found = dict[str, list[Measured]]
"""For each number of cases, by the verb."""

SHORT = ("stages.iterations=2", "stages.batch=2", "stages.1.times=1")


def volume(shape: tuple[int, int, int], seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A CT in Hounsfield units, strokes, and the mask, `depth height width`; made slice by slice."""
    rng = np.random.default_rng(seed)
    depth, height, width = shape
    rows, columns = (np.arange(n)[:, None] / n for n in (height, width))
    columns = columns.T
    image, mask = np.empty(shape, np.int16), np.zeros(shape, np.uint8)
    strokes = np.full(shape, IGNORE, np.uint8)
    for z in range(depth):
        body = ((rows - 0.5) / 0.42) ** 2 + ((columns - 0.5) / 0.46) ** 2 < 1
        for label, (along, across) in ORGANS.items():
            away = ((z / depth - along) / 0.25) ** 2 + ((rows - across) / 0.14) ** 2 + ((columns - along) / 0.16) ** 2
            mask[z][away < 1] = label
        mean = np.where(body, np.array([20, 110, 140])[mask[z]], -1000)
        image[z] = mean + 15 * rng.standard_normal((height, width), np.float32)
        if z % max(depth // 12, 1) == 0:
            for label, (along, across) in ORGANS.items():
                row, column = int(across * height), slice(int((along - 0.08) * width), int((along + 0.08) * width))
                drawn = strokes[z, row, column]
                drawn[mask[z, row, column] == label] = label
            strokes[z, int(0.85 * height), width // 4 : 3 * width // 4] = 0
    return image, strokes, mask


def write(folder: Path, shape: tuple[int, int, int], cases: int = 4) -> None:
    """Write the data set in the layout `folder`, 0.8 x 0.8 x 1 mm, the same extent whatever the shape is.

    In a process of its own: the largest resident set of this one would be that of every program that it starts.
    """
    process = get_context("spawn").Process(target=_write, args=(folder, shape, cases))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{folder} could not be written")


def _write(folder: Path, shape: tuple[int, int, int], cases: int) -> None:
    step = 0.8 * 512 / shape[2]
    affine = np.diag([-step, -step, 300 / shape[0], 1.0])
    for n in range(cases):
        parts = dict(zip(("images", "scribbles", "masks"), volume(shape, n), strict=True))
        for kind, array in parts.items():
            (folder / kind).mkdir(parents=True, exist_ok=True)
            if kind != "scribbles" or n < cases // 2:
                nib.save(nib.Nifti1Image(array.T, affine), folder / kind / f"case{n:03}.nii.gz")
    (folder / "dataset.json").write_text(LABELS)


def commands(folder: Path) -> dict[str, list[str]]:
    """The verbs' arguments, in an order in which each finds what it needs."""
    data, run, out = (str(folder / name) for name in ("data", "run", "predictions"))
    short = ["--recipe", "default.quick", *(word for field in SHORT for word in ("--set", field))]
    return {
        "check": ["check", data],
        "seeds": ["seeds", data, "--out", run, "--workers", "1", *short],
        "train": ["train", data, "--out", run, "--resume", "--accelerator", "cpu"],
        "predict": ["predict", run, data, "--out", out, "--accelerator", "cpu"],
        "evaluate": ["evaluate", out, data],
        "suggest": ["suggest", run, data, "--accelerator", "cpu"],
        "report": ["report", run, "--out", str(folder / "report.html"), "--accelerator", "cpu"],
    }


def measure(arguments: list[str]) -> Measured:
    """Run the program; memory is the largest of any one process of it and its children."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "scribbleseg", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        watch = Watch(process.pid)
        said = process.stdout.read().decode() if process.stdout else ""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{said[-2000:]}")
    resident = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Measured(resident, watch.stop(), time.perf_counter() - started)


class Watch:
    """Looks from time to time at what memory is a program's own, not pages of files: 0 but on Linux."""

    def __init__(self, pid: int) -> None:
        self.largest, self._ended = 0, threading.Event()
        self._thread = threading.Thread(target=self._look, args=(pid,), daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """Returns the largest that was seen, in bytes."""
        self._ended.set()
        self._thread.join()
        return self.largest

    def _look(self, pid: int) -> None:
        while not self._ended.wait(OFTEN):
            self.largest = max(self.largest, *map(own_memory, family(pid)))


def family(pid: int) -> list[int]:
    """A process and those that it started."""
    try:
        children = " ".join(each.read_text() for each in Path(f"/proc/{pid}/task").glob("*/children")).split()
    except OSError:  # it has ended, or this is not Linux
        children = []
    return [pid, *(one for child in children for one in family(int(child)))]


def own_memory(pid: int) -> int:
    """Bytes of a process that are no pages of files."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in status.splitlines() if line.startswith(("RssAnon", "RssShmem"))) * 1024


def of_shape(shape: tuple[int, int, int], verbs: Sequence[str], scratch: Path) -> Table:
    """Bytes a voxel of each verb."""
    table = Table("verb", "bytes a voxel", "MB", "MB, tiny", "seconds", box=None)
    tiny, large = scratch / "tiny", scratch / "large"
    write(tiny / "data", TINY)
    write(large / "data", shape)
    for verb in verbs:
        before, after = (measure(commands(folder)[verb]) for folder in (tiny, large))
        each = (after.resident - before.resident) / float(np.prod(shape))
        sizes = (f"{one.resident / 1e6:.0f}" for one in (after, before))
        table.add_row(verb, f"{each:.1f}", *sizes, f"{after.seconds:.0f}")
    return table


def of_cases(shape: tuple[int, int, int], numbers: Sequence[int], verbs: Sequence[str], scratch: Path) -> Found:
    """What each verb takes for each number of cases."""
    found: Found = {verb: [] for verb in verbs}
    for n in numbers:
        folder = scratch / str(n)
        write(folder / "data", shape, n)
        for verb in verbs:
            found[verb].append(measure(commands(folder)[verb]))
            Console().print(f"{n} cases, {verb}: {found[verb][-1]}")
        shutil.rmtree(folder)
    return found


def table_of(found: Found, numbers: Sequence[int]) -> Table:
    """The same as a table."""
    table = Table("verb", *(f"{n} cases" for n in numbers), box=None)
    for verb, measured in found.items():
        table.add_row(verb, *map(str, measured))
    return table


def plot(found: Found, numbers: Sequence[int], file: Path) -> None:
    """Draws memory and time by the number of cases, a line for each verb."""
    from matplotlib.figure import Figure

    titles = {"own": "memory of its own, GB", "resident": "largest resident set, GB", "seconds": "seconds"}
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    for axes, (part, title) in zip(figure.subplots(1, 3), titles.items(), strict=True):
        for verb, measured in found.items():
            values = np.array([getattr(each, part) for each in measured]) / (1 if part == "seconds" else 1e9)
            axes.plot(numbers, values, "o-", label=verb)
        axes.set(xscale="log", xticks=numbers, xticklabels=numbers, xlabel="cases", title=title)
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
    figure.axes[0].set_ylim(top=figure.axes[1].get_ylim()[1])
    figure.axes[0].legend(fontsize="small")
    figure.savefig(file, dpi=110)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=SHAPE, help="depth, height and width of the volumes")
    parser.add_argument("--cases", type=int, nargs="+", help="data sets of so many cases")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw memory and time by the number of cases")
    parser.add_argument("--quick", action="store_true", help="small volumes, whose figures mean nothing")
    parser.add_argument("--verbs", nargs="+", help="these alone; default: all (each needs those before it)")
    arguments = parser.parse_args()
    shape = (32, 64, 64) if arguments.quick else tuple(arguments.shape)
    with tempfile.TemporaryDirectory() as scratch:
        verbs = arguments.verbs or list(commands(Path(scratch)))
        if arguments.cases:
            found = of_cases(shape, arguments.cases, verbs, Path(scratch))
            table = table_of(found, arguments.cases)
            if arguments.plot:
                plot(found, arguments.cases, arguments.plot)
        else:
            table = of_shape(shape, verbs, Path(scratch))
    Console().print(table)


if __name__ == "__main__":
    main()
