"""Dense CRF loss: pixels that look alike and are near each other are to have the same label, also unlabelled ones."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional

from scribbleseg.crf.gaussian import GaussianFilter, gaussian_filter
from scribbleseg.crf.kernels import HasDistances


@dataclass(frozen=True)
class DenseCRFLoss(HasDistances):
    """alpha / N^2 sum_ij sum_k y_ik (1 - y_jk) W_ij, the mean over slices: Ji et al. 2019 (arXiv:1911.02014).

    W_ij = exp(-|p_i - p_j|^2 / 2 sigma_space^2 - |I_i - I_j|^2 / 2 sigma_intensity^2), y = softmax(logits), over all
    pairs of a slice's N pixels, i = j included, which asks for confidence: y_ik (1 - y_ik). It is a dense CRF's Potts
    energy, relaxed to probabilities (Tang et al. 2018, arXiv:1803.09569). No pair is left out and nothing is expanded,
    so that value and gradient are those of the double sum but for rounding. Not by itself: one label everywhere has
    loss 0.

    The paper sums over pairs. Here it is their mean, so that alpha means the same on every grid: the paper's 1e-8 on
    192 x 192 pixels is 1e-8 * (192 * 192)^2 = 13.6 here.

    The sigmas are ours (the paper's were not at hand): of 30 pairs compared on BraTS slices, those for which both the
    reference mask is nearly a fixed point of the loss's gradient and masks eroded or dilated are drawn towards it.
    Kernels that are much wider prefer small structures to vanish.

    Args:
        alpha: weight of this loss beside the others.
        channels: of the images, whose intensities are compared.
        sigma_space: how far the kernel reaches, in `unit`.
        sigma_intensity: how far apart in intensity pixels still belong together, in the normalised images' unit: the
            standard deviation within a volume's brain.
        unit: as of `HasDistances`.
        scale: probabilities and images are averaged over squares of so many pixels a side first, which divides the
            time by its fourth power. 1 is the paper's; for a CPU 2, as Tang et al. do.
    """

    DISTANCES = ("sigma_space",)

    kind: Literal["dense_crf_loss"] = "dense_crf_loss"
    alpha: NonNegativeFloat = 1e-8 * (192 * 192) ** 2
    channels: tuple[NonNegativeInt, ...] = (0, 2, 3)
    sigma_space: PositiveFloat = 15.0
    sigma_intensity: PositiveFloat = 0.3
    scale: PositiveInt = 1

    def __call__(
        self,
        logits: Float[Tensor, "batch label height width"],
        images: Float[Tensor, "batch channel height width"],
    ) -> Float[Tensor, ""]:
        """In float32 also where autocast is on (in float64 for logits of float64).

        Args:
            logits: of the network.
            images: what it has seen, normalised by the brain.

        Raises:
            ValueError: for channels that the images do not have, for sides that `scale` does not divide, or unless
                `in_pixels`.
        """
        self.check_pixels()
        batch, channels, *space = images.shape
        if not self.channels or max(self.channels) >= channels:
            raise ValueError(f"expected dense CRF loss channels below {channels}, the images', got {self.channels}")
        if any(side % self.scale for side in space):
            raise ValueError(f"expected sides that scale {self.scale} divides, got {tuple(space)}")
        if not batch:
            return logits.sum()  # of nothing: 0
        with torch.autocast(logits.device.type, enabled=False):
            dtype = torch.promote_types(logits.dtype, torch.float32)
            labels = functional.avg_pool2d(logits.to(dtype).softmax(1), self.scale)
            pooled = functional.avg_pool2d(images[:, list(self.channels)].to(dtype), self.scale)
            shape, sigma_space = pooled.shape[2:], self.sigma_space / self.scale
            similar = gaussian_filter(
                shape, sigma_space, pooled, self.sigma_intensity, method="dense", normalisation="none"
            )
            pairs = batch * shape.numel() ** 2
            return self.alpha / pairs * _Disagreement.apply(labels, similar)


class _Disagreement(torch.autograd.Function):
    """sum_k y_k' W (1 - y_k) for y that sum to 1 over labels: one filtering of y serves value and gradient.

    W is symmetric, so the gradient by y_k is W 1 - 2 W y_k, and W 1 = sum_k W y_k. The part that is the same for all
    labels has no effect on the simplex.
    """

    @staticmethod
    def forward(ctx: Any, labels: Tensor, similar: GaussianFilter) -> Tensor:
        filtered = similar.apply(labels)
        ctx.save_for_backward(filtered)
        return ((1 - labels) * filtered).sum()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (filtered,) = ctx.saved_tensors
        return gradient * (filtered.sum(1, keepdim=True) - 2 * filtered), None
