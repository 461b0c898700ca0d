import errno
import gzip
import json
import os

import nibabel as nib
import numpy as np
import PIL.Image
import pytest
import SimpleITK
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scribbleseg.data.formats import (
    check_same_grid,
    ending,
    geometry_from_plain,
    geometry_to_plain,
    label_ending,
    read_geometry,
    read_image,
    read_labels,
    stem,
    volumes_in,
    write_labels,
    write_map,
    write_probabilities,
)
from scribbleseg.files import FileError
from scribbleseg.types import DataError, Geometry

VOXELS = np.arange(2 * 3 * 4, dtype=np.int16).reshape(4, 3, 2)  # x y z: 4 wide, 3 high, 2 deep


def rotation(angles):
    """About x, y and z in turn."""
    total = np.eye(3)
    for axis, angle in enumerate(angles):
        i, j = [k for k in range(3) if k != axis]
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        total = total @ turn
    return total


@st.composite
def affines(draw):
    """Oblique and flipped."""
    angles = [draw(st.floats(-3, 3)) for _ in range(3)]
    zooms = [draw(st.floats(0.3, 12)) * draw(st.sampled_from([1, -1])) for _ in range(3)]
    affine = np.eye(4)
    affine[:3, :3] = rotation(angles) * zooms
    affine[:3, 3] = [draw(st.floats(-500, 500)) for _ in range(3)]
    return affine


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    affine=affines(),
    codes=st.sampled_from([(1, 1), (0, 2), (1, 0), (0, 0), (2, 4)]),
    nifti2=st.booleans(),
    big_endian=st.booleans(),
    name=st.sampled_from(["out.nii", "out.nii.gz"]),
)
def test_nifti_geometry_survives_a_round_trip_to_the_bit(tmp_path, affine, codes, nifti2, big_endian, name):
    kind = nib.Nifti2Image if nifti2 else nib.Nifti1Image
    header = kind.header_class(endianness=">" if big_endian else "<")
    header.set_xyzt_units("micron", "sec")
    header.set_data_shape(VOXELS.shape)
    header.set_qform(affine, code=codes[0])
    header.set_sform(affine @ np.diag([1.01, 1, 1, 1]), code=codes[1])  # the two may disagree: keep both
    header.set_data_dtype(np.int16)
    nib.save(kind(VOXELS, None, header), tmp_path / "image.nii.gz")

    image, geometry = read_image(tmp_path / "image.nii.gz")
    np.testing.assert_array_equal(image[0], VOXELS.T)
    labels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    write_labels(tmp_path / name, labels, geometry)
    written, original = nib.load(tmp_path / name), nib.load(tmp_path / "image.nii.gz")

    np.testing.assert_array_equal(written.affine, original.affine)
    assert type(written) is kind
    fields = ("qform_code", "sform_code", "xyzt_units", "pixdim", "srow_x", "srow_y", "srow_z", "dim")
    for field in (*fields, "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"):
        np.testing.assert_array_equal(written.header[field], original.header[field], field)
    assert written.get_data_dtype() == np.uint8
    read, again = read_labels(tmp_path / name)
    np.testing.assert_array_equal(read, labels)
    check_same_grid(tmp_path / name, again, tmp_path / "image.nii.gz", geometry)
    assert geometry.shape == (2, 3, 4)


