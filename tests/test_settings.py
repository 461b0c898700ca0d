"""Recipes survive JSON, take single changes, and say what was expected where a field or value is wrong."""

import pytest

from scribbleseg.recipe import Recipe, Relabel, Stage
from scribbleseg.seeds.random_walker import RandomWalker
from scribbleseg.settings import from_plain, override, to_plain
from scribbleseg.training.unet import UNet
from scribbleseg.types import DataError

TINY = Recipe(
    seeds=RandomWalker(tau=0.9),
    network=UNet(base=4, padded=True),
    stages=(Stage(iterations=9, batch=4), Stage(iterations=5, batch=4, relabel=Relabel(), times=2)),
)


def test_recipes_survive_json_and_take_overrides():
    assert from_plain(Recipe, to_plain(TINY)) == TINY
    changed = override(
        TINY, ["stages.batch=3", "stages.1.times=4", "seeds.tau=0.8", "preprocess.size=null", "annotation=masks"]
    )
    assert [(stage.batch, stage.times) for stage in changed.stages] == [(3, 1), (3, 4)]
    assert (changed.seeds.tau, changed.preprocess.size) == (0.8, None)
    assert changed.annotation == "masks"


def test_a_part_of_another_kind_takes_all_of_its_fields_one_after_the_other():
    words = [
        "network.kind=monai",
        "network.dimensions=3",
        "network.name=DynUNet",
        'network.arguments={"filters": [4, 8]}',
    ]
    network = override(TINY, words).network
    assert (network.kind, network.name, network.dimensions) == ("monai", "DynUNet", 3)
    assert network.arguments == {"filters": [4, 8]}
    crf = ["refine.kind=dense_crf", *(f"refine.{name}=2.0" for name in ("w1", "w2", "sigma_alpha", "sigma_beta"))]
    refine = (
        override(TINY, [f"stages.1.relabel.{word}" for word in (*crf, "refine.sigma_gamma=3")]).stages[1].relabel.refine
    )
    assert (refine.kind, refine.w1, refine.sigma_gamma) == ("dense_crf", 2.0, 3.0)
    whole = ['network={"kind": "monai"}', "network.name=SegResNet", "network.dimensions=3"]
    assert override(TINY, whole).network.name == "SegResNet"
    with pytest.raises(DataError, match="network.nane"):
        override(TINY, ["network.kind=monai", "network.nane=DynUNet"])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("stages.batch", "expected field=value"),
        ("stages.bach=3", r"expected a field of the recipe, got stages\.bach; the closest are stages\.batch"),
        ("stages.2.batch=3", r"expected a field of the recipe, got stages\.2\.batch"),
        ("stages.batch=many", r"stages\.0\.batch.*got 'many'; .*stages\.1\.batch.*got 'many'"),
        ("stages.1.batch=many", r"field stages\.1\.batch.*got 'many'"),
        ("stages.losses.kind=boxes", r"stages\.0\.losses\.0"),
        ("seeds.tau=2", "tau"),
        ("annotation=boxes", "annotation"),
    ],
)
def test_bad_overrides_say_what_was_expected(setting, message):
    with pytest.raises(DataError, match=message):
        override(TINY, [setting])
