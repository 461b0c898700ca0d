"""Pipeline 1 (Can et al. 2018): seeds, then M and E steps by turns; hard expectation maximisation over labels."""

import pickle
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from lightning_fabric import Fabric
from pydantic import Field, NonNegativeFloat, NonNegativeInt
from rich.progress import track

from scribbleseg.crf.kernels import in_pixels
from scribbleseg.data import coarse, fully_annotated
from scribbleseg.data.preprocess import Preprocess
from scribbleseg.data.slices import Slices, build_slices, open_slices
from scribbleseg.data.volumes import write_labels
from scribbleseg.relabel.decide import Argmax, Keep, WelchTest, clamp
from scribbleseg.relabel.predict import Segmenter, predict, sample
from scribbleseg.relabel.refine import DenseCRF, Identity
from scribbleseg.runs import Run, finish_folder
from scribbleseg.seeds.graph_cut import GraphCut
from scribbleseg.seeds.random_walker import RandomWalker, Strokes, grow
from scribbleseg.settings import from_plain, to_plain
from scribbleseg.train.augment import Augment
from scribbleseg.train.crf_loss import DenseCRFLoss
from scribbleseg.train.crf_rnn import CRFRNN
from scribbleseg.train.loop import SGD, Training, m_step, save_state
from scribbleseg.train.losses import PartialCrossEntropy, ScribblesAndAreas
from scribbleseg.train.unet import UNet
from scribbleseg.types import UNLABELLED, DataError, Dataset


@dataclass(frozen=True)
class Recipe:
    """A row of a paper's table, in the pipeline's order.

    Args:
        annotation: "masks" trains on the reference masks, for the fully supervised upper bound and nothing else, and
            "coarse_masks" on the same merged to the labels that the scribbles tell apart.
        preprocess: the grid.
        seeds: what grows scribbles into seed areas.
        network: what is trained.
        augment: on every batch.
        training: one M step.
        loss: of the labels, in every M step.
        crf: added to the loss of every M step but the first, which is a fine-tuning then; None is nothing.
        refine: E step, first half.
        decide: E step, second half.
        recursions: E steps at most; 0 is the row without recursion (Can et al. 2018, section 2.2: about 3).
        stop_below: no further recursion once an E step changes less than this share of the pixels (ours).
    """

    annotation: Literal["scribbles", "masks", "coarse_masks"] = "scribbles"
    preprocess: Preprocess = Preprocess()
    seeds: Annotated[RandomWalker | GraphCut | Strokes, Field(discriminator="kind")] = RandomWalker()
    network: Annotated[UNet | CRFRNN, Field(discriminator="kind")] = UNet()
    augment: Augment = Augment()
    training: Annotated[Training | SGD, Field(discriminator="kind")] = Training()
    loss: Annotated[PartialCrossEntropy | ScribblesAndAreas, Field(discriminator="kind")] = PartialCrossEntropy()
    crf: DenseCRFLoss | None = None
    refine: Annotated[Identity | DenseCRF, Field(discriminator="kind")] = Identity()
    decide: Annotated[Argmax | WelchTest | Keep, Field(discriminator="kind")] = Argmax()
    recursions: NonNegativeInt = 3
    stop_below: NonNegativeFloat = 0.001


@dataclass(frozen=True)
class Recursion:
    """What one M step gave.

    Args:
        index: 0 for the first.
        segmenter: the trained network, ready for new images.
        labels: what it was trained on, a label map of `Slices`.
        labelled: share of pixels that were not UNLABELLED.
        changed: share of pixels that the E step before it changed; None for the first, and where labels are kept.
    """

    index: int
    segmenter: Segmenter
    labels: np.ndarray
    labelled: float
    changed: float | None


def em(
    recipe: Recipe, dataset: Dataset, run: Run, fabric: Fabric, seed: int = 0, workers: int = 1
) -> Iterator[Recursion]:
    """Train by hard EM; yields after each M step. Whatever the run folder holds already is not done again.

    Args:
        recipe: resolved (`resolve`).
        dataset: its training cases, and nothing else of it, are used.
        run: an existing run folder.
        fabric: launched; preprocessing runs on rank 0, everything else on all.
        seed: of weights, order, augmentation and dropout.
        workers: processes for the seed areas.

    Raises:
        DataError: for data that cannot be trained on.
    """
    yield from recur(recipe, dataset, grow_seeds(recipe, dataset, run, fabric, workers), run, fabric, seed)


