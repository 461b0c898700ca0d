import inspect
import itertools
import math

import pytest
import torch

from scribbleseg.crf import gaussian_filter, mean_field
from scribbleseg.types import UNLABELLED


def kernels(images, normalisation="symmetric"):
    shape = images.shape[2:]
    return [
        gaussian_filter(shape, 3.0, images, 0.2, method="dense", normalisation=normalisation),
        gaussian_filter(shape, 1.5, normalisation=normalisation),
    ]


def random_case(shape=(5, 6), labels=3, batch=2):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(batch, 1, *shape, generator=generator, dtype=torch.float64)
    return images, torch.randn(batch, labels, *shape, generator=generator, dtype=torch.float64)


def naive(logits, filters, weights, compatibility, clamped, iterations):
    """Algorithm 1 of Krähenbühl and Koltun, pixel by pixel and label by label."""
    matrices = []
    for k in filters:  # of one image, by its answers to unit impulses
        pixels = math.prod(logits.shape[2:])
        matrices.append(
            k(torch.eye(pixels, dtype=torch.float64).view(1, pixels, *logits.shape[2:]))[0].view(pixels, -1)
        )
    z, fixed = logits[0].flatten(1), clamped[0].flatten()
    labels, pixels = z.shape

    def distribution(i, scores):
        if fixed[i] != UNLABELLED:
            return [float(fixed[i] == label) for label in range(labels)]
        total = sum(math.exp(s) for s in scores)
        return [math.exp(s) / total for s in scores]

    q = [distribution(i, [float(z[label, i]) for label in range(labels)]) for i in range(pixels)]
    for _ in range(iterations):
        scores = []
        for i in range(pixels):
            message = [
                sum(
                    float(w[label]) * sum(float(k[i, j]) * q[j][label] for j in range(pixels))
                    for k, w in zip(matrices, weights, strict=True)
                )
                for label in range(labels)
            ]
            scores.append(
                [
                    float(z[a, i]) - sum(float(compatibility[a, b]) * message[b] for b in range(labels))
                    for a in range(labels)
                ]
            )
        q = [distribution(i, scores[i]) for i in range(pixels)]
    return torch.tensor(q, dtype=torch.float64).T.view_as(logits[0])[None]


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("seeded", [False, True])
def test_is_the_naive_loop(learned, seeded):
    images, logits = random_case((3, 4), batch=1)
    generator = torch.Generator().manual_seed(1)
    weights = torch.rand(2, 3, generator=generator, dtype=torch.float64)
    potts = 1 - torch.eye(3, dtype=torch.float64)
    compatibility = torch.randn(3, 3, generator=generator, dtype=torch.float64) if learned else None
    clamped = torch.full((1, 3, 4), UNLABELLED, dtype=torch.uint8)
    if seeded:
        clamped[0, 0, :2], clamped[0, 2, 3] = 2, 0
    found = mean_field(logits, kernels(images), weights, compatibility, clamped, iterations=4).softmax(1)
    expected = naive(logits, kernels(images), weights, compatibility if learned else potts, clamped, 4)
    torch.testing.assert_close(found, expected)


def test_comes_near_the_exact_marginals_where_coupling_is_weak():
    images, logits = random_case((2, 3), batch=1)
    weight = 0.02
    filters = kernels(images, normalisation="none")[:1]
    kernel = filters[0](torch.eye(6, dtype=torch.float64).view(1, 6, 2, 3))[0].view(6, 6)
    z, marginals = logits[0].flatten(1), torch.zeros(3, 6, dtype=torch.float64)
    for labelling in itertools.product(range(3), repeat=6):
        energy = -sum(z[label, i] for i, label in enumerate(labelling))
        energy += sum(weight * kernel[i, j] for i in range(6) for j in range(i) if labelling[i] != labelling[j])
        for i, label in enumerate(labelling):
            marginals[label, i] += torch.exp(-energy)
    marginals /= marginals.sum(0)
    # The filter sums over j = i too, which pulls a pixel to its own label: taken back to compare with the model.
    q = mean_field(logits, filters, [weight], iterations=50)
    q = (q - weight * q.softmax(1)).softmax(1)[0].flatten(1)
    without = logits.softmax(1)[0].flatten(1)
    assert (q - marginals).abs().max() < 0.1 * (without - marginals).abs().max()


