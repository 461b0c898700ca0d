"""Writes the scribbles of a data set for a drawing program, and brings drawings back as scribbles of a data set."""

import json
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scribbleseg.annotate.exchange.drawings import Folder, find_drawings, read_strokes
from scribbleseg.annotate.exchange.grids import on_grid
from scribbleseg.annotate.exchange.headers import snap_description
from scribbleseg.annotate.exchange.meaning import Meaning, meaning_in, merged
from scribbleseg.annotate.exchange.programs import PROGRAMS, Program
from scribbleseg.data import coarse, images, open_dataset
from scribbleseg.data.encoding import Encoding, declared, declared_encoding, in_values, read_declaration
from scribbleseg.data.formats import label_ending, volumes_in, write_labels
from scribbleseg.data.layouts import recognise
from scribbleseg.files import FileError, first_of
from scribbleseg.plural import number_of
from scribbleseg.progress import track
from scribbleseg.types import UNLABELLED, DataError, Dataset, Geometry, Labels

IMAGES = ("", "images", "masks", "imagesTr", "imagesTs", "labelsTs", "masksTr")
"""The folders of a data set that hold no scribbles."""


@dataclass(frozen=True)
class Converted:
    """What was converted.

    Args:
        names: the cases that were written.
        folder: where they are.
        notes: what a person should know: files that belong to no case, drawings without background, and the like.
    """

    names: tuple[str, ...]
    folder: Path
    notes: tuple[str, ...] = ()


def export_scribbles(dataset: Dataset, out: str | Path, program: str, overwrite: bool = False) -> Converted:
    """Writes the scribbles of the training cases for a drawing program.

        CASE.ending       the scribbles; structures have the values 1, 2, ..., background the next, and 0 is nothing
                          drawn. For nnU-Net, in labelsTr/: 0 is background, and the highest value nothing drawn
        dataset.json      what the values mean; `import_drawings` reads it
        labels.txt        for ITK-SNAP: a label description, with names and colours

    Args:
        dataset: the data set.
        out: a folder; may be absent.
        program: a name in `PROGRAMS`.
        overwrite: whether files of the same names there are replaced.

    Raises:
        DataError: no scribbles, an unknown program, files that are there already, a case that cannot be read, or a
            file that cannot be written. Nothing is then changed.
    """
    kind, out, seen = _program(program), Path(out), coarse(dataset)
    names = seen.label_names
    values = declared(names) if not kind.nothing else {name: at for at, name in enumerate(names[1:], start=1)}
    if kind.nothing:
        values |= {"background": len(names), "ignore": 0}
    shown = {name: value for name, value in values.items() if name != "ignore"}
    place = out if kind.nothing else out / "labelsTr"
    _refuse_existing(place, dataset.train.names, lambda name: kind.ending(dataset.train.geometry(name)), overwrite)
    written, empty, n_channels, suffix = [], [], 1, ""
    with _Together(out) as together:
        for name in track(dataset.train.names, "Scribbles"):
            case = seen.train.named(name)
            _refuse_place(place, (file.parent for file in case.files))
            if (case.scribbles == UNLABELLED).all():
                empty.append(name)
                continue
            suffix = kind.ending(case.geometry)
            file = together.file(place / f"{name}{suffix}")
            kind.write(file, in_values(case.scribbles, names, values), case.geometry, shown)
            n_channels = len(case.image)
            written.append(name)
        if not written:
            raise DataError(f"{dataset.root}: expected scribbles to convert, found none; draw some first")
        plain: dict[str, Any] = {"labels": values}
        if not kind.nothing:
            plain = {"channel_names": {str(n): f"channel {n}" for n in range(n_channels)}, **plain}
            plain |= {"numTraining": len(written), "file_ending": suffix}
        together.text(out / "dataset.json", json.dumps(plain, indent=2) + "\n")
        if program == "itksnap":
            together.text(out / "labels.txt", snap_description(shown))
    notes = [f"nothing is drawn in {first_of(empty)}"] if empty else []
    return Converted(tuple(written), out, tuple(notes))


