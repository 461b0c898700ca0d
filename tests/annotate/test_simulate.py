from dataclasses import replace
from itertools import pairwise

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.draw import disk

from scribbleseg.annotate.simulate import (
    RULES,
    Boundary,
    ShiftedSkeleton,
    Skeleton,
    drawn_in,
    shorten,
    simulate,
    with_lengths,
    write_simulation,
)
from scribbleseg.annotate.simulate.curves import eroded, largest_part, longest_path, parts
from scribbleseg.annotate.simulate.rules import SMALLEST_PART
from scribbleseg.data import coarse, fingerprint, open_dataset
from scribbleseg.data.brain import surrounded
from scribbleseg.data.formats import read_labels
from scribbleseg.data.layouts.present import read_present
from scribbleseg.phantoms import write_phantoms
from scribbleseg.types import UNLABELLED, Cases, DataError

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


KINDS = st.sampled_from([Skeleton, Boundary, ShiftedSkeleton])
NUMBERS = st.fixed_dictionaries(
    {"length": st.sampled_from([0.0, 0.25, 0.5, 1.0]), "width": st.integers(1, 5), "seed": st.integers(0, 9)}
)


class TestSimulate:
    @settings(deadline=None, max_examples=20)
    @given(masks(), KINDS, NUMBERS)
    def test_it_agrees_with_the_mask_and_draws_on_every_class_of_every_slice(self, mask, kind, numbers):
        scribbles = simulate(mask, kind(**numbers), "case")
        drawn = scribbles != UNLABELLED
        assert (scribbles[drawn] == mask[drawn]).all()
        for labels, drawn_labels in zip(mask, scribbles, strict=True):
            assert set(np.unique(drawn_labels)) - {UNLABELLED} == set(np.unique(labels))

    @settings(deadline=None, max_examples=12)
    @given(masks(), KINDS, st.integers(0, 9))
    def test_a_shorter_rule_is_part_of_the_longer(self, mask, kind, seed):
        drawn = [simulate(mask, kind(length=length, seed=seed), "case") for length in (0.0, 0.25, 0.5, 1.0)]
        for shorter, longer in pairwise(drawn):
            assert (longer[shorter != UNLABELLED] == shorter[shorter != UNLABELLED]).all()

    def test_lengths_are_what_they_say(self):
        drawn = {name: simulate(VOLUME, RULES[name], "case") for name in RULES}
        for label in range(4):
            full, half, quarter, spots = (
                (drawn[name] == label).sum((1, 2)) for name in ("full", "half", "quarter", "spots")
            )
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

    @pytest.mark.parametrize("seed", range(5))
    def test_boundary_strokes_follow_the_border_at_the_depth_and_share_that_they_say(self, seed):
        big = np.zeros((2, 120, 120), np.uint8)
        big[1][disk((60, 60), 40)] = 1
        middle = simulate(big, Skeleton(seed=seed), "case")
        drawn = simulate(big, Boundary(width=1, seed=seed), "case")
        contour = 2 * np.pi * 40
        for label, side in ((1, big[1] == 1), (0, big[1] == 0)):
            depth = ndimage.distance_transform_edt(side) - 0.5
            along = (drawn[1] == label) & (depth < 4)
            assert not ((middle[1] == label) & (depth < 4)).any()
            assert ndimage.label(along, EIGHT)[1] == 1
            assert 0.05 * contour < along.sum() < 0.22 * contour  # a digital circle has up to 4 / pi of its length
            assert depth[along].min() > 0.3
            assert depth[along].max() < 3.8
            rest = (drawn[1] == label) & (depth >= 4)
            assert rest.sum() > 40, "the middle line, or the loop, is there too"
        assert (drawn[0] == 0).sum() > 50, "slices without structures are drawn on"

    def test_a_stroke_along_the_border_may_lie_anywhere_on_it(self):
        slice_ = np.zeros((1, 60, 60), np.uint8)
        slice_[0][disk((30, 30), 18)] = 1
        octants = np.zeros(8)
        depth = ndimage.distance_transform_edt(slice_[0])
        for seed in range(120):
            drawn = simulate(slice_, Boundary(width=1, seed=seed), "case")[0] == 1
            rows, columns = np.nonzero(drawn & (depth < 5))
            octants[np.unique(np.floor(np.arctan2(rows - 30, columns - 30) / (np.pi / 4)).astype(int) % 8)] += 1
        assert octants.min() > octants.max() / 2

    @pytest.mark.parametrize("numbers", [{"depth": (0.0, 2.0)}, {"depth": (3.0, 1.0)}, {"share": (0.2, 1.5)}])
    def test_a_boundary_out_of_range_is_refused(self, numbers):
        with pytest.raises(ValueError, match="expected a (depth|share) of two"):
            Boundary(**numbers)

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

    @pytest.mark.parametrize("kind", [Skeleton, ShiftedSkeleton])
    @pytest.mark.parametrize(("every", "slices"), [(2, [1, 3]), (3, [1]), (4, [2]), (100, [3])])
    def test_slices_that_are_drawn_on_are_those_of_the_whole_drawing(self, kind, every, slices):
        whole, some = (simulate(VOLUME, kind(every=n), "case") for n in (1, every))
        assert (some[slices] == whole[slices]).all()
        others = np.setdiff1d(np.arange(len(VOLUME)), slices)
        assert (some[others] == UNLABELLED).all()
        assert np.array_equal(shorten(whole, kind(every=every), "case"), some)

    def test_the_seed_and_the_name_decide(self):
        draw = [simulate(VOLUME, Skeleton(seed=seed), name) for seed, name in ((0, "a"), (0, "a"), (1, "a"), (0, "b"))]
        np.testing.assert_array_equal(draw[0], draw[1])
        assert (draw[0] != draw[2]).any()
        assert (draw[0] != draw[3]).any()

    def test_a_wide_pen_stays_inside(self):
        thin, wide = (simulate(VOLUME, Skeleton(width=width), "case") for width in (1, 3))
        assert (wide[thin != UNLABELLED] == thin[thin != UNLABELLED]).all()
        assert 2 < (wide != UNLABELLED).sum() / (thin != UNLABELLED).sum() < 4

    @pytest.mark.parametrize("kind", [Skeleton, Boundary, ShiftedSkeleton])
    def test_a_label_may_have_a_length_of_its_own(self, kind):
        mixed = simulate(VOLUME, kind(length=(0.5, 1.0, 0.0, 0.25)), "case")
        for label, length in enumerate((0.5, 1.0, 0.0, 0.25)):
            alone = simulate(VOLUME, kind(length=length), "case")
            np.testing.assert_array_equal(mixed == label, alone == label)
        with pytest.raises(ValueError, match=r"expected a length for label 2, got 2 \(0..1\)"):
            simulate(VOLUME, kind(length=(0.5, 1.0)), "case")

    @settings(deadline=None, max_examples=15)
    @given(masks(), masks(), KINDS)
    def test_background_is_drawn_inside_and_nothing_where_the_mask_says_nothing(self, mask, other, kind):
        inside = other > 0
        mask[other == 2] = UNLABELLED
        scribbles = simulate(mask, kind(), "case", inside)
        assert inside[scribbles == 0].all()
        assert (scribbles[mask == UNLABELLED] == UNLABELLED).all()
        has_background = ((mask == 0) & inside).any((1, 2))
        np.testing.assert_array_equal((scribbles == 0).any((1, 2)), has_background)
        for value in (1, 2):
            np.testing.assert_array_equal((scribbles == value).any((1, 2)), (mask == value).any((1, 2)))

    def test_what_the_mask_does_not_know_is_no_structure(self):
        known = np.pad(VOLUME, ((0, 0), (0, 0), (0, 30)))
        partial = known.copy()
        partial[:, :, 105:] = UNLABELLED
        drawn = simulate(known, Skeleton(), "case")
        assert (drawn[:, :, 105:] == UNLABELLED).all()
        np.testing.assert_array_equal(simulate(partial, Skeleton(), "case"), drawn)

    def test_inside_has_the_shape_of_the_mask(self):
        with pytest.raises(ValueError, match=r"`inside` of the mask's shape \(4, 80, 90\), got \(3, 80, 90\)"):
            simulate(VOLUME, Skeleton(), "case", np.ones((3, 80, 90), bool))

    @pytest.mark.parametrize("kind", [Skeleton, ShiftedSkeleton])
    @pytest.mark.parametrize(
        "wrong", [{"length": -0.1}, {"length": (1.0, 1.1)}, {"width": 0}, {"seed": -1}, {"every": 0}]
    )
    def test_numbers_out_of_range_are_refused(self, kind, wrong):
        with pytest.raises(ValueError, match=f"expected an? {next(iter(wrong))}.* got "):
            kind(**wrong)


