"""All parts of a slice move together, and the outside is what it has to be."""

from dataclasses import replace

import pytest
import torch

from scribbleseg.training.augment import Augment
from scribbleseg.training.batch import Batch
from scribbleseg.types import UNLABELLED

NOTHING = Augment(rotation_degrees=0.0, scale=0.0, elastic=0.0, contrast=0.0, brightness=0.0, noise=0.0)
GEOMETRY = Augment(flips=True, contrast=0.0, brightness=0.0, noise=0.0)
STRONG = Augment(rotation_degrees=45.0, scale=0.4)


def blobs(n=4, size=64):
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    disc = ((rows - 30) ** 2 + (columns - 24) ** 2 < 120).to(torch.uint8)
    labels = disc.expand(n, -1, -1).clone()
    return Batch(images=labels.float()[:, None], labels=labels)


def all_parts(n=4, size=32):
    """A batch whose images hold each pixel's own column and row, as shares of the side, and all other parts."""
    steps = torch.arange(size) / (size - 1)
    rows, columns = torch.meshgrid(steps, steps, indexing="ij")
    column_and_row = torch.stack([columns, rows]).expand(n, -1, -1, -1).clone()
    labels = torch.randint(0, 4, (n, size, size), dtype=torch.uint8)
    return Batch(
        images=column_and_row,
        labels=labels,
        clean=column_and_row,
        scribbles=3 - labels,
        soft=torch.stack([columns, 1 - columns]).expand(n, -1, -1, -1).clone(),
        confidence=((1 + columns + rows) / 3).expand(n, -1, -1).clone(),
        inside=torch.ones(n, size, size, dtype=torch.bool),
    )


def test_nothing_changes_nothing():
    torch.manual_seed(0)
    batch = replace(all_parts(), images=torch.randn(4, 2, 32, 32))
    batch.labels[:, :4] = UNLABELLED
    batch.inside[:, :, 20:] = False
    new = NOTHING(batch)
    assert new.parts().keys() == batch.parts().keys()
    for name, part in replace(batch, clean=batch.images).parts().items():
        assert new.parts()[name].dtype == part.dtype
        torch.testing.assert_close(new.parts()[name], part, atol=1e-4, rtol=0)


def test_images_and_labels_move_together():
    torch.manual_seed(1)
    batch = blobs(8)
    new = GEOMETRY(batch)
    inside = new.labels != UNLABELLED
    agree = (new.images[:, 0] > 0.5) == (new.labels == 1)
    assert agree[inside].float().mean() > 0.98
    assert not torch.equal(new.labels, batch.labels)


def test_what_comes_in_from_outside_is_unlabelled():
    torch.manual_seed(2)
    labels = torch.zeros(16, 32, 32, dtype=torch.uint8)
    new = STRONG(Batch(images=torch.zeros(16, 1, 32, 32), labels=labels)).labels
    assert set(new.unique().tolist()) == {0, UNLABELLED}
    assert (new[:, 0, 0] == UNLABELLED).any()


def test_no_label_value_is_invented():
    torch.manual_seed(3)
    labels = torch.tensor([1, 3, UNLABELLED], dtype=torch.uint8)[torch.randint(0, 3, (8, 40, 40))]
    new = Augment()(Batch(images=torch.zeros(8, 1, 40, 40), labels=labels)).labels
    assert set(new.unique().tolist()) <= {1, 3, UNLABELLED}


def test_slices_of_a_batch_are_drawn_one_by_one_and_a_seed_fixes_them():
    batch = blobs(2)
    torch.manual_seed(4)
    first = Augment()(batch)
    torch.manual_seed(4)
    second = Augment()(batch)
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.labels, second.labels)
    assert not torch.equal(first.labels[0], first.labels[1])


