"""Scores against brute force, known answers and invariants; the rule for empty masks; the files they go into."""

import csv
import errno
import json
import math
import re
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from scribbleseg.evaluation.metrics import (
    MEASURES,
    Score,
    Scores,
    dice,
    paired_interval,
    read_scores,
    score,
    summarise,
    write_scores,
)
from scribbleseg.types import UNLABELLED, DataError

RV: dict[str, tuple[int, ...]] = {"RV": (1,)}
HEART: dict[str, tuple[int, ...]] = {"RV": (1,), "Myo": (2,)}
TUMOUR: dict[str, tuple[int, ...]] = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}
SPACING = (8.0, 1.5, 1.25)


def random_masks(seed: int, shape: tuple[int, ...] = (4, 7, 6), share: float = 0.3) -> np.ndarray:
    return np.random.default_rng(seed).choice(3, size=shape, p=[1 - share, share / 2, share / 2]).astype(np.uint8)


def brute_force_dice(labels: np.ndarray, reference: np.ndarray, value: int) -> float:
    both = a = b = 0
    for index in np.ndindex(labels.shape):
        a += labels[index] == value
        b += reference[index] == value
        both += labels[index] == value and reference[index] == value
    return 2 * both / (a + b) if a + b else 1.0


def brute_force_recall(labels: np.ndarray, reference: np.ndarray, values: tuple[int, ...]) -> float:
    found = [labels[index] in values for index in np.ndindex(labels.shape) if reference[index] in values]
    if found:
        return sum(found) / len(found)
    return float(not any(value in values for value in labels.flat))


def surface(mask: np.ndarray) -> list[tuple[int, ...]]:
    """Voxels of the mask with a face neighbour that is outside the mask or outside the volume."""
    inside = {tuple(map(int, index)) for index in np.argwhere(mask)}
    steps = [s for s in product((-1, 0, 1), repeat=mask.ndim) if sum(map(abs, s)) == 1]
    return [v for v in inside if any(tuple(np.add(v, s)) not in inside for s in steps)]


def brute_force_distances(a: np.ndarray, b: np.ndarray, spacing: tuple[float, ...]) -> tuple[float, float]:
    """HD95 and ASSD from every pair of surface voxels."""
    there = [min(math.dist(np.multiply(p, spacing), np.multiply(q, spacing)) for q in surface(b)) for p in surface(a)]
    back = [min(math.dist(np.multiply(p, spacing), np.multiply(q, spacing)) for q in surface(a)) for p in surface(b)]
    return max(np.percentile(there, 95), np.percentile(back, 95)), float(np.mean(there + back))


@settings(max_examples=30, deadline=None)
@given(*[arrays(np.uint8, (2, 3, 4), elements=st.integers(0, 2))] * 2)
def test_dice_is_the_double_loop_symmetric_and_one_for_itself(a, b):
    assert dice(a, b, HEART) == {name: pytest.approx(brute_force_dice(a, b, v)) for v, name in [(1, "RV"), (2, "Myo")]}
    assert dice(a, b, HEART) == dice(b, a, HEART)
    assert dice(a, a, HEART) == {"RV": 1, "Myo": 1}


@settings(max_examples=30, deadline=None)
@given(*[arrays(np.uint8, (2, 3, 4), elements=st.integers(0, 3))] * 2)
def test_nested_regions_are_scored_as_masks_of_their_own(a, b):
    for got, swapped, (name, values) in zip(
        score("c", a, b, SPACING, TUMOUR), score("c", b, a, SPACING, TUMOUR), TUMOUR.items(), strict=True
    ):
        alone = score("c", *(np.isin(x, values).astype(np.uint8) for x in (a, b)), SPACING, {name: (1,)})
        np.testing.assert_equal([asdict(got)], [asdict(each) for each in alone])  # here NaN equals NaN
        assert got.dice == dice(a, b, TUMOUR)[name]
        assert got.recall == pytest.approx(brute_force_recall(a, b, values))
        assert got.precision == swapped.recall
        assert got.dice == pytest.approx(2 * got.recall * got.precision / (got.recall + got.precision or 1))


