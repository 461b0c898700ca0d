"""Optimisers with their learning-rate schedules, as parts of a recipe."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import nn


@dataclass(frozen=True)
class Adam:
    """Adam at a learning rate that falls in steps (Can et al. 2018, section 2.2: 0.001, times 0.9 every 3000).

    Args:
        learning_rate: at the first iteration.
        decay: what the learning rate is multiplied by at each step down.
        decay_every: iterations from one step down to the next.
    """

    kind: Literal["adam"] = "adam"
    learning_rate: PositiveFloat = 0.001
    decay: PositiveFloat = 0.9
    decay_every: PositiveInt = 3000

    def build(self, part: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
        """The optimiser of a part of the network."""
        return torch.optim.Adam(part.parameters(), learning_rate)

    def factor(self, iteration: int, iterations: int) -> float:
        """The factor on the learning rate at an iteration, counted from 0, of a schedule of so many iterations."""
        return self.decay ** (iteration // self.decay_every)


@dataclass(frozen=True)
class CosineAdam:
    """Adam at a learning rate that falls to 0 along half a cosine (Loshchilov & Hutter 2017, arXiv:1608.03983).

    Args:
        learning_rate: at the first iteration (ours).
    """

    kind: Literal["cosine_adam"] = "cosine_adam"
    learning_rate: PositiveFloat = 0.001

    def build(self, part: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
        """The optimiser of a part of the network."""
        return torch.optim.Adam(part.parameters(), learning_rate)

    def factor(self, iteration: int, iterations: int) -> float:
        """The factor on the learning rate at an iteration, counted from 0, of a schedule of so many iterations."""
        return (1 + math.cos(math.pi * iteration / iterations)) / 2


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with momentum, at a learning rate that falls linearly to 0.

    Ji et al. 2019, section 3.

    Args:
        learning_rate: at the first iteration; 0.01 is our reading of the paper's "0.011".
        momentum: 0.9 in the paper.
    """

    kind: Literal["sgd"] = "sgd"
    learning_rate: PositiveFloat = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9

    def build(self, part: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
        """The optimiser of a part of the network."""
        return torch.optim.SGD(part.parameters(), learning_rate, momentum=self.momentum)

    def factor(self, iteration: int, iterations: int) -> float:
        """The factor on the learning rate at an iteration, counted from 0, of a schedule of so many iterations."""
        return 1 - iteration / iterations
