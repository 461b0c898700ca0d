"""Recipes survive JSON, take single changes, and say what was expected where a field or value is wrong."""

import pytest

from scribbleseg.em import Recipe
from scribbleseg.seeds.random_walker import RandomWalker
from scribbleseg.settings import from_plain, override, to_plain
from scribbleseg.train.loop import Training
from scribbleseg.train.unet import UNet
from scribbleseg.types import DataError

TINY = Recipe(seeds=RandomWalker(tau=0.9), network=UNet(base=4, padded=True), training=Training(batch=4))


def test_recipes_survive_json_and_take_overrides():
    assert from_plain(Recipe, to_plain(TINY)) == TINY
    changed = override(TINY, ["training.batch=3", "seeds.tau=0.8", "preprocess.size=null", "annotation=masks"])
    assert (changed.training.batch, changed.seeds.tau, changed.preprocess.size) == (3, 0.8, None)
    assert changed.annotation == "masks"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("training.batch", "expected field=value"),
        (
            "training.bach=3",
            "expected a field of the recipe, got training.bach; the closest are training.batch",
        ),
        ("training.batch=many", r"training\.batch.*got 'many'"),
        ("seeds.tau=2", "tau"),
        ("annotation=boxes", "annotation"),
    ],
)
def test_bad_overrides_say_what_was_expected(setting, message):
    with pytest.raises(DataError, match=message):
        override(TINY, [setting])