@pytest.mark.parametrize("seed", range(6))
def test_distances_and_volumes_are_those_of_brute_force(seed):
    labels, reference = random_masks(seed, share=0.1 + 0.1 * seed), random_masks(seed + 100)
    for value, got in enumerate(score("a", labels, reference, SPACING, HEART), start=1):
        hd95, assd = brute_force_distances(labels == value, reference == value, SPACING)
        assert (got.hd95_mm, got.assd_mm) == (pytest.approx(hd95, rel=1e-5), pytest.approx(assd, rel=1e-5))
        assert got.dice == pytest.approx(brute_force_dice(labels, reference, value))
        assert got.volume_ml == pytest.approx((labels == value).sum() * 8 * 1.5 * 1.25 / 1000)
        assert got.volume_error_ml == pytest.approx(got.volume_ml - got.reference_volume_ml)
        empty = [z for z in range(len(reference)) if not (reference[z] == value).any()]
        assert got.empty_slices_ml == pytest.approx((labels[empty] == value).sum() * 8 * 1.5 * 1.25 / 1000)


def test_what_lies_in_slices_without_the_structure_is_counted_by_itself():
    reference, labels = np.zeros((2, 4, 5, 5), np.uint8)
    reference[1, 1:3, 1:3] = 1
    reference[2] = 2
    labels[1:4, :2] = 1
    (found, other) = score("a", labels, reference, (10.0, 1.0, 1.0), {"one": (1,), "two": (2,)})
    assert found.empty_slices_ml == pytest.approx(20 * 10 / 1000), "ten voxels in each of slices 2 and 3"
    assert other.empty_slices_ml == 0


def test_scores_are_symmetric_and_zero_for_identical_masks():
    a, b = random_masks(1), random_masks(2)
    for there, back in zip(score("c", a, b, SPACING, HEART), score("c", b, a, SPACING, HEART), strict=True):
        assert (there.hd95_mm, there.assd_mm) == (pytest.approx(back.hd95_mm), pytest.approx(back.assd_mm))
    for same in score("c", a, a, SPACING, HEART):
        assert (same.dice, same.hd95_mm, same.assd_mm, same.volume_error_ml) == (1, 0, 0, 0)


def test_voxel_sizes_of_several_number_types_are_numbers_all_the_same():
    a, b = random_masks(1), random_masks(2)
    assert score("c", a, b, (np.float64(8), 1.5, np.float64(1.25)), HEART) == score("c", a, b, SPACING, HEART)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_shifted_sheet_is_as_far_as_it_was_shifted(axis):
    labels, reference = np.zeros((2, 9, 9, 9), np.uint8)
    sheet = [slice(None)] * 3
    for array, position in ((reference, 2), (labels, 5)):
        sheet[axis] = slice(position, position + 1)
        array[tuple(sheet)] = 1
    (got,) = score("sheet", labels, reference, SPACING, RV)
    assert (got.dice, got.hd95_mm, got.assd_mm) == (
        0,
        pytest.approx(3 * SPACING[axis]),
        pytest.approx(3 * SPACING[axis]),
    )


def test_a_cube_shifted_by_one_voxel():
    labels, reference = np.zeros((2, 10, 10, 10), np.uint8)
    reference[2:6, 2:6, 2:6] = 1
    labels[3:7, 2:6, 2:6] = 1
    (got,) = score("cube", labels, reference, (8.0, 1.0, 1.0), RV)
    assert got.dice == pytest.approx(0.75)  # three of four layers overlap
    hd95, assd = brute_force_distances(labels == 1, reference == 1, (8.0, 1.0, 1.0))
    assert (got.hd95_mm, got.assd_mm) == (8.0, pytest.approx(assd))
    assert hd95 == 8.0
    labels[7:9, 2:6, 2:6] = 1
    (larger,) = score("cube", labels, reference, (8.0, 1.0, 1.0), RV)
    assert (larger.dice, larger.recall, larger.precision) == (pytest.approx(0.6), 0.75, 0.5)


def test_a_mask_that_touches_the_border_ends_there():
    labels, reference = random_masks(3), random_masks(4)
    padded = [np.pad(array, 3) for array in (labels, reference)]
    assert score("c", labels, reference, SPACING, HEART) == score("c", *padded, SPACING, HEART)