class TestShiftedSkeleton:
    @settings(deadline=None, max_examples=15)
    @given(masks(), st.integers(0, 9))
    def test_each_part_has_one_line_in_what_erosion_leaves_of_it(self, mask, seed):
        scribbles = simulate(mask, ShiftedSkeleton(width=1, seed=seed), "case")
        for labels, drawn in zip(mask, scribbles, strict=True):
            for value in np.unique(labels):
                size = 3 if value else 30
                expected = np.zeros_like(labels, bool)
                for part in parts(labels == value, SMALLEST_PART):
                    inner = largest_part(eroded(part, size))
                    assert ndimage.label(inner & (drawn == value), EIGHT)[1] == 1
                    expected |= inner
                assert expected[drawn == value].all()

    def test_lines_are_three_pixels_wide_and_whole(self):
        scribbles = simulate(VOLUME, ShiftedSkeleton(), "case")
        lines = simulate(VOLUME, ShiftedSkeleton(width=1), "case")
        for label in range(4):
            wide = np.stack([ndimage.binary_dilation(line == label, EIGHT) for line in lines])
            np.testing.assert_array_equal(scribbles == label, wide)

    def test_background_keeps_its_distance(self):
        mask = np.zeros((1, 200, 220), np.uint8)
        mask[0][disk((80, 70), 18)] = 1
        inside = np.zeros_like(mask, bool)
        inside[0, 5:190, 10:215] = True
        for seed in range(5):
            drawn = simulate(mask, ShiftedSkeleton(width=1, seed=seed), "case", inside)[0] == 0
            away = ndimage.distance_transform_cdt((inside & (mask == 0))[0], "chessboard")
            assert away[drawn].min() >= 15
            assert drawn.sum() > 60

    def test_where_erosion_leaves_nothing_it_erodes_less(self):
        thin = np.zeros((2, 60, 60), bool)
        thin[0, 20:40, 5:55] = True  # 20 pixels: 15 x 15 leaves something
        thin[1, 30, 10:50] = True  # a line
        drawn = simulate(np.zeros((2, 60, 60), np.uint8), ShiftedSkeleton(width=1), "case", thin) == 0
        assert ndimage.distance_transform_cdt(thin[0], "chessboard")[drawn[0]].min() >= 8
        assert drawn[1].sum() > 10
        structure = thin.astype(np.uint8)
        assert (simulate(structure, ShiftedSkeleton(), "case") == 1).any((1, 2)).all()

    def test_moves_are_as_large_as_the_rule_says_where_there_is_room(self):
        everywhere = np.ones((400, 400), bool)
        curve = np.stack([np.full(101, 200), np.arange(150, 251)], axis=1)
        shifts, turns = [], []
        for seed in range(200):
            found = ShiftedSkeleton()._moved(curve, everywhere, np.random.default_rng(seed))
            shifts.append(found.mean(axis=0) - curve.mean(axis=0))
            along = found[-1] - found[0]
            turns.append(np.degrees(np.arctan2(along[0], along[1])))
        for values, largest in ((np.ravel(shifts), 20), (np.array(turns), 30)):
            assert np.abs(values).max() <= largest + 1
            assert np.abs(values).max() > 0.95 * largest
            np.testing.assert_allclose(values.std(), largest / np.sqrt(3), rtol=0.15)  # uniform

    @settings(deadline=None, max_examples=15)
    @given(masks(), st.integers(0, 99))
    def test_at_least_half_of_a_curve_is_left_in_one_piece(self, mask, seed):
        region = largest_part(mask[0] > 0)
        if not region.any():
            return
        curve = longest_path(region, np.random.default_rng(seed))
        found = ShiftedSkeleton()._moved(curve, region, np.random.default_rng(seed))
        assert region[tuple(found.T)].all()
        assert (np.abs(np.diff(found, axis=0)).max(1) == 1).all()
        assert len(found) >= 0.5 * 0.6 * len(curve)  # a turn by 30 degrees or cut corners take a third of the pixels

    def test_small_structures_get_small_moves(self):
        small = np.zeros((60, 60), bool)
        small[26:35, 20:40] = True
        curve = np.stack([np.full(14, 30), np.arange(23, 37)], axis=1)
        lines = [ShiftedSkeleton()._moved(curve, small, np.random.default_rng(seed)) for seed in range(50)]
        # Nearly all of the moves of up to 20 pixels lead out of it.
        assert len({line.tobytes() for line in lines}) > 40

    def test_without_moves_it_is_the_skeleton(self):
        still = simulate(VOLUME, ShiftedSkeleton(shift=0.0, rotation=0.0, width=1), "case")
        bar = longest_path(eroded(VOLUME[1] == 1, 3), np.random.default_rng(0))
        np.testing.assert_array_equal(np.argwhere(still[1] == 1), bar[np.lexsort(bar.T[::-1])])

    def test_specks_are_left_alone_and_a_single_voxel_is_drawn_on(self):
        mask = np.zeros((1, 90, 90), np.uint8)
        mask[0, 5, 5] = 1
        mask[0, 40:50, 40:50] = 2
        mask[0, 80, 80] = 2
        scribbles = simulate(mask, ShiftedSkeleton(), "case")
        assert scribbles[0, 5, 5] == 1
        assert scribbles[0, 80, 80] == UNLABELLED
        assert (scribbles[0, 40:50, 40:50] == 2).any()

    def test_the_seed_and_the_name_decide(self):
        rule = ShiftedSkeleton()
        first = simulate(VOLUME, rule, "a")
        np.testing.assert_array_equal(first, simulate(VOLUME, rule, "a"))
        assert (first != simulate(VOLUME, rule, "b")).any()
        assert (first != simulate(VOLUME, replace(rule, seed=1), "a")).any()

    @pytest.mark.parametrize(
        "wrong", [{"erosion": 0}, {"background_erosion": 0}, {"shift": -1.0}, {"rotation": float("nan")}]
    )
    def test_its_numbers_have_ranges(self, wrong):
        [(name, value)] = wrong.items()
        with pytest.raises(ValueError, match=f"expected a {name} of at least ., got {value}"):
            ShiftedSkeleton(**wrong)


