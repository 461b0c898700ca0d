"""Recipes of one network: its parts, the stages of its training, and what is left to the data."""

import logging
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt

from scribbleseg.crf.kernels import in_pixels
from scribbleseg.data import coarse, fully_annotated
from scribbleseg.data.dimensions import Stacks
from scribbleseg.data.preprocess import LARGEST_SIZE, Preprocess
from scribbleseg.relabel.decide import Argmax, Confident, WelchTest
from scribbleseg.relabel.predict import Views
from scribbleseg.relabel.refine import DenseCRF, Identity
from scribbleseg.seeds.graph_cut import GraphCut
from scribbleseg.seeds.random_walker import RandomWalker
from scribbleseg.seeds.strokes import Strokes
from scribbleseg.settings import from_plain, to_plain
from scribbleseg.training.augment import Augment
from scribbleseg.training.crf_rnn import CRFRNN
from scribbleseg.training.loop import Training
from scribbleseg.training.monai_network import MONAINetwork
from scribbleseg.training.network import NetworkModule
from scribbleseg.training.plain_unet import PlainUNet
from scribbleseg.training.unet import UNet
from scribbleseg.types import DataError, Dataset

log = logging.getLogger(__name__)

MADE_BY_RELABELLING = frozenset({"soft", "confidence"})
"""The parts of a batch that exist only after an E step."""

BEFORE_TRAINING = ("annotation", "preprocess", "seeds", "held_out")
"""The fields of a recipe that the cache and the seed areas depend on."""


@dataclass(frozen=True)
class Relabel:
    """An E step: what the network predicts is refined, then decided, and the seeds are put back.

    Args:
        refine: probabilities to probabilities, guided by the image.
        decide: probabilities to labels, UNLABELLED where it abstains.
        only_scribbled: whether connected components of a structure in which no scribble of it lies become UNLABELLED
            (ours).
        clamp: what is put back: the seed "areas", as in Can et al. 2018, section 2.2, or the "scribbles" alone, so that
            what was grown from them can be overruled (ours); but not by a network that does not know the label: areas
            of labels whose own scribbles it does not find in a case stay there (`components.areas_of_lost`).
    """

    refine: Annotated[Identity | DenseCRF, Field(discriminator="kind")] = Identity()
    decide: Annotated[Argmax | Confident | WelchTest, Field(discriminator="kind")] = Argmax()
    only_scribbled: bool = False
    clamp: Literal["areas", "scribbles"] = "areas"


@dataclass(frozen=True)
class Stage(Training):
    """One stretch of training with the network of the stage before, and what happens to the labels first.

    Args:
        relabel: the E step before it: a recursion of Can et al. 2018. None keeps the labels as they are: in the first
            stage these are the seed areas; in a later one it is a fine-tuning on the same labels (Ji et al. 2019).
        restarts: whether the learning-rate schedule and the optimiser start anew. False carries both on from the stage
            before, so that one schedule spans several stages. Without effect in the first stage.
        times: how often the stage is done, relabelling each time. Each is a recursion of its own in the run folder.
    """

    relabel: Relabel | None = None
    restarts: bool = True
    times: Annotated[int, Field(gt=0, le=1000)] = 1


