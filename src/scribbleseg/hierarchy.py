"""Pipeline 2 (Ji et al. 2019): whole tumour from scribbles, clusters inside it, substructures from those, merged."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
from lightning_fabric import Fabric
from pydantic import Field
from torch import nn

from scribbleseg import em
from scribbleseg.annotate.simulate import ShiftedSkeleton, Skeleton, simulate
from scribbleseg.data import coarse
from scribbleseg.data.brain import in_brain, surrounded
from scribbleseg.data.slices import derive_slices, open_slices
from scribbleseg.em import Recursion, check_channels, grow_seeds, recur
from scribbleseg.progress import track
from scribbleseg.recipe import Recipe, resolve
from scribbleseg.relabel.decide import clamp
from scribbleseg.relabel.predict import Segmenter, predict
from scribbleseg.runs import Run, open_run
from scribbleseg.session import Session
from scribbleseg.settings import from_plain, to_plain
from scribbleseg.substructures.cluster import KMeans
from scribbleseg.substructures.merge import merge
from scribbleseg.training.network import trial
from scribbleseg.types import UNLABELLED, Case, DataError, Dataset, Labels, Parts, Probabilities
from scribbleseg.weights import load_segmenter

WHOLE, SUBSTRUCTURES = "whole", "substructures"
"""The two phases: fields of the recipe, and folders of the run."""

kind: str = "hierarchy"
phases: tuple[str, ...] = (WHOLE, SUBSTRUCTURES)


@dataclass(frozen=True)
class ReferenceMasks:
    """The reference masks in the place of clusters: the paper's row TrueSC (Table 1), and nothing else."""

    kind: Literal["reference_masks"] = "reference_masks"


@dataclass(frozen=True)
class Hierarchy:
    """A row of the paper's Table 1 that tells the structures of a tumour apart, in the pipeline's order.

    Args:
        kind: the pipeline that trains it.
        whole: phase 1, which learns all structures as one from scribbles (section 2.1).
        clusters: what divides that region of a training case into the structures that its image-level labels name
            (section 2.2).
        scribbles: how the clusters are scribbled, slice by slice.
        substructures: phase 2, which learns from those scribbles and the clusters; it begins with the weights of phase
            1, all but the last layer's. Its grid is that of phase 1, and its own `seeds` are not used.
    """

    whole: Recipe
    clusters: Annotated[KMeans | ReferenceMasks, Field(discriminator="kind")]
    scribbles: Annotated[Skeleton | ShiftedSkeleton, Field(discriminator="kind")]
    substructures: Recipe
    kind: Literal["hierarchy"] = "hierarchy"

    @property
    def is_upper_bound(self) -> bool:
        """Whether it trains on full masks: it never does."""
        return False


@dataclass(frozen=True)
class HierarchySegmenter:
    """The networks of both phases: the first says where the tumour is, the second what it is made of."""

    whole: Segmenter
    substructures: Segmenter

    @property
    def label_names(self) -> tuple[str, ...]:
        """The names of the labels in order of their value, background first."""
        return self.substructures.label_names

    @property
    def channels(self) -> int:
        """The number of channels of the images it was trained on."""
        return self.whole.channels

    def segment(self, case: Case) -> Labels:
        """Labels on the case's native grid (`substructures.merge`). Raises DataError for another number of channels."""
        return self.segment_unmerged(case)[0]

    def segment_unmerged(self, case: Case) -> tuple[Labels, Labels]:
        """The merged labels, and those of phase 2 before the merge, on the case's native grid. Raises DataError."""
        parts = self.substructures.segment(case)
        return merge(self.whole.segment(case) > 0, parts), parts

    def probabilities(self, case: Case) -> Probabilities:
        """Raises DataError: the labels of two networks are merged, and merged labels have no probabilities."""
        raise self._two_networks()

    def parts(self, case: Case) -> Parts:
        """Raises DataError, as `probabilities` does."""
        raise self._two_networks()

    def check_dropout(self) -> None:
        """Raises DataError, as `probabilities` does."""
        raise self._two_networks()

    def _two_networks(self) -> DataError:
        return DataError(
            "expected a run of one network for probabilities and uncertainty, found two whose labels are merged; give "
            f"one of its phases, the folders {WHOLE} and {SUBSTRUCTURES} inside the run"
        )


