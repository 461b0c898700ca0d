from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.draw import disk

from scribbleseg.annotate.simulate import RULES, Skeleton, _longest_path, shorten, simulate, write_simulation
from scribbleseg.data import fingerprint, open_dataset
from scribbleseg.data.phantoms import write_phantoms
from scribbleseg.types import UNLABELLED, DataError

EIGHT = np.ones((3, 3))


def ring(shape=(80, 90), centre=(40, 45), outer=22, inner=14):
    """A heart-like slice: a ring (2) around a disc (3), and a bar (1) beside it."""
    labels = np.zeros(shape, np.uint8)
    labels[disk(centre, outer)] = 2
    labels[disk(centre, inner)] = 3
    labels[25:55, 8:16] = 1
    return labels


VOLUME = np.stack([np.zeros((80, 90), np.uint8), ring(), ring(outer=18, inner=9), ring(centre=(38, 50))])


@st.composite
def masks(draw):
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    smooth = ndimage.gaussian_filter(rng.normal(size=(3, 40, 36)), (0, draw(st.sampled_from([0.5, 2, 5])), 3))
    return np.digitize(smooth / smooth.std(), draw(st.sampled_from([[1.0], [0.3, 1.0], [-9.0, 0.5]]))).astype(np.uint8)


RULE = st.builds(
    Skeleton, length=st.sampled_from([0.0, 0.25, 0.5, 1.0]), width=st.integers(1, 5), seed=st.integers(0, 9)
)


class TestSimulate:
    @settings(deadline=None, max_examples=20)
    @given(masks(), RULE)
    def test_it_agrees_with_the_mask_and_draws_on_every_class_of_every_slice(self, mask, rule):
        scribbles = simulate(mask, rule, "case")
        drawn = scribbles != UNLABELLED
        assert (scribbles[drawn] == mask[drawn]).all()
        for labels, drawn_labels in zip(mask, scribbles, strict=True):
            assert set(np.unique(drawn_labels)) - {UNLABELLED} == set(np.unique(labels))

    @settings(deadline=None, max_examples=20)
    @given(masks(), st.integers(0, 9))
    def test_a_shorter_rule_keeps_its_share_and_is_part_of_the_longer(self, mask, seed):
        full, half, quarter = (
            simulate(mask, Skeleton(length=length, seed=seed), "case") != UNLABELLED for length in (1.0, 0.5, 0.25)
        )
        assert not (half & ~full).any()
        assert not (quarter & ~half).any()

    def test_lengths_are_what_they_say(self):
        drawn = {name: simulate(VOLUME, RULES[name], "case") for name in RULES}
        for label in range(4):
            full, half, quarter, spots = ((drawn[name] == label).sum((1, 2)) for name in RULES)
            np.testing.assert_allclose(half, full / 2, atol=2)
            np.testing.assert_allclose(quarter, full / 4, atol=2)
            assert ((spots == 0) == (full == 0)).all()
            assert (spots <= 13).all()

    def test_it_draws_as_people_do(self):
        scribbles = simulate(VOLUME, Skeleton(), "case")
        for labels, drawn in zip(VOLUME[1:], scribbles[1:], strict=True):
            for label in range(4):
                _, n = ndimage.label(drawn == label, EIGHT)
                assert n == 1
                border = ndimage.binary_dilation(labels != label)
                assert not ((drawn == label) & border).any()
            assert 10 < (drawn == 1).sum() < 30  # along the bar
            assert (drawn == 2).sum() > 65  # nearly all around the ring
            assert (drawn == 3).sum() > 20  # a loop in the disc, whose skeleton is a point
            away = ndimage.distance_transform_edt(labels == 0)[drawn == 0]
            assert away.min() >= 2
            assert away.max() < 25
        assert 0.001 < (scribbles != UNLABELLED).mean() < 0.1

    def test_a_piece_of_a_loop_may_lie_anywhere_on_it(self):
        slice_ = np.zeros((1, 40, 40), np.uint8)
        slice_[0][disk((20, 20), 9)] = 1
        octants = np.zeros(8)
        for seed in range(150):
            rows, columns = np.nonzero(simulate(slice_, Skeleton(length=0.25, seed=seed), "case")[0] == 0)
            octants[np.unique(np.floor(np.arctan2(rows - 20, columns - 20) / (np.pi / 4)).astype(int) % 8)] += 1
        assert octants.min() > octants.max() / 2

    def test_a_slice_without_structures_is_crossed_where_others_have_them(self):
        in_a_corner = np.zeros((2, 120, 120), np.uint8)
        in_a_corner[1][disk((95, 92), 12)] = 1
        rows, columns = np.nonzero(simulate(in_a_corner, Skeleton(), "case")[0] == 0)
        assert len(rows) > 100
        assert abs(rows.mean() - 95) < 8
        assert abs(columns.mean() - 92) < 8
        nothing = simulate(np.zeros((2, 40, 50), np.uint8), Skeleton(), "case")
        assert set(np.unique(nothing)) == {0, UNLABELLED}
        assert ((nothing == 0).sum((1, 2)) > 10).all()

    def test_tiny_structures_keep_a_voxel_and_specks_are_left_alone(self):
        mask = np.zeros((1, 30, 30), np.uint8)
        mask[0, 5, 5] = 1
        mask[0, 10:20, 10:20] = 2
        mask[0, 25, 25] = 2
        scribbles = simulate(mask, RULES["full"], "case")
        assert scribbles[0, 5, 5] == 1
        assert scribbles[0, 25, 25] == UNLABELLED
        assert (scribbles[0, 10:20, 10:20] == 2).any()

    def test_a_mask_without_background_and_a_picture_without_room(self):
        full = np.ones((1, 12, 12), np.uint8)
        assert set(np.unique(simulate(full, Skeleton(), "case"))) == {1, UNLABELLED}
        full[0, 0, 0] = 0
        assert simulate(full, Skeleton(), "case")[0, 0, 0] == 0

    def test_the_seed_and_the_name_decide(self):
        draw = [simulate(VOLUME, Skeleton(seed=seed), name) for seed, name in ((0, "a"), (0, "a"), (1, "a"), (0, "b"))]
        np.testing.assert_array_equal(draw[0], draw[1])
        assert (draw[0] != draw[2]).any()
        assert (draw[0] != draw[3]).any()

    def test_a_wide_pen_stays_inside(self):
        thin, wide = (simulate(VOLUME, Skeleton(width=width), "case") for width in (1, 3))
        assert (wide[thin != UNLABELLED] == thin[thin != UNLABELLED]).all()
        assert 2 < (wide != UNLABELLED).sum() / (thin != UNLABELLED).sum() < 4

    @pytest.mark.parametrize("wrong", [{"length": -0.1}, {"length": 1.1}, {"width": 0}, {"seed": -1}])
    def test_numbers_out_of_range_are_refused(self, wrong):
        with pytest.raises(ValueError, match=f"expected a {next(iter(wrong))}.* got {next(iter(wrong.values()))}"):
            Skeleton(**wrong)


