"""Inputs that are no images, or hardly: devices and pipes, absurd voxel sizes, tiny intensities, names that lie."""

import os
import shutil
import socket
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import PIL.Image
import pytest
import SimpleITK
from typer.testing import CliRunner

from scribbleseg.cli import app
from scribbleseg.data import acdc, folder, images
from scribbleseg.data.brain import normalise_brain
from scribbleseg.data.drawing import open_drawing
from scribbleseg.data.encoding import Encoding
from scribbleseg.data.formats import read_image, read_labels
from scribbleseg.data.formats.dicom import read_dicom
from scribbleseg.data.intensities import CLIPPED_PERCENTILES, normalise
from scribbleseg.data.layouts.brats import brats
from scribbleseg.evaluation.drawing import embedded
from scribbleseg.files import FileError
from scribbleseg.phantoms import write_phantoms
from scribbleseg.recipe import Recipe, Stage
from scribbleseg.seeds.random_walker import RandomWalker
from scribbleseg.seeds.strokes import Strokes
from scribbleseg.training.unet import UNet
from scribbleseg.types import UNLABELLED, DataError

TINY = Recipe(seeds=Strokes(), stages=(Stage(iterations=1, batch=2),), network=UNet(base=4, padded=True))
VOXELS = np.zeros((3, 4, 5), np.int16)


def a_link_to_a_device(path: Path) -> str:
    path.symlink_to("/dev/zero")
    return "a link to a device"


def a_pipe(path: Path) -> str:
    os.mkfifo(path)
    return "a pipe"


def a_link_to_a_pipe(path: Path) -> str:
    os.mkfifo(path.parent.parent / "pipe")
    path.symlink_to(path.parent.parent / "pipe")
    return "a link to a pipe"


def a_socket(path: Path) -> str:
    before = Path.cwd()
    os.chdir(path.parent)  # its path must be short
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path.name)
    finally:
        os.chdir(before)
    return "a socket"


def a_folder(path: Path) -> str:
    path.mkdir()
    return "a folder"


def nothing(path: Path) -> str:
    path.symlink_to("nothing.nii.gz")
    return "a link that leads nowhere"


KINDS = [a_link_to_a_device, a_pipe, a_link_to_a_pipe, a_socket, a_folder, nothing]


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha", ".png"])
def test_an_image_that_is_no_file_is_named_and_never_opened(make, ending, hearts, tmp_path):
    root = Path(shutil.copytree(hearts.root, tmp_path / "hearts"))
    path = root / "images" / f"test007{ending}"
    what = make(path)
    for opened in (lambda: images(root / "images"), lambda: folder(root)):
        with pytest.raises(FileError, match=f"test007{ending}: expected a file, found {what}"):
            opened()
    if not path.is_dir():  # which may be one of a DICOM series
        with pytest.raises(FileError, match=f"test007{ending}: expected this file, found {what}"):
            read_image(path)


def test_predict_names_it(run, hearts, tmp_path):
    root = Path(shutil.copytree(hearts.root, tmp_path / "hearts"))
    (root / "images" / "test007.nii.gz").symlink_to("/dev/zero")
    words = ["predict", str(run.path), str(root / "images"), "--out", str(tmp_path / "out")]
    answer = CliRunner().invoke(app, words)
    assert answer.exit_code == 2
    assert "test007.nii.gz: expected a file, found a link to a device" in answer.output


@pytest.mark.parametrize("make", [a_link_to_a_device, a_pipe, nothing])
def test_a_mask_that_is_no_file_is_not_passed_over(make, tmp_path):
    hearts = tmp_path / "ACDC"
    for patient in ("patient001", "patient101"):
        (hearts / patient).mkdir(parents=True)
        nib.save(nib.Nifti1Image(VOXELS, np.eye(4)), hearts / patient / f"{patient}_frame01.nii.gz")
    what = make(hearts / "patient101" / "patient101_frame01_gt.nii.gz")
    with pytest.raises(DataError, match=f"_gt.nii.gz: expected this file, found {what}"):
        acdc(hearts).reference("patient101_frame01")
    (tmp_path / "pipe").unlink(missing_ok=True)
    brains = tmp_path / "brains"
    for name in ("BraTS_1", "BraTS_2"):
        for part in ("t1", "t1ce", "t2", "flair", "seg"):
            (brains / name).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(VOXELS, np.eye(4)), brains / name / f"{name}_{part}.nii.gz")
    mask = brains / "BraTS_1" / "BraTS_1_seg.nii.gz"
    mask.unlink()
    what = make(mask)
    assert brats(brains).test.names == ("BraTS_1",)  # by its place among those that have masks
    with pytest.raises(DataError, match=f"_seg.nii.gz: expected this file, found {what}"):
        brats(brains).reference("BraTS_1")


