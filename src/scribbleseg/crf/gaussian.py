"""Gaussian filtering in feature space (position, or position and intensity): one interface, several algorithms.

`gaussian_filter` builds the operator of Can et al. 2018 (doi:10.1007/978-3-030-00889-5_27), Eq. 6, for given images:

    out_i = sum_j k_ij v_j,    k_ij = exp(-|p_i - p_j|^2 / 2 sigma_space^2 - |I_i - I_j|^2 / 2 sigma_intensity^2)

over all pairs of pixels, j = i included. Every algorithm is linear and symmetric as built, approximations too, so that
the gradient of a filter is the filter itself.

| method | for | how |
|---|---|---|
| separable | no images | one 1-D Gaussian for each axis, cut off where it falls below the tolerance |
| low_rank | smooth intensity kernels, one channel | sum over few functions of the intensity, each a separable filter |
| window | narrow in space | the pairs of pixels near enough |
| grid | wide in space, one channel | few functions of the position, each filtered along intensity bins |
| nystroem | wide in space, several channels | landmarks in feature space |
| dense | one sum, small images, GPUs; tests | all pairs |

The algorithms are in separable.py, expansions.py (low_rank, grid, nystroem) and pairs.py (window, dense).
"""

from collections.abc import Callable, Sequence
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from scribbleseg.crf.expansions import Grid, LowRank, Nystroem
from scribbleseg.crf.filter import GaussianFilter
from scribbleseg.crf.pairs import Dense, Window
from scribbleseg.crf.separable import Separable

Method = Literal["auto", "separable", "low_rank", "window", "grid", "nystroem", "dense"]
Normalisation = Literal["symmetric", "none"]

WITH_IMAGES: dict[str, Callable[..., GaussianFilter]] = {
    "low_rank": LowRank,
    "grid": Grid,
    "window": Window,
    "nystroem": Nystroem,
    "dense": Dense,
}
"""The algorithms for kernels that compare intensities."""


def gaussian_filter(
    shape: Sequence[int],
    sigma_space: float | Sequence[float],
    images: Float[Tensor, "batch channel *space"] | None = None,
    sigma_intensity: float | Sequence[float] | None = None,
    *,
    method: Method = "auto",
    normalisation: Normalisation = "symmetric",
    tolerance: float = 1e-3,
) -> GaussianFilter:
    """The filter with a Gaussian kernel of position, or of position and intensity.

    Args:
        shape: the images' shape, without batch and channel; 1-D, 2-D or 3-D.
        sigma_space: standard deviation of the position in pixels, one number or one for each axis (for a sigma in
            millimetres: divide it by the spacing of each axis).
        images: what the kernel compares besides positions; None for a kernel of position alone, which serves
            batches of any size, dtype and device.
        sigma_intensity: standard deviation in the images' unit, one number or one for each channel.
        method: the algorithm, see this module's table. "auto" chooses by the parameters.
        normalisation: "symmetric" as pydensecrf, or "none": the plain sum.
        tolerance: the error allowed in the kernel, whose largest value is 1: below it the kernel counts as 0 in space,
            and an expansion in few functions leaves at most this mean error. Between 0 and 1. Ours: on slices, 1e-3
            changes dense CRF's Q by less than 1e-5 on average (docs/LOG.md).

    Returns:
        A callable `batch label *space` -> the same, in the images' dtype and on their device.

    Raises:
        ValueError: a sigma is not positive and finite, images have another shape or are not finite, images come without
            sigma_intensity or the reverse, the method cannot filter them, or the tolerance is not between 0 and 1.
    """
    shape = tuple(int(n) for n in shape)
    if not 0 < tolerance < 1:
        raise ValueError(f"expected a tolerance between 0 and 1, got {tolerance}")
    sigmas = _sigmas("sigma_space", sigma_space, len(shape))
    if (images is None) != (sigma_intensity is None):
        raise ValueError("expected images and sigma_intensity together, got one of them")
    built: GaussianFilter
    if images is None:
        if method not in ("auto", "separable"):
            raise ValueError(f"expected method 'separable' or 'auto' for a kernel without images, got {method!r}")
        built = Separable(shape, sigmas, tolerance)
    else:
        scaled = _scaled(images, sigma_intensity, shape)
        built = _algorithm(method, shape, sigmas, scaled)(shape, sigmas, scaled, tolerance)
    if normalisation == "symmetric" and built._ones().numel():
        built.normalise()
    return built


def _sigmas(name: str, sigma: float | Sequence[float] | None, count: int) -> tuple[float, ...]:
    """One sigma for each axis or channel. Raises ValueError."""
    sigmas = tuple(map(float, sigma)) if isinstance(sigma, Sequence) else (float(sigma or 0),) * count
    if len(sigmas) != count or not all(0 < s < float("inf") for s in sigmas):
        raise ValueError(f"expected {name} positive and finite, one number or {count}, got {sigma!r}")
    return sigmas


def _scaled(images: Tensor, sigma_intensity: float | Sequence[float] | None, shape: tuple[int, ...]) -> Tensor:
    """The images in units of sigma_intensity. Raises ValueError."""
    if tuple(images.shape[2:]) != shape:
        raise ValueError(f"expected images of shape batch channel {shape}, got {tuple(images.shape)}")
    if not images.isfinite().all():
        raise ValueError("expected finite intensities, got NaN or infinity in images")
    sigmas = images.new_tensor(_sigmas("sigma_intensity", sigma_intensity, images.shape[1]))
    return images.detach() / sigmas.view(1, -1, *(1 for _ in shape))


def _algorithm(
    method: str, shape: tuple[int, ...], sigmas: tuple[float, ...], scaled: Tensor
) -> Callable[..., GaussianFilter]:
    """The algorithm of this name, or the one that "auto" chooses. Raises ValueError."""
    chosen = _choose(shape, sigmas, scaled) if method == "auto" else method
    if chosen not in WITH_IMAGES:
        raise ValueError(f"expected one of {list(WITH_IMAGES)} for a kernel with images, got {chosen!r}")
    if chosen in ("low_rank", "grid") and scaled.shape[1] != 1:
        raise ValueError(f"expected one channel for method {chosen!r}, got {scaled.shape[1]}; use 'nystroem'")
    return WITH_IMAGES[chosen]


def _choose(shape: tuple[int, ...], sigmas: tuple[float, ...], scaled: Tensor) -> str:
    """The fastest method, by measurements on slices (ours; benchmarks/crf.py)."""
    wide = all(4 * sigma >= n for sigma, n in zip(sigmas, shape, strict=True))
    if scaled.shape[1] > 1:
        return "nystroem" if wide else "window"
    if wide:
        return "grid"
    span = float(scaled.max() - scaled.min()) if scaled.numel() else 0.0
    return "low_rank" if span <= 25 else "window"