class TestLongestPath:
    def walk(self, path):
        steps = np.abs(np.diff(path, axis=0)).max(1)
        assert (steps == 1).all()
        assert len({tuple(pixel) for pixel in path}) == len(path)

    def test_branches_are_cut(self):
        cross = np.zeros((41, 61), bool)
        cross[20, 5:55] = True
        cross[12:28, 30] = True
        path = _longest_path(cross, np.random.default_rng(0))
        self.walk(path)
        assert sorted([path[0][1], path[-1][1]]) == [5, 54]
        assert len(path) == 50

    def test_a_ring_is_opened_anywhere(self):
        starts = set()
        for seed in range(5):
            path = _longest_path(ring() == 2, np.random.default_rng(seed))
            self.walk(path)
            assert len(path) > 0.95 * 2 * np.pi * 18 * 0.8  # 8-connected: fewer pixels than the circle is long
            starts.add(tuple(path[0]))
        assert len(starts) > 1

    @settings(deadline=None, max_examples=20)
    @given(st.integers(0, 10_000))
    def test_no_path_through_a_tree_is_longer(self, seed):
        """Random walks that never touch themselves are trees; a breadth-first search from every pixel is the check."""
        rng = np.random.default_rng(seed)
        region = np.zeros((31, 31), bool)
        for _ in range(3):  # a comb: one spine, teeth two pixels apart at least
            region[15, 3:28] = True
            column, up = 2 * rng.integers(2, 14), rng.integers(2, 12)
            region[15 - up : 15, column] = True
        path = _longest_path(region, rng)
        self.walk(path)
        steps = {tuple(p): i for i, p in enumerate(np.argwhere(region))}
        longest = 0
        for start in steps:
            seen, front = {start: 0}, [start]
            while front:
                y, x = front.pop(0)
                for dy in (-1, 0, 1):
                    for dx in (-1, 0, 1):
                        if (near := (y + dy, x + dx)) in steps and near not in seen:
                            seen[near] = seen[y, x] + 1
                            front.append(near)
            longest = max(longest, *seen.values())
        # Thinning takes a pixel off an end, and the fewest steps cut corners that the longest line does not.
        assert abs(len(path) - 1 - longest) <= 3


