import locale

import numpy as np
import pytest
import SimpleITK

from scribbleseg.annotate.simulate import RULES, write_simulation
from scribbleseg.data import open_dataset
from scribbleseg.data.formats import read_geometry, read_image
from scribbleseg.data.layouts.prostate import nci_isbi, promise12, prostate158
from scribbleseg.types import UNLABELLED, DataError

RNG = np.random.default_rng(0)
VOXELS = RNG.integers(0, 1000, (4, 6, 5)).astype(np.int16)  # depth height width
VALUES = RNG.integers(0, 3, VOXELS.shape).astype(np.uint8)
SPACING = (0.6, 0.7, 3.5)
ORIGIN = (-60.0, -40.0, 12.0)
TILT = (1.0, 0.0, 0.0, 0.0, 0.96, -0.28, 0.0, 0.28, 0.96)  # an oblique stack


def volume(voxels, origin=ORIGIN):
    image = SimpleITK.GetImageFromArray(voxels)
    image.SetSpacing(SPACING)
    image.SetDirection(TILT)
    image.SetOrigin(origin)
    return image


def write(path, voxels, **grid):
    path.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(volume(voxels, **grid), str(path))


def write_series(folder, voxels=VOXELS, series="1.2.3", skip=()):
    """One file a slice, written top down and with names in another order: only the positions tell."""
    folder.mkdir(parents=True, exist_ok=True)
    image = volume(voxels)
    for k in reversed(range(len(voxels))):
        if k in skip:
            continue
        slice_ = image[:, :, k]
        position = image.TransformIndexToPhysicalPoint((0, 0, k))
        for key, value in {
            "0008|0060": "MR",
            "0020|000e": series,
            "0020|0013": str(len(voxels) - k),
            "0020|0032": "\\".join(f"{x:.6f}" for x in position),
            "0020|0037": "\\".join(f"{x:.6f}" for x in np.reshape(TILT, (3, 3)).T[:2].ravel()),
        }.items():
            slice_.SetMetaData(key, value)
        writer = SimpleITK.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(folder / f"{(3 * k) % 7:06d}.dcm"))
        writer.Execute(slice_)


def write_patient(root, name, **series):
    collection = "Prostate-3T" if name.startswith("Prostate3T") else "PROSTATE-DIAGNOSIS"
    write_series(root / "manifest-1" / collection / name / "01-02-2000-STUDY" / "5.000000-t2-tse-tra", **series)
    write(root / "Training" / f"{name}.nrrd", VALUES)


class TestDicom:
    def test_a_series_is_a_volume_whatever_its_files_are_called(self, tmp_path):
        write_series(tmp_path / "series")
        write(tmp_path / "whole.nrrd", VOXELS)
        image, geometry = read_image(tmp_path / "series")
        expected, grid = read_image(tmp_path / "whole.nrrd")
        np.testing.assert_array_equal(image, expected)
        np.testing.assert_allclose(geometry.affine, grid.affine, atol=1e-4)
        np.testing.assert_allclose(geometry.spacing_mm, SPACING[::-1], atol=1e-4)
        np.testing.assert_allclose(read_geometry(tmp_path / "series").affine, geometry.affine)

    def test_the_locale_survives(self, tmp_path):
        write_series(tmp_path / "series")  # this leaves the process in the locale C
        locale.setlocale(locale.LC_ALL, "C.UTF-8")
        read_image(tmp_path / "series")
        assert locale.setlocale(locale.LC_CTYPE) == "C.UTF-8"

    def test_what_is_not_one_whole_series_is_refused(self, tmp_path):
        write_series(tmp_path / "gap", skip=[1])
        with pytest.raises(
            DataError, match="gap: expected the slices of one DICOM series, found slices that are missing"
        ):
            read_image(tmp_path / "gap")
        write_series(tmp_path / "two")
        write_series(tmp_path / "two", VOXELS[:1], series="1.2.4")
        with pytest.raises(DataError, match="found 2 series"):
            read_image(tmp_path / "two")
        (tmp_path / "none").mkdir()
        with pytest.raises(DataError, match="found no series"):
            read_geometry(tmp_path / "none")

    @pytest.mark.parametrize("which", [0, 1, 3])  # without the first or the last, the others are evenly spaced
    def test_a_damaged_slice_is_refused(self, tmp_path, which):
        write_series(tmp_path / "series")
        file = sorted((tmp_path / "series").iterdir())[which]
        file.write_bytes(file.read_bytes()[:-20])
        with pytest.raises(DataError, match="series: expected the slices of one DICOM series, can read 3 of 4 files"):
            read_image(tmp_path / "series")

    def test_slices_of_different_sizes_are_refused(self, tmp_path):
        write_series(tmp_path / "series", skip=[3])
        write_series(tmp_path / "series", VOXELS[:, :4], skip=[0, 1, 2])
        with pytest.raises(DataError, match="expected the size of the other slices.*copy or download"):
            read_image(tmp_path / "series")


OWN: dict = {"train_cases": ("Prostate3T-01-0001", "ProstateDx-01-0006"), "test_cases": ("Prostate3T-01-0002",)}


