"""Agreement with scribbles: Dice on what was drawn, and on nothing else."""

import numpy as np
import pytest

from scribbleseg.evaluation.agreement import agreement, mean_agreement
from scribbleseg.types import UNLABELLED

SCRIBBLES = np.array([[0, 0, 1, 1, UNLABELLED, UNLABELLED]], np.uint8)


def test_only_drawn_pixels_count():
    labels = np.array([[0, 1, 1, 1, 0, 1]], np.uint8)
    assert agreement(labels, SCRIBBLES) == {0: pytest.approx(2 / 3), 1: pytest.approx(4 / 5)}
    assert mean_agreement(labels, SCRIBBLES) == pytest.approx((2 / 3 + 4 / 5) / 2)


def test_a_network_that_says_one_label_everywhere_does_not_agree():
    assert agreement(np.zeros_like(SCRIBBLES), SCRIBBLES)[1] == 0
    assert agreement(SCRIBBLES, SCRIBBLES) == {0: 1.0, 1: 1.0}


def test_nothing_drawn_is_not_agreement():
    nothing = np.full_like(SCRIBBLES, UNLABELLED)
    assert agreement(SCRIBBLES, nothing) == {}
    assert np.isnan(mean_agreement(SCRIBBLES, nothing))
