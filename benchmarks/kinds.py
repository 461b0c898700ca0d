"""Data sets of the kinds that people have, made up, from their files to a network: what our recipe makes of each.

    python benchmarks/kinds.py --out runs/kinds

fundus: colour pictures of an eye, two strokes of background. ct: five organs in Hounsfield units, stored in three
orientations. nnunet: two channels with an ignore label. With --quick it trains for 20 iterations.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image
from scipy import ndimage

import scribbleseg as ss
from scribbleseg.annotate.simulate import Skeleton, simulate
from scribbleseg.phantoms.heart import heart
from scribbleseg.recipes import default
from scribbleseg.types import UNLABELLED

ORGANS_HU = {"liver": 110, "spleen": 130, "left kidney": 180, "right kidney": 180, "pancreas": 90}
TRAIN, TEST = 6, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/kinds"))
    parser.add_argument("--iterations", type=int, default=400)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--quick", action="store_true", help="20 iterations, and nothing is kept")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) if arguments.quick else arguments.out
        iterations = 20 if arguments.quick else arguments.iterations
        dice = {kind: learned(kind, out / kind, iterations) for kind in arguments.kinds}
    print(json.dumps({"benchmark": "kinds", "iterations": iterations, "dice": dice}))


def learned(kind: str, out: Path, iterations: int) -> dict[str, float]:
    """Mean Dice of the test cases by structure, after training from scribbles alone."""
    root = out / "data"
    if not root.exists():
        KINDS[kind](root)
    dataset = ss.open_dataset(root)
    model = ss.train(dataset, out / "run", default.sized(8, iterations, 112))
    scores = ss.evaluate(model, dataset)
    print(kind, scores, sep="\n")
    return {name: round(value, 3) for name, value in scores.by_structure.items()}


def fundus(root: Path) -> None:
    """An eye's background with optic disc and cup; a line in each, and two strokes of background."""
    labels = {"ignore": 0, "background": 3, "disc": 1, "cup": 2}
    declare(root, {"labels": labels})
    for name, rng in cases():
        rows, columns = np.mgrid[:112, :112]
        row, column, radius = *rng.uniform(40, 70, 2), rng.uniform(11, 15)
        distance = np.hypot(rows - row, columns - column)
        truth = (distance < radius).astype(np.uint8) + (distance < 0.5 * radius)
        seen = np.hypot(rows - 56, columns - 56) < 52
        picture = np.stack([np.where(seen, level, 4.0) for level in (150, 70, 40)], axis=-1)
        for label, colour in {1: (215, 150, 90), 2: (240, 205, 150)}.items():
            picture[truth == label] = colour
        vessels = np.abs(ndimage.gaussian_filter(rng.normal(size=truth.shape), 6)) < 0.004
        picture[vessels & seen] *= 0.6
        picture = ndimage.gaussian_filter(picture, (1, 1, 0)) + rng.normal(0, 5, picture.shape)
        scribble = np.zeros_like(truth)
        scribble[int(row), int(column - 0.3 * radius) : int(column + 0.3 * radius)] = 2
        scribble[int(row - 0.75 * radius), int(column - 3) : int(column + 4)] = 1
        scribble[int(row + 1.6 * radius), 20:90] = scribble[8:100, int(column - 1.8 * radius)] = 3
        write(root, name, scribble, np.where(truth == 0, 3, truth), np.clip(picture, 0, 255).astype(np.uint8))


