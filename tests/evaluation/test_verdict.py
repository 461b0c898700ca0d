"""The verdict says of scores what anybody would who knew how to read them, and no more."""

import math

import pytest

from scribbleseg.evaluation.metrics import Score
from scribbleseg.evaluation.verdict import GRADES, Difference, grade, verdict


def scores(dice: dict[str, float], cases: int = 12, recall: float = 0.8, precision: float = 0.8) -> list[Score]:
    return [
        Score(f"case{n}", name, value, recall, precision, 1.0, 1.0, 10.0, 10.0, 0.0, 0.0)
        for n in range(cases)
        for name, value in dice.items()
    ]


def empty(structure: str, *, missed: bool) -> Score:
    volumes = (0.0, 10.0) if missed else (10.0, 0.0)
    return Score("bad", structure, 0.0, 0.0, 0.0, math.nan, math.nan, *volumes, 0.0, 0.0)


def said(*arguments, **options) -> str:
    return " ".join(verdict(*arguments, **options))


@pytest.mark.parametrize(("least", "word"), GRADES)
def test_grades_begin_at_their_thresholds(least, word):
    assert grade(least) == word
    assert f"segmentations are {word}: mean Dice {least:.3f} over 12 test cases." in said(scores({"RV": least}))


def test_few_cases_are_called_rough():
    assert "rough" in said(scores({"RV": 0.8}, cases=9))
    assert "rough" not in said(scores({"RV": 0.8}, cases=10))
    assert "over 1 test case," in said(scores({"RV": 0.8}, cases=1))


def test_the_weakest_structure_is_named_where_structures_differ():
    assert "weakest structure is Myo with Dice 0.70, the best LV with 0.90." in said(
        scores({"RV": 0.8, "Myo": 0.7, "LV": 0.9})
    )
    assert "All 2 structures are about equally good, Dice 0.80 to 0.84." in said(scores({"RV": 0.8, "LV": 0.84}))
    assert "structure" not in said(scores({"RV": 0.8}))


def test_missed_and_invented_masks_are_counted_by_structure():
    good = scores({"RV": 0.8, "LV": 0.8})
    assert "None of the 24 masks was missed altogether, and none invented." in said(good)
    bad = [empty("RV", missed=True), empty("RV", missed=True), empty("LV", missed=True), empty("LV", missed=False)]
    assert (
        "Of 28 masks, 3 were missed altogether (2 of RV, others of 1 more structure) and 1 was invented (1 of LV)."
        in said([*good, *bad])
    )


def test_it_says_whether_too_little_or_too_much_is_marked():
    assert "less is marked than should be (recall 0.60, precision 0.90)" in said(
        scores({"RV": 0.7}, recall=0.6, precision=0.9)
    )
    assert "more is marked than should be" in said(scores({"RV": 0.7}, recall=0.9, precision=0.6))
    assert "is marked" not in said(scores({"RV": 0.7}))


def test_auxiliary_regions_count_for_nothing():
    assert said([*scores({"WT": 0.8}), *scores({"WT*": 0.1})]) == said(scores({"WT": 0.8}))


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        (Difference(-0.02, -0.03, -0.01, 40, "full"), "0.020 below that of full supervision (full); the 95 % interval, "
         "−0.030 to −0.010, does not contain 0, so the difference is likely"),
        (Difference(-0.02, -0.05, 0.01, 40, "full"), "contains 0, so these 40 cases do not tell the two apart."),
        (Difference(0.02, 0.01, 0.03, 3, "full"), "0.020 above that of full supervision (full); the 95 % interval, "
         "+0.010 to +0.030, does not contain 0, but 3 cases are too few to rely on it."),
        (Difference(-0.02, math.nan, math.nan, 1, "full"), "one case is too few"),
    ],
)  # fmt: skip
def test_the_distance_to_full_supervision_is_told_with_its_interval(difference, words):
    assert words in said(scores({"RV": 0.8}), difference)


@pytest.mark.parametrize(
    ("agreement", "words"),
    [(0.95, "0.95: it says what people drew"), (0.8, "confuses some"), (0.3, "Do not use it as it is")],
)
def test_the_agreement_is_told_with_and_without_masks(agreement, words):
    assert words in said(scores({"RV": 0.8}), agreement=agreement)
    assert words in said([], agreement=agreement)
    assert "nothing was scored" in said([], agreement=agreement)
    assert "is not known" not in said([], agreement=agreement)


def test_nothing_known_is_said_to_be_unknown():
    assert "is not known" in said([])
    assert "is not known" in said([], agreement=math.nan)
