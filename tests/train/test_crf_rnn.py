"""The CRF-RNN is a U-Net under mean field, and is trained by turns."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch.nn.functional import cross_entropy

from scribbleseg.crf.kernels import in_pixels
from scribbleseg.crf.mean_field import mean_field
from scribbleseg.train.augment import Augment
from scribbleseg.train.crf_rnn import CRFRNN, MeanFieldLayer
from scribbleseg.train.loop import Training, m_step
from scribbleseg.train.unet import UNet

SPEC = CRFRNN(
    w1=5.0, w2=10.0, sigma_alpha=20.0, sigma_beta=0.05, sigma_gamma=2.0, unet=UNet(base=4, padded=True), iterations=3
)


@pytest.fixture
def images():
    return torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))


def test_it_is_the_unet_under_mean_field_at_the_same_weights(images):
    network = SPEC.build(1, 3).eval()
    expected = mean_field(network.unet(images), SPEC.filters(images), (5.0, 10.0), iterations=3)
    torch.testing.assert_close(network(images).softmax(1), expected.softmax(1))


def test_slices_of_a_batch_do_not_see_each_other(images):
    network = SPEC.build(1, 3).eval()
    each = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(network(images).softmax(1), each.softmax(1), atol=1e-5, rtol=1e-4)


def test_gradcheck():
    image = torch.rand(2, 1, 4, 5, dtype=torch.float64)
    layer = MeanFieldLayer(replace(SPEC, w1=0.5, w2=0.7, sigma_alpha=3.0, sigma_beta=0.3), 3).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.1 * torch.rand_like(parameter)
    unaries = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    named = dict(layer.named_parameters())

    def run(unaries, weights, compatibility):
        given = {"weights": weights, "compatibility": compatibility}
        return torch.func.functional_call(layer, given, (unaries, image))

    assert torch.autograd.gradcheck(run, (unaries, named["weights"], named["compatibility"]))


def test_half_precision_ends_before_the_mean_field(images):
    network = SPEC.build(1, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert network(images).dtype == torch.float32


def test_the_loss_reaches_unet_and_rnn(images):
    network = SPEC.build(1, 3)
    cross_entropy(network(images), torch.randint(0, 3, (3, 16, 16))).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.rnn.parameters())
    assert network.unet.head[0].weight.grad.abs().sum() > 0


def test_ten_updates_of_the_unet_then_one_of_the_rnn_alone(images, tmp_path):
    spec = replace(SPEC, unet_updates=2)
    labels = np.random.default_rng(0).integers(0, 3, (3, 16, 16)).astype(np.uint8)

    def state(iterations):
        torch.manual_seed(0)
        network = spec.build(1, 3)
        m_step(
            Fabric(accelerator="cpu", devices=1), network, images.numpy(), labels, Training(batch=3), Augment(),
            iterations, (0, 0), tmp_path / f"{iterations}.ckpt", lambda record: None,
        )  # fmt: skip
        return dict(network.named_parameters())

    changed = []
    before = state(1)
    for iterations in (2, 3, 4):
        after = state(iterations)
        changed.append({name.split(".")[0] for name in before if not torch.equal(before[name], after[name])})
        before = after
    assert changed == [{"unet"}, {"rnn"}, {"unet"}]


def test_the_rnn_learns_at_its_own_rate(images, tmp_path):
    torch.manual_seed(0)
    network = replace(SPEC, unet_updates=1, rnn_learning_rate=1e-3).build(1, 3)
    weights = network.rnn.weights.detach().clone()
    labels = np.random.default_rng(0).integers(0, 3, (3, 16, 16)).astype(np.uint8)
    m_step(
        Fabric(accelerator="cpu", devices=1), network, images.numpy(), labels, Training(batch=3), Augment(),
        2, (0, 0), tmp_path / "m_step.ckpt", lambda record: None,
    )  # fmt: skip
    # Adam's first step is the learning rate in every coordinate.
    torch.testing.assert_close((network.rnn.weights - weights).abs().max().item(), 1e-3, atol=1e-4, rtol=0)


def test_distances_in_millimetres_become_pixels():
    spec = in_pixels(replace(SPEC, unit="mm"), 2.0)
    assert (spec.sigma_alpha, spec.sigma_gamma, spec.sigma_beta, spec.unit) == (10.0, 1.0, 0.05, "px")
    assert isinstance(spec, CRFRNN)
    assert in_pixels(spec, 3.0) is spec
    assert in_pixels(spec.unet, 2.0) is spec.unet
    with pytest.raises(ValueError, match="expected distances in pixels"):
        replace(SPEC, unit="mm").filters(torch.zeros(1, 1, 4, 4))
