"""CRF-RNN: any network, and a few steps of a CRF's mean field as its last layer, trained end to end."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from scribbleseg.crf.kernels import Kernels, unit_range
from scribbleseg.crf.mean_field import mean_field
from scribbleseg.training.monai_network import MONAINetwork
from scribbleseg.training.network import NetworkModule, Outputs, TwoDimensional
from scribbleseg.training.plain_unet import PlainUNet
from scribbleseg.training.unet import UNet


@dataclass(frozen=True)
class CRFRNN(TwoDimensional, Kernels):
    """Can et al. 2018, section 2.3, after Zheng et al. 2015 (doi:10.1109/ICCV.2015.179).

    The logits of the network inside are the unaries of a dense CRF whose mean field is unrolled for a number of
    iterations. The weight of each kernel, one for each label, and the full compatibility matrix are learned, from Potts
    and the weights given here. Training alternates (section 2.3): so many mini-batches for the network with the RNN
    frozen, then one update of the RNN alone. Do not use it on grids on which the network's own output is already sharp:
    it costs as much time again as the U-Net.

    Args:
        unaries: the network inside, which gives the unaries.
        iterations: iterations of the mean field; 5 is Zheng et al.'s for training.
        network_updates: mini-batches between two updates of the RNN (section 2.3: 10).
        rnn_learning_rate: the learning rate of those updates (section 2.3: 1e-7).
    """

    kind: Literal["crf_rnn"] = "crf_rnn"
    unaries: Annotated[UNet | PlainUNet | MONAINetwork, Field(discriminator="kind")] = UNet()
    iterations: PositiveInt = 5
    network_updates: PositiveInt = 10
    rnn_learning_rate: PositiveFloat = 1e-7

    @property
    def has_dropout(self) -> bool:
        """Whether passes with dropout differ from each other."""
        return self.unaries.has_dropout

    def check_sides(self, *sides: int) -> None:
        """Raises ValueError for a network of blocks inside, and for a side of the slice that it cannot take."""
        if self.unaries.dimensions != self.dimensions:
            raise ValueError(f"expected a 2-D network inside {self.kind}, got {self.unaries.dimensions}-D")
        self.unaries.check_sides(*sides)

    def build(self, channels: int, labels: int) -> "CRFRNNModule":
        """A network with new weights, drawn from torch's global generator."""
        return CRFRNNModule(self, channels, labels)

    def start_from(self, network: NetworkModule, state: Mapping[str, Tensor]) -> None:
        """Take over the inner network's weights; the RNN, which is made by label, starts anew. Raises ValueError."""
        assert isinstance(network, CRFRNNModule)
        prefix = "unaries."
        inner = {name.removeprefix(prefix): weights for name, weights in state.items() if name.startswith(prefix)}
        self.unaries.start_from(network.unaries, inner)


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
        filters = self.spec.filters(unit_range(image))
        return mean_field(unaries, filters, self.weights, self.compatibility, iterations=self.spec.iterations)


class CRFRNNModule(NetworkModule):
    """Maps `batch channel height width` to logits `batch label height width`, as the network inside does."""

    def __init__(self, spec: CRFRNN, channels: int, labels: int) -> None:
        super().__init__(channels)
        self.unaries = spec.unaries.build(channels, labels)
        self.rnn = MeanFieldLayer(spec, labels)
        self.spec = spec

    @property
    def turns(self) -> tuple[tuple[nn.Module, float | None, int], ...]:
        """The network inside with its number of updates, then the RNN with its own learning rate and one update."""
        return (self.unaries, None, self.spec.network_updates), (self.rnn, self.spec.rnn_learning_rate, 1)

    def forward(self, image: Float[Tensor, "batch channel height width"]) -> Outputs:
        """Logits, in float32 whatever the network inside computes in; those of coarser levels skip the RNN."""
        outputs = self.unaries(image)
        unaries, *coarse = outputs if isinstance(outputs, tuple) else (outputs,)
        with torch.autocast(image.device.type, enabled=False):
            logits = self.rnn(unaries.float(), image.float())
        return (logits, *coarse) if coarse else logits

    def for_passes(self) -> "CRFRNNPasses":
        """Passes whose logits are those at the RNN's input, and whose output is the RNN's."""
        return CRFRNNPasses(self)


class CRFRNNPasses(nn.Module):
    """Stochastic passes of a CRF-RNN.

    The paper tests "logit distributions at its input" (section 3), so the logits are those of the network inside; the
    softmax, and with it the labels, is that of the RNN's output.
    """

    def __init__(self, network: CRFRNNModule) -> None:
        super().__init__()
        self.inner = network.unaries.for_passes()
        self.rnn = network.rnn

    def before_dropout(self, image: Tensor) -> tuple[Any, Tensor]:
        """What does not change between passes over the same slices: of the network inside, and the slices."""
        return self.inner.before_dropout(image), image

    def after_dropout(self, fixed: tuple[Any, Tensor]) -> Tensor:
        """The logits of one pass at the RNN's input."""
        return self.inner.after_dropout(fixed[0])

    def output(self, logits: Tensor, fixed: tuple[Any, Tensor]) -> Tensor:
        """The RNN's output for these logits."""
        with torch.autocast(logits.device.type, enabled=False):
            return self.rnn(logits.float(), fixed[1].float())