def test_potts_is_the_compatibility_one_minus_identity():
    images, logits = random_case()
    potts = 1 - torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(
        mean_field(logits, kernels(images), [2.0, 1.0]).softmax(1),
        mean_field(logits, kernels(images), [2.0, 1.0], potts).softmax(1),
    )


def test_clamped_pixels_never_change_yet_send_messages():
    images, logits = random_case()
    clamped = torch.full((2, 5, 6), UNLABELLED, dtype=torch.uint8)
    clamped[:, 1:3, 2:4] = 1
    free = mean_field(logits, kernels(images), [3.0, 2.0]).softmax(1)
    held = mean_field(logits, kernels(images), [3.0, 2.0], clamped=clamped).softmax(1)
    assert (held[:, 1, 1:3, 2:4] == 1).all()
    assert (held[:, 1, 1:3, 4] > free[:, 1, 1:3, 4]).all()


def test_all_clamped_is_one_hot_and_none_clamped_is_no_clamping():
    images, logits = random_case()
    everything = torch.randint(0, 3, (2, 5, 6), dtype=torch.uint8)
    found = mean_field(logits, kernels(images), [3.0, 2.0], clamped=everything).softmax(1)
    assert torch.equal(found.argmax(1).to(torch.uint8), everything)
    assert torch.equal(found.amax(1), torch.ones(2, 5, 6, dtype=torch.float64))
    nothing = torch.full((2, 5, 6), UNLABELLED, dtype=torch.uint8)
    torch.testing.assert_close(
        mean_field(logits, kernels(images), [3.0, 2.0], clamped=nothing),
        mean_field(logits, kernels(images), [3.0, 2.0]),
    )


def test_gradients():
    images, logits = random_case((3, 4))
    weights = torch.rand(2, 3, dtype=torch.float64).requires_grad_()
    compatibility = torch.randn(3, 3, dtype=torch.float64).requires_grad_()
    clamped = torch.full((2, 3, 4), UNLABELLED, dtype=torch.uint8)
    clamped[:, 0, 0] = 1
    filters = kernels(images)
    assert torch.autograd.gradcheck(
        lambda *inputs: mean_field(inputs[0], filters, inputs[1], inputs[2], clamped, iterations=3).log_softmax(1),
        (logits.requires_grad_(), weights, compatibility),
        fast_mode=True,
    )


def test_cross_entropy_through_clamped_pixels_is_finite():
    images, logits = random_case()
    clamped = torch.zeros(2, 5, 6, dtype=torch.uint8)
    clamped[:, 3:] = UNLABELLED
    result = mean_field(logits.float().requires_grad_(), kernels(images.float()), [3.0, 2.0], clamped=clamped)
    torch.nn.functional.cross_entropy(result, torch.ones(2, 5, 6, dtype=torch.long)).backward()


