"""Pipeline 1 (Can et al. 2018): seeds, then M and E steps in turn; hard expectation maximisation over labels."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from operator import eq, ne
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from scribbleseg.data.slices import is_labelled
from scribbleseg.evaluation.agreement import agreement
from scribbleseg.files import atomically, link_or_copy
from scribbleseg.progress import track
from scribbleseg.ranks import on_leader
from scribbleseg.recipe import Recipe, Stage, begins_as, resolve, seen_by
from scribbleseg.relabel.components import ENOUGH, areas_of_lost, only_scribbled, scribbles_in_components
from scribbleseg.relabel.decide import clamp
from scribbleseg.relabel.predict import Segmenter, predict, sample
from scribbleseg.runs import Run
from scribbleseg.seeds.grow import Seeder, Volume, grow
from scribbleseg.seeds.random_walker import RandomWalker
from scribbleseg.session import Beliefs, Session
from scribbleseg.settings import from_plain
from scribbleseg.training.loop import Batches, Course, Source, m_step
from scribbleseg.training.network import NetworkModule
from scribbleseg.training.state import remove_checkpoints, settle_checkpoint
from scribbleseg.types import UNLABELLED, DataError, Dataset, spread
from scribbleseg.weights import load_segmenter, load_weights, read_single_components, read_weights, save_weights

LOOKED_AT = 10
"""Training cases that a tau is chosen on, at most; ours."""

kind: str = "em"
recipe_type: type = Recipe
phases: tuple[str, ...] = ("",)


@dataclass(frozen=True)
class Recursion:
    """What one M step gave.

    Args:
        phase: the pipeline's phase, "" where it has one only.
        index: 0 for the first.
        segmenter: the trained network, ready for new images.
        labels: what it was trained on, uint8 `slice height width`, memory-mapped.
        labelled: share of pixels that were not UNLABELLED.
        changed: share of pixels that the E step before it changed; None for the first, and where labels are kept.
        agreement: the network's with held-out scribbles, by the name of the label; empty where none are held out.
    """

    phase: str
    index: int
    segmenter: Segmenter
    labels: np.ndarray
    labelled: float
    changed: float | None
    agreement: Mapping[str, float]


def fit(recipe: Recipe, dataset: Dataset) -> tuple[Recipe, Dataset]:
    """The recipe with what it leaves to the data, and the data set as the recipe sees it. Raises DataError."""
    seen = seen_by(recipe, dataset)
    return resolve(recipe, seen), seen


def part(session: Session[Recipe], phase: str) -> Session[Recipe]:
    """The session of its one phase: itself."""
    return session


def load(recipe: Recipe, run: Run, fabric: Fabric, recursion: int | None = None) -> Segmenter:
    """The network of a recursion, the last finished one by default. Raises DataError if that has not finished."""
    return load_segmenter(recipe, run, fabric, recursion)


def train(session: Session[Recipe]) -> Iterator[Recursion]:
    """Train by hard EM; yields after each M step. Whatever the run folder holds already is not done again.

    Raises:
        DataError: for data that cannot be trained on.
    """
    session.prepare(session.recipe.preprocess, session.recipe.held_out)
    check_channels(session.recipe, session.slices.channels)
    _check_start(session)
    grow_seeds(session)
    yield from recur(session)


def recur(session: Session[Recipe], phase: str = "", start: Path | None = None) -> Iterator[Recursion]:
    """M and E steps in turn, on a cache which has the labels of recursion 0 already.

    Args:
        session: prepared.
        phase: its name in a pipeline of several.
        start: weights that the first M step starts from, if any: of the same network for other labels.
    """
    recipe = session.recipe
    on_leader(lambda: _continue(session.run, len(recipe.steps)), session.fabric)
    network: NetworkModule | None = None
    for index in range(len(recipe.steps)):
        if network is not None:
            e_step(session, network, index)
        taught = _taught(session, index)
        network = train_network(session, index, start)
        path = session.run.network(index)
        single = read_single_components(path) if recipe.single_components else frozenset()
        names = session.dataset.label_names
        segmenter = Segmenter(network, recipe.preprocess, names, session.fabric, recipe.views, single)
        yield Recursion(phase, index, segmenter, agreement=_agreement(session, network, index), **taught)
        if taught["changed"] is not None and taught["changed"] < recipe.stop_below:
            return


def unfinished(session: Session[Recipe]) -> tuple[Stage, ...]:
    """The M steps that are left to do; none where relabelling changed so little that the training has ended."""
    done = session.run.recursions
    last = [record for record in session.run.metrics if _is(record, "relabel", done - 1)]
    if any(record.get("changed", 1.0) < session.recipe.stop_below for record in last):
        return ()
    return session.recipe.steps[done:]


def has_done(recipe: Recipe, run: Run) -> bool:
    """Whether all that a run has done so far is what this recipe would have done, so that it can go on with it."""
    begun = run.recursions
    if run.checkpoint(begun).exists() or (begun and run.labels(begun).exists()):
        begun += 1
    return begins_as(recipe, from_plain(Recipe, run.recipe), begun) and carries_on(recipe, run, run.recursions)


def carries_on(recipe: Recipe, run: Run, steps: int) -> bool:
    """Whether a recipe that goes on after so many M steps of a run finds the optimiser that it carries on there."""
    carried = 0 < steps < len(recipe.steps) and not recipe.steps[steps].restarts
    return not carried or run.optimiser(steps - 1).exists()


def single_components(session: Session[Recipe], network: NetworkModule) -> list[int]:
    """The structures that are one connected component, judged by what a network makes of the training scribbles."""
    slices, n_labels = session.slices, session.dataset.n_labels
    counts = np.zeros((n_labels, 2), np.int64)
    for rows in slices.rows.values():
        likely = predict(session.fabric, network, slices.images(rows), replace(session.recipe.views, rotations=()))
        labels = likely.argmax(axis=1).astype(np.uint8)
        counts += scribbles_in_components(labels, slices.scribbles[rows], n_labels)
    return [value for value in range(1, n_labels) if counts[value, 1] >= ENOUGH * counts[value, 0] > 0]


def _agreement(session: Session[Recipe], network: NetworkModule, index: int) -> dict[str, float]:
    """Agreement with held-out scribbles by the name of the label, recorded once; empty where none are held out."""
    run, held_out = session.run, session.slices.held_out
    if held_out is None:
        return {}

    def measure() -> dict[str, float]:
        for record in run.metrics:
            if _is(record, "agreement", index):
                return record["agreement"]
        drawn = session.slices.places(is_labelled, held_out)
        agreed = agreement(_likeliest(session, network, drawn), held_out[drawn])
        found = {session.dataset.label_names[label]: value for label, value in agreed.items()}
        mean = float(np.mean(list(found.values())))
        run.log({"event": "agreement", "recursion": index, "mean": mean, "agreement": found})
        return found

    return on_leader(measure, session.fabric)


def _likeliest(session: Session[Recipe], network: NetworkModule, places: np.ndarray) -> np.ndarray:
    """The likeliest labels in some slices of the cache; the whole cases are seen where the network sees stacks."""
    slices, views = session.slices, session.recipe.views
    if views.of_single_slices:
        return predict(session.fabric, network, slices.images(places), views).argmax(axis=1).astype(np.uint8)
    found = [np.empty((0, *slices.scribbles.shape[1:]), np.uint8)]
    for rows in slices.rows.values():
        if len(here := places[(places >= rows.start) & (places < rows.stop)] - rows.start):
            found.append(predict(session.fabric, network, slices.images(rows), views)[here].argmax(axis=1))
    return np.concatenate(found, dtype=np.uint8, casting="unsafe")


def _is(record: Mapping[str, Any], event: str, index: int) -> bool:
    """Whether a record of metrics.jsonl is of that event and recursion."""
    return record["event"] == event and record["recursion"] == index


def check_channels(recipe: Recipe, channels: int) -> None:
    """Raises DataError for a loss that looks at channels which the images do not have."""
    for n, step in enumerate(recipe.steps):
        for loss in step.losses:
            if max(getattr(loss, "channels", ()), default=0) >= channels:
                raise DataError(
                    f"recipe field stages, recursion {n}, loss {loss.kind}: expected channels below {channels}, the "
                    f"number that images have, got {getattr(loss, 'channels', ())}; change its channels"
                )


def _check_start(session: Session[Recipe]) -> None:
    """Raises DataError for weights to start from whose network takes images of other channels."""
    if session.run.details.get("start"):
        channels = read_weights(session.run.start)["channels"]
        expected = session.slices.channels * (1 + 2 * session.recipe.neighbours)
        if channels != expected:
            raise DataError(
                f"{session.run.start}: expected weights for images of {expected} channels, found those of a network "
                f"for {channels}; start from a run on such images"
            )


def grow_seeds(session: Session[Recipe]) -> None:
    """Grow the scribbles into seed areas, the labels of recursion 0, every rank its share of the cases."""
    slices = session.slices
    if slices.has("labels", 0):
        return
    cases, seeder = session.cases, _fitted(session)
    grown = grow(seeder, _volumes(session, cases), workers=session.workers, total=len(cases), description="Seed areas")
    session.store(0, ((name, {"labels": labels}) for name, labels in zip(cases, grown, strict=True)))


def _fitted(session: Session[Recipe]) -> Seeder:
    """The recipe's seeder, with what it leaves to the scribbles; written down in run.json."""
    seeder = session.recipe.seeds
    if not isinstance(seeder, RandomWalker):
        return seeder

    def fit() -> RandomWalker:
        some, slices = spread(list(session.slices.rows), LOOKED_AT), session.slices
        fitted = seeder.with_likelihood(_volumes(session, some))
        if seeder.likelihood is None:
            session.run.add(likelihood=fitted.likelihood)
        if seeder.tau is None:
            volumes = track(_volumes(session, some), "Choosing tau", total=len(some))
            fitted = fitted.with_tau(volumes, (slices.inside[slices.rows[name]] for name in some))
            session.run.add(tau=fitted.tau)
        return fitted

    return on_leader(fit, session.fabric)


