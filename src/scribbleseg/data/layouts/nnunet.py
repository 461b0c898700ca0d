"""nnU-Net's layout (version 2), with scribbles as its "ignore" label.

    dataset.json                     channel_names, labels with "ignore" as the highest value, file_ending
    imagesTr/CASE_0000.nii.gz        one file a channel
    labelsTr/CASE.nii.gz             the scribbles; full masks where the labels have no "ignore"
    masksTr/CASE.nii.gz              optional and ours: full reference masks of the training cases
    imagesTs/, labelsTs/             optional: test images and their full masks

Format: https://github.com/MIC-DKFZ/nnUNet/blob/master/documentation/dataset_format.md and ignore_label.md beside it.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from scribbleseg.data.encoding import Encoding, declared, declared_encoding, read_declaration
from scribbleseg.data.formats import ENDINGS, IMAGE_ENDINGS, PICTURES, volumes_in
from scribbleseg.data.layouts.case_files import WITHOUT_SCRIBBLES, CaseFiles, dataset, masks_without_image, misnamed
from scribbleseg.data.layouts.folder import CHANNEL
from scribbleseg.types import UNLABELLED, DataError, Dataset


def nnunet(folder: str | Path) -> Dataset:
    """Opens the data set in an nnU-Net raw folder (`Dataset123_Name`).

    Returns:
        A training case for each label map and each image in `imagesTr`, a test case for each image in `imagesTs`.
        Missing channels and label maps are errors when the case is read. Where the labels have no "ignore", `labelsTr`
        are full masks by nnU-Net's definition: references, and the training cases are entirely UNLABELLED until a
        folder of simulated scribbles is given.

    Raises:
        DataError: no dataset.json, one of version 1, labels with gaps, or an "ignore" that is not the highest of them.
    """
    root = Path(folder)
    encoding, n_channels, suffix = _declared(root / "dataset.json")
    labels = volumes_in(root / "labelsTr")
    masks, with_image = volumes_in(root / "masksTr"), _names(root / "imagesTr")
    train = [
        CaseFiles(
            name,
            paths,
            _on_disk(root / "labelsTr", name, suffix, labels),
            masks.get(name),
            None if name in with_image else misnamed(labels.get(name), with_image - labels.keys()),
        )
        for name, paths in _images(root / "imagesTr", root / "labelsTr", n_channels, suffix).items()
    ]
    notes = []
    if UNLABELLED not in encoding.labels.values():
        train = [replace(case, scribbles=None, reference=case.scribbles) for case in train]
        ignore = declared(encoding.label_names)["ignore"]
        notes = [WITHOUT_SCRIBBLES, f'labelsTr are full masks; if they are scribbles, declare "ignore": {ignore}']
    notes += masks_without_image(masks, [case.name for case in train])
    test = [
        CaseFiles(name, paths, None, volumes_in(root / "labelsTs").get(name))
        for name, paths in _images(root / "imagesTs", root / "labelsTs", n_channels, suffix).items()
    ]
    if not train:
        raise DataError(f"{root}: expected CASE_0000{suffix} in {root / 'imagesTr'}, found none; check file_ending")
    return dataset("nnunet", root, encoding, train, test, notes)


def _declared(file: Path) -> tuple[Encoding, int, str]:
    """Reads what the values mean, how many channels a case has, and what its files end in."""
    if not file.is_file():
        raise DataError(
            f"{file}: expected nnU-Net's description of the data set, found none; write it or give --format"
        )
    declaration = read_declaration(file)
    labels: dict[str, Any] = declaration["labels"]
    if "modality" in declaration or all(name.isdigit() for name in labels):
        raise DataError(
            f"{file}: expected version 2 of nnU-Net's format, found version 1 (labels by number, modality); "
            "convert it with nnUNetv2_convert_old_nnUNet_dataset"
        )
    encoding = declared_encoding(file, labels, needed=("background",), colours=declaration.get("colors"))
    in_order = declared(encoding.label_names)
    if labels != {name: in_order[name] for name in labels}:
        raise DataError(
            f"{file}: expected background 0, structures 1, 2, ... without gaps and ignore as the highest value, if "
            f"there is one, found {labels}; renumber them, or use the layout of --format folder, which takes any values"
        )
    if not isinstance(channels := declaration.get("channel_names"), dict) or not channels:
        raise DataError(f'{file}: expected "channel_names": {{"0": "MRI", ...}}, found {channels!r}; add it')
    suffix = declaration.get("file_ending", ".nii.gz")
    if not isinstance(suffix, str) or suffix.lower() not in ENDINGS:  # not a path, which could lead anywhere
        raise DataError(f'{file}: expected "file_ending" among {", ".join(ENDINGS)}, found {suffix!r}; correct it')
    return encoding, len(channels), suffix


def _images(images: Path, labels: Path, n_channels: int, suffix: str) -> dict[str, tuple[Path, ...]]:
    """Returns the channels that each case should have; a case is whatever has an image or a label map."""
    on_disk = volumes_in(images, IMAGE_ENDINGS)
    names = _names(images) | set(volumes_in(labels))
    expected = {
        name: tuple(_on_disk(images, f"{name}_{channel:04d}", suffix, on_disk) for channel in range(n_channels))
        for name in sorted(names)
    }
    if suffix.lower() in PICTURES:  # one picture may hold all its colours
        return {name: paths[:1] if f"{name}_0001" not in on_disk else paths for name, paths in expected.items()}
    return expected


def _names(images: Path) -> set[str]:
    """The cases that a folder has an image of."""
    return {match[1] for name in volumes_in(images, IMAGE_ENDINGS) if (match := CHANNEL.fullmatch(name))}


def _on_disk(folder: Path, name: str, suffix: str, on_disk: Mapping[str, Path]) -> Path:
    """The file of that name as the file system spells it, or the one that should be there."""
    path = folder / f"{name}{suffix}"
    found = on_disk.get(name, path)
    return found if found.name.lower().endswith(suffix.lower()) else path
