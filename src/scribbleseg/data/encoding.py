"""What the values in a label file mean, and how labels are written to disk.

Label maps on disk follow nnU-Net: 0 background, 1, 2, ... structures, and the highest value "ignore", which is what
UNLABELLED is in memory. `declared` and `to_disk` write this; `declared_encoding` reads it, and any other numbering that
a dataset.json declares.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer

from scribbleseg.data.colours import declared_colours
from scribbleseg.files import FileError, parsed
from scribbleseg.plural import number_of
from scribbleseg.types import UNLABELLED, DataError, Labels

INTEGERS = (np.uint8, np.uint16, np.int16, np.int32)
"""The types that label maps are written in, the first that holds all values."""


@dataclass(frozen=True)
class Encoding:
    """A table of what the values in a label file mean.

    Args:
        label_names: the name of each label; `label_names[0]` is "background".
        labels: file value -> label, or UNLABELLED.
        remedy: what to do about a file with another value.
        colours: 256 * (256 * red + green) + blue -> label, or UNLABELLED, where drawings are read by their colours.
        full: whether the files are full masks, in which background is what nobody drew.
    """

    label_names: tuple[str, ...]
    labels: Mapping[int, int]
    remedy: str = "correct the file, or declare the value where the data set's labels are declared"
    colours: Mapping[int, int] = field(default_factory=dict)
    full: bool = False

    @property
    def of_references(self) -> "Encoding":
        """The encoding of full masks: 0 is background in them unless it is a structure.

        Another value that means "ignore" keeps its meaning: nobody knows what is there, and nothing there is scored.
        """
        zero = self.labels.get(0, 0)
        return replace(self, labels={**self.labels, 0: 0 if zero == UNLABELLED else zero}, full=True)

    @property
    def by_name(self) -> dict[str, int]:
        """A value for each name, "ignore" included; where several mean the same, the first of them."""
        values: dict[str, int] = {}
        for value, label in self.labels.items():
            values.setdefault("ignore" if label == UNLABELLED else self.label_names[label], value)
        return values

    def label(self, name: str) -> int | None:
        """The label of that name, or UNLABELLED for "ignore"; None for the name of none. Capitals are as good."""
        names = {"ignore": UNLABELLED, **{each: n for n, each in enumerate(self.label_names)}}
        alike = {each.casefold(): label for each, label in names.items()}
        return names.get(name.strip(), alike.get(name.strip().casefold()))

    def decode(self, path: Path, values: Integer[np.ndarray, "*space"]) -> Labels:
        """Turns file values into labels. Raises FileError naming each value that was not declared."""
        found, counts = np.unique(values, return_counts=True)
        numbers = zip(found, counts, strict=True)
        undeclared = [f"{v} ({number_of(int(n), 'voxel')})" for v, n in numbers if int(v) not in self.labels]
        if undeclared:
            raise FileError(
                path,
                f"expected the values {self}, found {', '.join(undeclared[:8])}{', ...' if undeclared[8:] else ''}",
                self.remedy,
            )
        labels = np.empty(values.shape, np.uint8)
        for value in found:  # few; np.unique's inverse would take 16 bytes a voxel
            labels[values == value] = self.labels[int(value)]
        return labels

    def __str__(self) -> str:
        names = {UNLABELLED: "unlabelled", **dict(enumerate(self.label_names))}
        return ", ".join(f"{value} {names[label]}" for value, label in sorted(self.labels.items()))


def declared(label_names: Sequence[str]) -> dict[str, int]:
    """Returns the value of each label on disk by name, "ignore" included: the "labels" of a dataset.json.

    Args:
        label_names: the name of each label; `label_names[0]` is "background".
    """
    return {name: value for value, name in enumerate((*label_names, "ignore"))}


def to_disk(labels: Labels, n_labels: int) -> Labels:
    """Returns a copy of the labels in which UNLABELLED is `n_labels`, the value that `declared` calls "ignore"."""
    return np.where(labels == UNLABELLED, np.uint8(n_labels), labels)


def in_values(labels: Labels, label_names: Sequence[str], values: Mapping[str, int]) -> Integer[np.ndarray, "*space"]:
    """Returns the labels in other values, in the smallest integer type that holds them all.

    Args:
        labels: labels by number, and UNLABELLED.
        label_names: the name of each number.
        values: the value of each name, and of "ignore".
    """
    low, high = min(values.values()), max(values.values())
    fits = (kind for kind in INTEGERS if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max)
    table = np.zeros(UNLABELLED + 1, next(fits, np.int64))
    table[: len(label_names)] = [values[name] for name in label_names]
    table[UNLABELLED] = values["ignore"]
    return table[labels]


def read_declaration(file: Path) -> dict[str, Any]:
    """Reads the JSON object in a dataset.json. Raises DataError where it is not one or has no "labels"."""
    try:
        declaration = parsed(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: expected a JSON object, could not read it ({error}); correct it") from error
    if not isinstance(declaration, dict) or not isinstance(declaration.get("labels"), dict):
        raise DataError(f'{file}: expected an object with "labels": {{"background": 0, ...}}; add it')
    return declaration


def values_of(file: Path, labels: Mapping[str, Any]) -> dict[str, int]:
    """The value of each name in a declaration. Raises DataError where one is no whole number or stands twice."""
    for name, value in labels.items():
        if not isinstance(value, int) or isinstance(value, bool):
            hint = " (regions of several labels are not supported)" if isinstance(value, list) else ""
            raise DataError(f'{file}: expected a whole number for the label "{name}", found {value!r}{hint}; write one')
    if twice := [value for value, count in Counter(labels.values()).items() if count > 1]:
        raise DataError(f"{file}: expected a value of its own for each label, found {twice} twice; correct it")
    return dict(labels)


def declared_encoding(
    file: Path, labels: Mapping[str, Any], needed: Sequence[str] = ("background", "ignore"), colours: Any = None
) -> Encoding:
    """Returns the encoding that `{"background": 0, "RV": 1, ..., "ignore": 4}` declares.

    Args:
        file: the file that declares it, for messages.
        labels: the value of each name.
        needed: names that must be among them; full masks need no "ignore".
        colours: the colour of each name, such as `{"RV": "#ff0000"}`, where drawings are read by colour.

    Raises:
        DataError: a value is not a whole number or stands twice, background, ignore or any structure is missing, or
            colours that make no sense.
    """
    labels = values_of(file, labels)
    for name in needed:
        if name not in labels:
            raise DataError(f'{file}: expected "{name}" among the labels, found {", ".join(labels)}; declare its value')
    structures = sorted((value, name) for name, value in labels.items() if name not in ("background", "ignore"))
    if not structures:
        raise DataError(f"{file}: expected at least one structure among the labels, found only background and ignore")
    if len(structures) >= UNLABELLED:
        raise DataError(
            f"{file}: expected at most {UNLABELLED - 1} structures, found {len(structures)}; split the data set, or "
            "give several structures one value"
        )
    values = {labels["background"]: 0} | {value: label for label, (value, _) in enumerate(structures, start=1)}
    if "ignore" in labels:
        values[labels["ignore"]] = UNLABELLED
    names = ("background", *(name for _, name in structures))
    return Encoding(names, values, colours={} if colours is None else declared_colours(file, names, colours))