def _volumes(session: Session[Recipe], names: Iterable[str]) -> Iterator[Volume]:
    """What a seeder needs of these cases: images on the grid, channel first, scribbles and spacing."""
    slices = session.slices
    for name in names:
        rows = slices.rows[name]
        # No name for the image, which would keep it while the next one is read.
        yield np.ascontiguousarray(slices.images(rows).swapaxes(0, 1)), slices.scribbles[rows], slices.spacing_mm[name]


def train_network(session: Session[Recipe], index: int, start: Path | None = None) -> NetworkModule:
    """M step: the network of recursion `index`, loaded if it is there, else trained from the last one's weights."""
    recipe, run, fabric = session.recipe, session.run, session.fabric
    torch.manual_seed(session.seed)
    network = recipe.build(session.slices.channels, session.dataset.n_labels)
    path = run.network(index)
    if path.exists():
        if session.leads:
            remove_checkpoints(run.checkpoint(index))
        return load_weights(network, path)
    if index:
        load_weights(network, run.network(index - 1))
    elif start:
        recipe.network.start_from(network, read_weights(start)["state"])
    elif run.details.get("start"):
        load_weights(network, run.start)
    source = Source(
        session.slices, recipe.labels_of(index), recipe.slices == "structures",
        recipe.patch, recipe.neighbours, recipe.depth,
    )  # fmt: skip
    batches = Batches(source, recipe.augment, (session.seed, index))
    m_step(network, recipe.steps[index], batches=batches, fabric=fabric, course=_course(session, index))
    if session.leads:
        if index + 1 < len(recipe.steps) and not recipe.steps[index + 1].restarts:
            with atomically(run.optimiser(index)) as temporary:
                link_or_copy(run.checkpoint(index), temporary)
        save_weights(network, path, single_components(session, network) if recipe.single_components else ())
        remove_checkpoints(run.checkpoint(index))
    fabric.barrier()
    # Batch statistics differ between ranks: all go on with the ones that were saved.
    return network if session.leads else load_weights(network, path)


