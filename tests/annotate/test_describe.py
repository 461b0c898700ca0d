"""What `check` says of images."""

import numpy as np
import pytest

from scribbleseg.annotate.describe import Description, ImageProperties
from scribbleseg.types import UNLABELLED, Case, Geometry


def case(name: str, shape=(9, 20, 24), mm=(10.0, 1.5, 1.5), channels=1, suffix=".nii.gz", flip=1.0) -> Case:
    image = np.linspace(0, 100, channels * int(np.prod(shape)), dtype=np.float32).reshape(channels, *shape)
    geometry = Geometry(shape, np.diag([flip * mm[2], mm[1], mm[0], 1.0]), suffix=suffix)
    return Case(name, image, np.full(shape, UNLABELLED, np.uint8), geometry)


def rows(*cases: Case) -> dict[str, str]:
    description = Description()
    for each in cases:
        description.add(ImageProperties.of(each))
    return description.rows


def test_what_is_the_same_is_said_once_and_what_differs_as_a_range():
    said = rows(case("a"), case("b", shape=(12, 20, 24), mm=(5.0, 1.5, 1.5)), case("c", flip=-1.0))
    assert said["cases"] == "3"
    assert said["voxels (depth x height x width)"] == "9-12 x 20 x 24"
    assert said["voxel size"] == "5-10 x 1.5 x 1.5 mm"
    assert said["orientation"] == "SAR (2), SAL (1)"
    assert said["channels"] == "1"
    assert said["intensities (most of them)"] == "1 to 99"


def test_pictures_have_no_millimetres():
    said = rows(case("a", shape=(1, 20, 24), mm=(1.0, 1.0, 1.0), suffix=".png"))
    assert said["voxel size"] == "1 x 1 x 1 px"
    assert said["orientation"] == "picture"


@pytest.mark.parametrize("channels", [(1, 2), (2, 1)])
def test_intensities_of_different_channels_are_not_mixed(channels):
    said = rows(*(case(str(n), channels=n) for n in channels))
    assert said["channels"] == f"{channels[0]} (1), {channels[1]} (1)"
    assert "intensities (most of them)" not in said


def test_of_nothing_nothing_is_said():
    assert rows() == {}
