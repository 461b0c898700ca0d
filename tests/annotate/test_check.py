import json
import time
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from scribbleseg.annotate.check import DATA_SET, check
from scribbleseg.annotate.simulate import RULES, simulate, write_simulation
from scribbleseg.data import acdc, folder, nnunet, open_dataset
from scribbleseg.phantoms import write_phantoms
from scribbleseg.types import UNLABELLED

LABELS = {"background": 0, "liver": 1, "tumour": 2, "ignore": 9}


def save(path, voxels, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)


def image(seed):
    return np.random.default_rng(seed).integers(0, 1000, (12, 10, 2)).astype(np.int16)


def strokes():
    labels = np.full((12, 10, 2), 9, np.uint8)
    labels[1:9, 1], labels[1:9, 4], labels[1:7, 7] = 0, 1, 2
    return labels


@pytest.fixture
def root(tmp_path):
    for seed, name in enumerate("abc"):
        save(tmp_path / "images" / f"{name}.nii.gz", image(seed))
    for name in "ab":
        save(tmp_path / "scribbles" / f"{name}.nii.gz", strokes())
    save(tmp_path / "masks" / "c.nii.gz", strokes() % 9)
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": LABELS}))
    return tmp_path


def found(root, severity="fault"):
    """`{(case, file name): problem}` of what the audit finds."""
    return {
        (fault.case, fault.file and fault.file.name): fault.problem
        for fault in check(folder(root)).faults
        if fault.severity == severity
    }


def redraw(root, change, names="ab"):
    for name in names:
        labels = strokes()
        change(labels)
        save(root / "scribbles" / f"{name}.nii.gz", labels)


def test_a_sound_data_set_has_no_faults(root):
    audit = check(folder(root))
    assert audit.sound
    assert {(fault.severity, fault.case) for fault in audit.faults} == {("note", DATA_SET)}
    *_, of_strokes = (fault.problem for fault in audit.faults)
    assert "strokes do not tell in which plane they were drawn: volumes are cut into axial slices" in of_strokes


def test_coverage_counts_cases_and_voxels(root):
    redraw(root, lambda labels: np.place(labels, labels == 2, 9), names="b")
    coverage = check(folder(root)).coverage
    assert (coverage.n_cases, coverage.n_voxels) == (2, 2 * 240)
    rows = [(row.name, row.n_cases, row.n_voxels) for row in coverage.classes]
    assert rows == [("background", 2, 32), ("liver", 2, 32), ("tumour", 1, 12)]
    assert coverage.classes[0].share == pytest.approx(32 / 480)


def test_every_fault_of_every_case_is_reported_in_one_go(root):
    (root / "images" / "a.nii.gz").write_bytes((root / "images" / "a.nii.gz").read_bytes()[:200])
    save(root / "scribbles" / "a.nii.gz", np.where(strokes() == 2, 5, strokes()).astype(np.uint8))
    voxels = image(1).astype(np.float32)
    voxels[3, 3, 1] = np.nan
    save(root / "images" / "b.nii.gz", voxels)
    save(root / "scribbles" / "b.nii.gz", strokes(), np.diag([1, 1, 3, 1]))
    save(root / "masks" / "c.nii.gz", strokes()[:-1] % 9)
    problems = [(fault.case, fault.problem) for fault in check(folder(root)).faults if fault.severity == "fault"]
    for case, part in [
        ("a", "could not read this one"),
        ("a", "found 5 (12 voxels)"),
        ("b", "1 of 240 voxels NaN"),
        ("b", "expected the affine of b.nii.gz"),
        ("c", "expected 2 x 10 x 12 voxels"),
    ]:
        assert any(name == case and part in problem for name, problem in problems), (case, part)
    assert all(fault.remedy for fault in check(folder(root)).faults)


def test_missing_background_is_a_warning_in_a_case_and_a_fault_in_all(root):
    redraw(root, lambda labels: np.place(labels, labels == 0, 9), names="b")
    assert "no background" in found(root, "warning")[("b", "b.nii.gz")]
    assert check(folder(root)).sound
    redraw(root, lambda labels: np.place(labels, labels == 0, 9))
    assert "finds structures everywhere" in found(root)[(DATA_SET, None)]
    assert not check(folder(root)).sound


