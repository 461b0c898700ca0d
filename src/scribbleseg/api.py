"""The door for people who use Python: train, load, segment, evaluate, and seed areas of one case."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Shaped
from lightning_fabric import Fabric

from scribbleseg import pipeline
from scribbleseg.data import images, open_dataset
from scribbleseg.data.drawn_plane import drawn_plane
from scribbleseg.data.formats import read_image
from scribbleseg.data.intensities import ct_windows, normalise
from scribbleseg.data.layouts import recognise
from scribbleseg.data.orientation import common_orientation, turn_to
from scribbleseg.data.views import in_labels
from scribbleseg.em import Recursion
from scribbleseg.evaluation.metrics import Scores
from scribbleseg.pipeline import AnyRecipe, AnySegmenter
from scribbleseg.recipes import choose, find
from scribbleseg.review import score_cases
from scribbleseg.runs import Run, open_run
from scribbleseg.seeds.grow import Seeder
from scribbleseg.seeds.random_walker import RandomWalker
from scribbleseg.session import Session
from scribbleseg.training.hardware import make_fabric, shared_fabric
from scribbleseg.types import UNLABELLED, Case, Cases, DataError, Dataset, Geometry, Image, Labels, Probabilities

SMALLEST_MM, LARGEST_MM = 1e-4, 1e3
"""Voxels of an array that are smaller or larger are a mistake: they would ask for an absurd grid."""

AnyImage = str | Path | Sequence[str | Path] | Case | Shaped[np.ndarray, "..."]
"""An image file or the folder of a DICOM series, several of these (one a channel), a case, or an array."""


class Model:
    """A trained network, or a hierarchy's two networks, ready for new images.

    Attributes:
        run: the run folder it comes from.
        segmenter: its networks.
    """

    def __init__(self, run: Run, segmenter: AnySegmenter) -> None:
        self.run, self.segmenter = run, segmenter

    @property
    def label_names(self) -> tuple[str, ...]:
        """The labels by value, background first."""
        return self.segmenter.label_names

    @property
    def channels(self) -> int:
        """The number of channels of an image."""
        return self.segmenter.channels

    def segment(self, image: AnyImage, spacing_mm: Sequence[float | int] | None = None) -> Labels:
        """The label of every voxel, on the image's own grid.

        Args:
            image: a file or the folder of a DICOM series, a list of these with one a channel, a `Case`, or an array
                `channel depth height width`; for networks of one channel also `depth height width` or `height width`.
            spacing_mm: the voxel size along depth, height and width (of a picture along height and width); needed with
                an array and ignored otherwise.

        Returns:
            uint8 `depth height width`.

        Raises:
            DataError: an image that cannot be read, has other channels than the training images, or is an array without
                spacing.
        """
        return self.segmenter.segment(self._case(image, spacing_mm))

    def probabilities(self, image: AnyImage, spacing_mm: Sequence[float | int] | None = None) -> Probabilities:
        """The probability of every label, float32 `label depth height width`. Arguments and errors as in `segment`.

        Raises:
            DataError: also for a hierarchy, whose labels are merged from two networks.
        """
        return self.segmenter.probabilities(self._case(image, spacing_mm))

    def cases(self, path: str | Path) -> Cases:
        """The images to segment in a path: an image, a folder of images, or the test cases of a data set.

        A data set in the layout of the training data is split as it was for training. Of one without test cases, all
        cases are taken.

        Raises:
            DataError: nothing to read, or a data set that is broken.
        """
        dataset = self._data_set(Path(path), scribbles=None)
        if dataset is None:
            return images(path, self.channels)
        return dataset.test if len(dataset.test) else dataset.train

    def to_draw_in(self, path: str | Path, scribbles: str | Path | None = None) -> Cases:
        """The cases in a path that strokes can be drawn in: all images of a folder, or a data set's training cases.

        Of a data set that becomes larger by drawing (the layout `folder`), cases with neither strokes nor a mask are
        among them.

        Args:
            path: an image, a folder of images, or a data set (see `cases`).
            scribbles: a folder of strokes in the place of the data set's own (see `open_dataset`). For the folder that
                the run was trained on, None is those that it was trained on.

        Raises:
            DataError: nothing to read, a data set that is broken, or one of other labels than the network's.
        """
        root, data = Path(path), pipeline.data_of(self.run)
        if scribbles is None and root.resolve() == Path(data["folder"]):
            scribbles = data["options"].get("scribbles")
        dataset = self._data_set(root, scribbles)
        return images(path, self.channels) if dataset is None else in_labels(dataset, self.label_names).to_draw_in

    def _data_set(self, root: Path, scribbles: str | Path | None) -> Dataset | None:
        """The data set in a folder, in the training's split; None where there are images alone."""
        layouts = recognise(root) if root.is_dir() else []
        if not layouts or (
            layouts == ["folder"] and not any((root / name).exists() for name in ("scribbles", "masks"))
        ):
            return None
        data, form, options = pipeline.data_of(self.run), None, {}
        if data["format"] in layouts:
            form, options = data["format"], {**data["options"]}
            options.pop("scribbles", None)
        if scribbles is not None:
            options["scribbles"] = str(Path(scribbles).resolve())
        return open_dataset(root, form, **options)

    def _case(self, image: AnyImage, spacing_mm: Sequence[float | int] | None) -> Case:
        if isinstance(image, Case):
            _check_finite(image.image, f"case {image.name}: ")
            return image
        if isinstance(image, np.ndarray):
            return _case_of_array(image, spacing_mm, self.channels)
        try:
            files = [Path(image)] if isinstance(image, str | Path) else [Path(file) for file in image]
        except TypeError:
            files = []
        if not files:
            raise DataError(
                f"expected a path, a list of paths (one a channel), a case or a NumPy array, got {type(image).__name__}"
            )
        read, geometry = read_image(files)
        return Case(files[0].name, read, _unlabelled(geometry.shape), geometry, files=tuple(files))


