"""An adapter for the 2-D networks of MONAI, a library of networks that is well kept."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from scribbleseg.training.network import NetworkModule, has_dropout, trial


@dataclass(frozen=True)
class MONAINetwork:
    """A network of `monai.networks.nets`, by the name of its class.

    Its first output is taken for the logits where there are several (deep supervision). Dropout and everything else
    that the class takes are `arguments`, such as {"features": [16, 16, 32, 64, 128, 16], "dropout": 0.5} of BasicUNet.

    Args:
        name: the name of the class, which has to take `spatial_dims`, `in_channels` and `out_channels`.
        arguments: its other arguments.
    """

    kind: Literal["monai"] = "monai"
    name: str = "BasicUNet"
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def has_dropout(self) -> bool:
        """Whether passes with dropout differ from each other."""
        return has_dropout(trial(self.build))

    def check_sides(self, *sides: int) -> None:
        """Raises ValueError for a side of the slice, in pixels, that the network cannot take or does not give back."""
        network = trial(self.build).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as it trains
        slices = torch.zeros(2, 1, *(sides * 2)[:2]).contiguous(memory_format=torch.channels_last)
        try:
            with torch.random.fork_rng([]):
                logits = [network.train(training)(slices) for training in (True, False)]
                logits[0].sum().backward()
            shapes = {tuple(each.shape) for each in logits}
        except Exception as error:  # each of MONAI's networks has its own
            raise ValueError(
                f"expected sides that MONAI's {self.name} takes, got {sides} ({error}); change preprocess.size"
            ) from error
        if shapes != {(2, 2, *slices.shape[2:])}:
            raise ValueError(
                f"expected logits of the slices' size {sides} from MONAI's {self.name}, got shape {max(shapes)}; "
                "change preprocess.size or the network"
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
    """One of MONAI's networks: maps `batch channel height width` to logits `batch label height width`."""

    def __init__(self, spec: MONAINetwork, channels: int, labels: int) -> None:
        from monai.networks import nets  # here, because it takes seconds

        super().__init__(channels)
        build = getattr(nets, spec.name, None)
        if not (isinstance(build, type) and issubclass(build, nn.Module)):
            raise ValueError(f"expected the name of a network in monai.networks.nets, got {spec.name!r}")
        try:
            self.network = build(spatial_dims=2, in_channels=channels, out_channels=labels, **spec.arguments)
        except Exception as error:  # wrong arguments, or a package that is not installed
            raise ValueError(
                f"expected arguments that MONAI's {spec.name} takes, got {spec.arguments}: {error}"
            ) from None

    def forward(self, image: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch label *space"]:
        """Logits, of the image's height and width where `check_sides` accepts them."""
        logits = self.network(image)
        if isinstance(logits, list | tuple):
            return logits[0]
        return logits[:, 0] if logits.ndim > image.ndim else logits  # DynUNet stacks its outputs while it trains
