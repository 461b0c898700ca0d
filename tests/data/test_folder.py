import json
import pickle
import shutil
import unicodedata

import nibabel as nib
import numpy as np
import PIL.Image
import pytest
import SimpleITK

from scribbleseg.data import folder, images, open_dataset
from scribbleseg.data.layouts.folder import image_files
from scribbleseg.types import UNLABELLED, DataError

IMAGE = np.random.default_rng(0).integers(0, 1000, (12, 10, 2)).astype(np.int16)  # x y z


def save(path, voxels, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)


def declare(root, labels):
    (root / "dataset.json").write_text(json.dumps({"labels": labels}))


def strokes(unlabelled=9, background=0, first=1):
    """Mostly unlabelled, with a line of each of background and two structures."""
    labels = np.full((12, 10, 2), unlabelled, np.uint8)
    labels[1:9, 1], labels[1:9, 4], labels[1:9, 7] = background, first, first + 1
    return labels


@pytest.fixture
def root(tmp_path):
    for name in ("a", "b", "c"):
        save(tmp_path / "images" / f"{name}.nii.gz", IMAGE)
    for name in ("a", "b"):
        save(tmp_path / "scribbles" / f"{name}.nii.gz", strokes())
    save(tmp_path / "masks" / "c.nii.gz", strokes(unlabelled=0))
    declare(tmp_path, {"background": 0, "liver": 1, "tumour": 2, "ignore": 9})
    return tmp_path


def test_cases_with_scribbles_train_and_the_others_test(root):
    dataset = open_dataset(root)
    assert (dataset.name, dataset.label_names) == ("folder", ("background", "liver", "tumour"))
    assert (dataset.train.names, dataset.test.names) == (("a", "b"), ("c",))
    assert dataset.notes == ("1 of 3 cases has no scribbles and is a test case",)
    np.testing.assert_array_equal(dataset.train[0].scribbles, np.where(strokes() == 9, UNLABELLED, strokes()).T)
    np.testing.assert_array_equal(dataset.reference("c"), strokes(unlabelled=0).T)
    assert (dataset.test[0].scribbles == UNLABELLED).all()


def test_zero_may_mean_unlabelled_if_it_is_declared(root):
    for name in ("a", "b"):
        save(root / "scribbles" / f"{name}.nii.gz", strokes(unlabelled=0, background=7, first=2))
    save(root / "masks" / "c.nii.gz", np.where(strokes() == 9, 0, strokes(first=2)))
    declare(root, {"ignore": 0, "background": 7, "tumour": 3, "liver": 2})
    dataset = folder(root)
    assert dataset.label_names == ("background", "liver", "tumour")
    expected = np.where(strokes() == 9, UNLABELLED, strokes()).T
    np.testing.assert_array_equal(dataset.train[0].scribbles, expected)
    # In a full mask 0 can only be background, as every drawing tool writes it.
    np.testing.assert_array_equal(dataset.reference("c") > 0, (expected > 0) & (expected < UNLABELLED))


@pytest.mark.parametrize("labels", [None, {"background": 0, "liver": 1, "tumour": 2}])
@pytest.mark.parametrize(("unlabelled", "background"), [(0, 3), (9, 0)])
def test_where_zero_is_ambiguous_it_refuses_and_its_advice_works(root, labels, unlabelled, background):
    for name in ("a", "b"):
        save(root / "scribbles" / f"{name}.nii.gz", strokes(unlabelled, background))
    declare(root, labels) if labels else (root / "dataset.json").unlink()
    with pytest.raises(DataError, match=f"most voxels are {unlabelled}, probably the unlabelled ones") as caught:
        open_dataset(root)
    message = str(caught.value)
    advice = message[message.index("write {") + 6 : message.rindex("}") + 1]
    (root / "dataset.json").write_text(advice)
    dataset = open_dataset(root)
    assert dataset.n_labels == 3
    assert dataset.label_names[1] == ("liver" if labels else "structure 1")
    np.testing.assert_array_equal(dataset.train[0].scribbles, np.where(strokes() == 9, UNLABELLED, strokes()).T)


def test_values_that_nobody_declared_are_named(root):
    labels = strokes()
    labels[0, 0, 0] = labels[0, 1, 0] = 5
    save(root / "scribbles" / "b.nii.gz", labels)
    with pytest.raises(
        DataError, match=r"case b: .*b\.nii\.gz: expected the values 0 background, .*found 5 \(2 voxels\)"
    ):
        folder(root).train.named("b")