def test_one_slice_is_measured_in_its_plane():
    labels, reference = np.zeros((2, 1, 20, 20), np.uint8)
    reference[0, 5:15, 5:15] = 1
    labels[0, 5:15, 6:16] = 1
    (got,) = score("slice", labels, reference, (1.0, 1.0, 2.0), RV)
    expected = brute_force_distances(labels[0] == 1, reference[0] == 1, (1.0, 2.0))
    assert (got.hd95_mm, got.assd_mm) == (pytest.approx(expected[0]), pytest.approx(expected[1]))


def test_empty_masks_follow_the_rule_of_the_table():
    empty, full = np.zeros((3, 4, 4), np.uint8), np.ones((3, 4, 4), np.uint8)
    (both,) = score("c", empty, empty, SPACING, RV)
    assert (both.dice, both.recall, both.precision, both.hd95_mm, both.assd_mm) == (1, 1, 1, 0, 0)
    assert (both.missed, both.invented) == (False, False)
    (missed,) = score("c", empty, full, SPACING, RV)
    assert (missed.dice, missed.recall, missed.precision) == (0, 0, 0)
    assert (missed.missed, missed.invented) == (True, False)
    (invented,) = score("c", full, empty, SPACING, RV)
    assert (invented.dice, invented.recall, invented.precision) == (0, 0, 0)
    assert (invented.missed, invented.invented) == (False, True)
    assert all(math.isnan(x) for x in (missed.hd95_mm, missed.assd_mm, invented.hd95_mm, invented.assd_mm))


@pytest.mark.parametrize(
    ("labels", "reference", "spacing", "message"),
    [
        (np.zeros((2, 3, 4), np.uint8), np.zeros((2, 4, 3), np.uint8), SPACING, "patient7: .*shape .2, 4, 3., got"),
        (np.full((2, 3, 4), UNLABELLED, np.uint8), np.zeros((2, 3, 4), np.uint8), SPACING, r"255 \(unlabelled\)"),
        (np.full((2, 3, 4), 3, np.uint8), np.zeros((2, 3, 4), np.uint8), SPACING, "in the prediction, got 3"),
        (np.zeros((2, 3, 4), np.uint8), np.full((2, 3, 4), 4, np.uint8), SPACING, "in the reference, got 4"),
        (np.zeros((3, 4), np.uint8), np.zeros((3, 4), np.uint8), SPACING, "depth, height, width"),
        (np.zeros((2, 3, 4), np.uint8), np.zeros((2, 3, 4), np.uint8), (0.0, 1.0, 1.0), "positive voxel sizes"),
        (np.zeros((2, 3, 4), np.uint8), np.zeros((2, 3, 4), np.uint8), (1.0, math.nan, 1.0), "positive voxel sizes"),
    ],
)
def test_bad_input_is_one_clear_error(labels, reference, spacing, message):
    with pytest.raises(DataError, match=message):
        score("patient7", labels, reference, spacing, HEART)


def test_a_value_inside_no_region_is_unknown():
    labels = np.full((2, 3, 4), 2, np.uint8)
    with pytest.raises(DataError, match=r"values 0, 1, 3 \(background, TC, ET\) in the prediction, got 2"):
        score("c", labels, labels, SPACING, {"TC": (1, 3), "ET": (3,)})
    assert dice(labels, labels, TUMOUR) == {"WT": 1, "TC": 1, "ET": 1}


def made_up_score(case: str, structure: str, dice: float, hd95: float = 5.0, volume: float = 1.0) -> Score:
    overlap, distances, volumes = (dice, dice / 2, 0.9 * dice), (hd95, hd95 / 2), (volume, 1.0, volume - 1.0, 0.0)
    return Score(case, structure, *overlap, *distances, *volumes)


