"""The dense CRF loss against the double loop over pairs of pixels that show the image."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scribbleseg.crf.kernels import in_pixels
from scribbleseg.crf.pairs import Dense
from scribbleseg.training.batch import Batch
from scribbleseg.training.crf_loss import DenseCRFLoss
from scribbleseg.types import UNLABELLED

LOSS = DenseCRFLoss(alpha=2.0, channels=(0, 2), sigma_space=2.5, sigma_intensity=0.7)


@pytest.fixture
def batch():
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 6, 4, generator=random, dtype=torch.float64)
    images = torch.randn(2, 4, 6, 4, generator=random, dtype=torch.float64)
    return logits, images


def seen(images, inside=None):
    """A batch of these clean images; what the network sees of them is noise."""
    n, _, *space = images.shape
    inside = torch.ones(n, *space, dtype=torch.bool) if inside is None else inside
    labels = torch.full((n, *space), UNLABELLED, dtype=torch.uint8)
    return Batch(images=torch.randn_like(images), labels=labels, clean=images, inside=inside)


@pytest.fixture
def inside():
    """Of the fixture `batch`: squares of 2 x 2 that are whole, in part and not at all inside."""
    inside = torch.ones(2, 6, 4, dtype=torch.bool)
    inside[0, :2, :2] = False
    inside[0, 3, 1] = inside[0, 4, 3] = False
    inside[1, 4:] = False
    inside[1, 0, 1:4] = False
    return inside


def double_loop(loss, logits, images, inside=None):
    """The docstring's formula, one pair of pixels after the other."""
    total, (batch, labels, height, width) = 0.0, logits.shape
    pixels = [(y, x) for y in range(height) for x in range(width)]
    for n in range(batch):
        p = logits[n].softmax(0)
        shown = [(y, x) for y, x in pixels if inside is None or inside[n, y, x]]
        for yi, xi in shown:
            for yj, xj in shown:
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
    assert float(LOSS(batch[0], seen(batch[1]))) == pytest.approx(double_loop(LOSS, *batch), rel=1e-12)


@pytest.mark.parametrize("tile", [1, 7, 24])
def test_value_and_gradient_equal_those_of_the_dense_sum(batch, tile, monkeypatch):
    monkeypatch.setattr(Dense, "TILE", tile)
    logits, images = batch
    logits.requires_grad_()
    (found,) = torch.autograd.grad(LOSS(logits, seen(images)), logits)
    (expected,) = torch.autograd.grad(dense_sum(LOSS, logits, images), logits)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(LOSS(logits, seen(images)), dense_sum(LOSS, logits, images), rtol=1e-12, atol=0)


@pytest.mark.parametrize("scale", [1, 2])
def test_gradcheck(batch, inside, scale):
    logits, images = batch
    loss = DenseCRFLoss(alpha=100.0, channels=(0, 3), sigma_space=3.0, sigma_intensity=1.0, scale=scale)
    assert torch.autograd.gradcheck(lambda x: loss(x, seen(images, inside)), logits.requires_grad_())


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), sigma_space=st.floats(0.5, 100), sigma_intensity=st.floats(0.05, 10))
def test_is_between_0_and_what_a_wholly_alike_slice_gives(seed, sigma_space, sigma_intensity):
    random = torch.Generator().manual_seed(seed)
    logits, images = (3 * torch.randn(1, 3, 5, 5, generator=random) for _ in range(2))
    loss = DenseCRFLoss(alpha=1.0, channels=(0, 1), sigma_space=sigma_space, sigma_intensity=sigma_intensity)
    y = logits.softmax(1).mean((0, 2, 3))
    alike = float((y * (1 - y)).sum())  # W = 1 everywhere
    assert 0 <= float(loss(logits, seen(images))) <= alike * (1 + 1e-5)


def test_one_label_everywhere_costs_nothing(batch):
    logits, images = batch
    one = torch.full_like(logits, -1e3)
    one[:, 1] = 1e3
    assert float(LOSS(one, seen(images))) == 0


def test_a_border_on_an_edge_costs_less_than_beside_it():
    image = torch.zeros(1, 1, 8, 8)
    image[..., 4:] = 1.0
    loss = DenseCRFLoss(channels=(0,), sigma_space=4.0, sigma_intensity=0.2)

    def split(column):
        right = torch.arange(8).expand(1, 1, 8, 8) >= column
        return float(loss(torch.cat([~right, right], 1) * 20.0, seen(image)))

    costs = [split(column) for column in range(1, 8)]
    assert costs.index(min(costs)) == 3


def test_the_mean_over_pairs_does_not_depend_on_the_grid(batch):
    logits, images = batch
    fine, fine_images = (x.repeat_interleave(2, 2).repeat_interleave(2, 3) for x in batch)
    wide = DenseCRFLoss(alpha=1.0, channels=(0, 2), sigma_space=1e6, sigma_intensity=0.7)
    torch.testing.assert_close(wide(fine, seen(fine_images)), wide(logits, seen(images)))
    twice = LOSS(torch.cat([logits, logits]), seen(torch.cat([images, images])))
    assert twice == pytest.approx(float(LOSS(logits, seen(images))))


def test_scale_is_the_loss_of_averaged_slices_with_the_same_reach(batch):
    logits, images = batch
    fine, fine_images = (x.repeat_interleave(2, 2).repeat_interleave(2, 3) for x in batch)
    halved = DenseCRFLoss(alpha=2.0, channels=(0, 2), sigma_space=5.0, sigma_intensity=0.7, scale=2)
    torch.testing.assert_close(halved(fine, seen(fine_images)), LOSS(logits, seen(images)))