@dataclass(frozen=True)
class Recipe:
    """A row of a paper's table that trains one network, in the pipeline's order.

    Args:
        kind: the pipeline that trains it.
        annotation: "masks" trains on the reference masks, for the fully supervised upper bound and nothing else, and
            "coarse_masks" on the same merged to the labels that the scribbles tell apart.
        preprocess: the grid.
        seeds: what grows scribbles into seed areas.
        network: what is trained.
        augment: what is done to every batch; None is nothing.
        slices: "labelled" trains on all slices that have a label; "structures" on those in whose scribbles, or masks, a
            structure is drawn.
        patch: side in pixels of the window that is cut out of each slice for training, around labelled pixels; None, or
            a side of more than the grid's, trains on whole slices. Relabelling and segmenting see whole slices, in
            overlapping windows of that side (`Views`).
        neighbours: so many slices below and above each slice are further channels of its image (2.5-D); 0 is none.
            For 2-D networks.
        depth: the number of slices in a block, for 3-D networks, which learn from blocks around labelled pixels and see
            overlapping ones; None leaves it to the data (`dimensions.Stacks`).
        stages: one after the other, at least one.
        stop_below: training ends after the first stage before which relabelling changed less than this share of the
            pixels (ours).
        rotations: degrees, for test-time augmentation: where the network relabels or segments, slices are also seen
            rotated by each of them (ours).
        held_out: the share of the drawn slices whose scribbles no training sees; after each M step the network's
            agreement with them is told (ours).
        single_components: whether structures that the training scribbles show to be one connected component keep their
            largest one alone in what the network segments (ours).
    """

    kind: Literal["em"] = "em"
    annotation: Literal["scribbles", "masks", "coarse_masks"] = "scribbles"
    preprocess: Preprocess = Preprocess()
    seeds: Annotated[RandomWalker | GraphCut | Strokes, Field(discriminator="kind")] = RandomWalker()
    network: Annotated[UNet | PlainUNet | CRFRNN | MONAINetwork, Field(discriminator="kind")] = UNet()
    augment: Augment | None = Augment()
    slices: Literal["labelled", "structures"] = "labelled"
    patch: PositiveInt | None = None
    neighbours: Annotated[int, Field(ge=0, le=100)] = 0
    depth: Annotated[int, Field(gt=0, le=LARGEST_SIZE)] | None = None
    stages: tuple[Stage, ...] = (Stage(iterations=12000), Stage(iterations=6000, relabel=Relabel(), times=3))
    stop_below: NonNegativeFloat = 0.001
    rotations: tuple[float, ...] = ()
    held_out: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    single_components: bool = False

    @property
    def steps(self) -> tuple[Stage, ...]:
        """The stages with each repetition by itself: the M steps, by the number of the recursion."""
        return tuple(replace(stage, times=1) for stage in self.stages for _ in range(stage.times))

    @property
    def window(self) -> int:
        """The side in pixels of what the network learns from, once the recipe is fitted to data."""
        size = int(self.preprocess.size or 0)
        return min(self.patch or size, size)

    @property
    def sides(self) -> tuple[int, ...]:
        """The shape of what the network learns from, once the recipe is fitted to data: that of a slice or a block."""
        return (self.window, self.window) if self.depth is None else (self.depth, self.window, self.window)

    @property
    def views(self) -> Views:
        """How the network looks at slices that it relabels or segments, once the recipe is fitted to data."""
        return Views(self.rotations, self.window, self.neighbours, self.depth)

    def build(self, channels: int, labels: int) -> NetworkModule:
        """Its network for images of so many channels, with new weights."""
        return self.network.build(channels * (1 + 2 * self.neighbours), labels)

    @property
    def is_upper_bound(self) -> bool:
        """Whether it trains on full masks, as what the others are compared with."""
        return self.annotation != "scribbles"

    def beginning(self, steps: int) -> "Recipe":
        """The recipe that ends after so many M steps.

        Two recipes with equal beginnings and equal schedules (`schedule`) train alike until there.
        """
        return replace(self, stages=self.steps[:steps])

    def labels_of(self, step: int) -> int:
        """The M step whose labels this one learns from: itself, or the last before it that relabelled."""
        return max((n for n in range(1, step + 1) if self.steps[n].relabel), default=0)

    def needs_of(self, step: int) -> frozenset[str]:
        """What the M steps that learn from the labels of this one need besides labels."""
        learning = [each for n, each in enumerate(self.steps) if self.labels_of(n) == step]
        return frozenset().union(*(each.needs for each in learning)) & MADE_BY_RELABELLING

    def schedule(self, step: int) -> tuple[int, int]:
        """The iterations of the learning-rate schedule before this M step, and of the whole schedule."""
        steps = self.steps
        first = max((n for n in range(1, step + 1) if steps[n].restarts), default=0)
        end = next((n for n in range(step + 1, len(steps)) if steps[n].restarts), len(steps))
        lengths = [each.iterations for each in steps]
        return sum(lengths[first:step]), sum(lengths[first:end])


def begins_as(own: Recipe, done: Recipe, steps: int) -> bool:
    """Whether so many M steps of a recipe are those of another that has done them, and made all that later ones need.

    With 0 steps, whether its seed areas are.
    """
    if not steps:
        return all(getattr(own, name) == getattr(done, name) for name in BEFORE_TRAINING)
    if min(len(own.steps), len(done.steps)) < steps:
        return False
    return own.beginning(steps) == done.beginning(steps) and all(
        own.schedule(n) == done.schedule(n) and own.needs_of(n) <= done.needs_of(n) for n in range(steps)
    )


def seen_by(recipe: Recipe, dataset: Dataset) -> Dataset:
    """The data set as the recipe trains on it: its scribbles in their own labels, or masks in their place."""
    if recipe.annotation == "masks":
        return fully_annotated(dataset)
    return coarse(dataset) if recipe.annotation == "scribbles" else fully_annotated(coarse(dataset))