def test_a_summary_counts_what_was_missed_beside_the_distances():
    scores = [
        made_up_score("a", "RV", 0.8, 4.0),
        made_up_score("a", "Myo", 0.6, 6.0),
        made_up_score("b", "RV", 0.0, math.nan, volume=0.0),
        made_up_score("b", "Myo", 0.9, 8.0),
    ]
    rv, myo, mean = summarise(scores)
    assert [row["structure"] for row in (rv, myo, mean)] == ["RV", "Myo", "mean"]
    assert (rv["missed"], rv["distances"], rv["hd95_mm_mean"]) == (1, 1, 4.0)
    assert (rv["recall_mean"], rv["precision_mean"]) == (pytest.approx(0.2), pytest.approx(0.36))
    assert math.isnan(rv["hd95_mm_std"])  # one distance has no spread
    assert (myo["dice_mean"], myo["dice_median"]) == (pytest.approx(0.75), pytest.approx(0.75))
    assert myo["dice_std"] == pytest.approx(np.std([0.6, 0.9], ddof=1))
    assert (mean["cases"], mean["missed"], mean["distances"]) == (2, 1, 1)  # case b has no mean distance
    assert (mean["dice_mean"], mean["hd95_mm_mean"]) == (pytest.approx((0.7 + 0.45) / 2), 5.0)
    assert summarise([]) == []


def test_an_auxiliary_region_is_scored_and_left_out_of_the_means():
    main = [made_up_score(case, name, dice) for case in "ab" for name, dice in (("WT", 0.8), ("ET", 0.6))]
    missed = made_up_score("a", "WT*", 0.0, math.nan, volume=0.0)
    with_it = [*main, missed, made_up_score("b", "WT*", 0.1, 9.0)]
    assert [score.auxiliary for score in with_it] == [False] * 4 + [True] * 2
    wt, et, auxiliary, mean = summarise(with_it)
    assert (wt, et, mean) == tuple(summarise(main))
    assert (auxiliary["structure"], auxiliary["dice_mean"], auxiliary["missed"]) == ("WT*", pytest.approx(0.05), 1)
    assert (mean["missed"], mean["distances"]) == (0, 2)
    *_, row = str(Scores(with_it)).splitlines()
    assert row == str(Scores(main)).splitlines()[-1]


def test_scores_print_as_a_table_of_means_by_structure():
    scores = Scores(
        [
            made_up_score("a", "RV", 0.8, 4.0),
            made_up_score("a", "left ventricle", 0.6, 12.0),
            made_up_score("b", "RV", 0.0, math.nan, volume=0.0),
            made_up_score("b", "left ventricle", 1.0, 8.0),
        ]
    )
    assert scores.by_structure == {"RV": pytest.approx(0.4), "left ventricle": pytest.approx(0.8)}
    assert str(scores).splitlines() == [
        "structure        Dice  recall  precision  HD95 mm  ASSD mm  volume error ml  "
        "in empty slices ml  missed  invented",
        "RV              0.400   0.200      0.360      4.0     2.00             -0.5  "
        "               0.0       1         0",
        "left ventricle  0.800   0.400      0.720     10.0     5.00              0.0  "
        "               0.0       0         0",
        "mean            0.600   0.300      0.540      8.0     4.00             -0.2  "
        "               0.0       1         0",
    ]


def test_scores_are_a_tuple_and_without_a_distance_there_is_a_dash():
    missed = made_up_score("a", "RV", 0.0, math.nan, volume=0.0)
    scores = Scores([missed])
    assert scores == (missed,)
    assert str(scores).splitlines()[1].split() == ["RV", "0.000", "0.000", "0.000", "-", "-", "-1.0", "0.0", "1", "0"]


def test_no_scores_at_all_have_no_table():
    assert Scores() == ()
    assert Scores().by_structure == {}
    assert str(Scores()) == "Nothing was scored."


def test_the_paired_interval_knows_equal_from_shifted():
    rng = np.random.default_rng(0)
    a = rng.uniform(0.5, 0.9, 20)
    assert paired_interval(a, a) == (0, 0, 0)
    mean, low, high = paired_interval(a + rng.normal(0.05, 0.02, 20), a)
    assert 0 < low < mean < high < 0.1
    mean, low, high = paired_interval(a + rng.normal(0, 0.1, 20), a)
    assert low < 0 < high
    assert paired_interval(a, a[::-1], seed=3) == paired_interval(a, a[::-1], seed=3)
    assert paired_interval([0.8], [0.7])[0] == pytest.approx(0.1)
    assert math.isnan(paired_interval([0.8], [0.7])[1])
    with pytest.raises(DataError, match="3 and 2"):
        paired_interval([1, 2, 3], [1, 2])


