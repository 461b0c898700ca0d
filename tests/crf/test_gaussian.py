import itertools
import math

import pytest
import torch

from scribbleseg.crf import gaussian_filter


def double_loop(values, sigma_space, images=None, sigma_intensity=None, normalise=True):
    """Eq. 6 as written: every pixel with every pixel, itself included."""
    shape = values.shape[2:]
    pixels = list(itertools.product(*map(range, shape)))
    result = torch.zeros_like(values)
    for b in range(len(values)):
        kernel = torch.zeros(len(pixels), len(pixels), dtype=torch.float64)
        for i, p in enumerate(pixels):
            for j, q in enumerate(pixels):
                exponent = sum(((x - y) / s) ** 2 for x, y, s in zip(p, q, sigma_space, strict=True))
                if images is not None:
                    for channel, s in zip(images[b], sigma_intensity, strict=True):
                        exponent += ((float(channel[p]) - float(channel[q])) / s) ** 2
                kernel[i, j] = math.exp(-exponent / 2)
        if normalise:
            scale = kernel.sum(0).rsqrt()
            kernel = scale[:, None] * kernel * scale
        result[b] = (values[b].flatten(1) @ kernel).view_as(values[b])
    return result


def random_case(shape, channels=1, batch=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(batch, channels, *shape, generator=generator, dtype=dtype)
    return images, torch.rand(batch, 3, *shape, generator=generator, dtype=dtype)


ONE_CHANNEL = ["low_rank", "window", "grid", "nystroem", "dense"]


@pytest.mark.parametrize("shape", [(7, 9), (3, 4, 5)])
@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("method", [*ONE_CHANNEL, "auto"])
def test_is_the_double_loop(shape, normalise, method):
    images, values = random_case(shape)
    sigma_space = (2.0, 3.0, 2.5)[: len(shape)]
    expected = double_loop(values, sigma_space, images, [0.2], normalise)
    how = {"method": method, "normalisation": "symmetric" if normalise else "none", "tolerance": 1e-9}
    built = gaussian_filter(shape, sigma_space, images, 0.2, **how)
    # Interpolation between intensity bins is what costs the grid its digits.
    relative = 2e-3 if method in ("grid", "auto") else 1e-5
    assert (built(values) - expected).abs().max() < relative * expected.max()


@pytest.mark.parametrize("method", [*ONE_CHANNEL, "separable"])
def test_its_error_is_near_the_tolerance(method):
    images, values = random_case((40, 50))
    kernel = {} if method == "separable" else {"images": images, "sigma_intensity": 0.2}
    wide = 30.0 if method in ("grid", "nystroem") else 3.0
    exact = gaussian_filter((40, 50), wide, **kernel, tolerance=1e-10, method="separable" if not kernel else "low_rank")
    found = gaussian_filter((40, 50), wide, **kernel, method=method)
    assert (found(values) - exact(values)).abs().max() < 5e-3


@pytest.mark.parametrize("method", [*ONE_CHANNEL, "separable"])
def test_crop_is_the_filter_of_values_in_a_box_read_there(method):
    images, values = random_case((14, 15))
    kernel = {} if method == "separable" else {"images": images, "sigma_intensity": 0.2, "method": method}
    built = gaussian_filter((14, 15), 2.0, **kernel)
    at = (..., slice(3, 11), slice(6, 15))
    inside = torch.zeros_like(values)
    inside[at] = values[at]
    cropped = built.crop(at[1:])
    torch.testing.assert_close(cropped(values[at]), built(inside)[at])
    within = (slice(1, 7), slice(0, 5))
    nested = (..., slice(4, 10), slice(6, 11))
    inside = torch.zeros_like(values)
    inside[nested] = values[nested]
    torch.testing.assert_close(cropped.crop(within)(values[nested]), built(inside)[nested])


@pytest.mark.parametrize("shape", [(11,), (7, 9), (3, 4, 5), (2, 140)])
@pytest.mark.parametrize("normalise", [True, False])
def test_position_alone_is_the_double_loop(shape, normalise):
    _, values = random_case(shape)
    sigma = (1.5, 4.0, 2.0)[: len(shape)]
    found = gaussian_filter(shape, sigma, normalisation="symmetric" if normalise else "none", tolerance=1e-12)(values)
    torch.testing.assert_close(found, double_loop(values, sigma, normalise=normalise))


@pytest.mark.parametrize("method", ["window", "nystroem", "dense", "auto"])
def test_several_channels_are_the_double_loop(method):
    images, values = random_case((6, 7), channels=3)
    expected = double_loop(values, (9.0, 9.0), images, [0.3, 0.5, 0.4])
    found = gaussian_filter((6, 7), 9.0, images, [0.3, 0.5, 0.4], method=method)(values)
    assert (found - expected).abs().max() < 1e-4


@pytest.mark.parametrize("method", [*ONE_CHANNEL, "auto"])
def test_its_gradient_is_exact(method):
    images, values = random_case((4, 5))
    built = gaussian_filter((4, 5), 2.0, images, 0.2, method=method)
    assert torch.autograd.gradcheck(built, values.requires_grad_(), fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda v: built(v).square(), values, fast_mode=True)


@pytest.mark.parametrize("method", ONE_CHANNEL)
def test_float32_stays_float32_and_close(method):
    images, values = random_case((12, 13))
    double = gaussian_filter((12, 13), 3.0, images, 0.1, method=method)(values)
    single = gaussian_filter((12, 13), 3.0, images.float(), 0.1, method=method)(values.float())
    assert single.dtype == torch.float32
    assert (single - double).abs().max() < 2e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", ONE_CHANNEL)
def test_constant_image_is_the_kernel_of_position(method, dtype):
    _, values = random_case((8, 9), dtype=dtype)
    expected = gaussian_filter((8, 9), 2.0)(values)
    found = gaussian_filter((8, 9), 2.0, torch.full((2, 1, 8, 9), 3.5, dtype=dtype), 0.1, method=method)(values)
    assert (found - expected).abs().max() < 2e-3 * expected.max()


@pytest.mark.parametrize("method", ["auto", "low_rank", "window", "grid", "dense"])
def test_images_of_a_batch_do_not_mix(method):
    images, values = random_case((8, 9))
    images[1] *= 5
    together = gaussian_filter((8, 9), 3.0, images, 0.3, method=method)(values)
    apart = torch.cat(
        [
            gaussian_filter((8, 9), 3.0, i[None], 0.3, method=method)(v[None])
            for i, v in zip(images, values, strict=True)
        ]
    )
    assert (together - apart).abs().max() < 5e-3


@pytest.mark.parametrize("method", ["auto", "low_rank", "window", "grid", "nystroem", "dense"])
def test_empty_batch(method):
    built = gaussian_filter((4, 5), 2.0, torch.rand(0, 1, 4, 5), 0.1, method=method)
    assert built(torch.rand(0, 3, 4, 5)).shape == (0, 3, 4, 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sigma_space": 0.0}, "sigma_space"),
        ({"sigma_space": -1.0}, "sigma_space"),
        ({"sigma_space": float("nan")}, "sigma_space"),
        ({"sigma_space": [1.0, 2.0, 3.0]}, "sigma_space"),
        ({"sigma_intensity": 0.0}, "sigma_intensity"),
        ({"sigma_intensity": [1.0, 2.0]}, "sigma_intensity"),
        ({"sigma_intensity": None}, "together"),
        ({"images": None}, "together"),
        ({"images": torch.rand(1, 1, 5, 4)}, "expected images of shape"),
        ({"images": torch.full((1, 1, 4, 5), float("nan"))}, "finite"),
        ({"images": torch.rand(1, 2, 4, 5), "method": "grid"}, "one channel"),
        ({"method": "separable"}, "with images"),
        ({"tolerance": 0.0}, "tolerance"),
    ],
)
def test_what_it_refuses(arguments, message):
    accepted = {"sigma_space": 2.0, "images": torch.rand(1, 1, 4, 5), "sigma_intensity": 0.1}
    with pytest.raises(ValueError, match=message):
        gaussian_filter((4, 5), **accepted | arguments)


def test_values_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="expected values of shape"):
        gaussian_filter((4, 5), 2.0)(torch.rand(1, 2, 5, 4))


@pytest.mark.parametrize("method", ["auto", "low_rank", "grid", "window"])
def test_a_rare_intensity_keeps_its_own_term(method):
    images, values = random_case((90, 91), batch=1)
    images[0, 0, 40, 41] = 30.0
    found = gaussian_filter((90, 91), 3.0, images, 2.0, method=method)(values)
    torch.testing.assert_close(found[..., 40, 41], values[..., 40, 41], atol=0.01, rtol=0)
