"""The paper's modified U-Net, at full size or compact, with dropout in its innermost blocks."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from scribbleseg.training.network import NetworkModule, TwoDimensional, switch_dropout_on

DEPTH = 4
"""Poolings in the contracting path."""

VALID_PADDING = 92
"""Pixels that unpadded convolutions eat on each side of the output (Baumgartner et al. 2017)."""

STRIDE = 2**DEPTH

FIRST_DROPOUT = DEPTH - 2
"""The outermost level with dropout, where there is any."""


@dataclass(frozen=True)
class UNet(TwoDimensional):
    """The U-Net of Can et al. 2018, section 2.2, which is that of Baumgartner et al. 2017.

    Two 3 x 3 convolutions a block, batch normalisation and ReLU after each; filters double at each of four poolings;
    4 x 4 transposed convolutions of stride 2 with only as many filters as there are labels lead up (class-wise
    information alone passes upward), and meet the contracting path's features at the same scale.

    Args:
        base: filters of the outermost block; 64 in that of 2017 (64..1024), 16 for a CPU (ours).
        padded: False is that of 2017: unpadded convolutions on an input padded by 92 pixels of zeros. True keeps
            every block's size, and computes no border that is cut off again (ours).
        dropout: probability in the 5 innermost blocks: the two deepest of the contracting path, the bottleneck,
            the two deepest of the expanding path (section 2.4: 0.5). 0 switches it off.
    """

    kind: Literal["unet"] = "unet"
    base: Annotated[int, Field(gt=0, le=1024)] = 64
    padded: bool = False
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def check_sides(self, *sides: int) -> None:
        """Raises ValueError for a side of the slice, in pixels, that does not fit the poolings."""
        if any(side % STRIDE != (0 if self.padded else 4) for side in sides):
            expected = "multiples of 16" if self.padded else "16 k + 4, such as 212"
            raise ValueError(f"expected sides of {expected}, got {sides}; change preprocess.size")

    @property
    def has_dropout(self) -> bool:
        """Whether passes with dropout differ from each other."""
        return self.dropout > 0

    def build(self, channels: int, labels: int) -> "UNetModule":
        """A network with new weights, drawn from torch's global generator."""
        return UNetModule(self, channels, labels)

    def start_from(self, network: NetworkModule, state: Mapping[str, Tensor]) -> None:
        """Take over weights of the same U-Net for other labels, all but the last layer's.

        With the last layer, those of the way up stay new: in this U-Net they are made label by label. Raises ValueError
        for weights of another network.
        """
        own = network.state_dict()
        if own.keys() != state.keys():
            raise ValueError("expected weights of the same U-Net, got those of another network")
        for name, weights in own.items():
            if not name.startswith(("down.", "merge.")):
                continue
            given = state[name]
            if name.startswith("merge.") and weights.ndim == 4:  # inputs: first the labels, then the skip
                skip = len(weights)
                given, weights = given[:, -skip:], weights[:, -skip:]
            if given.shape != weights.shape:
                raise ValueError(f"expected weights of a U-Net of base {self.base}, got others at {name}")
            weights.copy_(given)


class Dropout(nn.Dropout):
    """torch's, four to ten times as fast on a CPU, where drawing its numbers took a quarter of a stochastic pass.

    Four masks come from one 64-bit word of torch's generator, so that the probability is rounded to 2^-16; what is kept
    is scaled by the rounded one's inverse, and the expectation is exact.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Zero or scaled where training, as it is elsewhere."""
        if not self.training or x.device.type != "cpu":
            return super().forward(x)
        words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
        kept = min(max(round((1 - self.p) * 2**16), 1), 2**16 - 1)
        mask = words.as_strided(x.shape, torch.empty_like(x).stride())  # in the order of x's memory
        return (x * mask.lt_(kept - 2**15)).mul_(2**16 / kept)


class Fixed(NamedTuple):
    """What does not change between stochastic passes over the same slices.

    Args:
        features: `batch filter height width`, what enters the first dropout.
        halves: for each level, the skip connection's share of the first convolution where it meets the path upward.
    """

    features: Tensor
    halves: tuple[Tensor, ...]


