"""One pass of a network over slices, and the segmenter that turns images into label maps of their own grid."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32
from lightning_fabric import Fabric
from torch import nn

from scribbleseg.data.preprocess import Preprocess
from scribbleseg.types import Case, DataError, Labels, Probabilities

BATCH = 16
"""Slices in one forward pass."""


@torch.inference_mode()
def predict(
    fabric: Fabric, network: nn.Module, images: Float32[np.ndarray, "slice channel height width"]
) -> Float32[np.ndarray, "slice label height width"]:
    """Softmax probabilities of every slice; dropout is off and batch statistics are the running ones."""
    training = network.training
    network.to(fabric.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    try:
        return np.concatenate(list(_batches(fabric, network, images)))
    finally:
        network.train(training)


def _batches(fabric: Fabric, network: nn.Module, images: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(images), BATCH):
        batch = torch.from_numpy(np.array(images[start : start + BATCH])).to(fabric.device)
        with fabric.autocast():
            logits = network(batch.contiguous(memory_format=torch.channels_last))
        yield logits.float().softmax(dim=1).cpu().numpy()


@dataclass(frozen=True)
class Segmenter:
    """A trained network and what it needs to be used on a new image.

    Args:
        network: maps slices of the grid to logits.
        preprocess: the grid it was trained on, resolved.
        label_names: by value, background first.
        fabric: where it runs.
    """

    network: nn.Module
    preprocess: Preprocess
    label_names: tuple[str, ...]
    fabric: Fabric

    @property
    def channels(self) -> int:
        """Of the images it was trained on."""
        return int(self.network.channels)  # type: ignore[arg-type]

    def probabilities(self, case: Case) -> Probabilities:
        """On the case's native grid. Raises DataError where its channels are not those of training."""
        if len(case.image) != self.channels:
            raise DataError(
                f"case {case.name} ({', '.join(map(str, case.files))}): expected {self.channels} channels as in "
                f"training, got {len(case.image)}; give the same modalities in the same order"
            )
        on_grid = predict(self.fabric, self.network, self.preprocess.image(case))
        return self.preprocess.native_probabilities(on_grid, case)

    def segment(self, case: Case) -> Labels:
        """The most probable label of every voxel, decided on the native grid: probabilities are resampled, not labels.

        Voxels outside the network's field of view (`preprocess.size`) are background.
        """
        return self.probabilities(case).argmax(axis=0).astype(np.uint8)