def test_slices_with_structures_and_no_background_are_a_warning(root):
    def second_slice_without(labels):
        labels[..., 1][labels[..., 1] == 0] = 9

    redraw(root, second_slice_without, names="a")
    assert check(folder(root)).sound
    assert "no background in slice 2 " in found(root, "warning")[("a", "a.nii.gz")]


def test_a_class_without_scribbles_is_a_warning_in_a_case_and_in_all(root):
    redraw(root, lambda labels: np.place(labels, labels == 2, 9), names="a")
    assert found(root, "warning")[("a", "a.nii.gz")] == "no scribble of tumour"
    assert not found(root)
    redraw(root, lambda labels: np.place(labels, labels == 2, 9))
    assert "scribbles of tumour in some case" in found(root, "warning")[(DATA_SET, None)]
    assert not found(root)


def test_background_alone_is_a_fault(root):
    redraw(root, lambda labels: np.place(labels, (labels != 0) & (labels != 9), 9))
    assert "scribbles of a structure" in found(root)[(DATA_SET, None)]


def test_unlabelled_cases_are_a_warning_and_an_unlabelled_data_set_a_fault(root):
    redraw(root, lambda labels: labels.fill(9), names="a")
    assert "every voxel unlabelled" in found(root, "warning")[("a", "a.nii.gz")]
    assert not found(root)
    redraw(root, lambda labels: labels.fill(9))
    assert "expected scribbles to train on, found none in 2" in found(root)[(DATA_SET, None)]


def test_strokes_on_a_zero_declared_background_are_a_fault_and_full_masks_a_warning(root):
    redraw(root, lambda labels: np.place(labels, labels == 9, 0))
    assert "nearly all of them declared to be background" in found(root)[("a", "a.nii.gz")]

    def fill(labels):
        labels[:] = 0
        labels[2:10, 2:5], labels[2:10, 5:9] = 1, 2

    redraw(root, fill)
    assert not found(root)
    assert "found a full mask" in found(root, "warning")[("a", "a.nii.gz")]


def test_the_same_image_twice_is_a_warning_and_a_leak_into_the_test_set_a_fault(root):
    save(root / "images" / "b.nii.gz", image(0))
    assert found(root, "warning")[("b", "b.nii.gz")] == "is the same image as a"
    save(root / "images" / "c.nii.gz", image(0))
    assert found(root) == {
        ("c", "c.nii.gz"): "is the same image as a, which is in the train set: its test score means nothing"
    }


def test_a_case_in_both_parts_is_a_fault(tmp_path):
    for part in ("Tr", "Ts"):
        save(tmp_path / f"images{part}" / "a_0000.nii.gz", image(part == "Tr"))
    save(tmp_path / "labelsTr" / "a.nii.gz", np.minimum(strokes(), 3))
    labels = {**LABELS, "ignore": 3}
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels, "channel_names": {"0": "CT"}}))
    problems = [fault.problem for fault in check(nnunet(tmp_path)).faults if fault.severity == "fault"]
    assert problems == ["is in the training and in the test set"]


def test_images_that_hold_nothing_and_odd_channels_are_faults(root):
    save(root / "images" / "a.nii.gz", np.full((12, 10, 2), 7, np.int16))
    assert "the same intensity 7 everywhere in channel 0" in found(root)[("a", "a.nii.gz")]
    holes = image(7).astype(np.float32)
    holes[0, :3] = 3e38
    save(root / "images" / "a.nii.gz", holes)
    assert "found 3e+38 in channel 0, which may stand for no data" in found(root, "warning")[("a", "a.nii.gz")]
    (root / "images" / "b.nii.gz").rename(root / "images" / "b_0000.nii.gz")
    save(root / "images" / "b_0001.nii.gz", image(7))
    assert "expected 1 channel, as in 2 cases, found 2" in found(root)[("b", "b_0000.nii.gz")]


