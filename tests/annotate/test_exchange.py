"""Scribbles for other programs and back: the headers that those programs write, orientations, names and bad input."""

import json
import warnings
from dataclasses import replace

import nibabel as nib
import numpy as np
import PIL.Image
import pytest
import SimpleITK
import tifffile
from typer.testing import CliRunner

from scribbleseg.annotate.exchange import PROGRAMS, export_scribbles, import_drawings
from scribbleseg.annotate.exchange.drawings import case_of
from scribbleseg.annotate.exchange.headers import mitk_labels, read_snap_description, snap_description
from scribbleseg.cli import app
from scribbleseg.data import folder, open_dataset
from scribbleseg.data.formats import read_geometry
from scribbleseg.types import UNLABELLED, DataError

SHAPE = (12, 10, 4)  # width height depth
NNUNET = {"background": 0, "liver": 1, 'Gefäß "A"': 2, "ignore": 3}
ZERO_IS_NOTHING = {"ignore": 0, "liver": 2, 'Gefäß "A"': 1, "background": 7}
NAMES = ("background", "liver", 'Gefäß "A"')

OBLIQUE = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.2, -0.3, 0.1) @ np.diag([0.7, 0.8, 3.0]), [-11, 22, 33])
SHEARED = OBLIQUE @ np.array([[1, 0.05, 0.1, 0], [0.02, 1, 0.1, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
AXES = {
    "RAS": nib.orientations.axcodes2ornt("RAS"),
    "LPS": nib.orientations.axcodes2ornt("LPS"),
    "SAL": nib.orientations.axcodes2ornt("SAL"),
    "PIR": nib.orientations.axcodes2ornt("PIR"),
    "ASR": nib.orientations.axcodes2ornt("ASR"),
    "IRP": nib.orientations.axcodes2ornt("IRP"),
}


def volume(voxels, orientation):
    """A NIfTI whose axes run in an orientation such as SAL, or one that is oblique or sheared."""
    if orientation in ("oblique", "sheared"):
        return nib.Nifti1Image(voxels, OBLIQUE if orientation == "oblique" else SHEARED)
    affine = np.diag([0.7, 0.8, 3.0, 1.0])
    affine[:3, 3] = 10, -20, 30
    upright = nib.Nifti1Image(np.zeros(SHAPE, np.uint8), affine).as_reoriented(AXES[orientation])
    return nib.Nifti1Image(voxels.reshape(upright.shape), upright.affine)


def strokes(seed, shape):
    """Labels with some lines of all classes, and UNLABELLED."""
    rng = np.random.default_rng(seed)
    labels = np.full(shape, UNLABELLED, np.uint8)
    for label in (0, 1, 2, 0):
        labels.flat[rng.choice(labels.size, 20, replace=False)] = label
    return labels


def write_data(root, orientation="RAS", declared=NNUNET, names=("p01", "p02"), scribbles=True, ending=".nii.gz"):
    """A data set with `strokes`; returns the labels of each case, depth height width."""
    (root / "images").mkdir(parents=True)
    labels = {}
    table = np.zeros(256, np.uint8)
    table[[0, 1, 2]] = [declared[name] for name in NAMES]
    table[UNLABELLED] = declared.get("ignore", 0)
    for seed, name in enumerate(names):
        image = volume(np.random.default_rng(seed).integers(0, 99, SHAPE).astype(np.int16), orientation)
        nib.save(image, root / "images" / f"{name}{ending}")
        drawn = strokes(seed, image.shape)
        labels[name] = drawn.T
        if scribbles:
            (root / "scribbles").mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(table[drawn], image.affine), root / "scribbles" / f"{name}{ending}")
    (root / "dataset.json").write_text(json.dumps({"labels": declared}))
    return labels


def check(root, labels, scribbles=None):
    options = {"scribbles": scribbles} if scribbles else {}
    dataset = open_dataset(root, **options)
    for name, expected in labels.items():
        found = dataset.train.named(name).scribbles
        by_name = np.full_like(found, UNLABELLED)
        for label, text in enumerate(dataset.label_names):
            by_name[found == label] = NAMES.index(text)
        np.testing.assert_array_equal(by_name, expected)


def in_snap(labels):
    """Labels as people draw them in ITK-SNAP, background being 3 and nothing 0."""
    return paint(labels, 1, 2, 3)


def paint(labels, liver, vessel, background):
    """Labels in these values, and 0 where nothing was drawn."""
    table = np.zeros(256, np.uint8)
    table[:3] = background, liver, vessel
    return table[labels]


SNAP_NAMES = {"liver": 1, "Gefäß 'A'": 2, "background": 3}
SNAP_JSON = {"ignore": 0, "liver": 1, 'Gefäß "A"': 2, "background": 3}


def draw(root, name, values, image, change=lambda nifti: nifti):
    """Saves a label map as NIfTI, on the grid of an image."""
    root.mkdir(exist_ok=True)
    nib.save(change(nib.Nifti1Image(values.T, nib.load(image).affine)), root / name)


class TestRoundTrips:
    @pytest.mark.parametrize("orientation", ["RAS", "SAL", "PIR", "oblique", "sheared"])
    @pytest.mark.parametrize("program", PROGRAMS)
    def test_every_program_in_every_orientation(self, tmp_path, program, orientation):
        labels = write_data(tmp_path / "data", orientation)
        done = export_scribbles(folder(tmp_path / "data"), tmp_path / "out", program)
        assert done.names == ("p01", "p02")
        back = import_drawings(tmp_path / "out", tmp_path / "back", tmp_path / "data")
        assert back.names == ("p01", "p02")
        assert back.notes == ()
        check(tmp_path / "data", labels, tmp_path / "back")
        written = nib.load(tmp_path / "back" / "p01.nii.gz")
        np.testing.assert_array_equal(written.affine, nib.load(tmp_path / "data" / "images" / "p01.nii.gz").affine)

    @pytest.mark.parametrize("program", PROGRAMS)
    @pytest.mark.parametrize("declared", [NNUNET, ZERO_IS_NOTHING])
    def test_into_the_own_folder_of_a_data_set_in_its_own_values(self, tmp_path, program, declared):
        labels = write_data(tmp_path / "data", "LPS", declared)
        export_scribbles(folder(tmp_path / "data"), tmp_path / "out", program)
        own = tmp_path / "data" / "scribbles"
        before = {path.name: nib.load(path).get_fdata() for path in own.iterdir()}
        with pytest.raises(DataError, match=r"found p01\.nii\.gz, p02\.nii\.gz; .*--overwrite"):
            import_drawings(tmp_path / "out", own, tmp_path / "data")
        import_drawings(tmp_path / "out", own, tmp_path / "data", overwrite=True)
        assert sorted(path.name for path in own.iterdir()) == ["p01.nii.gz", "p02.nii.gz"]
        for name, values in before.items():
            np.testing.assert_array_equal(nib.load(own / name).get_fdata(), values)
        check(tmp_path / "data", labels)

    @pytest.mark.parametrize("program", PROGRAMS)
    def test_pictures(self, tmp_path, program):
        (tmp_path / "data" / "images").mkdir(parents=True)
        (tmp_path / "data" / "scribbles").mkdir()
        drawn = strokes(3, (9, 14))
        PIL.Image.fromarray(np.zeros((9, 14, 3), np.uint8)).save(tmp_path / "data" / "images" / "p01.png")
        PIL.Image.fromarray(np.where(drawn == UNLABELLED, 3, drawn).astype(np.uint8)).save(
            tmp_path / "data" / "scribbles" / "p01.png"
        )
        (tmp_path / "data" / "dataset.json").write_text(json.dumps({"labels": NNUNET}))
        export_scribbles(folder(tmp_path / "data"), tmp_path / "out", program)
        import_drawings(tmp_path / "out", tmp_path / "back", tmp_path / "data")
        assert (tmp_path / "back" / "p01.png").is_file()
        check(tmp_path / "data", {"p01": drawn[None]}, tmp_path / "back")

    @pytest.mark.parametrize("program", ["slicer", "mitk", "itksnap"])
    def test_names_alone_are_enough(self, tmp_path, program):
        labels = write_data(tmp_path / "data", "SAL")
        export_scribbles(folder(tmp_path / "data"), tmp_path / "out", program)
        (tmp_path / "out" / "dataset.json").unlink()
        if program == "itksnap":  # a name ends at a quotation mark there
            text = (tmp_path / "data" / "dataset.json").read_text()
            (tmp_path / "data" / "dataset.json").write_text(text.replace('\\"A\\"', "'A'"))
        import_drawings(tmp_path / "out", tmp_path / "back", tmp_path / "data")
        dataset = open_dataset(tmp_path / "data", scribbles=tmp_path / "back")
        for name, expected in labels.items():
            np.testing.assert_array_equal(dataset.train.named(name).scribbles, expected)

    def test_what_programs_are_given(self, tmp_path):
        write_data(tmp_path / "data")
        dataset = folder(tmp_path / "data")
        for program in PROGRAMS:
            export_scribbles(dataset, tmp_path / program, program)
            assert not [path for path in (tmp_path / program).rglob("*") if path.name.startswith(".")]
        description = (tmp_path / "itksnap" / "labels.txt").read_text(encoding="utf-8")
        assert description.startswith("#" * 48 + "\n# ITK-SnAP Label Description File\n")
        assert '    0     0    0    0        0  0  0    "Clear Label"\n' in description
        assert read_snap_description(tmp_path / "itksnap" / "labels.txt") == {
            value: name for name, value in SNAP_NAMES.items()
        }
        slicer = SimpleITK.ReadImage(tmp_path / "slicer" / "p01.seg.nrrd")
        assert slicer.GetMetaData("Segment0_Name") == "liver"
        assert slicer.GetMetaData("Segment2_LabelValue") == "3"
        assert slicer.GetMetaData("Segment1_Extent") == "0 11 0 9 0 3"
        assert slicer.GetMetaData("Segmentation_MasterRepresentation") == "Binary labelmap"
        mitk = SimpleITK.ReadImage(tmp_path / "mitk" / "p01.nrrd")
        assert mitk.GetMetaData("modality") == "org.mitk.multilabel.segmentation"
        assert mitk.GetPixelIDTypeAsString() == "16-bit unsigned integer"
        [group] = json.loads(mitk.GetMetaData("org.mitk.multilabel.segmentation.labelgroups"))
        assert [(label["name"], label["value"]) for label in group["labels"]] == [
            ("liver", 1), ('Gefäß "A"', 2), ("background", 3),
        ]  # fmt: skip
        assert tifffile.imread(tmp_path / "napari" / "p01.tif").shape == SHAPE[::-1]
        nnunet = json.loads((tmp_path / "nnunet" / "dataset.json").read_text())
        assert nnunet["labels"] == NNUNET
        assert (nnunet["numTraining"], nnunet["file_ending"], len(nnunet["channel_names"])) == (2, ".nii.gz", 1)
        values = {program: np.unique(nib.load(tmp_path / program / "p01.nii.gz").get_fdata()) for program in ("monai",)}
        np.testing.assert_array_equal(values["monai"], [0, 1, 2, 3])

    def test_what_is_written_for_nnunet_is_a_data_set_of_that_layout(self, tmp_path):
        labels = write_data(tmp_path / "data", names=("p01",))
        export_scribbles(folder(tmp_path / "data"), tmp_path / "out", "nnunet")
        (tmp_path / "out" / "imagesTr").mkdir()
        (tmp_path / "data" / "images" / "p01.nii.gz").rename(tmp_path / "out" / "imagesTr" / "p01_0000.nii.gz")
        check(tmp_path / "out", labels)


class TestHeaders:
    """Files with the headers that the programs write, on the spot."""

    @pytest.fixture
    def data(self, tmp_path):
        labels = write_data(tmp_path / "data", "LPS", scribbles=False, names=("p01",))
        (tmp_path / "in").mkdir()
        return tmp_path, labels["p01"]

    def brought(self, tmp_path, labels, **options):
        done = import_drawings(tmp_path / "in", tmp_path / "data" / "scribbles", tmp_path / "data", **options)
        check(tmp_path / "data", {"p01": labels})
        return done

    def nrrd(self, path, layers, fields, image, kind="list"):
        """A NRRD as Slicer and MITK write it: several layers are a list or a vector before the axes of space."""
        geometry = read_geometry(image)
        lps = np.diag([-1.0, -1, 1, 1]) @ geometry.affine
        vector = [f"({','.join(map(repr, lps[:3, axis].tolist()))})" for axis in range(4)]
        several = len(layers) > 1
        sizes = " ".join(map(str, ([len(layers)] if several else []) + list(layers.shape[:0:-1])))
        head = [
            "NRRD0004",
            f"type: {'unsigned char' if layers.dtype == np.uint8 else 'unsigned short'}",
            f"dimension: {3 + several}",
            "space: left-posterior-superior",
            f"sizes: {sizes}",
            f"space directions: {'none ' if several else ''}{' '.join(vector[:3])}",
            f"kinds: {f'{kind} ' if several else ''}domain domain domain",
            "endian: little",
            "encoding: raw",
            f"space origin: {vector[3]}",
            *(f"{key}:={text}" for key, text in fields.items()),
        ]
        path.write_bytes("\n".join(head).encode() + b"\n\n" + np.moveaxis(layers, 0, -1).tobytes())

    @pytest.mark.parametrize("listed", [True, False])
    def test_overlapping_segments_of_slicer_are_merged_and_contradictions_are_unlabelled(self, data, listed):
        tmp_path, labels = data
        layers = np.stack([labels == label for label in (1, 0, 2)]).astype(np.uint8)
        fields = {}
        for at, name in enumerate(("liver", "Background", 'Gefäß "A"')):
            fields |= {f"Segment{at}_ID": f"Segment_{at}", f"Segment{at}_Name": name}
            if listed:  # files of old versions say neither
                fields |= {f"Segment{at}_LabelValue": "1", f"Segment{at}_Layer": str(at)}
        self.nrrd(tmp_path / "in" / "p01.seg.nrrd", layers, fields, tmp_path / "data" / "images" / "p01.nii.gz")
        assert self.brought(tmp_path, labels).notes == ()
        both = np.argwhere(labels == 1)[:2]
        for place in both:
            layers[(2, *place)] = 1
        self.nrrd(tmp_path / "in" / "p01.seg.nrrd", layers, fields, tmp_path / "data" / "images" / "p01.nii.gz")
        for place in both:
            labels[tuple(place)] = UNLABELLED
        [note] = self.brought(tmp_path, labels, overwrite=True).notes
        assert note == "p01: drawn in several labels, and therefore unlabelled: 2 voxels"

    def test_several_segments_in_a_layer_and_a_box(self, data):
        tmp_path, labels = data
        labels[:, :3] = labels[:, :, 10:] = UNLABELLED
        image = nib.load(tmp_path / "data" / "images" / "p01.nii.gz")
        nib.save(image.slicer[:10, 3:], tmp_path / "box.nii.gz")
        cut = labels[:, 3:, :10]
        layers = np.stack([np.select([cut == 1, cut == 2], [1, 2]), cut == 0]).astype(np.uint8)
        fields = {}
        for at, (name, value, layer) in enumerate((("liver", 1, 0), ('Gefäß "A"', 2, 0), ("background", 1, 1))):
            named = {"ID": f"S{at}", "Name": name, "LabelValue": value, "Layer": layer}
            fields |= {f"Segment{at}_{key}": str(text) for key, text in named.items()}
        self.nrrd(tmp_path / "in" / "p01.seg.nrrd", layers, fields, tmp_path / "box.nii.gz")
        self.brought(tmp_path, labels)

    def test_a_segmentation_of_slicer_without_segments_is_one_voxel(self, data):
        tmp_path, labels = data
        image = SimpleITK.GetImageFromArray(np.zeros((1, 1, 1), np.uint8))
        image.SetMetaData("Segmentation_MasterRepresentation", "Binary labelmap")
        SimpleITK.WriteImage(image, tmp_path / "in" / "p01.seg.nrrd")
        [note] = self.brought(tmp_path, np.full_like(labels, UNLABELLED)).notes
        assert note == "nothing is drawn in p01"

    def group(self, *labels):
        return {
            "labels": [
                {
                    "color": {"type": "ColorProperty", "value": [1.0, 0.0, 0.0]},
                    "locked": True,
                    "name": name,
                    "opacity": 0.6000000238418579,
                    "value": value,
                    "visible": True,
                }
                for name, value in labels
            ]
        }

    def mitk(self, *groups):
        return {
            "DICOM_0008_0060": '{"values":[{"t":0,"value":"SEG","z":0}]}',
            "modality": "org.mitk.multilabel.segmentation",
            "org.mitk.multilabel.segmentation.labelgroups": json.dumps(groups),
            "org.mitk.multilabel.segmentation.unlabeledlabellock": "0",
            "org.mitk.multilabel.segmentation.version": "1",
        }

    def test_groups_of_mitk(self, data):
        tmp_path, labels = data
        values = paint(labels, 9, 4, 6).astype(np.uint16)
        image, file = tmp_path / "data" / "images" / "p01.nii.gz", tmp_path / "in" / "p01.nrrd"
        self.nrrd(file, values[None], self.mitk(self.group(("liver", 9), ('Gefäß "A"', 4), ("background", 6))), image)
        self.brought(tmp_path, labels)
        layers = np.stack([np.where(values == 6, 0, values), np.where(values == 6, values, 0)])
        two = self.mitk(self.group(("liver", 9), ('Gefäß "A"', 4)), self.group(("background", 6)))
        self.nrrd(file, layers, two, image, kind="vector")
        assert self.brought(tmp_path, labels, overwrite=True).notes == ()

    def test_labels_of_old_versions_of_mitk(self, data):
        tmp_path, labels = data
        values = paint(labels, 1, 2, 3).astype(np.uint16)
        fields = {"modality": "org.mitk.image.multilabel", "layers": "1", "layer_000": "4"}
        for value, name in enumerate(("Exterior", "liver", "Gefäß &quot;A&quot;", "background")):
            fields[f"org.mitk.label_000_{value:05d}"] = (
                f'<Label><property key="name" type="StringProperty"><string value="{name}"/></property>\\n'
                f'<property key="value" type="UShortProperty"><unsigned value="{value}"/></property></Label>'
            )
        self.nrrd(tmp_path / "in" / "p01.nrrd", values[None], fields, tmp_path / "data" / "images" / "p01.nii.gz")
        self.brought(tmp_path, labels)

    @pytest.mark.parametrize("text", ["[{]", '[{"labels": [{"value": 1}]}]', '[{"labels": 3}]', "7"])
    def test_a_damaged_header_of_mitk_is_said(self, data, text):
        tmp_path, labels = data
        fields = {**self.mitk(), "org.mitk.multilabel.segmentation.labelgroups": text}
        self.nrrd(tmp_path / "in" / "p01.nrrd", in_snap(labels)[None], fields, tmp_path / "data/images/p01.nii.gz")
        with pytest.raises(DataError, match=r"p01\.nrrd: expected MITK's list of labels"):
            self.brought(tmp_path, labels)
        assert not (tmp_path / "data" / "scribbles").exists()

    def test_other_files_are_not_of_mitk(self, data):
        tmp_path, labels = data
        self.nrrd(tmp_path / "in" / "p01.nrrd", in_snap(labels)[None], {}, tmp_path / "data/images/p01.nii.gz")
        assert mitk_labels(tmp_path / "in" / "p01.nrrd") is None

    @pytest.mark.parametrize("name", ["labels.txt", "p01.txt", "p01_labels.txt"])
    def test_label_descriptions_of_itksnap(self, data, name):
        tmp_path, labels = data
        values = paint(labels, 5, 1, 2).astype(np.uint8)
        draw(tmp_path / "in", "p01.nii.gz", values, tmp_path / "data" / "images" / "p01.nii.gz")
        declared = {**NNUNET, "vein": 2}
        del declared['Gefäß "A"']
        (tmp_path / "data" / "dataset.json").write_text(json.dumps({"labels": declared}))
        (tmp_path / "in" / name).write_text(snap_description({"liver": 5, "vein": 1, "Background": 2}))
        import_drawings(tmp_path / "in", tmp_path / "data" / "scribbles", tmp_path / "data")
        np.testing.assert_array_equal(folder(tmp_path / "data").train[0].scribbles, labels)

    def test_texts_that_are_no_descriptions_are_passed_over_and_damaged_ones_are_said(self, data):
        tmp_path, labels = data
        draw(tmp_path / "in", "p01.nii.gz", in_snap(labels), tmp_path / "data" / "images" / "p01.nii.gz")
        (tmp_path / "in" / "dataset.json").write_text(json.dumps({"labels": SNAP_JSON}))
        (tmp_path / "in" / "notes.txt").write_text("p01 was hard to draw\n")
        self.brought(tmp_path, labels)
        (tmp_path / "in" / "notes.txt").write_text("# ITK-SnAP Label Description File\n1 255 0\n")
        with pytest.raises(DataError, match=r"notes\.txt: expected lines such as .*found '1 255 0'"):
            self.brought(tmp_path, labels, overwrite=True)
        for name, value in (("a.txt", 1), ("b.txt", 2)):
            (tmp_path / "in" / name).write_text(snap_description({"liver": value}))
        (tmp_path / "in" / "notes.txt").unlink()
        with pytest.raises(DataError, match=r"b\.txt: expected one label description.*a\.txt, which differs"):
            self.brought(tmp_path, labels, overwrite=True)

    def tiffs(self, values, path, kind):
        if kind == "napari":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # versions of tifffile differ in what they make of 3 or 4 slices
                tifffile.imwrite(path, values.astype(np.int64), compression="zlib")
        elif kind == "planes":
            tifffile.imwrite(path, values, photometric="rgb", planarconfig="separate")
        elif kind == "imagej":
            tifffile.imwrite(path, values, imagej=True, metadata={"axes": "ZYX"})
        elif kind == "ilastik":
            tifffile.imwrite(path, values[:, None, :, :, None], metadata={"axes": "TZYXC"})
        elif kind == "pages":
            with tifffile.TiffWriter(path) as file:
                for each in values:
                    file.write(each, contiguous=False)
        else:
            first, *rest = (PIL.Image.fromarray(each) for each in values)
            first.save(path, save_all=True, append_images=rest, compression="tiff_lzw")

    @pytest.mark.parametrize("kind", ["napari", "planes", "imagej", "ilastik", "pages", "lzw"])
    def test_slices_as_tiff(self, data, kind):
        tmp_path, labels = data
        self.tiffs(in_snap(labels), tmp_path / "in" / "p01_Labels.tif", kind)
        (tmp_path / "in" / "dataset.json").write_text(json.dumps({"labels": SNAP_JSON}))
        self.brought(tmp_path, labels)

    def test_tiffs_of_something_else_are_refused(self, data):
        tmp_path, labels = data
        (tmp_path / "in" / "dataset.json").write_text(json.dumps({"labels": SNAP_JSON}))
        file = tmp_path / "in" / "p01.tif"
        for values, options, message in (
            (np.zeros((4, 10, 12, 3), np.uint8), {"photometric": "rgb"}, "found RGB of 3 samples"),
            (np.zeros((2, 4, 10, 12), np.uint8), {"photometric": "minisblack"}, "found a TIFF of 2 x 4 x 10 x 12"),
            (np.zeros((4, 10, 11), np.uint8), {"photometric": "minisblack"}, r"found 4 x 10 x 11 pixels"),
            (np.full((4, 10, 12), 0.5, np.float32), {"photometric": "minisblack"}, "expected integer labels"),
        ):
            tifffile.imwrite(file, values, **options)
            with pytest.raises(DataError, match=rf"p01\.tif: .*{message}"):
                self.brought(tmp_path, labels)
        file.write_bytes(file.read_bytes()[:-900])
        with pytest.raises(DataError, match=r"p01\.tif: expected"):
            self.brought(tmp_path, labels)

    def test_hdf5_is_named(self, data):
        tmp_path, labels = data
        (tmp_path / "in" / "p01_Labels.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
        with pytest.raises(DataError, match=r"p01_Labels\.h5: expected a drawing as .*multipage TIFF"):
            self.brought(tmp_path, labels)


class TestGrids:
    @pytest.mark.parametrize("stored", [*AXES])
    @pytest.mark.parametrize("orientation", ["PIR", "oblique"])
    @pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".seg.nrrd"])
    def test_the_same_grid_in_another_orientation_is_reordered(self, tmp_path, stored, orientation, ending):
        labels = write_data(tmp_path / "data", orientation, ZERO_IS_NOTHING, names=("p01",), scribbles=False)["p01"]
        values = paint(labels, 2, 1, 7)

        def change(nifti):
            ours = nib.orientations.io_orientation(nifti.affine)
            return nifti.as_reoriented(nib.orientations.ornt_transform(ours, AXES[stored]))

        draw(tmp_path / "in", "p01.nii.gz", values, tmp_path / "data" / "images" / "p01.nii.gz", change)
        if ending != ".nii.gz":
            itk = SimpleITK.ReadImage(tmp_path / "in" / "p01.nii.gz")
            if ending == ".seg.nrrd":
                for at, (value, name) in enumerate({7: "background", 2: "liver", 1: 'Gefäß "A"'}.items()):
                    for field, text in {"ID": f"S{at}", "Name": name, "LabelValue": str(value), "Layer": "0"}.items():
                        itk.SetMetaData(f"Segment{at}_{field}", text)
            SimpleITK.WriteImage(itk, tmp_path / "in" / f"p01{ending}")
            (tmp_path / "in" / "p01.nii.gz").unlink()
        import_drawings(tmp_path / "in", tmp_path / "data" / "scribbles", tmp_path / "data")
        check(tmp_path / "data", {"p01": labels})

    @pytest.mark.parametrize(
        ("change", "found"),
        [
            (lambda nifti: nifti.slicer[1:], "4 x 10 x 11 voxels of 3 x 0.8 x 0.7 mm"),
            (lambda nifti: nib.Nifti1Image(nifti.dataobj, nifti.affine * 2), "6 x 1.6 x 1.4 mm"),
            (lambda nifti: nib.Nifti1Image(nifti.dataobj, np.diag([-1, 1, 1, 1]) @ nifti.affine), "axes towards SAL"),
            (lambda nifti: nib.Nifti1Image(nifti.dataobj, OBLIQUE), "voxels of"),
            (lambda nifti: nib.Nifti1Image(nifti.dataobj, np.eye(4)), "voxels of 1 x 1 x 1 mm"),
        ],
    )
    def test_another_grid_is_one_error_that_names_both(self, tmp_path, change, found):
        labels = write_data(tmp_path / "data", "RAS", ZERO_IS_NOTHING, names=("p01",), scribbles=False)["p01"]
        values = paint(labels, 2, 1, 7)
        draw(tmp_path / "in", "p01.nii.gz", values, tmp_path / "data" / "images" / "p01.nii.gz", change)
        expected = (
            r"p01\.nii\.gz: expected the grid of the image of p01 \(4 x 10 x 12 voxels of 3 x 0.8 x 0.7 mm, axes "
            rf"towards SAR, first voxel at 10, -20, 30 mm\), found .*{found}"
        )
        with pytest.raises(DataError, match=expected) as caught:
            import_drawings(tmp_path / "in", tmp_path / "out", tmp_path / "data")
        assert len(str(caught.value).splitlines()) == 1
        assert not (tmp_path / "out").exists()

    def test_half_a_voxel_aside_is_another_grid(self, tmp_path):
        labels = write_data(tmp_path / "data", "RAS", ZERO_IS_NOTHING, names=("p01",), scribbles=False)["p01"]
        moved = np.eye(4)
        moved[0, 3] = 0.35
        draw(
            tmp_path / "in",
            "p01.nii.gz",
            np.where(labels == 1, 2, 0).astype(np.uint8),
            tmp_path / "data" / "images" / "p01.nii.gz",
            lambda nifti: nib.Nifti1Image(nifti.dataobj, moved @ nifti.affine),
        )
        with pytest.raises(DataError, match=r"first voxel at 10, .*first voxel at 10\.35, "):
            import_drawings(tmp_path / "in", tmp_path / "out", tmp_path / "data")


class TestMeaning:
    @pytest.fixture
    def data(self, tmp_path):
        labels = write_data(tmp_path / "data", names=("p01",), scribbles=False)["p01"]
        return tmp_path, labels

    def draw(self, tmp_path, values):
        draw(tmp_path / "in", "p01.nii.gz", values.astype(np.uint8), tmp_path / "data" / "images" / "p01.nii.gz")

    def brought(self, tmp_path, **options):
        return import_drawings(tmp_path / "in", tmp_path / "data" / "scribbles", tmp_path / "data", **options)

    def test_zero_is_never_guessed(self, data):
        tmp_path, labels = data
        self.draw(tmp_path, np.where(labels == 0, UNLABELLED, labels) % 255)
        with pytest.raises(DataError, match=r"what value 0 means here.*nothing drawn, or background.*--from \(itksnap"):
            self.brought(tmp_path)

    @pytest.mark.parametrize("program", [name for name, one in PROGRAMS.items() if one.nothing])
    def test_in_drawing_programs_it_is_nothing_drawn_whatever_the_data_set_says(self, data, program):
        tmp_path, labels = data
        without = np.where(labels == 0, UNLABELLED, labels)
        self.draw(tmp_path, without % 255)
        [note] = self.brought(tmp_path, program=program).notes
        assert note.startswith("no background is drawn in p01")
        check(tmp_path / "data", {"p01": without})

    def test_in_nnunet_it_is_background(self, data):
        tmp_path, labels = data
        self.draw(tmp_path, np.where(labels == UNLABELLED, 3, labels))
        assert self.brought(tmp_path, program="nnunet").notes == ()
        check(tmp_path / "data", {"p01": labels})

    def test_a_value_that_may_be_background_or_ignore_is_asked_about(self, data):
        tmp_path, labels = data
        self.draw(tmp_path, in_snap(labels))
        with pytest.raises(DataError, match=r"0 is nothing drawn here, found 3, which .*dataset\.json") as caught:
            self.brought(tmp_path, program="itksnap")
        example = json.loads(str(caught.value)[str(caught.value).index('{"labels"') :])
        assert example == {"labels": SNAP_JSON}
        (tmp_path / "in" / "dataset.json").write_text(json.dumps(example))
        self.brought(tmp_path, program="itksnap")
        check(tmp_path / "data", {"p01": labels})

    def test_a_declaration_that_contradicts_the_program_is_refused(self, data):
        tmp_path, labels = data
        self.draw(tmp_path, in_snap(labels))
        (tmp_path / "in" / "dataset.json").write_text(json.dumps({"labels": NNUNET}))
        with pytest.raises(DataError, match=r'expected "ignore": 0, as ITK-SNAP leaves 0.*--from nnunet'):
            self.brought(tmp_path, program="itksnap")

    def test_values_that_nobody_declared_are_counted(self, data):
        tmp_path, labels = data
        self.draw(tmp_path, np.where(labels == 2, 8, 0))
        count = (labels == 2).sum()
        with pytest.raises(DataError, match=rf"or the values 0 background, .*found value 8 \({count} voxels\); rename"):
            self.brought(tmp_path, program="monai")

    def test_names_that_nobody_declared_are_said(self, data):
        tmp_path, labels = data
        self.draw(tmp_path, np.where(labels == 2, 8, 0))
        (tmp_path / "in" / "labels.txt").write_text(snap_description({"spleen": 8}))
        with pytest.raises(
            DataError, match=r"expected labels named background, liver, .*, ignore, or .*found spleen 8"
        ):
            self.brought(tmp_path)

    def test_names_of_no_label_leave_the_values_unless_they_contradict(self, data):
        tmp_path, labels = data
        (tmp_path / "in").mkdir()
        self.draw(tmp_path, in_snap(labels))
        (tmp_path / "in" / "dataset.json").write_text(json.dumps({"labels": SNAP_JSON}))
        (tmp_path / "in" / "labels.txt").write_text(snap_description({"Label 1": 1, "Label 2": 2, "background": 3}))
        self.brought(tmp_path)
        check(tmp_path / "data", {"p01": labels})
        (tmp_path / "in" / "labels.txt").write_text(snap_description({"Label 1": 1, "liver": 2, "background": 3}))
        with pytest.raises(DataError, match="found Label 1 1 .*, liver 2 "):
            self.brought(tmp_path, overwrite=True)

    def test_other_labels_than_the_data_sets_are_refused(self, data):
        tmp_path, labels = data
        self.draw(tmp_path, in_snap(labels))
        (tmp_path / "in" / "dataset.json").write_text(json.dumps({"labels": {**SNAP_JSON, "spleen": 5}}))
        with pytest.raises(DataError, match=r"expected the labels background, liver, .*, found spleen"):
            self.brought(tmp_path)

    def test_images_without_a_declaration(self, data):
        tmp_path, labels = data
        self.draw(tmp_path, in_snap(labels))
        (tmp_path / "data" / "dataset.json").unlink()
        with pytest.raises(DataError, match=r"data/dataset\.json: expected this file to name the labels"):
            self.brought(tmp_path)
        (tmp_path / "in" / "dataset.json").write_text(json.dumps({"labels": SNAP_JSON}))
        done = import_drawings(tmp_path / "in", tmp_path / "out", tmp_path / "data")
        assert json.loads((done.folder / "dataset.json").read_text()) == {"labels": {
            name: SNAP_JSON[name] for name in ("background", "liver", 'Gefäß "A"', "ignore")
        }}  # fmt: skip

    def test_masks_alone_declare_no_ignore(self, data):
        tmp_path, labels = data
        self.draw(tmp_path, in_snap(labels))
        (tmp_path / "in" / "dataset.json").write_text(json.dumps({"labels": SNAP_JSON}))
        few = {name: value for name, value in NNUNET.items() if name != "ignore"}
        (tmp_path / "data" / "dataset.json").write_text(json.dumps({"labels": few}))
        with pytest.raises(DataError, match=r'as "ignore", found none; add "ignore": 3'):
            self.brought(tmp_path)
        done = import_drawings(tmp_path / "in", tmp_path / "out", tmp_path / "data")
        assert json.loads((done.folder / "dataset.json").read_text())["labels"]["ignore"] == 3


class TestFolders:
    @pytest.fixture
    def data(self, tmp_path):
        labels = write_data(tmp_path / "data", declared=ZERO_IS_NOTHING, names=("p1", "p10", "p1_seg"), scribbles=False)
        return tmp_path, labels

    def draw(self, tmp_path, labels, name, case, ending=".nii.gz"):
        values = paint(labels[case], 2, 1, 7)
        draw(tmp_path / "in", f"{name}{ending}", values, tmp_path / "data" / "images" / f"{case}.nii.gz")

    @pytest.mark.parametrize(
        ("name", "case"),
        [
            ("p1", "p1"), ("p10", "p10"), ("p1_seg", "p1_seg"), ("p1-seg", "p1"), ("p1_label", "p1"),
            ("p1-label", "p1"),
            ("p1.seg", "p1"),
            ("p10_Labels", "p10"), ("p1 segmentation", "p1"), ("p1_0000-label", "p1"),
            ("p1-data_Labels", "p1"), ("p1_Simple Segmentation", "p1"), ("p1_seg_label", "p1_seg"), ("p2", None),
            ("p100", None), ("xp1", None), ("p1_liver", None), ("P1", None), ("", None),
        ],
    )  # fmt: skip
    def test_names_of_files_and_cases(self, name, case):
        assert case_of(name, ["p1", "p10", "p1_seg"]) == case

    def test_what_belongs_to_no_case_is_told(self, data):
        tmp_path, labels = data
        self.draw(tmp_path, labels, "p1_label", "p1")
        self.draw(tmp_path, labels, "p10-seg", "p10")
        self.draw(tmp_path, labels, "p77", "p10")
        (tmp_path / "in" / "other.h5").write_bytes(b"")
        (tmp_path / "in" / ".hidden.nii.gz").write_bytes(b"")
        done = import_drawings(tmp_path / "in", tmp_path / "data" / "scribbles", tmp_path / "data")
        assert done.names == ("p1", "p10")
        assert done.notes == ("belongs to no case, and was not read: other.h5, p77.nii.gz",)
        check(tmp_path / "data", {name: labels[name] for name in done.names})

    def test_no_drawing_and_two_drawings_of_a_case_are_errors(self, data):
        tmp_path, labels = data
        with pytest.raises(DataError, match=r"in: expected a folder of drawings, found no such folder"):
            import_drawings(tmp_path / "in", tmp_path / "out", tmp_path / "data")
        self.draw(tmp_path, labels, "p77", "p10")
        with pytest.raises(DataError, match=r"such as p1\.nii\.gz or p1-label\.nrrd, found p77\.nii\.gz; rename"):
            import_drawings(tmp_path / "in", tmp_path / "out", tmp_path / "data")
        self.draw(tmp_path, labels, "p1", "p1")
        self.draw(tmp_path, labels, "p1_label", "p1")
        with pytest.raises(DataError, match=r"p1_label\.nii\.gz: expected one drawing of case p1, also found p1\.nii"):
            import_drawings(tmp_path / "in", tmp_path / "out", tmp_path / "data")

    def test_every_fault_is_said_and_nothing_is_changed(self, data):
        tmp_path, labels = data
        for case in labels:
            self.draw(tmp_path, labels, case, case)
        (tmp_path / "in" / "p1.nii.gz").write_bytes(b"nothing")
        draw(tmp_path / "in", "p10.nii.gz", np.full((4, 10, 12), 9, np.uint8), tmp_path / "data/images/p10.nii.gz")
        with pytest.raises(DataError) as caught:
            import_drawings(tmp_path / "in", tmp_path / "data" / "scribbles", tmp_path / "data")
        first, second = str(caught.value).splitlines()
        assert "p1.nii.gz: expected" in first
        assert "p10.nii.gz: expected" in second
        assert not (tmp_path / "data" / "scribbles").exists()

    @pytest.mark.parametrize("place", ["in", "data", "data/images", "data/masks"])
    def test_inputs_are_never_written_over(self, data, place):
        tmp_path, labels = data
        self.draw(tmp_path, labels, "p1", "p1")
        with pytest.raises(DataError, match=r"expected a folder that nothing is read from"):
            import_drawings(tmp_path / "in", tmp_path / place, tmp_path / "data", overwrite=True)

    def test_a_scribble_of_another_ending_is_not_replaced(self, data):
        tmp_path, labels = data
        self.draw(tmp_path, labels, "p1", "p1")
        (tmp_path / "data" / "scribbles").mkdir()
        (tmp_path / "data" / "scribbles" / "p1.nrrd").write_bytes(b"a drawing")
        with pytest.raises(DataError, match=r"p1\.nrrd: expected p1\.nii\.gz to replace, found this file; move it"):
            import_drawings(tmp_path / "in", tmp_path / "data" / "scribbles", tmp_path / "data", overwrite=True)

    def test_a_folder_of_other_labels_is_not_mixed(self, data):
        tmp_path, labels = data
        self.draw(tmp_path, labels, "p1", "p1")
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "dataset.json").write_text(json.dumps({"labels": NNUNET}))
        with pytest.raises(DataError, match=r"out/dataset\.json: expected this file to say the same"):
            import_drawings(tmp_path / "in", tmp_path / "out", tmp_path / "data", overwrite=True)
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["dataset.json"]

    def test_a_folder_that_holds_nothing_but_images(self, data):
        tmp_path, labels = data
        self.draw(tmp_path, labels, "p1", "p1")
        (tmp_path / "data" / "images").rename(tmp_path / "flat")
        (tmp_path / "data" / "dataset.json").rename(tmp_path / "flat" / "dataset.json")
        done = import_drawings(tmp_path / "in", tmp_path / "out", tmp_path / "flat")
        assert done.names == ("p1",)

    def test_exports_never_touch_what_they_read(self, tmp_path):
        write_data(tmp_path / "data")
        dataset = folder(tmp_path / "data")
        for place in ("scribbles", "images"):
            with pytest.raises(DataError, match="expected"):
                export_scribbles(dataset, tmp_path / "data" / place, "itksnap", overwrite=True)
        export_scribbles(dataset, tmp_path / "out", "itksnap")
        with pytest.raises(DataError, match="--overwrite"):
            export_scribbles(dataset, tmp_path / "out", "itksnap")
        export_scribbles(dataset, tmp_path / "out", "itksnap", overwrite=True)

    def test_cases_without_strokes_are_told(self, tmp_path):
        write_data(tmp_path / "data")
        dataset = folder(tmp_path / "data")
        blank = dataset.train.read_by(
            lambda name: replace(dataset.train.named(name), scribbles=np.full((4, 10, 12), UNLABELLED, np.uint8))
        )
        with pytest.raises(DataError, match="expected scribbles to convert, found none"):
            export_scribbles(replace(dataset, train=blank), tmp_path / "out", "slicer")
        with pytest.raises(DataError, match="expected a program among itksnap"):
            export_scribbles(dataset, tmp_path / "out", "paint")


