"""Files whose names say something else than they hold, and endings in capitals."""

import gzip

import nibabel as nib
import numpy as np
import PIL.Image
import pytest
import SimpleITK

from scribbleseg.data.formats import read_geometry, read_image, read_labels, unread_in, volumes_in
from scribbleseg.files import FileError

VOXELS = np.arange(24, dtype=np.uint8).reshape(4, 3, 2)  # x y z


@pytest.fixture
def files(tmp_path):
    """One file of each format, named p01."""
    nib.save(nib.Nifti1Image(VOXELS, np.eye(4)), tmp_path / "p01.nii.gz")
    nib.save(nib.Nifti2Image(VOXELS, np.eye(4)), tmp_path / "p01.nii")
    for end in ("nrrd", "mha"):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(VOXELS.T), tmp_path / f"p01.{end}")
    for end in ("png", "tif", "jpg"):
        PIL.Image.fromarray(VOXELS[..., 0]).save(tmp_path / f"p01.{end}")
    return tmp_path


@pytest.mark.parametrize(
    ("inside", "named", "says"),
    [
        ("nii.gz", "q.nii", r"q\.nii: is compressed \(gzip\); rename it to q\.nii\.gz$"),
        ("nii.gz", "q.nrrd", r"q\.nrrd: is compressed \(gzip\); rename it to q\.nii\.gz$"),
        ("nii", "q.nii.gz", r"q\.nii\.gz: is not compressed; rename it to q\.nii$"),
        ("nii", "q.NII.GZ", r"q\.NII\.GZ: is not compressed; rename it to q\.nii$"),
        ("nii", "q.mha", r"q\.mha: expected a \.mha file, found one that is \.nii inside; rename it to q\.nii$"),
        ("nrrd", "q.nii.gz", r"found one that is \.nrrd inside; rename it to q\.nrrd$"),
        ("nrrd", "q.mha", r"rename it to q\.nrrd$"),
        ("mha", "q.nrrd", r"rename it to q\.mha$"),
        ("jpg", "q.png", r"q\.png: expected a \.png file, found one that is \.jpg inside; rename it to q\.jpg$"),
        ("tif", "q.png", r"rename it to q\.tif$"),
        ("png", "q.tiff", r"rename it to q\.png$"),
        ("png", "q.jpeg", r"rename it to q\.png$"),
    ],
)
def test_a_wrong_ending_is_one_sentence_that_says_what_to_rename_and_that_helps(files, inside, named, says):
    path = files / named
    path.write_bytes((files / f"p01.{inside}").read_bytes())
    for read in (read_image, read_geometry) if inside == "jpg" else (read_image, read_labels, read_geometry):
        with pytest.raises(FileError, match=says) as caught:
            read(path)
        assert "\n" not in str(caught.value)
    renamed = path.rename(files / caught.value.remedy.split()[-1])
    np.testing.assert_array_equal(read_image(renamed)[0], read_image(files / f"p01.{inside}")[0])


@pytest.mark.parametrize("kind", ["nrrd", "mha"])
@pytest.mark.parametrize("named", ["{}", "nii.gz"])
def test_formats_that_are_compressed_inside_are_to_be_unpacked(files, kind, named):
    path = files / f"q.{named.format(kind)}"
    path.write_bytes(gzip.compress((files / f"p01.{kind}").read_bytes()))
    expected = rf"compressed as a whole \(gzip\); rename it to q\.{kind}\.gz and unpack it \(gunzip q\.{kind}\.gz\)"
    with pytest.raises(FileError, match=expected):
        read_image(path)


def test_endings_in_capitals_are_read(files):
    for file in list(files.iterdir()):
        shouted = file.rename(files / file.name.replace("p01", file.suffix[1:]).upper())
        assert read_image(shouted)[0].size in (24, 12)
        assert read_geometry(shouted).suffix == file.name[3:]
    assert len(volumes_in(files)) == 6, "all but a JPEG beside volumes"


def test_two_pictures_of_one_name_are_an_error(files):
    for end in ("nii", "nii.gz", "nrrd", "mha", "jpg"):
        (files / f"p01.{end}").unlink()
    with pytest.raises(FileError, match=r"p01\.tif: expected one file named p01, also found p01\.png; keep one"):
        volumes_in(files)


def test_jpeg_files_beside_volumes_are_previews(files):
    for end in ("nii", "nrrd", "mha", "png", "tif"):
        (files / f"p01.{end}").unlink()
    (files / "p02.JPG").write_bytes((files / "p01.jpg").read_bytes())
    assert list(volumes_in(files).values()) == [files / "p01.nii.gz"]
    assert unread_in(files) == [files / "p01.jpg", files / "p02.JPG"]
    (files / "p01.nii.gz").unlink()
    assert list(volumes_in(files)) == ["p01", "p02"]
    assert unread_in(files) == []


def test_a_postscript_file_named_png_reaches_no_interpreter(files, monkeypatch):
    import PIL.EpsImagePlugin

    monkeypatch.setattr(PIL.EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was called"))
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 3\n%%EndComments\nshowpage\n%%EOF\n"
    for name in ("p01.png", "p01.jpg", "p01.tif"):
        (files / name).write_bytes(eps)
        with pytest.raises(FileError, match=rf"{name}: expected a whole"):
            read_image(files / name)
