"""Dense CRF loss: pixels that look alike and are near each other are to have the same label, also unlabelled ones."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional

from scribbleseg.crf.filter import GaussianFilter
from scribbleseg.crf.gaussian import gaussian_filter
from scribbleseg.crf.kernels import HasDistances
from scribbleseg.training.batch import Batch


@dataclass(frozen=True)
class DenseCRFLoss(HasDistances):
    """alpha / N^2 sum_ij sum_k y_ik (1 - y_jk) W_ij, the mean over slices: Ji et al. 2019 (arXiv:1911.02014).

    W_ij = exp(-|p_i - p_j|^2 / 2 sigma_space^2 - |I_i - I_j|^2 / 2 sigma_intensity^2), y = softmax(logits), over all
    pairs of a slice's N pixels, i = j included, which asks for confidence: y_ik (1 - y_ik). W_ij is 0 where i or j
    shows no image: padding, and the air around a brain, which looks like average brain once intensities are normalised
    (ours). The loss is a dense CRF's Potts energy, relaxed to probabilities (Tang et al. 2018, arXiv:1803.09569). No
    pair is left out and nothing is expanded, so that value and gradient are those of the double sum but for rounding.
    Do not use it by itself: one label everywhere has loss 0.

    The paper sums over pairs. Here it is their mean, so that alpha means the same on every grid: the paper's 1e-8 on
    192 x 192 pixels is 1e-8 * (192 * 192)^2 = 13.6 here.

    The sigmas are ours: the paper gives none (section 2.1: W "is calculated by bilateral Gaussian filter"). Of 30 pairs
    compared on BraTS slices, they are those for which both the reference mask is nearly a fixed point of the loss's
    gradient and masks eroded or dilated are drawn towards it. Kernels that are much wider prefer small structures to
    vanish.

    Args:
        alpha: weight of this loss beside the others.
        channels: the channels of the images whose intensities are compared.
        sigma_space: how far the kernel reaches, in `unit`.
        sigma_intensity: how far apart in intensity pixels still belong together, in the normalised images' unit: the
            standard deviation within a volume's brain.
        unit: "px" of the recipe's grid, or "mm".
        scale: probabilities and images are averaged over squares of so many pixels a side first, which divides the
            time by its fourth power. 1 is the paper's; for a CPU 2, as Tang et al. do.
    """

    DISTANCES = ("sigma_space",)
    needs: ClassVar[frozenset[str]] = frozenset({"clean", "inside"})

    kind: Literal["dense_crf_loss"] = "dense_crf_loss"
    alpha: NonNegativeFloat = 1e-8 * (192 * 192) ** 2
    channels: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] = (0, 2, 3)
    sigma_space: PositiveFloat = 15.0
    sigma_intensity: PositiveFloat = 0.3
    scale: PositiveInt = 1

    def __call__(self, logits: Float[Tensor, "batch label height width"], batch: Batch) -> Float[Tensor, ""]:
        """The loss in float32, also where autocast is on (in float64 for logits of float64).

        Args:
            logits: what the network gives.
            batch: its `clean` images, for noise and gain that augmentation adds must not move edges, and `inside`.

        Raises:
            ValueError: for channels that the images do not have, for sides that `scale` does not divide, or unless
                `in_pixels`.
        """
        images, shown = batch.clean, batch.inside
        assert images is not None, "a loss gets what it needs"
        assert shown is not None, "a loss gets what it needs"
        self._check(images)
        if not len(images):
            return logits.sum()  # an empty batch: 0
        with torch.autocast(logits.device.type, enabled=False):
            dtype = torch.promote_types(logits.dtype, torch.float32)
            inside = shown[:, None].to(dtype)
            weights = functional.avg_pool2d(inside, self.scale)  # of each square, the share that shows the image

            def pooled(values: Tensor) -> Tensor:
                """Means over what is inside of each square; 0 where nothing is."""
                return functional.avg_pool2d(values * inside, self.scale) / weights.clamp(min=1e-6)

            seen = pooled(images[:, list(self.channels)].to(dtype))
            shape, sigma_space = seen.shape[2:], self.sigma_space / self.scale
            similar = gaussian_filter(
                shape, sigma_space, seen, self.sigma_intensity, method="dense", normalisation="none"
            )
            pairs = len(images) * shape.numel() ** 2
            return self.alpha / pairs * _Disagreement.apply(pooled(logits.to(dtype).softmax(1)), weights, similar)

    def check_sides(self, *sides: int) -> None:
        """Raises ValueError for a side of the slice that `scale` does not divide, and for the three of a block."""
        if len(sides) == 3:
            raise ValueError(f"expected slices for {self.kind}, which compares pixels of one slice, got blocks {sides}")
        if any(side % self.scale for side in sides):
            raise ValueError(f"expected sides that scale {self.scale} divides, got {sides}")

    def _check(self, images: Tensor) -> None:
        self.check_pixels()
        channels, *space = images.shape[1:]
        if not self.channels or max(self.channels) >= channels:
            raise ValueError(f"expected dense CRF loss channels below {channels}, the images', got {self.channels}")
        self.check_sides(*space)


class _Disagreement(torch.autograd.Function):
    """sum_k (m y_k)' W (m (1 - y_k)) for y that sum to 1 over labels where the weights m are not 0.

    One filtering of m y serves value and gradient: W is symmetric, so the gradient by y_k is m (W m - 2 W m y_k), and
    W m = sum_k W m y_k. The part that is the same for all labels has no effect on the simplex.
    """

    @staticmethod
    def forward(ctx: Any, labels: Tensor, weights: Tensor, similar: GaussianFilter) -> Tensor:
        filtered = similar.apply(labels * weights)
        ctx.save_for_backward(filtered, weights)
        return (weights * (1 - labels) * filtered).sum()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        filtered, weights = ctx.saved_tensors
        return gradient * weights * (filtered.sum(1, keepdim=True) - 2 * filtered), None, None