recipe_type: type = Hierarchy


def fit(recipe: Hierarchy, dataset: Dataset) -> tuple[Hierarchy, Dataset]:
    """The recipe with everything set that it leaves to the data, and the data set.

    Raises:
        DataError: as `recipe.resolve`, for networks of which the second cannot start from the first, or for a data set
            whose scribbles are not of a region that its structures make up.
    """
    recipe = from_plain(Hierarchy, to_plain(recipe))
    if not dataset.scribble_names:
        raise DataError(
            f"{dataset.root}: expected scribbles of all structures as one (such as WT of BraTS) and image-level "
            f"labels, found scribbles of {', '.join(dataset.label_names[1:])}; train on those with another recipe"
        )
    for phase in (recipe.whole, recipe.substructures):
        if phase.annotation != "scribbles":
            raise DataError(
                f"recipe fields whole.annotation, substructures.annotation: expected scribbles, got {phase.annotation}"
                "; a network of all structures learns from masks by itself (ji2019.sub_full)"
            )
    if recipe.substructures.held_out:
        raise DataError(
            f"recipe field substructures.held_out: expected 0, got {recipe.substructures.held_out}; phase 2 learns "
            "from clusters, not from scribbles: set whole.held_out"
        )
    first_case = dataset.train[0]
    if first_case.present is None and (first_case.scribbles == UNLABELLED).all():
        raise DataError(f"{dataset.root}: expected scribbles, found none; give their folder (--scribbles)")
    _check_present({first_case.name: first_case.present}, dataset)  # the rest once they have been read
    whole = resolve(recipe.whole, coarse(dataset))
    substructures = resolve(replace(recipe.substructures, preprocess=whole.preprocess), dataset)
    first, second = trial(whole.build), trial(substructures.build, labels=3)
    try:
        substructures.network.start_from(second, first.state_dict())
    except ValueError as error:
        raise DataError(
            "recipe fields network and neighbours of whole and of substructures: expected networks of which the second "
            f"can start from the first's weights, got {whole.network} and {substructures.network}, with "
            f"{whole.neighbours} and {substructures.neighbours} neighbours: {error}"
        ) from None
    return replace(recipe, whole=whole, substructures=substructures), dataset


def part(session: Session[Hierarchy], phase: str) -> Session[Recipe]:
    """The session of one of the phases, whose run lies inside the hierarchy's."""
    recipes = {WHOLE: session.recipe.whole, SUBSTRUCTURES: session.recipe.substructures}
    dataset = coarse(session.dataset) if phase == WHOLE else session.dataset
    return session.within(phase, recipes[phase], dataset)


def has_done(recipe: Hierarchy, run: Run) -> bool:
    """Whether all that a run has done so far is what this recipe would have done, so that it can go on with it."""
    whole, parts = (Run(run.path / phase) for phase in phases)
    if not (whole.slices / "index.json").exists() or not open_slices(whole.slices).has("labels", "clusters"):
        return em.has_done(recipe.whole, whole)  # phase 2 has not begun
    done = from_plain(Hierarchy, run.recipe)
    return recipe == replace(done, substructures=recipe.substructures) and em.has_done(recipe.substructures, parts)


def load(recipe: Hierarchy, run: Run, fabric: Fabric, recursion: int | None = None) -> HierarchySegmenter:
    """Both networks, ready to segment; `recursion` is of phase 2. Raises DataError where a phase has not finished."""
    whole, parts = (open_run(run.path / phase) for phase in phases)
    return HierarchySegmenter(
        load_segmenter(recipe.whole, whole, fabric), load_segmenter(recipe.substructures, parts, fabric, recursion)
    )


