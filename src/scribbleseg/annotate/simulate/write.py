"""Writes simulated scribbles for a data set, as a folder that data sets can be opened with."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import numpy as np

from scribbleseg.annotate.simulate.draw import shorten, simulate
from scribbleseg.annotate.simulate.rules import Rule, ShiftedSkeleton, Skeleton
from scribbleseg.data import coarse
from scribbleseg.data.brain import surrounded
from scribbleseg.data.drawn_plane import drawn_plane
from scribbleseg.data.encoding import declared, to_disk
from scribbleseg.data.fingerprint import digest_of_files
from scribbleseg.data.formats import label_ending, read_labels, volumes_in, write_labels
from scribbleseg.data.layouts.present import read_present, write_present
from scribbleseg.data.orientation import Turn, common_orientation, turn_to
from scribbleseg.files import FileError, read_json, write_json, write_text
from scribbleseg.progress import track
from scribbleseg.runs import check_outside
from scribbleseg.types import UNLABELLED, Case, DataError, Dataset, Labels

log = logging.getLogger(__name__)

Source = Literal["masks", "scribbles"]
Drawn = Literal["scribbled", "all"]

DRAWN_FROM = "drawn_from.json"
"""The file that says by digests which files each case's scribbles were drawn from."""


def drawn_in(dataset: Dataset, labels: Drawn = "scribbled") -> Dataset:
    """Returns the data set in the labels to draw: those of its own scribbles, or all that its masks have.

    They differ where scribbles are coarser than masks (`Dataset.scribble_names`), as in brain tumours.
    """
    return coarse(dataset) if labels == "scribbled" else dataset


def write_simulation(
    dataset: Dataset, rule: Rule, folder: str | Path, source: Source = "masks", labels: Drawn = "scribbled"
) -> Path:
    """Writes scribbles for all training cases, as a folder that `open_dataset(..., scribbles=folder)` reads.

        dataset.json       the labels; unlabelled voxels are "ignore", the highest value (nnU-Net's convention)
        simulation.json    the rule with its seed, and the source
        present.json       for data sets that score regions: which structures each mask has (image-level labels)
        drawn_from.json    a digest of the files that each case was drawn from
        CASE.nii.gz        one for each case; CASE.png for pictures

    Cases that are there already are passed over, so a run that was killed can be repeated, and so can one with more
    training cases. dataset.json comes last: a folder without it is not complete. `ShiftedSkeleton` draws background in
    what a zero surround leaves of the image (a brain without its skull): in all of it where there is none.

    Args:
        dataset: the data set; it needs reference masks for the source "masks", scribbles for "scribbles".
        rule: how to draw.
        folder: a place that is absent, empty, or has a simulation of the same rule, source and labels.
        source: "masks" to `simulate`, "scribbles" to `shorten` those that the data set has.
        labels: "scribbled" draws in the labels of the data set's own scribbles (see `drawn_in`), "all" on every
            structure of its masks.

    Returns:
        `folder`.

    Raises:
        DataError: the folder holds something else, or is one of the data set or of a run; a case has changed since, or
            cannot be drawn on; "all" is asked for of scribbles that are coarser; scribbles are to be shortened by a
            rule that says where lines run; or a file cannot be written.
    """
    if source == "scribbles" and rule.kind != Skeleton.kind:
        raise DataError(
            f"{dataset.root}: expected a rule that shortens scribbles (full, half, quarter or spots), got {rule.kind}, "
            "whose lines run where masks say; take another rule, or draw on the masks"
        )
    folder = Path(folder)
    _check_folder(folder, dataset)
    if source == "scribbles" and labels == "all" and dataset.scribble_names:
        raise DataError(
            f"{dataset.root}: expected scribbles of {', '.join(dataset.label_names)} to shorten, found scribbles of "
            f'{", ".join(dataset.scribble_names)}; draw on the masks or in the labels "scribbled"'
        )
    seen, shortens = drawn_in(dataset, labels), source == "scribbles"
    values = declared(seen.label_names)
    # Simulations of versions that knew no `every` can be gone on with.
    described = {name: value for name, value in asdict(rule).items() if name != "every" or value != 1}
    with _nothing_left(folder):
        _declare(folder / "simulation.json", {"rule": described, "source": source, "labels": values})
        _draw(dataset, rule, folder, seen, shortens)
    _declare(folder / "dataset.json", {"labels": values})
    return folder


