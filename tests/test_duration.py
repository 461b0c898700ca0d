"""The time that a training is said to take."""

import time

import numpy as np
import pytest
import torch
from PIL import Image

from scribbleseg import duration, pipeline
from scribbleseg.data import open_dataset
from scribbleseg.phantoms import write_phantoms
from scribbleseg.recipes import find
from scribbleseg.settings import override
from scribbleseg.training.hardware import make_fabric
from scribbleseg.types import DataError

SMALL = ["preprocess.size=32", "network.base=4", "stages.0.iterations=30", "stages.1.iterations=5"]


@pytest.fixture
def hearts(tmp_path):
    return open_dataset(write_phantoms(tmp_path / "hearts", train=2, test=1, shape=(3, 48, 48)))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 second"), (41.0, "41 seconds"), (100.0, "1.7 minutes"), (1490.0, "25 minutes"), (12345.0, "3.4 hours")],
)
def test_durations_have_two_digits(seconds, words):
    assert duration.in_words(seconds) == words


@pytest.mark.parametrize(
    "name", ["default.quick", "default.quick3d", "can2018.compact_crf_rnn", "ji2019.compact_wt_sc_gc_crf"]
)
def test_every_network_and_loss_is_timed_and_leaves_the_random_state(hearts, tmp_path, name):
    recipe = override(find(name), ["preprocess.size=32"])
    session = pipeline.begin(hearts, tmp_path / "run", recipe, fabric=make_fabric("cpu"))
    state = torch.get_rng_state()
    for step in session.recipe.stages:
        assert duration.seconds_for_one(session.recipe, step.losses, 4, 4, session.fabric) > 0
    assert torch.equal(torch.get_rng_state(), state)


def test_what_is_said_is_of_the_order_of_what_it_takes(hearts, tmp_path):
    recipe = override(find("default.quick"), SMALL)
    session = pipeline.begin(hearts, tmp_path / "run", recipe, fabric=make_fabric("cpu"))
    said = duration.seconds(session, 1, session.recipe.steps)
    started = time.perf_counter()
    list(pipeline.train(session))
    assert said / 20 < time.perf_counter() - started < said * 200, "no more than that is sure on a machine in use"


def test_the_plan_says_what_is_left(hearts, tmp_path):
    recipe = override(find("default.quick"), SMALL)
    session = pipeline.begin(hearts, tmp_path / "run", recipe, fabric=make_fabric("cpu"))
    plan = pipeline.plan(session)
    assert "5 rounds of training (30, 5, 5, 5, 5 iterations) of 10 slices of 32 x 32 pixels" in plan
    assert "2 training cases. Training takes about" in plan
    list(pipeline.train(session))
    assert pipeline.plan(session) == "nothing: all rounds of training are done."


def test_the_plan_of_a_patch_is_of_its_size(hearts, tmp_path):
    recipe = override(find("default.quick"), [*SMALL, "patch=16"])
    plan = pipeline.plan(pipeline.begin(hearts, tmp_path / "run", recipe, fabric=make_fabric("cpu")))
    assert "slices of 16 x 16 pixels" in plan


def test_windows_are_counted_as_they_are_looked_at():
    assert [duration._windows(*sides) for sides in ((96, 96), (64, 96), (192, 96), (97, 96), (144, 96))] == [
        1,
        1,
        3,
        2,
        2,
    ]


def test_a_loss_that_does_not_fit_the_images_is_refused_before_it_is_timed(hearts, tmp_path):
    recipe = override(find("ji2019.compact_wt_sc_crf"), SMALL[:1])
    session = pipeline.begin(hearts, tmp_path / "run", recipe, fabric=make_fabric("cpu"))
    with pytest.raises(DataError, match="expected channels below 1"):
        pipeline.plan(session)


def test_a_training_that_ended_early_has_nothing_left(hearts, tmp_path):
    recipe = override(find("can2018.compact_base"), ["stages.iterations=1", "network.base=4", "stop_below=1.5"])
    session = pipeline.begin(hearts, tmp_path / "run", recipe, fabric=make_fabric("cpu"))
    assert len(list(pipeline.train(session))) == 2 < len(recipe.steps)
    assert pipeline.plan(session) == "nothing: all rounds of training are done."


def test_the_plan_of_pictures_has_no_millimetres(tmp_path):
    for part, values in {"images": [0, 90, 200, 255], "scribbles": [2, 0, 1, 2]}.items():
        (tmp_path / "eyes" / part).mkdir(parents=True)
        picture = np.repeat(np.array(values, np.uint8), 8)[None].repeat(32, axis=0)
        Image.fromarray(picture).save(tmp_path / "eyes" / part / "a.png")
    (tmp_path / "eyes" / "dataset.json").write_text('{"labels": {"background": 0, "disc": 1, "ignore": 2}}')
    recipe = override(find("default.quick"), SMALL)
    plan = pipeline.plan(
        pipeline.begin(open_dataset(tmp_path / "eyes"), tmp_path / "run", recipe, fabric=make_fabric("cpu"))
    )
    assert "slices of 32 x 32 pixels; 1 training case" in plan
    assert "mm" not in plan
