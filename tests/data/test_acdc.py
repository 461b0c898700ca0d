import nibabel as nib
import numpy as np
import pytest

from scribbleseg.annotate.simulate import RULES, write_simulation
from scribbleseg.data import fingerprint, fully_annotated, open_dataset
from scribbleseg.data.layouts.acdc import PUBLISHED_TEST, PUBLISHED_TRAIN, PUBLISHED_VALIDATION, acdc, patients
from scribbleseg.types import UNLABELLED, DataError

IMAGE = np.random.default_rng(0).integers(0, 1000, (6, 5, 2)).astype(np.int16)  # x y z
MASK = np.arange(60, dtype=np.uint8).reshape(6, 5, 2) % 4
SCRIBBLE = np.where(np.arange(60).reshape(6, 5, 2) % 3 == 0, MASK, 4).astype(np.uint8)


def save(path, voxels):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, np.diag([-1.5, -1.5, 10, 1])), path)


def write_patient(root, number, frames=(1, 12), scribbles=None, ending=".nii.gz"):
    for frame in frames:
        name = f"patient{number:03d}/patient{number:03d}_frame{frame:02d}"
        save(root / f"{name}{ending}", IMAGE + number)
        save(root / f"{name}_gt{ending}", MASK)
        save((scribbles or root) / f"{name}_scribble{ending}", SCRIBBLE)
    save(root / f"patient{number:03d}/patient{number:03d}_4d.nii.gz", np.zeros((6, 5, 2, 3), np.int16))


@pytest.fixture
def tree(tmp_path):
    for number in (1, 2, 5, 37):
        write_patient(tmp_path, number)
    return tmp_path


def test_a_case_is_an_image_with_decoded_scribbles(tree):
    dataset = acdc(tree)
    assert dataset.label_names == ("background", "RV", "Myo", "LV")
    assert dataset.train.names == tuple(f"patient{n:03d}_frame{f:02d}" for n in (1, 2, 37) for f in (1, 12))
    assert dataset.test.names == ("patient005_frame01", "patient005_frame12")
    case = dataset.train.named("patient002_frame12")
    np.testing.assert_array_equal(case.image[0], IMAGE.T + 2)
    np.testing.assert_array_equal(case.scribbles, np.where(SCRIBBLE.T == 4, UNLABELLED, SCRIBBLE.T))
    assert case.spacing_mm == (10, 1.5, 1.5)
    assert [path.name for path in case.files] == ["patient002_frame12.nii.gz", "patient002_frame12_scribble.nii.gz"]


def test_test_cases_carry_no_scribbles_but_have_a_reference(tree):
    dataset = acdc(tree)
    assert (dataset.test[0].scribbles == UNLABELLED).all()
    np.testing.assert_array_equal(dataset.reference("patient005_frame01"), MASK.T)


def test_absent_patients_are_reported_and_skipped(tree):
    [note] = acdc(tree, split="published").notes
    assert note.startswith("48 of the split's 50 patients are not in")
    [alone, note] = acdc(tree).notes
    assert alone == "no test patients (testing/patient101, ...): the paper's validation volumes are tested on"
    assert note.split("skipped: ")[1].split(", ") == [str(n) for n in range(1, 101) if n not in (1, 2, 5, 37)]


def test_the_five_folds_partition_the_patients_and_their_pathologies():
    folds = [patients("paper_validation", fold) for fold in range(5)]
    assert sorted(n for _, validation in folds for n in validation) == list(range(1, 101))
    for fold, (train, validation) in enumerate(folds):
        assert (len(train), len(validation), set(train) & set(validation)) == (80, 20, set())
        assert [sum(first < n <= first + 20 for n in validation) for first in range(0, 100, 20)] == [4] * 5
        assert len({74, 76} & set(validation)) != 1  # the same images, annotated twice
        assert patients("paper", fold) == (train, tuple(range(101, 151)))
    assert patients("paper_validation", 0)[1] == tuple(range(5, 101, 5))


def test_the_published_split_is_35_15_15_patients():
    parts = (PUBLISHED_TRAIN, PUBLISHED_VALIDATION, PUBLISHED_TEST)
    assert [len(part) for part in parts] == [35, 15, 15]
    assert len({n for part in parts for n in part}) == 65
    assert patients("published") == (PUBLISHED_TRAIN, PUBLISHED_TEST)
    assert patients("published_validation") == (PUBLISHED_TRAIN, PUBLISHED_VALIDATION)


@pytest.fixture(
    params=[("training", "testing"), ("database/training", "database/testing"), (".", "."), (".", "testing")]
)
def whole(request, tmp_path):
    """The folder of a release with test patients, in each of its trees: one of them without masks."""
    training, testing = (tmp_path / "ACDC" / inner for inner in request.param)
    for number in (1, 2, 5, 37):
        write_patient(training, number)
    for number in (101, 150):
        write_patient(testing, number)
    for file in (*testing.glob("patient1[05]?/*_scribble*"), *testing.glob("patient150/*_gt*")):
        file.unlink()
    return tmp_path / "ACDC"


