"""Refine, decide, and seeds that stay."""

import numpy as np

from scribbleseg.relabel.decide import Argmax, clamp
from scribbleseg.relabel.refine import Identity
from scribbleseg.types import UNLABELLED


def random_probabilities(seed=0):
    weights = np.random.default_rng(seed).random((2, 3, 5, 5)).astype(np.float32)
    return weights / weights.sum(axis=1, keepdims=True)


def test_identity_leaves_probabilities_alone():
    probabilities = random_probabilities()
    assert Identity()(probabilities, np.zeros((2, 1, 5, 5), np.float32)) is probabilities


def test_argmax_is_the_double_loop_with_ties_to_the_lower_label():
    probabilities = random_probabilities()
    probabilities[0, :, 0, 0] = 1 / 3
    labels = Argmax()(probabilities)
    for n in range(2):
        for i in range(5):
            for j in range(5):
                values = probabilities[n, :, i, j].tolist()
                assert labels[n, i, j] == values.index(max(values))


def test_seeds_win_and_unlabelled_pixels_take_the_prediction():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, (2, 5, 5), dtype=np.uint8)
    seeds = rng.choice(np.array([0, 1, 2, UNLABELLED], np.uint8), (2, 5, 5))
    out = clamp(labels, seeds)
    for n, i, j in np.ndindex(out.shape):
        assert out[n, i, j] == (labels[n, i, j] if seeds[n, i, j] == UNLABELLED else seeds[n, i, j])
    assert out.dtype == np.uint8
