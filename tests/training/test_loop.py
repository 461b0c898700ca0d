"""The M step learns, sees labelled pixels only, and continues where it was killed or where the last one stopped."""

import signal
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from scribbleseg.training import loop
from scribbleseg.training.augment import Augment
from scribbleseg.training.batch import Batch
from scribbleseg.training.crf_loss import DenseCRFLoss
from scribbleseg.training.loop import Batches, Source, Training
from scribbleseg.training.losses import PartialCrossEntropy, PartialDice, ScribblesAndAreas
from scribbleseg.training.optimisers import SGD, Adam, CosineAdam
from scribbleseg.training.unet import UNet
from scribbleseg.types import UNLABELLED, DataError

SPEC = UNet(base=4, padded=True, dropout=0.5)
NOTHING = Augment(rotation_degrees=0.0, scale=0.0, elastic=0.0, contrast=0.0, brightness=0.0, noise=0.0)


class Killed(Exception):
    pass


def new_network():
    torch.manual_seed(0)
    return SPEC.build(1, 2)


@pytest.fixture
def fit(train, make_slices, boxes):
    """An M step of so many iterations on the boxes."""

    def run(iterations, log=lambda record: None, optimiser=Adam(), network=None, average=0.0, **where):  # noqa: B008
        training = Training(iterations=iterations, batch=3, optimiser=optimiser, ema_decay=average)
        return train(network or new_network(), training, make_slices(*boxes), log, **where)

    return run


@pytest.fixture
def often(monkeypatch):
    """Records every iteration, and a checkpoint every four."""
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 4)
    monkeypatch.setattr(loop, "LOG_EVERY", 1)


def assert_same_weights(one, other):
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_the_loss_falls(fit):
    records = []
    fit(60, records.append)
    assert [r["iteration"] for r in records] == [50, 60]
    assert records[-1]["loss"] < 0.5
    assert records[-1]["learning_rate"] == 0.001


@pytest.mark.parametrize("average", [0.0, 0.8])
def test_a_killed_m_step_ends_with_the_same_weights(fit, often, average):
    whole = fit(11, name="whole", average=average)

    def kill(record):
        if record["iteration"] == 7:  # after the checkpoint at 4, not at one
            raise Killed

    with pytest.raises(Killed):
        fit(11, kill, average=average)
    records = []
    resumed = fit(11, records.append, average=average)
    assert records[0]["iteration"] == 5
    assert_same_weights(whole, resumed)


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_an_interrupted_m_step_leaves_a_checkpoint_of_the_iteration_it_was_at(fit, often, average):
    whole = fit(11, name="whole", average=average)

    def interrupt(record):
        if record["iteration"] == 6:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(11, interrupt, average=average)
    records = []
    resumed = fit(11, records.append, average=average)
    assert records[0]["iteration"] == 7
    assert_same_weights(whole, resumed)


def test_the_mean_of_the_weights_is_that_of_every_iteration_and_training_goes_on_from_the_last(fit, often, tmp_path):
    last = [fit(n, name=str(n)).state_dict() for n in range(1, 9)]
    network = fit(8, name="mean", average=0.5)
    expected = last[0]
    for updates, weights in enumerate(last[1:], start=1):
        kept = min(0.5, (1 + updates) / (10 + updates))
        expected = {
            name: kept * mean + (1 - kept) * weights[name] if mean.is_floating_point() else weights[name]
            for name, mean in expected.items()
        }
    for name, mean in network.state_dict().items():
        torch.testing.assert_close(mean, expected[name], atol=1e-6, rtol=1e-5)
        assert torch.equal(torch.load(tmp_path / "mean.ckpt", weights_only=True)["network"][name], last[-1][name])


def test_outputs_of_coarser_levels_count_half_as_much_each():
    torch.manual_seed(0)
    labels = torch.randint(0, 2, (1, 4, 4), dtype=torch.uint8)
    batch = Batch(images=torch.zeros(1, 1, 4, 4), labels=labels)
    outputs = tuple(torch.randn(3, 1, 2, 4, 4))
    losses = (PartialCrossEntropy(), PartialDice())
    each = [sum(loss(logits, batch) for loss in losses) for logits in outputs]
    expected = (each[0] + each[1] / 2 + each[2] / 4) / 1.75
    torch.testing.assert_close(loop.objective(outputs, batch, losses), expected)
    torch.testing.assert_close(loop.objective(outputs[0], batch, losses), each[0])