class TestShorten:
    SCRIBBLES = simulate(VOLUME, Skeleton(width=2), "expert")

    @settings(deadline=None, max_examples=20)
    @given(masks(), RULE)
    def test_it_never_labels_what_nobody_did(self, drawn, rule):
        drawn[drawn == 0] = UNLABELLED
        kept = shorten(drawn, rule, "case")
        assert (kept[kept != UNLABELLED] == drawn[kept != UNLABELLED]).all()
        for before, after in zip(drawn, kept, strict=True):
            assert set(np.unique(after)) | {UNLABELLED} == set(np.unique(before)) | {UNLABELLED}

    def test_all_of_it_is_the_same(self):
        np.testing.assert_array_equal(shorten(self.SCRIBBLES, RULES["full"], "case"), self.SCRIBBLES)

    def test_a_quarter_is_a_quarter_in_one_piece(self):
        quarter = shorten(self.SCRIBBLES, RULES["quarter"], "case")
        for before, after in zip(self.SCRIBBLES, quarter, strict=True):
            for label in set(np.unique(before)) - {UNLABELLED}:
                assert (after == label).sum() == max(1, round((before == label).sum() / 4))
                assert ndimage.label(after == label, EIGHT)[1] == 1 or label == 0  # a zigzag touches itself

    def test_spots(self):
        spots = shorten(self.SCRIBBLES, RULES["spots"], "case")
        counts = [(s == label).sum() for s in spots for label in np.unique(s) if label != UNLABELLED]
        assert min(counts) >= 1
        assert max(counts) <= 13

    def test_no_scribbles_give_none(self):
        nothing = np.full((2, 5, 5), UNLABELLED, np.uint8)
        np.testing.assert_array_equal(shorten(nothing, RULES["quarter"], "case"), nothing)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    return write_phantoms(tmp_path_factory.mktemp("p") / "prostate", "prostate", train=3, test=1, shape=(4, 72, 72))


class TestWriteSimulation:
    @pytest.mark.parametrize("source", ["masks", "scribbles"])
    def test_what_is_written_is_what_open_dataset_reads(self, phantoms, tmp_path, source):
        dataset = open_dataset(phantoms)
        folder = write_simulation(dataset, RULES["quarter"], tmp_path / "drawn", source)
        simulated = open_dataset(phantoms, scribbles=folder)
        for name in dataset.train.names:
            case = dataset.train.named(name)
            if source == "masks":
                expected = simulate(dataset.reference(name), RULES["quarter"], name)
            else:
                expected = shorten(case.scribbles, RULES["quarter"], name)
            np.testing.assert_array_equal(simulated.train.named(name).scribbles, expected)
            np.testing.assert_array_equal(simulated.train.named(name).image, case.image)
        assert fingerprint(simulated.train) != fingerprint(dataset.train)
        assert (simulated.test[0].scribbles == UNLABELLED).all()

    def test_a_killed_run_is_continued_and_never_read(self, phantoms, tmp_path):
        dataset = open_dataset(phantoms)
        folder = write_simulation(dataset, RULES["spots"], tmp_path / "drawn")
        before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
        (folder / "train001.nii.gz").unlink()
        (folder / "dataset.json").unlink()
        with pytest.raises(DataError, match="dataset.json"):
            open_dataset(phantoms, scribbles=folder)
        write_simulation(dataset, RULES["spots"], folder)
        after = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
        assert {name for name in after if after[name] != before[name]} == {"train001.nii.gz", "dataset.json"}

    def test_another_rule_needs_another_folder(self, phantoms, tmp_path):
        dataset = open_dataset(phantoms)
        write_simulation(dataset, RULES["spots"], tmp_path)
        with pytest.raises(DataError, match=r'simulation.json: expected .*"length": 0.25.*found another one'):
            write_simulation(dataset, RULES["quarter"], tmp_path)
        with pytest.raises(DataError, match="found another one"):
            write_simulation(dataset, RULES["spots"], tmp_path, "scribbles")

    def test_what_cannot_be_drawn_is_named(self, phantoms, tmp_path):
        dataset = open_dataset(phantoms)
        with pytest.raises(DataError, match="train000: expected a reference mask"):
            write_simulation(replace(dataset, read_reference=lambda name: None), RULES["full"], tmp_path / "a")
        with pytest.raises(DataError, match="case test000: expected scribbles to shorten, found none"):
            write_simulation(replace(dataset, train=dataset.test), RULES["full"], tmp_path / "b", "scribbles")


@pytest.mark.real_data
def test_simulated_scribbles_cover_about_as_much_as_the_experts(real_data):
    dataset = open_dataset(real_data / "acdc")
    for name in dataset.train.names[::60]:
        expert = dataset.train.named(name).scribbles
        drawn = simulate(dataset.reference(name), Skeleton(), name)
        assert 0.3 < (drawn != UNLABELLED).mean() / (expert != UNLABELLED).mean() < 1.5
