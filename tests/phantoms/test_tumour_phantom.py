"""Tumour phantoms: same seed, same bytes; nested structures in one hemisphere; contrast of the modalities."""

import numpy as np
import pytest
from scipy import ndimage

from scribbleseg.data import open_dataset
from scribbleseg.data.layouts.brats import ED, ET, NCR
from scribbleseg.phantoms import brain_tumour, write_phantoms
from scribbleseg.types import UNLABELLED

SHAPE, SPACING_MM = (12, 64, 64), (5.0, 3.0, 3.0)
SUBSETS = [{NCR, ED, ET}, {NCR, ED}, {ED, ET}, {ED}]
T1, T1CE, T2, FLAIR = range(4)


def draw(seed, present, shape=SHAPE, spacing_mm=SPACING_MM):
    return brain_tumour(np.random.default_rng(seed), shape, spacing_mm, frozenset(present))


@pytest.fixture(scope="module")
def full():
    return [draw(seed, {NCR, ED, ET}) for seed in range(8)]


@pytest.mark.parametrize("present", SUBSETS)
@pytest.mark.parametrize(("shape", "spacing_mm"), [(SHAPE, SPACING_MM), ((24, 48, 48), (3.0, 2.0, 2.0))])
def test_what_is_asked_for_is_present(present, shape, spacing_mm):
    for seed in range(20):
        image, truth = draw(seed, present, shape, spacing_mm)
        assert image.shape == (4, *shape)
        assert set(np.unique(truth)) == {0, *present}
        assert min((truth == value).sum() for value in present) >= 5


def test_a_tumour_without_oedema_is_refused():
    with pytest.raises(ValueError, match=r"expected ED \(2\), with or without .* got \[1, 3\]"):
        draw(0, {NCR, ET})


def test_the_brain_is_one_piece_and_everything_else_exactly_zero(full):
    for image, truth in full:
        brain = (image != 0).any(axis=0)
        assert ((image > 0) == brain).all()
        assert 0.25 < brain.mean() < 0.45
        pieces, n = ndimage.label(brain)
        assert np.bincount(pieces.ravel())[1:].max() > 0.99 * brain.sum(), n
        assert not truth[~brain].any()
        np.testing.assert_array_equal(image, image.round())


def test_the_tumour_lies_in_one_hemisphere_with_oedema_outermost(full):
    for _, truth in full:
        occupied = (truth > 0).any((0, 1))
        assert not (occupied[:32].any() and occupied[32:].any())
        depth = ndimage.distance_transform_edt(truth > 0, SPACING_MM)
        mean_depth = [depth[truth == value].mean() for value in (NCR, ED, ET)]
        assert mean_depth[1] == min(mean_depth)
        assert mean_depth[0] > mean_depth[2]  # ET is the rim of NCR


def test_contrast_is_that_of_the_modalities(full):
    """Means over the cases: a thin core in thick slices is hardly more than partial volume."""
    healthy = [(image > 0).all(0) & (truth == 0) for image, truth in full]
    none = np.mean([image[:, rest].mean(1) for (image, _), rest in zip(full, healthy, strict=True)], axis=0)
    ncr, ed, et = (np.mean([i[:, truth == value].mean(1) for i, truth in full], axis=0) for value in (NCR, ED, ET))
    assert ed[FLAIR] > 1.4 * none[FLAIR]
    assert ed[T2] > 1.2 * none[T2]
    assert et[T1CE] > 1.4 * max(none[T1CE], ncr[T1CE], ed[T1CE])
    assert ncr[T1] < 0.8 * none[T1]
    assert ncr[T1CE] < 0.9 * none[T1CE]
    assert ncr[T2] > ed[T2]
    for (image, _), rest in zip(full, healthy, strict=True):
        csf = rest & (image[T2] > 1.5 * none[T2]) & (image[T1] < 0.5 * none[T1])
        assert csf.any()
        assert image[FLAIR][csf].mean() < 0.6 * none[FLAIR]


def test_no_threshold_on_one_channel_finds_the_tumour_or_its_parts(full):
    """The best of all thresholds, above or below, for the brain's voxels; Dice."""
    for region, limit in ((None, 0.9), (NCR, 0.6), (ET, 0.85)):
        best = []
        for image, truth in full:
            brain = (image > 0).all(0)
            target = (truth > 0 if region is None else truth == region)[brain]
            scores = [
                2 * (side & target).sum() / (side.sum() + target.sum())
                for channel in image
                for level in np.quantile(channel[brain], np.linspace(0, 1, 101))
                for side in (channel[brain] > level, channel[brain] < level)
                if side.any()
            ]
            best.append(max(scores))
        assert np.mean(best) < limit, (region, best)


def files(root):
    return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*.nii.gz")}


def test_a_set_is_read_as_brats_with_the_cases_that_were_asked_for(tmp_path):
    root = write_phantoms(tmp_path / "set", "tumour", train=6, test=2, seed=3, shape=SHAPE)
    dataset = open_dataset(root)
    assert dataset.name == "brats"
    assert dataset.train.names == tuple(f"train{k:03d}" for k in range(6))
    assert dataset.test.names == ("test000", "test001")
    case = dataset.train[0]
    assert case.image.shape == (4, *SHAPE)
    assert case.spacing_mm == (3, 2, 2)
    assert (case.scribbles == UNLABELLED).all()
    present = [set(np.unique(dataset.reference(name))) - {0} for name in dataset.train.names]
    assert sum(ET not in each for each in present) == 2
    assert present.count({ED}) == 1
    smaller = files(write_phantoms(tmp_path / "smaller", "tumour", train=2, test=1, seed=3, shape=SHAPE))
    assert len(smaller) == 3 * 5
    assert smaller.items() <= files(root).items()
    other = files(write_phantoms(tmp_path / "other", "tumour", train=1, test=1, seed=4, shape=SHAPE))
    assert not set(other.values()) & set(files(root).values())
