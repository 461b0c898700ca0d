import nibabel as nib
import numpy as np
import pytest

from scribbleseg.data import brats, coarse, fully_annotated, open_dataset
from scribbleseg.types import UNLABELLED, DataError

OLD, NEW = ("_t1", "_t1ce", "_t2", "_flair", "_seg"), ("-t1n", "-t1c", "-t2w", "-t2f", "-seg")
SHAPE = (5, 4, 3)  # x y z
ANATOMY = np.arange(60, dtype=np.uint8).reshape(SHAPE) % 4
"""0 background, 1 NCR/NET, 2 ED, 3 ET."""


def save(path, voxels, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)


def write_case(folder, parts=OLD, ending=".nii.gz", seg=True):
    """Channel k is k + 1 everywhere."""
    *modalities, mask = parts
    for k, modality in enumerate(modalities, start=1):
        save(folder / f"{folder.name}{modality}{ending}", np.full(SHAPE, k, np.int16))
    if seg:
        save(folder / f"{folder.name}{mask}{ending}", np.where(ANATOMY == 3, 4 if parts is OLD else 3, ANATOMY))


@pytest.mark.parametrize(
    ("name", "parts", "ending"),
    [
        ("Brats17_2013_0_1", OLD, ".nii.gz"),
        ("BraTS20_Training_001", OLD, ".nii"),
        ("BraTS2021_00006", OLD, ".nii.gz"),
        ("BraTS-GLI-00000-000", NEW, ".nii.gz"),
    ],
)
def test_each_naming_gives_the_same_labels_and_channels(tmp_path, name, parts, ending):
    write_case(tmp_path / name, parts, ending)
    write_case(tmp_path / f"{name}0", parts, ending)
    dataset = open_dataset(tmp_path)
    assert (dataset.name, dataset.label_names) == ("brats", ("background", "NCR/NET", "ED", "ET"))
    assert (dataset.train.names, dataset.test.names) == ((f"{name}0",), (name,))
    case = dataset.train[0]
    assert case.image[:, 0, 0, 0].tolist() == [1, 2, 3, 4]
    assert (case.scribbles == UNLABELLED).all()
    assert case.present is None
    np.testing.assert_array_equal(dataset.reference(name), ANATOMY.T)


def test_regions_are_scored_and_scribbles_are_of_the_whole_tumour(tmp_path):
    for k in range(2):
        write_case(tmp_path / f"BraTS2021_0000{k}")
    dataset = open_dataset(tmp_path)
    assert dataset.scored == {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}
    assert (dataset.scribble_names, dataset.shown) == (("background", "WT"), 3)
    whole = coarse(dataset)
    np.testing.assert_array_equal(whole.reference("BraTS2021_00000"), ANATOMY.T > 0)
    np.testing.assert_array_equal(fully_annotated(whole).train[0].scribbles, ANATOMY.T > 0)
    full = fully_annotated(dataset)
    assert full.scribble_names == ()  # the masks tell all labels apart
    np.testing.assert_array_equal(coarse(full).train[0].scribbles, ANATOMY.T)


@pytest.mark.parametrize(("given", "folds", "second"), [({}, 5, (1, 6, 11)), ({"folds": 4}, 4, (1, 5, 9))])
def test_the_folds_share_out_the_cases_of_both_grades(tmp_path, given, folds, second):
    names = [f"Brats18_{k:02d}" for k in range(12)]
    for k, name in enumerate(names):
        write_case(tmp_path / ("HGG", "LGG")[k % 2] / name)
    parts = [(d.train.names, d.test.names) for d in (brats(tmp_path, fold, **given) for fold in range(folds))]
    assert parts[1][1] == tuple(f"Brats18_{k:02d}" for k in second)
    assert sorted(name for _, test in parts for name in test) == names
    assert all(sorted(train + test) == names for train, test in parts)
    assert open_dataset(tmp_path).name == "brats"
    opened = brats(tmp_path, 2, **given)
    assert opened.options == {"fold": 2, "folds": folds}
    assert open_dataset(tmp_path, **opened.options).test.names == opened.test.names
    with pytest.raises(DataError, match=rf"a fold among 0\.\.{folds - 1}, got {folds}"):
        brats(tmp_path, folds, **given)


def test_five_folds_are_the_papers_228_training_and_57_test_scans_of_285(tmp_path):
    for k in range(285):
        for modality in OLD:  # opening lists files and reads none
            file = tmp_path / f"Brats17_{k:03d}" / f"Brats17_{k:03d}{modality}.nii.gz"
            file.parent.mkdir(exist_ok=True)
            file.touch()
    for fold in range(5):
        dataset = brats(tmp_path, fold)
        assert (len(dataset.train), len(dataset.test)) == (228, 57)


@pytest.mark.parametrize("folds", [0, 1])
def test_fewer_than_two_folds_are_none(tmp_path, folds):
    write_case(tmp_path / "BraTS2021_00000")
    with pytest.raises(DataError, match="expected a fold among 0"):
        brats(tmp_path, 0, folds)


def test_cases_without_a_mask_are_test_cases(tmp_path):
    for k in range(6):
        write_case(tmp_path / f"BraTS2021_{k:05d}", seg=k != 2)
    dataset = open_dataset(tmp_path)
    assert dataset.train.names == tuple(f"BraTS2021_{k:05d}" for k in (1, 3, 4, 5))
    assert dataset.test.names == ("BraTS2021_00000", "BraTS2021_00002")
    assert dataset.notes == ("1 of 6 cases has no mask and is a test case without a reference",)
    with pytest.raises(DataError, match="case BraTS2021_00002: expected a reference mask"):
        dataset.reference("BraTS2021_00002")