def test_the_few_are_at_fault_not_the_many(root):
    (root / "images" / "a.nii.gz").rename(root / "images" / "a_0000.nii.gz")
    save(root / "images" / "a_0001.nii.gz", image(7))  # the first case is the odd one
    faults = found(root)
    assert "as in 2 cases, found 2" in faults[("a", "a_0000.nii.gz")]
    assert len(faults) == 1


def test_progress_sees_every_case_once(root):
    seen = []

    def each(look, items):
        assert len(items) == 3
        for item in items:
            seen.append(item)
            yield look(item)

    assert check(folder(root), each) == check(folder(root))
    assert seen == [("train", "a"), ("train", "b"), ("test", "c")]


class TestOfTheWholeTumour:
    """Scribbles that are coarser than the masks, and image-level labels."""

    @pytest.fixture
    def brain(self, tmp_path):
        """Three training cases: everything, no ET, and no tumour scribbled."""
        for k, structures in enumerate([(1, 2, 4), (1, 2), (1, 2, 4)]):
            for seed, part in enumerate(("t1", "t1ce", "t2", "flair")):
                save(tmp_path / "train" / f"c{k}" / f"c{k}_{part}.nii.gz", image(10 * k + seed))
            mask = np.zeros((12, 10, 2), np.uint8)
            for row, value in enumerate(structures):
                mask[2:8, 4 + row] = value
            save(tmp_path / "train" / f"c{k}" / f"c{k}_seg.nii.gz", mask)
            labels = np.full((12, 10, 2), 2, np.uint8)
            labels[1:9, 1] = 0
            labels[3:5, 4:6] = 1 if k < 2 else 2
            save(tmp_path / "drawn" / f"c{k}.nii.gz", labels)
        declaration = {"labels": {"background": 0, "WT": 1, "ignore": 2}}
        (tmp_path / "drawn" / "dataset.json").write_text(json.dumps(declaration))
        return tmp_path

    @staticmethod
    def audit(brain, **present):
        if present:
            (brain / "drawn" / "present.json").write_text(json.dumps(present))
        return check(open_dataset(brain, scribbles=brain / "drawn"))

    @staticmethod
    def problems(audit):
        return [(fault.case, fault.severity, fault.problem) for fault in audit.faults if fault.severity != "note"]

    def test_coverage_is_of_the_scribbles_labels(self, brain):
        audit = self.audit(brain)
        assert audit.sound
        rows = [(row.name, row.n_cases, row.n_voxels) for row in audit.coverage.classes]
        assert rows == [("background", 3, 48), ("WT", 2, 16)]
        assert self.problems(audit) == [("c2", "warning", "no scribble of WT")]
        notes = [fault.problem for fault in audit.faults if fault.severity == "note"]
        assert len(notes) == 3
        assert "scribbles from" in notes[0]
        assert "no present.csv or present.json" in notes[1]

    def test_image_level_labels_that_agree_are_no_fault(self, brain):
        full = ["NCR/NET", "ED", "ET"]
        assert self.problems(self.audit(brain, c0=full, c1=full[:2], c2=full)) == [
            ("c2", "warning", "no scribble of WT")
        ]

    def test_a_case_without_them_where_others_have_them(self, brain):
        problems = self.problems(self.audit(brain, c1=["NCR/NET", "ED"]))
        for case in ("c0", "c2"):
            assert (case, "warning", "expected image-level labels, as c1 has them, found none") in problems

    def test_labels_that_the_scribbles_or_the_mask_contradict(self, brain):
        audit = self.audit(brain, c0=[], c1=["NCR/NET", "ED", "ET"], c2=[])
        assert not audit.sound
        assert self.problems(audit) == [
            ("c0", "fault", "image-level labels say nothing, there are scribbles of WT"),
            ("c0", "warning", "image-level labels say nothing, the reference mask has NCR/NET, ED, ET"),
            ("c1", "warning", "image-level labels say NCR/NET, ED, ET, the reference mask has NCR/NET, ED"),
            ("c2", "warning", "image-level labels say nothing, the reference mask has NCR/NET, ED, ET"),
        ]

    def test_scribbles_of_all_labels_are_compared_one_by_one(self, brain):
        labels = {"background": 0, "NCR/NET": 1, "ED": 3, "ET": 4, "ignore": 2}
        (brain / "drawn" / "dataset.json").write_text(json.dumps({"labels": labels}))
        audit = self.audit(brain, c0=["ED"], c1=["NCR/NET", "ED"], c2=["NCR/NET", "ED", "ET"])
        assert [row.name for row in audit.coverage.classes] == ["background", "NCR/NET", "ED", "ET"]
        problems = self.problems(audit)
        assert ("c0", "fault", "image-level labels say ED, there are scribbles of NCR/NET") in problems
        assert ("c1", "warning", "no scribble of ED") in problems  # not of ET, which is known to be absent


