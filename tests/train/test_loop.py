"""The M step learns, sees labelled pixels only, and continues where it was killed."""

import numpy as np
import pytest
import torch

from scribbleseg.train import loop
from scribbleseg.train.augment import Augment
from scribbleseg.train.loop import SGD, Training, m_step
from scribbleseg.train.losses import ScribblesAndAreas
from scribbleseg.train.unet import UNet
from scribbleseg.types import UNLABELLED, DataError

SPEC = UNet(base=4, padded=True, dropout=0.5)


class Killed(Exception):
    pass


@pytest.fixture
def fabric():
    from lightning_fabric import Fabric

    return Fabric(accelerator="cpu", devices=1)


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    labels = np.zeros((7, 32, 32), np.uint8)
    labels[:, 8:20, 10:24] = 1
    images = (labels + rng.normal(0, 0.3, labels.shape)).astype(np.float32)[:, None]
    labels[:, ::2] = UNLABELLED
    return images, labels


def train(fabric, data, folder, iterations, log=lambda record: None, network=None):
    torch.manual_seed(0)
    network = network or SPEC.build(1, 2)
    m_step(
        fabric, network, *data, Training(batch=3), Augment(), iterations, (0, 0), folder / "m_step.ckpt", log
    )  # fmt: skip
    return network


def test_the_loss_falls(fabric, data, tmp_path):
    records = []
    train(fabric, data, tmp_path, 60, records.append)
    assert [r["iteration"] for r in records] == [50, 60]
    assert records[-1]["loss"] < 0.5
    assert records[-1]["learning_rate"] == 0.001


def test_a_killed_m_step_ends_with_the_same_weights(fabric, data, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 4)
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    (tmp_path / "whole").mkdir()
    whole = train(fabric, data, tmp_path / "whole", 11)

    def kill(record):
        if record["iteration"] == 7:  # after the checkpoint at 4, not at one
            raise Killed

    with pytest.raises(Killed):
        train(fabric, data, tmp_path, 11, kill)
    records = []
    resumed = train(fabric, data, tmp_path, 11, records.append)
    assert records[0]["iteration"] == 5
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_unlabelled_slices_are_never_drawn(fabric, data, tmp_path):
    images, labels = data
    labels[3] = UNLABELLED
    images[3] = np.nan  # would reach the loss at once
    records = []
    train(fabric, (images, labels), tmp_path, 6, records.append)
    assert np.isfinite(records[-1]["loss"])


def test_no_labels_at_all_is_an_error(fabric, data, tmp_path):
    with pytest.raises(ValueError, match="expected labelled pixels"):
        train(fabric, (data[0], np.full_like(data[1], UNLABELLED)), tmp_path, 2)


def test_batches_visit_every_slice_once_an_epoch_and_ranks_share_them():
    usable = np.array([0, 2, 3, 5, 7, 8])
    ranks = [loop._Batches(usable, 2, 3, rank, (0, 0)) for rank in range(3)]
    for iteration in range(4):  # 3 ranks x 2 slices = one epoch an iteration
        dealt = np.concatenate([batches(iteration) for batches in ranks])
        assert sorted(dealt) == usable.tolist()
    assert not np.array_equal(ranks[0](0), ranks[0](1)) or not np.array_equal(ranks[1](0), ranks[1](1))


def test_a_diverged_training_stops_and_says_so(fabric, data, tmp_path):
    images, labels = data
    images[0] = np.nan
    with pytest.raises(DataError, match=r"expected a finite loss, got nan .* lower training\.learning_rate"):
        train(fabric, (images, labels), tmp_path, 60)


def test_sgd_falls_linearly_to_nothing_and_resumes_to_the_same_weights(fabric, data, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 4)
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    spec, rates, records = SGD(batch=3, learning_rate=0.1), [], []
    step = torch.optim.SGD.step
    monkeypatch.setattr(
        torch.optim.SGD, "step", lambda self, *args: (rates.append(self.param_groups[0]["lr"]), step(self, *args))
    )

    def run(folder, log):
        torch.manual_seed(0)
        network = SPEC.build(1, 2)
        m_step(fabric, network, *data, spec, Augment(), 10, (0, 0), folder / "m_step.ckpt", log)
        return network.state_dict()

    def kill(record):
        if record["iteration"] == 6:
            raise Killed

    (tmp_path / "whole").mkdir()
    whole = run(tmp_path / "whole", records.append)
    assert rates == pytest.approx([0.1 * (1 - i / 10) for i in range(10)])
    assert records[-1]["learning_rate"] == pytest.approx(0.01)
    with pytest.raises(Killed):
        run(tmp_path, kill)
    assert all(torch.equal(a, b) for a, b in zip(whole.values(), run(tmp_path, records.append).values(), strict=True))


def test_a_loss_that_sees_scribbles_gets_them_and_a_crf_is_added(fabric, data, tmp_path):
    images, labels = data
    scribbles = np.where(np.arange(32) % 8 == 1, labels.swapaxes(1, 2), UNLABELLED).swapaxes(1, 2).astype(np.uint8)
    seen, records = [], []

    def crf(logits, batch):
        seen.append((tuple(logits.shape), tuple(batch.shape)))
        return 1000 + 0 * logits.sum()

    class Spy(ScribblesAndAreas):
        def __call__(self, logits, labels, scribbles):
            drawn = scribbles != UNLABELLED
            assert drawn.any()
            assert torch.equal(labels[drawn], scribbles[drawn])
            return super().__call__(logits, labels, scribbles)

    m_step(
        fabric, SPEC.build(1, 2), images, labels, Training(batch=3), Augment(), 2, (0, 0), tmp_path / "m_step.ckpt",
        records.append, Spy(), scribbles, crf,
    )  # fmt: skip
    assert seen == [((3, 2, 32, 32), (3, 1, 32, 32))] * 2
    assert 1000 < records[-1]["loss"] < 1010