def test_negative_and_large_values_can_be_declared(root):
    for name in ("a", "b"):
        values = strokes().astype(np.int16)
        save(
            root / "scribbles" / f"{name}.nii.gz", np.choose(np.minimum(values, 3), [0, 205, 500, -1]).astype(np.int16)
        )
    declare(root, {"background": 0, "liver": 205, "tumour": 500, "ignore": -1})
    np.testing.assert_array_equal(folder(root).train[0].scribbles, np.where(strokes() == 9, UNLABELLED, strokes()).T)


def test_a_misnamed_scribble_is_not_silently_a_test_case(root):
    (root / "scribbles" / "b.nii.gz").rename(root / "scribbles" / "b_scribble.nii.gz")
    dataset = folder(root)
    assert dataset.train.names == ("a", "b_scribble")
    with pytest.raises(DataError, match=r"scribbles/b_scribble\.nii\.gz: .* to image b: rename it to b\.nii\.gz"):
        dataset.train.named("b_scribble")


class TestMasksWithoutScribbles:
    @pytest.fixture
    def root(self, root):
        shutil.rmtree(root / "scribbles")
        save(root / "masks" / "a.nii.gz", strokes(unlabelled=0))
        return root

    @pytest.mark.parametrize("ignore", [{}, {"ignore": 9}])
    def test_cases_with_masks_train_and_the_others_test(self, root, ignore):
        declare(root, {"background": 0, "liver": 1, "tumour": 2, **ignore})
        dataset = open_dataset(root)
        assert (dataset.train.names, dataset.test.names) == (("a", "c"), ("b",))
        assert all((case.scribbles == UNLABELLED).all() for case in dataset.train)
        np.testing.assert_array_equal(dataset.reference("a"), strokes(unlabelled=0).T)
        assert "simulate" in dataset.notes[0]
        assert dataset.notes[1] == "1 of 3 cases has no mask and is a test case"

    def test_their_values_must_be_declared(self, root):
        declare(root, {"background": 0, "liver": 1})
        with pytest.raises(DataError, match=r"case a: .*expected the values 0 background, 1 liver, found 2 \("):
            folder(root).reference("a")
        declare(root, {"liver": 1, "tumour": 2})
        with pytest.raises(DataError, match='expected "background" among the labels'):
            folder(root)
        (root / "dataset.json").unlink()
        with pytest.raises(DataError, match=r"dataset\.json: expected this file to say what the masks' values mean"):
            folder(root)

    def test_masks_of_other_images_are_refused(self, root):
        for name in "ac":
            (root / "masks" / f"{name}.nii.gz").rename(root / "masks" / f"{name}_seg.nii.gz")
        with pytest.raises(DataError, match="expected masks named like the images, found a_seg, c_seg"):
            folder(root)

    def test_neither_is_refused(self, root):
        shutil.rmtree(root / "masks")
        with pytest.raises(
            DataError, match="expected scribbles .*found no folder .*scribbles; draw some .*annotate .*, or add masks/"
        ):
            folder(root)


@pytest.mark.parametrize(
    ("affine", "shape", "message"),
    [(np.diag([1, 1, 2, 1]), (12, 10, 2), "affine of a.nii.gz"), (np.eye(4), (12, 11, 2), "expected 2 x 10 x 12")],
)
def test_scribbles_on_another_grid_are_refused(root, affine, shape, message):
    save(root / "scribbles" / "a.nii.gz", np.full(shape, 9, np.uint8), affine)
    with pytest.raises(DataError, match=message):
        folder(root).train.named("a")


def test_images_and_scribbles_may_be_of_different_formats(root):
    itk = SimpleITK.GetImageFromArray(strokes().T)
    itk.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))  # the identity in NIfTI's RAS
    (root / "scribbles" / "a.nii.gz").unlink()
    SimpleITK.WriteImage(itk, root / "scribbles" / "a.nrrd")
    np.testing.assert_array_equal(*(folder(root).train.named(name).scribbles for name in "ab"))


def test_channels_by_suffix_and_numbered_slices_by_their_label_maps(tmp_path):
    for k in range(2):
        save(tmp_path / "images" / f"a_{k:04d}.nii.gz", IMAGE + k)
    save(tmp_path / "images" / "visit_2021.nii.gz", IMAGE)  # a year is no channel
    save(tmp_path / "scribbles" / "a.nii.gz", strokes())
    declare(tmp_path, {"background": 0, "liver": 1, "tumour": 2, "ignore": 9})
    dataset = folder(tmp_path)
    assert (dataset.train.names, dataset.test.names) == (("a",), ("visit_2021",))
    assert dataset.train[0].image.shape == (2, 2, 10, 12)
    (tmp_path / "scribbles" / "a.nii.gz").rename(tmp_path / "scribbles" / "a_0001.nii.gz")
    dataset = folder(tmp_path)
    assert (dataset.train.names, dataset.test.names) == (("a_0001",), ("a_0000", "visit_2021"))
    assert dataset.train[0].image.shape == (1, 2, 10, 12)