def test_a_pipe_among_the_slices_of_a_series_is_named(tmp_path):
    os.mkfifo(tmp_path / "slice.dcm")
    with pytest.raises(FileError, match=r"slice.dcm: expected the slices of one DICOM series, found a pipe"):
        read_dicom(tmp_path)


def nifti(path: Path, size: float, sform: bool) -> None:
    raw = bytearray(nib.Nifti1Image(VOXELS.T, np.eye(4)).to_bytes())
    raw[80:84] = struct.pack("<f", 1.0 if sform else size)
    raw[252:256] = struct.pack("<hh", not sform, sform)
    if sform:
        raw[280:284] = struct.pack("<f", size)
    path.write_bytes(raw)


def metaimage(path: Path, size: float) -> None:
    header = f"ObjectType = Image\nNDims = 3\nBinaryData = True\nElementSpacing = {size} 1 1\nDimSize = 5 4 3\n"
    path.write_bytes(f"{header}ElementType = MET_SHORT\nElementDataFile = LOCAL\n".encode() + VOXELS.tobytes())


def nrrd(path: Path, size: float, directions: bool) -> None:
    axes = f"space directions: ({size},0,0) (0,1,0) (0,0,1)\nspace origin: (0,0,0)" if directions else None
    space = f"space: left-posterior-superior\n{axes}" if axes else f"spacings: {size} 1 1"
    header = f"NRRD0004\ntype: short\ndimension: 3\nsizes: 5 4 3\n{space}\nencoding: raw\nendian: little\n\n"
    if axes:
        header = header.replace("space: left-posterior-superior\n", "").replace(
            "dimension: 3\n", "dimension: 3\nspace: left-posterior-superior\n"
        )
    path.write_bytes(header.encode() + VOXELS.tobytes())


WRITERS = {
    "qform.nii": lambda path, size: nifti(path, size, sform=False),
    "sform.nii": lambda path, size: nifti(path, size, sform=True),
    "a.mha": metaimage,
    "spacings.nrrd": lambda path, size: nrrd(path, size, directions=False),
    "directions.nrrd": lambda path, size: nrrd(path, size, directions=True),
}


@pytest.mark.parametrize("size", [1e20, 1e-20, -1.0, 0.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", WRITERS)
def test_a_voxel_size_that_no_image_has_is_named(name, size, tmp_path):
    path = tmp_path / name
    WRITERS[name](path, size)
    if size == -1.0 and name in ("sform.nii", "directions.nrrd"):  # a direction, which may be negative
        assert read_image(path)[1].spacing_mm == (1.0, 1.0, 1.0)
        return
    with pytest.raises(FileError, match=f"{name}: expected (voxels of|an affine|a whole .nrrd)") as said:
        read_image(path)
    if size in (1e20, 1e-20):
        assert f"expected voxels of 1e-07 to 10000 mm along each axis, found {size:g} x 1 x 1 mm" in str(said.value)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("size", [1e-6, 0.7, 1000.0])
def test_microscopes_and_whole_bodies_are_read(name, size, tmp_path):
    WRITERS[name](tmp_path / name, size)
    assert read_image(tmp_path / name)[1].spacing_mm == pytest.approx((1.0, 1.0, size), rel=1e-6)


def test_channels_of_an_nrrd_have_no_voxel_size(tmp_path):
    header = "NRRD0004\ntype: short\ndimension: 4\nsizes: 1 5 4 3\nkinds: vector domain domain domain\n"
    path = tmp_path / "a.nrrd"
    path.write_bytes(f"{header}spacings: nan 1 1 2\nencoding: raw\nendian: little\n\n".encode() + VOXELS.tobytes())
    assert read_image(path)[1].spacing_mm == (2.0, 1.0, 1.0)


def test_a_jpeg_by_another_name_is_no_label_map_and_no_drawing(tmp_path):
    path = tmp_path / "a.png"
    PIL.Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path, format="JPEG")
    encoding = Encoding(("background", "a"), {0: 0, 1: 1, 2: UNLABELLED}, colours={0xFF0000: 1})
    for read in (read_labels, lambda path: open_drawing(path, encoding)):
        with pytest.raises(FileError, match="found JPEG, whose compression changes values"):
            read(path)
    with pytest.raises(FileError, match=r"is .jpg inside; rename it to a.jpg"):
        read_image(path)


def test_deep_colours_are_an_image_but_no_label_map(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 2**16, (4, 5, 3), np.uint16)
    path = tmp_path / "a.png"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(rgb, isVector=True), path)
    assert np.array_equal(read_image(path)[0][:, 0], np.moveaxis(rgb, -1, 0))
    with pytest.raises(FileError, match=r"a.png: expected colours of 8 bits, found uint16"):
        read_labels(path)


