"""Fully connected CRFs: Gaussian filtering in feature space, and mean-field inference on it.

Both papers build on them: Can et al. 2018 refine a network's probabilities, Ji et al. 2019 regularise its training.
"""

from scribbleseg.crf.filter import GaussianFilter
from scribbleseg.crf.gaussian import gaussian_filter
from scribbleseg.crf.mean_field import mean_field

__all__ = ["GaussianFilter", "gaussian_filter", "mean_field"]
