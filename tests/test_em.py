"""The loop of M and E steps: what it trains on, what it leaves, and that a kill costs nothing but time."""

import json
import shutil
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.stats import ttest_ind_from_stats

from scribbleseg import em, pipeline
from scribbleseg import session as session_module
from scribbleseg.annotate.check import check, sentences
from scribbleseg.data import folder
from scribbleseg.data.formats import read_labels
from scribbleseg.data.preprocess import Preprocess
from scribbleseg.em import load_segmenter
from scribbleseg.phantoms import write_phantoms
from scribbleseg.recipe import Recipe, Relabel, Stage, resolve
from scribbleseg.relabel.components import areas_of_lost, only_scribbled, scribbles_in_components
from scribbleseg.relabel.decide import Confident, WelchTest
from scribbleseg.relabel.predict import Views, predict, sample
from scribbleseg.relabel.refine import DenseCRF, Identity
from scribbleseg.runs import Run
from scribbleseg.seeds.random_walker import RandomWalker
from scribbleseg.seeds.strokes import Strokes
from scribbleseg.session import Session
from scribbleseg.training import loop
from scribbleseg.training.losses import ScribblesAndAreas, partial_cross_entropy
from scribbleseg.training.network import switch_dropout_on
from scribbleseg.training.optimisers import SGD, Adam
from scribbleseg.training.unet import UNet
from scribbleseg.types import UNLABELLED, DataError, Dataset
from scribbleseg.weights import read_weights

TINY = Recipe(
    preprocess=Preprocess(spacing_mm=3.0, size=32),
    seeds=RandomWalker(tau=0.9, beta=100.0),
    network=UNet(base=4, padded=True, dropout=0.5),
    stages=(Stage(batch=4, iterations=7), Stage(batch=4, iterations=5, relabel=Relabel(), times=2)),
    stop_below=0.0,
)


class Killed(Exception):
    pass


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory) -> Path:
    return write_phantoms(tmp_path_factory.mktemp("em") / "phantoms", train=2, test=1, shape=(3, 48, 48))


@pytest.fixture(scope="session")
def dataset(phantoms) -> Dataset:
    def never(name):
        raise AssertionError("training looked at a reference mask")

    return replace(folder(phantoms), read_reference=never)


@pytest.fixture(scope="module")
def trained(dataset, fabric, tmp_path_factory) -> tuple[Session, list[em.Recursion]]:
    """TINY, undisturbed; read only."""
    session = begun(dataset, tmp_path_factory.mktemp("em") / "run", fabric)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "CHECKPOINT_EVERY", 3)
        patch.setattr(loop, "LOG_EVERY", 1)
        return session, list(em.train(session))


def begun(dataset, path, fabric, recipe=TINY) -> Session:
    return pipeline.begin(dataset, path, recipe, fabric=fabric, resume=True)


def test_recursions_train_relabel_and_never_touch_seeds_or_references(dataset, trained):
    session, recursions = trained
    assert [r.index for r in recursions] == [0, 1, 2]
    assert recursions[0].labelled < 1
    inside = np.concatenate([TINY.preprocess.inside(case) for case in dataset.train])
    for recursion in recursions[1:]:
        assert ((recursion.labels == UNLABELLED) == ~inside).all(), "all that is not padding is relabelled"
    assert recursions[0].changed is None
    seeds = recursions[0].labels
    for recursion in recursions[1:]:
        assert (recursion.labels[seeds != UNLABELLED] == seeds[seeds != UNLABELLED]).all()
        assert recursion.changed is not None
    strokes = session.slices.scribbles
    assert (seeds[strokes != UNLABELLED] == strokes[strokes != UNLABELLED]).all()


