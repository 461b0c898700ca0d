"""What the intensities on strokes say of other voxels, and what a walker makes of it."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from scribbleseg.seeds.likelihood import BINS, SMOOTHING, UNSEEN, Likelihood, told_apart
from scribbleseg.seeds.random_walker import LIKELIHOOD, MAJORITY, TAUS, RandomWalker
from scribbleseg.types import UNLABELLED

SPACING = (1.0, 1.0, 1.0)


def volume(apart: float, noise: float = 0.5, channels: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A ball in noise, `apart` brighter, with a stroke in it and one above it in every slice; its mask."""
    rng = np.random.default_rng(0)
    z, y, x = np.indices((16, 32, 32)) - np.array([8, 16, 16])[:, None, None, None]
    ball = (2 * z) ** 2 + y**2 + x**2 < 100
    image = (apart * ball + noise * rng.standard_normal((channels, *ball.shape))).astype(np.float32)
    scribbles = np.full(ball.shape, UNLABELLED, np.uint8)
    scribbles[:, 2, 4:28] = 0
    scribbles[ball & (y == 0) & (np.abs(x) < 3)] = 1
    return image, scribbles, ball


def test_probabilities_are_those_of_the_smoothed_histograms():
    image, scribbles, _ = volume(2.0, channels=2)
    found = Likelihood.of(image, scribbles, 3)(image)
    assert found.shape == (3, 16, 32, 32)
    np.testing.assert_allclose(found.sum(axis=0), 1.0)
    assert not found[2].any(), "no stroke of it"
    at = (3, 20, 11)
    likely = np.ones(2)
    for channel in image:
        drawn = channel[scribbles != UNLABELLED].astype(float)
        edges = np.linspace(drawn.min(), drawn.max(), BINS + 1)
        place = sum(edge <= channel[at] for edge in edges[1:-1])
        for label in (0, 1):
            values = channel[scribbles == label]
            counts = np.array(
                [sum((low <= values) & ((values < high) | (high == edges[-1]))) for low, high in pairwise(edges)]
            )
            distance = np.abs(np.arange(BINS)[:, None] - np.arange(BINS))
            smooth = (
                np.exp(-0.5 * (distance / SMOOTHING) ** 2) @ (counts / len(values)) / (SMOOTHING * np.sqrt(2 * np.pi))
            )
            likely[label] *= (1 - UNSEEN) * smooth[place] + UNSEEN / BINS
    np.testing.assert_allclose(found[:2, *at], likely / likely.sum(), rtol=0.02)


@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_the_unit_of_intensities_says_nothing(factor):
    image, scribbles, _ = volume(2.0)
    plain, scaled = (Likelihood.of(each, scribbles, 2)(each) for each in (image, image * np.float32(factor)))
    assert np.mean(np.abs(plain - scaled) < 1e-6) > 0.99, "but where rounding decides the bin"
    flat = np.zeros_like(image)
    np.testing.assert_allclose(Likelihood.of(flat, scribbles, 2)(flat), 0.5)


@pytest.mark.parametrize(("apart", "least", "most"), [(4.0, 0.97, 1.0), (0.0, 0.3, 0.7)])
def test_intensities_tell_strokes_apart_where_they_differ(apart, least, most):
    assert least <= told_apart(*volume(apart)[:2]) <= most


def test_nothing_is_told_apart_without_a_second_label_or_a_second_slice_of_it():
    image, scribbles, _ = volume(4.0)
    assert told_apart(image, np.where(scribbles == 1, np.uint8(UNLABELLED), scribbles)) == 0.0
    assert told_apart(image, np.full_like(scribbles, UNLABELLED)) == 0.0
    once = np.where((np.arange(16) == 8)[:, None, None] | (scribbles == 0), scribbles, np.uint8(UNLABELLED))
    assert told_apart(image, once) <= 0.5


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_walker_finds_more_of_what_is_bright_with_intensities(dimensions):
    image, scribbles, ball = volume(3.0, noise=1.0)

    def dice(likelihood):
        walker = RandomWalker(tau=0.501, beta=20.0, dimensions=dimensions, likelihood=likelihood)
        found = walker(image, scribbles, SPACING) == 1
        assert (walker(image, scribbles, SPACING)[scribbles != UNLABELLED] == scribbles[scribbles != UNLABELLED]).all()
        return 2 * (found & ball).sum() / (found.sum() + ball.sum())

    assert dice(0.1) > dice(0.0) + 0.05


def test_a_walker_with_intensities_solves_the_system_of_grady():
    image, scribbles, _ = volume(2.0)
    image, scribbles = image[:, 8:9, 8:24, 8:24], scribbles[8:9, 8:24, 8:24].copy()
    scribbles[0, 0] = 0
    plain, pulled = (RandomWalker(beta=50.0, likelihood=likelihood) for likelihood in (0.0, 0.3))
    n = scribbles.size
    scaled = (image - image.min()) / (image.max() - image.min())
    system, right = np.zeros((n, n)), np.zeros((n, 2))
    likely = Likelihood.of(image, scribbles, 2)(image).reshape(2, n)
    flat, drawn = scaled.ravel(), scribbles.ravel()
    for i in range(n):
        if drawn[i] != UNLABELLED:
            system[i, i] = right[i, drawn[i]] = 1.0
            continue
        system[i, i] += 0.3
        right[i] += 0.3 * likely[:, i]
        for j in (i - 16, i + 16, *(i + step for step in (-1, 1) if 0 <= i % 16 + step < 16)):
            if 0 <= j < n:
                weight = np.exp(-50.0 / (10 * scaled.std()) * (flat[i] - flat[j]) ** 2) + 1e-10
                system[i, i] += weight
                system[i, j] -= weight
    expected = np.linalg.solve(system, right).T.reshape(2, 1, 16, 16)
    np.testing.assert_allclose(pulled.probabilities(image, scribbles, SPACING), expected, atol=1e-5)
    assert np.abs(plain.probabilities(image, scribbles, SPACING) - expected).max() > 0.01


def test_the_likelihood_is_chosen_by_the_strokes_alone():
    walker = RandomWalker(likelihood=None)
    clear, alike = ([(*volume(apart)[:2], SPACING)] for apart in (4.0, 0.0))
    assert walker.with_likelihood(clear).likelihood == LIKELIHOOD
    assert walker.with_likelihood(alike).likelihood == walker.with_likelihood([]).likelihood == 0.0
    kept = RandomWalker(likelihood=0.5)
    assert kept.with_likelihood(clear) is kept
    chosen = RandomWalker(likelihood=LIKELIHOOD)(*clear[0])
    automatic = replace(walker, tau=None)
    assert automatic.with_likelihood(clear).with_tau(clear).tau == MAJORITY
    assert automatic.with_likelihood(alike).with_tau(alike).tau in TAUS
    assert np.array_equal(walker(*clear[0]), chosen)


@pytest.mark.parametrize("likelihood", [-0.1, float("inf"), float("nan")])
def test_a_likelihood_is_a_number_that_is_not_negative(likelihood):
    with pytest.raises(ValueError, match="likelihood: expected a number that is not negative"):
        RandomWalker(likelihood=likelihood)
