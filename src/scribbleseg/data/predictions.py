"""Label maps that are to be scored: read by what their values are declared to mean, as scribbles and masks are."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scribbleseg.data.drawing import read_drawing
from scribbleseg.data.encoding import Encoding, read_declaration, values_of
from scribbleseg.data.formats import to_rename, volumes_in
from scribbleseg.data.views import coarse, in_labels
from scribbleseg.files import found_at
from scribbleseg.types import UNLABELLED, Case, DataError, Dataset, Labels

MAPS = ("_probabilities", "_uncertainty_p", "_entropy", "_mutual_information")
"""How the names of files end that `predict` writes beside label maps."""


@dataclass(frozen=True)
class Predictions:
    """A folder of label maps of cases of a data set.

    Args:
        folder: where they are.
        dataset: the data set in the labels that they have.
        encoding: what their values mean.
        files: the label map of each case that has one, by the case's name.
        strangers: label maps of what is no case of the data set, by name.
    """

    folder: Path
    dataset: Dataset
    encoding: Encoding
    files: Mapping[str, Path]
    strangers: Mapping[str, Path]

    @property
    def named_strangers(self) -> list[str]:
        """The strangers by name, or which case each probably belongs to and how to rename it."""
        known = {*self.dataset.train.names, *self.dataset.test.names}
        return [to_rename(path, known) or name for name, path in self.strangers.items()]

    def read(self, case: Case) -> Labels:
        """The label map of a case, uint8; what it leaves unlabelled is no structure, and so background.

        Raises:
            DataError: a value that is not declared, another grid than the image's, or a damaged file.
        """
        path = self.files[case.name]
        labels = read_drawing(path, self.encoding, case.files[:1], case.geometry)
        return np.where(labels == UNLABELLED, np.uint8(0), labels)


def open_predictions(folder: str | Path, dataset: Dataset) -> Predictions:
    """Open a folder of label maps, CASE.nii.gz, of cases of a data set.

    Their values are what a dataset.json beside them declares by name, as `predict` and nnU-Net write it; without one
    they are those of the data set's masks. In both, "ignore" may be declared or not.

    Raises:
        DataError: no such folder, no label map of any case, or labels that are not those of the data set.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"{root}: expected a folder of label maps, found {found_at(root)}; give the --out of `predict`")
    seen, encoding = _encoding(root, dataset)
    found = {name: path for name, path in volumes_in(root).items() if not name.endswith(MAPS)}
    known = {*seen.train.names, *seen.test.names}
    files = {name: path for name, path in found.items() if name in known}
    if not files:
        raise DataError(
            f"{root}: expected label maps named like the cases of {dataset.root} ({', '.join(sorted(known)[:3])}, ...)"
            f", found {', '.join(list(found)[:3]) or 'none'}; name them so"
        )
    return Predictions(root, seen, encoding, files, {name: found[name] for name in sorted(found.keys() - known)})


def _encoding(root: Path, dataset: Dataset) -> tuple[Dataset, Encoding]:
    """The data set in the labels of the folder, and what the values in the folder mean."""
    file = root / "dataset.json"
    if not file.is_file():
        remedy = f"write {file} with the values of its labels by name, as `predict` does, or correct the label map"
        return dataset, Encoding(dataset.label_names, dataset.mask_values, remedy, full=True)
    values = values_of(file, read_declaration(file)["labels"])
    names = ("background", *(name for name in values if name not in ("background", "ignore")))
    same = (seen for seen in (dataset, coarse(dataset)) if set(seen.label_names) == set(names))
    seen = next(same, None) or in_labels(dataset, names)  # which says what was expected
    labels = {value: seen.label_names.index(name) for name, value in values.items() if name != "ignore"}
    if 0 not in values.values():
        labels[0] = 0
    if "ignore" in values:
        labels[values["ignore"]] = UNLABELLED
    return seen, Encoding(seen.label_names, labels, f"correct it, or declare the value in {file}", full=True)
