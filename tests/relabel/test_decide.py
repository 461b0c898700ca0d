"""Argmax, Welch's test and seeds that stay."""

from dataclasses import replace

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError
from scipy.special import entr, softmax
from scipy.stats import ttest_1samp, ttest_ind

from scribbleseg.relabel.decide import Argmax, Confident, WelchTest, clamp, welch_p
from scribbleseg.relabel.predict import Samples
from scribbleseg.types import UNLABELLED


def random_probabilities(seed=0):
    weights = np.random.default_rng(seed).random((2, 3, 5, 5)).astype(np.float32)
    return weights / weights.sum(axis=1, keepdims=True)


def test_argmax_is_the_double_loop_with_ties_to_the_lower_label():
    probabilities = random_probabilities()
    probabilities[0, :, 0, 0] = 1 / 3
    labels = Argmax()(probabilities)
    for n in range(2):
        for i in range(5):
            for j in range(5):
                values = probabilities[n, :, i, j].tolist()
                assert labels[n, i, j] == values.index(max(values))


def test_only_what_is_likely_enough_is_labelled():
    probabilities = random_probabilities()
    labels = Confident(probability=0.5)(probabilities)
    for n, i, j in np.ndindex(labels.shape):
        largest = probabilities[n, :, i, j].max()
        expected = probabilities[n, :, i, j].argmax() if largest >= 0.5 else UNLABELLED
        assert labels[n, i, j] == expected
    assert 0 < (labels == UNLABELLED).sum() < labels.size
    assert (Confident(probability=0.0)(probabilities) == Argmax()(probabilities)).all()


def test_seeds_win_and_unlabelled_pixels_take_the_prediction():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, (2, 5, 5), dtype=np.uint8)
    seeds = rng.choice(np.array([0, 1, 2, UNLABELLED], np.uint8), (2, 5, 5))
    out = clamp(labels, seeds)
    for n, i, j in np.ndindex(out.shape):
        assert out[n, i, j] == (labels[n, i, j] if seeds[n, i, j] == UNLABELLED else seeds[n, i, j])
    assert out.dtype == np.uint8


def random_logits(passes=7, labels=3, spread=1.0, seed=0):
    """`sample slice label height width`, each pixel with means of its own."""
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(2, labels, 6, 5))
    return (means + spread * rng.normal(size=(passes, 2, labels, 6, 5))).astype(np.float32)


def moments(logits):
    """What `sample` keeps of them."""
    likely = softmax(logits, axis=2)
    return Samples(
        len(logits), logits.mean(axis=0), logits.var(axis=0, ddof=1), likely.mean(axis=0),
        entr(likely).sum(axis=2).mean(axis=0),
    )  # fmt: skip


@pytest.mark.parametrize(("passes", "labels"), [(2, 2), (7, 3), (50, 4)])
def test_p_is_scipy_s_welch_test_of_the_two_likeliest_labels(passes, labels):
    logits = random_logits(passes, labels)
    samples = moments(logits)
    p = welch_p(samples)
    for n, i, j in np.ndindex(p.shape):
        first, second = np.argsort(samples.probabilities[n, :, i, j])[[-1, -2]]
        expected = ttest_ind(
            logits[:, n, first, i, j].astype(float), logits[:, n, second, i, j].astype(float), equal_var=False
        )
        assert p[n, i, j] == pytest.approx(expected.pvalue, rel=1e-3, abs=1e-12)  # the moments are float32


def test_p_does_not_depend_on_the_order_of_the_labels():
    logits = random_logits(labels=4)
    assert np.allclose(welch_p(moments(logits)), welch_p(moments(logits[:, :, ::-1])))


def test_without_variance_p_is_0_for_different_means_and_1_for_equal_ones():
    logits = np.zeros((4, 2, 3, 6, 5), np.float32)  # so that numpy's own moments are exact
    logits[:, 0, 1] = 0.5
    samples = moments(logits)
    assert not samples.variance.any()
    p = welch_p(samples)
    assert (p[0] == 0).all()
    assert (p[1] == 1).all()


def test_one_logit_may_be_without_variance():
    logits = random_logits(passes=8, labels=2)
    logits[:, :, 0] = 0.25
    p = welch_p(moments(logits))
    expected = ttest_1samp(logits[:, :, 1].astype(float), 0.25).pvalue  # what Welch's test then is
    assert np.allclose(p, expected, rtol=1e-3)


def test_a_single_label_has_nothing_to_be_told_from():
    with pytest.raises(ValueError, match="at least two labels"):
        welch_p(moments(random_logits(labels=1)))


def test_pixels_that_the_test_does_not_tell_apart_are_unlabelled_and_the_others_take_the_refined_label():
    samples = moments(random_logits(spread=2.0))
    refined = samples.probabilities[:, [1, 2, 0]]  # a CRF may turn a label over; the test is on the samples
    labels = WelchTest(passes=7, significance=0.05)(refined, samples)
    unsure = welch_p(samples) >= 0.05
    assert 0.1 < unsure.mean() < 0.9
    assert (labels[unsure] == UNLABELLED).all()
    assert (labels[~unsure] == refined.argmax(axis=1)[~unsure]).all()
    assert labels.dtype == np.uint8


def test_a_p_value_of_just_the_significance_resets_the_pixel():
    samples = moments(random_logits())
    significance = float(welch_p(samples)[0, 0, 0])
    assert WelchTest(passes=7, significance=significance)(samples.probabilities, samples)[0, 0, 0] == UNLABELLED
    above = WelchTest(passes=7, significance=float(np.nextafter(significance, 1)))
    assert above(samples.probabilities, samples)[0, 0, 0] != UNLABELLED


def test_where_all_pixels_are_certain_welch_is_argmax():
    logits = random_logits(spread=1e-3)
    logits[:, :, 2] += 20  # and of a single class
    samples = moments(logits)
    labels = WelchTest(passes=7)(samples.probabilities, samples)
    assert (labels == Argmax()(samples.probabilities, samples)).all()
    assert (labels == 2).all()


def test_seeds_stay_where_the_test_abstains():
    samples = moments(np.repeat(np.zeros((1, 2, 3, 6, 5), np.float32), 4, axis=0))
    seeds = np.full((2, 6, 5), UNLABELLED, np.uint8)
    seeds[0, 0] = 1
    assert (clamp(WelchTest(passes=4)(samples.probabilities, samples), seeds) == seeds).all()


def test_more_passes_of_the_same_spread_leave_fewer_pixels_unlabelled():
    samples = moments(random_logits(spread=2.0))
    few, many = (WelchTest()(samples.probabilities, replace(samples, passes=n)) == UNLABELLED for n in (7, 50))
    assert not (many & ~few).any()
    assert many.sum() < few.sum()


@pytest.mark.parametrize("setting", [{"passes": 1}, {"passes": 0}, {"significance": 0}, {"significance": 1}])
def test_a_recipe_refuses_one_pass_and_a_significance_that_is_none(setting):
    with pytest.raises(ValidationError, match="greater than|less than"):
        TypeAdapter(WelchTest).validate_python({"kind": "welch_test", **setting})


def test_welch_needs_samples():
    with pytest.raises(ValueError, match="samples of 50 passes, got None"):
        WelchTest()(random_probabilities(), None)