def import_drawings(
    folder: str | Path,
    out: str | Path,
    data: str | Path,
    *,
    program: str | None = None,
    format: str | None = None,
    overwrite: bool = False,
) -> Converted:
    """Brings drawings of any program to the images of a data set, as scribbles with the data set's own values.

    Labels are told by the names that a file carries (3D Slicer, MITK, ITK-SNAP with a label description beside it),
    else by the values in the folder's own dataset.json, else by the data set's. Where layers contradict each other,
    voxels are unlabelled.

    Args:
        folder: the drawings, named like their cases (see `find_drawings`).
        out: the folder for CASE.nii.gz (.png for pictures): the data set's own `scribbles`, or another, which gets a
            dataset.json and can be given to `open_dataset(..., scribbles=out)`.
        data: the data set, or a folder of images.
        program: a name in `PROGRAMS`, where neither files nor declarations say whether 0 is nothing drawn.
        format: the data set's layout; None recognises it.
        overwrite: whether scribbles of the same names in `out` are replaced.

    Raises:
        DataError: no drawing of any case, grids that differ, values that nobody declared, or scribbles that are there
            already: one line for each file that is wrong. Nothing is then changed.
    """
    folder, out, data = Path(folder), Path(out), Path(data)
    if program is not None:
        _program(program)
    target = _target(data, folder, format)
    drawings = find_drawings(folder, target.geometries)
    own = out.resolve() in (data.resolve() / "scribbles", data.resolve() / "labelsTr")
    values = _values(target, own)
    meaning = meaning_in(folder, target.encoding, target.declared, program)
    _refuse_place(out, (folder, folder / "labelsTr", *(data / part for part in IMAGES)))
    _refuse_existing(out, drawings.files, lambda name: label_ending(target.geometries[name]()), overwrite)
    faults: list[str] = []
    drawn: dict[str, tuple[frozenset[int], int]] = {}
    with _Together(out) as together:
        for name, file in track(drawings.files.items(), "Drawings"):
            try:
                geometry = target.geometries[name]()
                labels, contradicted = _labels(file, name, geometry, meaning, drawings)
            except DataError as error:
                faults.append(str(error))
                continue
            drawn[name] = frozenset(np.unique(labels).tolist()) - {UNLABELLED}, contradicted
            at = together.file(out / f"{name}{label_ending(geometry)}")
            write_labels(at, in_values(labels, target.encoding.label_names, values), geometry)
        if faults:
            raise DataError("\n".join(faults))
        if not own:
            together.text(out / "dataset.json", json.dumps({"labels": values}, indent=2) + "\n")
    return Converted(tuple(drawn), out, tuple(_notes(drawings, drawn)))


@dataclass(frozen=True)
class _Target:
    """The cases that drawings may belong to, by name with a function for their grid, and what their labels are."""

    geometries: Mapping[str, Callable[[], Geometry]]
    encoding: Encoding
    declared: Path


def _target(data: Path, folder: Path, format: str | None) -> _Target:
    """Opens the data set, or a folder of images without scribbles, which is none yet. Raises DataError."""
    layouts = [format] if format else recognise(data)
    if layouts not in ([], ["folder"]):
        dataset = open_dataset(data, format)
        cases = [(part, name) for part in (dataset.train, dataset.test) for name in part.names]
        geometries = {name: _grid_of(part, name) for part, name in cases}
        own = dataset.scribble_values
        complete = {*own} == {*dataset.label_names, "ignore"}
        values = dict(own) if complete else declared(dataset.label_names)
        file = data / "dataset.json"
        encoding = declared_encoding(file, values)
        return _Target(geometries, encoding, file if file.is_file() else data)
    found = images(data)
    geometries = {name: _grid_of(found, name) for name in found.names}
    there = [place / "dataset.json" for place in (data, folder) if (place / "dataset.json").is_file()]
    if not there:
        raise DataError(
            f"{data / 'dataset.json'}: expected this file to name the labels, found none; write "
            '{"labels": {"background": 0, "NAME": 1, "ignore": 2}} with your names and a value for each'
        )
    encoding = declared_encoding(there[0], read_declaration(there[0])["labels"], needed=("background",))
    return _Target(geometries, encoding, there[0])


def _grid_of(cases: Any, name: str) -> Callable[[], Geometry]:
    return lambda: cases.geometry(name)


