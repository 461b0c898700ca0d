"""The graph cut against enumeration, scipy's maximum flow and double loops, and its invariants."""

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import maximum_flow

from scribbleseg.phantoms import brain_tumour
from scribbleseg.seeds import GraphCut, graph_cut, grow
from scribbleseg.seeds.graph_cut import (
    OUTSIDE,
    contacts,
    eroded,
    log_likelihood_ratio,
    minimum_cut,
    seeded,
    supervoxels,
)
from scribbleseg.types import UNLABELLED, DataError

MM = (1.0, 1.0, 1.0)
SEEDER = GraphCut(channel=0, erosion=1)


def head(shape=(9, 30, 32)):
    """A brain around 1, air of exactly 0 around it, two bright blobs of which one is scribbled; and the scribbles."""
    rng = np.random.default_rng(0)
    image = np.zeros((1, *shape), np.float32)
    image[:, 1:-1, 2:-2, 3:-3] = rng.normal(-0.5, 0.1, (shape[0] - 2, shape[1] - 4, shape[2] - 6))
    image[:, 2:-2, 6:18, 6:18] += 2.0
    image[:, 3:-3, 21:26, 22:27] += 2.0
    scribbles = np.full(shape, UNLABELLED, np.uint8)
    scribbles[2:-2, 11, 8:16] = 1
    scribbles[1:-1, 22, 6:12] = 0
    return image, scribbles


def graph(rng, n):
    """A random graph with whole weights 0..4, and seeds of both sides, no seed of either, or of one."""
    i, j = np.triu_indices(n, 1)
    there = rng.random(len(i)) < 0.6
    weights = rng.integers(0, 5, there.sum()).astype(np.float64)
    seeds = rng.choice([-1.0, 0.0, 0.0, 1.0], n)
    return coo_array((weights, (i[there], j[there])), shape=(n, n)), seeds


def cost(weights, pull, sides):
    """What a division costs, up to a constant."""
    severed = sum(w for i, j, w in zip(*weights.coords, weights.data, strict=True) if sides[i] != sides[j])
    return severed + sum(p for p, side in zip(pull, sides, strict=True) if side < 0)


@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.booleans())
@settings(max_examples=150, deadline=None)
def test_a_cut_is_the_cheapest_of_all_divisions_and_the_smallest_of_those(seed, n, pulled):
    rng = np.random.default_rng(seed)
    weights, seeds = graph(rng, n)
    pull = rng.integers(-4, 5, n).astype(np.float64) * pulled
    allowed = [s for s in product((-1, 1), repeat=n) if all(a in (0, b) for a, b in zip(seeds, s, strict=True))]
    cheapest = min(cost(weights, pull, s) for s in allowed)
    best = [s for s in allowed if cost(weights, pull, s) == cheapest]
    found = minimum_cut(weights, seeds, pull)
    assert tuple(found) == min(best, key=sum)


def test_a_cut_costs_what_flows():
    rng = np.random.default_rng(1)
    weights, _ = graph(rng, 60)
    seeds = np.zeros(60)
    seeds[0], seeds[-1] = -1, 1
    flow = maximum_flow(csr_array(weights + weights.T, dtype=np.int32), 0, 59).flow_value
    assert flow > 0
    assert cost(weights, np.zeros(60), minimum_cut(weights, seeds, np.zeros(60))) == flow


def test_numbers_of_nodes_do_not_matter(monkeypatch):
    image, scribbles = head()
    before = SEEDER(image, scribbles, MM)
    plain = graph_cut.supervoxels

    def renumbered(*arguments):
        regions = plain(*arguments)
        new = np.random.default_rng(2).permutation(regions.max() + 1).astype(np.int32)
        return np.where(regions == OUTSIDE, np.int32(OUTSIDE), new[regions])

    monkeypatch.setattr(graph_cut, "supervoxels", renumbered)
    np.testing.assert_array_equal(SEEDER(image, scribbles, MM), before)


def test_contacts_are_the_faces_of_a_double_loop():
    rng = np.random.default_rng(3)
    regions = rng.integers(-1, 6, (4, 5, 6)).astype(np.int32)
    mm = (3.0, 2.0, 0.5)
    slow = np.zeros((6, 6))
    for p, q in product(np.ndindex(regions.shape), repeat=2):
        step = np.subtract(q, p)
        a, b = regions[p], regions[q]
        if step.min() == 0 and step.sum() == 1 and OUTSIDE not in (a, b) and a != b:
            slow[min(a, b), max(a, b)] += np.prod(mm) / mm[int(step.argmax())]
    found = contacts(regions, 6, mm)
    np.testing.assert_allclose(found.toarray(), slow)
    assert found.nnz == np.count_nonzero(slow)


def test_parts_without_a_seed_of_their_side():
    chain = coo_array((np.ones(5), (np.arange(5), np.arange(1, 6))), shape=(6, 6))
    sides = np.array([-1, -1, 1, 1, -1, 1])
    seeds = np.array([0.0, -1.0, 0.0, 1.0, 0.0, 0.0])
    assert seeded(chain, sides, seeds).tolist() == [True, True, True, True, False, False]