def test_the_e_step_is_the_argmax_of_the_network_off_the_seeds(trained, fabric):
    session, recursions = trained
    network = load_segmenter(TINY, session.run, fabric, 0).network.eval()
    images = torch.from_numpy(session.slices.images())
    with torch.inference_mode():
        expected = network(images).argmax(dim=1).numpy()
    free = (recursions[0].labels == UNLABELLED) & (recursions[1].labels != UNLABELLED)
    assert (recursions[1].labels[free] == expected[free]).mean() > 0.999  # batches differ in the last bit


@pytest.fixture
def sure(trained):
    """A network whose logits are far from 0, so that passes with dropout disagree."""
    session, _ = trained
    torch.manual_seed(0)
    network = TINY.network.build(1, 4)
    images = torch.from_numpy(session.slices.images())
    with torch.no_grad():
        for _ in range(40):
            network(images)
        network.head[1].weight.fill_(3.0)
    return network


@pytest.mark.parametrize(
    "refine", [Identity(), DenseCRF(w1=5.0, w2=10.0, sigma_alpha=2.0, sigma_beta=0.1, sigma_gamma=5.0)]
)
def test_with_passes_labels_are_the_argmax_of_the_refined_mean_softmax_of_the_passes(
    refine, dataset, sure, fabric, tmp_path
):
    """Section 2.4: "Rather than a single output this yields a distribution"; plain passes are the slow version."""
    relabel = Relabel(refine=refine, decide=WelchTest(passes=6, significance=0.05))
    recipe = replace(TINY, stages=(TINY.stages[0], Stage(iterations=1, relabel=relabel)))
    session = begun(dataset, tmp_path / "run", fabric, recipe)
    session.prepare(recipe.preprocess)
    em.grow_seeds(session)
    em.e_step(session, sure, 1)
    slices = session.slices
    found, seeds = slices.layer("labels", 1), slices.layer("labels", 0)
    plain = deepcopy(sure).eval().to(memory_format=torch.channels_last)
    switch_dropout_on(plain)
    differs = unsure = 0
    for rows in slices.rows.values():
        images = torch.from_numpy(slices.images(rows)).contiguous(memory_format=torch.channels_last)
        torch.manual_seed(em.seed_of_passes(0, 1))
        with torch.inference_mode():
            logits = torch.stack([plain(images) for _ in range(6)]).numpy()
        softmax = np.exp(logits - logits.max(axis=2, keepdims=True))
        mean = (softmax / softmax.sum(axis=2, keepdims=True)).mean(axis=0).astype(np.float32)
        first, second = np.argsort(-mean, axis=1, kind="stable")[:, :2].swapaxes(0, 1)
        a, b = (np.take_along_axis(logits, label[None, :, None], axis=2)[:, :, 0] for label in (first, second))
        moments = [f(logit.astype(np.float64), axis=0) for logit in (a, b) for f in (np.mean, partial(np.std, ddof=1))]
        p = ttest_ind_from_stats(*moments[:2], 6, *moments[2:], 6, equal_var=False).pvalue
        refined = refine(mean, slices.images(rows), seeds[rows], fabric.device)
        expected = np.where(p < 0.05, refined.argmax(axis=1), UNLABELLED)
        expected = np.where(seeds[rows] == UNLABELLED, expected, seeds[rows])
        inside = slices.inside[rows]
        assert (found[rows] == expected)[inside].mean() > 0.998  # p and probabilities are rounded
        single = predict(fabric, sure, slices.images(rows))
        alone = refine(single, slices.images(rows), seeds[rows], fabric.device).argmax(axis=1)
        free = inside & (seeds[rows] == UNLABELLED) & (found[rows] != UNLABELLED)
        differs += (alone != found[rows])[free].sum()
        unsure += (found[rows] == UNLABELLED)[inside].sum()
    assert unsure > 0
    if refine.kind == "identity":
        assert differs > 0, "a single output without dropout would have given the same labels"


