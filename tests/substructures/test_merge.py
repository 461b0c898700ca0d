"""Phase 1's whole tumour and phase 2's structures, merged."""

import numpy as np
import pytest

from scribbleseg.substructures import merge
from scribbleseg.types import UNLABELLED


def random_phases(seed, shape=(4, 5, 6)):
    rng = np.random.default_rng(seed)
    return rng.random(shape) < 0.5, rng.integers(0, 4, shape, dtype=np.uint8)


@pytest.mark.parametrize("seed", range(3))
def test_every_voxel_is_as_the_rule_says(seed):
    whole, structures = random_phases(seed)
    merged = merge(whole, structures)
    assert merged.dtype == np.uint8
    for z, y, x in np.ndindex(whole.shape):
        if not whole[z, y, x]:
            expected = 0
        elif structures[z, y, x] == 3:
            expected = 3
        elif structures[z, y, x] == 1:
            expected = 1
        else:
            expected = 2
        assert merged[z, y, x] == expected


def test_an_empty_tumour_passes_through():
    whole, structures = random_phases(0)
    assert not merge(np.zeros_like(whole), structures).any()


def test_a_phase_2_that_found_nothing_leaves_edema():
    whole, structures = random_phases(0)
    np.testing.assert_array_equal(merge(whole, np.zeros_like(structures)), 2 * whole)


def test_merging_again_changes_nothing_and_inputs_stay():
    whole, structures = random_phases(1)
    before = whole.copy(), structures.copy()
    merged = merge(whole, structures)
    np.testing.assert_array_equal(merge(merged > 0, merged), merged)
    np.testing.assert_array_equal(whole, before[0])
    np.testing.assert_array_equal(structures, before[1])


@pytest.mark.parametrize("value", [4, UNLABELLED])
def test_other_labels_are_refused(value):
    whole, structures = random_phases(2)
    structures[0, 0, 0] = value
    with pytest.raises(ValueError, match=f"labels 0 to 3 of phase 2.*{value}"):
        merge(whole, structures)


def test_other_grids_are_refused():
    whole, structures = random_phases(2)
    with pytest.raises(ValueError, match="one grid"):
        merge.__wrapped__(whole[:-1], structures)  # the public call's types are checked here first
