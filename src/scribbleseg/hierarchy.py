"""Pipeline 2 (Ji et al. 2019): whole tumour from scribbles, clusters inside it, substructures from those, merged."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
from lightning_fabric import Fabric
from pydantic import Field
from rich.progress import track
from torch import nn

from scribbleseg.annotate.simulate import ShiftedSkeleton, Skeleton, simulate, surrounded
from scribbleseg.data import coarse
from scribbleseg.data.slices import Slices, derive_slices, open_slices
from scribbleseg.em import Recipe, Recursion, grow_seeds, load_segmenter, recur, resolve, store_labels
from scribbleseg.relabel.decide import clamp
from scribbleseg.relabel.predict import Segmenter, predict
from scribbleseg.runs import Run, create_run, open_run
from scribbleseg.settings import to_plain
from scribbleseg.substructures.cluster import KMeans
from scribbleseg.substructures.merge import merge
from scribbleseg.train.unet import UNet
from scribbleseg.types import Case, DataError, Dataset, Labels

WHOLE, SUBSTRUCTURES = "whole", "substructures"
"""Of the two phases: fields of the recipe, and folders of the run."""


@dataclass(frozen=True)
class ReferenceMasks:
    """The reference masks in the place of clusters: the paper's row TrueSC (Table 1), and nothing else."""

    kind: Literal["reference_masks"] = "reference_masks"


@dataclass(frozen=True)
class Hierarchy:
    """A row of the lower half of the paper's Table 1, in the pipeline's order.

    Args:
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


@dataclass(frozen=True)
class HierarchySegmenter:
    """The networks of both phases: the first says where the tumour is, the second what it is made of."""

    whole: Segmenter
    substructures: Segmenter

    @property
    def label_names(self) -> tuple[str, ...]:
        """By value, background first."""
        return self.substructures.label_names

    @property
    def channels(self) -> int:
        """Of the images it was trained on."""
        return self.whole.channels

    def segment(self, case: Case) -> Labels:
        """Labels on the case's native grid (`substructures.merge`). Raises DataError for another number of channels."""
        return merge(self.whole.segment(case) > 0, self.substructures.segment(case))


def resolve_hierarchy(recipe: Hierarchy, dataset: Dataset) -> Hierarchy:
    """The recipe with everything set that it leaves to the data.

    Raises:
        DataError: as `em.resolve`, for networks of which the second cannot start from the first, or for a data set
            whose scribbles are not of a region that its structures make up.
    """
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
    _check_present({dataset.train.names[0]: dataset.train[0].present}, dataset)  # the rest once they have been read
    whole = resolve(recipe.whole, coarse(dataset))
    substructures = resolve(replace(recipe.substructures, preprocess=whole.preprocess), dataset)
    first, second = whole.network, substructures.network
    if not (isinstance(first, UNet) and isinstance(second, UNet) and first.base == second.base):
        raise DataError(
            f"recipe fields whole.network, substructures.network: expected U-Nets of one base, got {first} and {second}"
        )
    return replace(recipe, whole=whole, substructures=substructures)


def train_hierarchy(
    recipe: Hierarchy, dataset: Dataset, run: Run, fabric: Fabric, seed: int = 0, workers: int = 1
) -> Iterator[tuple[str, Recursion]]:
    """Train both phases; yields the phase and what it gave after each M step. What the run folder holds is kept.

    Args:
        recipe: resolved (`resolve_hierarchy`).
        dataset: with coarse scribbles and image-level labels.
        run: an existing run folder; the phases are runs inside it.
        fabric: launched.
        seed: as in `em`; also of the k-means.
        workers: processes for the seed areas.

    Raises:
        DataError: for data that cannot be trained on, such as a case without image-level labels.
    """
    whole, parts = (start_phase(recipe, dataset, run, fabric, phase) for phase in (WHOLE, SUBSTRUCTURES))
    seen = coarse(dataset)
    slices = grow_seeds(recipe.whole, seen, whole, fabric, workers)
    _check_present(slices.present, dataset)
    for recursion in recur(recipe.whole, seen, slices, whole, fabric, seed):
        yield WHOLE, recursion
    slices = _divide(recipe, dataset, slices, recursion.segmenter.network, parts, fabric, seed)
    start = whole.network(recursion.index)
    for recursion in recur(recipe.substructures, dataset, slices, parts, fabric, seed, start):
        yield SUBSTRUCTURES, recursion


