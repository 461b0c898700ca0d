"""Clusters of a tumour: what k-means sees, how the clusters are named, and every set of structures."""

import math
from itertools import chain, combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from scribbleseg.data.layouts.brats import ED, ET, LABEL_NAMES, NCR
from scribbleseg.substructures import KMeans, cluster
from scribbleseg.substructures.cluster import depth_mm, features
from scribbleseg.types import DataError

MM = (1.0, 1.0, 1.0)
SUBSETS = [frozenset(s) for s in chain.from_iterable(combinations((NCR, ED, ET), n) for n in range(4))]
LOOKS = {NCR: (-1.0, -0.5, 1.0, 0.0), ED: (0.0, 0.2, 1.5, 1.5), ET: (0.2, 2.5, 0.5, 0.5)}
"""Mean T1, T1ce, T2 and FLAIR of each structure."""


def planted(present, seed=0, shape=(12, 20, 20), noise=0.1):
    """Nested shells, ED around ET around NCR/NET, of those that are present: image and truth."""
    rng = np.random.default_rng(seed)
    z, y, x = np.indices(shape)
    radius = np.sqrt((1.6 * (z - 5.5)) ** 2 + (y - 9.0) ** 2 + (x - 10.0) ** 2)
    truth = np.zeros(shape, np.uint8)
    for outer, value in zip((8.5, 6.5, 4.5), [v for v in (ED, ET, NCR) if v in present], strict=False):
        truth[radius < outer] = value
    image = rng.normal(0, noise, (4, *shape))
    for value, look in LOOKS.items():
        image[:, truth == value] += np.array(look)[:, None]
    return image.astype(np.float32), truth


def random_case(seed, shape=(5, 7, 8)):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(4, *shape)).astype(np.float32), rng.random(shape) < 0.5


def test_labels_are_those_of_the_data_set():
    assert [LABEL_NAMES[value] for value in (0, NCR, ED, ET)] == ["background", "NCR/NET", "ED", "ET"]


@pytest.mark.parametrize("present", SUBSETS, ids=sorted)
def test_planted_structures_are_found(present):
    image, truth = planted(present)
    np.testing.assert_array_equal(KMeans()(image, truth > 0, present, MM), truth)


@pytest.mark.parametrize("present", SUBSETS, ids=sorted)
@pytest.mark.parametrize("noisy", [True, False])
def test_labels_are_those_present_and_stay_inside(present, noisy):
    image, tumour = random_case(1)
    labels = KMeans()(image if noisy else np.zeros_like(image), tumour, present, MM)
    assert labels.dtype == np.uint8
    assert not labels[~tumour].any()
    assert set(np.unique(labels[tumour]).tolist()) <= (present or {0})
    if noisy and present:
        assert set(np.unique(labels[tumour]).tolist()) == present


def test_without_a_structure_the_tumour_is_background():
    image, tumour = random_case(2)
    assert not KMeans()(image, tumour, frozenset(), MM).any()


@pytest.mark.parametrize("present", SUBSETS, ids=sorted)
def test_an_empty_tumour_passes_through(present):
    image, tumour = random_case(3)
    assert not KMeans()(image, np.zeros_like(tumour), present, MM).any()


@pytest.mark.parametrize(("present", "expected"), [({1, 2, 3}, ED), ({1, 2}, ED), ({2, 3}, ED), ({1, 3}, NCR)])
@pytest.mark.parametrize("case", ["one voxel", "all alike"])
def test_too_few_clusters_are_edema_or_else_net(present, expected, case):
    image, tumour = random_case(4)
    if case == "one voxel":
        tumour = np.zeros_like(tumour)
        tumour[2, 3, 4] = True
    else:
        image = np.full_like(image, 0.7)
    labels = KMeans()(image, tumour, frozenset(present), MM)
    np.testing.assert_array_equal(labels, expected * tumour)


def test_as_many_voxels_as_structures_are_one_cluster_each():
    tumour = np.zeros((1, 1, 5), bool)
    tumour[0, 0, 1:4] = True
    image = np.zeros((4, 1, 1, 5), np.float32)
    image[1, 0, 0] = 0, 1, 5, 3, 0
    image[0, 0, 0] = 0, 1, 0, -4, 0
    labels = KMeans()(image, tumour, frozenset({NCR, ET}), MM)
    assert labels[0, 0, 2] == ET
    assert sorted(KMeans()(image, tumour, frozenset({NCR, ED, ET}), MM)[tumour]) == [NCR, ED, ET]