def test_supervoxels_fill_the_mask_and_follow_edges():
    image, _ = head()
    inside = image[0] != 0
    regions = supervoxels(image[0], inside, MM, 3.0, 0.3)
    np.testing.assert_array_equal(regions == OUTSIDE, ~inside)
    assert (np.bincount(regions[inside]) > 0).all()
    bright = image[0][inside] > 0.5
    share = np.bincount(regions[inside], bright.astype(float)) / np.bincount(regions[inside])
    assert (np.minimum(share, 1 - share) * np.bincount(regions[inside])).sum() < 0.01 * inside.sum()


def test_supervoxels_do_not_see_what_is_outside():
    image, _ = head()
    inside = image[0] != 0
    other = np.where(inside, image[0], np.float32(7.0))
    np.testing.assert_array_equal(*(supervoxels(i, inside, MM, 3.0, 0.3) for i in (image[0], other)))


def test_supervoxels_are_as_large_as_millimetres_say():
    noise = np.random.default_rng(4).normal(size=(12, 24, 24)).astype(np.float32) * 0.01
    everywhere = np.ones(noise.shape, bool)
    fine, thick = (supervoxels(noise, everywhere, mm, 4.0, 0.3).max() + 1 for mm in (MM, (4.0, 1.0, 1.0)))
    assert fine == pytest.approx(12 * 24 * 24 / 4**3, rel=0.2)
    assert thick == pytest.approx(12 * 24 * 24 / 4**2, rel=0.2)


def test_likelihoods_name_the_likelier_label():
    rng = np.random.default_rng(5)
    values = np.concatenate([rng.normal(0, 0.3, 500), rng.normal(2, 0.3, 500)])
    low = np.arange(1000) < 500
    at = np.array([values.min(), 0.0, 2.0, values.max()])
    ratio = log_likelihood_ratio(values, ~low, low, at)
    assert (np.sign(ratio) == [-1, -1, 1, 1]).all()
    np.testing.assert_allclose(log_likelihood_ratio(values, low, ~low, at), -ratio)


@pytest.mark.parametrize("pixels", [0, 1, 2])
def test_erosion_equals_a_loop_over_squares(pixels):
    labels = np.random.default_rng(6).choice(np.array([0, 0, 0, 0, 0, 3, UNLABELLED], np.uint8), (2, 12, 13))
    labels[1, :, 5:] = 3
    slow = np.full_like(labels, UNLABELLED)
    for z, y, x in np.ndindex(labels.shape):
        square = labels[z, max(y - pixels, 0) : y + pixels + 1, max(x - pixels, 0) : x + pixels + 1]
        if len(np.unique(square)) == 1:
            slow[z, y, x] = labels[z, y, x]
    np.testing.assert_array_equal(eroded(labels, pixels), slow)


def test_a_scribbled_blob_is_found_and_nothing_else():
    image, scribbles = head()
    labels = GraphCut(channel=0, erosion=0)(image, scribbles, MM)
    blob = np.zeros(labels.shape, bool)
    blob[2:-2, 6:18, 6:18] = True
    lookalike = np.zeros(labels.shape, bool)
    lookalike[3:-3, 21:26, 22:27] = True
    assert ((labels == 1) & blob).sum() > 0.97 * max(blob.sum(), (labels == 1).sum())
    assert (labels[lookalike] == UNLABELLED).mean() > 0.9
    assert (labels[image[0] == 0] == UNLABELLED).all()
    assert (labels[(image[0] != 0) & ~blob & ~lookalike] == 0).mean() > 0.97


def test_a_dark_core_is_not_background():
    image, scribbles = head()
    image[:, 3:-3, 13:16, 10:14] -= 2.0
    labels = GraphCut(channel=0, erosion=0)(image, scribbles, MM)
    assert (labels[4, 13:16, 10:14] == UNLABELLED).mean() > 0.9


def test_without_histograms_edges_decide():
    image, scribbles = head()
    labels = GraphCut(channel=0, sigma=0.2, likelihood=0.0, erosion=0)(image, scribbles, MM)
    assert (labels[3:-3, 21:26, 22:27] == 0).all()  # the other blob: nothing pulls it out of the background
    assert (labels[2:-2, 6:18, 6:18] == 1).mean() > 0.97


def test_labels_move_with_the_value_of_the_structure():
    image, scribbles = head()
    ones = SEEDER(image, scribbles, MM)
    scribbles[scribbles == 1] = 3
    np.testing.assert_array_equal(SEEDER(image, scribbles, MM), np.where(ones == 1, 3, ones))


