"""What intensities on strokes say of other voxels: a histogram for each label, and whether they tell labels apart."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy import ndimage

from scribbleseg.types import UNLABELLED, Image, Labels

BINS, SMOOTHING, UNSEEN = 100, 2.5, 0.1
"""How histograms are made: number of bins, standard deviation of the Gaussian that smooths them, in bins, and the share
that is spread evenly for what no scribble shows. Ours."""


def log_histogram(values: Float64[np.ndarray, " voxel"], edges: Float64[np.ndarray, " edge"]) -> np.ndarray:
    """Returns the logarithm of the smoothed histogram of some values, at least one: float64 `bin`."""
    counts = np.histogram(values.clip(edges[0], edges[-1]), edges)[0] / len(values)
    smooth = ndimage.gaussian_filter1d(counts, SMOOTHING, mode="nearest")
    return np.log((1.0 - UNSEEN) * smooth + UNSEEN / BINS)


def bins_of(values: np.ndarray, edges: Float64[np.ndarray, " edge"]) -> np.ndarray:
    """Returns the bin of each value; what is beyond the edges is in the first or the last."""
    return np.clip(np.searchsorted(edges, values, side="right") - 1, 0, BINS - 1)


@dataclass(frozen=True)
class Likelihood:
    """Histograms of the intensities on the strokes of one volume. Channels are taken as independent.

    Args:
        edges: the borders of the bins of each channel, which span what the strokes show.
        logs: float64 `channel label bin`; -inf for a label without a stroke.
    """

    edges: Float64[np.ndarray, "channel edge"]
    logs: Float64[np.ndarray, "channel label bin"]

    @classmethod
    def of(cls, image: Image, scribbles: Labels, n_labels: int) -> "Likelihood":
        """The histograms of an image `channel depth height width` with some strokes."""
        drawn = scribbles != UNLABELLED
        labels, values = scribbles[drawn], np.asarray(image[:, drawn], np.float64)
        edges = np.linspace(values.min(axis=1), values.max(axis=1), BINS + 1, axis=1)
        logs = np.full((len(image), n_labels, BINS), -np.inf)
        for channel, (its, bins) in enumerate(zip(values, edges, strict=True)):
            for label in np.unique(labels):
                logs[channel, label] = log_histogram(its[labels == label], bins)
        return cls(edges, logs)

    def __call__(self, image: np.ndarray) -> Float64[np.ndarray, "label *space"]:
        """The probability of each label of voxels, `channel` and any axes, by their intensities alone.

        All labels with a stroke are as likely beforehand.
        """
        sums = np.zeros((self.logs.shape[1], *image.shape[1:]))
        for values, edges, logs in zip(image, self.edges, self.logs, strict=True):
            sums += logs[:, bins_of(values, edges)]
        likely = np.exp(sums - sums.max(axis=0))
        return likely / likely.sum(axis=0)


def told_apart(image: Image, scribbles: Labels) -> float:
    """How well the intensities tell strokes apart: the mean over labels of the share that is given the right one.

    Strokes in one half of the slices are judged by the histograms of the other half, and the other way around; slices
    with structures take turns, and so do the others. 0 where fewer than two labels are scribbled.
    """
    labels = np.setdiff1d(scribbles, UNLABELLED)
    if len(labels) < 2:
        return 0.0
    shows = ((scribbles != UNLABELLED) & (scribbles > 0)).any(axis=(1, 2))
    half = np.where(shows, np.cumsum(shows), np.cumsum(~shows)) % 2
    right, drawn = np.zeros(labels[-1] + 1), np.zeros(labels[-1] + 1)
    for judged in (0, 1):
        asked = np.where((half == judged)[:, None, None], scribbles, np.uint8(UNLABELLED))
        known = np.where((half == judged)[:, None, None], np.uint8(UNLABELLED), scribbles)
        chosen = asked != UNLABELLED
        truth = asked[chosen]
        drawn += np.bincount(truth, minlength=len(drawn))
        if (known != UNLABELLED).any() and len(truth):
            found = Likelihood.of(image, known, len(drawn))(np.asarray(image[:, chosen])).argmax(axis=0)
            right += np.bincount(truth[found == truth], minlength=len(drawn))
    return float(np.mean(right[labels] / drawn[labels]))
