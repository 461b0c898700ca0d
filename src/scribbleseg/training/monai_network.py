"""An adapter for the 2-D and 3-D networks of MONAI, a library of networks that is well kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from scribbleseg.data.blocks import channels_last
from scribbleseg.training.network import NetworkModule, has_dropout, trial

_WHAT = {1: "preprocess.size", 2: "preprocess.size", 3: "depth, patch or network.arguments"}
"""The fields of the recipe that sides come from, by their number."""

FEWEST = 3
"""Levels that a DynUNet has at least; those that have nothing left to halve keep the size."""

SMALLEST = 4
"""An axis is not pooled to fewer voxels; nnU-Net's."""


def levels(spacing_mm: Sequence[float], sides: Sequence[int]) -> tuple[list[list[int]], list[list[int]]]:
    """Kernels and strides of a U-Net, level by level, by nnU-Net's rule (Isensee et al. 2021).

    Each level halves the axes whose voxels are less than twice as large as the smallest ones, so that voxels become
    alike; kernels are 1 along an axis until then, and 3 afterwards and at the last level. Sides that are odd, or that
    would fall below 4 voxels, are not halved; a last axis not below 6.

    Args:
        spacing_mm: voxel size along each axis.
        sides: the shape of what the network learns from, in voxels.
    """
    spacing, size, kernel = list(spacing_mm), list(sides), [1] * len(sides)
    kernels: list[list[int]] = []
    strides = [[1] * len(sides)]
    while True:
        alike = [each < 2 * min(spacing) for each in spacing]
        kernel = [3 if fine else k for fine, k in zip(alike, kernel, strict=True)]
        can = [side % 2 == 0 and side >= 2 * SMALLEST for side in size]
        smallest = min((mm for mm, fits in zip(spacing, can, strict=True) if fits), default=0.0)
        halved = [fits and mm < 2 * smallest for mm, fits in zip(spacing, can, strict=True)]
        alone = sum(halved) == 1 and size[halved.index(True)] < 3 * SMALLEST
        if alone or not any(halved):
            fewest = max(0, FEWEST - len(strides)) * [[1] * len(sides)]
            return [*kernels, *([3] * len(sides) for _ in range(1 + len(fewest)))], [*strides, *fewest]
        kernels.append(kernel)
        strides.append([1 + half for half in halved])
        spacing = [mm * (1 + half) for mm, half in zip(spacing, halved, strict=True)]
        size = [side // (1 + half) for side, half in zip(size, halved, strict=True)]


@dataclass(frozen=True)
class MONAINetwork:
    """A network of `monai.networks.nets`, by the name of its class.

    Its first output is taken for the logits where there are several (deep supervision). Dropout and everything else
    that the class takes are `arguments`, such as {"features": [16, 16, 32, 64, 128, 16], "dropout": 0.5} of BasicUNet.
    Kernels and strides of a DynUNet are fitted to the data (`levels`) where the arguments have no `strides`.

    Args:
        name: the name of the class, which has to take `spatial_dims`, `in_channels` and `out_channels`.
        arguments: its other arguments.
        dimensions: 2 sees slices; 3 sees blocks of slices, and makes the training a 3-D one.
    """

    kind: Literal["monai"] = "monai"
    name: str = "BasicUNet"
    arguments: dict[str, Any] = field(default_factory=dict)
    dimensions: Literal[2, 3] = 2

    def fitted(self, spacing_mm: Sequence[float], sides: Sequence[int]) -> "MONAINetwork":
        """The network with kernels and strides for this voxel size and shape, where it is a DynUNet without any."""
        if self.name != "DynUNet" or "strides" in self.arguments:
            return self
        kernels, strides = levels(spacing_mm, sides)
        filters = self.arguments.get("filters")
        most = len(filters) if isinstance(filters, list) else None  # what it cannot take, `check_sides` refuses
        kernels, strides = [*kernels[:most][:-1], kernels[-1]], strides[:most]
        found = {"kernel_size": kernels, "strides": strides, "upsample_kernel_size": strides[1:]}
        return replace(self, arguments={**self.arguments, **found})

    @property
    def has_dropout(self) -> bool:
        """Whether passes with dropout differ from each other."""
        return has_dropout(trial(self.build))

    def check_sides(self, *sides: int) -> None:
        """Raises ValueError for a side of the slice, or the three of a block, that it cannot take or give back."""
        network, shape = channels_last(trial(self.build)), (sides * 2)[:2]
        if self.dimensions == 3:  # shapes without numbers, of which blocks have too many
            network, shape = network.to("meta"), sides
        slices = channels_last(torch.zeros(2, 1, *shape, device=next(network.parameters()).device))
        try:
            with torch.random.fork_rng([]):
                logits = [network.train(training)(slices) for training in (True, False)]
                logits[0].sum().backward()
            shapes = {tuple(each.shape) for each in logits}
        except Exception as error:  # each of MONAI's networks has its own
            raise ValueError(
                f"expected sides that MONAI's {self.name} takes, got {sides} ({error}); change {_WHAT[len(sides)]}"
            ) from error
        if shapes != {(2, 2, *slices.shape[2:])}:
            raise ValueError(
                f"expected logits of the slices' size {sides} from MONAI's {self.name}, got shape {max(shapes)}; "
                f"change {_WHAT[len(sides)]} or the network"
            )

    def build(self, channels: int, labels: int) -> "MONAIModule":
        """A network with new weights, drawn from torch's global generator. Raises ValueError for a wrong name."""
        return MONAIModule(self, channels, labels)

    def start_from(self, network: NetworkModule, state: Mapping[str, Tensor]) -> None:
        """Take over weights of the same network for other labels, all but those whose shape depends on the labels.

        Raises ValueError for weights of another network.
        """
        few, more = (trial(self.build, network.channels, labels).state_dict() for labels in (2, 3))
        own = network.state_dict()
        if own.keys() != state.keys():
            raise ValueError(f"expected weights of MONAI's {self.name}, got those of another network")
        for name, weights in own.items():
            if few[name].shape != more[name].shape:
                continue
            if state[name].shape != weights.shape:
                raise ValueError(f"expected weights of MONAI's {self.name} with {self.arguments}, got others at {name}")
            weights.copy_(state[name])


class MONAIModule(NetworkModule):
    """One of MONAI's networks: maps `batch channel [depth] height width` to logits of the same sides."""

    def __init__(self, spec: MONAINetwork, channels: int, labels: int) -> None:
        from monai.networks import nets  # here, because it takes seconds

        super().__init__(channels)
        build = getattr(nets, spec.name, None)
        if not (isinstance(build, type) and issubclass(build, nn.Module)):
            raise ValueError(f"expected the name of a network in monai.networks.nets, got {spec.name!r}")
        try:
            self.network = build(
                spatial_dims=spec.dimensions, in_channels=channels, out_channels=labels, **spec.arguments
            )
        except Exception as error:  # wrong arguments, or a package that is not installed
            raise ValueError(
                f"expected arguments that MONAI's {spec.name} takes, got {spec.arguments}: {error}"
            ) from None

    def forward(self, image: Float[Tensor, "batch channel *sides"]) -> Float[Tensor, "batch label *space"]:
        """Logits, of the image's sides where `check_sides` accepts them."""
        logits = self.network(image)
        if isinstance(logits, list | tuple):
            return logits[0]
        return logits[:, 0] if logits.ndim > image.ndim else logits  # DynUNet stacks its outputs while it trains
