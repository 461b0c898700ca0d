"""Prediction and samples equal plain forward passes, leave the network as it was, and return to the native grid."""

import weakref

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from monai.inferers import sliding_window_inference
from scipy.special import entr, softmax
from torch import nn

from networks import Threshold
from scribbleseg.data.preprocess import Preprocess
from scribbleseg.relabel.predict import BATCH, Segmenter, Views, predict, predict_parts, sample
from scribbleseg.training.monai_network import MONAINetwork
from scribbleseg.training.unet import UNet, UNetModule
from scribbleseg.types import UNLABELLED, Case, DataError, Geometry


def test_equals_softmax_of_a_plain_pass_over_more_than_one_batch(fabric):
    torch.manual_seed(0)
    network = UNet(base=4, padded=True, dropout=0.5).build(2, 3)
    images = np.random.default_rng(0).normal(size=(BATCH + 3, 2, 16, 32)).astype(np.float32)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.train()
    out = predict(fabric, network, images)
    assert network.training, "it is given back as it was"
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    with torch.inference_mode():
        plain = network.eval()(torch.from_numpy(images)).softmax(dim=1).numpy()
    assert np.allclose(out, plain, atol=1e-5)
    assert np.allclose(out.sum(axis=1), 1, atol=1e-5)


def dropout_network(dropout=0.5, labels=3):
    """Its running statistics fit the images, so that its logits are of the order of 1."""
    torch.manual_seed(0)
    network = UNet(base=4, padded=True, dropout=dropout).build(2, labels)
    with torch.no_grad():
        for _ in range(30):
            network(torch.randn(4, 2, 32, 32))
    return network


def random_images(slices=3):
    return np.random.default_rng(0).normal(size=(slices, 2, 16, 32)).astype(np.float32)


def plain_logits(network, images, passes, seed):
    """`sample slice label height width` of plain passes with the masks that `sample` draws."""
    network.eval()
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.train()
    torch.manual_seed(seed)
    batches = torch.from_numpy(images).contiguous(memory_format=torch.channels_last).split(BATCH)
    with torch.inference_mode():
        return torch.cat([torch.stack([network(batch) for _ in range(passes)]) for batch in batches], dim=1).numpy()


def test_samples_are_the_moments_of_plain_passes_over_more_than_one_batch(fabric):
    network, images = dropout_network(), random_images(BATCH + 3)
    samples = sample(fabric, network, images, passes=6, seed=5)
    logits = plain_logits(network, images, 6, 5)
    likely = softmax(logits.astype(np.float64), axis=2)
    assert samples.passes == 6
    assert np.allclose(samples.mean, logits.mean(axis=0), atol=1e-5)
    assert np.allclose(samples.variance, logits.var(axis=0, ddof=1), rtol=1e-3, atol=1e-6)
    assert np.allclose(samples.probabilities, likely.mean(axis=0), atol=1e-5)
    entropy = entr(likely.mean(axis=0)).sum(axis=1)
    assert np.allclose(samples.entropy, entropy, atol=1e-5)
    assert np.allclose(samples.mutual_information, entropy - entr(likely).sum(axis=2).mean(axis=0), atol=1e-5)
    assert samples.mutual_information.min() >= 0
    assert samples.mutual_information.max() > 1e-3
    assert {array.dtype for array in vars(samples).values() if isinstance(array, np.ndarray)} == {np.dtype("float32")}


def test_a_large_offset_of_the_logits_does_not_drown_their_variance(fabric):
    network, images = dropout_network(), random_images()
    small = sample(fabric, network, images, 5, 0)
    with torch.no_grad():
        network.head[-1].bias += 1000
    large = sample(fabric, network, images, 5, 0)
    step = np.spacing(np.float32(1000))  # what float32 keeps of a logit there
    assert np.allclose(np.sqrt(large.variance), np.sqrt(small.variance), atol=step)


def test_sampling_leaves_the_network_and_the_generator_as_they_were(fabric):
    network, images = dropout_network(), random_images()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    generator = torch.get_rng_state()
    network.train()
    first = sample(fabric, network, images, 3, seed=1)
    assert network.training
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert np.array_equal(first.mean, sample(fabric, network, images, 3, seed=1).mean)
    assert not np.array_equal(first.mean, sample(fabric, network, images, 3, seed=2).mean)
    predict(fabric, network, images)
    assert np.array_equal(predict(fabric, network, images), predict(fabric, network, images)), "dropout is off again"


