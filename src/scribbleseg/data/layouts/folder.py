"""Your own data: a folder of images and a folder of same-named scribbles, NIfTI, NRRD, MetaImage or pictures.

    images/CASE.nii.gz       or, with several channels, images/CASE_0000.nii.gz, images/CASE_0001.nii.gz, ...
    scribbles/CASE.nii.gz    a case with scribbles is trained on; a case without is a test case
    masks/CASE.nii.gz        optional: full reference masks, for evaluation, and to simulate scribbles from
    dataset.json             {"labels": {"background": 0, "liver": 1, "tumour": 2, "ignore": 3}}

An image may also be a folder that holds one DICOM series, images/CASE/*.dcm. Where there is no images/, images are what
lies beside dataset.json.

Scribbles and masks may be segmentations of 3D Slicer, CASE.seg.nrrd, whose segments have the names of labels. PNG and
TIFF files in colours are read by `"colors": {"liver": "#ff0000", ...}` in dataset.json, beside "labels".

Without scribbles/, cases with masks are the training cases, entirely UNLABELLED until a folder of simulated scribbles
is given; "ignore" is then not needed.

`ignore` (nnU-Net's word) is the value of the voxels that nobody has labelled; it may be any value, 0 included, and so
may background. It has to be declared: in many drawing tools 0 is "nothing drawn here", in label maps it is background,
and a program that guesses wrong trains a network that paints everything. In masks/ the structures have the same values
and 0 is background.
"""

import json
import logging
import re
import shlex
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from scribbleseg.data.encoding import Encoding, declared_encoding, read_declaration
from scribbleseg.data.formats import (
    IMAGE_ENDINGS,
    LABEL_ENDINGS,
    SEGMENTS,
    ending,
    read_labels,
    read_segments,
    series_in,
    stem,
    to_rename,
    unread_in,
    volumes_in,
)
from scribbleseg.data.layouts.case_files import (
    WITHOUT_SCRIBBLES,
    CaseFiles,
    cases,
    dataset,
    masks_without_image,
    misnamed,
)
from scribbleseg.files import FileError, first_of
from scribbleseg.plural import number_of
from scribbleseg.types import Cases, DataError, Dataset

log = logging.getLogger(__name__)

CHANNEL = re.compile(r"(.+)_(\d{4})")


def folder(folder: str | Path) -> Dataset:
    """Opens the data set in a folder of the layout above.

    Returns:
        Labels numbered 0 = background, then the structures in the order of their declared values, whatever those are.

    Raises:
        DataError: the layout is another one, or the labels are not declared; the message says what to write.
    """
    return drawn_elsewhere(folder, ())


def drawn_elsewhere(folder: str | Path, drawn: Collection[str]) -> Dataset:
    """Opens the data set whose scribbles, or some of them, are in another folder (`data.views.with_scribbles`).

    Args:
        folder: its folder, which then needs neither scribbles/ nor masks/.
        drawn: the cases that have scribbles there. They are training cases, entirely UNLABELLED where the data set has
            no scribbles for them itself.

    Raises:
        DataError: as `folder`.
    """
    root = Path(folder)
    _check_misplaced(root / "images")
    scribbles, masks = (volumes_in(root / name) for name in ("scribbles", "masks"))
    images = image_files(root, whole_names={*scribbles, *masks})
    if not images:
        raise DataError(
            f"{root}: expected images ({', '.join(IMAGE_ENDINGS)}), {_none_in(root / 'images')}; put them there"
        )
    if not scribbles and not masks and not drawn:
        raise DataError(
            f"{root}: expected scribbles named like their images, {_none_in(root / 'scribbles')}; draw some "
            f"({draw_in(root)} opens a page for it), or add masks/ to simulate some from"
        )
    unread = [path for name in ("images", "scribbles", "masks") for path in unread_in(root / name)]
    unread = [path for path in unread if path not in series_in(root / "images").values()]
    beside = [path for path in unread_in(root / "scribbles", companions=True) if path not in unread]
    _check_unread([*unread, *beside], set(images) - set(scribbles), root / "scribbles")
    encoding = _declared(root, scribbles)
    # Scribbles without an image are cases too: whoever drew them meant to train on them, so reading them must fail.
    expected = {name: (_image_of(path, root / "images"),) for name, path in scribbles.items()}
    files = [
        CaseFiles(
            name,
            paths,
            scribbles.get(name),
            masks.get(name),
            None if name in images else misnamed(scribbles.get(name), images.keys() - scribbles.keys()),
        )
        for name, paths in sorted({**expected, **images}.items())
    ]
    trained_on = {*(scribbles or masks), *drawn}
    train, test = ([f for f in files if (f.name in trained_on) is drawn] for drawn in (True, False))
    if not train:
        raise DataError(
            f"{root}: expected masks named like the images, found {', '.join(list(masks)[:3])}; "
            f"{next(filter(None, (to_rename(path, images) for path in masks.values())), 'rename them')}"
        )
    notes = [] if scribbles else [WITHOUT_SCRIBBLES]
    if test:
        what = "no scribbles" if scribbles else "no mask"
        what = f"{what}, there or in the folder that was given," if drawn else what
        are = f"has {what} and is a test case" if len(test) == 1 else f"have {what} and are test cases"
        notes.append(f"{len(test)} of {number_of(len(files), 'case')} {are}")
    notes += masks_without_image(masks, [f.name for f in files])
    if unread:
        notes.append(f"not read: {first_of([str(path.relative_to(root)) for path in unread])}")
    undrawn = tuple(f.name for f in test if f.reference is None) if scribbles else ()
    return replace(dataset("folder", root, encoding, train, test, notes), undrawn=undrawn)


