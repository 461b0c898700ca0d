"""Image and labels move together, and the outside is UNLABELLED."""

import torch

from scribbleseg.train.augment import Augment
from scribbleseg.types import UNLABELLED

NOTHING = Augment(rotation_degrees=0.0, scale=0.0, elastic=0.0, contrast=0.0, brightness=0.0, noise=0.0)
GEOMETRY = Augment(flips=True, contrast=0.0, brightness=0.0, noise=0.0)


def blobs(n=4, size=64):
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    disc = ((rows - 30) ** 2 + (columns - 24) ** 2 < 120).to(torch.uint8)
    labels = disc.expand(n, -1, -1).clone()
    return labels.float()[:, None], labels


def test_nothing_changes_nothing():
    torch.manual_seed(0)
    images, labels = torch.randn(3, 2, 32, 32), torch.randint(0, 4, (3, 32, 32), dtype=torch.uint8)
    labels[:, :4] = UNLABELLED
    new_images, new_labels = NOTHING(images, labels)
    assert torch.allclose(new_images, images, atol=1e-4)
    assert torch.equal(new_labels, labels)


def test_images_and_labels_move_together():
    torch.manual_seed(1)
    images, labels = blobs(8)
    new_images, new_labels = GEOMETRY(images, labels)
    inside = new_labels != UNLABELLED
    agree = (new_images[:, 0] > 0.5) == (new_labels == 1)
    assert agree[inside].float().mean() > 0.98
    assert not torch.equal(new_labels, labels)


def test_what_comes_in_from_outside_is_unlabelled():
    torch.manual_seed(2)
    labels = torch.zeros(16, 32, 32, dtype=torch.uint8)
    _, new = Augment(rotation_degrees=45.0, scale=0.4)(torch.zeros(16, 1, 32, 32), labels)
    assert set(new.unique().tolist()) == {0, UNLABELLED}
    assert (new[:, 0, 0] == UNLABELLED).any()


def test_no_label_value_is_invented():
    torch.manual_seed(3)
    labels = torch.tensor([1, 3, UNLABELLED], dtype=torch.uint8)[torch.randint(0, 3, (8, 40, 40))]
    _, new = Augment()(torch.zeros(8, 1, 40, 40), labels)
    assert set(new.unique().tolist()) <= {1, 3, UNLABELLED}


def test_slices_of_a_batch_are_drawn_one_by_one_and_a_seed_fixes_them():
    images, labels = blobs(2)
    torch.manual_seed(4)
    first = Augment()(images, labels)
    torch.manual_seed(4)
    second = Augment()(images, labels)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[1][0], first[1][1])


def test_several_maps_of_a_slice_move_together():
    images, labels = blobs(3)
    torch.manual_seed(5)
    one = GEOMETRY(images, labels)[1]
    torch.manual_seed(5)
    both = GEOMETRY(images, torch.stack([labels, 1 - labels], dim=1))[1]
    assert torch.equal(both[:, 0], one)
    assert torch.equal(both[:, 1], torch.where(one == UNLABELLED, UNLABELLED, 1 - one))
