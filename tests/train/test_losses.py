"""Partial cross-entropy against the double loop."""

import math

import torch

from scribbleseg.train.losses import partial_cross_entropy
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