def ct(root: Path) -> None:
    """A belly with five organs; cases are stored in three orientations by turns, scribbled along the middle lines."""
    names = ["background", *ORGANS_HU]
    declare(root, {"labels": {name: value for value, name in enumerate([*names, "ignore"])}})
    centres = {1: (40, 30), 2: (38, 82), 3: (70, 74), 4: (70, 38), 5: (52, 58)}
    for n, (name, rng) in enumerate(cases()):
        rows, columns = np.mgrid[:112, :112]
        truth = np.zeros((8, 112, 112), np.uint8)
        for label, (row, column) in centres.items():
            size = {1: 17, 5: 6}.get(label, 9) * rng.uniform(0.85, 1.15)
            row, column = row + rng.uniform(-3, 3), column + rng.uniform(-3, 3)
            for z in range(1, 7):
                truth[z][
                    np.hypot(rows - row, (columns - column) / 1.2) < size * np.sqrt(1 - ((z - 3.5) / 3.5) ** 2)
                ] = label
        body = np.hypot((rows - 56) / 44, (columns - 56) / 52) < 1
        image = np.where(body, np.where(np.hypot((rows - 56) / 40, (columns - 56) / 48) < 1, 40.0, -100.0), -1000.0)
        image = np.where(np.hypot(rows - 88, columns - 56) < 7, 700.0, image)
        image = np.repeat(image[None], 8, axis=0)
        for label, hu in enumerate(ORGANS_HU.values(), start=1):
            image[truth == label] = hu * rng.uniform(0.95, 1.05)
        image = ndimage.gaussian_filter(image, (0, 0.7, 0.7)) + rng.normal(0, 12, image.shape)
        drawn = simulate(truth, Skeleton(), name)
        scribble = np.where(drawn == UNLABELLED, len(names), drawn).astype(np.uint8)
        write(root, name, scribble, truth, image.astype(np.int16), ("LPS", "RAS", "PIR")[n % 3])


def nnunet(root: Path) -> None:
    """Hearts in nnU-Net's folders: two channels that need each other, and an ignore label."""
    labels = {"background": 0, "RV": 1, "Myo": 2, "LV": 3, "ignore": 4}
    names = [name for name, _ in cases()]
    declare(root, {
        "labels": labels, "channel_names": {"0": "cine", "1": "late"}, "file_ending": ".nii.gz", "numTraining": TRAIN,
    })  # fmt: skip
    affine = np.diag([1.8, 1.8, 10.0, 1.0])
    for folder in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        (root / folder).mkdir()
    for name, rng in cases():
        image, truth = heart(rng, (7, 96, 96), (10.0, 1.8, 1.8))
        part = "Tr" if names.index(name) < TRAIN else "Ts"
        late = image.max() - image + rng.normal(0, 0.05 * image.std(), image.shape)
        for channel, each in enumerate((image, late)):
            nib.save(
                nib.Nifti1Image(each.T.astype(np.float32), affine),
                root / f"images{part}" / f"{name}_000{channel}.nii.gz",
            )
        drawn = truth if part == "Ts" else simulate(truth, Skeleton(), name)
        label = np.where(drawn == UNLABELLED, 4, drawn).astype(np.uint8)
        nib.save(nib.Nifti1Image(label.T, affine), root / f"labels{part}" / f"{name}.nii.gz")


KINDS: dict[str, Callable[[Path], None]] = {"fundus": fundus, "ct": ct, "nnunet": nnunet}


def cases() -> list[tuple[str, np.random.Generator]]:
    """The names of all cases, training cases first, and a generator for each."""
    return [(f"case{n:02d}", np.random.default_rng(n)) for n in range(TRAIN + TEST)]


def declare(root: Path, declaration: dict) -> None:
    """Makes the folder with its dataset.json."""
    root.mkdir(parents=True)
    (root / "dataset.json").write_text(json.dumps(declaration))


def write(
    root: Path, name: str, scribble: np.ndarray, truth: np.ndarray, image: np.ndarray, orientation: str = ""
) -> None:
    """Writes a case into folders, as a picture or as a volume in an orientation; test cases have no scribbles."""
    parts = {"images": image, "masks": truth} | ({"scribbles": scribble} if name < f"case{TRAIN:02d}" else {})
    for part, array in parts.items():
        (root / part).mkdir(exist_ok=True)
        if not orientation:
            Image.fromarray(array.astype(np.uint8)).save(root / part / f"{name}.png")
            continue
        stored = nib.Nifti1Image(array.T, np.diag([-3.0, -3.0, 8.0, 1.0]))  # LPS
        turn = nib.orientations.ornt_transform(
            nib.io_orientation(stored.affine), nib.orientations.axcodes2ornt(orientation)
        )
        nib.save(stored.as_reoriented(turn), root / part / f"{name}.nii.gz")


if __name__ == "__main__":
    main()