def test_pictures(tmp_path):
    for name in ("images", "scribbles"):
        (tmp_path / name).mkdir()
    PIL.Image.fromarray(IMAGE[..., 0].astype(np.uint8)).save(tmp_path / "images" / "a.png")
    PIL.Image.fromarray(strokes()[..., 0]).save(tmp_path / "scribbles" / "a.png")
    (tmp_path / "images" / "Thumbs.db").write_text("")
    declare(tmp_path, {"background": 0, "liver": 1, "tumour": 2, "ignore": 9})
    case = folder(tmp_path).train[0]
    assert case.image.shape == (1, 1, 12, 10)
    assert case.geometry.suffix == ".png"


def test_cases_travel_to_other_processes(root):
    dataset = pickle.loads(pickle.dumps(folder(root)))
    assert dataset.train[0].name == "a"
    assert dataset.reference("c").shape == (2, 10, 12)


def test_images_to_segment(root):
    for path in (root, root / "images"):
        assert images(path).names == ("a", "b", "c")
    [case] = images(root / "images" / "b.nii.gz")
    assert case.name == "b"
    assert (case.scribbles == UNLABELLED).all()
    np.testing.assert_array_equal(case.image[0], IMAGE.T)


def test_images_are_grouped_by_channel_unless_the_network_has_one(tmp_path):
    for k in range(3):
        save(tmp_path / f"scan_{k:04d}.nii.gz", IMAGE + k)
    assert images(tmp_path).names == ("scan",)
    assert images(tmp_path)[0].image.shape[0] == 3
    assert images(tmp_path, n_channels=1).names == ("scan_0000", "scan_0001", "scan_0002")
    (tmp_path / "scan_0001.nii.gz").unlink()
    with pytest.raises(DataError, match=r"case scan: expected channels 0..2, found no channel \[1\]"):
        images(tmp_path)


def test_a_link_that_leads_nowhere_is_an_error(root):
    (root / "scribbles" / "b.nii.gz").unlink()
    (root / "scribbles" / "b.nii.gz").symlink_to(root / "annex" / "gone")
    with pytest.raises(DataError, match=r"b\.nii\.gz: expected a file, found a link that leads nowhere; fetch"):
        folder(root)


@pytest.mark.parametrize("name", ["b.bmp", "b.img", "b.nii.gz.part", "b.json"])
def test_scribbles_that_are_not_read_do_not_make_a_test_case(root, name):
    (root / "scribbles" / "b.nii.gz").rename(root / "scribbles" / name)
    with pytest.raises(DataError, match=rf"{name}: expected scribbles as a file ending in .*convert it"):
        folder(root)


def test_scribbles_that_are_not_read_of_channels_do_not_make_a_test_case_either(root):
    for name in "ab":
        (root / "images" / f"{name}.nii.gz").rename(root / "images" / f"{name}_0000.nii.gz")
    (root / "scribbles" / "a.bmp").write_bytes(b"")
    assert folder(root).train.names == ("a", "b"), "a is drawn in a file that is read"
    (root / "scribbles" / "b.nii.gz").rename(root / "scribbles" / "b.bmp")
    with pytest.raises(DataError, match=r"b\.bmp: expected scribbles as a file"):
        folder(root)


def test_scribbles_that_are_not_read_are_found_whichever_way_accents_are_stored(root):
    (root / "images" / "b.nii.gz").rename(root / "images" / "Jos\u00e9.nii.gz")
    (root / "scribbles" / "b.nii.gz").rename(root / "scribbles" / unicodedata.normalize("NFD", "Jos\u00e9.bmp"))
    with pytest.raises(DataError, match="expected scribbles as a file"):
        folder(root)


def test_one_image_to_segment_says_nothing_of_its_neighbours(root, caplog):
    (root / "images" / "a_0000.nii.gz").write_bytes((root / "images" / "a.nii.gz").read_bytes())
    (root / "images" / "thesis.docx").write_bytes(b"")
    assert images(root / "images" / "a.nii.gz").names == ("a",)
    assert not caplog.records
    assert images(root / "images", n_channels=1).names == ("a", "a_0000", "b", "c"), "one channel each"
    assert "thesis.docx" in caplog.text
    with pytest.raises(DataError, match="also found"):
        images(root / "images", n_channels=2)