def recur(
    recipe: Recipe, dataset: Dataset, slices: Slices, run: Run, fabric: Fabric, seed: int = 0,
    start: Path | None = None,
) -> Iterator[Recursion]:  # fmt: skip
    """M and E steps by turns, as `em` does, on slices which have the labels of recursion 0 already.

    The first M step starts from the weights in `start`, if any: of a U-Net of the same filters, for other labels.
    """
    if fabric.is_global_zero:
        run.forget_after(*_continue_from(run))
    for index in range(recipe.recursions + 1):
        relabelled = index > 0 and not isinstance(recipe.decide, Keep)
        changed = slices.share(slices.labels(_name(index)) != slices.labels(_name(index - 1))) if relabelled else None
        _log_labels(slices, run, fabric, index, dataset.label_names, changed)
        network = _m_step(recipe, dataset.n_labels, slices, run, fabric, seed, index, start)
        labels = slices.labels(_name(index))
        segmenter = Segmenter(network, recipe.preprocess, dataset.label_names, fabric)
        yield Recursion(index, segmenter, labels, slices.share(labels != UNLABELLED), changed)
        if index == recipe.recursions or (changed is not None and changed < recipe.stop_below):
            return
        _e_step(recipe, dataset, slices, network, run, fabric, seed, index + 1)


def grow_seeds(recipe: Recipe, dataset: Dataset, run: Run, fabric: Fabric, workers: int = 1) -> Slices:
    """Preprocess (on rank 0) and grow the scribbles into seed areas, every rank its share of the cases.

    The label maps of recursion 0 are then in the run folder; what is there already is not done again.
    """
    if fabric.is_global_zero:
        build_slices(dataset.train, recipe.preprocess, run.slices)
    fabric.barrier()
    slices = open_slices(run.slices)
    if not slices.has_labels(_name(0)):
        cases = list(slices.rows)[fabric.global_rank :: fabric.world_size]
        volumes = (
            (_volume(slices, name), slices.scribbles[slices.rows[name]], slices.spacing_mm[name]) for name in cases
        )
        grown = grow(recipe.seeds, volumes, workers=workers, total=len(cases), description="Seed areas")
        store_labels(dataset, slices, run, fabric, 0, zip(cases, grown, strict=True), recipe.preprocess)
    return slices


def _volume(slices: Slices, name: str) -> np.ndarray:
    """Image of one case, channel first."""
    return np.ascontiguousarray(slices.images[slices.rows[name]].swapaxes(0, 1))


def _m_step(
    recipe: Recipe, n_labels: int, slices: Slices, run: Run, fabric: Fabric, seed: int, index: int, start: Path | None
) -> torch.nn.Module:
    """The network of recursion `index`: loaded if it is there, else trained from the last one's weights."""
    channels = slices.images.shape[1]
    torch.manual_seed(seed)
    network = recipe.network.build(channels, n_labels)
    path = run.network(index)
    if path.exists():
        return load_weights(network, path)
    if index:
        load_weights(network, run.network(index - 1))
    elif start:
        network.start_from(_read_weights(start)["state"])  # type: ignore[operator]
    checkpoint = run.recursion(index) / "m_step.ckpt"
    iterations = recipe.training.iterations_again if index else recipe.training.iterations
    before = recipe.training.iterations + recipe.training.iterations_again * (index - 1) if index else 0

    def record(values: dict[str, Any]) -> None:
        total = before + values["iteration"]
        run.log({"event": "train", "recursion": index, **values, "total_iteration": total})

    m_step(
        fabric, network, slices.images, slices.labels(_name(index)), recipe.training, recipe.augment,
        iterations, (seed, index), checkpoint, record,
        recipe.loss, slices.scribbles, recipe.crf if index else None,
    )  # fmt: skip
    if fabric.is_global_zero:
        save_weights(network, path)
        checkpoint.unlink(missing_ok=True)
    fabric.barrier()
    return network


def _e_step(
    recipe: Recipe, dataset: Dataset, slices: Slices, network: torch.nn.Module, run: Run, fabric: Fabric,
    seed: int, index: int,
) -> None:  # fmt: skip
    """Relabel every training slice from the network, seeds clamped: the labels of recursion `index`."""
    if slices.has_labels(_name(index)):
        return
    seeds = slices.labels(_name(0))
    cases = list(slices.rows)[fabric.global_rank :: fabric.world_size]
    passes, draw = recipe.decide.passes, seed * (recipe.recursions + 1) + index

    def relabelled() -> Iterator[tuple[str, np.ndarray]]:
        if isinstance(recipe.decide, Keep):
            yield from ((name, slices.labels(_name(index - 1))[slices.rows[name]]) for name in cases)
            return
        for name in track(cases, f"Relabelling {index}", disable=not fabric.is_global_zero):
            rows = slices.rows[name]
            images = slices.images[rows]
            refined = recipe.refine(predict(fabric, network, images), images, seeds[rows], fabric.device)
            samples = sample(fabric, network, images, passes, draw) if passes else None
            yield name, clamp(recipe.decide(refined, samples), seeds[rows])

    store_labels(dataset, slices, run, fabric, index, relabelled(), recipe.preprocess)