def draw_in(root: Path) -> str:
    """The command that draws scribbles on the images of a folder."""
    return f"`scribbleseg annotate {shlex.quote(str(root))}`"


def image_files(root: Path, whole_names: Iterable[str] = ()) -> dict[str, tuple[Path, ...]]:
    """Returns the files of each image of a data set by the name of its case, one file a channel; empty without any.

    Args:
        root: the folder of the data set; where it has no images/, its own files are the images.
        whole_names: names that are whole, though they may end like channels (`group_channels`).

    Raises:
        DataError: two files for one image, or a channel that is missing.
    """
    place = root / "images" if (root / "images").is_dir() else root
    channels = group_channels(volumes_in(place, IMAGE_ENDINGS).values(), whole_names)
    series = series_in(place)
    if twice := sorted(channels.keys() & series.keys()):
        raise FileError(series[twice[0]], "expected one image of that name, found a file and a series", "keep one")
    return {**channels, **{name: (path,) for name, path in series.items()}}


def _none_in(folder: Path) -> str:
    return f"found none in {folder}" if folder.is_dir() else f"found no folder {folder}"


def _check_misplaced(images: Path) -> None:
    """Raises FileError for a segmentation among the images, which would be passed over."""
    for path in images.iterdir() if images.is_dir() else ():
        if ending(path) == SEGMENTS and not path.name.startswith("."):
            raise FileError(
                path, "expected images alone, found a segmentation of 3D Slicer", "move it to scribbles/ or masks/"
            )


def _image_of(scribbles: Path, images: Path) -> Path:
    """The image that should be there, by the name and the format of its scribbles."""
    return images / (f"{stem(scribbles)}.nrrd" if ending(scribbles) == SEGMENTS else scribbles.name)


def _check_unread(unread: Iterable[Path], undrawn: Iterable[str], scribbles: Path) -> None:
    """Raises FileError for scribbles in a format that is not read: their cases would become test cases."""
    for path in unread:
        name = unicodedata.normalize("NFC", path.name)
        if path.parent == scribbles and any(name.startswith(f"{case}.") for case in undrawn):
            raise FileError(
                path,
                f"expected scribbles as a file ending in {', '.join(LABEL_ENDINGS)}, found this one",
                "convert it, or take it away if its case is to be a test case",
            )


