"""A standard U-Net: the way up has as many filters as the way down, and nothing normalises the logits."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from scribbleseg.training.network import NetworkModule, Outputs, TwoDimensional, take_over
from scribbleseg.training.unet import DEPTH, STRIDE, block, dropout_by_level


@dataclass(frozen=True)
class PlainUNet(TwoDimensional):
    """The U-Net of Ronneberger et al. 2015 (arXiv:1505.04597) with padding and batch normalisation.

    Two 3 x 3 convolutions a block, batch normalisation and ReLU after each; filters double at each of four poolings;
    2 x 2 transposed convolutions of stride 2 that halve the filters lead up; the last layer is a 1 x 1 convolution.

    Args:
        base: filters of the outermost block; 64 in the paper, 16 for a CPU (ours).
        dropout: probability in the 5 innermost blocks, as in `UNet`; 0 switches it off.
        slope: that of the ReLU for negative values; 0 is the paper's. 0.01 is nnU-Net's (Isensee et al. 2021).
        deep_supervision: levels of the way up, besides the outermost, that have an output of their own while the
            network trains (Lee et al. 2015, arXiv:1409.5185); 0 is the paper's.
    """

    kind: Literal["plain_unet"] = "plain_unet"
    base: Annotated[int, Field(gt=0, le=1024)] = 64
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    slope: Annotated[float, Field(ge=0, lt=1)] = 0.0
    deep_supervision: Annotated[int, Field(ge=0, lt=DEPTH)] = 0

    @property
    def has_dropout(self) -> bool:
        """Whether passes with dropout differ from each other."""
        return self.dropout > 0

    def check_sides(self, *sides: int) -> None:
        """Raises ValueError for a side of the slice, in pixels, that does not fit the poolings."""
        if any(side % STRIDE for side in sides):
            raise ValueError(f"expected sides that are multiples of {STRIDE}, got {sides}; change preprocess.size")

    def build(self, channels: int, labels: int) -> "PlainUNetModule":
        """A network with new weights, drawn from torch's global generator."""
        return PlainUNetModule(self, channels, labels)

    def start_from(self, network: NetworkModule, state: Mapping[str, Tensor]) -> None:
        """Take over weights of the same U-Net for other labels, all but the last layer's. Raises ValueError."""
        take_over(network, state, last="head")


class PlainUNetModule(NetworkModule):
    """Maps `batch channel height width` to logits `batch label height width`; both sides are multiples of 16."""

    def __init__(self, spec: PlainUNet, channels: int, labels: int) -> None:
        super().__init__(channels)
        self.spec = spec
        filters = [spec.base * 2**level for level in range(DEPTH + 1)]
        inputs = [channels, *filters]
        drop = dropout_by_level(spec.dropout)
        levels = range(DEPTH + 1)
        self.down = nn.ModuleList(block(inputs[n], filters[n], dropout=drop[n], slope=spec.slope) for n in levels)
        self.up = nn.ModuleList(nn.ConvTranspose2d(filters[n + 1], filters[n], 2, stride=2) for n in levels[:-1])
        self.merge = nn.ModuleList(
            block(2 * filters[n], filters[n], dropout=drop[n], slope=spec.slope) for n in levels[:-1]
        )
        self.head = nn.Conv2d(filters[0], labels, 1)
        self.heads = nn.ModuleList(
            nn.Conv2d(filters[level], labels, 1) for level in range(1, spec.deep_supervision + 1)
        )

    def forward(self, image: Float[Tensor, "batch channel height width"]) -> Outputs:
        """Logits. Raises ValueError for a side that does not fit the poolings."""
        self.spec.check_sides(*image.shape[-2:])
        x, skips = image, []
        for level, down in enumerate(self.down):
            x = down(nn.functional.max_pool2d(x, 2) if level else x)
            skips.append(x)
        coarse: list[Tensor] = []
        for level in reversed(range(DEPTH)):
            x = self.merge[level](torch.cat([self.up[level](x), skips[level]], dim=1))
            if self.training and 0 < level <= self.spec.deep_supervision:
                logits = self.heads[level - 1](x)
                coarse.append(nn.functional.interpolate(logits, image.shape[-2:], mode="bilinear"))
        return (self.head(x), *reversed(coarse)) if coarse else self.head(x)
