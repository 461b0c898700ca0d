"""The random walker against a dense solve, against scikit-image, and its invariants."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.segmentation import random_walker as skimage_random_walker

from scribbleseg.seeds import RandomWalker, Strokes, grow, laplacian, random_walker
from scribbleseg.seeds.random_walker import GROWN, TAUS
from scribbleseg.types import UNLABELLED, DataError

MM = (1.0, 1.0, 1.0)


def picture(seed, shape=(1, 12, 14), channels=1, labels=3, strokes=3):
    """A blocky noisy image, and a few scribbled pixels of each label in each slice."""
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(channels, *shape)).astype(np.float32) * 0.2
    image[..., shape[-1] // 2 :] += 1.0
    scribbles = np.full(shape, UNLABELLED, np.uint8)
    for one in scribbles:
        chosen = rng.permutation(one.size)[: labels * strokes]
        one.flat[chosen] = np.arange(labels * strokes) % labels
    return image, scribbles


def dense_probabilities(image, scribbles, spacing, beta):
    """Slow and obvious: one loop over pixel pairs, one dense solve."""
    scaled = image.astype(np.float64)
    for channel in scaled:
        channel -= channel.min()
        channel /= max(channel.max(), 1e-300)
    scale = beta / (10 * scaled.std() * np.sqrt(len(scaled)))
    pixels = list(np.ndindex(scribbles.shape))
    matrix = np.zeros((len(pixels), len(pixels)))
    for i, p in enumerate(pixels):
        for j, q in enumerate(pixels):
            step = np.abs(np.subtract(p, q))
            if step.sum() == 1:
                length = spacing[int(np.argmax(step))] / spacing[-1]
                square = sum(((c[p] - c[q]) / length) ** 2 for c in scaled)
                matrix[i, j] = -(np.exp(-scale * square) + 1e-10)
    matrix -= np.diag(matrix.sum(axis=1))
    flat = scribbles.ravel()
    free = flat == UNLABELLED
    one_hot = (flat == np.arange(flat[~free].max() + 1)[:, None]).astype(float)
    one_hot[:, free] = np.linalg.solve(matrix[np.ix_(free, free)], -matrix[np.ix_(free, ~free)] @ one_hot[:, ~free].T).T
    return one_hot.reshape(-1, *scribbles.shape)


@pytest.mark.parametrize("beta", [50.0, 1000.0])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_slice_equals_the_dense_solve(beta, channels):
    image, scribbles = picture(1, channels=channels)
    found = RandomWalker(beta=beta).probabilities(image, scribbles, (8.0, 1.5, 1.0))
    np.testing.assert_allclose(found, dense_probabilities(image, scribbles, (8.0, 1.5, 1.0), beta), atol=2e-6)


@pytest.mark.parametrize("tolerance", [random_walker.TOLERANCE, 1e-4])
@pytest.mark.parametrize("coarsest", [20_000, 20])
def test_a_volume_equals_the_dense_solve(coarsest, tolerance, monkeypatch):
    monkeypatch.setattr(laplacian, "COARSEST", coarsest)
    monkeypatch.setattr(random_walker, "TOLERANCE", tolerance)
    image, scribbles = picture(2, shape=(4, 8, 9), channels=2)
    found = RandomWalker(beta=130.0, dimensions=3).probabilities(image, scribbles, (3.0, 1.5, 1.5))
    np.testing.assert_allclose(found, dense_probabilities(image, scribbles, (3.0, 1.5, 1.5), 130.0), atol=5 * tolerance)


def test_slices_do_not_know_each_other_but_share_the_scale():
    image, scribbles = picture(3, shape=(3, 10, 11))
    image[:, 2] *= 3.0
    whole = RandomWalker().probabilities(image, scribbles, MM)
    scaled = (image - image.min()) / (image.max() - image.min())
    for z in range(3):
        square = scaled[0, z].astype(np.float64)
        marks = np.where(scribbles[z] == UNLABELLED, 0, scribbles[z].astype(int) + 1)
        peer = skimage_random_walker(square, marks, beta=1000, mode="bf", return_full_prob=True)
        np.testing.assert_allclose(whole[:, z], peer, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 2])
def test_a_volume_equals_scikit_image(channels):
    image, scribbles = picture(4, shape=(4, 9, 10), channels=channels)
    scaled = image.astype(np.float64)
    scaled -= scaled.min(axis=(1, 2, 3), keepdims=True)
    scaled /= scaled.max(axis=(1, 2, 3), keepdims=True)
    marks = np.where(scribbles == UNLABELLED, 0, scribbles.astype(int) + 1)
    peer = skimage_random_walker(
        scaled, marks, beta=90, mode="bf", return_full_prob=True, spacing=(2.5, 1, 1), channel_axis=0
    )
    found = RandomWalker(beta=90.0, dimensions=3).probabilities(image, scribbles, (5.0, 2.0, 2.0))
    np.testing.assert_allclose(found, peer, atol=1e-5)


def ringed_heart(seed, size=110):
    """Structures in the middle, a background stroke around them, and much background beyond: what a crop is for."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - size // 2
    r = np.hypot(y, x)
    image = (np.where(r < 6, 1.0, np.where(r < 10, 0.5, 0.0)) + 0.02 * rng.normal(size=r.shape)).astype(np.float32)
    scribbles = np.full(r.shape, UNLABELLED, np.uint8)
    scribbles[r < 2] = 2
    scribbles[(np.abs(r - 8) < 1) & (x > 0)] = 1
    scribbles[(np.abs(r - 14) < 1) & (x > -8)] = 0
    return image[None, None], scribbles[None]


