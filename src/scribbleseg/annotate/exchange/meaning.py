"""What the values in a drawing mean: by the names that the file carries, else by the values that are declared."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scribbleseg.annotate.exchange.drawings import Strokes
from scribbleseg.annotate.exchange.programs import PROGRAMS
from scribbleseg.data.encoding import Encoding, declared_encoding, read_declaration
from scribbleseg.data.formats import Segment
from scribbleseg.files import FileError
from scribbleseg.plural import number_of
from scribbleseg.types import UNLABELLED, DataError, Labels


@dataclass(frozen=True)
class Meaning:
    """What the values in the drawings of one folder mean.

    Args:
        labels: the labels of the data set, by their names.
        values: the label of each declared value, where a file carries no names.
        declared: the file that declares these.
        own: whether that file describes these very drawings, and not the data set that they are brought to.
        place: the dataset.json that describes these drawings, or that may be written to.
        program: the program that was named, or None.
    """

    labels: Encoding
    values: Mapping[int, int]
    declared: Path
    own: bool
    place: Path
    program: str | None

    def table(self, strokes: Strokes, names: Mapping[int, str] | None) -> dict[tuple[int, int], int]:
        """The label, or UNLABELLED, of each layer and value in a drawing.

        Args:
            strokes: the drawing.
            names: the names of a label description of ITK-SNAP, if there is one.

        Raises:
            FileError: values that nobody named or declared, or that could mean two things.
        """
        segments = strokes.segments
        if segments is None and names is not None:
            segments = tuple(Segment(name, value) for value, name in names.items())
        present = [(at, int(value)) for at, layer in enumerate(strokes.layers) for value in np.unique(layer)]
        zero = self._zero(strokes.path, segments is not None)
        table = {(at, value): zero for at, value in present if value == 0}
        drawn = [key for key in present if key[1] != 0]
        by_name = {(each.layer, each.value): each.name for each in segments or ()}
        known = {key: label for key in drawn if (label := self.labels.label(by_name.get(key, ""))) is not None}
        if len(known) == len(drawn):
            return table | known
        values = {key: self.values[key[1]] for key in drawn if key[1] in self.values}
        if len(values) < len(drawn) or any(values[key] != label for key, label in known.items()):
            raise self._undeclared(strokes, drawn, by_name)
        if UNLABELLED in values.values() and self.values.get(0) == 0 and zero == UNLABELLED:
            raise self._background_or_ignore(strokes.path)
        return table | values

    def _zero(self, path: Path, named: bool) -> int:
        """The label of value 0: UNLABELLED in drawing programs, else what is declared for these very drawings.

        Args:
            path: the drawing.
            named: whether it carries the names of its labels, which drawing programs write, and leave 0 where nothing
                was drawn.

        Raises:
            FileError: nobody has said which of the two it is.
        """
        declared = self.values.get(0, UNLABELLED)
        if named or declared == UNLABELLED or (self.program is not None and PROGRAMS[self.program].nothing):
            return UNLABELLED
        if self.program is None and not self.own:
            raise FileError(
                path,
                f"expected to know what value 0 means here, which could be nothing drawn, or "
                f"{self.labels.label_names[declared]} as {self.declared} declares",
                f"name the program that it was drawn in with --from ({', '.join(PROGRAMS)})",
            )
        return declared

    def _background_or_ignore(self, path: Path) -> FileError:
        """The error about a value that is declared as "ignore" and may well be what background was drawn with."""
        ignore = next(value for value, label in self.values.items() if label == UNLABELLED)
        structures = {
            self.labels.label_names[label]: value
            for value, label in self.values.items()
            if label not in (0, UNLABELLED)
        }
        example = json.dumps({"labels": {"ignore": 0, "background": ignore, **structures}})
        return FileError(
            path,
            f"expected background in a value of its own, as 0 is nothing drawn here, found {ignore}, which "
            f"{self.declared} declares as ignore",
            f"if it is background, say so in {self.place}: {example}",
        )

    def _undeclared(
        self, strokes: Strokes, drawn: list[tuple[int, int]], by_name: Mapping[tuple[int, int], str]
    ) -> FileError:
        found = [
            f"{by_name.get((layer, value), 'value')} {value} "
            f"({number_of(int(np.count_nonzero(strokes.layers[layer] == value)), 'voxel')})"
            for layer, value in drawn
        ]
        values = ", ".join(
            f"{value} {'unlabelled' if label == UNLABELLED else self.labels.label_names[label]}"
            for value, label in sorted(self.values.items())
        )
        return FileError(
            strokes.path,
            f"expected labels named {', '.join((*self.labels.label_names, 'ignore'))}, or the values {values} of "
            f"{self.declared}, found {', '.join(found)}",
            f"rename the labels in the program, or say what these values mean in {self.place}",
        )


def meaning_in(folder: Path, encoding: Encoding, declared: Path, program: str | None) -> Meaning:
    """What the values in a folder of drawings mean: by its own dataset.json, or else as in the data set.

    Args:
        folder: the folder of drawings.
        encoding: the labels of the data set, and their values.
        declared: the file that declares these, or the data set's folder.
        program: the program that was named, or None.

    Raises:
        DataError: other labels than the data set's, or a declaration that contradicts the program.
    """
    file = folder / "dataset.json"
    if not file.is_file():
        return Meaning(encoding, encoding.labels, declared, False, file, program)
    own = declared_encoding(file, read_declaration(file)["labels"])
    strangers = [name for name in own.label_names if encoding.label(name) is None]
    if strangers:
        raise DataError(
            f"{file}: expected the labels {', '.join(encoding.label_names)} of {declared}, found "
            f"{', '.join(strangers)}; rename them, or give the data set that the drawings belong to"
        )
    values = {
        value: UNLABELLED if label == UNLABELLED else int(encoding.label(own.label_names[label]) or 0)
        for value, label in own.labels.items()
    }
    if program is not None and PROGRAMS[program].nothing and values.get(0, UNLABELLED) != UNLABELLED:
        raise DataError(
            f'{file}: expected "ignore": 0, as {PROGRAMS[program].title} leaves 0 where nothing was drawn, found '
            f"{own}; declare the value of background strokes, or give --from nnunet where 0 was painted"
        )
    return Meaning(encoding, values, file, True, file, program)


def merged(layers: np.ndarray, table: Mapping[tuple[int, int], int]) -> tuple[Labels, int]:
    """Merges layers into labels: UNLABELLED where nothing was drawn, and where layers contradict each other.

    Args:
        layers: values, `layer depth height width`.
        table: the label of each layer and value.

    Returns:
        Labels, `depth height width`, and the number of voxels that were drawn in different labels.
    """
    labels = np.full(layers.shape[1:], UNLABELLED, np.uint8)
    contradicted = np.zeros(labels.shape, bool)
    for at, layer in enumerate(layers):
        for value in np.unique(layer):
            label = table.get((at, int(value)), UNLABELLED)
            if label == UNLABELLED:
                continue
            here = layer == value
            contradicted |= here & (labels != UNLABELLED) & (labels != label)
            labels[here] = label
    labels[contradicted] = UNLABELLED
    return labels, int(contradicted.sum())
