"""Recipes: what their stages mean, which of them make no training, and distances in pixels in every part."""

from dataclasses import replace

import pytest
from lightning_fabric import Fabric

from scribbleseg.data import folder
from scribbleseg.data.preprocess import Preprocess
from scribbleseg.phantoms import write_phantoms
from scribbleseg.pipeline import begin
from scribbleseg.recipe import Recipe, Relabel, Stage, resolve
from scribbleseg.recipes import recipes
from scribbleseg.relabel.decide import WelchTest
from scribbleseg.relabel.refine import DenseCRF
from scribbleseg.training.crf_loss import DenseCRFLoss
from scribbleseg.training.crf_rnn import CRFRNN
from scribbleseg.training.losses import PartialCrossEntropy, ScribblesAndAreas
from scribbleseg.training.monai_network import MONAINetwork
from scribbleseg.training.unet import UNet
from scribbleseg.types import DataError, Dataset

SMALL = Recipe(preprocess=Preprocess(spacing_mm=2.0, size=32), network=UNet(base=4, padded=True))
KERNELS = {"w1": 1.0, "w2": 1.0, "sigma_alpha": 6.0, "sigma_beta": 0.1, "sigma_gamma": 3.0}
SOFT = ScribblesAndAreas()
"""A loss that asks for soft labels where `soft_needed` is in use."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    return folder(write_phantoms(tmp_path_factory.mktemp("recipe") / "hearts", train=1, test=0, shape=(2, 48, 48)))


@pytest.fixture
def soft_needed(monkeypatch) -> None:
    monkeypatch.setattr(ScribblesAndAreas, "needs", frozenset({"soft", "scribbles"}))


def staged(*stages: Stage) -> Recipe:
    return replace(SMALL, stages=stages)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ((), "field stages: expected at least one stage, got none"),
        ((Stage(iterations=0),), r"field stages\.0\.iterations: .*greater than 0, got 0"),
        ((Stage(iterations=2), Stage(iterations=2, times=0)), r"field stages\.1\.times: .*greater than 0, got 0"),
        ((Stage(iterations=2, losses=()),), r"field stages\.0\.losses: .*at least 1 item"),
        ((Stage(iterations=2, relabel=Relabel()),), r"field stages\.0\.relabel: .*there is no network yet"),
        (
            (Stage(iterations=2), Stage(iterations=2, losses=(PartialCrossEntropy(), SOFT)), Stage(iterations=2)),
            "stages, recursion 1: the loss scribbles_and_areas needs soft labels, and no stage up to here makes any",
        ),
        (
            (Stage(iterations=2), Stage(iterations=2, relabel=Relabel(decide=WelchTest(passes=3)))),
            r"field stages\.1\.relabel\.decide: welch_test expects a network with dropout",
        ),
    ],
)
def test_stages_that_make_no_training_are_refused_before_anything_is_written(
    stages, message, dataset, soft_needed, tmp_path
):
    with pytest.raises(DataError, match=message):
        begin(dataset, tmp_path / "run", staged(*stages), fabric=Fabric(accelerator="cpu", devices=1))
    assert not list(tmp_path.iterdir())


def test_a_loss_of_soft_labels_may_follow_an_e_step_at_any_distance(dataset, soft_needed):
    taught = Stage(iterations=2, losses=(SOFT,))
    for stages in ((replace(taught, relabel=Relabel()),), (Stage(iterations=2, relabel=Relabel()), taught)):
        resolve(staged(Stage(iterations=2), *stages), dataset)


def test_every_recipe_has_stages_that_follow_each_other(dataset):
    every = (part for r in recipes().values() for part in ((r,) if r.kind == "em" else (r.whole, r.substructures)))
    distinct = {(repr(part.network), part.stages): part for part in every}
    for part in distinct.values():
        assert resolve(part, dataset).steps


def test_steps_are_the_stages_with_each_repetition_by_itself():
    first, again, last = Stage(iterations=7), Stage(iterations=5, relabel=Relabel()), Stage(iterations=3)
    recipe = staged(first, replace(again, times=3), last)
    assert recipe.steps == (first, again, again, again, last)
    assert recipe.beginning(1) == staged(first)
    assert recipe.beginning(3) == staged(first, again, again)
    assert recipe.beginning(5).steps == recipe.beginning(9).steps == recipe.steps
    assert staged(first, again).beginning(1) == recipe.beginning(1)
    assert replace(recipe, stop_below=0.5).beginning(1) != recipe.beginning(1)


def test_a_step_learns_from_the_last_labels_that_were_made():
    plain, e_step = Stage(iterations=2), Stage(iterations=2, relabel=Relabel())
    recipe = staged(plain, e_step, plain, replace(e_step, times=2), plain)
    assert [recipe.labels_of(n) for n in range(6)] == [0, 1, 1, 3, 4, 4]
    assert staged(replace(plain, times=2)).labels_of(1) == 0


def test_labels_are_as_rich_as_the_steps_that_learn_from_them_need(soft_needed):
    plain, e_step = Stage(iterations=2), Stage(iterations=2, relabel=Relabel())
    recipe = staged(plain, e_step, replace(plain, losses=(SOFT,)), replace(e_step, times=2))
    assert [recipe.needs_of(n) for n in range(5)] == [set(), {"soft"}, set(), set(), set()]
    assert staged(plain, replace(e_step, losses=(SOFT,), times=2)).needs_of(2) == {"soft"}


def test_a_schedule_spans_the_steps_that_do_not_restart_it():
    def lengths(n, restarts=True, times=1):
        return Stage(iterations=n, restarts=restarts, times=times)

    recipe = staged(lengths(10), lengths(5, False, 2), lengths(4), lengths(3, False))
    assert [recipe.schedule(n) for n in range(5)] == [(0, 20), (10, 20), (15, 20), (0, 7), (4, 7)]
    restarted = staged(lengths(10), lengths(5, times=2))
    assert [restarted.schedule(n) for n in range(3)] == [(0, 10), (0, 5), (0, 5)]
    assert staged(lengths(10, False), lengths(5)).schedule(0) == (0, 10), "without effect in the first stage"


def test_distances_in_every_part_come_in_pixels(dataset):
    kernels = {**KERNELS, "unit": "mm"}
    loss = DenseCRFLoss(channels=(0,), sigma_space=8.0, unit="mm")
    losses = (PartialCrossEntropy(), loss)
    recipe = replace(
        SMALL,
        network=CRFRNN(**kernels, unaries=UNet(base=4, padded=True)),
        stages=(
            Stage(iterations=2, losses=losses),
            Stage(iterations=2, losses=losses, relabel=Relabel(refine=DenseCRF(**kernels))),
        ),
    )
    resolved = resolve(recipe, dataset)
    for part in (resolved.network, resolved.stages[1].relabel.refine):
        assert (part.sigma_alpha, part.sigma_beta, part.sigma_gamma, part.unit) == (3.0, 0.1, 1.5, "px")
    for stage in resolved.stages:
        assert (stage.losses[1].sigma_space, stage.losses[1].unit) == (4.0, "px")
    assert resolve(resolved, dataset) == resolved


def test_a_patch_that_the_network_cannot_take_is_refused_before_training(dataset):
    assert resolve(replace(SMALL, patch=16), dataset).patch == 16
    assert resolve(replace(SMALL, patch=500), dataset).patch == 500, "more than a slice is the whole slice"
    with pytest.raises(DataError, match=r"patch.*multiples of 16, got \(20,\)"):
        resolve(replace(SMALL, patch=20), dataset)


VOLUME = MONAINetwork(name="DynUNet", arguments={"filters": [2, 4, 4]}, dimensions=3)


def test_blocks_that_are_much_deeper_than_the_data_are_told_of(dataset, caplog):
    assert dataset.train[0].geometry.shape[0] == 1
    resolve(replace(SMALL, network=VOLUME, depth=4), dataset)
    assert not caplog.messages
    resolve(replace(SMALL, network=VOLUME, depth=8), dataset)
    assert (
        "blocks of 8 slices are twice as deep as the data, or deeper (half of the cases have at most 1)" in caplog.text
    )


def test_blocks_and_their_network_are_fitted_to_the_data(dataset):
    recipe = resolve(replace(SMALL, network=VOLUME), dataset)
    assert recipe.depth == 4, "the stack has fewer slices"
    assert recipe.sides == (4, 32, 32)
    assert recipe.network.arguments["strides"] == [[1, 1, 1], [1, 2, 2], [1, 2, 2]]
    assert recipe.views.depth == 4
    assert resolve(recipe, dataset) == recipe
    assert resolve(replace(SMALL, network=VOLUME, depth=3, patch=16), dataset).sides == (3, 16, 16)
    assert resolve(replace(SMALL, neighbours=2), dataset).views.neighbours == 2
    assert replace(SMALL, neighbours=2).build(3, 2).channels == 15


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": VOLUME, "neighbours": 1}, "neighbours: expected 0 with a network monai in 3-D"),
        (
            {"network": CRFRNN(**KERNELS, unaries=SMALL.network), "neighbours": 1},
            "crf_rnn in 2-D, which compares pixels of one slice, got 1",
        ),
        ({"depth": 4}, "depth: expected none with a network unet in 2-D"),
        (
            {"network": VOLUME, "stages": (Stage(iterations=2, losses=(PartialCrossEntropy(), DenseCRFLoss())),)},
            r"stages\.losses: expected slices for dense_crf_loss, which compares pixels of one slice, got blocks",
        ),
        ({"network": replace(VOLUME, name="BasicUNet", arguments={})}, "sides that MONAI's BasicUNet takes"),
    ],
)
def test_what_does_not_go_with_blocks_is_refused_in_a_sentence(dataset, changes, message):
    with pytest.raises(DataError, match=message):
        resolve(replace(SMALL, **changes), dataset)