def test_a_recursion_below_0_is_named(run, hearts, tmp_path):
    words = ["predict", str(run.path), str(hearts.root), "--out", str(tmp_path / "out"), "--recursion", "-1"]
    answer = CliRunner().invoke(app, words)
    assert answer.exit_code == 2
    assert "--recursion" in answer.output
    assert not (tmp_path / "out").exists()


IMAGE = np.random.default_rng(0).gamma(2, 300, (2, 3, 40, 40)).astype(np.float32)


@pytest.mark.parametrize("scale", [1e-9, 1e-30, 1e30])
def test_intensities_of_any_size_keep_their_contrast(scale):
    """ADC is 1e-3 in mm^2/s and 1e-9 in m^2/s."""
    small = IMAGE * np.float32(scale)
    for scaled in (normalise, normalise_brain):
        assert np.allclose(scaled(small), scaled(IMAGE), atol=1e-5)
        assert scaled(small)[0].std() == pytest.approx(1, abs=1e-3)
    picture = embedded(small[0, 0], (slice(None), slice(None)))
    assert picture == embedded(IMAGE[0, 0] * np.float32(2.0**-40), (slice(None), slice(None))) or scale == 1e30
    scribbles = np.full(IMAGE.shape[1:], UNLABELLED, np.uint8)
    scribbles[:, 3, 3:9], scribbles[:, 30, 3:9] = 0, 1
    walked = (RandomWalker().probabilities(image, scribbles, (8.0, 1.0, 1.0)) for image in (small, IMAGE))
    assert np.allclose(*walked, atol=1e-4)


def test_usual_intensities_are_normalised_to_the_last_bit_as_they_always_were():
    expected = []
    for channel in IMAGE:
        clipped = np.clip(channel, *np.percentile(channel, CLIPPED_PERCENTILES))
        expected.append(((clipped - clipped.mean()) / clipped.std()).astype(np.float32))
    assert np.array_equal(normalise(IMAGE), np.stack(expected))


@pytest.mark.parametrize("value", [0.0, 0.1, 1e-9, 1e30])
def test_an_image_of_one_intensity_has_no_contrast(value):
    flat = np.full((1, 2, 9, 9), value, np.float32)
    assert not normalise(flat).any()
    assert not normalise_brain(flat).any()


def test_a_data_set_in_square_metres_per_second_is_trained_on_as_in_its_own_unit(tmp_path):
    hearts = write_phantoms(tmp_path / "hearts", train=1, test=0, shape=(3, 48, 48))
    file = hearts / "images" / "train000.nii.gz"
    before = folder(hearts).train[0]
    nib.save(nib.Nifti1Image(before.image[0].T * np.float32(1e-12), before.geometry.affine), file)
    after = folder(hearts).train[0]
    assert np.allclose(
        TINY.preprocess.resolve(folder(hearts).train).image(after),
        TINY.preprocess.resolve(folder(hearts).train).image(before),
        atol=1e-4,
    )