def test_folders_train_and_test_are_the_split(tmp_path):
    write_case(tmp_path / "train" / "b", seg=False)  # scribbles are enough to train on
    write_case(tmp_path / "train" / "HGG" / "a")
    write_case(tmp_path / "test" / "c")
    dataset = open_dataset(tmp_path)
    assert (dataset.train.names, dataset.test.names, dataset.options) == (("a", "b"), ("c",), {})
    with pytest.raises(DataError, match="are the split, got the fold 1"):
        brats(tmp_path, 1)
    write_case(tmp_path / "d")
    with pytest.raises(DataError, match="in its train/ and test/, found both"):
        brats(tmp_path)


@pytest.fixture
def tree(tmp_path):
    for k in range(3):
        write_case(tmp_path / f"BraTS2021_0000{k}")
    return tmp_path


@pytest.mark.parametrize("modality", OLD[:4])
def test_a_missing_modality_is_an_error_of_its_case(tree, modality):
    file = tree / "BraTS2021_00001" / f"BraTS2021_00001{modality}.nii.gz"
    file.unlink()
    dataset = open_dataset(tree)
    assert dataset.train.names == ("BraTS2021_00001", "BraTS2021_00002")
    with pytest.raises(DataError, match=f"case BraTS2021_00001: {file}: expected this file, found none"):
        dataset.train[0]


@pytest.mark.parametrize(
    ("shape", "affine", "message"),
    [
        ((5, 4, 2), np.eye(4), r"expected 3 x 4 x 5 voxels .* as in BraTS2021_00001_t1\.nii\.gz, found 2 x 4 x 5"),
        (SHAPE, np.diag([1, 1, 1.5, 1]), r"expected the affine of BraTS2021_00001_t1\.nii\.gz"),
    ],
)
@pytest.mark.parametrize("part", ["_t2", "_seg"])
def test_files_on_another_grid_are_errors_of_their_case(tree, part, shape, affine, message):
    save(tree / "BraTS2021_00001" / f"BraTS2021_00001{part}.nii.gz", np.zeros(shape, np.uint8), affine)
    dataset = open_dataset(tree)
    with pytest.raises(DataError, match=rf"case BraTS2021_00001: .*{part}\.nii\.gz: {message}"):
        dataset.reference("BraTS2021_00001") if part == "_seg" else dataset.train[0]


@pytest.mark.parametrize(("parts", "wrong", "right"), [(OLD, 3, 4), (NEW, 4, 3)])
def test_the_other_namings_value_of_et_is_refused(tmp_path, parts, wrong, right):
    for name in ("BraTS-a", "BraTS-b"):
        write_case(tmp_path / name, parts)
    save(tmp_path / "BraTS-a" / f"BraTS-a{parts[-1]}.nii.gz", np.full(SHAPE, wrong, np.uint8))
    years = ("2017 to 2021", "2023")[:: 1 if parts is OLD else -1]
    message = (
        rf"case BraTS-a: .*expected the values .*{right} ET, found {wrong} \(60 voxels\); files named as in BraTS "
        rf"{years[0]} have {right} for ET: .* if they are from {years[1]}"
    )
    with pytest.raises(DataError, match=message):
        open_dataset(tmp_path).reference("BraTS-a")


def test_trees_that_are_not_one_data_set_are_refused(tree, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(DataError, match=r"expected CASE/CASE_\{t1,t1ce,t2,flair,seg\}\.nii\.gz or .* found none"):
        brats(empty)
    write_case(empty / "BraTS2021_00000")
    with pytest.raises(DataError, match="expected training cases, found none among 1 in"):
        brats(empty)
    write_case(tree / "LGG" / "BraTS2021_00000")
    with pytest.raises(DataError, match="expected one case BraTS2021_00000, found .*; keep one"):
        brats(tree)
    write_case(empty / "BraTS-GLI-00000-000", NEW)
    with pytest.raises(DataError, match="files of both namings; keep each in a folder of its own"):
        brats(empty)


@pytest.mark.real_data
def test_the_real_cases(real_data):
    dataset = open_dataset(real_data / "brats")
    assert dataset.name == "brats"
    assert (len(dataset.train), len(dataset.test)) == (6, 2)
    case = dataset.test.named("BraTS2021_00006")
    reference = dataset.reference(case.name)
    assert case.image.shape == (4, 155, 240, 240)
    assert case.spacing_mm == (1, 1, 1)
    assert set(np.unique(reference)) == {0, 1, 2, 3}
    brain = (case.image != 0).any(axis=0)
    assert 0.1 < brain.mean() < 0.25
    t1ce, flair = case.image[1], case.image[3]
    assert t1ce[reference == 3].mean() > 1.5 * t1ce[reference == 1].mean()  # ET enhances, NCR does not
    assert flair[reference == 2].mean() > 1.5 * flair[brain & (reference == 0)].mean()


def test_a_tree_without_any_mask_is_all_to_train_on(tmp_path):
    for name in ("one", "two"):
        write_case(tmp_path / name, seg=False)
    opened = open_dataset(tmp_path)
    assert (opened.name, opened.train.names, opened.test.names) == ("brats", ("one", "two"), ())
    assert any("no case has a mask" in note for note in opened.notes)