def test_memory_does_not_grow_with_the_passes(fabric, monkeypatch):
    logits, alive = [], []
    after_dropout = UNetModule.after_dropout

    def observed(network, fixed):
        alive.append(sum(reference() is not None for reference in logits))
        out = after_dropout(network, fixed)
        logits.append(weakref.ref(out))
        return out

    monkeypatch.setattr(UNetModule, "after_dropout", observed)
    sample(fabric, dropout_network(), random_images(), 20, 0)
    assert len(alive) == 20
    assert max(alive) <= 1


@pytest.mark.parametrize("passes", [0, 1])
def test_one_pass_has_no_variance(fabric, passes):
    with pytest.raises(ValueError, match=f"at least 2 passes.*got {passes}"):
        sample(fabric, dropout_network(), random_images(), passes, 0)


def test_no_slices_are_refused(fabric):
    with pytest.raises(ValueError, match="at least one slice"):
        sample(fabric, dropout_network(), random_images(0), 2, 0)


def test_a_network_without_dropout_is_refused(fabric):
    with pytest.raises(DataError, match=r"network\.dropout"):
        sample(fabric, dropout_network(dropout=0.0), random_images(), 2, 0)


def test_dropout_of_probability_0_is_none(fabric):
    network = dropout_network()
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    with pytest.raises(DataError, match=r"network\.dropout"):
        sample(fabric, network, random_images(), 2, 0)


def test_logits_that_are_not_finite_are_refused(fabric):
    images = random_images()
    images[1, 0, 3, 3] = np.nan
    with pytest.raises(DataError, match="finite"):
        sample(fabric, dropout_network(), images, 2, 0)


def test_a_segmenter_finds_a_bright_box_on_its_native_grid(fabric):
    image = np.zeros((1, 3, 60, 40), np.float32)
    image[0, :, 20:40, 10:30] = 100
    geometry = Geometry((3, 60, 40), np.diag([1.25, 1.25, 8.0, 1.0]))
    case = Case("box", image, np.full((3, 60, 40), UNLABELLED, np.uint8), geometry)
    segmenter = Segmenter(Threshold(), Preprocess(spacing_mm=2.0, size=48), ("background", "box"), fabric)
    probabilities = segmenter.probabilities(case)
    labels = segmenter.segment(case)
    box = image[0] > 0
    assert probabilities.shape == (2, 3, 60, 40)
    assert labels.dtype == np.uint8
    assert (labels == probabilities.argmax(axis=0)).all()
    assert 2 * (labels.astype(bool) & box).sum() / (labels.sum() + box.sum()) > 0.95


def test_an_image_larger_than_the_grid_is_segmented_whole_unless_training_cut_its_images(fabric, caplog):
    image = np.zeros((1, 2, 100, 60), np.float32)
    image[0, :, 2:10, 5:55] = 100  # far outside of the centred 32 pixels
    case = Case("wide", image, np.full((2, 100, 60), UNLABELLED, np.uint8), Geometry((2, 100, 60), np.eye(4)))
    whole, cut = (
        Segmenter(Threshold(), Preprocess(1.0, 32, crops=crops), ("background", "box"), fabric, Views(window=32))
        for crops in (False, True)
    )
    assert np.array_equal(whole.segment(case), image[0] > 0)
    assert not cut.segment(case).any()
    assert whole.slices(case).shape == (2, 1, 100, 100)
    assert cut.slices(case).shape == (2, 1, 32, 32)
    assert [record.message[:40] for record in caplog.records] == ["what lies outside the central 32 mm of a"], "once"


def test_windows_of_a_network_that_looks_at_single_pixels_are_the_whole_slice(fabric):
    images = np.random.default_rng(0).normal(size=(3, 1, 70, 70)).astype(np.float32) / 20
    whole = predict(fabric, Threshold(), images)
    assert np.allclose(predict(fabric, Threshold(), images, Views(window=32)), whole, atol=1e-5)
    assert np.array_equal(predict(fabric, Threshold(), images, Views(window=70)), whole)


class Border(Threshold):
    """Says which side the square has that it is shown."""

    def forward(self, image):
        return torch.cat([-torch.ones_like(image), torch.full_like(image, image.shape[-1])], dim=1) + self.anchor * 0


def test_a_network_is_shown_squares_of_the_side_it_learned_from(fabric):
    images = np.zeros((1, 1, 80, 80), np.float32)
    seen = predict(fabric, Border(), images, Views((10.0,), window=32))
    assert np.allclose(seen[0, 1], 1 / (1 + np.exp(-33.0)), atol=1e-6)