def resolve(recipe: Recipe, dataset: Dataset) -> Recipe:
    """The recipe with everything set that it leaves to the data. Reads the cases' geometries, and few images.

    Args:
        recipe: the recipe, whose values are checked.
        dataset: as the recipe sees it (`seen_by`).

    Raises:
        DataError: for a value out of its range, stages that cannot follow each other, a slice size that the network
            cannot take, or a test of uncertainty on a network without dropout.
    """
    recipe = from_plain(Recipe, to_plain(recipe))
    _check_stages(recipe)
    _check_dimensions(recipe)
    preprocess = recipe.preprocess.resolve(dataset.train)
    resolved = _in_pixels(replace(recipe, preprocess=preprocess), float(preprocess.spacing_mm or 0))
    resolved = _in_shape(resolved, dataset)
    sides = resolved.sides[-1:] if resolved.depth is None else resolved.sides
    try:
        resolved.network.check_sides(*sides)
        stochastic = resolved.network.has_dropout
        for loss in (loss for step in resolved.steps for loss in step.losses):
            loss.check_sides(*sides)
    except ValueError as error:
        raise DataError(f"recipe fields network, preprocess.size, patch, stages.losses: {error}") from None
    for n, stage in enumerate(recipe.stages):
        if stage.relabel and stage.relabel.decide.passes and not stochastic:
            raise DataError(
                f"recipe field stages.{n}.relabel.decide: {stage.relabel.decide.kind} expects a network with dropout, "
                "got none; set network.dropout (network.unaries.dropout of a CRF-RNN) to 0.5, or decide.kind to argmax"
            )
    return resolved


def _check_stages(recipe: Recipe) -> None:
    """Raises DataError for stages that make no training."""
    if not recipe.stages:
        raise DataError("recipe field stages: expected at least one stage, got none; give one with its iterations")
    if recipe.steps[0].relabel:
        raise DataError(
            "recipe field stages.0.relabel: expected nothing, for there is no network yet, got a relabelling; start "
            "with a stage that learns from the seed areas"
        )
    for n, (before, step) in enumerate(pairwise(recipe.steps), start=1):
        if not step.restarts and step.optimiser.kind != before.optimiser.kind:
            raise DataError(
                f"recipe field stages, recursion {n}: restarts is false, so expected the optimiser of the stage before "
                f"it, {before.optimiser.kind}, got {step.optimiser.kind}; let it restart, or take the same optimiser"
            )
    for n, step in enumerate(recipe.steps):
        if recipe.labels_of(n) == 0 and (missing := step.needs & MADE_BY_RELABELLING):
            kinds = ", ".join(loss.kind for loss in step.losses if loss.needs & missing)
            raise DataError(
                f"recipe field stages, recursion {n}: the loss {kinds} needs {' and '.join(sorted(missing))} labels, "
                "and no stage up to here makes any; give this stage or one before it a relabelling (relabel), or take "
                "another loss"
            )


def _check_dimensions(recipe: Recipe) -> None:
    """Raises DataError for fields that do not go with networks of so many dimensions."""
    kind, dimensions = recipe.network.kind, recipe.network.dimensions
    if recipe.neighbours and (dimensions == 3 or kind == "crf_rnn"):
        reason = "which sees the slices around by itself" if dimensions == 3 else "which compares pixels of one slice"
        raise DataError(
            f"recipe field neighbours: expected 0 with a network {kind} in {dimensions}-D, {reason}, got "
            f"{recipe.neighbours}; set it to 0"
        )
    if recipe.depth is not None and dimensions == 2:
        raise DataError(
            f"recipe field depth: expected none with a network {kind} in 2-D, which sees slices, got {recipe.depth}; "
            "leave it out, or take a 3-D network (network.kind=monai, network.dimensions=3)"
        )


def _in_shape(recipe: Recipe, dataset: Dataset) -> Recipe:
    """The recipe with the depth of its blocks, and its network with what it leaves to their shape."""
    grid = recipe.preprocess
    pixel = float(grid.spacing_mm or 0)
    spacing_mm: tuple[float, ...] = (pixel, pixel)
    if recipe.network.dimensions == 3:
        stacks = Stacks.of(dataset.train, grid)
        spacing_mm = (stacks.distance_mm, *spacing_mm)
        if recipe.depth and stacks.are_exceeded(recipe.depth):
            log.warning(
                "depth: blocks of %s slices are twice as deep as the data, or deeper (half of the cases have at most "
                "%g): most of a block repeats a last slice and teaches nothing. Leave depth out, and blocks fit",
                recipe.depth,
                stacks.slices,
            )
        recipe = replace(recipe, depth=recipe.depth or stacks.block_depth(recipe.window, pixel))
    return replace(recipe, network=recipe.network.fitted(spacing_mm, recipe.sides))


def _in_pixels(part: Any, spacing_mm: float) -> Any:
    """A part of a recipe, and all parts in it, with distances in pixels of this size."""
    if isinstance(part, tuple):
        return tuple(_in_pixels(each, spacing_mm) for each in part)
    if not is_dataclass(part) or isinstance(part, type):
        return part
    inner = {field.name: _in_pixels(getattr(part, field.name), spacing_mm) for field in fields(part)}
    return in_pixels(replace(part, **inner), spacing_mm)