def test_stops_when_nothing_changes():
    images, logits = random_case()
    settled = mean_field(logits, kernels(images), [1.0, 1.0], iterations=200)
    stopped = mean_field(logits, kernels(images), [1.0, 1.0], iterations=10**9, tolerance=1e-10)
    assert (settled.softmax(1) - stopped.softmax(1)).abs().max() < 1e-8


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("seeded", [False, True])
@pytest.mark.parametrize("method", ["low_rank", "window", "grid"])
def test_with_a_tolerance_it_works_in_boxes_and_stays_near(method, seeded, learned):
    """An object in a large background: what moves is a small part of the image."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(96.0), torch.arange(90.0), indexing="ij")
    disc = ((y - 40).square() + (x - 60).square() < 12**2).double()
    images = disc + 0.2 * torch.randn(2, 1, 96, 90, generator=generator, dtype=torch.float64)
    logits = torch.stack([3 - 4 * disc, 2 * disc, disc - 1]).expand(2, -1, -1, -1).clone()
    logits[..., 28:52, 48:72] += torch.randn(2, 3, 24, 24, generator=generator, dtype=torch.float64)
    wide = 40.0 if method == "grid" else 2.0
    filters = [gaussian_filter((96, 90), wide, images, 0.3, method=method), gaussian_filter((96, 90), 1.5)]
    clamped = torch.full((2, 96, 90), UNLABELLED, dtype=torch.uint8)
    if seeded:
        clamped[:, 35:45, 50:53], clamped[:, 5, 5:20] = 2, 1
    compatibility = None
    if learned:
        compatibility = 1 - torch.eye(3, dtype=torch.float64) + 0.2 * torch.rand(3, 3, generator=generator).double()
    arguments = (logits, filters, [1.5, 1.0], compatibility, clamped)
    expected = mean_field(*arguments).softmax(1)
    found = mean_field(*arguments, tolerance=1e-4).softmax(1)
    assert (found - expected).abs().max() < 0.02
    assert (found - expected).abs().mean() < 1e-4


def test_no_iterations_no_weight_and_no_filter_change_nothing():
    images, logits = random_case()
    assert torch.equal(mean_field(logits, kernels(images), [1.0, 1.0], iterations=0), logits)
    assert torch.equal(mean_field(logits, [], []), logits)
    torch.testing.assert_close(mean_field(logits, kernels(images), [0.0, 0.0]).softmax(1), logits.softmax(1))


def test_a_single_label_and_an_empty_batch():
    images, logits = random_case(labels=1)
    assert (mean_field(logits, kernels(images), [1.0, 1.0]).softmax(1) == 1).all()
    empty = gaussian_filter((5, 6), 2.0, images[:0], 0.1)
    assert mean_field(torch.zeros(0, 3, 5, 6, dtype=torch.float64), [empty], [1.0]).shape == (0, 3, 5, 6)


def test_a_constant_image_keeps_a_constant_answer():
    logits = torch.tensor([0.3, 0.1, -0.4], dtype=torch.float64).view(1, 3, 1, 1).expand(1, 3, 5, 6)
    q = mean_field(logits, kernels(torch.full((1, 1, 5, 6), 2.0, dtype=torch.float64), "none"), [1.0, 1.0]).softmax(1)
    assert (q.argmax(1) == 0).all()


def test_minus_infinity_forbids_a_label():
    images, logits = random_case()
    logits[:, 2, 0, 0] = -math.inf
    q = mean_field(logits, kernels(images), [1.0, 1.0]).softmax(1)
    assert (q[:, 2, 0, 0] == 0).all()
    assert q.isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": torch.ones(3, 3, dtype=torch.float64)}, "expected weights of shape"),
        ({"weights": torch.ones(2, 4, dtype=torch.float64)}, "expected weights of shape"),
        ({"weights": [1.0]}, "expected weights of shape"),
        ({"compatibility": torch.ones(2, 2, dtype=torch.float64)}, "expected compatibility of shape"),
        ({"clamped": torch.zeros(2, 6, 5, dtype=torch.uint8)}, "expected clamped of shape"),
        ({"clamped": torch.full((2, 5, 6), 3, dtype=torch.uint8)}, "clamped labels below 3"),
        ({"iterations": -1}, "iterations"),
        ({"logits": torch.full((2, 3, 5, 6), math.nan, dtype=torch.float64)}, "180 NaN"),
        ({"logits": torch.full((2, 3, 5, 6), -math.inf, dtype=torch.float64)}, "forbids"),
    ],
)
def test_what_it_refuses(arguments, message):
    images, logits = random_case()
    accepted = {"logits": logits, "filters": kernels(images), "weights": [1.0, 1.0]}
    # As it runs outside of tests, where jaxtyping does not look at shapes.
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(mean_field)(**accepted | arguments)
