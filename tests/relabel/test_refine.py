"""Refinement leaves probabilities, seeds and slices what they are, and moves borders to edges."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from scribbleseg.crf.kernels import Kernels, unit_range
from scribbleseg.data.dimensions import parts
from scribbleseg.relabel.refine import SMALLEST, DenseCRF, Identity
from scribbleseg.types import UNLABELLED

CRF = DenseCRF(w1=5.0, w2=10.0, sigma_alpha=2.0, sigma_beta=0.1, sigma_gamma=5.0)
CPU = torch.device("cpu")


def free(images):
    return np.full((len(images), *images.shape[2:]), UNLABELLED, np.uint8)


def step_edge(border=6):
    """An image with an edge, and a network that puts the border two pixels off it."""
    image = np.zeros((1, 1, 12, 12), np.float32)
    image[..., 6:] = 100.0
    likely = np.full((1, 2, 12, 12), 0.2, np.float32)
    likely[:, 0, :, :border] = likely[:, 1, :, border:] = 0.8
    return image, likely


def slow_mean_field(image, likely, seeds, crf, sides=(1, 1)):
    """Every pair of pixels in a loop, in float64; symmetric normalisation; synchronous updates."""
    labels = len(likely)
    places = list(np.ndindex(image.shape))
    intensity = (image - image.min()) / (image.max() - image.min())

    def kernel(a, b, sigma, sigma_intensity):
        distance = sum(((i - j) * side) ** 2 for i, j, side in zip(a, b, sides, strict=True))
        exponent = distance / (2 * sigma**2)
        if sigma_intensity:
            exponent += (intensity[a] - intensity[b]) ** 2 / (2 * sigma_intensity**2)
        return np.exp(-exponent)

    total = np.zeros((len(places), len(places)))
    for weight, sigma, sigma_intensity in ((crf.w1, crf.sigma_alpha, crf.sigma_beta), (crf.w2, crf.sigma_gamma, None)):
        k = np.array([[kernel(a, b, sigma, sigma_intensity) for b in places] for a in places])
        norm = 1 / np.sqrt(k.sum(axis=1))
        total += weight * norm[:, None] * k * norm
    unary = np.log(np.maximum(likely, SMALLEST)).reshape(labels, -1).astype(np.float64)
    known = seeds.reshape(-1) != UNLABELLED

    def normalise(logits):
        q = np.exp(logits - logits.max(axis=0))
        q /= q.sum(axis=0)
        q[:, known] = np.eye(labels)[:, seeds.reshape(-1)[known]]
        return q

    q = normalise(unary)
    for _ in range(crf.iterations):
        q = normalise(unary + q @ total)
    return q.reshape(likely.shape)


def test_equals_the_loop_over_all_pairs():
    rng = np.random.default_rng(0)
    crf = DenseCRF(w1=0.5, w2=0.7, sigma_alpha=2.0, sigma_beta=0.2, sigma_gamma=3.0, iterations=4, tolerance=1e-9)
    images = rng.normal(size=(2, 1, 7, 7)).astype(np.float32)
    likely = rng.dirichlet(np.ones(3), (2, 7, 7)).astype(np.float32).transpose(0, 3, 1, 2)
    seeds = free(images)
    seeds[0, 1:3, 1:3] = 2
    refined = crf(likely, images, seeds, CPU)
    expected = [slow_mean_field(images[i, 0], likely[i], seeds[i], crf) for i in range(2)]
    np.testing.assert_allclose(refined, expected, atol=2e-3)  # the fast filter's own error


def volume(seed, slices=3, side=5):
    """Random intensities, probabilities of three labels and some seeds, in a stack of slices."""
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(slices, 1, side, side)).astype(np.float32)
    likely = rng.dirichlet(np.ones(3), (slices, side, side)).astype(np.float32).transpose(0, 3, 1, 2)
    seeds = free(images)
    seeds[0, 1:3, 1:3] = 2
    return likely, images, seeds


SOLID = DenseCRF(
    w1=0.5, w2=0.7, sigma_alpha=2.0, sigma_beta=0.2, sigma_gamma=3.0, iterations=4, tolerance=1e-9, dimensions=3
)


@pytest.mark.parametrize("depth_px", [1.0, 2.5])
def test_in_3d_it_equals_the_loop_over_all_pairs_of_the_volume(depth_px):
    likely, images, seeds = volume(0)
    refined = SOLID(likely, images, seeds, CPU, depth_px)
    expected = slow_mean_field(images[:, 0], likely.swapaxes(0, 1), seeds, SOLID, (depth_px, 1, 1))
    np.testing.assert_allclose(refined, expected.swapaxes(0, 1), atol=2e-3)
    assert (refined[:, 2][seeds == 2] == 1).all()


def test_in_3d_slices_that_are_far_apart_are_as_in_2d():
    likely, images, seeds = volume(1)
    images[:, :, 0, 0], images[:, :, 0, 1] = -5, 5  # the same range in each slice
    far = SOLID(likely, images, seeds, CPU, 1000.0)
    np.testing.assert_allclose(far, replace(SOLID, dimensions=2)(likely, images, seeds, CPU), atol=2e-3)
    assert abs(far - SOLID(likely, images, seeds, CPU)).max() > 0.05


def test_in_3d_a_seed_persuades_the_slice_above():
    images = np.zeros((2, 1, 8, 8), np.float32)
    likely = np.full((2, 2, 8, 8), 0.5, np.float32)
    seeds = free(images)
    seeds[0] = 1
    flat, solid = (replace(CRF, dimensions=n)(likely, images, seeds, CPU, 2.0) for n in (2, 3))
    assert (solid[1, 1] > 0.9).all()
    np.testing.assert_allclose(flat[1, 1], 0.5, atol=1e-6)


def test_in_3d_a_large_volume_is_refined_in_parts_that_fit_together(monkeypatch):
    likely, images, seeds = volume(2, slices=27, side=6)
    images[0, 0, 0, :2] = images[-1, 0, 0, :2] = -5, 5
    whole = SOLID(likely, images, seeds, CPU, 3.0)
    monkeypatch.setattr("scribbleseg.data.dimensions.VOXELS", 12 * 36)
    assert len(list(parts(27, 36))) > 3
    in_parts = SOLID(likely, images, seeds, CPU, 3.0)
    assert abs(in_parts - whole).mean() < 0.01
    assert (in_parts.argmax(axis=1) == whole.argmax(axis=1)).mean() > 0.98


def test_the_border_moves_to_the_edge():
    images, likely = step_edge(border=8)
    contrast = replace(CRF, w1=10.0, w2=1.0)
    assert (contrast(likely, images, free(images), CPU).argmax(axis=1) == (images[:, 0] > 50)).all()
    weak = replace(CRF, w1=0.0, w2=0.0)
    np.testing.assert_allclose(weak(likely, images, free(images), CPU), likely, atol=1e-6)


def test_seeds_stay_and_persuade_their_neighbours():
    images, likely = step_edge()
    seeds = free(images)
    seeds[0, 2:6, 2:4] = 1
    refined = CRF(likely, images, seeds, CPU)
    assert (refined[0, 1, 2:6, 2:4] == 1).all()
    assert refined[0, 1, 4, 4] > CRF(likely, images, free(images), CPU)[0, 1, 4, 4]


def test_all_clamped_and_a_single_class_and_a_constant_image():
    images, likely = step_edge()
    seeds = np.ones((1, 12, 12), np.uint8)
    assert (CRF(likely, images, seeds, CPU)[:, 1] == 1).all()
    sure = np.stack([np.ones((1, 12, 12)), np.zeros((1, 12, 12))], 1).astype(np.float32)
    assert (CRF(sure, images, free(images), CPU).argmax(axis=1) == 0).all()
    assert np.isfinite(CRF(likely, np.full_like(images, 7.0), free(images), CPU)).all()


def test_no_slices_give_no_slices():
    nothing = np.zeros((0, 2, 8, 8), np.float32)
    for crf in (CRF, replace(CRF, dimensions=3)):
        assert crf(nothing, nothing[:, :1], np.zeros((0, 8, 8), np.uint8), CPU).shape == (0, 2, 8, 8)


def test_nan_is_refused():
    images, likely = step_edge()
    likely[0, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        CRF(likely, images, free(images), CPU)


@settings(max_examples=20, deadline=None)
@given(arrays(np.float32, (20, 3, 5, 5), elements=st.floats(0, 1, width=32)), st.integers(0, 2**31))
def test_probabilities_in_probabilities_out_in_batches_as_one_by_one(raw, seed):
    likely = (raw + np.float32(1e-3)) / (raw + np.float32(1e-3)).sum(axis=1, keepdims=True)
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(20, 1, 5, 5)).astype(np.float32)
    seeds = rng.choice([0, 1, 2, UNLABELLED], (20, 5, 5)).astype(np.uint8)
    fixed = DenseCRF(w1=1.0, w2=1.0, sigma_alpha=2.0, sigma_beta=0.1, sigma_gamma=2.0, iterations=3, tolerance=1e-9)
    refined = fixed(likely, images, seeds, CPU)
    np.testing.assert_allclose(refined.sum(axis=1), 1, atol=1e-5)
    one = fixed(likely[17:18], images[17:18], seeds[17:18], CPU)
    np.testing.assert_allclose(refined[17:18], one, atol=1e-3)


def test_identity_is_identity():
    images, likely = step_edge()
    assert Identity()(likely, images, free(images), CPU) is likely


def test_unit_range():
    images = torch.tensor([[[2.0, 4.0, 6.0]], [[5.0, 5.0, 5.0]]])
    assert unit_range(images).tolist() == [[[0.0, 0.5, 1.0]], [[0.0, 0.0, 0.0]]]


def test_sigma_not_positive_is_refused():
    with pytest.raises(ValueError, match="sigma"):
        Kernels(1.0, 1.0, 0.0, 0.1, 1.0).filters(torch.zeros(1, 1, 4, 4))
