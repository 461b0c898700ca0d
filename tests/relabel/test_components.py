"""Pieces of structures against a flood fill, voxel by voxel."""

import numpy as np
import pytest

from scribbleseg.relabel.components import areas_of_lost, only_largest, only_scribbled, scribbles_in_components
from scribbleseg.types import UNLABELLED


def flood(labels):
    """The pieces of each structure, as sets of voxels: neighbours share a corner at least."""
    left = {tuple(map(int, v)) for v in np.argwhere((labels > 0) & (labels != UNLABELLED))}
    pieces = []
    while left:
        waiting, piece = [min(left)], set()
        while waiting:
            voxel = waiting.pop()
            if voxel not in left:
                continue
            left.remove(voxel)
            piece.add(voxel)
            for step in np.ndindex(3, 3, 3):
                other = tuple(int(a + b - 1) for a, b in zip(voxel, step, strict=True))
                if other in left and labels[other] == labels[voxel]:
                    waiting.append(other)
        pieces.append(piece)
    return pieces


def random_volume(seed):
    rng = np.random.default_rng(seed)
    labels = rng.choice(np.array([0, 1, 2, UNLABELLED], np.uint8), (3, 7, 8), p=[0.7, 0.12, 0.1, 0.08])
    scribbles = np.where(rng.random(labels.shape) < 0.1, labels, np.uint8(UNLABELLED))
    scribbles[0, 0, :3] = 1, 2, 0
    return labels, scribbles


@pytest.mark.parametrize("seed", range(5))
def test_pieces_without_a_scribble_of_their_own_are_not_believed(seed):
    labels, scribbles = random_volume(seed)
    expected = labels.copy()
    for piece in flood(labels):
        if not any(scribbles[voxel] == labels[voxel] for voxel in piece):
            for voxel in piece:
                expected[voxel] = UNLABELLED
    kept = only_scribbled(labels, scribbles)
    assert (kept == expected).all()
    assert (kept != labels).any()
    assert (kept[labels == 0] == 0).all(), "background stays"


@pytest.mark.parametrize("seed", range(5))
def test_the_largest_piece_alone_is_left_of_the_structures_that_are_named(seed):
    labels, scribbles = random_volume(seed)
    pieces = flood(labels)
    kept = only_largest(labels, {2, 9})
    of_2 = [piece for piece in pieces if labels[min(piece)] == 2]
    left = {tuple(map(int, v)) for v in np.argwhere(kept == 2)}
    assert left in of_2
    assert len(left) == max(map(len, of_2))
    assert (kept[(labels == 2) & (kept != 2)] == 0).all()
    assert (kept[labels != 2] == labels[labels != 2]).all()
    counts = scribbles_in_components(labels, scribbles, 4)
    assert counts[2, 0] == ((scribbles == 2) & (labels == 2)).sum()
    assert counts[2, 1] == ((scribbles == 2) & (kept == 2)).sum()
    assert counts[0].tolist() == counts[3].tolist() == [0, 0]


def test_nothing_is_no_piece():
    nothing = np.zeros((2, 3, 3), np.uint8)
    assert (only_largest(nothing, {1}) == 0).all()
    assert (only_scribbled(nothing, nothing + 1) == 0).all()


def test_a_volume_that_nobody_scribbled_is_all_unlabelled():
    labels = random_volume(0)[0]
    assert (only_scribbled(labels, np.full_like(labels, UNLABELLED)) == UNLABELLED).all()


def test_areas_stay_where_a_network_does_not_find_a_label_where_people_drew_it():
    """Slow version: count, label by label, how many of the scribbled voxels the network calls by their name."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        likeliest, areas = rng.integers(0, 4, (2, 2, 6, 6)).astype(np.uint8)
        scribbles = np.where(rng.random((2, 6, 6)) < 0.2, areas, UNLABELLED).astype(np.uint8)
        kept = areas_of_lost(likeliest, scribbles, areas)
        for value in range(4):
            drawn = list(zip(likeliest[scribbles == value], scribbles[scribbles == value], strict=True))
            lost = bool(drawn) and sum(found == wanted for found, wanted in drawn) < 0.5 * len(drawn)
            assert ((kept == value) == ((areas == value) & lost)).all()


def test_areas_of_labels_that_nobody_drew_in_the_case_are_overruled():
    areas = np.ones((1, 4, 4), np.uint8)
    nothing = np.full_like(areas, UNLABELLED)
    assert (areas_of_lost(np.zeros_like(areas), nothing, areas) == UNLABELLED).all()