def train(session: Session[Hierarchy]) -> Iterator[Recursion]:
    """Train both phases; yields after each M step. What the run folder holds is kept.

    Raises:
        DataError: for data that cannot be trained on, such as a case without image-level labels.
    """
    whole, parts = (part(session, phase) for phase in phases)
    whole.prepare(whole.recipe.preprocess, whole.recipe.held_out)
    if session.leads:
        for each in (session, parts):
            each.run.add(fingerprint=whole.slices.index["fingerprint"])
    _check_present(whole.slices.present, session.dataset)
    for each in (whole, parts):
        check_channels(each.recipe, whole.slices.channels)
    grow_seeds(whole)
    for recursion in recur(whole, WHOLE):
        yield recursion
    divide(session, whole, parts, recursion.segmenter.network)
    yield from recur(parts, SUBSTRUCTURES, start=whole.run.network(recursion.index))


def _check_present(known: Mapping[str, frozenset[int] | None], dataset: Dataset) -> None:
    """Before hours of training: what the clusters will need."""
    if missing := [name for name, present in known.items() if present is None]:
        others = f" and {len(missing) - 1} others" if missing[1:] else ""
        raise DataError(
            f"case {missing[0]}{others}: expected image-level labels, which of {', '.join(dataset.label_names[1:])} "
            "are in it, found none; list the case in present.csv or present.json in the folder of the scribbles, with "
            "nothing for a healthy brain"
        )


def divide(session: Session[Hierarchy], whole: Session[Recipe], parts: Session[Recipe], network: nn.Module) -> None:
    """Make the cache of phase 2: phase 1's images, the scribbles of the clusters, and the clusters as its labels."""
    slices = whole.slices
    if not slices.has("labels", "clusters"):
        if session.leads:
            for name in ("clusters", "cluster_scribbles"):
                slices.writable("labels", name)
        session.fabric.barrier()
        clusters, scribbles = (slices.writable("labels", name) for name in ("clusters", "cluster_scribbles"))
        for name in track(whole.cases, "Clusters", disable=not session.leads):
            rows = slices.rows[name]
            clusters[rows], scribbles[rows] = divide_case(session, whole, network, name)
        clusters.flush()
        scribbles.flush()
        session.fabric.barrier()
        if session.leads:
            slices.finish("labels", "cluster_scribbles")
            slices.finish("labels", "clusters")
    if session.leads:
        derive_slices(slices, slices.layer("labels", "cluster_scribbles"), parts.run.slices)
    session.fabric.barrier()
    if not parts.slices.has("labels", 0):
        found = slices.layer("labels", "clusters")
        parts.store(0, ((name, {"labels": found[slices.rows[name]]}) for name in whole.cases))


def divide_case(
    session: Session[Hierarchy], whole: Session[Recipe], network: nn.Module, name: str
) -> tuple[Labels, Labels]:
    """What phase 2 learns from on a case: its labels, scribbles included, and the scribbles by themselves."""
    recipe, slices = session.recipe, whole.slices
    rows = slices.rows[name]
    if recipe.clusters.kind == "reference_masks":  # native, as somebody would draw them; nothing but the scribbles
        case = session.dataset.train.named(name)
        turn = whole.recipe.preprocess.turn(case.geometry)
        reference, inside = turn(session.dataset.reference(name)), turn(surrounded(case.image))
        drawn = turn.back(simulate(reference, recipe.scribbles, name, inside))
        scribbles = whole.recipe.preprocess.labels(drawn, case.geometry)
        return scribbles, scribbles
    seen = slices.images(rows)
    images = np.ascontiguousarray(seen.swapaxes(0, 1))
    labels = predict(session.fabric, network, seen, whole.recipe.views).argmax(axis=1).astype(np.uint8)
    tumour = clamp(labels, slices.scribbles[rows]) * in_brain(images)
    present = slices.present[name]
    assert present is not None, "_check_present() first"
    clusters = recipe.clusters(images, tumour == 1, present, slices.spacing_mm[name], session.seed)
    return clusters, simulate(clusters, recipe.scribbles, name, surrounded(images))