def test_unlabelled_slices_are_never_drawn(make_slices, boxes, train):
    images, labels = boxes
    labels[3] = UNLABELLED
    images[3] = np.nan  # would reach the loss at once
    records = []
    train(new_network(), Training(iterations=6, batch=3), make_slices(images, labels), records.append)
    assert np.isfinite(records[-1]["loss"])


def test_no_labels_at_all_is_an_error(make_slices, boxes):
    slices = make_slices(boxes[0], np.full_like(boxes[1], UNLABELLED))
    with pytest.raises(DataError, match="expected labelled pixels to train on, found none in 7 slices"):
        Batches(Source(slices, 0), Augment(), (0, 0))


def in_slices(chosen, value, shape=(9, 4, 4)):
    """A pixel of that value in some slices, UNLABELLED elsewhere."""
    labels = np.full(shape, UNLABELLED, np.uint8)
    labels[chosen, 1, 2] = value
    return labels


def test_slices_without_a_structure_in_their_scribbles_are_never_drawn_where_only_structures_are_wanted(
    make_slices, fabric
):
    images = np.arange(9, dtype=np.float32)[:, None, None, None] * np.ones((1, 4, 4), np.float32)
    scribbles = in_slices([1, 4, 6], 1)
    scribbles[[2, 4, 7], 3, 3] = 0  # in 4 beside a structure, in 2 and 7 alone
    labels = in_slices([0, 1, 2, 3, 4, 7], 1)  # seed areas reach more slices than scribbles; not 6, whatever is drawn
    slices = make_slices(images, labels, scribbles=scribbles)
    training = Training(iterations=20, batch=2)

    def drawn(source):
        batches = Batches(source, None, (0, 0))
        return {int(n) for i in range(20) for n in batches(i, training, fabric).images[:, 0, 0, 0]}

    assert drawn(Source(slices, 0)) == {0, 1, 2, 3, 4, 7}
    assert drawn(Source(slices, 0, only_structures=True)) == {1, 4}


def test_no_structure_in_any_scribble_is_an_error_where_only_structures_are_wanted(make_slices):
    images = np.zeros((9, 1, 4, 4), np.float32)
    slices = make_slices(images, in_slices([1, 2], 1), scribbles=in_slices([1, 2], 0))
    with pytest.raises(DataError, match=r"expected structures in the scribbles of some slice to train on, found none"):
        Batches(Source(slices, 0, only_structures=True), None, (0, 0))
    Batches(Source(slices, 0), None, (0, 0))


def test_without_augmentation_batches_are_the_slices_themselves(make_slices, boxes, fabric):
    images, labels = boxes[0].astype(np.float16), boxes[1]
    slices = make_slices(images, labels, scribbles=drawn_scribbles(labels), inside=np.ones_like(labels))
    training = Training(iterations=1, batch=7, losses=(ScribblesAndAreas(), DenseCRFLoss()))
    batch = Batches(Source(slices, 0), None, (0, 0))(0, training, fabric)
    order = [int(np.flatnonzero((images == image.numpy()).all(axis=(1, 2, 3)))[0]) for image in batch.images]
    assert sorted(order) == list(range(7))
    assert np.array_equal(batch.labels, labels[order])
    assert np.array_equal(batch.scribbles, drawn_scribbles(labels)[order])
    assert torch.equal(batch.clean, batch.images)
    augmented = Batches(Source(slices, 0), Augment(), (0, 0))(0, training, fabric)
    assert not torch.equal(augmented.images, batch.images)


class Rank(Fabric):
    """One of several ranks, by itself."""

    def __init__(self, rank, ranks):
        super().__init__(accelerator="cpu", devices=1)
        self._rank, self._ranks = rank, ranks

    @property
    def global_rank(self):
        return self._rank

    @property
    def world_size(self):
        return self._ranks