@contextmanager
def _nothing_left(folder: Path) -> Iterator[None]:
    """Takes away what a first try has left that data or the rule refused, so that another one can have the folder.

    What was drawn until the disk was full, or somebody stopped it, stays: the same command goes on with it.
    """
    existed, before = folder.is_dir(), set(folder.glob("*"))
    try:
        yield
    except DataError as error:
        if (folder / "simulation.json") in before or (isinstance(error, FileError) and folder in error.file.parents):
            raise
        for path in set(folder.glob("*")) - before:
            path.unlink()
        if not existed and folder.is_dir():
            folder.rmdir()
        raise


def _draw(dataset: Dataset, rule: Rule, folder: Path, seen: Dataset, shortens: bool) -> None:
    """Draws what is not there yet, and says what it was drawn from and which structures each mask has."""
    cases = dataset.train
    plane = drawn_plane(cases) if shortens else None  # slices are drawn on in the plane that they are trained in
    orientation = common_orientation([cases.geometry(name) for name in cases.names], plane)
    if plane:
        log.warning(
            f"drawn in {plane} slices, as the scribbles were; if `check` does not see that in the short ones, train on "
            f"them with --set preprocess.plane={plane}"
        )
    drawn_from, there = _drawn_from(folder), volumes_in(folder)
    for name in dataset.train.names[:1]:  # a data set without masks is refused before there is a bar
        _expert(dataset.train.named(name)) if shortens else dataset.reference(name)
    for name in track(dataset.train.names, "Scribbles"):
        digest = digest_of_files(dataset.files.get(name, ()))
        if name in there and drawn_from.get(name, digest) == digest:
            continue
        case = dataset.train.named(name)
        turn = turn_to(orientation, case.geometry)
        drawn = turn.back(shorten(turn(_expert(case)), rule, name) if shortens else _drawn(case, seen, rule, turn))
        file = there.get(name) or folder / f"{name}{label_ending(case.geometry)}"
        _write(file, to_disk(drawn, seen.n_labels), case)
        write_json(folder / DRAWN_FROM, drawn_from := drawn_from | {name: digest})
    if dataset.regions and not shortens:
        known = read_present(folder, dataset.label_names) or {}  # cases that train in another fold, too
        if new := {name: _structures(dataset.reference(name)) for name in dataset.train.names if name not in known}:
            write_present(folder / "present.json", known | new, dataset.label_names)


def _drawn(case: Case, dataset: Dataset, rule: Rule, turn: Turn) -> Labels:
    """Returns scribbles on the turned mask of a case."""
    inside = turn(surrounded(case.image)) if isinstance(rule, ShiftedSkeleton) else None
    return simulate(turn(dataset.reference(case.name)), rule, case.name, inside)


def _check_folder(folder: Path, dataset: Dataset) -> None:
    """Raises DataError for a folder of the data set or of a run, or with files that no simulation has written."""
    if (folder / "simulation.json").is_file():
        return
    check_outside(folder, dataset.root)
    there = volumes_in(folder)
    if found := [there[name].name for name in dataset.train.names if name in there]:
        raise DataError(
            f"{folder}: expected an empty folder or one of simulated scribbles, found {found[0]} and no "
            "simulation.json; name another folder"
        )


def _drawn_from(folder: Path) -> dict[str, str]:
    """Returns the digests of the files that scribbles were drawn from; none where earlier versions drew them."""
    file = folder / DRAWN_FROM
    return read_json(file, "delete it") if file.exists() else {}


def _write(file: Path, labels: Labels, case: Case) -> None:
    """Writes the scribbles of a case, or finds the same ones there. Raises FileError where there are others."""
    if not file.is_file():
        write_labels(file, labels, case.geometry)
    elif not np.array_equal(read_labels(file)[0], labels):
        raise FileError(
            file,
            f"expected the scribbles that are drawn on case {case.name}, found others: its image or mask has changed",
            "delete this file to draw it again, or name another folder",
        )


def _structures(mask: Labels) -> frozenset[int]:
    return frozenset(np.unique(mask).tolist()) - {0, UNLABELLED}


def _expert(case: Case) -> Labels:
    if (case.scribbles == UNLABELLED).all():
        raise DataError(f'case {case.name}: expected scribbles to shorten, found none; use the source "masks"')
    return case.scribbles


def _declare(file: Path, description: dict) -> None:
    """Writes a JSON file, or finds the same one there. Raises DataError where it says something else."""
    text = json.dumps(description, indent=2) + "\n"
    if not file.exists():
        write_text(file, text)
    elif file.read_text() != text:
        raise DataError(
            f"{file}: expected {json.dumps(description)}, found another one; name another folder, or delete it"
        )
