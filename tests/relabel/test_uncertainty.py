"""Uncertainty returns to the native grid, and ranks cases by its stated rule."""

import csv
from copy import deepcopy
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from scipy.stats import ttest_ind_from_stats

from scribbleseg.data.formats import write_map
from scribbleseg.data.preprocess import Preprocess
from scribbleseg.relabel.decide import WelchTest, welch_p
from scribbleseg.relabel.predict import Segmenter, sample
from scribbleseg.relabel.uncertainty import Rank, Uncertainty, rank, uncertainty, write_ranking, write_uncertainty
from scribbleseg.training.crf_rnn import CRFRNN
from scribbleseg.training.network import switch_dropout_on
from scribbleseg.training.unet import UNet
from scribbleseg.types import UNLABELLED, Case, DataError, Geometry

TEST = WelchTest(passes=5)
UNET = UNet(base=4, padded=True, dropout=0.5)


def case_of(image, name="a", spacing_mm=1.0):
    geometry = Geometry(image.shape[1:], np.diag([spacing_mm, spacing_mm, 8.0, 1.0]))
    return Case(name, image, np.full(image.shape[1:], UNLABELLED, np.uint8), geometry)


def random_case(side=32, **kwargs):
    return case_of(np.random.default_rng(0).normal(size=(1, 3, side, side)).astype(np.float32), **kwargs)


@pytest.fixture
def segmenter():
    """On a grid of 32 x 32 pixels of 1 mm."""
    torch.manual_seed(0)
    network = UNET.build(1, 3)
    with torch.no_grad():
        for _ in range(30):
            network(torch.randn(4, 1, 32, 32))
    fabric = Fabric(accelerator="cpu", devices=1)
    return Segmenter(network, Preprocess(spacing_mm=1.0, size=32), ("background", "a", "b"), fabric)


def test_where_the_grids_are_the_same_maps_are_those_of_the_samples(segmenter):
    case = random_case()
    found = uncertainty(segmenter, case, TEST, seed=3)
    samples = sample(segmenter.fabric, segmenter.network, segmenter.slices(case), 5, 3)
    assert np.allclose(found.probabilities, samples.probabilities.swapaxes(0, 1), atol=1e-6)
    assert np.allclose(found.p, welch_p(samples), atol=1e-6)
    assert np.allclose(found.entropy, samples.entropy, atol=1e-6)
    assert np.allclose(found.mutual_information, samples.mutual_information, atol=1e-6)


def test_outside_the_field_of_view_background_is_certain(segmenter):
    found = uncertainty(segmenter, random_case(side=48), TEST)
    outside = np.ones((3, 48, 48), bool)
    outside[:, 8:40, 8:40] = False
    assert (found.probabilities[0][outside] == 1).all()
    for values in (found.p, found.entropy, found.mutual_information):
        assert values.shape == (3, 48, 48)
        assert values.dtype == np.float32
        assert (values[outside] == 0).all()
        assert (values[~outside] > 0).any()


def test_maps_are_interpolated_to_the_native_grid(segmenter):
    found = uncertainty(segmenter, random_case(side=20, spacing_mm=1.6), TEST)
    assert found.p.shape == found.entropy.shape == found.mutual_information.shape == (3, 20, 20)
    assert np.allclose(found.probabilities.sum(axis=0), 1, atol=1e-5)
    assert found.entropy.max() <= np.log(3) + 1e-5


@pytest.fixture
def around(segmenter):
    """A CRF-RNN around the segmenter's network."""
    spec = CRFRNN(w1=5.0, w2=10.0, sigma_alpha=20.0, sigma_beta=0.05, sigma_gamma=2.0, unaries=UNET)
    network = spec.build(1, 3)
    network.unaries.load_state_dict(segmenter.network.state_dict())
    return replace(segmenter, network=network)


def test_the_logits_of_a_crf_rnn_are_those_at_the_rnns_input(segmenter, around):
    case = random_case()
    assert not np.allclose(around.probabilities(case), segmenter.probabilities(case), atol=1e-3)
    inside, whole = (each.samples(case, 5, 3) for each in (segmenter, around))
    assert np.array_equal(whole.mean, inside.mean)
    assert np.array_equal(whole.variance, inside.variance)
    assert not np.allclose(whole.probabilities, inside.probabilities, atol=1e-3)


def test_the_softmax_of_a_crf_rnns_passes_is_the_rnns_output(around):
    """Against plain passes: dropout switched on, the whole network run each time."""
    case = random_case()
    found = around.samples(case, 5, 3)
    network = deepcopy(around.network).eval().to(memory_format=torch.channels_last)
    switch_dropout_on(network)
    images = torch.from_numpy(around.slices(case)).contiguous(memory_format=torch.channels_last)
    torch.manual_seed(3)
    with torch.inference_mode():
        logits = torch.stack([network.unaries(images) for _ in range(5)])
        softmax = torch.stack([network.rnn(each, images).softmax(1) for each in logits])
    assert np.allclose(found.mean, logits.mean(0), atol=1e-4)
    assert np.allclose(found.variance, logits.var(0), atol=1e-4)
    assert np.allclose(found.probabilities, softmax.mean(0), atol=1e-4)
    entropy = -(softmax * softmax.clamp(min=1e-30).log()).sum(2).mean(0)
    assert np.allclose(found.mean_entropy, entropy, atol=1e-3)


