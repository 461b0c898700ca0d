"""The paper's modified U-Net, at full size or compact, with dropout in its innermost blocks."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field, PositiveInt
from torch import Tensor, nn

DEPTH = 4
"""Poolings in the contracting path."""

VALID_PADDING = 92
"""Pixels that unpadded convolutions eat on each side of the output (Can et al. 2018, section 2.2)."""

STRIDE = 2**DEPTH


@dataclass(frozen=True)
class UNet:
    """The U-Net of Can et al. 2018, section 2.2, which is that of Baumgartner et al. 2017.

    Two 3 x 3 convolutions a block, batch normalisation and ReLU after each; filters double at each of four poolings;
    4 x 4 transposed convolutions of stride 2 with only as many filters as there are labels lead up (class-wise
    information alone passes upward), and meet the contracting path's features at the same scale.

    Args:
        base: filters of the outermost block; 64 in the paper (64..1024), 16 for a CPU (ours).
        padded: False is the paper's: unpadded convolutions on an input padded by 92 pixels of zeros. True keeps
            every block's size, and computes no border that is cut off again (ours).
        dropout: probability in the 5 innermost blocks: the two deepest of the contracting path, the bottleneck,
            the two deepest of the expanding path (section 2.4: 0.5). 0 switches it off.
    """

    kind: Literal["unet"] = "unet"
    base: PositiveInt = 64
    padded: bool = False
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def check_sides(self, *sides: int) -> None:
        """Raises ValueError for a side of the slice, in pixels, that does not fit the poolings."""
        if any(side % STRIDE != (0 if self.padded else 4) for side in sides):
            expected = "multiples of 16" if self.padded else "16 k + 4, such as 212"
            raise ValueError(f"expected sides of {expected}, got {sides}; change preprocess.size")

    def build(self, channels: int, labels: int) -> "UNetModule":
        """A network with new weights, drawn from torch's global generator."""
        return UNetModule(self, channels, labels)


class UNetModule(nn.Module):
    """Maps `batch channel height width` to logits `batch label height width`; both sides multiples of 16.

    Unpadded networks take sides of 16 k + 4 (212, the paper's, is one).
    """

    def __init__(self, spec: UNet, channels: int, labels: int) -> None:
        super().__init__()
        self.spec = spec
        self.channels = channels
        filters = [spec.base * 2**level for level in range(DEPTH + 1)]
        drop = [spec.dropout if level >= DEPTH - 2 else 0.0 for level in range(DEPTH + 1)]
        inputs = [channels, *filters]
        self.down = nn.ModuleList(
            _block(inputs[level], filters[level], spec.padded, drop[level]) for level in range(DEPTH + 1)
        )
        self.up = nn.ModuleList(
            nn.Sequential(
                nn.ConvTranspose2d(filters[level + 1], labels, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(labels),
                nn.ReLU(inplace=True),
            )
            for level in range(DEPTH)
        )
        self.merge = nn.ModuleList(
            _block(filters[level] + labels, filters[level], spec.padded, drop[level]) for level in range(DEPTH)
        )
        self.head = nn.Sequential(nn.Conv2d(filters[0], labels, 1, bias=False), nn.BatchNorm2d(labels))

    def forward(self, image: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch label height width"]:
        """Logits. Raises ValueError for a side that does not fit the poolings."""
        self.spec.check_sides(*image.shape[-2:])
        x = image if self.spec.padded else nn.functional.pad(image, [VALID_PADDING] * 4)
        skips = []
        for level, block in enumerate(self.down):
            x = block(nn.functional.max_pool2d(x, 2) if level else x)
            skips.append(x)
        for level in reversed(range(DEPTH)):
            x = self.up[level](x)
            x = self.merge[level](torch.cat([x, _centre(skips[level], x.shape[-2:])], dim=1))
        return self.head(x)


def _block(inputs: int, outputs: int, padded: bool, dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        # No bias: the batch normalisation that follows has one.
        layers += [
            nn.Conv2d(channels, outputs, 3, padding=1 if padded else 0, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers, *([nn.Dropout(dropout)] if dropout else []))


def _centre(x: Tensor, size: torch.Size) -> Tensor:
    top, left = (x.shape[-2] - size[0]) // 2, (x.shape[-1] - size[1]) // 2
    return x[..., top : top + size[0], left : left + size[1]]
