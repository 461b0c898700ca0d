import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.draw import disk

from scribbleseg.annotate.simulate.curves import (
    eroded,
    inked,
    largest_part,
    longest_path,
    longest_run,
    moved,
    parts,
)

EIGHT = np.ones((3, 3))


@st.composite
def blobs(draw, shape=(48, 40)):
    """A connected region, maybe with holes, that may touch the picture's border."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    smooth = ndimage.gaussian_filter(rng.normal(size=shape), draw(st.sampled_from([0.7, 2, 5])))
    return largest_part(smooth > np.quantile(smooth, draw(st.sampled_from([0.5, 0.76]))))  # never empty


def walk(path):
    """Fails unless the path goes from neighbour to neighbour and passes no pixel twice."""
    steps = np.abs(np.diff(path, axis=0)).max(1)
    assert (steps == 1).all()
    assert len({tuple(pixel) for pixel in path}) == len(path)


class TestParts:
    def test_they_come_in_order_without_specks(self):
        region = np.zeros((20, 30), bool)
        region[1, 1] = region[3:8, 3:8] = region[10:12, 20:25] = True
        region[8, 8] = True  # touches by a corner
        assert [part.sum() for part in parts(region)] == [1, 26, 10]
        assert [part.sum() for part in parts(region, 0.3)] == [26, 10]
        assert (largest_part(region) == parts(region)[1]).all()
        assert parts(np.zeros((4, 4), bool)) == []
        assert not largest_part(np.zeros((4, 4), bool)).any()


class TestEroded:
    @settings(deadline=None, max_examples=20)
    @given(blobs(), st.sampled_from([1, 2, 3, 5, 30]))
    def test_it_is_the_largest_of_the_halved_squares_that_leaves_something(self, region, size):
        found = eroded(region, size)
        while not (slow := ndimage.binary_erosion(region, np.ones((size, size)))).any():
            size //= 2
        np.testing.assert_array_equal(found, slow)


class TestMoved:
    @settings(deadline=None, max_examples=40)
    @given(blobs(), st.floats(-25, 25), st.floats(-25, 25), st.floats(-180, 180))
    def test_it_lies_where_the_rotation_puts_it_in_one_piece(self, region, down, right, degrees):
        curve = longest_path(region, np.random.default_rng(0))
        found = moved(curve, np.array([down, right]), degrees)
        turn = np.exp(1j * np.deg2rad(degrees))
        points = curve @ [1, 1j]
        exact = (points - points.mean()) * turn + points.mean() + down + 1j * right
        apart = np.abs((found @ [1, 1j])[:, None] - exact)
        assert apart.min(axis=1).max() < 1.42  # half a step of sqrt 2, and as much of rounding
        assert apart.min(axis=0).max() < 2.13  # a step of sqrt 2 to where a corner is cut, and rounding
        assert (np.abs(np.diff(found, axis=0)).max(1) == 1).all()
        assert (np.abs(found[2:] - found[:-2]).max(1) > 1).all()  # no corners

    def test_a_curve_that_is_not_moved_stays(self):
        curve = np.array([[3, 3], [3, 4], [4, 5], [5, 5], [6, 4]])
        np.testing.assert_array_equal(moved(curve, np.zeros(2), 0.0), curve)
        np.testing.assert_array_equal(moved(curve[:1], np.array([-2.0, 9.0]), 17.0), [[1, 12]])

    def test_corners_and_pixels_that_stand_twice_are_cut(self):
        corner = np.array([[0, 0], [0, 1], [0, 2], [1, 2], [2, 2]])
        np.testing.assert_array_equal(moved(corner, np.zeros(2), 0.0), corner[[0, 1, 3, 4]])
        stairs = np.array([[0, 0], [0, 1], [1, 1], [1, 2], [2, 2]])
        np.testing.assert_array_equal(moved(stairs, np.zeros(2), 0.0), [[0, 0], [1, 1], [2, 2]])


class TestLongestRun:
    @settings(deadline=None, max_examples=40)
    @given(st.lists(st.booleans(), min_size=1, max_size=12))
    def test_no_run_inside_is_longer(self, inside):
        row = np.arange(len(inside))
        curve = np.stack([np.zeros_like(row), row], axis=1)
        found = longest_run(curve, np.array([inside]))
        longest = max((b - a for a in row for b in range(a, len(row) + 1) if all(inside[a:b])), default=0)
        assert len(found) == longest
        assert all(inside[column] for _, column in found)
        assert (np.diff(found[:, 1]) == 1).all()

    def test_outside_of_the_picture_is_outside_of_the_region(self):
        curve = np.array([[-1, 0], [0, 0], [1, 1], [2, 2], [3, 3]])
        np.testing.assert_array_equal(longest_run(curve, np.ones((3, 3), bool)), curve[1:4])


class TestInked:
    @settings(deadline=None, max_examples=30)
    @given(blobs(), blobs(), st.integers(1, 7))
    def test_it_is_what_lies_within_half_the_width(self, region, allowed, width):
        curve = longest_path(region, np.random.default_rng(0))
        line = np.zeros_like(region)
        line[tuple(curve.T)] = True
        slow = (ndimage.distance_transform_edt(~line) <= width / 2) & allowed
        np.testing.assert_array_equal(inked(curve, width, allowed), slow)

    def test_no_curve_leaves_nothing(self):
        assert not inked(np.empty((0, 2), int), 3, np.ones((4, 4), bool)).any()


class TestLongestPath:
    @settings(deadline=None, max_examples=40)
    @given(blobs())
    def test_it_is_a_line_in_the_region_wherever_that_lies(self, region):
        path = longest_path(region, np.random.default_rng(0))
        walk(path)
        assert region[tuple(path.T)].all()
        wider = longest_path(np.pad(region, 5), np.random.default_rng(0))
        np.testing.assert_array_equal(wider - 5, path)

    def test_branches_are_cut(self):
        cross = np.zeros((41, 61), bool)
        cross[20, 5:55] = True
        cross[12:28, 30] = True
        path = longest_path(cross, np.random.default_rng(0))
        walk(path)
        assert sorted([path[0][1], path[-1][1]]) == [5, 54]
        assert len(path) == 50

    def test_a_ring_is_opened_anywhere(self):
        ring = np.zeros((80, 90), bool)
        ring[disk((40, 45), 22)] = True
        ring[disk((40, 45), 14)] = False
        starts = set()
        for seed in range(5):
            path = longest_path(ring, np.random.default_rng(seed))
            walk(path)
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
        path = longest_path(region, rng)
        walk(path)
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