def test_more_erosion_labels_less_and_always_the_scribbles():
    image, scribbles = head()
    scribbles[4, 19, 10] = 1  # across the border
    drawn = scribbles != UNLABELLED
    grown = [GraphCut(channel=0, erosion=pixels)(image, scribbles, MM) for pixels in (0, 1, 2, 3)]
    for labels in grown:
        np.testing.assert_array_equal(labels[drawn], scribbles[drawn])
    for more, less in pairwise(grown):
        kept = less != UNLABELLED
        assert kept.sum() < (more != UNLABELLED).sum()
        np.testing.assert_array_equal(less[kept], more[kept])


@pytest.mark.parametrize("label", [0, 1, None])
def test_scribbles_of_one_kind_stay_as_they_are(label):
    image, scribbles = head()
    scribbles[scribbles != label if label is not None else ...] = UNLABELLED
    np.testing.assert_array_equal(SEEDER(image, scribbles, MM), scribbles)
    if label == 1:
        scribbles[0] = 0  # on air alone: it says nothing of the brain
        np.testing.assert_array_equal(SEEDER(image, scribbles, MM), scribbles)
    np.testing.assert_array_equal(SEEDER(np.zeros_like(image), scribbles, MM), scribbles)


@pytest.mark.parametrize("likelihood", [0.0, 0.1])
def test_a_part_of_the_brain_out_of_reach_is_unlabelled(likelihood):
    image, scribbles = head()
    image[:, :, :, 19:21] = 0.0
    image[:, :, 19:, :] = image[:, :, 19:, :].clip(max=0.0)  # like background, but on an island without scribbles
    scribbles[1:-1, 22, 6:12] = UNLABELLED
    scribbles[1:-1, 4, 6:12] = 0
    image[:, :, 19, :] = 0.0
    labels = GraphCut(channel=0, likelihood=likelihood, erosion=0)(image, scribbles, MM)
    assert (labels[1:-1, 22:-2, 3:-3] != 0).mean() > 0.8
    assert (labels[1:-1, 20:-2, 3:19][image[0, 1:-1, 20:-2, 3:19] != 0] == UNLABELLED).all()


@given(st.integers(0, 2**32 - 1), st.tuples(*[st.integers(1, 7)] * 3), st.sampled_from([MM, (8.0, 1.5, 1.5)]))
@settings(max_examples=60, deadline=None)
def test_any_volume_keeps_its_scribbles_and_gains_no_label(seed, shape, mm):
    rng = np.random.default_rng(seed)
    image = (rng.normal(size=(2, *shape)) * (rng.random(shape) < 0.8)).astype(np.float32)
    scribbles = rng.choice(np.array([0, 2, UNLABELLED], np.uint8), shape)
    labels = GraphCut(channel=1, erosion=0)(image, scribbles, mm)
    drawn = scribbles != UNLABELLED
    np.testing.assert_array_equal(labels[drawn], scribbles[drawn])
    assert set(np.unique(labels)) <= {0, 2, UNLABELLED}


def test_a_constant_brain_is_divided_between_its_scribbles():
    image, scribbles = head()
    image[image != 0] = 0.1
    assert set(np.unique(SEEDER(image, scribbles, MM))) == {0, 1, UNLABELLED}


def test_other_processes_grow_the_same():
    image, scribbles = head()
    here = SEEDER(image, scribbles, MM)
    for labels in grow(SEEDER, [(image, scribbles, MM)] * 3, workers=2):
        np.testing.assert_array_equal(labels, here)


def test_bad_data_are_refused():
    image, scribbles = head()
    with pytest.raises(DataError, match="seeds.channel: expected one of the image's 1 channels"):
        GraphCut()(image, scribbles, MM)
    broken = image.copy()
    broken[0, 4, 4, 4] = np.inf
    with pytest.raises(DataError, match="graph cut: expected finite intensities, got 1"):
        SEEDER(broken, scribbles, MM)
    scribbles[5, 5, 5] = 2
    with pytest.raises(DataError, match=r"one structure, got the labels 1, 2; set seeds.kind to random_walker"):
        SEEDER(image, scribbles, MM)


def test_a_phantom_tumour():
    image, truth = brain_tumour(np.random.default_rng(7), (40, 72, 60), (3.0, 2.5, 2.5))
    brain = (image != 0).any(axis=0)
    normalised = np.where(brain, image - image[:, brain].mean(axis=1)[:, None, None, None], np.float32(0.0))
    normalised = (normalised / normalised[:, brain].std(axis=1)[:, None, None, None]).astype(np.float32)
    tumour = truth > 0
    scribbles = np.full(truth.shape, UNLABELLED, np.uint8)
    middle = [int(np.median(where)) for where in np.nonzero(tumour)]
    scribbles[:, middle[1]][tumour[:, middle[1]]] = 1
    scribbles[:, :, truth.shape[2] // 2][(brain & ~tumour)[:, :, truth.shape[2] // 2]] = 0
    labels = GraphCut(erosion=0)(normalised, scribbles, (3.0, 2.5, 2.5))
    assert 2 * (tumour & (labels == 1)).sum() > 0.85 * (tumour.sum() + (labels == 1).sum())