@pytest.mark.parametrize("only", [False, True])
def test_only_scribbles_are_put_back_where_the_recipe_says_so(only, dataset, trained, fabric, tmp_path):
    relabel = Relabel(decide=Confident(probability=0.4), only_scribbled=only, clamp="scribbles")
    recipe = replace(TINY, stages=(TINY.stages[0], Stage(iterations=1, relabel=relabel)), rotations=(20.0,))
    session = begun(dataset, tmp_path / "run", fabric, recipe)
    session.prepare(recipe.preprocess)
    em.grow_seeds(session)
    torch.manual_seed(3)
    network = load_segmenter(TINY, trained[0].run, fabric, 0).network
    em.e_step(session, network, 1)
    slices = session.slices
    found, scribbles = slices.layer("labels", 1), slices.scribbles
    for rows in slices.rows.values():
        likely = predict(fabric, network, slices.images(rows), Views((20.0,)))
        expected = np.where(likely.max(axis=1) >= 0.4, likely.argmax(axis=1), UNLABELLED).astype(np.uint8)
        expected = np.where(scribbles[rows] == UNLABELLED, expected, scribbles[rows])
        if only:
            expected = only_scribbled(expected, scribbles[rows])
        areas = slices.layer("labels", 0)[rows]
        kept = areas_of_lost(likely.argmax(axis=1).astype(np.uint8), scribbles[rows], areas)
        kept[scribbles[rows] != UNLABELLED] = UNLABELLED
        expected = np.where(kept == UNLABELLED, expected, kept)
        expected[~slices.inside[rows]] = UNLABELLED
        assert (found[rows] == expected).all()
    grown = (slices.layer("labels", 0) != UNLABELLED) & (scribbles == UNLABELLED)
    assert (found != slices.layer("labels", 0))[grown].any(), "what the walker grew can be overruled"


def test_structures_in_one_component_are_found_by_their_scribbles_and_remembered(dataset, fabric, tmp_path):
    recipe = replace(TINY, single_components=True)
    session = begun(dataset, tmp_path / "run", fabric, recipe)
    first, *_, last = em.train(session)
    slices, pooled = session.slices, np.zeros((dataset.n_labels, 2))
    for rows in slices.rows.values():
        labels = predict(fabric, last.segmenter.network, slices.images(rows)).argmax(axis=1).astype(np.uint8)
        pooled += scribbles_in_components(labels, slices.scribbles[rows], dataset.n_labels)
    expected = {k for k in range(1, dataset.n_labels) if pooled[k, 0] and pooled[k, 1] >= 0.99 * pooled[k, 0]}
    assert last.segmenter.single == expected
    assert load_segmenter(recipe, session.run, fabric).single == expected
    assert load_segmenter(recipe, session.run, fabric, 0).single == first.segmenter.single
    assert load_segmenter(TINY, session.run, fabric).views.rotations == ()