@pytest.mark.parametrize("beta", [130.0, 1000.0])
def test_a_crop_that_is_proved_right_is_right(beta, monkeypatch):
    monkeypatch.setattr(random_walker, "MARGIN", 24)
    image, scribbles = ringed_heart(0)
    proofs = []
    solve_cropped = random_walker._solve_cropped
    monkeypatch.setattr(random_walker, "_solve_cropped", lambda *a: proofs.append(solve_cropped(*a)) or proofs[-1])
    cropped = RandomWalker(beta=beta).probabilities(image, scribbles, MM)
    assert proofs[0] is not None
    monkeypatch.setattr(random_walker, "_solve_cropped", lambda *a: None)
    whole = RandomWalker(beta=beta).probabilities(image, scribbles, MM)
    np.testing.assert_allclose(cropped, whole, atol=random_walker.DECIDED)


@pytest.mark.parametrize("margin", [2, 6, 12, 24])
def test_the_bound_of_a_crop_holds_where_it_is_loose(margin, monkeypatch):
    monkeypatch.setattr(random_walker, "MARGIN", margin)
    image, scribbles = ringed_heart(1)
    scribbles[:, 55:, :] = np.where(scribbles[:, 55:, :] == 0, UNLABELLED, scribbles[:, 55:, :])  # open the ring
    monkeypatch.setattr(random_walker, "_solve_cropped", lambda *a: None)
    whole = RandomWalker(beta=130.0).probabilities(image, scribbles, MM)
    monkeypatch.undo()
    monkeypatch.setattr(random_walker, "MARGIN", margin)
    for bound in (0.5, 0.1, 0.01):
        monkeypatch.setattr(random_walker, "DECIDED", bound)
        cropped = RandomWalker(beta=130.0).probabilities(image, scribbles, MM)
        assert np.abs(cropped - whole).max() <= bound


def test_conjugate_gradients_that_fail_fall_back_to_the_factorisation(monkeypatch, caplog):
    image, scribbles = picture(5, shape=(3, 8, 9))
    walker = RandomWalker(dimensions=3)
    direct = walker.probabilities(image, scribbles, MM)
    monkeypatch.setattr(laplacian, "COARSEST", 20)
    monkeypatch.setattr(laplacian, "MAX_ITERATIONS", 0)
    np.testing.assert_allclose(walker.probabilities(image, scribbles, MM), direct, atol=1e-6)
    assert "factorising instead" in caplog.text