class TestCommand:
    def call(self, *words, code=0):
        result = CliRunner().invoke(app, ["convert", *map(str, words)])
        assert result.exit_code == code, result.output + repr(result.exception)
        return " ".join(result.output.split())

    def test_there_and_back(self, tmp_path):
        labels = write_data(tmp_path / "data")
        said = self.call(tmp_path / "data", tmp_path / "snap", "--to", "itksnap")
        assert "Scribbles of 2 cases" in said
        assert "labels.txt" in said
        said = self.call(tmp_path / "snap", tmp_path / "back", "--images", tmp_path / "data", "--from", "itksnap")
        assert f"--scribbles {tmp_path / 'back'}" in said
        check(tmp_path / "data", labels, tmp_path / "back")
        own = tmp_path / "data" / "scribbles"
        assert "--overwrite" in self.call(tmp_path / "snap", own, "--images", tmp_path / "data", code=2)
        assert "Next: scribbleseg check" in self.call(
            tmp_path / "snap", own, "--images", tmp_path / "data", "--overwrite"
        )

    def test_which_way_has_to_be_said(self, tmp_path):
        assert "got neither" in self.call(tmp_path, tmp_path / "out", code=2)
        assert "got both" in self.call(tmp_path, tmp_path / "out", "--to", "mitk", "--images", tmp_path, code=2)
        assert "leave it out" in self.call(tmp_path, tmp_path / "out", "--to", "mitk", "--from", "mitk", code=2)