def store_labels(
    dataset: Dataset, slices: Slices, run: Run, fabric: Fabric, index: int,
    labels: Iterator[tuple[str, np.ndarray]], preprocess: Preprocess,
) -> None:  # fmt: skip
    """Store the labels of recursion `index`: in the cache, as label maps in original geometry, and their statistics."""
    unfinished = run.labels(index).with_name(f"{index}.partial")
    if fabric.is_global_zero:
        slices.writable_labels(_name(index))
        unfinished.mkdir(parents=True, exist_ok=True)
    fabric.barrier()
    target = slices.writable_labels(_name(index))
    for name, planes in labels:
        case = dataset.train.named(name)
        planes = np.where(preprocess.inside(case), planes, np.uint8(UNLABELLED))
        target[slices.rows[name]] = planes
        native = preprocess.native_labels(planes, case)
        native[native == UNLABELLED] = dataset.n_labels  # on disk "ignore" is the highest value, as nnU-Net has it
        write_labels(unfinished / f"{name}.nii.gz", native, case.geometry)
    target.flush()
    fabric.barrier()
    if fabric.is_global_zero:
        finish_folder(unfinished, run.labels(index))
        slices.finish_labels(_name(index))
    fabric.barrier()


def _log_labels(
    slices: Slices, run: Run, fabric: Fabric, index: int, label_names: tuple[str, ...], changed: float | None
) -> None:
    """Record once how much the labels of recursion `index` cover and, after an E step, how much it changed."""
    if not fabric.is_global_zero or any(r["event"] == "relabel" and r["recursion"] == index for r in run.metrics):
        return
    labels = slices.labels(_name(index))
    record = {"event": "relabel", "recursion": index, "labelled": slices.share(labels != UNLABELLED)}
    record["per_label"] = {name: slices.share(labels == value) for value, name in enumerate(label_names)}
    if changed is not None:
        record["changed"] = changed
    run.log(record)


def _continue_from(run: Run) -> tuple[int, int]:
    """Recursion and iteration that a resumed run continues at."""
    index = run.recursions
    checkpoint = run.recursion(index) / "m_step.ckpt"
    if not checkpoint.exists():
        return index, 0
    return index, torch.load(checkpoint, map_location="cpu", weights_only=True)["iteration"]


def _name(index: int) -> str:
    return f"labels_{index}"


def save_weights(network: torch.nn.Module, path: Path) -> None:
    """Write what `load_weights` and `load_segmenter` read. Raises DataError where it cannot be written."""
    save_state(path, {"channels": network.channels, "state": network.state_dict()})


def load_weights(network: torch.nn.Module, path: Path) -> torch.nn.Module:
    """Load into `network` in place what `save_weights` wrote, and return it."""
    network.load_state_dict(_read_weights(path)["state"])
    return network


def _read_weights(path: Path) -> dict[str, Any]:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise DataError(
            f"{path}: expected weights, found a damaged file ({error}); copy it again or retrain"
        ) from error


def load_segmenter(run: Run, fabric: Fabric, recursion: int | None = None) -> Segmenter:
    """The network of a recursion of a run, the last finished one by default, ready to segment.

    Raises:
        DataError: if that recursion has not finished.
    """
    index = run.recursions - 1 if recursion is None else recursion
    path = run.network(max(index, 0))
    if not path.exists():
        done = f"recursions 0 to {run.recursions - 1} are" if run.recursions else "none is"
        raise DataError(f"{path}: expected the weights of a finished M step, {done} there; finish `train` (--resume)")
    recipe = from_plain(Recipe, run.recipe)
    label_names = tuple(run.details["label_names"])
    channels = _read_weights(path)["channels"]
    network = load_weights(recipe.network.build(channels, len(label_names)), path)
    return Segmenter(network, recipe.preprocess, label_names, fabric)


def taught(recipe: Recipe, dataset: Dataset) -> Dataset:
    """The data set as the recipe trains on it: its scribbles in their own labels, or masks in their place."""
    if recipe.annotation == "masks":
        return fully_annotated(dataset)
    return coarse(dataset) if recipe.annotation == "scribbles" else fully_annotated(coarse(dataset))


def resolve(recipe: Recipe, dataset: Dataset) -> Recipe:
    """The recipe with everything set that it leaves to the data.

    Raises:
        DataError: for a value out of its range, a slice size that the network cannot take, or a test of uncertainty
            on a network without dropout.
    """
    recipe = from_plain(Recipe, to_plain(recipe))
    preprocess = recipe.preprocess.resolve(dataset.train)
    spacing_mm = float(preprocess.spacing_mm or 0)
    resolved = replace(
        recipe,
        preprocess=preprocess,
        network=in_pixels(recipe.network, spacing_mm),
        crf=in_pixels(recipe.crf, spacing_mm),
        refine=in_pixels(recipe.refine, spacing_mm),
    )
    if isinstance(recipe.decide, WelchTest) and not recipe.network.dropout:
        raise DataError(
            f"recipe field decide: {recipe.decide.kind} expects a network with dropout, got dropout 0; "
            "set network.dropout (network.unet.dropout of a CRF-RNN) to 0.5, or decide.kind to argmax"
        )
    try:
        resolved.network.check_sides(int(resolved.preprocess.size or 0))
    except ValueError as error:
        raise DataError(f"recipe field preprocess.size: {error}") from None
    return resolved
