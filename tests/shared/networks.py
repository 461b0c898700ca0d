"""Networks whose answers are known."""

import torch
from torch import nn


class Threshold(nn.Module):
    """Calls bright pixels label 1."""

    channels = 1

    def __init__(self) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1))

    def forward(self, image):
        return torch.cat([-image, image], dim=1) * 20 + self.anchor
