"""Prediction equals the plain forward pass, leaves the network as it was, and returns to the native grid."""

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from scribbleseg.data.preprocess import Preprocess
from scribbleseg.relabel.predict import BATCH, Segmenter, predict
from scribbleseg.train.unet import UNet
from scribbleseg.types import UNLABELLED, Case, Geometry


@pytest.fixture
def fabric():
    return Fabric(accelerator="cpu", devices=1)


def test_equals_softmax_of_a_plain_pass_over_more_than_one_batch(fabric):
    torch.manual_seed(0)
    network = UNet(base=4, padded=True, dropout=0.5).build(2, 3)
    images = np.random.default_rng(0).normal(size=(BATCH + 3, 2, 16, 32)).astype(np.float32)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.train()
    out = predict(fabric, network, images)
    assert network.training, "it is given back as it was"
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    with torch.inference_mode():
        plain = network.eval()(torch.from_numpy(images)).softmax(dim=1).numpy()
    assert np.allclose(out, plain, atol=1e-5)
    assert np.allclose(out.sum(axis=1), 1, atol=1e-5)


class Threshold(nn.Module):
    """Calls bright pixels label 1."""

    channels = 1

    def __init__(self) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1))

    def forward(self, image):
        return torch.cat([-image, image], dim=1) * 20 + self.anchor


def test_a_segmenter_finds_a_bright_box_on_its_native_grid(fabric):
    image = np.zeros((1, 3, 60, 40), np.float32)
    image[0, :, 20:40, 10:30] = 100
    geometry = Geometry((3, 60, 40), np.diag([1.25, 1.25, 8.0, 1.0]))
    case = Case("box", image, np.full((3, 60, 40), UNLABELLED, np.uint8), geometry)
    segmenter = Segmenter(Threshold(), Preprocess(spacing_mm=2.0, size=48), ("background", "box"), fabric)
    probabilities = segmenter.probabilities(case)
    labels = segmenter.segment(case)
    box = image[0] > 0
    assert probabilities.shape == (2, 3, 60, 40)
    assert labels.dtype == np.uint8
    assert (labels == probabilities.argmax(axis=0)).all()
    assert 2 * (labels.astype(bool) & box).sum() / (labels.sum() + box.sum()) > 0.95