class TestNciIsbi:
    @pytest.fixture
    def tree(self, tmp_path):
        for name in ("Prostate3T-01-0001", "Prostate3T-01-0002", "ProstateDx-01-0006"):
            write_patient(tmp_path, name)
        return tmp_path

    def test_series_and_labels_make_a_case(self, tree):
        dataset = open_dataset(tree, **OWN)
        assert (dataset.name, dataset.label_names) == ("nci_isbi", ("background", "PZ", "CG"))
        case = dataset.train[0]
        np.testing.assert_array_equal(case.image[0], VOXELS)
        assert (case.scribbles == UNLABELLED).all()
        np.testing.assert_array_equal(dataset.reference(case.name), VALUES)
        np.testing.assert_allclose(case.spacing_mm, SPACING[::-1], atol=1e-4)

    def test_simulated_scribbles_make_it_trainable(self, tree, tmp_path):
        folder = write_simulation(open_dataset(tree, **OWN), RULES["full"], tree.with_name(f"{tree.name}_drawn"))
        dataset = open_dataset(tree, scribbles=folder, **OWN)
        case = dataset.train.named("ProstateDx-01-0006")
        drawn = case.scribbles != UNLABELLED
        assert drawn.any()
        assert (case.scribbles[drawn] == VALUES[drawn]).all()
        again = open_dataset(dataset.root, dataset.name, **dataset.options)
        np.testing.assert_array_equal(again.train.named(case.name).scribbles, case.scribbles)

    def test_corrected_labels_are_preferred(self, tree):
        write(tree / "Training" / "ProstateDx-01-0006_correctedLabels.nrrd", 2 - VALUES)
        np.testing.assert_array_equal(nci_isbi(tree, **OWN).reference("ProstateDx-01-0006"), 2 - VALUES)

    def test_labels_on_another_grid_are_an_error(self, tree):
        write(tree / "Training" / "Prostate3T-01-0001.nrrd", VALUES, origin=(-60.0, -40.0, 15.5))
        write(tree / "Training" / "Prostate3T-01-0002.nrrd", VALUES[:3])
        dataset = nci_isbi(tree, **OWN)
        with pytest.raises(DataError, match="case Prostate3T-01-0001.*puts a corner 3.5 mm elsewhere"):
            dataset.reference("Prostate3T-01-0001")
        with pytest.raises(DataError, match="case Prostate3T-01-0002.*expected 4 x 6 x 5 voxels"):
            dataset.reference("Prostate3T-01-0002")

    def test_a_second_series_must_be_sorted_out(self, tree):
        write_series(tree / "manifest-1" / "Prostate-3T" / "Prostate3T-01-0001" / "STUDY" / "adc")
        with pytest.raises(
            DataError, match="expected one series of Prostate3T-01-0001, found .*adc.* keep the axial T2"
        ):
            nci_isbi(tree)

    def test_what_has_no_partner_is_skipped_and_said_so(self, tree):
        write_series(tree / "manifest-1" / "Prostate-3T" / "Prostate3T-02-0001" / "series")
        write(tree / "Training" / "ProstateDx-01-0009.nrrd", VALUES)
        notes = nci_isbi(tree, **OWN).notes
        assert notes[:2] == (
            "1 series without labels are skipped",
            "labels without a series are skipped: ProstateDx-01-0009",
        )

    @pytest.mark.parametrize("others", [0, 30])
    def test_the_papers_split_is_of_the_29_of_prostate_diagnosis(self, tmp_path, others):
        numbers = [*range(1, 5), *range(55, 56), *range(10, 35)]  # 30, of which 55 is left out
        names = [f"ProstateDx-01-{k:04d}" for k in numbers] + [f"Prostate3T-01-{k:04d}" for k in range(others)]
        for name in names:
            # Opening lists files and reads none.
            for file in (tmp_path / name / "series" / "1.dcm", tmp_path / "labels" / f"{name}.nrrd"):
                file.parent.mkdir(parents=True, exist_ok=True)
                file.touch()
        final, validation = nci_isbi(tmp_path), nci_isbi(tmp_path, split="paper_validation")
        assert [len(final.train), len(validation.test), len(final.test)] == [12, 7, 10]
        assert final.train.names == validation.train.names
        parts = (final.train.names, validation.test.names, final.test.names)
        in_order = [name for part in parts for name in part]
        assert in_order == sorted(f"ProstateDx-01-{k:04d}" for k in numbers if k != 55)
        if others:
            mixed = nci_isbi(tmp_path, split="both").train.names
            assert {name[:10] for name in mixed} == {"Prostate3T", "ProstateDx"}
        with pytest.raises(
            DataError, match="the split paper, paper_validation, both, both_validation; got 'published'"
        ):
            nci_isbi(tmp_path, split="published")

    def test_what_it_cannot_do_is_said(self, tree, tmp_path):
        with pytest.raises(
            DataError, match="expected 29 patients with a series and labels for the split paper .* found 1;"
        ):
            nci_isbi(tree)
        with pytest.raises(DataError, match="0 series and 0 label files"):
            nci_isbi(tmp_path / "Training" / "nowhere")
        with pytest.raises(DataError, match="or neither; got one; give both"):
            nci_isbi(tree, train_cases=["Prostate3T-01-0001"])
        with pytest.raises(DataError, match="in both lists, found Prostate3T-01-0002"):
            nci_isbi(tree, train_cases=["Prostate3T-01-0002"], test_cases=["Prostate3T-01-0002"])