def train(
    dataset: Dataset,
    out: str | Path,
    recipe: AnyRecipe | str | None = None,
    seed: int = 0,
    resume: bool = False,
    accelerator: str = "auto",
    devices: int = 1,
    on_recursion: Callable[[Recursion], None] | None = None,
    start_from: str | Path | None = None,
) -> Model:
    """Train on a data set; the recipe is fitted to it first. Interrupt it at will: `resume` goes on.

    Args:
        dataset: with scribbles, or with masks for a recipe that trains on them.
        out: folder of the run.
        recipe: a recipe, the name of one (`scribbleseg recipes` lists them), or None for that of the run in `out` or
            in `start_from`, or else the one that fits the machine.
        seed: random seed for weights, batch order, augmentation and dropout.
        resume: whether to go on with the run that is in `out`.
        accelerator: "cpu", "cuda", "mps" or "auto".
        devices: how many of them; 1 is also as many as torchrun or SLURM's srun has started processes.
        on_recursion: called after each M step.
        start_from: the run folder whose last network the training starts from; None is random weights.

    Returns:
        The trained network.

    Raises:
        DataError: a recipe that does not fit the data, data that cannot be trained on, or a folder with another run.
    """
    fabric = shared_fabric(accelerator, devices)
    if recipe is None:
        recipe = choose(Path(out), fabric, None if start_from is None else Path(start_from))[0]
    chosen = find(recipe) if isinstance(recipe, str) else recipe
    session = pipeline.begin(dataset, out, chosen, fabric=fabric, seed=seed, resume=resume)
    with session:
        if start_from is not None:
            pipeline.start_from(session, start_from)
        return finish(session, on_recursion)


def finish(session: Session, on_recursion: Callable[[Recursion], None] | None = None) -> Model:
    """Train a session that `pipeline.begin` made to its end. Raises DataError."""
    with session, torch.random.fork_rng([]):  # the caller's random numbers stay as they were
        for recursion in pipeline.train(session):
            if on_recursion:
                on_recursion(recursion)
    return load(session.run.path, session.fabric)