def test_label_maps_are_left_in_original_geometry(dataset, fabric, tmp_path):
    recipe = replace(TINY, preprocess=Preprocess(spacing_mm=2.0, size=32))  # smaller than the image
    session = begun(dataset, tmp_path / "run", fabric, recipe)
    list(em.train(session))
    for index in range(3):
        for case in dataset.train:
            labels, geometry = read_labels(session.run.labels(index) / f"{case.name}.nii.gz")
            assert np.array_equal(geometry.affine, case.geometry.affine)
            assert labels.shape == case.scribbles.shape
            assert set(np.unique(labels)) <= {0, 1, 2, 3, 4}
    assert (labels == 4).any(), "outside the crop nothing is labelled"


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ({"background": 0, "RV": 1, "Myo": 2, "LV": 3, "ignore": 4}, np.uint8),
        ({"background": 7, "RV": 300, "Myo": 2, "LV": 30, "ignore": 0}, np.uint16),
        ({"background": -1, "RV": 300, "Myo": 2, "LV": 3, "ignore": 0}, np.int16),
    ],
)
def test_label_maps_have_the_values_that_the_data_set_declares(values, dtype, phantoms, fabric, tmp_path):
    root = tmp_path / "data"
    for name in ("images", "scribbles"):
        shutil.copytree(phantoms / name, root / name)
    table = np.array(list(values.values()))
    for file in (root / "scribbles").iterdir():
        image = nib.load(file)
        nib.save(nib.Nifti1Image(table[np.asarray(image.dataobj)].astype(np.int16), image.affine), file)
    (root / "dataset.json").write_text(json.dumps({"labels": values}))
    opened = folder(root)
    session = begun(opened, tmp_path / "run", fabric, TINY)
    session.prepare(TINY.preprocess)
    em.grow_seeds(session)
    assert json.loads((session.run.labels(0) / "dataset.json").read_text()) == {"labels": values}
    for name in opened.train.names:
        found, _ = read_labels(session.run.labels(0) / f"{name}.nii.gz")
        drawn, _ = read_labels(root / "scribbles" / f"{name}.nii.gz")
        assert found.dtype == dtype
        assert set(np.unique(found)) <= set(values.values())
        coarse_grid = TINY.preprocess.labels(opened.train.named(name).scribbles, opened.train.geometry(name))
        assert (found == values["ignore"]).mean() < (drawn == values["ignore"]).mean(), "they grew"
        kept = set(np.unique(coarse_grid).tolist()) - {UNLABELLED}
        assert {values[opened.label_names[label]] for label in kept} <= set(np.unique(found).tolist())


def weights(run: Run) -> dict[str, torch.Tensor]:
    return torch.load(run.network(run.recursions - 1), weights_only=True)["state"]


@pytest.mark.parametrize("moment", ["first M step", "E step", "label maps", "second M step", "weights"])
def test_a_run_killed_at_any_moment_ends_with_the_same_weights(moment, dataset, trained, fabric, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 3)
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    whole = trained[0].run
    run = Run(tmp_path / "killed")

    def kill(*arguments):
        raise Killed

    with monkeypatch.context() as patch:
        if moment.endswith("M step"):
            fatal = {"first M step": 5, "second M step": 4}[moment]
            log = Run.log

            def log_and_kill(self, record):
                log(self, record)
                if record.get("iteration") == fatal and record["recursion"] == (moment == "second M step"):
                    raise Killed

            patch.setattr(Run, "log", log_and_kill)
        elif moment == "weights":
            patch.setattr(em, "save_weights", kill)
        elif moment == "E step":
            patch.setattr(em, "clamp", kill)
        else:
            patch.setattr(session_module, "finish_folder", kill)
        with pytest.raises(Killed):
            list(em.train(begun(dataset, run.path, fabric)))
    list(em.train(begun(dataset, run.path, fabric)))
    for (name, a), b in zip(weights(whole).items(), weights(run).values(), strict=True):
        assert torch.equal(a, b), name
    timeless = [{k: v for k, v in r.items() if k != "images_per_second"} for r in run.metrics]
    assert timeless == [{k: v for k, v in r.items() if k != "images_per_second"} for r in whole.metrics]
    assert not list(run.path.rglob("*.partial"))


def test_a_finished_run_is_not_trained_again(dataset, trained, fabric, monkeypatch):
    monkeypatch.setattr(em, "m_step", None)
    monkeypatch.setattr(em, "predict", None)
    assert len(list(em.train(begun(dataset, trained[0].run.path, fabric)))) == 3


def test_recursion_stops_where_little_changes(dataset, fabric, tmp_path):
    recipe = replace(TINY, stop_below=1.0)
    assert [r.index for r in em.train(begun(dataset, tmp_path / "run", fabric, recipe))] == [0, 1]


def test_full_masks_are_trained_on_only_through_the_named_door(phantoms, fabric, tmp_path):
    recipe = replace(TINY, annotation="masks", seeds=Strokes()).beginning(1)
    data = folder(phantoms)
    (recursion,) = em.train(begun(data, tmp_path / "run", fabric, recipe))
    case = data.train[0]
    expected = recipe.preprocess.labels(data.reference(case.name), case.geometry)
    assert (recursion.labels[: len(expected)] == expected).all()


