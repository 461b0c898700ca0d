import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scribbleseg.crf.gaussian import Dense
from scribbleseg.crf.kernels import in_pixels
from scribbleseg.train.crf_loss import DenseCRFLoss

LOSS = DenseCRFLoss(alpha=2.0, channels=(0, 2), sigma_space=2.5, sigma_intensity=0.7)


@pytest.fixture
def batch():
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 6, 4, generator=random, dtype=torch.float64)
    images = torch.randn(2, 4, 6, 4, generator=random, dtype=torch.float64)
    return logits, images


def double_loop(loss, logits, images):
    """The docstring's formula, one pair of pixels after the other."""
    total, (batch, labels, height, width) = 0.0, logits.shape
    pixels = [(y, x) for y in range(height) for x in range(width)]
    for n in range(batch):
        p = logits[n].softmax(0)
        for yi, xi in pixels:
            for yj, xj in pixels:
                space = ((yi - yj) ** 2 + (xi - xj) ** 2) / (2 * loss.sigma_space**2)
                difference = sum(float(images[n, c, yi, xi] - images[n, c, yj, xj]) ** 2 for c in loss.channels)
                weight = math.exp(-space - difference / (2 * loss.sigma_intensity**2))
                total += sum(float(p[k, yi, xi] * (1 - p[k, yj, xj])) for k in range(labels)) * weight
    return loss.alpha * total / (batch * len(pixels) ** 2)


def dense_sum(loss, logits, images):
    """The same with all pairs at once, for torch to differentiate."""
    y = logits.softmax(1).flatten(2)
    axes = [torch.arange(n).to(images) for n in images.shape[2:]]
    positions = torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1).T
    space = (positions[:, None] - positions).square().sum(-1) / (2 * loss.sigma_space**2)
    flat = images[:, list(loss.channels)].flatten(2)
    intensity = (flat.unsqueeze(3) - flat.unsqueeze(2)).square().sum(1) / (2 * loss.sigma_intensity**2)
    return loss.alpha * torch.einsum("bki,bij,bkj->bij", y, torch.exp(-space - intensity), 1 - y).mean()


def test_equals_the_double_loop(batch):
    assert float(LOSS(*batch)) == pytest.approx(double_loop(LOSS, *batch), rel=1e-12)


@pytest.mark.parametrize("tile", [1, 7, 24])
def test_value_and_gradient_equal_those_of_the_dense_sum(batch, tile, monkeypatch):
    monkeypatch.setattr(Dense, "TILE", tile)
    logits, images = batch
    logits.requires_grad_()
    (found,) = torch.autograd.grad(LOSS(logits, images), logits)
    (expected,) = torch.autograd.grad(dense_sum(LOSS, logits, images), logits)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(LOSS(logits, images), dense_sum(LOSS, logits, images), rtol=1e-12, atol=0)


@pytest.mark.parametrize("scale", [1, 2])
def test_gradcheck(batch, scale):
    logits, images = batch
    loss = DenseCRFLoss(alpha=100.0, channels=(0, 3), sigma_space=3.0, sigma_intensity=1.0, scale=scale)
    assert torch.autograd.gradcheck(lambda x: loss(x, images), logits.requires_grad_())


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), sigma_space=st.floats(0.5, 100), sigma_intensity=st.floats(0.05, 10))
def test_is_between_0_and_what_a_wholly_alike_slice_gives(seed, sigma_space, sigma_intensity):
    random = torch.Generator().manual_seed(seed)
    logits, images = (3 * torch.randn(1, 3, 5, 5, generator=random) for _ in range(2))
    loss = DenseCRFLoss(alpha=1.0, channels=(0, 1), sigma_space=sigma_space, sigma_intensity=sigma_intensity)
    y = logits.softmax(1).mean((0, 2, 3))
    alike = float((y * (1 - y)).sum())  # W = 1 everywhere
    assert 0 <= float(loss(logits, images)) <= alike * (1 + 1e-5)


def test_one_label_everywhere_costs_nothing(batch):
    logits, images = batch
    one = torch.full_like(logits, -1e3)
    one[:, 1] = 1e3
    assert float(LOSS(one, images)) == 0


def test_a_border_on_an_edge_costs_less_than_beside_it():
    image = torch.zeros(1, 1, 8, 8)
    image[..., 4:] = 1.0
    loss = DenseCRFLoss(channels=(0,), sigma_space=4.0, sigma_intensity=0.2)

    def split(column):
        right = torch.arange(8).expand(1, 1, 8, 8) >= column
        return float(loss(torch.cat([~right, right], 1) * 20.0, image))

    costs = [split(column) for column in range(1, 8)]
    assert costs.index(min(costs)) == 3


def test_the_mean_over_pairs_does_not_depend_on_the_grid(batch):
    logits, images = batch
    fine = [x.repeat_interleave(2, 2).repeat_interleave(2, 3) for x in batch]
    wide = DenseCRFLoss(alpha=1.0, channels=(0, 2), sigma_space=1e6, sigma_intensity=0.7)
    torch.testing.assert_close(wide(*fine), wide(logits, images))
    assert LOSS(torch.cat([logits, logits]), torch.cat([images, images])) == pytest.approx(float(LOSS(logits, images)))


def test_scale_is_the_loss_of_averaged_slices_with_the_same_reach(batch):
    logits, images = batch
    fine = [x.repeat_interleave(2, 2).repeat_interleave(2, 3) for x in batch]
    halved = DenseCRFLoss(alpha=2.0, channels=(0, 2), sigma_space=5.0, sigma_intensity=0.7, scale=2)
    torch.testing.assert_close(halved(*fine), LOSS(logits, images))


def test_is_float32_under_autocast(batch):
    logits, images = (x.float() for x in batch)
    with torch.autocast("cpu", torch.bfloat16):
        loss = LOSS(logits.bfloat16(), images)
    assert loss.dtype == torch.float32
    assert float(loss) == float(LOSS(logits.bfloat16().float(), images))


def test_an_empty_batch_costs_nothing():
    loss = LOSS(torch.zeros(0, 2, 4, 4, requires_grad=True), torch.zeros(0, 4, 4, 4))
    loss.backward()
    assert float(loss.detach()) == 0


def test_distances_in_millimetres_become_pixels(batch):
    loss = DenseCRFLoss(sigma_space=30.0, unit="mm")
    with pytest.raises(ValueError, match="in pixels, got mm"):
        loss(*batch)
    assert in_pixels(loss, 2.0) == DenseCRFLoss(sigma_space=15.0, unit="px")


def test_refuses_channels_that_are_not_there(batch):
    logits, images = batch
    with pytest.raises(ValueError, match=r"channels below 3, the images', got \(0, 2, 3\)"):
        DenseCRFLoss(channels=(0, 2, 3))(logits, images[:, :3])


def test_refuses_sides_that_scale_does_not_divide(batch):
    with pytest.raises(ValueError, match=r"scale 4 divides, got \(6, 4\)"):
        DenseCRFLoss(scale=4)(*batch)
