"""Segmentations of 3D Slicer as scribbles and masks."""

import json

import nibabel as nib
import numpy as np
import PIL.Image
import pytest
import SimpleITK

from scribbleseg.data import folder, images, nnunet, open_dataset
from scribbleseg.data.formats import read_image, read_labels, read_segments
from scribbleseg.data.predictions import open_predictions
from scribbleseg.types import UNLABELLED, DataError

SHAPE = (4, 10, 12)  # depth height width
BOX = (slice(1, 3), slice(2, 7), slice(3, 10))
UNORDERED = {"ignore": 0, "background": 7, "disc": 3, "cup": 5}


def segmentation(path, values, segments, box=None, spacing=(0.7, 0.8, 3.0), origin=(10.0, -20.0, 30.0), **fields):
    """Writes values as Slicer does, cropped to a box; `segments` are names by value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    first = [part.start for part in box] if box else [0, 0, 0]
    itk = SimpleITK.GetImageFromArray(values[box] if box else values)
    itk.SetSpacing(spacing)
    itk.SetOrigin([o + n * s for o, n, s in zip(origin, first[::-1], spacing, strict=True)])
    for n, (value, name) in enumerate(segments.items()):
        for field, text in {"ID": f"Segment_{n}", "Name": name, "LabelValue": str(value), "Layer": "0"}.items():
            itk.SetMetaData(f"Segment{n}_{field}", text)
    itk.SetMetaData("Segmentation_ReferenceImageExtentOffset", " ".join(map(str, first[::-1])))
    for field, text in fields.items():
        itk.SetMetaData(field, text)
    SimpleITK.WriteImage(itk, path, useCompression=True)


def strokes(values=(1, 2, 3)):
    """Values with lines of three segments, all within the box."""
    drawn = np.zeros(SHAPE, np.uint8)
    drawn[1, 2:6, 3], drawn[2, 3, 4:10], drawn[1:3, 6, 9] = values
    return drawn


def expected(first, second, third, rest=UNLABELLED):
    labels = np.full(SHAPE, rest, np.uint8)
    labels[1, 2:6, 3], labels[2, 3, 4:10], labels[1:3, 6, 9] = first, second, third
    return labels


def declare(root, labels, **more):
    (root / "dataset.json").write_text(json.dumps({"labels": labels, **more}))


@pytest.fixture(params=["p01.nii.gz", "p01.nrrd"])
def root(tmp_path, request):
    itk = SimpleITK.GetImageFromArray(np.random.default_rng(0).integers(0, 99, SHAPE).astype(np.int16))
    itk.SetSpacing((0.7, 0.8, 3.0))
    itk.SetOrigin((10.0, -20.0, 30.0))
    (tmp_path / "images").mkdir()
    SimpleITK.WriteImage(itk, tmp_path / "images" / request.param)
    declare(tmp_path, UNORDERED)
    return tmp_path


@pytest.mark.parametrize("box", [None, BOX])
def test_segments_are_labels_by_their_names_whatever_their_values(root, box):
    segmentation(root / "scribbles" / "p01.seg.nrrd", strokes(), {1: "cup", 2: "Background", 3: "disc"}, box)
    dataset = open_dataset(root)
    assert dataset.label_names == ("background", "disc", "cup")
    np.testing.assert_array_equal(dataset.train.named("p01").scribbles, expected(2, 0, 1))


def test_names_go_before_values(root):
    segmentation(root / "scribbles" / "p01.seg.nrrd", strokes((3, 5, 7)), {3: "cup", 5: "background", 7: "disc"})
    np.testing.assert_array_equal(folder(root).train[0].scribbles, expected(2, 0, 1))


@pytest.mark.parametrize("labels", [UNORDERED, {"background": 0, "disc": 3, "cup": 5, "ignore": 9}])
def test_what_nobody_drew_is_not_background_where_background_is_a_segment(root, labels):
    declare(root, labels)
    segmentation(root / "scribbles" / "p01.seg.nrrd", strokes(), {1: "cup", 2: "background", 3: "disc"}, BOX)
    np.testing.assert_array_equal(folder(root).train[0].scribbles, expected(2, 0, 1))
    nobody = strokes((1, 0, 3))  # the segment is there, and empty
    segmentation(root / "scribbles" / "p01.seg.nrrd", nobody, {1: "cup", 2: "background", 3: "disc"})
    np.testing.assert_array_equal(folder(root).train[0].scribbles, expected(2, UNLABELLED, 1))


def test_without_a_segment_of_background_the_declaration_says_what_zero_is(root):
    segments = {1: "cup", 2: "ignore", 3: "disc"}
    segmentation(root / "scribbles" / "p01.seg.nrrd", strokes(), segments)
    np.testing.assert_array_equal(folder(root).train[0].scribbles, expected(2, UNLABELLED, 1))
    declare(root, {"background": 0, "disc": 1, "cup": 2, "ignore": 3})
    np.testing.assert_array_equal(folder(root).train[0].scribbles, expected(2, UNLABELLED, 1, rest=0))
    segmentation(root / "scribbles" / "p01.seg.nrrd", strokes(), segments, BOX)
    labels = np.full(SHAPE, UNLABELLED, np.uint8)
    labels[BOX] = expected(2, UNLABELLED, 1, rest=0)[BOX]
    np.testing.assert_array_equal(folder(root).train[0].scribbles, labels, "what the file does not cover")


def test_nothing_drawn_never_becomes_background_unsaid(root):
    declare(root, {"background": 0, "disc": 1, "cup": 2, "ignore": 3})
    segmentation(root / "scribbles" / "p01.seg.nrrd", strokes((1, 1, 2)), {1: "disc", 2: "cup"})
    with pytest.raises(DataError, match=r"expected a segment called background or ignore, found disc, cup alone.*draw"):
        folder(root).train.named("p01")


def test_names_that_are_not_declared_leave_the_values(root):
    segmentation(root / "scribbles" / "p01.seg.nrrd", strokes((3, 5, 7)), {3: "Segment_1", 5: "Segment_2", 7: "S3"})
    np.testing.assert_array_equal(folder(root).train[0].scribbles, expected(1, 2, 0))
    segmentation(root / "scribbles" / "p01.seg.nrrd", strokes((3, 5, 7)), {3: "disc", 5: "Segment_2", 7: "S3"})
    np.testing.assert_array_equal(folder(root).train[0].scribbles, expected(1, 2, 0))


@pytest.mark.parametrize(
    ("values", "segments", "found"),
    [
        ((1, 2, 3), {1: "Segment_1", 2: "vein", 3: "disc"}, r"Segment_1 \(value 1\), vein \(value 2\), disc"),
        ((3, 5, 7), {3: "cup", 5: "Segment_2", 7: "S3"}, r"cup \(value 3\), Segment_2 \(value 5\)"),
    ],
)
def test_where_neither_fits_the_names_that_were_found_are_said(root, values, segments, found):
    segmentation(root / "scribbles" / "p01.seg.nrrd", strokes(values), segments)
    message = rf"p01\.seg\.nrrd: expected segments named background, disc, cup, ignore, or .*, found {found}.*rename"
    with pytest.raises(DataError, match=message):
        folder(root).train.named("p01")


def test_segments_that_are_empty_may_have_any_name(root):
    segmentation(root / "scribbles" / "p01.seg.nrrd", strokes((1, 0, 3)), {1: "cup", 2: "Segment_2", 3: "disc"})
    np.testing.assert_array_equal(folder(root).train[0].scribbles, expected(2, UNLABELLED, 1))


def test_one_voxel_is_how_an_empty_segmentation_is_written(root):
    declare(root, {"background": 0, "disc": 1, "cup": 2, "ignore": 3})
    segmentation(root / "scribbles" / "p01.seg.nrrd", np.zeros((1, 1, 1), np.uint8), {1: "disc"}, spacing=(1, 1, 1))
    assert (folder(root).train[0].scribbles == UNLABELLED).all()


@pytest.mark.parametrize("box", [None, BOX])
def test_masks_are_background_where_nothing_is_drawn(root, box):
    segmentation(root / "masks" / "p01.seg.nrrd", strokes((1, 1, 3)), {1: "cup", 3: "disc"}, box)
    np.testing.assert_array_equal(folder(root).reference("p01"), expected(2, 2, 1, rest=0))
    segmentation(root / "masks" / "p01.seg.nrrd", strokes((1, 0, 3)), {1: "cup", 2: "background", 3: "disc"}, box)
    np.testing.assert_array_equal(folder(root).reference("p01"), expected(2, 0, 1, rest=0))
    segmentation(root / "masks" / "p01.seg.nrrd", strokes(), {1: "cup", 2: "background", 3: "disc"}, box)
    np.testing.assert_array_equal(folder(root).reference("p01"), expected(2, 0, 1), "where background is drawn")


def test_predictions_may_be_segmentations(root):
    segmentation(root / "masks" / "p01.seg.nrrd", strokes((1, 1, 3)), {1: "cup", 3: "disc"})
    segmentation(root / "predicted" / "p01.seg.nrrd", strokes((1, 1, 3)), {1: "cup", 3: "disc"}, BOX)
    dataset = folder(root)
    predictions = open_predictions(root / "predicted", dataset)
    np.testing.assert_array_equal(predictions.read(dataset.train[0]), dataset.reference("p01"))


def test_overlapping_segments_are_refused_in_every_role(root):
    header = (
        "NRRD0004\ntype: unsigned char\ndimension: 4\nspace: left-posterior-superior\nsizes: 2 12 10 4\n"
        "space directions: none (0.7,0,0) (0,0.8,0) (0,0,3)\nkinds: list domain domain domain\nencoding: raw\n"
        "space origin: (10,-20,30)\nSegment0_Layer:=0\nSegment0_LabelValue:=1\nSegment0_Name:=disc\n"
        "Segment1_Layer:=1\nSegment1_LabelValue:=1\nSegment1_Name:=cup\n\n"
    )
    two = np.stack([strokes(), strokes()], -1)  # the same twice: not a grey picture that was saved as RGB
    for part in ("scribbles", "masks"):
        (root / part).mkdir()
        (root / part / "p01.seg.nrrd").write_bytes(header.encode() + two.tobytes())
    message = r"p01\.seg\.nrrd: .*overlapping segments in 2 layers \(disc, cup\).*Segmentations.*Collapse labelmap"
    for read in (lambda: folder(root).train.named("p01"), lambda: folder(root).reference("p01")):
        with pytest.raises(DataError, match=message) as caught:
            read()
        assert "colours?" not in str(caught.value)
    for name in ("p01.seg.nrrd", "p01.nrrd"):
        with pytest.raises(DataError, match=message.replace(r"\.seg", r"(\.seg)?")):
            read_labels((root / "masks" / "p01.seg.nrrd").rename(root / "masks" / name))
    (root / "dataset.json").unlink()
    with pytest.raises(DataError, match=message):
        folder(root)


def test_segmentations_of_another_image_are_refused(root):
    segmentation(
        root / "scribbles" / "p01.seg.nrrd", strokes(), {1: "cup", 2: "background", 3: "disc"}, spacing=(1, 1, 3)
    )
    with pytest.raises(DataError, match=r"p01\.seg\.nrrd: expected the affine of p01"):
        folder(root).train.named("p01")
    origin = (10 + 0.35, -20.0, 30.0)  # half a voxel aside
    segmentation(root / "scribbles" / "p01.seg.nrrd", strokes(), {1: "cup", 2: "background", 3: "disc"}, origin=origin)
    with pytest.raises(DataError, match=r"p01\.seg\.nrrd: expected the affine of p01"):
        folder(root).train.named("p01")


@pytest.mark.parametrize("move", [(-5, 0, 0), (0, 4, 0), (0, 0, 99)])
def test_a_box_may_stick_out_of_the_image_where_nothing_is_drawn(root, move):
    origin = tuple(o + n * s for o, n, s in zip((10, -20, 30), move, (0.7, 0.8, 3), strict=True))
    segments = {1: "cup", 2: "background", 3: "disc"}
    wide = np.zeros((*SHAPE[:2], SHAPE[2] + 5), np.uint8)
    if move == (-5, 0, 0):
        drawn = np.pad(strokes(), ((0, 0), (0, 0), (5, 0)))
        segmentation(root / "scribbles" / "p01.seg.nrrd", drawn, segments, origin=origin)
        np.testing.assert_array_equal(folder(root).train[0].scribbles, expected(2, 0, 1))
    segmentation(root / "scribbles" / "p01.seg.nrrd", wide, segments, origin=origin)
    assert (folder(root).train[0].scribbles == UNLABELLED).all()
    segmentation(root / "scribbles" / "p01.seg.nrrd", wide + np.uint8(1), segments, origin=origin)
    with pytest.raises(DataError, match=r"expected segments within p01.*voxels outside of it"):
        folder(root).train.named("p01")


def test_the_advice_about_a_missing_declaration_has_the_names_of_segments(root):
    segmentation(root / "scribbles" / "p01.seg.nrrd", strokes(), {1: "cup", 2: "background", 3: "disc"}, BOX)
    (root / "dataset.json").unlink()
    with pytest.raises(DataError) as caught:
        folder(root)
    message = str(caught.value)
    advice = json.loads(message[message.index("write {") + 6 : message.rindex("}") + 1])
    assert advice == {"labels": {"background": 2, "cup": 1, "disc": 3, "ignore": 0}}


def test_a_segmentation_is_no_image(root):
    segmentation(root / "scribbles" / "p01.seg.nrrd", strokes(), {1: "cup", 2: "background", 3: "disc"})
    (root / "images" / "p01.seg.nrrd").write_bytes((root / "scribbles" / "p01.seg.nrrd").read_bytes())
    assert images(root).names == ("p01",)
    assert (images(root)[0].image < 99).all()
    with pytest.raises(
        DataError, match=r"images/p01\.seg\.nrrd: expected images alone.*move it to scribbles/ or masks/"
    ):
        folder(root)
    with pytest.raises(DataError, match="expected an image, found a segmentation"):
        read_image(root / "images" / "p01.seg.nrrd")


def test_a_segmentation_without_its_image_is_an_error_of_its_case(root):
    segmentation(root / "scribbles" / "p02.seg.nrrd", strokes(), {1: "cup", 2: "background", 3: "disc"})
    with pytest.raises(DataError, match=r"images/p02\.nrrd: expected this file, found none"):
        folder(root).train.named("p02")


def test_pictures_may_have_segmentations(tmp_path):
    (tmp_path / "images").mkdir()
    PIL.Image.fromarray(np.zeros(SHAPE[1:], np.uint8)).save(tmp_path / "images" / "p01.png")
    declare(tmp_path, UNORDERED)
    flat = strokes()[1:2]
    box = (slice(0, 1), slice(2, 7), slice(3, 10))
    for name, spacing in {"p01": (1.0, 1.0, 1.0), "p02": (0.35, 0.35, 1.0)}.items():
        PIL.Image.fromarray(np.zeros(SHAPE[1:], np.uint8)).save(tmp_path / "images" / f"{name}.png")
        segments = {1: "cup", 2: "background", 3: "disc"}
        segmentation(
            tmp_path / "scribbles" / f"{name}.seg.nrrd", flat, segments, box, spacing=spacing, origin=(0, 0, 0)
        )
    for case in folder(tmp_path).train:
        np.testing.assert_array_equal(case.scribbles, expected(2, 0, 1)[1:2])


def test_files_of_slicer_that_are_named_nrrd_alone_are_read_the_same(root):
    segmentation(root / "scribbles" / "p01.nrrd", strokes(), {1: "cup", 2: "background", 3: "disc"}, BOX)
    np.testing.assert_array_equal(folder(root).train[0].scribbles, expected(2, 0, 1))
    assert [segment.name for segment in read_segments(root / "scribbles" / "p01.nrrd")] == ["cup", "background", "disc"]


def test_nnunet_reads_segmentations_beside_nrrd(tmp_path):
    (tmp_path / "imagesTr").mkdir()
    segmentation(tmp_path / "imagesTr" / "a_0000.nrrd", strokes(), {})
    segmentation(tmp_path / "labelsTr" / "a.seg.nrrd", strokes((1, 2, 3)), {1: "cup", 2: "background", 3: "disc"}, BOX)
    labels = {"background": 0, "disc": 1, "cup": 2, "ignore": 3}
    declare(tmp_path, labels, channel_names={"0": "MRI"}, file_ending=".nrrd")
    np.testing.assert_array_equal(nnunet(tmp_path).train[0].scribbles, expected(2, 0, 1))


def test_values_without_a_segment_are_named(root):
    segmentation(root / "scribbles" / "p01.seg.nrrd", strokes(), {1: "cup", 2: "background"})
    with pytest.raises(DataError, match=r"found 3 \(2 voxels\)"):
        folder(root).train.named("p01")


def test_masks_of_nifti_images_in_another_order_of_axes_are_pasted(tmp_path):
    affine = np.array([[0, 0, 3.0, 5], [-0.7, 0, 0, 1], [0, 0.8, 0, -9], [0, 0, 0, 1]])
    (tmp_path / "images").mkdir()
    nib.save(nib.Nifti1Image(np.zeros(SHAPE[::-1], np.int16), affine), tmp_path / "images" / "p01.nii.gz")
    whole = nib.Nifti1Image(strokes().T, affine).slicer[3:10, 2:7, 1:3]
    nib.save(whole, tmp_path / "box.nii.gz")
    itk = SimpleITK.ReadImage(tmp_path / "box.nii.gz")
    for n, name in enumerate(("cup", "background", "disc")):
        itk.SetMetaData(f"Segment{n}_Name", name)
        itk.SetMetaData(f"Segment{n}_LabelValue", str(n + 1))
    (tmp_path / "scribbles").mkdir()
    SimpleITK.WriteImage(itk, tmp_path / "scribbles" / "p01.seg.nrrd")
    declare(tmp_path, UNORDERED)
    np.testing.assert_array_equal(folder(tmp_path).train[0].scribbles, expected(2, 0, 1))