@pytest.mark.real_data
def test_the_real_tree_is_sound_and_its_duplicate_patient_is_found(real_data):
    dataset = acdc(real_data / "acdc", train_patients=[1, 2, 74], test_patients=[3])
    start = time.perf_counter()
    audit = check(dataset)
    assert time.perf_counter() - start < 10
    assert audit.sound
    assert not audit.faults
    assert [row.n_cases for row in audit.coverage.classes] == [6, 6, 6, 6]
    assert all(1e-4 < row.share < 0.02 for row in audit.coverage.classes)
    assert (dataset.train[0].scribbles == UNLABELLED).mean() > 0.9
    leak = check(acdc(real_data / "acdc", train_patients=[74], test_patients=[76]))
    assert [fault.case for fault in leak.faults] == ["patient076_frame01", "patient076_frame12"]
    assert not leak.sound


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("third", [True, False])
def test_background_and_ignore_that_are_exchanged_are_a_fault_whatever_is_drawn(rule, third, tmp_path):
    """A drawing tool leaves 0 where nobody drew; dataset.json calls 0 background, and background strokes "ignore"."""
    root = write_phantoms(tmp_path / "hearts", train=1, test=0, shape=(3, 96, 96))
    dataset = folder(root)
    drawn = simulate(dataset.reference("train000"), RULES[rule], "train000")
    exchanged = np.where(drawn == UNLABELLED, 0, np.where(drawn == 0, 4 if third else 0, drawn)).astype(np.uint8)
    affine = nib.load(root / "scribbles" / "train000.nii.gz").affine
    save(root / "scribbles" / "train000.nii.gz", exchanged.T, affine)
    assert "nearly all of them declared to be background" in found(root)[("train000", "train000.nii.gz")]
    save(root / "scribbles" / "train000.nii.gz", np.where(drawn == UNLABELLED, 4, drawn).astype(np.uint8).T, affine)
    assert not found(root)


def test_a_mask_whose_border_is_left_open_is_no_exchange(tmp_path):
    root = write_phantoms(tmp_path / "hearts", train=1, test=0, shape=(3, 96, 96))
    mask = folder(root).reference("train000")
    border = ndimage.binary_dilation(mask > 0, iterations=2) & (mask == 0)
    affine = nib.load(root / "scribbles" / "train000.nii.gz").affine
    save(root / "scribbles" / "train000.nii.gz", np.where(border, 4, mask).astype(np.uint8).T, affine)
    assert not found(root)


def test_masks_that_leave_voxels_open_and_image_level_labels_go_together(tmp_path):
    root = write_phantoms(tmp_path / "brains", "tumour", train=1, test=0)
    drawn = write_simulation(open_dataset(root), RULES["ji2019"], tmp_path / "drawn")
    dataset = open_dataset(root, scribbles=str(drawn))

    def open_mask(name):
        mask = dataset.reference(name)
        return np.where(np.arange(mask.size).reshape(mask.shape) % 7, mask, np.uint8(UNLABELLED))

    audit = check(replace(dataset, read_reference=open_mask))
    assert not any("the reference mask has" in fault.problem for fault in audit.faults)