def start_phase(recipe: Hierarchy, dataset: Dataset, run: Run, fabric: Fabric, phase: str) -> Run:
    """The run of a phase, inside the run of the hierarchy; begun, or as it was left."""
    part = {WHOLE: recipe.whole, SUBSTRUCTURES: recipe.substructures}[phase]
    path = run.path / phase
    if fabric.is_global_zero:
        details = {key: run.details[key] for key in ("seed", "data", "fingerprint")}
        names = coarse(dataset).label_names if phase == WHOLE else dataset.label_names
        create_run(path, to_plain(part), {"name": f"{run.path.name}/{phase}", "label_names": names, **details}, True)
    fabric.barrier()
    return open_run(path)


def load_hierarchy(run: Run, fabric: Fabric, recursion: int | None = None) -> HierarchySegmenter:
    """Both networks, ready to segment; `recursion` is of phase 2. Raises DataError where a phase has not finished."""
    whole, parts = (open_run(run.path / phase) for phase in (WHOLE, SUBSTRUCTURES))
    return HierarchySegmenter(load_segmenter(whole, fabric), load_segmenter(parts, fabric, recursion))


def _check_present(known: Mapping[str, frozenset[int] | None], dataset: Dataset) -> None:
    """Before hours of training: what the clusters will need."""
    if missing := [name for name, present in known.items() if present is None]:
        others = f" and {len(missing) - 1} others" if missing[1:] else ""
        raise DataError(
            f"case {missing[0]}{others}: expected image-level labels, which of {', '.join(dataset.label_names[1:])} "
            "are in it, found none; list the case in present.csv or present.json in the folder of the scribbles, with "
            "nothing for a healthy brain"
        )


def _divide(
    recipe: Hierarchy, dataset: Dataset, slices: Slices, network: nn.Module, run: Run, fabric: Fabric, seed: int
) -> Slices:
    """The cache of phase 2: phase 1's images, the scribbles of the clusters, and the clusters as its labels."""
    cases = list(slices.rows)[fabric.global_rank :: fabric.world_size]
    if not slices.has_labels("clusters"):
        if fabric.is_global_zero:
            slices.writable_labels("clusters")
            slices.writable_labels("cluster_scribbles")
        fabric.barrier()
        clusters, scribbles = (slices.writable_labels(name) for name in ("clusters", "cluster_scribbles"))
        for name in track(cases, "Clusters", disable=not fabric.is_global_zero):
            rows = slices.rows[name]
            clusters[rows], scribbles[rows] = _divide_case(recipe, dataset, slices, network, fabric, seed, name)
        clusters.flush()
        scribbles.flush()
        fabric.barrier()
        if fabric.is_global_zero:
            slices.finish_labels("cluster_scribbles")
            slices.finish_labels("clusters")
    if fabric.is_global_zero:
        derive_slices(slices, slices.labels("cluster_scribbles"), run.slices)
    fabric.barrier()
    divided = open_slices(run.slices)
    if not divided.has_labels("labels_0"):
        labels = ((name, slices.labels("clusters")[slices.rows[name]]) for name in cases)
        store_labels(dataset, divided, run, fabric, 0, labels, recipe.whole.preprocess)
    return divided


def _divide_case(
    recipe: Hierarchy, dataset: Dataset, slices: Slices, network: nn.Module, fabric: Fabric, seed: int, name: str
) -> tuple[Labels, Labels]:
    """What phase 2 learns from on a case: its labels, scribbles included, and the scribbles by themselves."""
    rows = slices.rows[name]
    if isinstance(recipe.clusters, ReferenceMasks):  # native, as somebody would draw them; nothing but the scribbles
        case = dataset.train.named(name)
        drawn = simulate(dataset.reference(name), recipe.scribbles, name, surrounded(case.image))
        scribbles = recipe.whole.preprocess.labels(drawn, case)
        return scribbles, scribbles
    images = np.ascontiguousarray(slices.images[rows].swapaxes(0, 1))
    labels = predict(fabric, network, slices.images[rows]).argmax(axis=1).astype(np.uint8)
    whole = clamp(labels, slices.scribbles[rows]) * (images != 0).any(axis=0)
    present = slices.present[name]
    assert present is not None, "_check_present() first"
    clusters = recipe.clusters(images, whole == 1, present, slices.spacing_mm[name], seed)
    return clusters, simulate(clusters, recipe.scribbles, name, surrounded(images))