@pytest.mark.parametrize(("depth_mm", "dimensions"), [(2.2, 3), (1.0, 3), (2.3, 2)])
def test_slices_near_each_other_are_walked_together_where_it_is_left_to_them(depth_mm, dimensions):
    image, scribbles = picture(2, shape=(3, 8, 9))
    spacing_mm = (depth_mm, 1.5, 1.5)
    left, given = (RandomWalker(dimensions=n).probabilities(image, scribbles, spacing_mm) for n in (None, dimensions))
    np.testing.assert_array_equal(left, given)


def test_a_large_volume_is_walked_in_parts_that_fit_together(monkeypatch):
    rng = np.random.default_rng(0)
    z, y, x = np.mgrid[:32, :12, :12]
    ball = (z - 16) ** 2 / 100 + (y - 6) ** 2 / 9 + (x - 6) ** 2 / 9 < 1
    image = (ball + 0.05 * rng.normal(size=ball.shape)).astype(np.float32)[None]
    scribbles = np.full(ball.shape, UNLABELLED, np.uint8)
    scribbles[7:26:3, 6, 6] = 1
    scribbles[::4, 1, :] = 0
    walker = RandomWalker(beta=130.0, dimensions=3)
    whole = walker.probabilities(image, scribbles, (1.0, 1.0, 1.0))
    monkeypatch.setattr("scribbleseg.data.dimensions.VOXELS", 16 * 144)
    blocks = [block for block, _ in walker._blocks(image, scribbles, (1.0, 1.0, 1.0))]
    assert blocks == [slice(n, n + 8) for n in range(0, 32, 8)]
    cut = walker.probabilities(image, scribbles, (1.0, 1.0, 1.0))
    assert np.abs(cut - whole).mean() < 0.01
    assert (cut.argmax(axis=0) == whole.argmax(axis=0)).mean() > 0.99


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), labels=st.integers(2, 4), dimensions=st.sampled_from([2, 3]))
def test_invariants(seed, labels, dimensions):
    image, scribbles = picture(seed, shape=(2, 7, 8), labels=labels)
    walker = RandomWalker(tau=0.8, dimensions=dimensions)
    p = walker.probabilities(image, scribbles, MM)
    assert p.dtype == np.float32
    assert p.shape == (labels, *scribbles.shape)
    assert p.min() >= 0
    assert p.max() <= 1
    np.testing.assert_allclose(p.sum(axis=0), 1.0, atol=1e-6)
    grown = walker(image, scribbles, MM)
    drawn = scribbles != UNLABELLED
    np.testing.assert_array_equal(grown[drawn], scribbles[drawn])
    sure = p.max(axis=0) >= 0.8
    np.testing.assert_array_equal(grown != UNLABELLED, sure)
    np.testing.assert_array_equal(grown[sure], p.argmax(axis=0)[sure])


def test_labels_can_be_permuted_and_may_have_gaps():
    image, scribbles = ringed_heart(2)
    order = np.arange(256, dtype=np.uint8)
    order[[0, 1, 2]] = [4, 0, 2]
    p = RandomWalker().probabilities(image, scribbles, MM)
    q = RandomWalker().probabilities(image, order[scribbles], MM)
    assert q.shape[0] == 5
    np.testing.assert_allclose(q[[4, 0, 2]], p, atol=2e-5)
    assert not q[[1, 3]].any()


def test_slices_of_one_class_or_none_stay_as_they_are():
    image, scribbles = picture(6, shape=(3, 9, 9))
    scribbles[0] = UNLABELLED
    scribbles[1] = np.where(scribbles[1] == 0, 0, UNLABELLED)
    grown = RandomWalker(tau=0.6)(image, scribbles, MM)
    np.testing.assert_array_equal(grown[:2], scribbles[:2])
    assert (grown[2] != scribbles[2]).any()
    p = RandomWalker().probabilities(image, scribbles, MM)
    np.testing.assert_allclose(p[:, 0], 1 / 3)
    np.testing.assert_array_equal(p[0, 1][scribbles[1] == 0], 1.0)
    empty = np.full_like(scribbles, UNLABELLED)
    for dimensions in (2, 3):
        np.testing.assert_array_equal(RandomWalker(dimensions=dimensions)(image, empty, MM), empty)


