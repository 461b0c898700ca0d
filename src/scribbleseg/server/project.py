"""What is drawn on: the images of a data set, what the values of its scribbles mean, and the folder these go to.

A data set in the layouts `folder` and `nnunet` is drawn on in its own files. In every other layout, in full masks, and
for an annotator with a name, scribbles go to a folder of their own inside the data set:

    annotators/NAME/dataset.json       the labels, in nnU-Net's order
    annotators/NAME/CASE.nii.gz        one for each case that was drawn on

`open_dataset(DATA, scribbles="DATA/annotators/NAME")` reads such a folder.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scribbleseg.data.encoding import Encoding, declared, declared_encoding, read_declaration, values_of
from scribbleseg.data.formats import NIFTI, PNG, ending, label_ending, volumes_in
from scribbleseg.data.layouts import open_dataset, recognise
from scribbleseg.data.layouts.folder import folder, image_files
from scribbleseg.files import write_text
from scribbleseg.lock import hold
from scribbleseg.types import DataError, Dataset, Geometry

NAME = re.compile(r"[^\W_][\w .@-]{0,59}")
"""The names that annotators can have: they name a folder."""

MERGED = "+"
"""What joins the names of annotators whose scribbles are merged."""

MOST_STRUCTURES, LONGEST_NAME = 200, 60
"""The structures of a data set that can be named on the page, and the characters of a name."""

LOCKS = ".annotate"
"""The folder in a data set of the locks that keep two servers from drawing in one folder of scribbles."""

WRITTEN = (*NIFTI, PNG)
"""The endings of label maps that can be written."""


@dataclass(frozen=True)
class Project:
    """A data set that is drawn on.

    Args:
        root: its folder.
        images: the files of each image, one a channel, by the name of the case.
        folder: where scribbles go.
        annotator: the name of the person who draws, or "".
        encoding: what the values of scribbles mean; None until somebody has named the structures.
        needs_all: whether each case has a file of scribbles, also where nothing is drawn (nnU-Net's layout).
        own: whether the data set itself is drawn on, and not a folder of one annotator.
        merged: the annotators whose scribbles are merged in the folder; () for none.
    """

    root: Path
    images: Mapping[str, tuple[Path, ...]]
    folder: Path
    annotator: str = ""
    encoding: Encoding | None = None
    needs_all: bool = False
    own: bool = True
    merged: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """The names of the cases, in order."""
        return list(self.images)

    @property
    def label_names(self) -> tuple[str, ...]:
        """The names of the labels, background first; () until somebody has named the structures."""
        return self.encoding.label_names if self.encoding else ()

    def image(self, name: str) -> tuple[Path, ...]:
        """The files of an image. Raises DataError for a link that leads out of the data set."""
        for path in self.images[name]:
            self.check_inside(path)
        return self.images[name]

    def check_inside(self, file: Path) -> None:
        """Raises DataError for a link that leads out of the data set."""
        if not file.resolve().is_relative_to(self.root.resolve()):
            raise DataError(
                f"{file}: expected a file inside of the data set, found a link that leads out of it; copy what it "
                "stands for, or annotate the folder that it lies in"
            )

    def drawn(self) -> dict[str, Path]:
        """The files of scribbles that there are, by case. Raises FileError where a case has two."""
        return volumes_in(self.folder)

    def target(self, name: str, geometry: Geometry) -> Path:
        """The file that the scribbles of a case are written to; where there is one of a format that is, that one."""
        found = self.drawn().get(name)
        if found is not None and ending(found) in WRITTEN:
            return found
        if self.needs_all:
            return self.folder / f"{name}{ending(self.images[name][0])}"
        return self.folder / f"{name}{label_ending(geometry)}"

    def lock(self) -> Path:
        """Has this process alone draw in the folder of the scribbles. Returns the folder of the lock, for its release.

        Raises:
            DataError: another process draws in it, or the data set cannot be written to.
        """
        hold(
            self._lock,
            "scribbles",
            busy="draw on the page that it serves, or end it, or give --annotator NAME for scribbles of your own",
            unwritable="draw in a copy of the data set that you can write to",
        )
        return self._lock

    @property
    def _lock(self) -> Path:
        return self.root / LOCKS / self.folder.relative_to(self.root)

    def check_place(self) -> None:
        """Raises DataError where scribbles, or their lock, would go out of the data set by a link."""
        for place in (self.folder, self._lock):
            if not place.resolve().is_relative_to(self.root.resolve()):
                raise DataError(
                    f"{place}: expected a folder inside of the data set, found a link that leads out of it; take the "
                    "link away"
                )

    def declare(self) -> None:
        """Writes what the values of the scribbles mean, unless it is written already.

        Raises:
            DataError: another page or program has declared other values meanwhile, or it cannot be written.
        """
        assert self.encoding, "name the structures first"
        file = (self.root if self.own else self.folder) / "dataset.json"
        there = read_declaration(file) if file.is_file() else {}
        labels = self.encoding.by_name
        if values_of(file, there.get("labels", {})).items() - labels.items():
            raise DataError(
                f"{file}: expected the labels {', '.join(self.label_names)}, found others, which somebody has declared "
                "since this page was started; end this `scribbleseg annotate` and start it again"
            )
        if there.get("labels") != labels:
            write_text(file, json.dumps({**there, "labels": labels}, indent=2, ensure_ascii=False) + "\n")


def open_project(root: str | Path, annotator: str = "") -> Project:
    """Opens what is drawn on.

    Args:
        root: a data set in any known layout, or a folder that holds nothing but images.
        annotator: the name of the person who draws; "" draws in the data set's own scribbles where it can have any.

    Raises:
        DataError: no images, scribbles whose values are not declared, a name that cannot be a folder's, or a link that
            leads out of the data set.
    """
    if annotator and not NAME.fullmatch(annotator):
        raise DataError(
            f"--annotator: expected letters, digits, spaces, dots, hyphens and underscores, at most 60 and first a "
            f"letter or digit, found {annotator!r}"
        )
    return _opened(Path(root), annotator)


def open_merged(root: str | Path, annotators: Sequence[str]) -> Project:
    """Opens what becomes of the scribbles of several annotators: annotators/ANN+BOB, a name that nobody can have.

    Raises:
        DataError: fewer than two annotators, one of them twice or without a folder, or as `open_project`.
    """
    folder = Path(root) / "annotators"
    there = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    if len({*annotators}) < max(2, len(annotators)) or not {*annotators} <= {*there}:
        raise DataError(
            f"--merge: expected two or more of the annotators {', '.join(there) or '(nobody yet)'} in {folder}, found "
            f"{', '.join(annotators)}; give the option once for each"
        )
    return replace(_opened(Path(root), MERGED.join(annotators)), merged=tuple(annotators))


def open_again(root: str | Path, annotator: str) -> Project:
    """Opens a project by the `annotator` that it says, be it merged or not. Raises DataError."""
    names = annotator.split(MERGED)
    return open_merged(root, names) if len(names) > 1 else open_project(root, annotator)


def _opened(root: Path, annotator: str) -> Project:
    if root.is_dir() and recognise(root) in ([], ["folder"]) and (images := image_files(root, _whole(root))):
        project = _of_images(root, images)
    else:
        project = _of_dataset(root, open_dataset(root))
    if annotator or not project.own:
        project = _of_annotator(project, annotator or "drawn")
    project.check_place()
    return project


def named(project: Project, structures: Sequence[str]) -> Project:
    """Returns the project with its structures named, and writes dataset.json.

    Raises:
        DataError: no names, too many, one twice, one that is too long or not a word for a structure, or the structures
            have been named already.
    """
    if project.encoding is not None:
        raise DataError(f"the structures are named already: {', '.join(project.label_names[1:])}; edit dataset.json")
    names = [" ".join(name.split()) for name in structures]
    if not 1 <= len(names) <= MOST_STRUCTURES:
        raise DataError(f"expected 1 to {MOST_STRUCTURES} structures, found {len(names)}")
    for name in names:
        if not name or len(name) > LONGEST_NAME or not name.isprintable():
            raise DataError(f"expected a name of 1 to {LONGEST_NAME} characters, found {name[:80]!r}")
        if name.casefold() in ("background", "ignore"):
            raise DataError(f"{name}: expected a structure; background and unlabelled are there by themselves")
    if len({name.casefold() for name in names}) < len(names):
        raise DataError("expected each name once; take one of the two away")
    label_names = ("background", *names)
    encoding = declared_encoding(project.root / "dataset.json", declared(label_names))
    if not project.own:
        replace(project, encoding=encoding, own=True).declare()
    declared_here = replace(project, encoding=encoding)
    declared_here.declare()
    return declared_here


def _whole(root: Path) -> list[str]:
    return [*volumes_in(root / "scribbles"), *volumes_in(root / "masks")]


def _of_images(root: Path, images: Mapping[str, tuple[Path, ...]]) -> Project:
    """The project of a folder of images, with or without scribbles."""
    if _whole(root):
        folder(root)  # which refuses what could be misread
    file = root / "dataset.json"
    encoding = _declared(file, read_declaration(file)) if file.is_file() else None
    return Project(root, dict(sorted(images.items())), root / "scribbles", encoding=encoding)


def _declared(file: Path, declaration: Mapping[str, Any]) -> Encoding:
    """What a dataset.json declares; where it has no value for what is unlabelled, for full masks need none, a free one.

    Raises:
        DataError: labels that make no sense.
    """
    labels = values_of(file, declaration["labels"])
    if "ignore" not in labels:
        labels["ignore"] = max(labels.values(), default=0) + 1
    return declared_encoding(file, labels, colours=declaration.get("colors"))


def _of_dataset(root: Path, dataset: Dataset) -> Project:
    """The project of a data set in a layout; only nnU-Net's is drawn on in its own files."""
    names = dataset.scribble_names or dataset.label_names
    folder = root / "labelsTr"
    endings = {ending(files[0]) for files in dataset.train.images.values()}
    if dataset.name == "nnunet" and "ignore" in dataset.scribble_values and endings <= {*WRITTEN}:
        file = root / "dataset.json"
        encoding = _declared(file, read_declaration(file))
        return Project(root, dataset.train.images, folder, encoding=encoding, needs_all=True)
    encoding = declared_encoding(root / "dataset.json", declared(names))
    return Project(root, dataset.train.images, folder, encoding=encoding, own=False)


def _of_annotator(project: Project, annotator: str) -> Project:
    """The same with the scribbles of one annotator, in a folder of their own. Raises DataError for other labels."""
    folder = project.root / "annotators" / annotator
    theirs = replace(project, folder=folder, annotator=annotator, needs_all=False, own=False)
    if not project.encoding:
        return theirs
    file, encoding = folder / "dataset.json", declared_encoding(folder, declared(project.label_names))
    if file.is_file():
        encoding = declared_encoding(file, read_declaration(file)["labels"])
        if encoding.label_names != project.label_names:
            raise DataError(
                f"{file}: expected the labels {', '.join(project.label_names)} of {project.root}, found "
                f"{', '.join(encoding.label_names)}; correct it, or give another --annotator"
            )
    return replace(theirs, encoding=encoding)