def test_windows_hold_a_labelled_pixel_of_any_label_anywhere_in_them(make_slices):
    images = np.random.default_rng(0).normal(size=(2, 1, 48, 48)).astype(np.float32)
    labels = np.full((2, 48, 48), UNLABELLED, np.uint8)
    labels[:, 2, 3], labels[:, 20:40, 10:30], labels[:, 47, 47] = 1, 0, 2
    slices = make_slices(images, labels)
    source = Source(slices, 0, patch=16)
    rng = np.random.default_rng(1)
    seen, places = [], []
    for _ in range(600):
        rows, columns = source.window(1, rng).plane
        assert rows.stop - rows.start == columns.stop - columns.start == 16
        assert 0 <= rows.start <= 32
        assert 0 <= columns.start <= 32
        inside = labels[1][rows, columns]
        assert (inside != UNLABELLED).any()
        seen += set(np.unique(inside).tolist()) - {UNLABELLED}
        places.append((rows.start, columns.start))
    shares = [seen.count(label) / 600 for label in (0, 1, 2)]
    assert min(shares) > 0.25, "a label of one pixel is seen as often as one of 400"
    assert len(set(places)) > 120
    whole = (slice(0, 48), slice(0, 48))
    assert Source(slices, 0).window(1, rng).plane == Source(slices, 0, patch=64).window(1, rng).plane == whole


@pytest.fixture
def two_cases(make_slices):
    """Cases of 5 and of 2 slices, whose images hold the number of the slice; in each a single pixel is labelled."""
    images = np.arange(7, dtype=np.float32)[:, None, None, None] * np.ones((1, 2, 16, 16), np.float32)
    images[:, 1] += 100
    labels = np.full((7, 16, 16), UNLABELLED, np.uint8)
    labels[3, 4, 5] = labels[6, 9, 9] = 1
    slices = make_slices(images, labels, soft=np.ones((7, 3, 16, 16)))
    case = slices.index["cases"].pop("a")
    slices.index["cases"] |= {"a": {**case, "slices": 5}, "b": {**case, "slices": 2}}
    return slices


def test_blocks_hold_a_labelled_voxel_and_nothing_of_another_case(two_cases):
    source = Source(two_cases, 0, patch=8, depth=3)
    rng, firsts = np.random.default_rng(0), set()
    for _ in range(60):
        window = source.window(3, rng)
        block, labels = source.read("images", [window])[0], source.read("labels", [window])[0]
        assert block.shape == (2, 3, 8, 8)
        assert labels.shape == (3, 8, 8)
        assert source.read("soft", [window])[0].shape == (3, 3, 8, 8)
        assert (labels == 1).sum() == 1
        assert (np.diff(block[0, :, 0, 0]) == 1).all()
        assert (block[1] == block[0] + 100).all()
        firsts.add(window.places[0])
    assert firsts == {1, 2}, "within the case, wherever the labelled voxel is in the block"


def test_beyond_the_ends_of_a_case_nothing_is_labelled_and_its_last_slice_is_repeated(two_cases):
    source = Source(two_cases, 0, depth=4)
    seen = set()
    for seed in range(20):
        window = source.window(6, np.random.default_rng(seed))
        images, labels = source.read("images", [window])[0], source.read("labels", [window])[0]
        beyond = np.array([place not in (5, 6) for place in window.places])
        assert images[0, :, 0, 0].tolist() == [min(max(place, 5), 6) for place in window.places]
        assert (labels[beyond] == UNLABELLED).all()
        assert (source.read("soft", [window])[0][:, beyond] == 0).all()
        assert (labels[~beyond] == 1).sum() == 1
        seen.add(tuple(beyond))
    assert len(seen) == 3, "padding may lie below, above or on both sides"


def test_neighbouring_slices_are_further_channels_of_the_images_alone(two_cases, fabric):
    source = Source(two_cases, 0, neighbours=2)
    for place, expected in ((3, [3, 2, 4, 1, 4]), (6, [6, 5, 6, 5, 6])):
        window = source.window(place, np.random.default_rng(0))
        images = source.read("images", [window])[0]
        assert images[::2, 0, 0].tolist() == expected
        assert (images[1::2] == images[::2] + 100).all()
        assert source.read("labels", [window])[0].shape == (16, 16)
    batch = Batches(source, Augment(), (0, 0))(0, Training(iterations=1, batch=2), fabric)
    assert batch.images.shape == (2, 10, 16, 16)
    assert batch.labels.shape == (2, 16, 16)