class TestWithLengths:
    NAMES = ("background", "ED", "ET")

    @pytest.mark.parametrize(
        ("texts", "expected"),
        [
            ([], 1.0),
            (["0.5"], 0.5),
            (["ED=0.25"], (1.0, 0.25, 1.0)),
            (["ET=0", "0.5"], (0.5, 0.5, 0.0)),
            (["background=.5", "ED=0.5", "ET=0.5"], 0.5),
        ],
    )
    def test_one_number_or_one_for_a_label(self, texts, expected):
        rule = with_lengths(ShiftedSkeleton(seed=3), texts, self.NAMES)
        assert rule == ShiftedSkeleton(seed=3, length=expected)
        assert isinstance(rule.length, tuple if isinstance(expected, tuple) else float)

    @pytest.mark.parametrize("text", ["half", "", "1.5", "-1", "nan", "ED=", "ED=x", "ED=2", "WT=0.5", "=0.5"])
    def test_what_is_no_length_is_refused(self, text):
        with pytest.raises(DataError, match=f'a label among background, ED, ET; got "{text}"'):
            with_lengths(Skeleton(), [text], self.NAMES)

    @pytest.mark.parametrize(("texts", "of"), [(["0.5", "0.5"], "all labels"), (["ED=1", "ED=0.5"], "ED")])
    def test_nothing_stands_twice(self, texts, of):
        with pytest.raises(DataError, match=f'one length for {of}, got "{texts[1]}" as well'):
            with_lengths(Skeleton(), texts, self.NAMES)


