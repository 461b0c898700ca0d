"""The programs that people draw in: how their files are called and written, and how they are opened there."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK
from jaxtyping import Integer

from scribbleseg.annotate.exchange.headers import mitk_fields, slicer_fields
from scribbleseg.data.formats import SEGMENTS, label_ending, save_stack, write_labels
from scribbleseg.data.formats.itk import LPS_TO_RAS
from scribbleseg.data.orientation import is_picture
from scribbleseg.files import FileError, atomically
from scribbleseg.types import Geometry

Values = Integer[np.ndarray, "depth height width"]


@dataclass(frozen=True)
class Program:
    """A program that scribbles are drawn in.

    Args:
        title: its name, for people.
        ending: the file ending for a label map on a grid.
        write: writes one: the path, the values, the grid, and the value of each label by name.
        how: how files are opened there and saved again, in one or two sentences.
        nothing: what value 0 means there: nothing drawn, or background.
    """

    title: str
    ending: Callable[[Geometry], str]
    write: Callable[[Path, Values, Geometry, Mapping[str, int]], None]
    how: str
    nothing: bool = True


def _always(ending: str) -> Callable[[Geometry], str]:
    return lambda geometry: ending


def write_map(path: Path, values: Values, geometry: Geometry, names: Mapping[str, int]) -> None:
    """Writes a plain label map, NIfTI or PNG."""
    write_labels(path, values, geometry)


def write_slicer(path: Path, values: Values, geometry: Geometry, names: Mapping[str, int]) -> None:
    """Writes a segmentation of 3D Slicer with one segment for each name, empty ones too."""
    _write_nrrd(path, values, geometry, slicer_fields(names, geometry.shape))


def write_mitk(path: Path, values: Values, geometry: Geometry, names: Mapping[str, int]) -> None:
    """Writes a segmentation of MITK with one label for each name, empty ones too."""
    _write_nrrd(path, values.astype(np.uint16), geometry, mitk_fields(names))  # the type of MITK's own


def write_tiff(path: Path, values: Values, geometry: Geometry, names: Mapping[str, int]) -> None:
    """Writes a TIFF with a page for each slice."""
    with atomically(path) as temporary:
        save_stack(temporary, values)


def _write_nrrd(path: Path, values: Values, geometry: Geometry, fields: Mapping[str, str]) -> None:
    itk = SimpleITK.GetImageFromArray(values)
    lps = LPS_TO_RAS @ geometry.affine if not is_picture(geometry) else np.eye(4)
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    itk.SetSpacing(spacing.tolist())
    itk.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    itk.SetOrigin(lps[:3, 3].tolist())
    for field, text in fields.items():
        itk.SetMetaData(field, text)
    with atomically(path) as temporary:
        try:
            SimpleITK.WriteImage(itk, temporary, useCompression=True, imageIO="NrrdImageIO")
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise FileError(path, f"could not be written: {reason}", "check the folder and the room on it") from error


PROGRAMS: dict[str, Program] = {
    "itksnap": Program(
        "ITK-SNAP",
        label_ending,
        write_map,
        "Open the image, then the label map (Segmentation, Open Segmentation) and labels.txt (Segmentation, Import "
        "Label Descriptions). Save by Segmentation, Save Segmentation Image.",
    ),
    "slicer": Program(
        "3D Slicer",
        _always(SEGMENTS),
        write_slicer,
        "Open the image and CASE.seg.nrrd, choose both in the Segment Editor, draw, and save the segmentation.",
    ),
    "mitk": Program(
        "MITK",
        _always(".nrrd"),
        write_mitk,
        "Open the image and CASE.nrrd, choose both in the Segmentation view, draw, and save the segmentation as NRRD.",
    ),
    "napari": Program(
        "napari",
        _always(".tif"),
        write_tiff,
        "Open the image as slices (depth, height, width), drop CASE.tif on it, convert that layer to labels, draw, and "
        "save the layer as TIFF.",
    ),
    "ilastik": Program(
        "ilastik",
        _always(".tif"),
        write_tiff,
        "In Pixel Classification, import CASE.tif as labels of its image (Training, right click on a label, Import); "
        'export with the source "Labels" as multipage TIFF.',
    ),
    "monai": Program(
        "MONAI Label",
        label_ending,
        write_map,
        "Put the label maps into labels/final of the folder of images that its server was started with.",
    ),
    "nnunet": Program(
        "nnU-Net",
        label_ending,
        write_map,
        "Put the images into imagesTr as CASE_0000.nii.gz, with the same ending as the label maps.",
        nothing=False,
    ),
}
