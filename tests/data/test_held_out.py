"""Held-out slices: as many as asked for, the same ones always, and never the last scribble of a label."""

import numpy as np

from scribbleseg.data.held_out import slices_to_hold_out
from scribbleseg.data.preprocess import Preprocess
from scribbleseg.data.slices import build_slices
from scribbleseg.types import UNLABELLED, Case, Cases, Geometry


def drawn(*labels: tuple[int, ...], side: int = 8) -> np.ndarray:
    """A volume with one stroke for each label of each slice."""
    scribbles = np.full((len(labels), side, side), UNLABELLED, np.uint8)
    for z, values in enumerate(labels):
        for row, value in enumerate(values):
            scribbles[z, row, 2:6] = value
    return scribbles


def test_about_that_share_of_the_drawn_slices_is_held_out():
    scribbles = drawn(*[(0, 1)] * 10, *[()] * 10)
    counts = [slices_to_hold_out(f"case {n}", scribbles, 0.05, set()).sum() for n in range(400)]
    assert 0.4 < np.mean(counts) < 0.6
    assert set(counts) == {0, 1}
    assert not any(slices_to_hold_out(f"case {n}", scribbles, 0.05, set())[10:].any() for n in range(400))


def test_the_name_decides_which():
    scribbles = drawn(*[(0, 1)] * 10)
    held = [slices_to_hold_out(name, scribbles, 0.5, set()) for name in ("a", "a", "b")]
    assert (held[0] == held[1]).all()
    assert (held[0] != held[2]).any()
    assert all(each.sum() == 5 for each in held)


def test_nothing_is_held_out_where_nothing_is_asked_for():
    assert not slices_to_hold_out("a", drawn(*[(0, 1)] * 10), 0.0, {0, 1}).any()


def test_the_last_scribble_of_a_label_stays():
    for n in range(50):
        assert not slices_to_hold_out(f"{n}", drawn((0, 1)), 0.5, set()).any()
        assert not slices_to_hold_out(f"{n}", drawn((0, 1), ()), 0.5, {0}).any()
        held = slices_to_hold_out(f"{n}", drawn((0, 1), (0, 2), (0, 1)), 0.5, set())
        assert not held[1]
        assert held.sum() <= 2
    assert any(slices_to_hold_out(f"{n}", drawn((0, 1)), 0.5, {0, 1}).any() for n in range(50))


def test_a_label_that_one_slice_alone_shows_stays_unless_the_whole_case_goes():
    for n in range(200):
        labels = [(0, 1), (0, 2), (0, 1)]
        held = slices_to_hold_out(f"{n}", drawn(*labels), 0.9, {0, 1, 2})
        left = set().union(*(labels[z] for z in range(3) if not held[z]))
        assert held.all() or left == {0, 1, 2}
    assert any(slices_to_hold_out(f"{n}", drawn((0, 1), (0, 1)), 0.9, {0, 1}).all() for n in range(50))
    assert not any(slices_to_hold_out(f"{n}", drawn((0, 1), (0, 2)), 0.9, {0}).any() for n in range(50))


def test_every_stroke_is_in_one_of_the_two_layers(tmp_path):
    grid = Preprocess(spacing_mm=1.0, size=16)
    scribbles = drawn(*[(0, 1)] * 10, side=16)
    geometry = Geometry(scribbles.shape, np.diag([1.0, 1.0, 5.0, 1.0]))
    case = Case("a", np.random.default_rng(0).normal(size=(1, 10, 16, 16)).astype(np.float32), scribbles, geometry)
    cases = Cases(["a"], lambda name: case)
    slices = build_slices(cases, grid, tmp_path / "held", held_out=0.2)
    kept, away = slices.scribbles, slices.held_out
    assert away is not None
    assert (away != UNLABELLED).any(axis=(1, 2)).sum() == 2
    assert not ((kept != UNLABELLED) & (away != UNLABELLED)).any()
    whole = grid.labels(scribbles, geometry)
    assert np.array_equal(np.where(kept == UNLABELLED, away, kept), whole)
    without = build_slices(cases, grid, tmp_path / "all")
    assert without.held_out is None
    assert np.array_equal(without.scribbles, whole)


def test_nothing_is_held_out_off_the_brain_where_no_training_is(tmp_path):
    scribbles = np.zeros((10, 16, 16), np.uint8)  # a mask: background everywhere, air included
    scribbles[2:8, 6:9, 6:9] = 1
    image = np.zeros((1, 10, 16, 16), np.float32)
    image[:, 1:9, 3:13, 3:13] = np.random.default_rng(0).normal(10, 1, (1, 8, 10, 10))
    case = Case("a", image, scribbles, Geometry(scribbles.shape, np.diag([1.0, 1.0, 5.0, 1.0])))
    grid = Preprocess(spacing_mm=1.0, size=16, brain=True)
    slices = build_slices(Cases(["a"], lambda name: case), grid, tmp_path / "held", held_out=0.5)
    assert slices.held_out is not None
    assert (slices.held_out[slices.inside] != UNLABELLED).any()
    assert (slices.held_out[~slices.inside] == UNLABELLED).all()
    assert not slices.inside.all()