def _course(session: Session[Recipe], index: int) -> Course:
    """Where an M step keeps its state and its records, and where it stands in the learning-rate schedule."""
    recipe, run = session.recipe, session.run
    before = sum(step.iterations for step in recipe.steps[:index])
    start, span = recipe.schedule(index)

    def record(values: dict[str, Any]) -> None:
        total = before + values["iteration"]
        run.log({"event": "train", "recursion": index, **values, "total_iteration": total})

    carried = run.optimiser(index - 1) if start else None
    return Course(run.checkpoint(index), record, f"Training {index}", start, span, carried)


def e_step(session: Session[Recipe], network: NetworkModule, index: int) -> None:
    """E step: relabel every training slice from the network, seeds put back: the labels of recursion `index`."""
    relabel = session.recipe.steps[index].relabel
    if relabel is None or session.slices.has("labels", index):
        return
    needs = sorted(session.recipe.needs_of(index))
    passes, draw = relabel.decide.passes, seed_of_passes(session.seed, index)
    views = session.recipe.views

    def relabelled() -> Iterator[tuple[str, Beliefs]]:
        slices, fabric = session.slices, session.fabric
        for name in track(session.cases, f"Relabelling {index}", disable=not session.leads):
            rows = slices.rows[name]
            images, scribbles = slices.images(rows), slices.scribbles[rows]
            seeds = slices.layer("labels", 0)[rows] if relabel.clamp == "areas" else scribbles
            # Section 2.4: the passes stand in the place of a single output.
            samples = sample(fabric, network, images, passes, draw, views) if passes else None
            probabilities = samples.probabilities if samples else predict(fabric, network, images, views)
            depth, side, _ = slices.spacing_mm[name]
            refined = relabel.refine(probabilities, images, seeds, fabric.device, depth / side)
            labels = clamp(relabel.decide(refined, samples), seeds)
            if relabel.only_scribbled:
                labels = only_scribbled(labels, scribbles)
            if relabel.clamp == "scribbles":
                likeliest = refined.argmax(axis=1).astype(np.uint8)
                areas = areas_of_lost(likeliest, scribbles, slices.layer("labels", 0)[rows])
                labels = clamp(labels, clamp(areas, scribbles))
            yield name, {"labels": labels, **(_soft(refined, labels, seeds) if needs else {})}

    session.store(index, relabelled(), needs)