def test_the_paired_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = [
        low <= 0.02 <= high
        for _, low, high in (paired_interval(rng.normal(0.02, 0.1, 20), np.zeros(20)) for _ in range(60))
    ]
    assert 0.85 <= np.mean(covered) <= 1


def test_scores_come_back_from_their_files(tmp_path: Path):
    scores = [made_up_score("a", "RV", 0.8), made_up_score("b, the second", "RV", 0.0, math.nan, volume=0.0)]
    write_scores(scores, tmp_path / "scores")
    first, second = read_scores(tmp_path / "scores/scores.json") or []
    assert first == scores[0]
    assert second.missed
    assert math.isnan(second.hd95_mm)
    with (tmp_path / "scores/scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert (rows[1]["case"], rows[1]["hd95_mm"], rows[1]["missed"]) == ("b, the second", "", "True")
    summary = json.loads((tmp_path / "scores/summary.json").read_text())
    assert summary[-1]["structure"] == "mean"
    assert all(f"{measure}_median" in summary[0] for measure in MEASURES)
    assert sorted(p.name for p in (tmp_path / "scores").iterdir()) == [
        "scores.csv",
        "scores.json",
        "summary.csv",
        "summary.json",
    ]


@pytest.mark.parametrize("step", ["write_text", "replace"])
def test_a_full_disk_leaves_the_old_scores_and_nothing_half_written(step, tmp_path: Path, monkeypatch):
    write_scores([made_up_score("a", "RV", 0.8)], tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, step, full)
    with pytest.raises(DataError, match="No space left"):
        write_scores([made_up_score("a", "RV", 0.1)], tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_scores_that_are_absent_or_measured_less_have_to_be_taken_again(tmp_path: Path):
    file = tmp_path / "scores.json"
    assert read_scores(file) is None
    write_scores([made_up_score("a", "RV", 0.8)], tmp_path)
    file.write_text(file.read_text().replace('"recall"', '"something_else"'))
    assert read_scores(file) is None
    file.write_text("[]")
    assert read_scores(file) == []


@pytest.mark.parametrize("text", ["no JSON", "[1]"])
def test_a_file_that_holds_no_scores_is_refused(text, tmp_path: Path):
    (tmp_path / "scores.json").write_text(text)
    with pytest.raises(DataError, match="scribbleseg evaluate"):
        read_scores(tmp_path / "scores.json")


def test_voxels_that_the_reference_leaves_unlabelled_are_left_out():
    rng = np.random.default_rng(0)
    labels, reference = rng.integers(0, 3, (2, 3, 8, 9), dtype=np.uint8)
    unknown = rng.random(reference.shape) < 0.3
    masked = np.where(unknown, np.uint8(UNLABELLED), reference)
    regions = {"a": (1,), "b": (2,)}
    found = score("c", labels, masked, SPACING, regions)
    assert found == score("c", np.where(unknown, 0, labels), np.where(unknown, 0, reference), SPACING, regions)
    for k, each in enumerate(found, start=1):
        a, b = labels[~unknown] == k, reference[~unknown] == k
        assert each.dice == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))
    assert dice(labels, masked, regions) == {each.structure: pytest.approx(each.dice) for each in found}


def test_pictures_without_a_scale_are_measured_in_pixels(tmp_path):
    labels, reference = np.zeros((2, 1, 20, 20), np.uint8)
    labels[0, 5:10, 5:10] = reference[0, 5:10, 7:12] = 1
    scores = score("eye", labels, reference, (1.0, 1.0, 1.0), {"disc": (1,)}, in_pixels=True)
    assert (scores[0].volume_ml, scores[0].hd95_mm) == (25.0, 2.0)
    write_scores(scores, tmp_path)
    for name in ("scores.csv", "scores.json", "summary.csv", "summary.json"):
        text = (tmp_path / name).read_text()
        assert "_px" in text
        assert not re.search("_m[ml]", text)
    assert read_scores(tmp_path / "scores.json") == scores
    assert "HD95 px" in str(Scores(scores))
    assert "mm" not in str(Scores(scores))
    assert "HD95 mm or px" in str(Scores([replace(scores[0], in_pixels=False), *scores]))
    assert "HD95 mm  " in str(Scores([replace(scores[0], in_pixels=False)]))