def test_passes_in_windows_have_the_moments_of_the_whole_slice(fabric):
    images = np.random.default_rng(0).normal(size=(2, 1, 48, 48)).astype(np.float32)
    network = UNet(base=2, dropout=0.5, padded=True).build(1, 3)
    samples = sample(fabric, network, images, 8, 0, Views(window=32))
    assert samples.mean.shape == samples.variance.shape == samples.probabilities.shape == (2, 3, 48, 48)
    assert samples.mean_entropy.shape == samples.entropy.shape == (2, 48, 48)
    assert np.allclose(samples.probabilities.sum(axis=1), 1, atol=1e-4)
    assert (samples.variance >= 0).all()


class Position(nn.Module):
    """Its logits depend on the place in the slice alone, so that views show what they were turned by."""

    def forward(self, image):
        rows, columns = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in image.shape[-2:]), indexing="ij")
        return torch.stack([columns + 0.3 * rows, torch.zeros_like(rows)]).expand(len(image), -1, -1, -1) * 3


def test_views_are_turned_back_before_their_mean_is_taken(fabric):
    side, angle = 65, 20.0
    images = np.zeros((2, 1, side, side), np.float32)
    out = predict(fabric, Position(), images, Views((angle, -angle)))
    plain = predict(fabric, Position(), images)
    rows, columns = np.meshgrid(*[np.linspace(-1, 1, side)] * 2, indexing="ij")
    expected = plain[0, 0].copy()
    for degrees in (angle, -angle):
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        x, y = c * columns + s * rows, c * rows - s * columns
        expected += 1 / (1 + np.exp(-3 * (x + 0.3 * y)))
    centre = rows**2 + columns**2 < 0.8
    assert np.abs(out[0, 0] - expected / 3)[centre].max() < 0.02
    assert np.abs(out[0, 0] - plain[0, 0])[centre].max() > 0.02, "views differ"
    assert np.allclose(out.sum(axis=1), 1, atol=1e-5)


def test_views_lie_where_they_belong_in_bfloat16_too(fabric):
    side = 192
    images = np.zeros((1, 1, side, side), np.float32)
    half = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    exact, rounded = (predict(each, Position(), images, Views((15.0, -15.0))) for each in (fabric, half))
    assert np.abs(exact - rounded).max() < 1e-3


def test_views_of_a_network_that_looks_at_each_pixel_by_itself_change_little(fabric):
    rows, columns = np.indices((64, 64)) - 31.5
    images = np.where(np.hypot(rows, columns) < 15, 1.0, -1.0).astype(np.float32)[None, None]
    plain, views = predict(fabric, Threshold(), images), predict(fabric, Threshold(), images, Views((15.0, -15.0)))
    away = np.abs(np.hypot(rows, columns) - 15) > 2
    assert np.allclose(plain[:, :, away], views[:, :, away], atol=1e-3)


def test_a_segmenter_keeps_the_largest_component_of_single_structures_alone(fabric):
    image = np.zeros((1, 3, 48, 48), np.float32)
    image[0, :, 20:40, 10:30] = 100
    image[0, 1, 2:6, 2:6] = 100
    geometry = Geometry((3, 48, 48), np.diag([2.0, 2.0, 8.0, 1.0]))
    case = Case("box", image, np.full((3, 48, 48), UNLABELLED, np.uint8), geometry)
    whole, single = (
        Segmenter(Threshold(), Preprocess(spacing_mm=2.0, size=48), ("background", "box"), fabric, single=frozenset(s))
        for s in ((), (1,))
    )
    assert whole.segment(case)[1, 3, 3] == 1
    expected = whole.segment(case)
    expected[1, :10, :10] = 0
    assert (single.segment(case) == expected).all()


# Blocks of slices, and slices with their neighbours