def seed_of_passes(seed: int, index: int) -> int:
    """The seed of the dropout masks in the E step of M step `index`, in a run of that seed."""
    return int(np.random.SeedSequence((seed, index)).generate_state(1)[0])


def _soft(refined: np.ndarray, labels: np.ndarray, seeds: np.ndarray) -> Beliefs:
    """Soft labels, certain on the seeds, and the probability of each label that was decided; 0 where none was."""
    certain = np.eye(refined.shape[1], dtype=np.float32)[np.where(seeds == UNLABELLED, 0, seeds)].transpose(0, 3, 1, 2)
    soft = np.where((seeds == UNLABELLED)[:, None], refined, certain)
    decided = np.take_along_axis(soft, np.where(labels == UNLABELLED, 0, labels)[:, None], axis=1)[:, 0]
    return {"soft": soft, "confidence": np.where(labels == UNLABELLED, 0, decided)}


def _taught(session: Session[Recipe], index: int) -> dict[str, Any]:
    """The labels of recursion `index`, how much they cover, and how much its E step changed; recorded once."""
    recipe, slices, run = session.recipe, session.slices, session.run
    labels = slices.layer("labels", recipe.labels_of(index))
    labelled, changed = slices.share(is_labelled, labels), None
    if recipe.steps[index].relabel:
        changed = slices.share(ne, labels, slices.layer("labels", recipe.labels_of(index - 1)))
    if session.leads and not any(_is(r, "relabel", index) for r in run.metrics):
        names = enumerate(session.dataset.label_names)
        record = {"event": "relabel", "recursion": index, "labelled": labelled}
        record["per_label"] = {name: slices.share(partial(eq, value), labels) for value, name in names}
        run.log(record if changed is None else {**record, "changed": changed})
    return {"labels": labels, "labelled": labelled, "changed": changed}


def _continue(run: Run, steps: int) -> None:
    """Make a run ready to go on, after which it is as if it had never done more than what is there of it."""
    missing = [index for index in range(steps) if not run.network(index).exists()]
    run.forget_beyond({index: settle_checkpoint(run.checkpoint(index)) for index in missing})
