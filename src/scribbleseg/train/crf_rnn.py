"""CRF-RNN: a U-Net and a few steps of a CRF's mean field as its last layer, trained end to end."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from scribbleseg.crf.kernels import Kernels
from scribbleseg.crf.mean_field import mean_field
from scribbleseg.train.unet import UNet


@dataclass(frozen=True)
class CRFRNN(Kernels):
    """Can et al. 2018, section 2.3, after Zheng et al. 2015 (doi:10.1109/ICCV.2015.179).

    The U-Net's logits are the unaries of a dense CRF whose mean field is unrolled for a number of iterations. The
    weight of each kernel, one for each label, and the full compatibility matrix are learned, from Potts and the weights
    given here. Training alternates (section 2.3): so many mini-batches for the U-Net with the RNN frozen, then one
    update of the RNN alone. Not for grids on which the network's own output is already sharp: it costs as much time
    again as the U-Net.

    Args:
        unet: what gives the unaries.
        iterations: of the mean field; 5 is Zheng et al.'s for training.
        unet_updates: mini-batches between two updates of the RNN (section 2.3: 10).
        rnn_learning_rate: of those (section 2.3: 1e-7).
    """

    kind: Literal["crf_rnn"] = "crf_rnn"
    unet: UNet = UNet()
    iterations: PositiveInt = 5
    unet_updates: PositiveInt = 10
    rnn_learning_rate: PositiveFloat = 1e-7

    @property
    def dropout(self) -> float:
        """Of the U-Net."""
        return self.unet.dropout

    def check_sides(self, *sides: int) -> None:
        """Raises ValueError for a side of the slice that does not fit the U-Net's poolings."""
        self.unet.check_sides(*sides)

    def build(self, channels: int, labels: int) -> "CRFRNNModule":
        """A network with new weights, drawn from torch's global generator."""
        return CRFRNNModule(self, channels, labels)


class MeanFieldLayer(nn.Module):
    """The "RNN": unaries and image in, logits of the mean field's marginals out; softmax gives the marginals."""

    def __init__(self, spec: CRFRNN, labels: int) -> None:
        super().__init__()
        self.spec = spec
        self.weights = nn.Parameter(torch.tensor(spec.weights)[:, None].repeat(1, labels))
        self.compatibility = nn.Parameter(1 - torch.eye(labels))

    def forward(
        self, unaries: Float[Tensor, "batch label height width"], image: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch label height width"]:
        """In the unaries' precision."""
        return mean_field(
            unaries, self.spec.filters(image), self.weights, self.compatibility, iterations=self.spec.iterations
        )


class CRFRNNModule(nn.Module):
    """Maps `batch channel height width` to logits `batch label height width`, as a U-Net does."""

    def __init__(self, spec: CRFRNN, channels: int, labels: int) -> None:
        super().__init__()
        self.channels = channels
        self.unet = spec.unet.build(channels, labels)
        self.rnn = MeanFieldLayer(spec, labels)
        self.spec = spec

    @property
    def turns(self) -> tuple[tuple[nn.Module, float | None, int], ...]:
        """Who is updated, at which learning rate (None: the recipe's), for how many iterations, before the next is."""
        return (self.unet, None, self.spec.unet_updates), (self.rnn, self.spec.rnn_learning_rate, 1)

    def forward(self, image: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch label height width"]:
        """Logits, in float32 whatever the U-Net computes in."""
        unaries = self.unet(image)
        with torch.autocast(image.device.type, enabled=False):
            return self.rnn(unaries.float(), image.float())
