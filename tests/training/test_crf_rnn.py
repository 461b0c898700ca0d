"""The CRF-RNN is a U-Net under mean field, and is trained by turns."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from scribbleseg.crf.kernels import in_pixels, unit_range
from scribbleseg.crf.mean_field import mean_field
from scribbleseg.training.crf_rnn import CRFRNN, MeanFieldLayer
from scribbleseg.training.loop import Training
from scribbleseg.training.optimisers import Adam
from scribbleseg.training.unet import UNet

SPEC = CRFRNN(
    w1=5.0, w2=10.0, sigma_alpha=20.0, sigma_beta=0.05, sigma_gamma=2.0, unaries=UNet(base=4, padded=True), iterations=3
)


@pytest.fixture
def images():
    return torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))


def test_it_is_the_unet_under_mean_field_at_the_same_weights(images):
    network = SPEC.build(1, 3).eval()
    expected = mean_field(network.unaries(images), SPEC.filters(unit_range(images)), (5.0, 10.0), iterations=3)
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
    assert network.unaries.head[0].weight.grad.abs().sum() > 0


@pytest.fixture
def slices(images, make_slices):
    return make_slices(images.numpy(), np.random.default_rng(0).integers(0, 3, (3, 16, 16)).astype(np.uint8))


def test_ten_updates_of_the_network_inside_then_one_of_the_rnn_alone(slices, train):
    spec = replace(SPEC, network_updates=2)

    def state(iterations):
        torch.manual_seed(0)
        network = spec.build(1, 3)
        train(network, Training(iterations=iterations, batch=3), slices, name=str(iterations))
        return dict(network.named_parameters())

    changed = []
    before = state(1)
    for iterations in (2, 3, 4):
        after = state(iterations)
        changed.append({name.split(".")[0] for name in before if not torch.equal(before[name], after[name])})
        before = after
    assert changed == [{"unaries"}, {"rnn"}, {"unaries"}]
    assert SPEC.network_updates == 10


def test_the_rnn_learns_at_its_own_rate(slices, train):
    torch.manual_seed(0)
    network = replace(SPEC, network_updates=1, rnn_learning_rate=1e-3).build(1, 3)
    weights = network.rnn.weights.detach().clone()
    train(network, Training(iterations=2, batch=3), slices)
    # Adam's first step is the learning rate in every coordinate.
    torch.testing.assert_close((network.rnn.weights - weights).abs().max().item(), 1e-3, atol=1e-4, rtol=0)


def statistics(network):
    return {name: value.clone() for name, value in network.unaries.named_buffers()}


def test_the_rnns_turn_does_not_move_the_batch_statistics_of_the_network_inside(slices, train):
    spec = replace(SPEC, network_updates=2)

    def after(iterations):
        torch.manual_seed(0)
        network = spec.build(1, 3)
        train(network, Training(iterations=iterations, batch=2), slices, name=f"statistics_{iterations}")
        return statistics(network)

    second, third, fourth = after(2), after(3), after(4)
    assert any(name.endswith("running_mean") for name in second)
    for name, value in second.items():
        assert torch.equal(third[name], value), name  # the third update is the RNN's
        assert not torch.equal(fourth[name], value), name


def test_in_the_rnns_turn_the_network_inside_gives_what_it_gives_in_use(slices, train, monkeypatch):
    network = replace(SPEC, network_updates=1).build(1, 3)
    seen, forward = [], MeanFieldLayer.forward

    def spy(self, unaries, image):
        with torch.no_grad():
            in_use = deepcopy(network.unaries).eval()(image)
        seen.append(torch.allclose(unaries, in_use, atol=1e-4))
        return forward(self, unaries, image)

    monkeypatch.setattr(MeanFieldLayer, "forward", spy)
    train(network, Training(iterations=6, batch=2), slices)
    assert seen == [False, True] * 3


def test_the_schedule_decays_the_network_inside_and_never_the_rnn(slices, train, monkeypatch):
    rates, step = [], torch.optim.Adam.step

    def spy(self, *args):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args)

    monkeypatch.setattr(torch.optim.Adam, "step", spy)
    network = replace(SPEC, network_updates=2).build(1, 3)
    halved = Adam(learning_rate=0.001, decay=0.5, decay_every=1)
    train(network, Training(iterations=9, batch=2, optimiser=halved), slices, start=3, span=12)
    # Section 2.3: "updated with a learning rate of 10^-7", which no sentence decays.
    expected = [0.001 * 0.5 ** (3 + i) if i % 3 < 2 else 1e-7 for i in range(9)]
    assert rates == pytest.approx(expected, rel=1e-9)


def test_weights_of_a_network_that_is_in_no_crf_rnn_are_refused():
    network = SPEC.build(1, 3)
    with pytest.raises(ValueError, match="expected weights of"):
        SPEC.start_from(network, SPEC.unaries.build(1, 3).state_dict())


def test_distances_in_millimetres_become_pixels():
    spec = in_pixels(replace(SPEC, unit="mm"), 2.0)
    assert (spec.sigma_alpha, spec.sigma_gamma, spec.sigma_beta, spec.unit) == (10.0, 1.0, 0.05, "px")
    assert isinstance(spec, CRFRNN)
    assert in_pixels(spec, 3.0) is spec
    assert in_pixels(spec.unaries, 2.0) is spec.unaries
    with pytest.raises(ValueError, match="expected distances in pixels"):
        replace(SPEC, unit="mm").filters(torch.zeros(1, 1, 4, 4))