def test_welchs_test_asks_the_logits_of_the_two_labels_that_the_rnn_finds_likeliest(around):
    samples = around.samples(random_case(), 5, 3)
    first, second = np.argsort(-samples.probabilities, axis=1, kind="stable")[:, :2].swapaxes(0, 1)
    expected = np.empty(first.shape)
    for place in np.ndindex(*first.shape):
        chosen = [(place[0], label, *place[1:]) for label in (first[place], second[place])]
        means, variances = ([moment[at] for at in chosen] for moment in (samples.mean, samples.variance))
        sd = np.sqrt(np.array(variances, np.float64))
        test = ttest_ind_from_stats(means[0], sd[0], 5, means[1], sd[1], 5, equal_var=False)
        expected[place] = test.pvalue
    assert np.allclose(welch_p(samples), expected, atol=1e-5)


def test_other_channels_than_in_training_are_refused(segmenter):
    with pytest.raises(DataError, match="case a .*expected 1 channels"):
        uncertainty(segmenter, case_of(np.zeros((2, 3, 32, 32), np.float32)), TEST)


def maps(p, labels, entropy):
    """A row of voxels."""
    p, entropy = (np.array(values, np.float32).reshape(1, 1, -1) for values in (p, entropy))
    likely = np.eye(2, dtype=np.float32)[labels].T.reshape(2, 1, 1, -1)
    return Uncertainty(likely, p, entropy, entropy / 2)


def test_a_case_is_scored_over_structures_and_uncertain_voxels():
    found = maps(p=[0, 0.05, 0.2, 0.04], labels=[1, 0, 1, 0], entropy=[0.1, 0.2, 0.6, 0.7])
    row = rank("a", found, TEST)
    assert row.voxels == 3
    assert (row.score, row.uncertain) == pytest.approx((0.3, 2 / 3))
    wider = maps(
        p=[0, 0.05, 0.2, 0.04] + [0] * 9,
        labels=[1, 0, 1, 0] + [0] * 9,
        entropy=[0.1, 0.2, 0.6, 0.7] + [0] * 9,
    )
    assert rank("a", wider, TEST) == row, "background that is certain does not dilute it"
    assert rank("a", found, WelchTest(significance=0.1)).voxels == 2


def test_nothing_found_and_nothing_uncertain_scores_0():
    assert rank("empty", maps(p=[0, 0], labels=[0, 0], entropy=[0, 0]), TEST) == Rank("empty", 0.0, 0.0, 0)


def test_maps_are_written_on_the_image_s_grid(tmp_path, segmenter):
    case = random_case(side=20, spacing_mm=1.6, name="patient")
    found = uncertainty(segmenter, case, TEST)
    write_uncertainty(tmp_path / "new", case, found)
    expected = {"uncertainty_p": found.p, "entropy": found.entropy, "mutual_information": found.mutual_information}
    assert {path.name for path in (tmp_path / "new").iterdir()} == {f"patient_{name}.nii.gz" for name in expected}
    for name, values in expected.items():
        written = nib.load(tmp_path / "new" / f"patient_{name}.nii.gz")
        assert written.get_data_dtype() == np.float32
        assert np.array_equal(np.asarray(written.dataobj), values.T)
        assert np.allclose(written.affine, case.geometry.affine)


def test_a_map_of_another_shape_or_ending_is_refused(tmp_path):
    geometry = Geometry((2, 3, 4), np.eye(4))
    with pytest.raises(ValueError, match=r"shape \(2, 3, 4\), got \(2, 3, 5\)"):
        write_map(tmp_path / "a.nii.gz", np.zeros((2, 3, 5), np.float32), geometry)
    with pytest.raises(ValueError, match="not as a.png"):
        write_map(tmp_path / "a.png", np.zeros((2, 3, 4), np.float32), geometry)
    assert not list(tmp_path.iterdir())


def test_the_ranking_starts_with_the_most_uncertain_case(tmp_path):
    ranks = [Rank("c", 0.1, 0.5, 7), Rank("b", 0.3, 0.2, 9), Rank("a", 0.1, 0.1, 3)]
    write_ranking(tmp_path, iter(ranks))
    rows = list(csv.DictReader((tmp_path / "uncertainty.csv").read_text().splitlines()))
    assert [row["case"] for row in rows] == ["b", "a", "c"]
    assert rows[0] == {"case": "b", "score": "0.3", "uncertain": "0.2", "voxels": "9"}