class UNetModule(NetworkModule):
    """Maps `batch channel height width` to logits `batch label height width`; both sides multiples of 16.

    Unpadded networks take sides of 16 k + 4 (212, that of 2017, is one).
    """

    def __init__(self, spec: UNet, channels: int, labels: int) -> None:
        super().__init__(channels)
        self.spec = spec
        filters = [spec.base * 2**level for level in range(DEPTH + 1)]
        drop = dropout_by_level(spec.dropout)
        inputs = [channels, *filters]
        self.down = nn.ModuleList(
            block(inputs[level], filters[level], dropout=drop[level], padded=spec.padded) for level in range(DEPTH + 1)
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
            block(filters[level] + labels, filters[level], dropout=drop[level], padded=spec.padded)
            for level in range(DEPTH)
        )
        self.head = nn.Sequential(nn.Conv2d(filters[0], labels, 1, bias=False), nn.BatchNorm2d(labels))

    def forward(self, image: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch label height width"]:
        """Logits. Raises ValueError for a side that does not fit the poolings."""
        x = self._enter(image)
        skips = []
        for level, block in enumerate(self.down):
            x = block(nn.functional.max_pool2d(x, 2) if level else x)
            skips.append(x)
        for level in reversed(range(DEPTH)):
            x = self.up[level](x)
            x = self.merge[level](torch.cat([x, _centre(skips[level], x.shape[-2:])], dim=1))
        return self.head(x)

    def for_passes(self) -> "UNetModule":
        """A copy for stochastic passes: dropout is on, running batch statistics are folded into the convolutions."""
        network = deepcopy(self).eval()
        switch_dropout_on(network)
        for module in list(network.modules()):
            if isinstance(module, nn.Sequential):
                _fold_batch_norm(module)
        return network

    def before_dropout(self, image: Float[Tensor, "batch channel height width"]) -> Fixed:
        """All of `forward` that comes before the first dropout, for `after_dropout`; the network has dropout.

        A convolution is linear in its input channels, so that the skip connections without dropout are convolved here:
        `conv(cat[up, skip]) = conv_up(up) + conv_skip(skip)`. Raises ValueError as `forward` does.
        """
        x = self._enter(image)
        halves = []
        for level in range(FIRST_DROPOUT):
            x = self.down[level](nn.functional.max_pool2d(x, 2) if level else x)
            conv, *_ = self.merge[level].children()
            assert isinstance(conv, nn.Conv2d)
            weight = conv.weight[:, -x.shape[1] :]
            halves.append(nn.functional.conv2d(x, weight, conv.bias, padding=conv.padding))
        *layers, _ = self.down[FIRST_DROPOUT].children()
        return Fixed(nn.Sequential(*layers)(nn.functional.max_pool2d(x, 2)), tuple(halves))

    def after_dropout(self, fixed: Fixed) -> Float[Tensor, "batch label height width"]:
        """The rest of `forward`, one stochastic pass where dropout is on: the same logits for the same masks."""
        *_, dropout = self.down[FIRST_DROPOUT].children()
        x = dropout(fixed.features)
        skips = {FIRST_DROPOUT: x}
        for level in range(FIRST_DROPOUT + 1, DEPTH + 1):
            x = skips[level] = self.down[level](nn.functional.max_pool2d(x, 2))
        for level in reversed(range(DEPTH)):
            x = self.up[level](x)
            if level in skips:
                x = self.merge[level](torch.cat([x, _centre(skips[level], x.shape[-2:])], dim=1))
            else:
                conv, *rest = self.merge[level].children()
                assert isinstance(conv, nn.Conv2d)
                half = nn.functional.conv2d(x, conv.weight[:, : x.shape[1]], padding=conv.padding)
                x = nn.Sequential(*rest)(half.add_(_centre(fixed.halves[level], half.shape[-2:])))
        return self.head(x)

    def output(self, logits: Tensor, fixed: Fixed) -> Tensor:
        """The logits: nothing comes after them."""
        return logits

    def _enter(self, image: Tensor) -> Tensor:
        self.spec.check_sides(*image.shape[-2:])
        return image if self.spec.padded else nn.functional.pad(image, [VALID_PADDING] * 4)


def dropout_by_level(probability: float) -> list[float]:
    """The dropout of the blocks at each level, outermost first: those of the innermost three have it."""
    return [probability if level >= FIRST_DROPOUT else 0.0 for level in range(DEPTH + 1)]


def block(inputs: int, outputs: int, *, dropout: float, padded: bool = True, slope: float = 0.0) -> nn.Sequential:
    """Two 3 x 3 convolutions, each with batch normalisation and ReLU, and dropout after them where there is any.

    The ReLU is leaky where its slope for negative values is not 0.
    """
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        # No bias: the batch normalisation that follows has one.
        layers += [
            nn.Conv2d(channels, outputs, 3, padding=1 if padded else 0, bias=False),
            nn.BatchNorm2d(outputs),
            nn.LeakyReLU(slope, inplace=True) if slope else nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers, *([Dropout(dropout)] if dropout else []))


def _fold_batch_norm(block: nn.Sequential) -> None:
    for i, layer in enumerate(block):
        if isinstance(layer, nn.BatchNorm2d):
            conv = block[i - 1]
            assert isinstance(conv, nn.Conv2d | nn.ConvTranspose2d)
            block[i - 1] = fuse_conv_bn_eval(conv, layer, transpose=isinstance(conv, nn.ConvTranspose2d))
            block[i] = nn.Identity()


def _centre(x: Tensor, size: torch.Size) -> Tensor:
    top, left = (x.shape[-2] - size[0]) // 2, (x.shape[-1] - size[1]) // 2
    return x[..., top : top + size[0], left : left + size[1]]