def load(run: str | Path, accelerator: str | Fabric = "auto", recursion: int | None = None) -> Model:
    """Load the network of a run folder.

    Args:
        run: what `train` made, also with scribbleseg 0.1.
        accelerator: "cpu", "cuda", "mps", "auto", or a Fabric.
        recursion: which network, counted from 0; None is the last.

    Raises:
        DataError: no run folder, or a recursion that has not finished.
    """
    opened = open_run(Path(run))
    fabric = accelerator if isinstance(accelerator, Fabric) else make_fabric(accelerator)
    return Model(opened, pipeline.load(opened, fabric, recursion))


def evaluate(model: Model, dataset: Dataset) -> Scores:
    """Segment the test cases of a data set that have a reference mask, and score them in 3-D on their native grids.

    Args:
        model: what `train` or `load` gave.
        dataset: a data set with the same labels; its test cases are scored.

    Returns:
        A score for each case and structure. `print` shows the means by structure.

    Raises:
        DataError: other labels than the model's, or no test case with a reference mask.
    """
    seen = in_labels(dataset, model.label_names)
    scores = score_cases(model.segmenter, seen, seen.test)
    if not scores:
        raise DataError(
            f"{dataset.root}: expected test cases with reference masks to score, found none among {len(seen.test)}; "
            "add masks, or choose another split"
        )
    return Scores(scores)


def seed(case: Case, seeder: Seeder = RandomWalker()) -> Labels:  # noqa: B008  # a frozen dataclass
    """Grow the scribbles of one case into seed areas, on its native grid and without a run. CT is windowed first.

    Args:
        case: with scribbles.
        seeder: a `RandomWalker`, a `GraphCut` or any other part of recipes that grows scribbles.

    Returns:
        uint8 `depth height width`, UNLABELLED where it is not sure.

    Raises:
        DataError: an image that is not finite, or a case that the seeder is not made for.
    """
    alone = Cases([case.name], lambda _: case)
    turn = turn_to(common_orientation([case.geometry], drawn_plane(alone)), case.geometry)
    windows = ct_windows(alone)
    image = normalise(case.image, windows) if windows else case.image
    grown = seeder(turn(image), turn(case.scribbles), turn.spacing_mm(case.geometry))
    return turn.back(grown)


def _case_of_array(image: np.ndarray, spacing_mm: Sequence[float | int] | None, channels: int) -> Case:
    """A case of an array. Raises DataError where it has another shape, no spacing, or values that are not finite."""
    expected = "channel depth height width" if channels > 1 else "[channel] [depth] height width"
    if spacing_mm is None or not image.size or image.ndim not in ((4,) if channels > 1 else (2, 3, 4)):
        raise DataError(
            f"expected an array `{expected}` with spacing_mm, the voxel size along depth, height and width; got one of "
            f"shape {image.shape} with spacing_mm={spacing_mm}"
        )
    if image.dtype.kind not in "biuf":
        raise DataError(f"expected an array of numbers, got {image.dtype}; convert it to float32")
    try:
        spacing = np.asarray(spacing_mm, np.float64)
    except ValueError:
        spacing = np.array(np.nan)
    if (
        spacing.shape not in ((3,), (min(image.ndim, 3),))
        or not ((spacing > SMALLEST_MM) & (spacing < LARGEST_MM)).all()
    ):
        raise DataError(
            f"expected spacing_mm of three positive numbers (two for a picture), {SMALLEST_MM} to {LARGEST_MM} mm, got "
            f"{spacing_mm}"
        )
    whole: Image = image.reshape((1,) * (4 - image.ndim) + image.shape).astype(np.float32)
    _check_finite(whole, "")
    depth, height, width = np.r_[np.ones(3 - len(spacing)), spacing]
    geometry = Geometry(whole.shape[1:], np.diag([width, height, depth, 1.0]), suffix="")
    return Case("array", whole, _unlabelled(geometry.shape), geometry)


def _check_finite(image: np.ndarray, where: str) -> None:
    if bad := int(np.count_nonzero(~np.isfinite(image))):
        raise DataError(f"{where}expected finite intensities, got {bad} of {image.size} NaN or infinite; replace them")


def _unlabelled(shape: tuple[int, int, int]) -> Labels:
    return np.full(shape, UNLABELLED, np.uint8)