def slow_features(voxels, enhancement):
    def variance(values):
        mean = math.fsum(values) / len(values)
        return math.fsum((v - mean) ** 2 for v in values) / len(values)

    t1, t1ce, t2, flair = (channel.tolist() for channel in voxels)
    rows = []
    for i in range(len(t1)):
        w_t2 = min(1, variance(t1ce) / variance(t2))
        w_fl = min(1, variance(t1ce) / variance(flair))
        rows.append([t1[i], enhancement * t1ce[i], w_t2 * t2[i], w_fl * flair[i], enhancement * (t1ce[i] - t1[i])])
    return np.array(rows)


@pytest.mark.parametrize("scale", [(1, 0.5, 2, 3), (1, 2, 1, 4), (1, 3, 1, 0.5)])
def test_features_are_the_formula(scale):
    voxels = (np.random.default_rng(5).normal(1, 1, (4, 30)) * np.array(scale)[:, None]).astype(np.float32)
    np.testing.assert_allclose(features(voxels), slow_features(voxels, 2), rtol=1e-9)
    np.testing.assert_allclose(features(voxels, 3.5), slow_features(voxels, 3.5), rtol=1e-9)


def test_a_constant_channel_has_weight_1():
    voxels = np.random.default_rng(6).normal(size=(4, 9)).astype(np.float32)
    voxels[2:] = 0.25
    np.testing.assert_array_equal(features(voxels)[:, 2:4], 0.25)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([(1.0, 1.0, 1.0), (3.0, 1.0, 0.5)]))
def test_depth_is_the_distance_to_the_nearest_voxel_outside(seed, spacing_mm):
    tumour = np.random.default_rng(seed).random((3, 4, 4)) < 0.8
    outside = np.argwhere(~np.pad(tumour, 1)) - 1
    inside = np.argwhere(tumour)
    slow = [min(math.dist(np.multiply(a, spacing_mm), np.multiply(b, spacing_mm)) for b in outside) for a in inside]
    np.testing.assert_allclose(depth_mm(tumour, spacing_mm), slow, rtol=1e-12)


def test_enhancement_decides_between_t1ce_and_the_rest():
    """Four groups by two values of T1ce and two of FLAIR: a large weight divides by T1ce, a small one by FLAIR."""
    image, tumour = random_case(12)
    image *= 0.01
    bright, wet = (np.random.default_rng(seed).random(tumour.shape) < 0.5 for seed in (13, 14))
    image[1] += bright
    image[3] += wet
    for enhancement, group in ((5.0, bright), (0.1, wet)):
        labels = KMeans(enhancement=enhancement)(image, tumour, frozenset({NCR, ET}), MM)
        assert len({(label, side) for label, side in zip(labels[tumour], group[tumour], strict=True)}) == 2


def slow_names(numbers, t1ce, depth, present):
    """The table, cluster by cluster."""
    mean = {k: (np.mean(t1ce[numbers == k]), np.mean(depth[numbers == k])) for k in sorted(set(numbers.tolist()))}
    names = {}
    if ET in present:
        names[max(mean, key=lambda k: mean[k][0])] = ET
    if ED in present:
        names[min((k for k in mean if k not in names), key=lambda k: mean[k][1])] = ED
    return [names.get(k, NCR) for k in mean]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([s for s in SUBSETS if len(s) > 1]))
def test_names_are_the_table_whatever_the_clusters_are_numbered(seed, present):
    rng = np.random.default_rng(seed)
    k = len(present)
    numbers = np.concatenate([np.arange(k), rng.integers(0, k, 20)])
    t1ce, depth = rng.normal(size=len(numbers)).astype(np.float32), rng.random(len(numbers))
    names = cluster._names(numbers, t1ce, depth, present)
    assert names.tolist() == slow_names(numbers, t1ce, depth, present)
    assert set(names.tolist()) == present
    shuffle = rng.permutation(k)
    np.testing.assert_array_equal(cluster._names(shuffle[numbers], t1ce, depth, present)[shuffle], names)