def test_the_papers_test_patients_are_found_and_their_masks_read_where_they_are(whole):
    dataset = open_dataset(whole)
    assert (dataset.name, dataset.options) == ("acdc", {"split": "paper", "fold": 0})
    assert dataset.train.names[::2] == ("patient001_frame01", "patient002_frame01", "patient037_frame01")
    assert dataset.test.names == tuple(f"patient{n}_frame{f:02d}" for n in (101, 150) for f in (1, 12))
    np.testing.assert_array_equal(dataset.test[0].image[0], IMAGE.T + 101)
    assert (dataset.test[0].scribbles == UNLABELLED).all()
    np.testing.assert_array_equal(dataset.read_reference("patient101_frame12"), MASK.T)
    assert dataset.read_reference("patient150_frame12") is None
    [note] = dataset.notes
    assert note.startswith("125 of the split's 130 patients are not in")
    again = open_dataset(dataset.root, dataset.name, **dataset.options)
    assert (again.train.names, again.test.names) == (dataset.train.names, dataset.test.names)


def test_the_default_split_is_by_what_is_on_disk_and_validation_can_be_asked_for(whole):
    assert acdc(whole).options["split"] == "paper"
    assert acdc(whole, fold=3).test.names == acdc(whole).test.names
    validation = acdc(whole, "paper_validation")
    assert validation.test.names == ("patient005_frame01", "patient005_frame12")
    assert validation.train.names == acdc(whole).train.names
    assert not any("no test patients" in note for note in validation.notes)


def test_the_folder_of_the_training_patients_finds_the_test_patients_beside_it(tmp_path):
    write_patient(tmp_path / "training", 1)
    write_patient(tmp_path / "testing", 101)
    assert acdc(tmp_path / "training").test.names == ("patient101_frame01", "patient101_frame12")


def test_without_test_patients_the_default_is_the_validation_volumes(tree):
    dataset = acdc(tree)
    assert dataset.options == {"split": "paper_validation", "fold": 0}
    assert dataset.test.names == acdc(tree, "paper_validation").test.names
    assert not any("no test patients" in note for note in acdc(tree, "paper_validation").notes)
    assert acdc(tree, "paper").test.names == ()


def test_test_patients_alone_are_no_data_set(tmp_path):
    write_patient(tmp_path / "testing", 101)
    with pytest.raises(DataError, match="expected folders patient001, patient002"):
        acdc(tmp_path)


@pytest.mark.parametrize("inner", ["training", "database/training"])
@pytest.mark.parametrize("flat", [True, False])
def test_the_official_tree_takes_its_scribbles_from_a_second_folder(tmp_path, inner, flat):
    root = tmp_path / "ACDC" / inner
    for number in (1, 2):
        write_patient(root, number, scribbles=tmp_path / "drawn", ending=".nii")
        (root / f"patient{number:03d}" / "Info.cfg").write_text("ED: 1\nES: 12\nGroup: DCM\nNbFrame: 30\n")
    if flat:
        for path in list((tmp_path / "drawn").glob("*/*")):
            path.rename(tmp_path / "drawn" / path.name)
    dataset = open_dataset(tmp_path / "ACDC", scribbles=tmp_path / "drawn")
    assert dataset.name == "acdc"
    assert (dataset.train[0].scribbles[SCRIBBLE.T < 4] == MASK.T[SCRIBBLE.T < 4]).all()
    assert dataset.train.names[:2] == ("patient001_frame01", "patient001_frame12")


def test_a_frame_that_info_names_but_nobody_copied_is_an_error(tree):
    (tree / "patient001" / "Info.cfg").write_text("ED: 1\nES: 9\n")
    dataset = acdc(tree)
    with pytest.raises(DataError, match=r"case patient001_frame09: .*patient001_frame09\.nii\.gz: expected this file"):
        dataset.train.named("patient001_frame09")


def test_missing_scribbles_are_an_error_not_an_empty_case(tree):
    (tree / "patient002" / "patient002_frame01_scribble.nii.gz").unlink()
    with pytest.raises(DataError, match=r"patient002_frame01_scribble\.nii\.gz: expected this file, found none"):
        acdc(tree).train.named("patient002_frame01")


def test_masks_alone_can_be_simulated_upon(tree):
    for file in tree.rglob("*_scribble.nii.gz"):
        file.unlink()
    dataset = open_dataset(tree)
    assert all((case.scribbles == UNLABELLED).all() for case in dataset.train)
    np.testing.assert_array_equal(dataset.reference("patient001_frame01"), MASK.T)
    assert "no training case has scribbles: `scribbleseg simulate`" in dataset.notes[-1]
    folder = write_simulation(dataset, RULES["full"], tree.with_name(f"{tree.name}_drawn"))
    simulated = open_dataset(tree, scribbles=folder)
    assert (simulated.train[0].scribbles != UNLABELLED).any()
    assert not any("no training case has scribbles" in note for note in simulated.notes)
    (tree / "empty").mkdir()  # a folder that was given has to have them
    with pytest.raises(DataError, match=r"patient001_frame01_scribble\.nii\.gz: expected this file, found none"):
        acdc(tree, scribbles=tree / "empty").train[0]


