"""The annotation page: the areas of one slice as they are drawn, and how long the page and a case take to open.

Areas are grown as the server grows them, from strokes on phantoms of 256 x 256 pixels a slice, beside the same walker
that never crops a slice; that both give the same areas is checked. "CPU" is seconds of the processor in one process on
one core, which other programs on the machine do not lengthen. The page is the program itself, started anew each time; a
case of 512 x 512 x 300 is read from NIfTI and sent to a client that does nothing with it.

    python benchmarks/annotate.py
    python benchmarks/annotate.py --quick
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from statistics import median
from unittest import mock

import nibabel as nib
import numpy as np
from rich.console import Console
from rich.table import Table

from scribbleseg.data.encoding import declared
from scribbleseg.phantoms import draw_scribbles, heart
from scribbleseg.seeds import AUTOMATIC, random_walker
from scribbleseg.server.areas import Areas
from scribbleseg.types import UNLABELLED

SPACING_MM = (10.0, 1.5, 1.5)
TAU = 0.95


def timed(work: Callable[[], object]) -> tuple[object, float, float]:
    """What comes of it, and its milliseconds of the processor and by the clock."""
    cpu, clock = time.process_time(), time.perf_counter()
    made = work()
    return made, 1e3 * (time.process_time() - cpu), 1e3 * (time.perf_counter() - clock)


def live_areas(side: int, volumes: int) -> dict[str, list[float]]:
    """Milliseconds for each slice in which two classes or more are drawn."""
    times: dict[str, list[float]] = {name: [] for name in ("live, CPU", "live, clock", "uncropped, CPU", "first, CPU")}
    for seed in range(volumes):
        rng = np.random.default_rng(seed)
        image, truth = heart(rng, (9, side, side), SPACING_MM)
        scribbles = draw_scribbles(truth, rng)
        areas = Areas(np.asarray(image, np.float32)[None], scribbles, SPACING_MM)
        times["first, CPU"].append(timed(lambda areas=areas: areas.windows)[1])
        for z, drawn in enumerate(scribbles):
            if len(np.unique(drawn[drawn != UNLABELLED])) < 2:
                continue
            grow = lambda areas=areas, z=z, drawn=drawn: areas.grow(z, drawn, TAU, AUTOMATIC.beta)  # noqa: E731
            live, cpu, clock = timed(grow)
            with mock.patch.object(random_walker, "_solve_cropped", return_value=None):
                whole, uncropped, _ = timed(grow)
            assert (live == whole).all(), f"volume {seed}, slice {z}: cropping changed the areas"
            for name, value in (("live, CPU", cpu), ("live, clock", clock), ("uncropped, CPU", uncropped)):
                times[name].append(value)
    return times


def write_large(folder: Path, shape: tuple[int, int, int]) -> None:
    """Writes a data set of one large volume."""
    rng = np.random.default_rng(0)
    voxels = rng.integers(0, 60, shape, dtype=np.int16)
    voxels += np.linspace(-1000, 900, shape[2], dtype=np.int16)
    (folder / "images").mkdir()
    nib.save(nib.Nifti1Image(voxels.T, np.diag([-0.8, -0.8, 1.25, 1.0])), folder / "images" / "large.nii.gz")
    (folder / "dataset.json").write_text(json.dumps({"labels": declared(("background", "liver"))}))


def opening(folder: Path) -> dict[str, float]:
    """Seconds until the page is there, until a case is, and until a stroke on it is on disk, from a cold start."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "scribbleseg", "annotate", str(folder), "--no-open", "--port", "0"]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert program.stdout
    address = next(found[0] for line in program.stdout if (found := re.search(r"http://\S+", line)))
    page = urllib.request.urlopen(address)
    page.read()
    times = {"page": time.perf_counter() - start}
    cookie, base = page.headers["Set-Cookie"].split(";")[0], address.split("/?")[0]

    def ask(path: str, body: bytes | None = None) -> bytes:
        headers = {"Cookie": cookie, "Content-Type": "application/json"}
        return urllib.request.urlopen(urllib.request.Request(base + path, body, headers)).read()

    start = time.perf_counter()
    for path in ("", "/channels/0", "/labels"):
        ask(f"/api/cases/0{path}")
    times["case"] = time.perf_counter() - start
    start = time.perf_counter()
    ask("/api/cases/0/strokes", json.dumps({"tab": "benchmark", "base": 0, "runs": [[5000, 400, 1]]}).encode())
    times["stroke"] = time.perf_counter() - start
    ticks = Path(f"/proc/{program.pid}/stat")
    if ticks.is_file():
        times["CPU"] = sum(map(int, ticks.read_text().split()[13:15])) / 100
    program.kill()
    program.wait()
    program.stdout.close()
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one volume of areas, and a small one to open")
    quick = parser.parse_args().quick
    areas = live_areas(256, 1 if quick else 6)
    with tempfile.TemporaryDirectory() as folder:
        write_large(Path(folder), (20, 64, 64) if quick else (300, 512, 512))
        opened = [opening(Path(folder)) for _ in range(1 if quick else 3)]
        (Path(folder) / "scribbles" / "large.nii.gz").unlink()
    table = Table(title="Areas of a slice of 256 x 256, ms")
    for column in ("", "median", "90th percentile", "largest"):
        table.add_column(column, justify="right" if column else "left")
    for name, values in areas.items():
        table.add_row(name, *(f"{value:.0f}" for value in (median(values), np.percentile(values, 90), max(values))))
    Console(width=100).print(table)
    seconds = {name: median(each[name] for each in opened) for name in opened[0]}
    print(json.dumps({"areas_ms": {name: median(values) for name, values in areas.items()}, "seconds": seconds}))


if __name__ == "__main__":
    main()