class Blocks(Threshold):
    """Calls bright voxels label 1, and notes how many slices it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = []

    def forward(self, image):
        self.seen.append(tuple(image.shape[2:]))
        return super().forward(image)


@pytest.mark.parametrize(("slices", "depth"), [(11, 4), (8, 4), (9, 1), (7, 7), (4, 5), (1, 4), (10, 3)])
def test_blocks_cover_the_whole_stack(fabric, slices, depth):
    images = np.random.default_rng(0).normal(size=(slices, 1, 20, 20)).astype(np.float32) / 20
    network = Blocks()
    whole = predict(fabric, Threshold(), images)
    parts = list(predict_parts(fabric, network, images, Views(window=12, depth=depth)))
    assert np.allclose(np.concatenate(parts), whole, atol=1e-5)
    assert set(network.seen) == {(depth, 12, 12)}
    assert max(map(len, parts)) <= depth, "no more is held than a block"


def volume_network(**arguments):
    torch.manual_seed(0)
    filters = {"filters": [4, 8, 8], **arguments}
    return (
        MONAINetwork(name="DynUNet", arguments=filters, dimensions=3).fitted((3.0, 1.0, 1.0), (5, 16, 16)).build(1, 3)
    )


def test_a_block_that_covers_the_stack_is_one_forward_pass(fabric):
    images = np.random.default_rng(0).normal(size=(5, 1, 16, 16)).astype(np.float32)
    network = volume_network()
    with torch.inference_mode():
        logits = network.eval()(torch.from_numpy(images.swapaxes(0, 1)[None]))
    expected = logits.softmax(dim=1)[0].numpy().swapaxes(0, 1)
    seen = predict(fabric, network.train(), images, Views(window=16, depth=5))
    assert np.allclose(seen, expected, atol=1e-6)
    assert network.training
    turned = predict(fabric, network, images, Views((10.0,), window=16, depth=5))
    assert turned.shape == expected.shape
    assert not np.allclose(turned, expected, atol=1e-3)


def test_overlapping_blocks_are_what_monai_makes_of_the_volume(fabric):
    images = np.random.default_rng(0).normal(size=(9, 1, 16, 16)).astype(np.float32)
    network = volume_network().eval()

    def look(volume):
        return network(volume).softmax(dim=1)

    with torch.inference_mode():
        volume = torch.from_numpy(images.swapaxes(0, 1)[None])
        expected = sliding_window_inference(volume, (4, 16, 16), 1, look, overlap=0.5, mode="gaussian")
    seen = predict(fabric, network, images, Views(window=16, depth=4))
    centre = np.s_[:, :, 6:10, 6:10]  # MONAI's weights have a smallest value, which the corners of a block reach
    assert np.allclose(seen[centre], expected[0].numpy().swapaxes(0, 1)[centre], atol=1e-5)


def test_passes_in_blocks_have_the_moments_of_every_slice(fabric):
    images = np.random.default_rng(0).normal(size=(6, 1, 16, 16)).astype(np.float32)
    network = volume_network(dropout=0.3)
    samples = sample(fabric, network, images, 3, 0, Views(window=16, depth=4))
    assert samples.mean.shape == samples.variance.shape == samples.probabilities.shape == (6, 3, 16, 16)
    assert samples.mean_entropy.shape == (6, 16, 16)
    assert np.allclose(samples.probabilities.sum(axis=1), 1, atol=1e-4)
    assert (samples.variance > 0).any()
    assert np.array_equal(samples.mean, sample(fabric, network, images, 3, 0, Views(window=16, depth=4)).mean)


class Below(Threshold):
    """Calls pixels label 1 that are bright in the slice below."""

    channels = 3

    def forward(self, image):
        return super().forward(image[:, 1:2])


@pytest.mark.parametrize("slices", [1, 2, 20])
def test_a_slice_is_seen_with_its_neighbours_also_from_one_batch_to_the_next(fabric, slices):
    images = np.random.default_rng(0).normal(size=(slices, 1, 16, 16)).astype(np.float32)
    seen = predict(fabric, Below(), images, Views(neighbours=1))
    shifted = images[[0, *range(slices - 1)]]
    assert np.allclose(seen, predict(fabric, Threshold(), shifted), atol=1e-6)


@pytest.mark.parametrize(("network", "views"), [(Blocks(), Views(window=32, depth=4)), (Below(), Views(neighbours=1))])
def test_a_segmenter_shows_whole_stacks_where_slices_are_not_seen_alone(fabric, network, views):
    image = np.zeros((1, 40, 32, 32), np.float32)
    image[0, 5:37, 10:20, 10:20] = 100
    case = Case("stack", image, np.full((40, 32, 32), UNLABELLED, np.uint8), Geometry((40, 32, 32), np.eye(4)))
    segmenter = Segmenter(network, Preprocess(1.0, 32), ("background", "box"), fabric, views)
    assert segmenter.channels == 1
    expected = image[0] > 0
    if views.neighbours:
        expected = expected[[0, *range(39)]]
    assert np.array_equal(segmenter.segment(case), expected)