def test_a_segmenter_labels_every_voxel_of_a_new_image(dataset, fabric, tmp_path):
    session = begun(dataset, tmp_path / "run", fabric, TINY.beginning(1))
    (last,) = em.train(session)
    case = dataset.test[0]
    labels = last.segmenter.segment(case)
    assert labels.shape == case.image.shape[1:]
    assert labels.max() <= 3
    assert np.array_equal(load_segmenter(TINY, session.run, fabric).segment(case), labels)
    with pytest.raises(DataError, match="expected 1 channels as in training, got 2"):
        last.segmenter.segment(replace(case, image=np.repeat(case.image, 2, axis=0)))


def test_an_unfinished_run_has_no_segmenter(dataset, fabric, tmp_path):
    session = begun(dataset, tmp_path / "run", fabric)
    with pytest.raises(DataError, match="finish `train`"):
        load_segmenter(TINY, session.run, fabric)


def test_resolve_sets_what_the_recipe_leaves_to_the_data(dataset):
    grid = resolve(replace(TINY, preprocess=Preprocess()), dataset).preprocess
    assert grid.spacing_mm > 0
    assert grid.size % 16 == 0


def test_a_stage_without_an_e_step_goes_on_with_the_same_labels(dataset, fabric, tmp_path):
    recipe = replace(TINY, stages=(Stage(iterations=2, batch=4), Stage(iterations=2, batch=4)))
    session = begun(dataset, tmp_path / "run", fabric, recipe)
    first, second = em.train(session)
    assert np.array_equal(first.labels, second.labels)
    assert (second.changed, second.labelled) == (None, first.labelled)
    assert sorted(path.name for path in (session.run.path / "labels").iterdir()) == ["0"]
    assert sorted(path.name for path in session.run.slices.glob("*_*.raw")) == ["labels_0.raw"]
    assert [r["recursion"] for r in session.run.metrics if r["event"] == "relabel"] == [0, 1]
    states = [read_weights(session.run.network(n))["state"] for n in (0, 1)]
    assert not torch.equal(states[0]["head.0.weight"], states[1]["head.0.weight"]), "it trains on"


def carried_on(optimiser, restarts=False) -> Recipe:
    stages = (Stage(iterations=4, batch=2, optimiser=optimiser), Stage(iterations=3, batch=2, optimiser=optimiser))
    return replace(TINY, stages=(stages[0], replace(stages[1], restarts=restarts, relabel=Relabel())))