def test_slices_of_background_alone_are_background_where_the_recipe_says_so():
    image, scribbles = picture(3, shape=(4, 12, 14))
    scribbles[1][scribbles[1] != 0] = UNLABELLED  # background alone
    scribbles[2] = UNLABELLED  # nothing
    scribbles[3][scribbles[3] != 1] = UNLABELLED  # a structure alone
    assert (scribbles[1] == 0).any()
    plain, emptied = (RandomWalker(empty=empty)(image, scribbles, MM) for empty in ("unlabelled", "background"))
    assert (emptied[1] == 0).all()
    assert np.array_equal(plain[[0, 2, 3]], emptied[[0, 2, 3]])
    assert np.array_equal(plain[1], scribbles[1])


def test_a_class_absent_from_a_slice_has_probability_0_there():
    image, scribbles = picture(7, shape=(2, 9, 9))
    scribbles[0] = np.where(scribbles[0] == 2, UNLABELLED, scribbles[0])
    assert not RandomWalker().probabilities(image, scribbles, MM)[2, 0].any()


def test_an_island_without_seed_gets_what_leaks_through_its_wall():
    image = np.zeros((1, 1, 11, 11), np.float32)
    image[..., 4:7, 4:7] = 1.0  # beta 1000: only the floor of 1e-10 leads in
    scribbles = np.full((1, 11, 11), UNLABELLED, np.uint8)
    scribbles[0, :, 0], scribbles[0, :, -1] = 0, 1
    p = RandomWalker(beta=1000.0).probabilities(image, scribbles, MM)
    np.testing.assert_allclose(p[:, 0, 4:7, 4:7], 0.5, atol=1e-4)  # as likely from the left as from the right
    assert (RandomWalker()(image, scribbles, MM)[0, 4:7, 4:7] == UNLABELLED).all()


def test_a_constant_image_is_plain_diffusion():
    image = np.full((1, 1, 5, 11), 7.0, np.float32)
    scribbles = np.full((1, 5, 11), UNLABELLED, np.uint8)
    scribbles[..., 0], scribbles[..., -1] = 0, 1
    p = RandomWalker().probabilities(image, scribbles, MM)
    np.testing.assert_allclose(p[1, 0], np.tile(np.linspace(0, 1, 11), (5, 1)), atol=1e-6)


def test_fully_labelled_scribbles_come_back():
    image, _ = picture(8)
    mask = (image[0] > 0.5).astype(np.uint8)
    np.testing.assert_array_equal(RandomWalker()(image, mask, MM), mask)


def test_bad_images_are_refused():
    image, scribbles = picture(9)
    broken = image.copy()
    broken[0, 0, 3, 3] = np.nan
    with pytest.raises(DataError, match="1 voxel NaN"):
        RandomWalker()(broken, scribbles, MM)
    with pytest.raises(DataError, match="same grid"):
        random_walker.check_volume(image, scribbles[:, :-1], MM, "x")  # the public call's types are checked here first
    with pytest.raises(DataError, match="voxel sizes"):
        RandomWalker()(image, scribbles, (1.0, 0.0, 1.0))


@pytest.mark.parametrize("wrong", [{"tau": 0.5}, {"tau": 1.1}, {"tau": float("nan")}, {"beta": 0.0}])
def test_bad_parameters_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RandomWalker(**wrong)


def disc(contrast, noise=0.0, spots=((20, 20),)):
    """A disc of 8 pixels on background, with a spot of scribble in its middle and a frame around."""
    rows, columns = np.mgrid[:40, :40]
    inside = np.hypot(rows - 20, columns - 20) < 8
    image = (contrast * inside + noise * np.random.default_rng(0).normal(size=(40, 40)))[None, None]
    scribbles = np.full((1, 40, 40), UNLABELLED, np.uint8)
    scribbles[0, 4], scribbles[0, 36], scribbles[0, :, 4], scribbles[0, :, 36] = 0, 0, 0, 0
    for row, column in spots:
        scribbles[0, row - 1 : row + 2, column - 1 : column + 2] = 1
    return image.astype(np.float32), scribbles, (5.0, 1.0, 1.0)