def test_a_header_in_another_scale_is_a_fault_of_a_training_case_and_a_warning_elsewhere(root):
    save(root / "images" / "d.nii.gz", image(5))
    save(root / "images" / "c.nii.gz", image(2), np.diag([1000.0, 1000, 1000, 1]))
    save(root / "masks" / "c.nii.gz", strokes() % 9, np.diag([1000.0, 1000, 1000, 1]))
    assert "expected voxels of about 1 mm as in most cases" in found(root, "warning")[("c", None)]
    assert not found(root)
    for name in "xyz":
        save(root / "images" / f"{name}.nii.gz", image(ord(name)))
        save(root / "scribbles" / f"{name}.nii.gz", strokes())
    save(root / "images" / "b.nii.gz", image(1), np.diag([1000.0, 1000, 1000, 1]))
    save(root / "scribbles" / "b.nii.gz", strokes(), np.diag([1000.0, 1000, 1000, 1]))
    assert "found 1e+03 x 1e+03 x 1e+03 mm" in found(root)[("b", None)]


def lines(axis):
    """A line of the liver and one of background in every second slice along a stored axis of 40 x 36 x 30 voxels."""
    rng = np.random.default_rng(axis)
    strokes = np.full((40, 36, 30), 2, np.uint8)
    slices = np.moveaxis(strokes, axis, 0)
    for n in range(4, len(slices) - 3, 2):
        slices[n, 3:25, rng.integers(5, 20)], slices[n, rng.integers(25, 30), 3:25] = 1, 0
    return strokes


def cubes(root, drawn, thick=""):
    """A data set of 1 mm voxels with these strokes by case; those of some cases are 5 mm long along the last axis."""
    for name, strokes in drawn.items():
        image = np.random.default_rng(ord(name)).integers(0, 1000, strokes.shape).astype(np.int16)
        affine = np.diag([1.0, 1.0, 5.0 if name in thick else 1.0, 1.0])
        save(root / "images" / f"{name}.nii.gz", image, affine)
        save(root / "scribbles" / f"{name}.nii.gz", strokes, affine)
    (root / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "liver": 1, "ignore": 2}}))
    return root


def test_the_plane_of_the_strokes_is_that_of_the_slices_where_voxels_are_cubes(tmp_path):
    cubes(tmp_path, {"a": lines(0)})
    said = found(tmp_path, "note")[("a", None)]
    assert "stored as SAR" in said
    assert "cut into slices as RSA, for strokes were drawn in sagittal slices" in said
    assert check(folder(tmp_path)).coverage.n_slices == 17
    assert not found(tmp_path, "warning").keys() & {("a", "a.nii.gz")}


def test_strokes_of_another_plane_than_most_are_told_and_counted_as_they_are_cut(tmp_path):
    cubes(tmp_path, {"a": lines(1), "b": lines(0), "c": lines(1)})
    said = found(tmp_path, "warning")
    assert [name for name, _ in said] == ["b"]
    problem = said[("b", "b.nii.gz")]
    assert "strokes were drawn in sagittal slices, but training cuts coronal ones, in which they are dots" in problem
    b_cut = np.any(lines(0) != 2, axis=(0, 2)).sum()
    assert check(folder(tmp_path)).coverage.n_slices == 2 * 15 + b_cut


def test_a_plane_that_a_recipe_asks_for_is_that_of_the_slices(tmp_path):
    audit = check(folder(cubes(tmp_path, {"a": lines(1)})), asked="axial")
    [warning] = [fault.problem for fault in audit.faults if "drawn in" in fault.problem]
    assert "strokes were drawn in coronal slices, but training cuts axial ones" in warning
    assert audit.coverage.n_slices == np.any(lines(1) != 2, axis=(0, 1)).sum()


def test_strokes_do_not_decide_over_thick_slices(tmp_path):
    cubes(tmp_path, {"a": lines(1), "b": lines(2), "c": lines(2)}, thick="bc")
    assert [name for name, _ in found(tmp_path, "warning")] == ["a"]
    assert not any("for strokes were drawn" in said for said in found(tmp_path, "note").values())


def test_slices_without_background_are_named_by_the_plane_that_is_cut(tmp_path):
    bare = lines(1)
    bare[:, 8][bare[:, 8] == 0] = 2
    cubes(tmp_path, {"a": bare, "b": lines(1)})
    [said] = found(tmp_path, "warning").values()
    assert "structures are scribbled but no background in coronal slice 9 (the first is 1)" in said