def test_a_stage_that_does_not_restart_carries_the_learning_rate_on(dataset, fabric, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    run = begun(dataset, tmp_path / "run", fabric, carried_on(SGD(learning_rate=0.7))).run
    list(em.train(begun(dataset, run.path, fabric, carried_on(SGD(learning_rate=0.7)))))
    rates = [record["learning_rate"] for record in run.metrics if record["event"] == "train"]
    assert rates == pytest.approx([0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    assert run.optimiser(0).exists()
    assert not run.optimiser(1).exists(), "nothing goes on from there"


def test_a_stage_that_does_not_restart_carries_the_optimiser_on_also_after_a_kill(
    dataset, fabric, tmp_path, monkeypatch
):
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 2)
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    recipe = carried_on(Adam(decay=1.0))  # the learning rate is the same throughout
    whole = begun(dataset, tmp_path / "whole", fabric, recipe)
    list(em.train(whole))
    anew = begun(dataset, tmp_path / "anew", fabric, carried_on(Adam(decay=1.0), restarts=True))
    list(em.train(anew))
    assert not anew.run.optimiser(0).exists()
    assert not torch.equal(weights(whole.run)["head.0.weight"], weights(anew.run)["head.0.weight"])
    save, log = em.save_weights, Run.log

    def kill_once_saved(network, path, *single):
        save(network, path, *single)
        raise Killed

    def kill_before_saving(network, path, *_):
        raise Killed

    def kill_in_the_second(self, record):
        log(self, record)
        if record.get("iteration") == 3 and record["recursion"] == 1:
            raise Killed

    deaths = [(em, "save_weights", kill_before_saving), (em, "save_weights", kill_once_saved)]
    for target, name, death in [*deaths, (Run, "log", kill_in_the_second)]:
        with monkeypatch.context() as patch:
            patch.setattr(target, name, death)
            with pytest.raises(Killed):
                list(em.train(begun(dataset, tmp_path / "killed", fabric, recipe)))
    session = begun(dataset, tmp_path / "killed", fabric, recipe)
    list(em.train(session))
    for (name, a), b in zip(weights(whole.run).items(), weights(session.run).values(), strict=True):
        assert torch.equal(a, b), name


def test_soft_labels_and_confidences_are_made_where_a_loss_needs_them(dataset, trained, fabric, tmp_path, monkeypatch):
    monkeypatch.setattr(ScribblesAndAreas, "needs", frozenset({"soft", "confidence"}))
    seen = []

    def look(self, logits, batch):
        seen.append((batch.soft.shape, batch.confidence.shape, batch.scribbles))
        return partial_cross_entropy(logits, batch.labels)

    monkeypatch.setattr(ScribblesAndAreas, "__call__", look)
    relabel = Relabel(decide=WelchTest(passes=3, significance=1e-6))
    hard = Stage(iterations=3, batch=2)
    stages = (hard, replace(hard, relabel=relabel), replace(hard, losses=(ScribblesAndAreas(),)))
    recipe = replace(TINY, stages=(*stages, replace(hard, relabel=relabel)))
    session = begun(dataset, tmp_path / "run", fabric, recipe)
    recursions = list(em.train(session))
    assert seen == [((2, 4, 32, 32), (2, 32, 32), None)] * 3
    made = {path.name for path in session.run.slices.glob("*_*.raw")}
    assert made == {"labels_0.raw", "labels_1.raw", "soft_1.raw", "confidence_1.raw", "labels_3.raw"}
    slices = session.slices
    soft, confidence = (np.array(slices.layer(kind, 1), np.float32) for kind in ("soft", "confidence"))
    seeds, labels = recursions[0].labels, recursions[1].labels
    network = load_segmenter(recipe, session.run, fabric, 0).network
    for rows in slices.rows.values():
        refined = sample(fabric, network, slices.images(rows), 3, seed=1).probabilities.swapaxes(0, 1)
        free = (seeds[rows] == UNLABELLED) & slices.inside[rows]
        assert np.allclose(soft[rows].swapaxes(0, 1)[:, free], refined[:, free], atol=1e-3)
    sown = seeds != UNLABELLED
    assert sown.any()
    assert np.array_equal(soft.swapaxes(0, 1)[:, sown], np.eye(4)[:, seeds[sown]])
    assert (confidence[sown] == 1).all()
    assert (confidence[labels == UNLABELLED] == 0).all()
    unsure = (labels == UNLABELLED) & slices.inside
    assert unsure.any(), "the test abstains somewhere"
    assert np.allclose(soft.sum(axis=1)[slices.inside], 1, atol=5e-3)
    assert not soft.swapaxes(0, 1)[:, ~slices.inside].any()
    decided = labels != UNLABELLED
    chosen = np.take_along_axis(soft, np.where(decided, labels, 0)[:, None], axis=1)[:, 0]
    assert np.array_equal(confidence[decided], chosen[decided])
    nobody_needs_them = trained[0].run.slices
    assert {path.name.partition("_")[0] for path in nobody_needs_them.glob("*_*.raw")} == {"labels"}


class TestReading:
    """Images are read to make the cache, and to see on resuming that they are the same."""

    RECIPE = replace(TINY, stages=(Stage(iterations=1, batch=2), Stage(iterations=1, batch=2, relabel=Relabel())))

    def test_every_training_image_is_read_once_and_once_more_on_resuming(self, dataset, fabric, tmp_path):
        read = []

        def spy(name):
            read.append(name)
            return dataset.train.named(name)

        watched = replace(dataset, train=dataset.train.read_by(spy), test=dataset.test.read_by(spy))
        names = list(dataset.train.names)
        session = begun(watched, tmp_path / "run", fabric, self.RECIPE)
        assert read == []
        list(em.train(session))
        assert read == names
        resumed = em.train(begun(watched, tmp_path / "run", fabric, self.RECIPE))
        next(resumed)
        list(resumed)
        assert read == names * 2

    @pytest.mark.parametrize("part", ["image", "scribbles"])
    def test_other_images_or_scribbles_are_refused_on_resuming(self, part, dataset, fabric, tmp_path):
        session = begun(dataset, tmp_path / "run", fabric, self.RECIPE)
        next(em.train(session))
        before = session.run.network(0).read_bytes()

        def changed(name):
            case = dataset.train.named(name)
            values = getattr(case, part).copy()
            values[..., 0, 0] += 1
            return replace(case, **{part: values})

        other = replace(dataset, train=dataset.train.read_by(changed))
        with pytest.raises(DataError, match=r"the images and scribbles that this run was begun with, found"):
            list(em.train(begun(other, tmp_path / "run", fabric, self.RECIPE)))
        assert session.run.network(0).read_bytes() == before
        assert session.run.recursions == 1


def test_a_tau_that_is_left_to_the_scribbles_is_one_for_all_cases_and_written_down(dataset, fabric, tmp_path):
    left, given = (replace(TINY, seeds=RandomWalker(tau=tau, beta=30.0)) for tau in (None, 0.9))
    session = begun(dataset, tmp_path / "left", fabric, left)
    next(em.train(session))
    tau = session.run.details["tau"]
    assert session.recipe.seeds.tau is None
    same = begun(dataset, tmp_path / "given", fabric, replace(given, seeds=replace(given.seeds, tau=tau)))
    next(em.train(same))
    assert np.array_equal(session.slices.layer("labels", 0), same.slices.layer("labels", 0))
    assert "tau" not in same.run.details


class TestLabelsThatNobodyDrew:
    """Training says what it cannot learn, and refuses where nothing can be learned."""

    def with_only(self, dataset: Dataset, *drawn: int) -> Dataset:
        def read(name):
            case = dataset.train.named(name)
            kept = np.isin(case.scribbles, drawn)
            return replace(case, scribbles=np.where(kept, case.scribbles, np.uint8(UNLABELLED)))

        return replace(dataset, train=dataset.train.read_by(read))

    @pytest.mark.parametrize(
        ("drawn", "problem"),
        [
            ((0,), r"expected scribbles of a structure \(RV, Myo, LV\), found none"),
            ((1, 3), "expected scribbles on the background, found none"),
            ((), "expected scribbles to train on, found none in 2 readable training"),
        ],
    )
    def test_missing_ones_are_refused_as_check_does_and_the_run_goes_on_once_they_are_there(
        self, drawn, problem, dataset, fabric, tmp_path
    ):
        few = self.with_only(dataset, *drawn)
        with pytest.raises(DataError, match=problem) as refused:
            next(em.train(begun(few, tmp_path / "run", fabric)))
        assert str(refused.value).partition(" (and ")[0] in [
            said for _, said in sentences(check(replace(few, read_reference=lambda _: None)).faults)
        ]
        next(em.train(begun(dataset, tmp_path / "run", fabric)))

    def test_a_structure_that_nobody_drew_is_a_warning_said_once(self, dataset, fabric, tmp_path, caplog):
        session = begun(self.with_only(dataset, 0, 1, 2), tmp_path / "run", fabric)
        next(em.train(session))
        next(em.train(session))
        said = "expected scribbles of LV in some case, found none: it cannot be learnt"
        assert [said in message for message in caplog.messages].count(True) == 1

    def test_a_case_without_background_does_not_stop_the_others(self, dataset, fabric, tmp_path, caplog):
        first = dataset.train.names[0]

        def read(name):
            case = dataset.train.named(name)
            drawn = case.scribbles if name != first else np.where(case.scribbles == 0, UNLABELLED, case.scribbles)
            return replace(case, scribbles=drawn)

        few = replace(dataset, train=dataset.train.read_by(read))
        next(em.train(begun(few, tmp_path / "run", fabric)))
        assert any(first in message and "no background" in message for message in caplog.messages)


def test_agreement_with_held_out_scribbles_is_told_once(dataset, fabric, tmp_path):
    recipe = replace(TINY, held_out=0.4)
    session = begun(dataset, tmp_path / "run", fabric, recipe)
    told = [recursion.agreement for recursion in em.train(session)]
    held_out = session.slices.held_out
    drawn = np.unique(held_out[held_out != UNLABELLED])
    names = [session.dataset.label_names[value] for value in drawn]
    assert all(list(each) == names and all(0 <= value <= 1 for value in each.values()) for each in told)
    rows = (held_out != UNLABELLED).any(axis=(1, 2))
    assert (session.slices.scribbles[rows] == UNLABELLED).all(), "the training saw what was held out"
    assert (session.slices.layer("labels", 0)[rows] == UNLABELLED).all()
    again = pipeline.begin(dataset, tmp_path / "run", recipe, fabric=fabric, resume=True)
    assert [recursion.agreement for recursion in em.train(again)] == told
    assert sum(record["event"] == "agreement" for record in session.run.metrics) == len(told)


def test_nothing_is_told_of_agreement_where_nothing_is_held_out(trained):
    assert all(recursion.agreement == {} for recursion in trained[1])


def changed(recipe: Recipe, **stage) -> Recipe:
    """The recipe with other settings of its last stage."""
    return replace(recipe, stages=(*recipe.stages[:-1], replace(recipe.stages[-1], **stage)))


def test_a_run_goes_on_with_another_recipe_where_that_has_no_bearing_on_what_is_done(dataset, fabric, tmp_path):
    session = begun(dataset, tmp_path / "run", fabric)
    session.prepare(session.recipe.preprocess)
    em.grow_seeds(session)
    other = replace(changed(TINY, iterations=6), network=UNet(base=2, padded=True))
    session = begun(dataset, tmp_path / "run", fabric, other)
    assert session.run.recipe["network"]["base"] == 2
    next(em.train(session))
    later = changed(other, iterations=4, times=1)
    assert [r.index for r in em.train(begun(dataset, tmp_path / "run", fabric, later))] == [0, 1]
    assert session.run.recipe["stages"][1]["iterations"] == 4


@pytest.mark.parametrize(
    "other",
    [
        replace(TINY, seeds=Strokes()),
        replace(TINY, preprocess=Preprocess(spacing_mm=2.0, size=32)),
        replace(TINY, held_out=0.1),
        replace(TINY, network=UNet(base=2, padded=True)),
        replace(TINY, stages=(replace(TINY.stages[0], iterations=8), TINY.stages[1])),
        replace(TINY, stages=TINY.stages[:1]),
        changed(TINY, restarts=False),
        changed(TINY, relabel=Relabel(only_scribbled=True)),
    ],
    ids=["seeds", "grid", "held out", "network", "first stage", "fewer stages", "carried on", "e step that is done"],
)
def test_what_a_run_has_done_cannot_be_changed(trained, dataset, fabric, tmp_path, other):
    shutil.copytree(trained[0].run.path, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "recursion_2")
    before = (tmp_path / "run" / "recipe.json").read_bytes()
    with pytest.raises(DataError, match="begun with another recipe"):
        begun(dataset, tmp_path / "run", fabric, other)
    assert (tmp_path / "run" / "recipe.json").read_bytes() == before