def test_several_maps_of_a_slice_move_exactly_together():
    batch = blobs(3)
    torch.manual_seed(5)
    alone = GEOMETRY(batch).labels
    torch.manual_seed(5)
    both = GEOMETRY(replace(batch, scribbles=1 - batch.labels))
    assert torch.equal(both.labels, alone)
    assert torch.equal(both.scribbles, torch.where(alone == UNLABELLED, UNLABELLED, 1 - alone))
    assert len(both.scribbles.unique()) == 3


def test_every_part_shows_what_was_where_the_image_says_that_it_was():
    torch.manual_seed(6)
    batch = all_parts()
    new = STRONG(batch)
    column, row = new.clean.unbind(1)
    margin = 1 / 31  # nearer to the border than a pixel, linear values run out
    well_inside = ((column > margin) & (column < 1 - margin) & (row > margin) & (row < 1 - margin)).nonzero(
        as_tuple=True
    )
    assert len(well_inside[0]) > 1000
    slices, column, row = well_inside[0], column[well_inside], row[well_inside]
    assert ((31 * column).frac() - 0.5).abs().lt(0.4).float().mean() > 0.7, "most come from between pixels"
    # Linear maps stay linear.
    torch.testing.assert_close(new.soft[:, 0][well_inside], column, atol=1e-5, rtol=0)
    torch.testing.assert_close(new.soft[:, 1][well_inside], 1 - column, atol=1e-5, rtol=0)
    torch.testing.assert_close(new.confidence[well_inside], (1 + column + row) / 3, atol=1e-5, rtol=0)
    # Labels are those of the nearest pixel; halfway between two, rounding may decide either way.
    nearest = slices, (31 * row).round().long(), (31 * column).round().long()
    for moved, still in ((new.labels, batch.labels), (new.scribbles, batch.scribbles)):
        assert (moved[well_inside] == still[nearest]).float().mean() > 0.999
    assert new.inside[well_inside].all()


def test_what_comes_in_from_outside_is_known_to_nobody_in_any_part():
    torch.manual_seed(7)
    batch = all_parts(8)
    new = STRONG(batch)
    outside = new.labels == UNLABELLED
    assert 0.05 < outside.float().mean() < 0.9
    assert torch.equal(new.inside, ~outside)
    assert torch.equal(new.scribbles == UNLABELLED, outside)
    known = new.soft.sum(1)
    assert known[~outside].min() > 0.25  # half a pixel beyond the border at most, along both axes
    far = torch.nn.functional.max_pool2d((~outside).float(), 5, stride=1, padding=2) == 0
    assert far.any()
    assert (new.soft.amax(1)[far] == 0).all()
    assert (new.confidence[far] == 0).all()


def test_pixels_that_were_outside_stay_outside():
    torch.manual_seed(8)
    batch = all_parts()
    batch.inside[:, :, :16] = False
    new = STRONG(batch)
    column = new.clean[:, 0]
    assert not new.inside[column < 0.5 - 1 / 31].any()
    assert new.inside.any()


def test_clean_images_are_moved_and_nothing_else():
    batch = all_parts()
    torch.manual_seed(9)
    new = Augment()(batch)
    torch.manual_seed(9)
    moved_only = replace(Augment(), contrast=0.0, brightness=0.0, noise=0.0)(batch)
    assert torch.equal(new.clean, moved_only.images)
    assert not torch.equal(new.clean, batch.images), "they move"
    assert (new.clean - new.images).abs().mean() > 0.01, "the network sees others"


def test_the_images_are_the_same_whether_or_not_clean_ones_are_asked_for():
    batch = all_parts()
    torch.manual_seed(10)
    asked = Augment()(batch)
    torch.manual_seed(10)
    not_asked = Augment()(replace(batch, clean=None))
    assert not_asked.clean is None
    assert torch.equal(not_asked.images, asked.images)


@pytest.mark.parametrize("absent", ["clean", "scribbles", "soft", "confidence", "inside"])
def test_no_part_appears_that_was_not_there(absent):
    batch = replace(all_parts(1), **{absent: None})
    assert Augment()(batch).parts().keys() == batch.parts().keys()


