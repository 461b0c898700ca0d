"""The pictures of README and docs/, all of them of synthetic hearts.

    python benchmarks/pictures.py --out docs     # overview.png and how-to-draw.png; trains for some minutes

With --quick it trains for 20 iterations and keeps nothing.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor

import scribbleseg as ss
from how_to_draw import WAYS
from scribbleseg.annotate.simulate import simulate
from scribbleseg.evaluation.palette import BACKGROUND_COLOUR, STRUCTURE_COLOURS
from scribbleseg.phantoms import write_phantoms
from scribbleseg.phantoms.heart import heart
from scribbleseg.recipes import default
from scribbleseg.seeds.random_walker import RandomWalker
from scribbleseg.types import UNLABELLED

SCALE = 3
"""Screen pixels for each pixel of a slice."""

COLOURS = np.array([ImageColor.getrgb(colour) for colour in (BACKGROUND_COLOUR, *STRUCTURE_COLOURS)], float)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--quick", action="store_true", help="20 iterations, and no file is kept")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) if arguments.quick else arguments.out
        draw_ways(out / "how-to-draw.png")
        draw_overview(out / "overview.png", Path(scratch), 20 if arguments.quick else 400)


def draw_ways(file: Path) -> None:
    """One slice, drawn on in each of the first ways; the last is what a random walker makes of whole lines."""
    image, truth = heart(np.random.default_rng(3), (9, 96, 96), (10.0, 1.6, 1.6))
    ways = [simulate(truth, replace(rule, every=1), "phantom") for rule in list(WAYS.values())[:4]]
    areas = RandomWalker()(image[None], ways[0], (10.0, 1.6, 1.6))
    nothing = np.full_like(truth, UNLABELLED)
    save([*(tile(image[4], labels[4]) for labels in (nothing, *ways)), tile(image[4], areas[4], 0.6)], file)


def draw_overview(file: Path, scratch: Path, iterations: int) -> None:
    """A training slice, its scribbles and areas; then a test slice with what a network makes of it, and its mask."""
    dataset = ss.open_dataset(write_phantoms(scratch / "phantoms", train=8, test=1, shape=(9, 96, 96)))
    model = ss.train(dataset, scratch / "run", default.sized(16, iterations, 96))
    case, new = dataset.train[0], dataset.test[0]
    areas = ss.seed(case, RandomWalker(tau=None, beta=400.0))
    found, mask = model.segment(new), dataset.reference(new.name)
    nothing = np.full_like(case.scribbles, UNLABELLED)
    z, y = (middle(labels) for labels in (dataset.reference(case.name), mask))
    learned = [tile(case.image[0, z], labels[z], opacity) for labels, opacity in ((nothing, 0), (case.scribbles, 1))]
    learned.append(tile(case.image[0, z], areas[z], 0.6))
    seen = [tile(new.image[0, y], np.where(labels[y], labels[y], UNLABELLED), 0.6) for labels in (found, mask)]
    save([*learned, *seen], file)


def middle(labels: np.ndarray) -> int:
    """The slice in the middle of those that show a structure."""
    return int(np.median(np.flatnonzero((labels > 0).any(axis=(1, 2)))))


def tile(image: np.ndarray, labels: np.ndarray, opacity: float = 1.0) -> np.ndarray:
    """A slice in grey with its labels in colour over it."""
    grey = np.clip(image / np.percentile(image, 99), 0, 1)[..., None].repeat(3, axis=2) * 255
    labelled = labels != UNLABELLED
    grey[labelled] = (1 - opacity) * grey[labelled] + opacity * COLOURS[labels[labelled]]
    return grey.repeat(SCALE, axis=0).repeat(SCALE, axis=1)


def save(tiles: Sequence[np.ndarray], file: Path) -> None:
    """Writes tiles side by side; all get the height of the smallest."""
    height = min(len(each) for each in tiles)
    gap = np.full((height, 2 * SCALE, 3), 255.0)
    cut = [each[(len(each) - height) // 2 :][:height] for each in tiles]
    row = [part for each in cut for part in (each, gap)][:-1]
    Image.fromarray(np.concatenate(row, axis=1).astype(np.uint8)).quantize(256).save(file, optimize=True)


if __name__ == "__main__":
    main()