def test_a_batch_of_blocks_is_augmented_and_the_same_again(two_cases, fabric):
    batches = Batches(Source(two_cases, 0, depth=3), Augment(gamma=0.5, low_resolution=1.0, blur=1.0), (0, 0))
    training = Training(iterations=1, batch=2, losses=(PartialCrossEntropy(), PartialDice()))
    one, other = batches(0, training, fabric), batches(0, training, fabric)
    assert one.images.shape == (2, 2, 3, 16, 16)
    assert one.labels.shape == (2, 3, 16, 16)
    assert torch.equal(one.images, other.images)
    logits = torch.randn(2, 2, 3, 16, 16)
    for loss in training.losses:  # blocks are no more to a loss than as many slices
        slices = Batch(one.images.movedim(2, 1).flatten(0, 1), one.labels.flatten(0, 1))
        assert torch.isclose(loss(logits, one), loss(logits.movedim(2, 1).flatten(0, 1), slices))


def test_all_parts_of_a_batch_are_cut_out_of_the_same_window(make_slices, fabric):
    rng = np.random.default_rng(0)
    side = 24  # numbers up to 2048 are themselves in the cache
    numbers = np.arange(3 * side * side, dtype=np.float32).reshape(3, 1, side, side)
    labels = rng.choice(np.array([0, 1, UNLABELLED], np.uint8), (3, side, side), p=[0.05, 0.05, 0.9])
    slices = make_slices(numbers, labels, scribbles=labels, inside=np.ones(labels.shape, bool))
    batches = Batches(Source(slices, 0, patch=16), None, (0, 0))
    training = Training(iterations=1, batch=3, losses=(ScribblesAndAreas(),))
    batch = batches(0, training, fabric)
    assert batch.images.shape == (3, 1, 16, 16)
    for image, cut, strokes in zip(batch.images, batch.labels, batch.scribbles, strict=True):
        places = image[0].numpy().astype(int)
        assert (labels.ravel()[places] == cut.numpy()).all()
        assert (cut == strokes).all()
        assert (np.diff(places, axis=1) == 1).all()
    again = batches(0, training, fabric)
    assert torch.equal(batch.images, again.images)
    assert not torch.equal(batch.images, batches(1, training, fabric).images)


def test_batches_visit_every_slice_once_an_epoch_and_ranks_share_them(make_slices):
    usable = [0, 2, 3, 5, 7, 8]
    images = np.arange(9, dtype=np.float32)[:, None, None, None] * np.ones((1, 4, 4), np.float32)
    labels = np.full((9, 4, 4), UNLABELLED, np.uint8)
    labels[usable, 1, 2] = 0
    batches = Batches(Source(make_slices(images, labels), 0), NOTHING, (0, 0))

    def drawn(iteration, rank):
        images = batches(iteration, Training(iterations=4, batch=2), Rank(rank, 3)).images
        return images[:, 0, 0, 0].round().int().tolist()

    for iteration in range(4):  # 3 ranks x 2 slices = one epoch an iteration
        assert sorted(n for rank in range(3) for n in drawn(iteration, rank)) == usable
    assert drawn(0, 0) != drawn(1, 0) or drawn(0, 1) != drawn(1, 1)


def test_a_diverged_training_stops_and_says_so(fit, boxes, often):
    boxes[0][0] = np.nan
    message = r"expected a finite loss, got nan .* lower the learning rate \(stages\.optimiser\.learning_rate"
    with pytest.raises(DataError, match=message):
        fit(10)


@pytest.fixture
def rates(monkeypatch):
    """The learning rate of every update, of both optimisers."""
    seen = []

    def spy(step):
        return lambda self, *args: (seen.append(self.param_groups[0]["lr"]), step(self, *args))

    for optimiser in (torch.optim.SGD, torch.optim.Adam):
        monkeypatch.setattr(optimiser, "step", spy(optimiser.step))
    return seen


def test_sgd_falls_linearly_to_nothing_and_resumes_to_the_same_weights(fit, often, rates):
    records = []
    whole = fit(10, records.append, SGD(learning_rate=0.1), name="whole")
    assert rates == pytest.approx([0.1 * (1 - i / 10) for i in range(10)])
    assert records[-1]["learning_rate"] == pytest.approx(0.01)

    def kill(record):
        if record["iteration"] == 6:
            raise Killed

    with pytest.raises(Killed):
        fit(10, kill, SGD(learning_rate=0.1))
    assert_same_weights(whole, fit(10, optimiser=SGD(learning_rate=0.1)))