@pytest.mark.parametrize(("contrast", "noise"), [(1.0, 0.02), (0.3, 0.1), (0.2, 0.2), (0.0, 0.2)])
def test_a_tau_left_to_the_scribbles_is_the_largest_at_which_they_grow(contrast, noise):
    volume = disc(contrast, noise)
    chosen = RandomWalker(tau=None).with_tau([volume])
    likely = RandomWalker().probabilities(*volume)[1] >= 0.5
    growth = {tau: np.sum(RandomWalker(tau=tau)(*volume) == 1) / likely.sum() for tau in TAUS}
    enough = [tau for tau in TAUS if growth[tau] >= GROWN]
    assert chosen.tau == (max(enough) if enough else 0.8)
    assert np.array_equal(RandomWalker(tau=None)(*volume), chosen(*volume))
    assert chosen.with_tau([volume]) is chosen


def test_clear_edges_take_a_high_tau_and_none_a_low_one():
    assert RandomWalker(tau=None).with_tau([disc(1.0, 0.02)]).tau == 0.99
    assert RandomWalker(tau=None).with_tau([disc(0.0, 0.3)]).tau < 0.99


def test_what_grows_in_the_air_does_not_count():
    image, scribbles, spacing = disc(1.0, 0.02)
    wide = np.zeros((*image.shape[:2], 120, 120), np.float32)  # the walker is unsure of the air between two strokes
    wide[..., 40:80, 40:80] = image[..., :40, :40]
    drawn = np.full(wide.shape[1:], UNLABELLED, np.uint8)
    drawn[:, 40:80, 40:80] = scribbles[:, :40, :40]
    drawn[:, :, 5], drawn[:, :, 115] = 1, 0
    shown = np.zeros(drawn.shape, bool)
    shown[:, 40:80, 40:80] = True
    walker = RandomWalker(tau=None)
    alone = walker.with_tau([(wide[..., 40:80, 40:80], drawn[:, 40:80, 40:80], spacing)])
    assert walker.with_tau([(wide, drawn, spacing)], [shown]).tau == alone.tau
    assert walker.with_tau([(wide, drawn, spacing)], [np.ones_like(shown)]).tau < alone.tau


def test_where_no_structure_is_drawn_tau_is_the_largest():
    image, scribbles, spacing = disc(1.0)
    background = np.where(scribbles == 1, np.uint8(UNLABELLED), scribbles)
    assert RandomWalker(tau=None).with_tau([(image, background, spacing)]).tau == 0.99
    assert RandomWalker(tau=None).with_tau([]).tau == 0.99


def test_strokes_are_a_copy():
    image, scribbles = picture(10)
    same = Strokes()(image, scribbles, MM)
    np.testing.assert_array_equal(same, scribbles)
    assert not np.shares_memory(same, scribbles)