def _values(target: _Target, own: bool) -> dict[str, int]:
    """The value of each label in the scribbles that are written, "ignore" included. Raises DataError."""
    names, values = target.encoding.label_names, target.encoding.by_name
    if "ignore" in values:
        return {name: values[name] for name in (*names, "ignore")}
    free = max(values.values()) + 1
    if own:
        raise DataError(
            f'{target.declared}: expected the value of unlabelled voxels in scribbles as "ignore", found none; add '
            f'"ignore": {free} to "labels"'
        )
    return {**values, "ignore": free}


def _labels(file: Path, name: str, geometry: Geometry, meaning: Meaning, drawings: Folder) -> tuple[Labels, int]:
    """The labels of one drawing on the grid of its image, and how many voxels contradict. Raises FileError."""
    strokes = read_strokes(file)
    described = drawings.descriptions.get(name, drawings.descriptions.get(""))
    table = meaning.table(strokes, described)
    boxed = strokes.segments if strokes.cropped else None
    layers = on_grid(file, strokes.layers, strokes.geometry, boxed, (name, geometry))
    if strokes.cropped:
        table = {(at, 0): UNLABELLED for at in range(len(layers))} | table  # around the box
    return merged(layers, table)


def _notes(drawings: Folder, drawn: Mapping[str, tuple[frozenset[int], int]]) -> Iterable[str]:
    if drawings.unmatched:
        yield f"belongs to no case, and was not read: {first_of([path.name for path in drawings.unmatched])}"
    if empty := [name for name, (labels, _) in drawn.items() if not labels]:
        yield f"nothing is drawn in {first_of(empty)}"
    if without := [name for name, (labels, _) in drawn.items() if labels and 0 not in labels]:
        yield f"no background is drawn in {first_of(without)}: value 0 is nothing drawn, and background a label to draw"
    for name, (_, contradicted) in drawn.items():
        if contradicted:
            yield f"{name}: drawn in several labels, and therefore unlabelled: {number_of(int(contradicted), 'voxel')}"


def _program(name: str) -> Program:
    if name not in PROGRAMS:
        raise DataError(f"expected a program among {', '.join(PROGRAMS)}, got {name!r}")
    return PROGRAMS[name]


def _refuse_place(place: Path, read: Iterable[Path]) -> None:
    """Raises DataError where what is written would lie in a folder that is read."""
    if place.resolve() in {folder.resolve() for folder in read}:
        raise DataError(f"{place}: expected a folder that nothing is read from, found one of them; name a new one")


def _refuse_existing(place: Path, names: Iterable[str], ending: Callable[[str], str], overwrite: bool) -> None:
    """Raises DataError where a case has a file already, and it is not to be replaced or has another ending."""
    there = {name: path for name, path in volumes_in(place).items() if name in set(names)}
    if there and not overwrite:
        raise DataError(
            f"{place}: expected no files of these cases, found {first_of([path.name for path in there.values()], 5)}; "
            "name another folder, or replace them with --overwrite"
        )
    for name, path in there.items():
        if path.name != f"{name}{ending(name)}":
            raise FileError(path, f"expected {name}{ending(name)} to replace, found this file", "move it away")


class _Together:
    """Files that are written into a hidden folder and moved to their places when all of them are there."""

    def __init__(self, out: Path) -> None:
        self.out, self.moves = out, dict[Path, Path]()

    def __enter__(self) -> "_Together":
        try:
            self.made = not self.out.exists()
            self.out.mkdir(parents=True, exist_ok=True)
            self.hidden = tempfile.TemporaryDirectory(prefix=".convert-", dir=self.out)
        except OSError as error:
            reason = error.strerror or str(error)
            raise FileError(self.out, f"could not be written: {reason}", "name another folder") from error
        return self

    def file(self, path: Path) -> Path:
        """Where to write a file whose place is `path`."""
        at = Path(self.hidden.name) / str(len(self.moves)) / path.name
        at.parent.mkdir()
        self.moves[at] = path
        return at

    def text(self, path: Path, text: str) -> None:
        """Writes a text, unless it is there already. Raises FileError where another one is."""
        if not path.exists():
            self.file(path).write_text(text, encoding="utf-8")
        elif path.read_text(encoding="utf-8") != text:
            raise FileError(path, "expected this file to say the same, found another one", "name another folder")

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            for at, path in self.moves.items() if error is None else ():
                path.parent.mkdir(parents=True, exist_ok=True)
                at.replace(path)
        finally:
            self.hidden.cleanup()
            if error is not None and self.made:
                with suppress(OSError):
                    self.out.rmdir()
