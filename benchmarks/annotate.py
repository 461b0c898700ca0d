"""The annotation page: the areas of one slice as they are drawn, and how long the page and a case take to open.

Areas are grown as the server grows them, from strokes on phantoms of 256 x 256 pixels a slice, beside the same walker
that never crops a slice; that both give the same areas is checked. "CPU" is seconds of the processor in one process on
one core, which other programs on the machine do not lengthen. The page is the program itself, started anew each time; a
case of 512 x 512 x 300 is read from NIfTI and sent to a client that does nothing with it. Where there is Chromium, it
is shown there, and scrolled.

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
from typing import Any
from unittest import mock

import nibabel as nib
import numpy as np
from rich.console import Console
from rich.table import Table

from annotate_pictures import FLAGS
from scribbleseg.data.encoding import declared
from scribbleseg.phantoms import draw_scribbles, heart
from scribbleseg.seeds import AUTOMATIC, random_walker
from scribbleseg.server.areas import Areas
from scribbleseg.types import UNLABELLED

SPACING_MM = (10.0, 1.5, 1.5)
TAU = 0.95

SCROLLED = 60
SCROLL = """async (slices) => {
  const view = document.querySelector("canvas");
  const painted = () => new Promise(requestAnimationFrame);
  await painted();
  const start = performance.now();
  for (let n = 0; n < slices; n++) {
    view.dispatchEvent(new WheelEvent("wheel", { deltaY: 100, bubbles: true, cancelable: true }));
    await painted();
  }
  return performance.now() - start;
}"""
"""Turns the wheel by one slice and waits until it is painted, again and again; gives the milliseconds."""


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


class Served:
    """The page of a folder, served by the program itself, and a client that asks it as a browser would.

    Args:
        folder: what is drawn on.

    Attributes:
        seconds: how long it took from the command to the page.
    """

    def __init__(self, folder: Path) -> None:
        start = time.perf_counter()
        command = [sys.executable, "-m", "scribbleseg", "annotate", str(folder), "--no-open", "--port", "0"]
        self._program = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._program.stdout
        self.address = next(found[0] for line in self._program.stdout if (found := re.search(r"http://\S+", line)))
        page = urllib.request.urlopen(self.address)
        page.read()
        self.seconds = time.perf_counter() - start
        self._cookie, self._base = page.headers["Set-Cookie"].split(";")[0], self.address.split("/?")[0]

    def ask(self, path: str, body: Any = None) -> bytes:
        """What the server answers; a body is sent as JSON."""
        headers = {"Cookie": self._cookie, "Content-Type": "application/json"}
        content = None if body is None else json.dumps(body).encode()
        return urllib.request.urlopen(urllib.request.Request(self._base + path, content, headers)).read()

    def cpu_seconds(self) -> float:
        """Seconds of the processor so far; 0 where the system does not tell."""
        ticks = Path(f"/proc/{self._program.pid}/stat")
        return sum(map(int, ticks.read_text().split()[13:15])) / 100 if ticks.is_file() else 0.0

    def __enter__(self) -> "Served":
        return self

    def __exit__(self, *_: object) -> None:
        self._program.kill()
        self._program.wait()
        assert self._program.stdout
        self._program.stdout.close()


def opening(folder: Path) -> dict[str, float]:
    """Seconds until the page is there, until a case is, and until a stroke on it is on disk, from a cold start."""
    with Served(folder) as served:
        times = {"page": served.seconds}
        start = time.perf_counter()
        for path in ("", "/channels/0", "/labels"):
            served.ask(f"/api/cases/0{path}")
        times["case"] = time.perf_counter() - start
        start = time.perf_counter()
        served.ask("/api/cases/0/strokes", {"tab": "benchmark", "base": 0, "runs": [[5000, 400, 1]]})
        times["stroke"] = time.perf_counter() - start
        times["CPU"] = served.cpu_seconds()
    return times


def scrolling(folder: Path, chromium: Path) -> dict[str, float]:
    """In headless Chromium, without a graphics processor: seconds until a case is shown, and slices a second."""
    from playwright.sync_api import sync_playwright

    with Served(folder) as served, sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=[*FLAGS])
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        start = time.perf_counter()
        page.goto(served.address)
        page.wait_for_selector("body[data-ready='0']", timeout=120_000)
        shown = time.perf_counter() - start
        milliseconds = page.evaluate(SCROLL, SCROLLED)
        browser.close()
    return {"shown": shown, "slices a second": 1e3 * SCROLLED / milliseconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chromium", type=Path, default=Path("/usr/bin/chromium"))
    parser.add_argument("--quick", action="store_true", help="one volume of areas, and a small one to open")
    arguments = parser.parse_args()
    quick = arguments.quick
    areas = live_areas(256, 1 if quick else 6)
    with tempfile.TemporaryDirectory() as folder:
        write_large(Path(folder), (20, 64, 64) if quick else (300, 512, 512))
        opened = [opening(Path(folder)) for _ in range(1 if quick else 3)]
        scrolled = scrolling(Path(folder), arguments.chromium) if arguments.chromium.exists() else {}
    table = Table(title="Areas of a slice of 256 x 256, ms")
    for column in ("", "median", "90th percentile", "largest"):
        table.add_column(column, justify="right" if column else "left")
    for name, values in areas.items():
        table.add_row(name, *(f"{value:.0f}" for value in (median(values), np.percentile(values, 90), max(values))))
    Console(width=100).print(table)
    seconds = {name: median(each[name] for each in opened) for name in opened[0]}
    ms = {name: median(values) for name, values in areas.items()}
    print(json.dumps({"areas_ms": ms, "seconds": seconds, "chromium": scrolled}))


if __name__ == "__main__":
    main()
