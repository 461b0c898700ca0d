"""Partial cross-entropy against the double loop."""

import math

import pytest
import torch

from scribbleseg.train.losses import ScribblesAndAreas, partial_cross_entropy
from scribbleseg.types import UNLABELLED


def test_equals_the_double_loop():
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 4, 5)
    labels = torch.randint(0, 3, (2, 4, 5), dtype=torch.uint8)
    labels[torch.rand(2, 4, 5) < 0.5] = UNLABELLED
    total, count = 0.0, 0
    for b in range(2):
        for i in range(4):
            for j in range(5):
                if labels[b, i, j] != UNLABELLED:
                    exponentials = [math.exp(v) for v in logits[b, :, i, j].tolist()]
                    total -= math.log(exponentials[labels[b, i, j]] / sum(exponentials))
                    count += 1
    assert math.isclose(partial_cross_entropy(logits, labels).item(), total / count, rel_tol=1e-5)


def test_unlabelled_pixels_have_no_gradient():
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    labels = torch.full((1, 4, 4), UNLABELLED, dtype=torch.uint8)
    labels[0, 1, 2] = 1
    partial_cross_entropy(logits, labels).backward()
    touched = logits.grad.abs().sum(dim=1)[0] > 0
    assert touched.nonzero().tolist() == [[1, 2]]


def test_a_batch_without_labels_has_loss_zero():
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = partial_cross_entropy(logits, torch.full((1, 4, 4), UNLABELLED, dtype=torch.uint8))
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


@pytest.mark.parametrize(("scribbled", "grown"), [(1.0, 0.8), (1.0, 0.0), (0.0, 1.0)])
def test_scribbles_and_areas_are_each_a_mean_over_their_own_pixels(scribbled, grown):
    torch.manual_seed(1)
    logits = torch.randn(2, 3, 6, 5)
    labels = torch.randint(0, 3, (2, 6, 5), dtype=torch.uint8)
    labels[torch.rand(2, 6, 5) < 0.3] = UNLABELLED
    scribbles = torch.where(torch.rand(2, 6, 5) < 0.2, labels, UNLABELLED)
    sums, counts = [0.0, 0.0], [0, 0]
    for b in range(2):
        for i in range(6):
            for j in range(5):
                if labels[b, i, j] != UNLABELLED:
                    part = int(scribbles[b, i, j] == UNLABELLED)
                    sums[part] -= float(logits[b, :, i, j].log_softmax(0)[int(labels[b, i, j])])
                    counts[part] += 1
    assert min(counts) > 0
    expected = scribbled * sums[0] / counts[0] + grown * sums[1] / counts[1]
    loss = ScribblesAndAreas(scribbles=scribbled, areas=grown)
    assert math.isclose(loss(logits, labels, scribbles).item(), expected, rel_tol=1e-5)


def test_ten_times_the_grown_pixels_do_not_drown_the_scribbles():
    logits = torch.zeros(1, 2, 12, 12, requires_grad=True)
    labels, scribbles = torch.zeros(2, 1, 12, 12, dtype=torch.uint8)
    scribbles[:] = UNLABELLED
    labels[0, 0, 0] = scribbles[0, 0, 0] = 1
    ScribblesAndAreas(areas=1.0)(logits, labels, scribbles).backward()
    assert torch.isclose(logits.grad[0, 1].sum(), torch.tensor(0.0), atol=1e-6)  # one pixel pulls as much as 143