def test_own_patient_lists(tree):
    dataset = acdc(tree, train_patients=[37, 5], test_patients=[2, 3])
    assert dataset.train.names[::2] == ("patient005_frame01", "patient037_frame01")
    assert dataset.test.names[::2] == ("patient002_frame01",)
    assert dataset.notes[0].startswith("1 of the split's 4 patients")
    with pytest.raises(DataError, match="give both"):
        acdc(tree, train_patients=[1])
    with pytest.raises(DataError, match=r"no patient in both lists, found \[2\]"):
        acdc(tree, train_patients=[1, 2], test_patients=[2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fold": 5}, "a fold among 0..4, got 5"),
        ({"split": "mine"}, "the split paper, paper_validation, published or published_validation, got 'mine'"),
        ({"scribbles": "nowhere"}, "nowhere, found no such folder"),
        ({"folds": 1}, "format acdc takes split, fold, train_patients, test_patients, scribbles; got folds"),
        ({"train_patients": [9], "test_patients": []}, "training patients 9, found none of them"),
    ],
)
def test_options_that_make_no_sense_are_named(tree, options, message):
    with pytest.raises(DataError, match=message):
        open_dataset(tree, "acdc", **options)


def test_a_case_reports_everything_that_is_wrong_with_it(tree):
    frame = tree / "patient001" / "patient001_frame01"
    voxels = IMAGE.astype(np.float32)
    voxels[0, 0, 0] = np.nan
    save(tree / "patient001" / f"{frame.name}.nii.gz", voxels)
    save(tree / "patient001" / f"{frame.name}_scribble.nii.gz", np.full((6, 4, 2), 9, np.uint8))
    with pytest.raises(DataError) as caught:
        acdc(tree).train[0]
    message = str(caught.value)
    for part in ("case patient001_frame01", "1 of 60 voxels NaN", "9 (48 voxels)", "expected 2 x 5 x 6 voxels"):
        assert part in message
    with pytest.raises(DataError, match="0 background, 1 RV, 2 Myo, 3 LV, 4 unlabelled"):
        acdc(tree).train[0]


def test_references_are_full_masks_on_the_images_grid(tree):
    save(tree / "patient001" / "patient001_frame01_gt.nii.gz", np.where(SCRIBBLE == 4, 5, SCRIBBLE).astype(np.uint8))
    (tree / "patient001" / "patient001_frame12_gt.nii.gz").unlink()
    dataset = acdc(tree)
    with pytest.raises(DataError, match=r"case patient001_frame01.*expected the values 0 background.*found 5 \("):
        dataset.reference("patient001_frame01")
    with pytest.raises(DataError, match="patient001_frame12: expected a reference mask"):
        dataset.reference("patient001_frame12")


def test_the_fingerprint_is_of_what_training_sees(tree, tmp_path_factory):
    dataset = acdc(tree)
    original = fingerprint(dataset.train)
    copy = tmp_path_factory.mktemp("elsewhere")
    for number in (1, 2, 5, 37):
        write_patient(copy, number, ending=".nii")
    assert fingerprint(acdc(copy).train) == original
    assert fingerprint(dataset.train[1:]) != original
    assert fingerprint(fully_annotated(dataset).train) != original
    changed = SCRIBBLE.copy()
    changed[0, 0, 0] = 4
    save(copy / "patient001" / "patient001_frame01_scribble.nii", changed)
    assert fingerprint(acdc(copy).train) != original


def test_full_annotation_swaps_the_scribbles_for_the_masks(tree):
    dataset = fully_annotated(acdc(tree))
    np.testing.assert_array_equal(dataset.train[0].scribbles, MASK.T)
    np.testing.assert_array_equal(dataset.train[0].image, acdc(tree).train[0].image)
    assert "upper bound" in dataset.notes[-1]
    (tree / "patient001" / "patient001_frame01_gt.nii.gz").unlink()
    with pytest.raises(DataError, match="patient001_frame01: expected a reference mask"):
        fully_annotated(acdc(tree)).train[0]


@pytest.mark.real_data
def test_the_real_volumes_agree_with_their_masks(real_data):
    dataset = open_dataset(real_data / "acdc")
    assert dataset.name == "acdc"
    assert len(dataset.train) + len(dataset.test) == 2 * 85
    assert any("15 of the split's 100 patients" in note for note in dataset.notes)
    for name in dataset.train.names[::35]:
        case, mask = dataset.train.named(name), dataset.reference(name)
        drawn = case.scribbles != UNLABELLED
        assert 0.001 < drawn.mean() < 0.1
        assert (case.scribbles[drawn] == mask[drawn]).mean() > 0.9
        assert np.isfinite(case.image).all()
        assert case.spacing_mm[0] >= 5
        assert 1 < case.spacing_mm[1] < 2
