"""Views of a data set: with full masks as scribbles, with coarser labels, or with the scribbles of a folder."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from scribbleseg.data.drawing import read_drawing
from scribbleseg.data.encoding import Encoding, declared_encoding, read_declaration
from scribbleseg.data.formats import to_rename, volumes_in
from scribbleseg.data.layouts.case_files import WITHOUT_SCRIBBLES, CaseError
from scribbleseg.data.layouts.present import read_present
from scribbleseg.files import FileError, found_at
from scribbleseg.plural import number_of
from scribbleseg.types import UNLABELLED, Case, Cases, DataError, Dataset, Labels


def fully_annotated(dataset: Dataset) -> Dataset:
    """Returns the same data set with the reference masks in the place of the training scribbles.

    For the fully supervised upper bound only: this is the one door through which a reference mask reaches training.
    Reading a case without one raises DataError.
    """
    train = dataset.train.read_by(partial(_read_annotated, dataset))
    notes = (*dataset.notes, "trains on full reference masks (upper bound)")
    return replace(dataset, train=train, scribble_names=(), notes=notes)


def coarse(dataset: Dataset) -> Dataset:
    """Returns the data set with the labels that its scribbles tell apart: one region, where they are of a region.

    Reference masks come merged to the same labels. What is said to be in each case stays as it is: of which structures
    the region is made there. A data set whose scribbles name all its labels is given back as it is.
    """
    if not dataset.scribble_names:
        return dataset
    return replace(
        dataset,
        label_names=dataset.scribble_names,
        scribble_names=(),
        regions={},
        read_reference=partial(_read_merged, dataset.read_reference),
        mask_values={value: _merged(label) for value, label in dataset.mask_values.items()},
    )


def with_scribbles(dataset: Dataset, folder: str | Path) -> Dataset:
    """Returns the same data set with the scribbles in a folder in the place of its own.

    The folder is as `annotate.simulate` writes it:

        dataset.json     {"labels": {"background": 0, ..., "ignore": N}}, the names those of the data set, or of
                         background and one region that is made of all structures (the whole tumour)
        CASE.nii.gz      on the grid of the case's image; a training case without one is entirely UNLABELLED
        present.json     optional: which structures are in which case (`data.layouts.present`); or present.csv

    Args:
        dataset: a data set of any layout. `options["scribbles"]` of the result is the folder, to open it again.
        folder: the scribbles. Files that belong to no training case are passed over (other cases train in another
            fold).

    Returns:
        The data set. Its `scribble_names` are the region's where the scribbles are of a region, else (). A training
        case's `present` is None where no file says what is in it.

    Raises:
        DataError: no dataset.json, other labels than the data set's, no file for any training case, or a present file
            that is malformed or lists no training case. Reading a case raises it where values are not declared or grids
            differ.
    """
    root = Path(folder)
    file = root / "dataset.json"
    if not file.is_file():
        what = "a folder without it" if root.is_dir() else found_at(root)
        raise DataError(f"{root}: expected a folder that `scribbleseg simulate` wrote, with dataset.json, found {what}")
    declaration = read_declaration(file)
    encoding = declared_encoding(file, declaration["labels"], colours=declaration.get("colors"))
    scribble_names = _scribble_names(dataset, file, encoding.label_names)
    on_disk = volumes_in(root)
    files = {name: on_disk[name] for name in dataset.train.names if name in on_disk}
    if not files:
        advice = next(filter(None, (to_rename(path, dataset.train.names) for path in on_disk.values())), "")
        raise _of_other_cases(root, "scribbles named like", dataset, on_disk, advice)
    notes = [f"scribbles from {root}: {len(files)} of {number_of(len(dataset.train), 'training case')}"]
    if len(files) < len(dataset.train):
        notes[0] += "; the others have none, and are not trained on"
    notes += _misnamed(root, dataset, on_disk)
    present = read_present(root, dataset.label_names)
    if present is not None:
        n_listed = len(present.keys() & {*dataset.train.names})
        if not n_listed:
            raise _of_other_cases(root, "a present file that lists", dataset, present)
        notes.append(f"image-level labels from {root}: {n_listed} of {number_of(len(dataset.train), 'training case')}")
        if strangers := sorted(present.keys() - {*dataset.train.names, *dataset.test.names}):
            notes.append(f"image-level labels of what is no case of {dataset.root}: {', '.join(strangers)}")
    elif scribble_names:
        notes.append(f"no present.csv or present.json in {root}: recipes of two phases (ji2019.full) need one")
    read = partial(_read_scribbled, dataset.train, files, encoding, present)
    return replace(
        replace(dataset, train=dataset.train.read_by(read), files=_with_files(dataset, root, files)),
        scribble_names=scribble_names,
        scribble_values=encoding.by_name,
        notes=(*(note for note in dataset.notes if note != WITHOUT_SCRIBBLES), *notes),
        options={**dataset.options, "scribbles": str(root.resolve())},
        undrawn=(),
    )


def _misnamed(root: Path, dataset: Dataset, on_disk: Mapping[str, Path]) -> list[str]:
    """Returns notes of files that are named like no case, where one may be meant."""
    known = {*dataset.train.names, *dataset.test.names}
    advice = (to_rename(path, known) for name, path in on_disk.items() if name not in known)
    return [f"not read in {root}: {each}" for each in advice if each]


def _with_files(dataset: Dataset, root: Path, scribbles: Mapping[str, Path]) -> dict[str, tuple[Path, ...]]:
    """Returns the files of each case, with those of a folder of scribbles."""
    declared = [file for name in ("dataset.json", "present.json", "present.csv") if (file := root / name).is_file()]
    added = {name: (*([scribbles[name]] if name in scribbles else []), *declared) for name in dataset.train.names}
    return {name: (*files, *added.get(name, ())) for name, files in dataset.files.items()}


def _read_annotated(dataset: Dataset, name: str) -> Case:
    mask = dataset.read_reference(name)
    if mask is None:
        raise DataError(
            f"case {name}: expected a reference mask, for this recipe trains on full masks, found none in "
            f"{dataset.root}; take a recipe that trains on scribbles, or add masks"
        )
    return replace(dataset.train.named(name), scribbles=mask)


def _read_merged(read_reference: Callable[[str], Labels | None], name: str) -> Labels | None:
    labels = read_reference(name)
    return None if labels is None else np.array([_merged(label) for label in range(256)], np.uint8)[labels]


def _merged(label: int) -> int:
    return label if label in (0, UNLABELLED) else 1


def _scribble_names(dataset: Dataset, file: Path, names: tuple[str, ...]) -> tuple[str, ...]:
    """Returns () where the labels of scribbles are the data set's, and the labels where they are of a whole region."""
    structures = set(range(1, dataset.n_labels))
    whole = [("background", name) for name, labels in dataset.regions.items() if set(labels) == structures]
    if names == dataset.label_names:
        return ()
    if names in whole:
        return names
    expected = " or ".join(", ".join(labels) for labels in (dataset.label_names, *whole))
    raise DataError(
        f"{file}: expected the labels {expected} of {dataset.root}, found {', '.join(names)}; give the scribbles that "
        "belong to this data set"
    )