class TestProstate158:
    @pytest.fixture(params=["", "train"])
    def tree(self, tmp_path, request):
        for name in ("001", "020", "021"):
            write(tmp_path / request.param / name / "t2.nii.gz", VOXELS)
            write(tmp_path / request.param / name / "t2_anatomy_reader1.nii.gz", VALUES)
        return tmp_path

    def test_zones_are_numbered_as_in_nci_isbi(self, tree):
        dataset = open_dataset(tree)
        assert (dataset.name, dataset.label_names) == ("prostate158", ("background", "PZ", "CG"))
        assert (dataset.train.names, dataset.test.names) == (("020", "021"), ("001",))
        np.testing.assert_array_equal(dataset.reference("020"), np.array([0, 2, 1])[VALUES])
        assert (dataset.train[0].scribbles == UNLABELLED).all()
        assert "155 of the split's 158 cases are not there: 002, 003" in dataset.notes[-1]

    def test_own_lists_are_kept_in_the_options(self, tree):
        dataset = prostate158(tree, train_cases=("001", "021"), test_cases=("020",))
        assert (dataset.train.names, dataset.test.names) == (("001", "021"), ("020",))
        assert open_dataset(tree, "prostate158", **dataset.options).train.names == ("001", "021")
        with pytest.raises(DataError, match="expected training cases 9, ..., found none of them"):
            prostate158(tree, train_cases=("9",), test_cases=())

    def test_a_missing_image_or_mask_is_found_when_it_is_read(self, tree):
        for file in (*tree.rglob("020/t2.nii.gz"), *tree.rglob("021/t2_anatomy_reader1.nii.gz")):
            file.unlink()
        dataset = prostate158(tree)
        with pytest.raises(DataError, match=r"case 020.*t2\.nii\.gz: expected this file, found none"):
            dataset.train.named("020")
        with pytest.raises(DataError, match="case 021: expected a reference mask"):
            dataset.reference("021")

    def test_another_tree_is_refused(self, tmp_path):
        with pytest.raises(DataError, match="expected folders 001, 002"):
            prostate158(tmp_path)


class TestPromise12:
    @pytest.mark.parametrize(("place", "ending"), [("", ".nii.gz"), ("", ".mhd"), ("TrainingData_Part2", ".mhd")])
    def test_both_namings(self, tmp_path, place, ending):
        for name in ("Case00", "Case01", "Case05"):
            write(tmp_path / place / f"{name}{ending}", VOXELS)
            write(tmp_path / place / f"{name}_segmentation{ending}", np.minimum(VALUES, 1))
        dataset = open_dataset(tmp_path)
        assert (dataset.name, dataset.label_names) == ("promise12", ("background", "prostate"))
        assert (dataset.train.names, dataset.test.names) == (("Case01", "Case05"), ("Case00",))
        assert dataset.options == {"fold": 0}
        np.testing.assert_array_equal(dataset.train[0].image[0], VOXELS)
        np.testing.assert_array_equal(dataset.reference("Case00"), np.minimum(VALUES, 1))
        assert promise12(tmp_path, fold=2).test.names == ("Case05",)

    def test_folds_share_out_all_cases(self, tmp_path):
        for k in range(50):
            (tmp_path / f"Case{k:02d}.mhd").touch()
        tests = [promise12(tmp_path, fold).test.names for fold in range(3)]
        assert sorted(name for test in tests for name in test) == [f"Case{k:02d}" for k in range(50)]
        assert not set(tests[0]) & set(promise12(tmp_path, 0).train.names)
        with pytest.raises(DataError, match="a fold among 0..2, got 3"):
            promise12(tmp_path, 3)

    def test_another_tree_is_refused(self, tmp_path):
        with pytest.raises(DataError, match="expected Case00.mhd or Case00.nii.gz"):
            promise12(tmp_path)


@pytest.mark.real_data
@pytest.mark.parametrize(("name", "sizes"), [("promise12", (14, 9)), ("prostate158", (2, 2))])
def test_the_real_trees(real_data, name, sizes):
    dataset = open_dataset(real_data / name)
    assert dataset.name == name
    assert (len(dataset.train), len(dataset.test)) == sizes
    for case in (dataset.train[0], dataset.test[0]):
        reference = dataset.reference(case.name)
        assert set(np.unique(reference)) == set(range(dataset.n_labels))
        # The peripheral zone lies behind the central gland: lower in the picture.
        if name == "prostate158":
            rows = [np.argwhere(reference == zone)[:, 1].mean() for zone in (1, 2)]
            assert rows[0] > rows[1]
