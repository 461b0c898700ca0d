"""Decide: probabilities in, labels out, seeds put back. The second half of the E step's two axes."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from jaxtyping import Float32, Float64, UInt8
from pydantic import Field
from scipy.stats import ttest_ind_from_stats

from scribbleseg.relabel.predict import Samples
from scribbleseg.types import UNLABELLED


@dataclass(frozen=True)
class Argmax:
    """The most probable label everywhere: hard EM (Can et al. 2018, section 2.2, Eq. 3)."""

    kind: Literal["argmax"] = "argmax"
    passes: ClassVar[int] = 0
    """The number of stochastic passes that it looks at."""

    def __call__(
        self, probabilities: Float32[np.ndarray, "slice label height width"], samples: Samples | None = None
    ) -> UInt8[np.ndarray, "slice height width"]:
        """Labels; ties go to the lower value."""
        return probabilities.argmax(axis=1).astype(np.uint8)


@dataclass(frozen=True)
class Confident:
    """The most probable label where its probability is high enough, else UNLABELLED (ours).

    Not for a network whose probabilities are all near 1 whether it is right or not: then nothing is held back.

    Args:
        probability: the smallest that is labelled.
    """

    kind: Literal["confident"] = "confident"
    probability: Annotated[float, Field(ge=0, le=1)] = 0.7
    passes: ClassVar[int] = 0

    def __call__(
        self, probabilities: Float32[np.ndarray, "slice label height width"], samples: Samples | None = None
    ) -> UInt8[np.ndarray, "slice height width"]:
        """Labels; ties go to the lower value."""
        labels = probabilities.argmax(axis=1).astype(np.uint8)
        return np.where(probabilities.max(axis=1) >= self.probability, labels, np.uint8(UNLABELLED))


@dataclass(frozen=True)
class WelchTest:
    """The most probable label where the network is sure of it, else UNLABELLED (Can et al. 2018, section 2.4).

    Sure is where Welch's t-test tells the logits of the two labels of highest mean softmax apart over T passes with
    dropout; the probabilities are the mean softmax of the same passes, refined or not. A
    systematic error, which all passes share, stays labelled; and the more passes, the smaller the differences that
    count, so that a change of `passes` moves the rule too. Not for a network without dropout.

    Args:
        passes: T, at least 2 (section 2.4: 50).
        significance: a p-value at or above it resets the pixel (section 2.4: 0.05).
    """

    kind: Literal["welch_test"] = "welch_test"
    passes: Annotated[int, Field(gt=1, le=10000)] = 50
    significance: Annotated[float, Field(gt=0, lt=1)] = 0.05

    def __call__(
        self, probabilities: Float32[np.ndarray, "slice label height width"], samples: Samples | None
    ) -> UInt8[np.ndarray, "slice height width"]:
        """Labels of the refined probabilities, tested on the network's own samples.

        Raises:
            ValueError: no samples, or samples of fewer than two labels.
        """
        if samples is None:
            raise ValueError(f"expected the samples of {self.passes} passes, got None")
        labels = probabilities.argmax(axis=1).astype(np.uint8)
        return np.where(welch_p(samples) < self.significance, labels, np.uint8(UNLABELLED))


def welch_p(samples: Samples) -> Float64[np.ndarray, "slice height width"]:
    """Two-sided p-values of Welch's t-test between the logits of the two labels of highest mean softmax.

    Where neither logit varies, p is 0 if they differ and 1 if they are equal. Raises ValueError for a single label.
    """
    if samples.mean.shape[1] < 2:
        raise ValueError(f"expected at least two labels to compare, got logits of shape {samples.mean.shape}")
    likeliest = np.argsort(-samples.probabilities, axis=1, kind="stable")[:, :2]
    means, variances = (
        np.take_along_axis(moment, likeliest, axis=1).astype(np.float64) for moment in (samples.mean, samples.variance)
    )
    first, second = ((means[:, k], np.sqrt(variances[:, k]), samples.passes) for k in (0, 1))
    test = ttest_ind_from_stats(*first, *second, equal_var=False)
    return np.where(means[:, 0] == means[:, 1], 1.0, test.pvalue)  # scipy's 0 / 0 is NaN


def clamp(
    labels: UInt8[np.ndarray, "slice height width"], seeds: UInt8[np.ndarray, "slice height width"]
) -> UInt8[np.ndarray, "slice height width"]:
    """The seeds where there are any, the labels elsewhere: seed areas are never relabelled (section 2.2)."""
    return np.where(seeds == UNLABELLED, labels, seeds)