def test_workers_change_nothing_and_read_lazily():
    read = []

    def volumes():
        for k in range(6):
            read.append(k)
            yield (*picture(k), MM)

    alone = list(grow(RandomWalker(tau=0.6), volumes(), workers=1, total=6))
    read.clear()
    together = grow(RandomWalker(tau=0.6), volumes(), workers=2, total=6)
    first = next(together)
    assert len(read) <= 4
    for one, two in zip(alone, [first, *together], strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bad_volume_stops_in_its_turn(workers):
    good, bad = picture(0), picture(1)
    bad[0][...] = np.nan
    grown = grow(RandomWalker(), [(*good, MM), (*bad, MM)], workers=workers)
    assert next(grown).shape == good[1].shape
    with pytest.raises(DataError, match="NaN"):
        next(grown)


def test_no_workers_are_refused():
    with pytest.raises(ValueError, match="workers"):
        next(grow(Strokes(), [], workers=0))


def test_in_a_volume_too_only_slices_with_background_strokes_alone_are_background():
    scribbles = np.full((4, 8, 8), UNLABELLED, np.uint8)
    scribbles[0, 2] = scribbles[3, 2] = 0
    image = np.random.default_rng(0).normal(size=(1, 4, 8, 8)).astype(np.float32)
    areas = RandomWalker(empty="background", dimensions=3)(image, scribbles, (1.0, 1.0, 1.0))
    assert (areas[[0, 3]] == 0).all()
    assert (areas[[1, 2]] == UNLABELLED).all()


def test_a_walk_across_slices_is_not_overruled_where_background_alone_is_drawn():
    """Strokes drawn in one plane are points in another: a slice of that one that holds none may cross the structure."""
    scribbles = np.full((3, 16, 16), UNLABELLED, np.uint8)
    scribbles[:, 0] = 0
    scribbles[[0, 2], 8, 4:12] = 1
    image = np.zeros((1, 3, 16, 16), np.float32)
    image[0, :, 5:12] = 1.0
    walker = RandomWalker(tau=0.9, empty="background", dimensions=3)
    assert (walker(image, scribbles, (1.0, 1.0, 1.0))[1, 6:11] == 1).all()
    within = replace(walker, dimensions=2)
    assert (within(image, scribbles, (1.0, 1.0, 1.0))[1] == 0).all()


def test_slices_on_the_scale_of_their_volume_have_the_areas_of_the_volume():
    rng = np.random.default_rng(3)
    image = rng.normal(size=(2, 3, 12, 14)).astype(np.float32)
    scribbles = np.full((3, 12, 14), UNLABELLED, np.uint8)
    scribbles[:, 2, 2:9], scribbles[:, 9, 1:12] = 1, 0
    walker, spacing = RandomWalker(tau=0.8, beta=30.0), (5.0, 1.0, 1.5)
    low, high = (extreme(axis=(1, 2, 3), keepdims=True) for extreme in (image.min, image.max))
    scaled = (image.astype(np.float64) - low) / (high.astype(np.float64) - low)
    whole = walker(image, scribbles, spacing)
    assert (whole != scribbles).any()
    for z in range(3):
        one = walker.grow_scaled(scaled[:, z : z + 1], scribbles[z : z + 1], spacing)
        np.testing.assert_array_equal(one[0], whole[z])
    with pytest.raises(ValueError, match="tau"):
        RandomWalker(tau=None).grow_scaled(scaled, scribbles, spacing)


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_elimination_changes_no_probability(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    weights = [rng.uniform(size=size) ** 8 for size in ((0, 9, 11), (1, 8, 11), (1, 9, 10))]
    weights = [weight + random_walker.WEIGHT_FLOOR for weight in weights]
    seeds = np.where(rng.uniform(size=(1, 9, 11)) < 0.1, rng.integers(0, 3, (1, 9, 11)), random_walker.FREE)
    free = np.flatnonzero(seeds == random_walker.FREE)
    problem = random_walker._dirichlet(weights, seeds, 3, free)
    exact = (seeds == np.arange(3)[:, None, None, None]).astype(float)
    exact.reshape(3, -1)[:, free] = np.linalg.solve(problem.matrix().toarray(), problem.to_seeds).T
    np.testing.assert_allclose(laplacian.solve_directly(problem).T, exact.reshape(3, -1)[:, free], atol=1e-7)
    for places in (laplacian.elimination_places(16), rng.integers(0, 5, (16, 16)), np.zeros((16, 16), int)):
        monkeypatch.setattr(random_walker, "elimination_places", lambda side, places=places: places)
        np.testing.assert_allclose(random_walker._solve(weights, seeds, 3), exact, atol=1e-7)


@pytest.mark.parametrize(("height", "width"), [(1, 9), (7, 1), (8, 8), (64, 64), (40, 97)])
def test_nested_dissection_separates_halves(height, width):
    places = laplacian.elimination_places(128)[:height, :width]
    rows, columns = np.indices(places.shape)
    np.testing.assert_array_equal(places == -1, (rows + columns) % 2 == 1)
    weights = [np.ones((0, height, width)), np.ones((1, height - 1, width)), np.ones((1, height, width - 1))]
    seeds = np.where(rows + columns == 0, 0, random_walker.FREE)[None]
    in_order = 1 + np.argsort(places.ravel()[1:], kind="stable")
    plain, nested = (
        random_walker._dirichlet(weights, seeds, 1, nodes).matrix() for nodes in (np.sort(in_order), in_order)
    )
    if height * width > 2000:
        assert laplacian._factorise(nested, ordered=True).L.nnz < laplacian._factorise(plain).L.nnz
