"""Losses on labelled pixels against the double loop."""

import math

import pytest
import torch

from scribbleseg.training.batch import Batch
from scribbleseg.training.crf_loss import DenseCRFLoss
from scribbleseg.training.losses import (
    Loss,
    PartialCrossEntropy,
    PartialDice,
    ScribblesAndAreas,
    partial_cross_entropy,
)
from scribbleseg.types import UNLABELLED


def batch_of(labels, **parts):
    return Batch(images=torch.zeros(len(labels), 1, *labels.shape[1:]), labels=labels, **parts)


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
    assert PartialCrossEntropy()(logits, batch_of(labels)) == partial_cross_entropy(logits, labels)


def test_soft_dice_equals_the_double_loop():
    torch.manual_seed(2)
    logits = torch.randn(2, 4, 4, 5)
    labels = torch.randint(0, 3, (2, 4, 5), dtype=torch.uint8)  # the fourth label is nowhere
    labels[torch.rand(2, 4, 5) < 0.4] = UNLABELLED
    losses = []
    for k in (1, 2):
        both = predicted = true = 0.0
        for b in range(2):
            for i in range(4):
                for j in range(5):
                    if labels[b, i, j] != UNLABELLED:
                        p = float(logits[b, :, i, j].softmax(0)[k])
                        y = float(labels[b, i, j] == k)
                        both, predicted, true = both + p * y, predicted + p, true + y
        losses.append(1 - 2 * both / (predicted + true))
    assert math.isclose(PartialDice()(logits, batch_of(labels)).item(), sum(losses) / 2, rel_tol=1e-5)
    assert math.isclose(PartialDice(weight=3.0)(logits, batch_of(labels)).item(), 1.5 * sum(losses), rel_tol=1e-5)


def test_soft_dice_of_what_is_right_is_nothing_and_of_what_is_wrong_one():
    labels = torch.tensor([[[0, 1], [2, 1]]], dtype=torch.uint8)
    right = 50 * torch.nn.functional.one_hot(labels.long(), 3).movedim(-1, 1).float()
    assert PartialDice()(right, batch_of(labels)).item() == pytest.approx(0, abs=1e-6)
    assert PartialDice()(right.roll(1, dims=1), batch_of(labels)).item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("loss", [PartialCrossEntropy(), PartialDice()])
def test_unlabelled_pixels_have_no_gradient(loss):
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    labels = torch.full((1, 4, 4), UNLABELLED, dtype=torch.uint8)
    labels[0, 1, 2] = 1
    loss(logits, batch_of(labels)).backward()
    touched = logits.grad.abs().sum(dim=1)[0] > 0
    assert touched.nonzero().tolist() == [[1, 2]]


@pytest.mark.parametrize("measure", [PartialCrossEntropy(), PartialDice()])
def test_a_batch_without_labels_has_loss_zero(measure):
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = measure(logits, batch_of(torch.full((1, 4, 4), UNLABELLED, dtype=torch.uint8)))
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
    assert math.isclose(loss(logits, batch_of(labels, scribbles=scribbles)).item(), expected, rel_tol=1e-5)


def test_ten_times_the_grown_pixels_do_not_drown_the_scribbles():
    logits = torch.zeros(1, 2, 12, 12, requires_grad=True)
    labels, scribbles = torch.zeros(2, 1, 12, 12, dtype=torch.uint8)
    scribbles[:] = UNLABELLED
    labels[0, 0, 0] = scribbles[0, 0, 0] = 1
    ScribblesAndAreas(areas=1.0)(logits, batch_of(labels, scribbles=scribbles)).backward()
    assert torch.isclose(logits.grad[0, 1].sum(), torch.tensor(0.0), atol=1e-6)  # one pixel pulls as much as 143


@pytest.mark.parametrize("loss", [PartialCrossEntropy(), ScribblesAndAreas(), DenseCRFLoss(channels=(0,))])
def test_a_loss_looks_at_no_part_that_it_does_not_say_it_needs(loss):
    assert isinstance(loss, Loss)
    logits, labels = torch.randn(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.uint8)
    whole = batch_of(
        labels,
        clean=torch.rand(1, 1, 4, 4),
        scribbles=labels,
        soft=torch.full((1, 2, 4, 4), 0.5),
        confidence=torch.ones(1, 4, 4),
        inside=torch.ones(1, 4, 4, dtype=torch.bool),
    )
    needed = {name: part for name, part in whole.parts().items() if name in loss.needs | {"images", "labels"}}
    assert len(needed) == 2 + len(loss.needs), "what it needs is a part of a batch"
    assert loss(logits, Batch(**needed)) == loss(logits, whole)