OPTIMISERS = [SGD(learning_rate=0.1), Adam(decay=0.5, decay_every=3), CosineAdam()]


def test_the_cosine_falls_from_the_whole_learning_rate_to_nothing():
    factors = [CosineAdam().factor(iteration, 8) for iteration in range(9)]
    assert factors == pytest.approx([(1 + np.cos(np.pi * n / 8)) / 2 for n in range(9)])
    assert (factors[0], factors[4], factors[8]) == pytest.approx((1, 0.5, 0))


class Later(Batches):
    """The batches from the fifth iteration on."""

    def __call__(self, iteration, training, fabric):
        return super().__call__(iteration + 5, training, fabric)


@pytest.mark.parametrize("average", [0.0, 0.9])
@pytest.mark.parametrize("optimiser", OPTIMISERS, ids=["sgd", "adam", "cosine adam"])
def test_two_m_steps_that_share_a_schedule_are_one_of_twice_the_length(fit, rates, tmp_path, optimiser, average):
    shared = {"optimiser": optimiser, "average": average}
    whole = fit(10, name="whole", **shared)
    of_whole = rates.copy()
    rates.clear()
    halves = fit(5, name="first", span=10, **shared)
    last = tmp_path / "first.ckpt"
    fit(5, network=halves, name="second", span=10, start=5, before=last, batches=Later, **shared)
    assert rates == of_whole
    assert len(set(rates)) > 3
    assert_same_weights(whole, halves)


@pytest.mark.parametrize("optimiser", OPTIMISERS, ids=["sgd", "adam", "cosine adam"])
def test_an_m_step_that_shares_no_schedule_starts_anew(fit, rates, optimiser):
    network = fit(5, optimiser=optimiser, name="first")
    of_first = rates.copy()
    rates.clear()
    fit(5, optimiser=optimiser, network=network, name="second", batches=Later)
    assert rates == of_first


def test_without_the_checkpoint_before_it_the_optimiser_has_no_memory(fit, tmp_path):
    network = fit(5, name="first")
    fit(3, network=network, name="new", span=8, start=5)
    fit(3, network=network, name="carried", span=8, start=5, before=tmp_path / "first.ckpt")
    updates = {}
    for name in ("new", "carried"):
        state = torch.load(tmp_path / f"{name}.ckpt", weights_only=True)["optimiser_0"]["state"]
        updates[name] = {int(parameter["step"]) for parameter in state.values()}
    assert updates == {"new": {3}, "carried": {8}}


def test_a_killed_m_step_goes_on_from_its_own_checkpoint_not_from_the_one_before(fit, often, tmp_path):
    first = fit(5, name="first", span=16)
    carried_on = {"span": 16, "start": 5, "before": tmp_path / "first.ckpt"}
    start = {name: weights.clone() for name, weights in first.state_dict().items()}
    whole = fit(11, network=first, name="whole", **carried_on)

    def kill(record):
        if record["iteration"] == 7:
            raise Killed

    def again():
        network = new_network()
        network.load_state_dict(start)
        return network

    with pytest.raises(Killed):
        fit(11, kill, network=again(), **carried_on)
    records = []
    assert_same_weights(whole, fit(11, records.append, network=again(), **carried_on))
    assert records[0]["iteration"] == 5


# What losses see


def drawn_scribbles(labels):
    """The columns 1, 9, 17 and 25 of the labels."""
    return np.where(np.arange(32) % 8 == 1, labels, UNLABELLED).astype(np.uint8)


def test_a_loss_that_sees_scribbles_gets_them_and_other_losses_are_added(make_slices, boxes, train):
    images, labels = boxes
    slices = make_slices(images, labels, scribbles=drawn_scribbles(labels), inside=np.ones_like(labels))
    seen, records = [], []

    @dataclass(frozen=True)
    class Thousand(PartialCrossEntropy):
        def __call__(self, logits, batch):
            seen.append((tuple(logits.shape), tuple(batch.images.shape)))
            return 1000 + 0 * logits.sum()

    @dataclass(frozen=True)
    class Spy(ScribblesAndAreas):
        def __call__(self, logits, batch):
            drawn = batch.scribbles != UNLABELLED
            assert drawn.any()
            assert torch.equal(batch.labels[drawn], batch.scribbles[drawn])
            return super().__call__(logits, batch)

    training = Training(iterations=2, batch=3, losses=(Spy(), Thousand()))
    train(new_network(), training, slices, records.append)
    assert seen == [((3, 2, 32, 32), (3, 1, 32, 32))] * 2
    assert 1000 < records[-1]["loss"] < 1010