def images(path: str | Path, n_channels: int | None = None) -> Cases:
    """Opens images to segment: cases without scribbles, named after their files.

    Args:
        path: one image, a folder of images, or a data set's folder with them in `images/` or `imagesTs/`.
        n_channels: the number of channels that the network takes, if known. With 1, files that end in _0000, _0001,
            ... are not channels of one case.

    Raises:
        DataError: there is nothing to read.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(
            f"{path}: expected an image or a folder of images, found no such file or folder; check the path"
        )
    if path.is_file() and ending(path):
        found = {stem(path): path}
    else:
        places = (path, path / "images", path / "imagesTs")
        found = next((files for place in places if (files := volumes_in(place, IMAGE_ENDINGS))), {})
    if not found:
        raise DataError(f"{path}: expected an image or a folder of images ({', '.join(IMAGE_ENDINGS)}), found none")
    if path.is_dir() and (unread := unread_in(next(iter(found.values())).parent, endings=IMAGE_ENDINGS)):
        log.warning("not read in %s: %s", path, first_of([each.name for each in unread]))
    several = len({match[1] if (match := CHANNEL.fullmatch(name)) else name for name in found}) < len(found)
    channels: Mapping[str, tuple[Path, ...]] = {name: (file,) for name, file in found.items()}
    if n_channels != 1 or not several:
        channels = group_channels(found.values())
    return cases([CaseFiles(name, files) for name, files in sorted(channels.items())], Encoding(("background",), {}))


def group_channels(files: Iterable[Path], whole_names: Iterable[str] = ()) -> dict[str, tuple[Path, ...]]:
    """Groups CASE_0000, CASE_0001, ... into the channels of CASE (nnU-Net's naming).

    A number counts as a channel only where there is a _0000 of the same name, and not at all where a label map carries
    the whole name (slices that are numbered like channels).

    Raises:
        DataError: a channel between the first and the last is missing, or an image is there both as channels and whole.
    """
    by_stem = {stem(path): path for path in files}
    if set(whole_names) & {name for name in by_stem if CHANNEL.fullmatch(name)}:
        return {name: (path,) for name, path in by_stem.items()}
    grouped: dict[str, dict[int, Path]] = {}
    for name, path in by_stem.items():
        match = CHANNEL.fullmatch(name)
        if match and f"{match[1]}_0000" in by_stem:
            if match[1] in by_stem:
                raise DataError(
                    f"{path}: expected channels {match[1]}_0000, ... or one file of that case, also found "
                    f"{by_stem[match[1]].name}; take one of the two away"
                )
            grouped.setdefault(match[1], {})[int(match[2])] = path
        else:
            grouped.setdefault(name, {})[0] = path
    for name, numbered in grouped.items():
        if missing := sorted(set(range(max(numbered))) - set(numbered)):
            raise DataError(f"case {name}: expected channels 0..{max(numbered)}, found no channel {missing}; add it")
    return {name: tuple(path for _, path in sorted(numbered.items())) for name, numbered in grouped.items()}


def _declared(root: Path, scribbles: Mapping[str, Path]) -> Encoding:
    file = root / "dataset.json"
    if not scribbles:
        if not file.is_file():
            raise DataError(
                f"{file}: expected this file to say what the masks' values mean, found none; write "
                '{"labels": {"background": 0, "NAME": 1, ...}} with your names'
            )
        declaration = read_declaration(file)
        return declared_encoding(file, declaration["labels"], ("background",), declaration.get("colors"))
    if not file.is_file():
        raise DataError(
            f"{file}: expected this file to say what the scribbles' values mean, found none. {_advice(scribbles)}"
        )
    declaration = read_declaration(file)
    labels, colours = declaration["labels"], declaration.get("colors")
    if "ignore" not in labels and colours is not None:
        free = max((value for value in labels.values() if isinstance(value, int)), default=0) + 1
        raise DataError(
            f"{file}: expected the value that unlabelled pixels have where labels are written, found none; add "
            f'"ignore": {free} to "labels"'
        )
    if "ignore" not in labels:
        raise DataError(
            f'{file}: expected the value of unlabelled voxels as "ignore", found only {json.dumps(labels)}, so that '
            f"{labels.get('background', 0)} could mean background or unlabelled. {_advice(scribbles, labels)}"
        )
    return declared_encoding(file, labels, colours=colours)


def _advice(scribbles: Mapping[str, Path], labels: Mapping[str, Any] | None = None) -> str:
    """Says what to write into dataset.json, from the values that the first scribbles hold."""
    counts: Counter[int] = Counter()
    names: dict[int, str] = {}
    for path in list(scribbles.values())[:5]:
        values, n = np.unique(read_labels(path)[0], return_counts=True)
        names |= {segment.value: segment.name for segment in read_segments(path) or ()}
        counts.update(dict(zip(values.tolist(), n.tolist(), strict=True)))
    # Scribbles are thin: whatever fills most of the image is what nobody drew. In Slicer's segmentations that is 0.
    ignore = 0 if names else counts.most_common(1)[0][0]
    drawn = sorted(set(counts) - {ignore})
    background = 0 if ignore != 0 else max(drawn, default=1)
    if names:
        background = next((value for value, name in names.items() if name.casefold() == "background"), max(counts) + 1)
    names |= {value: name for name, value in (labels or {}).items() if name != "background"}
    structures = [value for value in drawn if value != background] or [background + 1]
    suggestion = {"background": background}
    suggestion |= {names.get(value, f"structure {value}"): value for value in structures}
    suggestion["ignore"] = ignore
    return (
        f"The scribbles hold the values {', '.join(map(str, sorted(counts)))}; most voxels are {ignore}, probably the "
        f"unlabelled ones. If so, write {json.dumps({'labels': suggestion})} with your names, and correct the value of "
        "background (strokes drawn on what is no structure) if it is another"
    )
