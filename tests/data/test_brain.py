import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from scribbleseg.data.brain import in_brain, normalise_brain, surrounded

IMAGES = arrays(np.float32, (2, 2, 4, 5), elements=st.sampled_from([0.0, -0.0, -3.0, 0.5]))


@given(image=IMAGES)
def test_a_voxel_is_brain_where_any_channel_is_not_zero(image):
    brain = in_brain(image)
    for place in np.ndindex(brain.shape):
        assert brain[place] == any(channel[place] != 0 for channel in image)


@given(image=IMAGES)
def test_what_surrounds_includes_the_brain_and_air_stays_zero(image):
    assume(in_brain(image).any())
    assert (surrounded(image) >= in_brain(image)).all()
    assert not normalise_brain(image)[:, ~in_brain(image)].any()


class TestSurrounded:
    def test_it_is_the_picture_without_its_zero_surround(self):
        image = np.zeros((2, 3, 8, 9), np.float32)
        image[0, 1, 2:6, 2:6] = -1.5
        image[1, 1, 2:6, 6] = 2.0
        image[0, 1, 3, 4] = 0.0  # enclosed in its slice
        image[0, 2] = 1.0
        expected = np.zeros((3, 8, 9), bool)
        expected[1, 2:6, 2:7] = expected[2] = True
        np.testing.assert_array_equal(surrounded(image), expected)

    def test_all_four_sides_are_outside(self):
        across = np.zeros((1, 2, 8, 9), np.float32)
        across[0, 0, 3:5] = across[0, 1, :, 3:5] = 1.0
        np.testing.assert_array_equal(surrounded(across), across[0] > 0)