class TestShorten:
    SCRIBBLES = simulate(VOLUME, Skeleton(width=2), "expert")

    @settings(deadline=None, max_examples=20)
    @given(masks(), NUMBERS)
    def test_it_never_labels_what_nobody_did(self, drawn, numbers):
        drawn[drawn == 0] = UNLABELLED
        kept = shorten(drawn, Skeleton(**numbers), "case")
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

    @pytest.mark.parametrize("every", [2, 3, 100])
    def test_slices_are_counted_among_those_that_are_drawn_on(self, every):
        drawn = np.full((50, *VOLUME.shape[1:]), UNLABELLED, np.uint8)
        drawn[3:50:7] = simulate(VOLUME, Skeleton(), "case")[1]  # 3, 10, ..., 45
        kept = shorten(drawn, Skeleton(every=every), "case")
        expected = {2: [10, 24, 38], 3: [10, 31], 100: [45]}[every]
        assert np.flatnonzero((kept != UNLABELLED).any(axis=(1, 2))).tolist() == expected

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
        assert {name for name in after if after[name] != before[name]} == {
            "train001.nii.gz",
            "dataset.json",
            "drawn_from.json",
        }

    def test_scribbles_are_shortened_in_the_plane_that_they_were_drawn_in(self, tmp_path, caplog):
        rng, strokes = np.random.default_rng(0), np.full((40, 36, 30), 2, np.uint8)
        for y in range(4, 32, 2):  # coronal lines of a volume of cubes
            strokes[3:33, y, rng.integers(5, 20)], strokes[rng.integers(34, 38), y, 3:23] = 1, 0
        for part, voxels in (("images", rng.integers(0, 99, strokes.shape).astype(np.int16)), ("scribbles", strokes)):
            (tmp_path / "data" / part).mkdir(parents=True)
            nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "data" / part / "a.nii.gz")
        (tmp_path / "data" / "dataset.json").write_text('{"labels": {"background": 0, "liver": 1, "ignore": 2}}')
        folder = write_simulation(open_dataset(tmp_path / "data"), RULES["half"], tmp_path / "half", "scribbles")
        halves = open_dataset(tmp_path / "data", scribbles=str(folder)).train[0].scribbles
        lengths = np.moveaxis(halves == 1, 1, 0)[4:32:2].sum(axis=(1, 2))
        assert (lengths == 15).all()
        assert "drawn in coronal slices" in caplog.text

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

    @pytest.mark.parametrize("rule", ["boundary", "ji2019"])
    def test_scribbles_are_not_shortened_by_a_rule_that_says_where_lines_run(self, rule, phantoms, tmp_path):
        with pytest.raises(DataError, match="expected a rule that shortens scribbles .full, half, quarter or spots."):
            write_simulation(open_dataset(phantoms), RULES[rule], tmp_path / "a", "scribbles")
        assert not (tmp_path / "a").exists()