def test_millimetres_decide_what_is_near_the_surface():
    """Two plates, one with its faces towards thick slices: in voxels the first is nearer, in millimetres the other."""
    tumour = np.zeros((9, 20, 20), bool)
    tumour[3:6, 1:12, 1:12] = True  # 3 voxels thick along depth
    tumour[1:8, 1:12, 14:19] = True  # 5 voxels thick along width
    image = np.zeros((4, *tumour.shape), np.float32)
    image[:2, :, :, 14:] = 2.0
    image += np.random.default_rng(0).normal(0, 0.05, image.shape).astype(np.float32)
    present = frozenset({NCR, ED})
    assert (KMeans()(image, tumour, present, MM)[3:6, 1:12, 1:12] == ED).all()
    assert (KMeans()(image, tumour, present, (10.0, 1.0, 1.0))[1:8, 1:12, 14:19] == ED).all()


def distortion(described, numbers):
    return sum(((described[numbers == k] - described[numbers == k].mean(axis=0)) ** 2).sum() for k in set(numbers))


def test_no_division_in_two_is_better():
    """Exhaustively: k-means' labels are the best of all divisions of nine voxels."""
    image, _ = random_case(7, shape=(1, 3, 3))
    described = features(image.reshape(4, 9))
    labels = KMeans()(image, np.ones((1, 3, 3), bool), frozenset({NCR, ED}), MM).ravel()
    best = min(distortion(described, np.array([n >> i & 1 for i in range(9)])) for n in range(1, 256))
    assert distortion(described, labels) == pytest.approx(best, rel=1e-9)


def test_starts_from_a_sample_end_where_those_from_all_voxels_do(monkeypatch):
    image, truth = planted({NCR, ED, ET}, noise=0.6)
    tumour, present = truth > 0, frozenset({NCR, ED, ET})
    described = features(image[:, tumour])
    whole = distortion(described, KMeans()(image, tumour, present, MM)[tumour])
    monkeypatch.setattr(cluster, "SAMPLE", 300)
    assert distortion(described, KMeans()(image, tumour, present, MM)[tumour]) == pytest.approx(whole, rel=1e-4)


def test_seeds_repeat_and_matter_only_where_structures_do_not_differ():
    image, tumour = random_case(8)
    present = frozenset({NCR, ED, ET})
    again = [[KMeans()(image, tumour, present, MM, seed) for seed in range(6)] for _ in range(2)]
    np.testing.assert_array_equal(*again)
    assert len(np.unique(again[0], axis=0)) > 1
    image, truth = planted(present, noise=0.3)
    first = KMeans()(image, truth > 0, present, MM)
    for seed in range(1, 6):
        np.testing.assert_array_equal(KMeans()(image, truth > 0, present, MM, seed), first)


def test_what_lies_outside_of_the_tumour_does_not_matter():
    image, truth = planted({NCR, ED, ET}, noise=0.5)
    other = image.copy()
    other[:, truth == 0] = np.nan
    for present in SUBSETS:
        a, b = (KMeans()(picture, truth > 0, present, MM) for picture in (image, other))
        np.testing.assert_array_equal(a, b)


def test_inputs_stay_as_they_were():
    image, tumour = random_case(9)
    before = image.copy(), tumour.copy()
    KMeans()(image, tumour, frozenset({NCR, ED}), MM)
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(tumour, before[1])


@pytest.mark.parametrize("present", [{0, 1}, {4}, {1, 2, 3, 255}])
def test_unknown_structures_are_refused(present):
    image, tumour = random_case(10)
    with pytest.raises(ValueError, match="expected labels of 1"):
        KMeans()(image, tumour, frozenset(present), MM)


def test_bad_input_is_refused():
    image, tumour = random_case(11)
    present = frozenset({NCR, ED})
    with pytest.raises(DataError, match=r"T1, T1ce, T2, FLAIR.*\(3, 5, 7, 8\)"):
        KMeans()(image[:3], tumour, present, MM)
    with pytest.raises(DataError, match="resample one to the other"):
        KMeans()(image, tumour[:, :-1], present, MM)
    with pytest.raises(DataError, match="voxel sizes"):
        KMeans()(image, tumour, present, (1.0, 0.0, 1.0))
    image[0][tumour] = np.nan
    with pytest.raises(DataError, match=f"got {tumour.sum()} that are NaN"):
        KMeans()(image, tumour, present, MM)


def test_a_recipe_refuses_a_weight_that_is_none():
    with pytest.raises(ValidationError, match="greater than 0"):
        TypeAdapter(KMeans).validate_python({"kind": "k_means", "enhancement": 0})