def _of_other_cases(root: Path, what: str, dataset: Dataset, found: Iterable[str], advice: str = "") -> DataError:
    return DataError(
        f"{root}: expected {what} the training cases ({', '.join(dataset.train.names[:3])}, ...), found "
        f"{', '.join(list(found)[:3]) or 'none'}; {advice or 'give the folder that was made for them'}"
    )


def _read_scribbled(
    cases: Cases,
    files: Mapping[str, Path],
    encoding: Encoding,
    present: Mapping[str, frozenset[int]] | None,
    name: str,
) -> Case:
    case = cases.named(name)
    if present is not None:
        case = replace(case, present=present.get(name))
    images = cases.images.get(name, case.files)  # without the scribbles that are not meant
    if name not in files:
        return replace(case, scribbles=np.full_like(case.scribbles, UNLABELLED), files=images)
    try:
        scribbles = read_drawing(files[name], encoding, case.files[:1], case.geometry)
    except FileError as error:
        raise CaseError(name, [error]) from error
    return replace(case, scribbles=scribbles, files=(*images, files[name]))


def in_labels(dataset: Dataset, label_names: Sequence[str]) -> Dataset:
    """Returns the data set in these labels: all that its masks have, or those that its scribbles tell apart.

    Raises:
        DataError: neither are these.
    """
    for seen in (dataset, coarse(dataset)):
        if seen.label_names == tuple(label_names):
            return seen
    raise DataError(
        f"{dataset.root}: expected a data set of the labels {', '.join(label_names)}, found one of "
        f"{', '.join(dataset.label_names)}; give the data set that belongs to them"
    )
