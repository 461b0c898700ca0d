"""One flipped bit in an image or a label map: an error that names the file, or the same voxels; never others."""

import gzip

import nibabel as nib
import numpy as np
import PIL.Image
import pytest
import SimpleITK

from faults import flips
from scribbleseg.data.formats import read_image, read_labels
from scribbleseg.files import FileError

FLIPS = 200
READ = {"a.mhd": "a.zraw", "a.nhdr": "a.raw.gz"}
"""The file that is damaged, where it is not the one that is opened."""


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.integers(0, 4, (4, 24, 24)) * (rng.random((4, 24, 24)) > 0.6)).astype(np.uint8)


def write(path, labels) -> None:
    if path.name.startswith("a.nii"):
        nib.save(nib.Nifti1Image(labels.T, np.eye(4)), path)
    elif path.suffix == ".png":
        PIL.Image.fromarray(labels[0]).save(path)
    else:
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(labels), str(path), True)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd", "a.nhdr", "a.mha", "a.mhd", "a.png"])
def test_a_flipped_bit_gives_an_error_or_the_same_voxels(name, labels, tmp_path):
    write(tmp_path / name, labels)
    file = tmp_path / READ.get(name, name)
    whole = file.read_bytes()
    expected, _ = read_labels(tmp_path / name)
    refused = []
    for bit, damaged in flips(whole, FLIPS):
        file.write_bytes(damaged)
        try:
            found, _ = read_labels(tmp_path / name)
        except FileError as error:
            refused.append(error.file)
        else:
            assert np.array_equal(found, expected), f"bit {bit}"
    assert len(refused) > FLIPS / 2
    assert set(refused) == {tmp_path / name}


def test_a_large_volume_is_read_to_its_checksum(tmp_path):
    """The last bytes of the stream are beyond what is read with the voxels."""
    voxels = np.random.default_rng(0).integers(0, 1000, (64, 64, 40)).astype(np.int16)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "a.nii.gz")
    assert np.array_equal(read_image(tmp_path / "a.nii.gz")[0][0], voxels.T)
    whole = bytearray((tmp_path / "a.nii.gz").read_bytes())
    whole[-6] ^= 1
    (tmp_path / "a.nii.gz").write_bytes(whole)
    with pytest.raises(FileError, match="CRC check failed"):
        read_image(tmp_path / "a.nii.gz")


def test_scaled_and_other_versions_of_nifti_are_read_as_before(tmp_path):
    voxels = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    for kind in (nib.Nifti1Image, nib.Nifti2Image):
        image = kind(voxels, np.eye(4))
        image.header.set_slope_inter(0.5, 10.0)
        nib.save(image, tmp_path / "a.nii.gz")
        assert np.array_equal(read_image(tmp_path / "a.nii.gz")[0][0], nib.load(tmp_path / "a.nii.gz").get_fdata().T)


def test_several_gzip_members_and_zeros_behind_them_are_welcome(labels, tmp_path):
    """As `bgzip` and tape archives leave them."""
    write(tmp_path / "a.nii", labels)
    raw = (tmp_path / "a.nii").read_bytes()
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(raw[:500]) + gzip.compress(raw[500:]) + bytes(512))
    assert np.array_equal(read_labels(tmp_path / "b.nii.gz")[0], labels)


def test_a_compressed_image_cut_short_is_refused(labels, tmp_path):
    for name in ("a.mha", "a.nrrd", "a.png", "a.nii.gz"):
        write(tmp_path / name, labels)
        file = tmp_path / name
        file.write_bytes(file.read_bytes()[:-5])
        with pytest.raises(FileError, match=name):
            read_labels(file)