def test_the_batch_that_is_augmented_stays_as_it_was():
    batch = all_parts()
    before = {name: part.clone() for name, part in batch.parts().items()}
    Augment()(batch)
    assert all(torch.equal(before[name], part) for name, part in batch.parts().items())


def wavy(n=6, channels=2, size=32):
    torch.manual_seed(3)
    smooth = torch.nn.functional.interpolate(torch.randn(n, channels, 8, 8), (size, size), mode="bicubic")
    images = 3 * smooth + torch.randn(n, channels, 1, 1) + 0.3 * torch.randn(n, channels, size, size)
    return Batch(images=images, labels=torch.zeros(n, size, size, dtype=torch.uint8))


def test_a_power_keeps_order_mean_and_standard_deviation_of_every_slice():
    batch = wavy()
    new = replace(NOTHING, gamma=1.0)(batch).images
    assert not torch.allclose(new, batch.images, atol=0.01)
    torch.testing.assert_close(new.mean((2, 3)), batch.images.mean((2, 3)), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(new.std((2, 3)), batch.images.std((2, 3)), atol=1e-3, rtol=1e-3)
    ordered = batch.images.flatten(2).argsort(dim=2)
    assert (new.flatten(2).gather(2, ordered).diff(dim=2) > -1e-4).all()


@pytest.mark.parametrize("changes", [{"low_resolution": 1.0}, {"blur": 1.0}])
def test_slices_of_lower_resolution_are_smoother_and_otherwise_the_same(changes):
    batch = wavy()
    new = replace(NOTHING, **changes)(batch).images
    roughness = [images.diff(dim=3).square().mean((1, 2, 3)) for images in (batch.images, new)]
    assert (roughness[1] < roughness[0]).all()
    torch.testing.assert_close(new.mean((2, 3)), batch.images.mean((2, 3)), atol=0.1, rtol=0)
    assert torch.corrcoef(torch.stack([batch.images.flatten(), new.flatten()]))[0, 1] > 0.9


@pytest.mark.parametrize("kind", ["low_resolution", "blur"])
def test_the_share_of_slices_at_lower_resolution(kind):
    batch = wavy(n=400, channels=1)
    new = replace(NOTHING, **{kind: 0.3})(batch).images
    changed = (new - batch.images).abs().amax((1, 2, 3)) > 1e-2
    assert 0.2 < changed.float().mean() < 0.4


def test_a_constant_slice_stays_finite():
    batch = Batch(images=torch.full((2, 1, 16, 16), 2.0), labels=torch.zeros(2, 16, 16, dtype=torch.uint8))
    new = replace(NOTHING, gamma=0.5, low_resolution=1.0, blur=1.0)(batch).images
    torch.testing.assert_close(new, batch.images, atol=1e-4, rtol=0)


def test_intensities_change_and_labels_do_not():
    batch = replace(wavy(), clean=torch.zeros(6, 2, 32, 32))
    new = replace(NOTHING, gamma=0.5, low_resolution=1.0, blur=1.0)(batch)
    assert torch.equal(new.labels, batch.labels)
    torch.testing.assert_close(new.clean, batch.images, atol=1e-4, rtol=0)


def test_the_slices_of_a_block_are_moved_and_changed_alike():
    one = all_parts()
    block = Batch(**{
        name: part[..., None, :, :].expand(*part.shape[:-2], 3, *part.shape[-2:]).clone()
        for name, part in one.parts().items()
    })  # fmt: skip
    torch.manual_seed(0)
    new = Augment(noise=0.0, flips=True, gamma=0.5, low_resolution=0.5, blur=0.5)(block)
    for name, part in new.parts().items():
        assert part.shape == block.parts()[name].shape
        assert torch.allclose(part[..., :1, :, :].float(), part.float(), atol=1e-5), name
    torch.manual_seed(0)
    flat = Augment(noise=0.0, flips=True, gamma=0.5, low_resolution=0.5, blur=0.5)(one)
    assert torch.equal(flat.labels, new.labels[:, 0]), "as a single slice is moved"