def test_is_float32_under_autocast(batch):
    logits, images = (x.float() for x in batch)
    with torch.autocast("cpu", torch.bfloat16):
        loss = LOSS(logits.bfloat16(), seen(images))
    assert loss.dtype == torch.float32
    assert float(loss) == float(LOSS(logits.bfloat16().float(), seen(images)))


def test_an_empty_batch_costs_nothing():
    loss = LOSS(torch.zeros(0, 2, 4, 4, requires_grad=True), seen(torch.zeros(0, 4, 4, 4)))
    loss.backward()
    assert float(loss.detach()) == 0


def test_distances_in_millimetres_become_pixels(batch):
    loss = DenseCRFLoss(sigma_space=30.0, unit="mm")
    with pytest.raises(ValueError, match="in pixels, got mm"):
        loss(batch[0], seen(batch[1]))
    assert in_pixels(loss, 2.0) == DenseCRFLoss(sigma_space=15.0, unit="px")


def test_refuses_channels_that_are_not_there(batch):
    logits, images = batch
    with pytest.raises(ValueError, match=r"channels below 3, the images', got \(0, 2, 3\)"):
        DenseCRFLoss(channels=(0, 2, 3))(logits, seen(images[:, :3]))


def test_refuses_sides_that_scale_does_not_divide(batch):
    with pytest.raises(ValueError, match=r"scale 4 divides, got \(6, 4\)"):
        DenseCRFLoss(scale=4)(batch[0], seen(batch[1]))


def test_only_pairs_inside_count_and_the_mean_is_over_all_pairs(batch, inside):
    logits, images = batch
    assert float(LOSS(logits, seen(images, inside))) == pytest.approx(
        double_loop(LOSS, logits, images, inside), rel=1e-12
    )
    assert double_loop(LOSS, logits, images, inside) < 0.9 * double_loop(LOSS, logits, images)


def pooled_sum(loss, logits, images, inside):
    """The loss on squares, one square after the other and all pairs at once, for torch to differentiate.

    The weight of a square is the share of it that is inside, its values are the means over these pixels; squares of
    which nothing is inside are left out.
    """
    (n, _, height, width), side = logits.shape, loss.scale
    y, total = logits.softmax(1), 0.0
    for i in range(n):
        places, weights, labels, intensities = [], [], [], []
        for top in range(0, height, side):
            for left in range(0, width, side):
                square = (i, ..., slice(top, top + side), slice(left, left + side))
                shown = inside[square]
                if shown.any():
                    places.append((top / side, left / side))
                    weights.append(float(shown.double().mean()))
                    labels.append(y[square][:, shown].mean(1))
                    intensities.append(images[square][list(loss.channels)][:, shown].mean(1))
        y_of, seen_of = torch.stack(labels), torch.stack(intensities)
        place, weight = torch.tensor(places).to(images), torch.tensor(weights).to(images)
        space = (place[:, None] - place).square().sum(-1) / (2 * (loss.sigma_space / side) ** 2)
        intensity = (seen_of[:, None] - seen_of).square().sum(-1) / (2 * loss.sigma_intensity**2)
        pairs = torch.exp(-space - intensity) * weight[:, None] * weight
        total = total + torch.einsum("ik,ij,jk->", y_of, pairs, 1 - y_of)
    return loss.alpha * total / (n * (height * width / side**2) ** 2)


@pytest.mark.parametrize("scale", [1, 2])
def test_value_and_gradient_inside_equal_those_of_the_weighted_sum_over_squares(batch, inside, scale):
    loss = replace(LOSS, scale=scale)
    logits, images = batch
    logits.requires_grad_()
    found, expected = loss(logits, seen(images, inside)), pooled_sum(loss, logits, images, inside)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)
    (gradient,) = torch.autograd.grad(found, logits)
    (slow_gradient,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(gradient, slow_gradient, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("scale", [1, 2])
def test_pixels_outside_have_no_gradient_and_no_say(batch, inside, scale):
    loss = replace(LOSS, scale=scale)
    logits, images = batch
    logits.requires_grad_()
    value = loss(logits, seen(images, inside))
    (gradient,) = torch.autograd.grad(value, logits)
    touched = gradient.abs().sum(1) > 0
    assert not touched[~inside].any()
    assert touched[inside].all()
    outside = ~inside[:, None]
    other_logits = torch.where(outside, torch.randn_like(logits), logits)
    other_images = torch.where(outside, torch.randn_like(images), images)
    torch.testing.assert_close(loss(other_logits, seen(other_images, inside)), value, rtol=1e-12, atol=0)


def test_slices_of_which_nothing_is_inside_cost_nothing(batch):
    logits, images = batch
    logits.requires_grad_()
    value = LOSS(logits, seen(images, torch.zeros(2, 6, 4, dtype=torch.bool)))
    value.backward()
    assert float(value.detach()) == 0
    assert (logits.grad == 0).all()


def test_intensities_are_compared_as_they_are_without_noise(batch):
    logits, images = batch
    whole = seen(images)
    noisy = replace(whole, images=3 * images + torch.randn_like(images))
    assert LOSS(logits, noisy) == LOSS(logits, whole)
    assert LOSS(logits, replace(whole, clean=3 * images)) != LOSS(logits, whole)