def written(folder, geometry):
    """The bytes of a label map, uncompressed and compressed, and of a map on a grid."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for name in ("labels.nii", "labels.nii.gz"):
        write_labels(folder / name, rng.integers(0, 4, geometry.shape).astype(np.uint8), geometry)
    write_map(folder / "map.nii", rng.random(geometry.shape, np.float32), geometry)
    return [path.read_bytes() for path in sorted(folder.iterdir())]


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("endianness", ["<", ">"])
@pytest.mark.parametrize("codes", [(1, 1), (0, 2), (1, 0), (0, 0), (4, 3)])
def test_a_grid_that_went_through_json_gives_the_same_files(tmp_path, kind, endianness, codes):
    affine = np.eye(4)
    affine[:3, :3] = rotation([0.3, -1.1, 2.0]) * [1 / 3, -0.7, 9.1]
    affine[:3, 3] = 123.456, -1e-3, 1 / 7
    header = kind.header_class(endianness=endianness)
    header.set_xyzt_units("micron", "sec")
    header.set_data_shape(VOXELS.shape)
    header.set_qform(affine, code=codes[0])
    header.set_sform(affine @ np.diag([1.01, 1, 1, 1]), code=codes[1])
    header.set_data_dtype(np.int16)
    header["descrip"] = b"Jane Doe"
    nib.save(kind(VOXELS, None, header), tmp_path / "image.nii")
    geometry = read_geometry(tmp_path / "image.nii")
    text = json.dumps(geometry_to_plain(geometry), allow_nan=False)
    restored = geometry_from_plain(json.loads(text))
    assert "Jane" not in text
    assert restored.shape == geometry.shape
    np.testing.assert_array_equal(restored.affine, geometry.affine)
    assert type(restored.header) is type(geometry.header)
    assert written(tmp_path / "restored", restored) == written(tmp_path / "original", geometry)


@pytest.mark.parametrize("suffix", [".nrrd", ".png"])
def test_a_grid_without_a_header_goes_through_json_too(tmp_path, suffix):
    affine = np.eye(4)
    affine[:3, :3] = rotation([0.3, -1.1, 2.0]) * [1 / 3, -0.7, 9.1]
    geometry = Geometry((2, 3, 4), affine, suffix)
    restored = geometry_from_plain(json.loads(json.dumps(geometry_to_plain(geometry))))
    assert restored.suffix == suffix
    assert restored.header is None
    np.testing.assert_array_equal(restored.affine, affine)
    assert written(tmp_path / "restored", restored) == written(tmp_path / "original", geometry)


def test_the_header_of_a_patient_is_not_copied_beyond_its_geometry(tmp_path):
    nifti = nib.Nifti1Image(VOXELS, np.eye(4))
    nifti.header["descrip"] = b"Jane Doe"
    nifti.header.extensions.append(nib.nifti1.Nifti1Extension(6, b"Jane Doe"))
    nib.save(nifti, tmp_path / "image.nii")
    write_labels(tmp_path / "out.nii", np.zeros((2, 3, 4), np.uint8), read_geometry(tmp_path / "image.nii"))
    assert b"Jane Doe" in (tmp_path / "image.nii").read_bytes()
    assert b"Jane Doe" not in (tmp_path / "out.nii").read_bytes()


def test_scaled_intensities_are_read_as_the_header_says(tmp_path):
    nifti = nib.Nifti1Image(VOXELS, np.eye(4))
    nifti.header.set_slope_inter(0.5, -3)
    nib.save(nifti, tmp_path / "image.nii.gz")
    expected = np.asanyarray(nib.load(tmp_path / "image.nii.gz").dataobj).T
    image, geometry = read_image(tmp_path / "image.nii.gz")
    np.testing.assert_allclose(image[0], expected)
    write_labels(tmp_path / "labels.nii.gz", np.full((2, 3, 4), 3, np.uint8), geometry)
    assert (read_labels(tmp_path / "labels.nii.gz")[0] == 3).all()  # the scale is the image's, not the labels'


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".mhd"])
def test_itk_formats_lie_where_itk_puts_them(tmp_path, suffix):
    itk = SimpleITK.GetImageFromArray(VOXELS.T)
    itk.SetSpacing((1.5, 2.5, 8.0))
    itk.SetOrigin((10.0, -20.0, 30.0))
    itk.SetDirection(rotation([0.1, -0.4, 0.3]).ravel())
    SimpleITK.WriteImage(itk, tmp_path / f"image{suffix}")
    image, geometry = read_image(tmp_path / f"image{suffix}")
    np.testing.assert_array_equal(image[0], VOXELS.T)
    np.testing.assert_allclose(geometry.spacing_mm, (8.0, 2.5, 1.5))
    lps = np.array(itk.TransformIndexToPhysicalPoint((3, 1, 1)))
    np.testing.assert_allclose((geometry.affine @ [3, 1, 1, 1])[:3], lps * [-1, -1, 1], atol=1e-4)

    write_labels(tmp_path / "out.nii.gz", np.ones((2, 3, 4), np.uint8), geometry)
    back = SimpleITK.ReadImage(tmp_path / "out.nii.gz")  # ITK's own reader must find it in the same place
    np.testing.assert_allclose(back.TransformIndexToPhysicalPoint((3, 1, 1)), lps, atol=1e-3)
    assert label_ending(geometry) == ".nii.gz"


def test_itk_vectors_are_channels_and_itk_pictures_have_depth_one(tmp_path):
    vectors = np.random.default_rng(0).integers(0, 99, (2, 3, 4, 5), np.uint8)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(vectors, isVector=True), tmp_path / "vector.nrrd")
    image, geometry = read_image(tmp_path / "vector.nrrd")
    np.testing.assert_array_equal(image, np.moveaxis(vectors, -1, 0))
    picture = SimpleITK.GetImageFromArray(vectors[0, ..., 0])
    picture.SetSpacing((0.5, 0.7))
    SimpleITK.WriteImage(picture, tmp_path / "picture.mha")
    labels, geometry = read_labels(tmp_path / "picture.mha")
    np.testing.assert_array_equal(labels, vectors[:1, ..., 0])
    np.testing.assert_allclose(geometry.spacing_mm, (1, 0.7, 0.5))
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(vectors, isVector=False), tmp_path / "4d.nrrd")
    with pytest.raises(FileError, match=r"4d\.nrrd: expected one 3-D volume, found 4 dimensions"):
        read_image(tmp_path / "4d.nrrd")


def test_colours_are_channels_and_transparency_is_not(tmp_path):
    colours = np.random.default_rng(0).integers(0, 255, (5, 7, 4), np.uint8)
    PIL.Image.fromarray(colours).save(tmp_path / "image.png")
    image, geometry = read_image(tmp_path / "image.png")
    np.testing.assert_array_equal(image[:, 0], colours[..., :3].transpose(2, 0, 1))
    assert geometry.shape == (1, 5, 7)
    assert geometry.spacing_mm == (1, 1, 1)


def test_sixteen_bit_pictures_keep_their_range(tmp_path):
    pixels = np.array([[0, 40000], [65535, 3]], np.uint16)
    PIL.Image.fromarray(pixels).save(tmp_path / "image.png")
    np.testing.assert_array_equal(read_image(tmp_path / "image.png")[0][0, 0], pixels)


def test_picture_labels_may_be_grey_palette_or_grey_saved_as_colour(tmp_path):
    values = np.array([[0, 1, 2], [3, 255, 0]], np.uint8)
    grey = PIL.Image.fromarray(values)
    palette = PIL.Image.frombytes("P", (3, 2), values.tobytes())
    palette.putpalette([90, 10, 10, 0, 250, 0, 7, 7] * 96)
    for name, picture in {"grey": grey, "palette": palette, "rgb": grey.convert("RGB")}.items():
        picture.save(tmp_path / f"{name}.png")
        labels, geometry = read_labels(tmp_path / f"{name}.png")
        np.testing.assert_array_equal(labels[0], values, name)
    write_labels(tmp_path / f"out{label_ending(geometry)}", labels, geometry)
    np.testing.assert_array_equal(read_labels(tmp_path / "out.png")[0][0], values)
    PIL.Image.fromarray(np.random.default_rng(0).integers(0, 9, (3, 3, 3), np.uint8)).save(tmp_path / "colour.png")
    with pytest.raises(FileError, match=r"colour\.png.*3 channels"):
        read_labels(tmp_path / "colour.png")


def test_channels_are_stacked_in_the_order_given_and_share_a_grid(tmp_path):
    for k in range(3):
        nib.save(nib.Nifti1Image(VOXELS + 100 * k, np.eye(4)), tmp_path / f"c_{k:04d}.nii.gz")
    paths = [tmp_path / f"c_{k:04d}.nii.gz" for k in (2, 0, 1)]
    np.testing.assert_array_equal(read_image(paths)[0][:, 0, 0, 0], [200, 0, 100])
    nib.save(nib.Nifti1Image(VOXELS, np.diag([1, 1, 2, 1])), paths[-1])
    with pytest.raises(FileError, match=r"c_0001.*expected the affine of c_0002"):
        read_image(paths)


def test_one_time_point_and_single_slices_are_volumes(tmp_path):
    nib.save(nib.Nifti1Image(VOXELS[..., None], np.eye(4)), tmp_path / "one.nii.gz")
    assert read_image(tmp_path / "one.nii.gz")[0].shape == (1, 2, 3, 4)
    nib.save(nib.Nifti1Image(VOXELS[..., 0], np.eye(4)), tmp_path / "slice.nii.gz")
    image, geometry = read_image(tmp_path / "slice.nii.gz")
    np.testing.assert_array_equal(image[0, 0], VOXELS[..., 0].T)
    assert geometry.shape == (1, 3, 4)


def test_probabilities_are_four_dimensional_with_labels_last(tmp_path):
    nib.save(nib.Nifti1Image(VOXELS, np.diag([2, 3, 4, 1])), tmp_path / "image.nii.gz")
    probabilities = np.random.default_rng(0).random((5, 2, 3, 4), np.float32)
    write_probabilities(tmp_path / "p.nii.gz", probabilities, read_geometry(tmp_path / "image.nii.gz"))
    written = nib.load(tmp_path / "p.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(written.dataobj), probabilities.transpose(3, 2, 1, 0))
    np.testing.assert_array_equal(written.affine, np.diag([2, 3, 4, 1]))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha", ".png"])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.7])
def test_a_file_that_was_cut_off_is_one_clear_error(tmp_path, suffix, kept, capfd):
    path = tmp_path / f"image{suffix}"
    noise = np.random.default_rng(0).integers(0, 255, (1, 40, 41) if suffix == ".png" else (8, 40, 41), np.uint8)
    geometry = Geometry(noise.shape, np.eye(4))
    if suffix in (".nrrd", ".mha"):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(noise), path)
    else:
        write_labels(path, noise, geometry)
    np.testing.assert_array_equal(read_labels(path)[0], noise)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    for read in (read_image, read_labels):
        with pytest.raises(DataError, match=rf"image\{suffix}.*(damaged|cut off)") as caught:
            read(path)
        assert "\n" not in str(caught.value)


def test_missing_and_foreign_files_are_named(tmp_path):
    for read in (read_image, read_labels, read_geometry):
        with pytest.raises(FileError, match=r"absent\.nii\.gz: expected this file, found none"):
            read(tmp_path / "absent.nii.gz")
        (tmp_path / "scan.dcm").write_bytes(b"DICM")
        with pytest.raises(FileError, match=r"scan\.dcm: expected a file ending in \.nii\.gz"):
            read(tmp_path / "scan.dcm")
    (tmp_path / "not.nii.gz").write_bytes(gzip.compress(b"nothing of the kind" * 100))
    with pytest.raises(FileError, match=r"not\.nii\.gz: expected a whole"):
        read_image(tmp_path / "not.nii.gz")


def test_time_series_are_refused(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((4, 3, 2, 5), np.int16), np.eye(4)), tmp_path / "4d.nii.gz")
    with pytest.raises(FileError, match=r"4d\.nii\.gz: expected one 3-D volume, found shape 4 x 3 x 2 x 5.*_0000"):
        read_image(tmp_path / "4d.nii.gz")


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_voxels_that_are_no_numbers_are_counted(tmp_path, bad):
    voxels = np.zeros((4, 3, 2))
    voxels[1, 1, 0] = voxels[2, 0, 1] = bad
    nib.save(nib.Nifti1Image(VOXELS, np.eye(4)), tmp_path / "a_0000.nii.gz")
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "a_0001.nii.gz")
    with pytest.raises(FileError, match=r"a_0001.*2 of 24 voxels NaN or infinite"):
        read_image([tmp_path / "a_0000.nii.gz", tmp_path / "a_0001.nii.gz"])


@pytest.mark.parametrize(("unit", "unit_mm"), [("mm", 1.0), ("micron", 0.001), ("meter", 1000.0), ("unknown", 1.0)])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_nifti_is_in_millimetres_whatever_its_unit_and_written_as_it_was(tmp_path, unit, unit_mm, kind):
    affine = np.array([[0, -2.0, 0, 7], [3.0, 0, 0, -5], [0, 0, 8.0, 1], [0, 0, 0, 1]])
    image = kind(VOXELS, affine)
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "image.nii.gz")
    geometry = read_geometry(tmp_path / "image.nii.gz")
    np.testing.assert_allclose(geometry.spacing_mm, np.array([8, 2, 3]) * unit_mm)
    np.testing.assert_allclose(geometry.affine[:3, 3], np.array([7, -5, 1]) * unit_mm)
    for grid in (geometry, geometry_from_plain(json.loads(json.dumps(geometry_to_plain(geometry))))):
        write_labels(tmp_path / "labels.nii.gz", np.zeros((2, 3, 4), np.uint8), grid)
        written = nib.load(tmp_path / "labels.nii.gz")
        np.testing.assert_array_equal(written.affine, nib.load(tmp_path / "image.nii.gz").affine)
        assert written.header.get_xyzt_units()[0] == unit
        check_same_grid(
            tmp_path / "labels.nii.gz", read_geometry(tmp_path / "labels.nii.gz"), tmp_path / "image.nii.gz", geometry
        )


@pytest.mark.parametrize(("unit", "unit_mm"), [("um", 0.001), ("m", 1000.0), ("cm", 10.0), ("mm", 1.0), ("px", 1.0)])
def test_nrrd_and_metaimage_are_in_millimetres_whatever_their_unit(tmp_path, unit, unit_mm):
    image = SimpleITK.GetImageFromArray(VOXELS.T.copy())
    image.SetSpacing((3.0, 2.0, 8.0))
    image.SetOrigin((7.0, -5.0, 1.0))
    lines = {
        "a.nrrd": b'space units: "%b" "%b" "%b"\n' % ((unit.encode(),) * 3),
        "a.mha": b"DistanceUnits = %b\n" % unit.encode(),
    }
    for name, line in lines.items():
        SimpleITK.WriteImage(image, str(tmp_path / name))
        content = (tmp_path / name).read_bytes()
        before = b"space directions" if name.endswith("nrrd") else b"ElementSpacing"
        (tmp_path / name).write_bytes(content.replace(before, line + before, 1))
        voxels, geometry = read_image([tmp_path / name])
        np.testing.assert_array_equal(voxels[0], VOXELS.T)
        np.testing.assert_allclose(geometry.spacing_mm, np.array([8, 2, 3]) * unit_mm)
        np.testing.assert_allclose(geometry.affine[:3, 3], np.array([-7, 5, 1]) * unit_mm)
        assert read_geometry(tmp_path / name).spacing_mm == geometry.spacing_mm


def test_labels_are_whole_numbers(tmp_path):
    nib.save(nib.Nifti1Image(VOXELS.astype(np.float32), np.eye(4)), tmp_path / "whole.nii.gz")
    np.testing.assert_array_equal(read_labels(tmp_path / "whole.nii.gz")[0], VOXELS.T)
    nib.save(nib.Nifti1Image(VOXELS * 1.000015, np.eye(4)), tmp_path / "rounded.nii.gz")
    np.testing.assert_array_equal(read_labels(tmp_path / "rounded.nii.gz")[0], VOXELS.T)
    nib.save(nib.Nifti1Image(VOXELS + 0.002, np.eye(4)), tmp_path / "off.nii.gz")
    with pytest.raises(FileError, match="expected integer labels"):
        read_labels(tmp_path / "off.nii.gz")
    nib.save(nib.Nifti1Image(VOXELS / np.float32(2), np.eye(4)), tmp_path / "half.nii.gz")
    with pytest.raises(
        FileError, match=r"half\.nii\.gz: expected integer labels, found 0\.5, 1\.5.*12 voxels.*nearest"
    ):
        read_labels(tmp_path / "half.nii.gz")


def test_an_affine_that_is_nowhere_is_refused(tmp_path):
    header = nib.Nifti1Header()
    header.set_data_shape(VOXELS.shape)
    header.set_sform(np.diag([1, 0, 1, 1]), code=1)
    nib.save(nib.Nifti1Image(VOXELS, None, header), tmp_path / "flat.nii")
    with pytest.raises(FileError, match=r"flat\.nii: expected an affine"):
        read_image(tmp_path / "flat.nii")


def test_grids_are_compared_at_their_corners(tmp_path):
    one = Geometry((10, 200, 200), np.diag([1.5, 1.5, 10, 1]))
    turned, moved = np.array(one.affine), np.array(one.affine)
    turned[:3, :3] = rotation([0, 0, 1e-3]) @ turned[:3, :3]  # nothing at the origin, 0.4 mm at the far corner
    moved[:3, 3] += 0.01
    check_same_grid(tmp_path / "b", Geometry(one.shape, moved), tmp_path / "a", one)
    with pytest.raises(FileError, match="0.422 mm elsewhere"):
        check_same_grid(tmp_path / "b", Geometry(one.shape, turned), tmp_path / "a", one)
    with pytest.raises(FileError, match="expected 10 x 200 x 200 voxels .* as in a, found 10 x 200 x 201"):
        check_same_grid(tmp_path / "b", Geometry((10, 200, 201), one.affine), tmp_path / "a", one)


@pytest.mark.parametrize("name", ["out.nii.gz", "out.png"])
def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch, name):
    geometry = Geometry((1, 3, 4), np.eye(4))
    write_labels(tmp_path / name, np.full((1, 3, 4), 1, np.uint8), geometry)

    def full(image, path, **_):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(nib, "save", full)
    monkeypatch.setattr(PIL.Image.Image, "save", full)
    with pytest.raises(DataError, match=rf"{name}: could not be written: No space left on device; free some space"):
        write_labels(tmp_path / name, np.full((1, 3, 4), 2, np.uint8), geometry)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (read_labels(tmp_path / name)[0] == 1).all()


def test_shapes_and_endings_are_the_callers_to_get_right(tmp_path):
    geometry = Geometry((2, 3, 4), np.eye(4))
    with pytest.raises(ValueError, match="shape"):
        write_labels(tmp_path / "a.nii.gz", np.zeros((2, 3, 5), np.uint8), geometry)
    with pytest.raises(ValueError, match=r"a\.mha"):
        write_labels(tmp_path / "a.mha", np.zeros((2, 3, 4), np.uint8), geometry)
    with pytest.raises(ValueError, match="shape"):
        write_probabilities(tmp_path / "a.nii.gz", np.zeros((2, 3, 4, 4), np.float32), geometry)


def test_folders_are_listed_by_stem_without_strangers(tmp_path):
    for name in ("b.nii.gz", "a.v2.NII.GZ", "c.mhd", "c.raw", ".DS_Store", "._b.nii.gz", "Thumbs.db", "notes.txt"):
        (tmp_path / name).write_text("")
    assert list(volumes_in(tmp_path)) == ["a.v2", "b", "c"]
    (tmp_path / "d.png").mkdir()
    with pytest.raises(FileError, match=r"d\.png: expected a file, found a folder"):
        volumes_in(tmp_path)
    (tmp_path / "d.png").rmdir()
    assert volumes_in(tmp_path / "absent") == {}
    assert (stem(tmp_path / "x.nii.gz"), ending(tmp_path / "x.nii.gz")) == ("x", ".nii.gz")
    (tmp_path / "b.nrrd").write_text("")
    with pytest.raises(FileError, match=r"one file named b, also found b\.nii\.gz"):
        volumes_in(tmp_path)