def test_an_m_step_reads_no_part_that_no_loss_needs(make_slices, boxes, fabric):
    slices = make_slices(*boxes)
    batches = Batches(Source(slices, 0), Augment(), (0, 0))
    assert not (slices.folder / "inside.raw").exists()
    assert batches(0, Training(iterations=1), fabric).parts().keys() == {"images", "labels"}
    with pytest.raises(FileNotFoundError, match="inside"):
        batches(0, Training(iterations=1, losses=(DenseCRFLoss(),)), fabric)


def test_an_m_step_gets_every_part_that_one_of_its_losses_needs(make_slices, boxes, fabric):
    images, labels = boxes
    slices = make_slices(images, labels, scribbles=drawn_scribbles(labels), inside=np.ones_like(labels))
    training = Training(iterations=1, batch=3, losses=(ScribblesAndAreas(), DenseCRFLoss()))
    batch = Batches(Source(slices, 0), Augment(), (0, 0))(0, training, fabric)
    assert batch.parts().keys() == {"images", "labels", "scribbles", "clean", "inside"}
    assert batch.inside.dtype == torch.bool
    assert not torch.equal(batch.clean, batch.images)


def test_scribbles_on_pixels_that_show_no_image_are_nothing_to_learn_from(make_slices, boxes, fabric):
    images, labels = boxes
    scribbles, inside = np.ones_like(labels), np.ones_like(labels)
    inside[:, :, :7] = 0
    slices = make_slices(images, labels, scribbles=scribbles, inside=inside)
    training = Training(iterations=1, batch=7, losses=(ScribblesAndAreas(),))
    batch = Batches(Source(slices, 0), NOTHING, (0, 0))(0, training, fabric)
    assert (batch.scribbles[:, :, :7] == UNLABELLED).all()
    assert (batch.scribbles[:, :, 7:] == 1).all()
    assert (slices.scribbles == 1).all()


@dataclass(frozen=True)
class SoftCrossEntropy(PartialCrossEntropy):
    """Cross-entropy with soft labels, each pixel as much as it is sure of."""

    kind: Literal["soft_cross_entropy"] = "soft_cross_entropy"
    needs: ClassVar[frozenset[str]] = frozenset({"soft", "confidence"})

    def __call__(self, logits, batch):
        assert batch.soft.shape == logits.shape == (3, 2, 32, 32)
        assert batch.confidence.shape == (3, 32, 32)
        assert batch.soft.dtype == batch.confidence.dtype == torch.float32
        assert batch.inside is batch.scribbles is batch.clean is None
        each = -(batch.soft * logits.log_softmax(1)).sum(1)
        return (batch.confidence * each).sum() / batch.confidence.sum()


def test_a_loss_of_soft_labels_and_confidence_gets_them_and_falls(make_slices, boxes, train, monkeypatch):
    monkeypatch.setattr(loop, "LOG_EVERY", 5)
    images, labels = boxes
    full = np.repeat(labels[:, 1::2], 2, axis=1)
    soft = np.stack([0.9 - 0.8 * full, 0.1 + 0.8 * full], axis=1)
    confidence = np.where(labels == UNLABELLED, 0.25, 1.0)
    records = []
    training = Training(iterations=20, batch=3, optimiser=Adam(learning_rate=0.01), losses=(SoftCrossEntropy(),))
    train(new_network(), training, make_slices(images, labels, soft=soft, confidence=confidence), records.append)
    losses = [record["loss"] for record in records]
    assert losses[-1] < 0.75 * losses[0]
    assert losses[-1] > 0.3, "the entropy of 0.9 and 0.1 is the least that it can be"


def test_what_a_training_needs_is_what_its_losses_need():
    both = Training(iterations=1, losses=(ScribblesAndAreas(), DenseCRFLoss()))
    assert both.needs == {"scribbles", "clean", "inside"}
    assert replace(both, losses=(PartialCrossEntropy(),)).needs == frozenset()
