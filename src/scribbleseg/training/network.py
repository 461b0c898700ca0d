"""The network protocol: what a recipe's network has to offer, and what its members share."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

DROPOUT = _DropoutNd
"""The base class of all of torch's dropout layers."""


@runtime_checkable
class Stochastic(Protocol):
    """A network as many passes with dropout use it."""

    def before_dropout(self, image: Tensor) -> Any:
        """What does not change between passes over the same slices."""

    def after_dropout(self, fixed: Any) -> Tensor:
        """The logits of one pass, given what `before_dropout` gave."""

    def output(self, logits: Tensor, fixed: Any) -> Tensor:
        """What the whole network makes of the logits of one pass: they themselves, unless a layer comes after."""


@runtime_checkable
class Network(Protocol):
    """A frozen dataclass in a recipe that describes a network and builds it."""

    @property
    def kind(self) -> str:
        """The tag in recipes."""

    @property
    def has_dropout(self) -> bool:
        """Whether passes with dropout differ from each other."""

    @property
    def dimensions(self) -> int:
        """2 for a network that maps slices to logits, 3 for one that maps blocks of slices."""

    def fitted(self, spacing_mm: Sequence[float], sides: Sequence[int]) -> "Network":
        """The network with what it leaves to the data, given voxel size and shape of what it learns from."""

    def check_sides(self, *sides: int) -> None:
        """Raises ValueError for a side of the slice, or sides of the block (depth first), that it cannot take."""

    def build(self, channels: int, labels: int) -> "NetworkModule":
        """A network with new weights, drawn from torch's global generator."""

    def start_from(self, network: "NetworkModule", state: Mapping[str, Tensor]) -> None:
        """Take over weights of the same network built for other labels, all but the last layer's.

        Raises ValueError for weights of another network.
        """


Outputs = Float[Tensor, "batch label *space"] | tuple[Float[Tensor, "batch label *space"], ...]
"""Logits; while a network with deep supervision trains, those of coarser levels come after them, at full size."""


class TwoDimensional:
    """What networks of slices share that leave nothing to the data."""

    dimensions: ClassVar[int] = 2

    def fitted(self, spacing_mm: Sequence[float], sides: Sequence[int]) -> Any:
        """Itself."""
        return self


class NetworkModule(nn.Module):
    """Maps `batch channel [depth] height width` to logits `batch label [depth] height width` (see `Outputs`).

    Attributes:
        channels: the number of channels of an image.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    @property
    def turns(self) -> tuple[tuple[nn.Module, float | None, int], ...]:
        """Parts that are trained by turns: each with its learning rate (None: the recipe's) and number of updates."""
        return ((self, None, 1),)

    def for_passes(self) -> Stochastic:
        """The network as many passes with dropout use it."""
        return Passes(self)


class Passes(nn.Module):
    """Stochastic passes of any network: dropout is on, batch statistics are the running ones.

    A network that can compute once what comes before its first dropout offers the same three methods.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = deepcopy(network).eval()
        switch_dropout_on(self.network)

    def before_dropout(self, image: Float[Tensor, "batch channel *space"]) -> Any:
        """What does not change between passes over the same slices; here the slices themselves."""
        return image

    def after_dropout(self, fixed: Any) -> Float[Tensor, "batch label *space"]:
        """The logits of one pass, given what `before_dropout` gave."""
        return self.network(fixed)

    def output(self, logits: Tensor, fixed: Any) -> Tensor:
        """The logits."""
        return logits


def set_batch_statistics(network: nn.Module, moving: bool) -> None:
    """Let batch normalisation use and update the statistics of each batch, or use its running ones and keep them."""
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.train(moving)


def switch_dropout_on(network: nn.Module) -> None:
    """Put all dropout layers, and nothing else, into training mode."""
    for module in network.modules():
        if isinstance(module, DROPOUT):
            module.train()


def take_over(network: nn.Module, state: Mapping[str, Tensor], last: str) -> None:
    """Copy weights by name into a network, all but those of its last layer.

    Args:
        network: changed in place.
        state: weights of the same network for other labels.
        last: the last layer; names of its weights begin with this.

    Raises:
        ValueError: for names or shapes of another network.
    """
    own = network.state_dict()
    for name, weights in own.items():
        if name.startswith(last):
            continue
        if name not in state or state[name].shape != weights.shape:
            raise ValueError(f"expected weights of the same network, got others: {name} is missing or of another shape")
        weights.copy_(state[name])


def has_dropout(network: nn.Module) -> bool:
    """Whether any layer of a network drops anything out."""
    return any(isinstance(module, DROPOUT) and module.p > 0 for module in network.modules())


def trial(build: Callable[[int, int], NetworkModule], channels: int = 1, labels: int = 2) -> NetworkModule:
    """What a network's `build` makes, to look at its layers and shapes; torch's random state is left as it was."""
    with torch.random.fork_rng([]):
        return build(channels, labels)