class TestWriteSimulationOfBrains:
    """Scribbles that are coarser than masks, an image with a zero surround, and present.json."""

    @pytest.fixture
    def brains(self, phantoms):
        dataset = open_dataset(phantoms)
        names = dataset.label_names[1:]

        def in_a_box(name):
            case = dataset.train.named(name)
            image = np.zeros_like(case.image)
            image[:, 1:, 6:66, 6:66] = case.image[:, 1:, 6:66, 6:66] + 1
            return replace(case, image=image)

        def of_two_cases(name):
            mask = dataset.reference(name)
            return np.where(mask == 2, 0, mask).astype(np.uint8) if name == "train001" else mask

        return replace(
            dataset,
            train=Cases(dataset.train.names, in_a_box),
            read_reference=of_two_cases,
            regions={"whole": (1, 2), **{name: (value,) for value, name in enumerate(names, 1)}},
            scribble_names=("background", "whole"),
        )

    def test_it_draws_what_is_scribbled_or_all(self, brains, tmp_path):
        for labels, drawn_on in (("scribbled", coarse(brains)), ("all", brains)):
            folder = write_simulation(brains, RULES["ji2019"], tmp_path / labels, labels=labels)
            assert drawn_in(brains, labels).label_names == drawn_on.label_names
            simulated = open_dataset(brains.root, scribbles=folder) if labels == "all" else None
            for name in brains.train.names:
                mask, inside = drawn_on.reference(name), surrounded(brains.train.named(name).image)
                assert 0 < inside.mean() < 1
                expected = simulate(mask, RULES["ji2019"], name, inside)
                assert inside[expected == 0].all()
                values = read_labels(folder / f"{name}.nii.gz")[0]
                np.testing.assert_array_equal(values == drawn_on.n_labels, expected == UNLABELLED)
                np.testing.assert_array_equal(values[expected != UNLABELLED], expected[expected != UNLABELLED])
                if simulated:
                    np.testing.assert_array_equal(simulated.train.named(name).scribbles, expected)

    def test_present_is_derived_from_the_masks(self, brains, phantoms, tmp_path):
        fold = replace(brains, train=Cases(brains.train.names[:2], brains.train.named))
        folder = write_simulation(fold, RULES["ji2019"], tmp_path / "drawn")
        assert list(read_present(folder, brains.label_names)) == ["train000", "train001"]
        fold = replace(brains, train=Cases(brains.train.names[1:], brains.train.named))
        write_simulation(fold, RULES["ji2019"], folder)
        both, one = frozenset({1, 2}), frozenset({1})
        assert read_present(folder, brains.label_names) == {"train000": both, "train001": one, "train002": both}
        plain = write_simulation(open_dataset(phantoms), RULES["ji2019"], tmp_path / "plain")
        assert not (plain / "present.json").exists()

    def test_scribbles_cannot_be_shortened_to_finer_ones(self, brains, tmp_path):
        with pytest.raises(DataError, match="found scribbles of background, whole; draw on the masks"):
            write_simulation(brains, RULES["half"], tmp_path, "scribbles", "all")
        assert not list(tmp_path.iterdir())


@pytest.mark.real_data
def test_simulated_scribbles_cover_about_as_much_as_the_experts(real_data):
    dataset = open_dataset(real_data / "acdc")
    for name in dataset.train.names[::60]:
        expert = dataset.train.named(name).scribbles
        drawn = simulate(dataset.reference(name), Skeleton(), name)
        assert 0.3 < (drawn != UNLABELLED).mean() / (expert != UNLABELLED).mean() < 1.5