def test_files_that_are_not_read_are_named(root):
    for name in ("images/thumbnail.gif", "scribbles/notes.xlsx", "images/readme.txt", "images/.hidden.gif"):
        (root / name).write_bytes(b"")
    assert "not read: images/thumbnail.gif, scribbles/notes.xlsx" in folder(root).notes


def test_an_image_that_is_there_whole_and_as_channels_is_an_error(root):
    (root / "images" / "a_0000.nii.gz").write_bytes((root / "images" / "a.nii.gz").read_bytes())
    (root / "scribbles" / "a.nii.gz").rename(root / "scribbles" / "z.nii.gz")
    with pytest.raises(DataError, match=r"a_0000\.nii\.gz: expected channels a_0000, .* also found a\.nii\.gz"):
        folder(root)


def test_names_are_compared_whichever_way_their_accents_are_stored(root):
    for place, form in (("images", "NFD"), ("scribbles", "NFC")):
        (root / place / "a.nii.gz").rename(root / place / unicodedata.normalize(form, "Jos\u00e9.nii.gz"))
    dataset = folder(root)
    assert "Jos\u00e9" in dataset.train.names
    assert (dataset.train.named("Jos\u00e9").scribbles != UNLABELLED).any()


def test_nothing_to_segment(tmp_path):
    for path in (tmp_path, tmp_path / "absent", tmp_path / "absent.nii.gz"):
        with pytest.raises(DataError, match="expected an image or a folder of images"):
            images(path)


def test_layouts_that_are_not_recognised_are_shown_the_known_ones(tmp_path):
    with pytest.raises(DataError, match="expected the folder of a data set, found no such folder"):
        open_dataset(tmp_path / "absent")
    with pytest.raises(DataError, match=r"found nothing; name it with --format(.|\n)*nnunet: imagesTr/CASE_0000"):
        open_dataset(tmp_path)
    with pytest.raises(DataError, match="a format among acdc, brats, nci_isbi, promise12, prostate158, nnunet, folder"):
        open_dataset(tmp_path, "dicom")
    for name in ("images", "imagesTr"):
        (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=r"found several \(nnunet, folder\)"):
        open_dataset(tmp_path)
    with pytest.raises(DataError, match=r"expected images \(\.nii\.gz, .*found none in .*images"):
        open_dataset(tmp_path, "folder")
    with pytest.raises(DataError, match="format nnunet takes scribbles; got fold"):
        open_dataset(tmp_path, "nnunet", fold=1)


def write_series(folder):
    """A DICOM series of two slices."""
    folder.mkdir(parents=True)
    tags = {"0008|0060": "MR", "0020|000d": "1.2.3", "0020|000e": "1.2.3.4", "0020|0037": "1\\0\\0\\0\\1\\0"}
    writer = SimpleITK.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for z in range(2):
        slice_ = SimpleITK.GetImageFromArray(IMAGE.T[z])
        own = {"0008|0018": f"1.2.3.4.{z}", "0020|0013": str(z), "0020|0032": f"0\\0\\{z}"}
        for tag, value in (tags | own).items():
            slice_.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{z}.dcm"))
        writer.Execute(slice_)


def test_images_may_lie_beside_the_declaration_and_be_series(tmp_path):
    save(tmp_path / "a.nii.gz", IMAGE)
    write_series(tmp_path / "b.1")
    save(tmp_path / "scribbles" / "a.nii.gz", strokes())
    save(tmp_path / "scribbles" / "b.1.nii.gz", strokes(), np.diag([-1.0, -1.0, 1.0, 1.0]))
    declare(tmp_path, {"background": 0, "liver": 1, "tumour": 2, "ignore": 9})
    dataset = open_dataset(tmp_path)
    assert dataset.train.names == ("a", "b.1")
    assert dataset.train.images == {"a": (tmp_path / "a.nii.gz",), "b.1": (tmp_path / "b.1",)}
    for case in dataset.train:
        np.testing.assert_array_equal(case.image[0], IMAGE.T)
        np.testing.assert_array_equal(case.scribbles, np.where(strokes() == 9, UNLABELLED, strokes()).T)


def test_one_series_alone_is_a_case(tmp_path):
    write_series(tmp_path / "patient")
    assert image_files(tmp_path / "patient") == {"patient": (tmp_path / "patient",)}
