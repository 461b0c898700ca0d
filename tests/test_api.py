"""The door for people who use Python: train, load, segment, evaluate, seed; and what bad input says."""

import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

import scribbleseg
from scribbleseg import api, pipeline
from scribbleseg.annotate.simulate import RULES, write_simulation
from scribbleseg.data import brats, folder, open_dataset
from scribbleseg.data.preprocess import Preprocess
from scribbleseg.data.slices import open_slices
from scribbleseg.evaluation.metrics import Scores, score
from scribbleseg.phantoms import write_phantoms
from scribbleseg.recipe import Recipe, Relabel, Stage
from scribbleseg.recipes import can2018, default, find, ji2019
from scribbleseg.seeds.random_walker import RandomWalker
from scribbleseg.seeds.strokes import Strokes
from scribbleseg.settings import override
from scribbleseg.training.optimisers import Adam
from scribbleseg.training.unet import UNet
from scribbleseg.types import UNLABELLED, DataError, Dataset

SMALL = UNet(base=4, padded=True)
TINY = Recipe(
    preprocess=Preprocess(spacing_mm=6.0, size=32),
    seeds=RandomWalker(tau=0.9, beta=100.0),
    network=SMALL,
    stages=(Stage(iterations=3, batch=2), Stage(iterations=2, batch=2, relabel=Relabel())),
    stop_below=0.0,
)
TINIER = ["network.base=4", "stages.iterations=2", "stages.batch=2", "preprocess.spacing_mm=6", "preprocess.size=32"]


@pytest.fixture(scope="module")
def hearts(tmp_path_factory) -> Dataset:
    return folder(write_phantoms(tmp_path_factory.mktemp("api") / "hearts", train=2, test=2, shape=(3, 48, 48)))


@pytest.fixture(scope="module")
def tumours(tmp_path_factory) -> Dataset:
    root = tmp_path_factory.mktemp("api")
    phantoms = write_phantoms(root / "tumours", "tumour", train=2, test=1, shape=(4, 96, 96))
    return open_dataset(phantoms, scribbles=str(write_simulation(brats(phantoms), RULES["ji2019"], root / "drawn")))


@pytest.fixture(scope="module")
def model(hearts, tmp_path_factory) -> api.Model:
    return scribbleseg.train(hearts, tmp_path_factory.mktemp("api") / "run", TINY, accelerator="cpu")


@pytest.fixture(scope="module")
def of_brains(tumours, tmp_path_factory) -> api.Model:
    recipe = override(find("ji2019.compact_wt_sc"), TINIER)
    return scribbleseg.train(tumours, tmp_path_factory.mktemp("api") / "brains", recipe, accelerator="cpu")


def test_training_tells_of_every_recursion_and_goes_on_where_it_was_interrupted(hearts, model, tmp_path):
    told = []

    def stop(recursion):
        told.append(recursion.index)
        raise KeyboardInterrupt

    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        scribbleseg.train(hearts, out, TINY, accelerator="cpu", on_recursion=stop)
    with pytest.raises(DataError, match="expected no run here, found one"):
        scribbleseg.train(hearts, out, TINY, accelerator="cpu")
    resumed = scribbleseg.train(
        hearts, out, TINY, accelerator="cpu", resume=True, on_recursion=lambda recursion: told.append(recursion.index)
    )
    assert told == [0, 0, 1]
    case = hearts.test[0]
    assert np.array_equal(resumed.segment(case), model.segment(case)), "as if it had not been interrupted"


def weights(run: Path, index: int) -> dict[str, torch.Tensor]:
    return torch.load(run / f"recursion_{index}" / "network.pt", weights_only=True)["state"]


def test_a_training_starts_from_another_run_and_is_resumed_without_being_told_again(hearts, model, tmp_path):
    still = replace(TINY, stages=(replace(TINY.stages[0], optimiser=Adam(learning_rate=1e-12)), *TINY.stages[1:]))
    out, source = tmp_path / "run", model.run.path

    def stop(recursion):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scribbleseg.train(hearts, out, still, 1, accelerator="cpu", start_from=source, on_recursion=stop)
    before, trained = weights(source, model.run.recursions - 1), weights(out, 0)
    learned = [name for name in before if name.endswith(("weight", "bias"))]
    assert learned
    assert all(torch.allclose(trained[name], before[name], atol=1e-6) for name in learned)
    with pytest.raises(DataError, match="started from"):
        scribbleseg.train(hearts, out, still, 1, accelerator="cpu", resume=True, start_from=out)
    done = scribbleseg.train(hearts, out, still, 1, accelerator="cpu", resume=True)
    assert done.run.recursions == len(TINY.steps)
    assert all((weights(out, 0)[name] == trained[name]).all() for name in trained)


def test_a_training_that_starts_from_another_run_takes_its_recipe_where_none_is_named(hearts, model, tmp_path):
    begun = scribbleseg.train(hearts, tmp_path / "run", accelerator="cpu", start_from=model.run.path)
    assert begun.run.recipe == model.run.recipe


def test_a_training_starts_from_nothing_but_the_same_network_for_the_same_labels(hearts, model, tumours, tmp_path):
    def refused(message, dataset=hearts, recipe=TINY, source=model.run.path):
        with pytest.raises(DataError, match=message):
            scribbleseg.train(dataset, tmp_path / "run", recipe, accelerator="cpu", start_from=source)
        shutil.rmtree(tmp_path / "run")

    refused("network", recipe=replace(TINY, network=replace(TINY.network, base=8)))
    refused("labels", dataset=tumours, recipe=replace(TINY, seeds=Strokes()))
    refused("run folder", source=tmp_path / "nowhere")
    shutil.copytree(model.run.path, tmp_path / "untrained")
    for recursion in (tmp_path / "untrained").glob("recursion_*"):
        shutil.rmtree(recursion)
    refused("trained network", source=tmp_path / "untrained")


def test_a_recipe_is_given_by_itself_by_name_or_not_at_all(hearts, tmp_path, monkeypatch):
    for size in default.SIZES:  # whichever fits the machine
        monkeypatch.setitem(default.RECIPES, size, TINY)
    monkeypatch.setitem(can2018.RECIPES, "compact_crf", replace(TINY, seeds=Strokes()))
    chosen = []
    begin = pipeline.begin

    def chosen_by(dataset, out, recipe, **options):
        chosen.append(recipe)
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "begin", chosen_by)
    for recipe in (None, "can2018.compact_crf", replace(TINY, stop_below=0.5)):
        with pytest.raises(KeyboardInterrupt):
            scribbleseg.train(hearts, tmp_path / "run", recipe, accelerator="cpu")
    assert chosen == [TINY, replace(TINY, seeds=Strokes()), replace(TINY, stop_below=0.5)]
    monkeypatch.setattr(pipeline, "begin", begin)
    with pytest.raises(DataError, match=r"expected the name of a recipe, got 'can2018.compact_crv'.*compact_crf"):
        scribbleseg.train(hearts, tmp_path / "run", "can2018.compact_crv")
    one = scribbleseg.train(hearts, tmp_path / "run", seed=3, accelerator="cpu")
    found = pipeline.recipe_of(one.run)
    assert replace(found, preprocess=replace(found.preprocess, usual_mm=None, crops=None, orientation=None)) == TINY
    assert one.run.details["seed"] == 3


def test_a_loaded_model_is_the_trained_one(hearts, model):
    loaded = scribbleseg.load(model.run.path, "cpu")
    case = hearts.test[0]
    assert loaded.label_names == model.label_names == hearts.label_names
    assert loaded.channels == model.channels == 1
    assert np.array_equal(loaded.segment(case), model.segment(case))
    first = scribbleseg.load(str(model.run.path), Fabric(accelerator="cpu", devices=1), recursion=0)
    assert not np.array_equal(first.probabilities(case), model.probabilities(case))
    with pytest.raises(DataError, match="recursions 0 to 1 are there"):
        scribbleseg.load(model.run.path, "cpu", recursion=2)
    with pytest.raises(DataError, match="expected a run folder"):
        scribbleseg.load(hearts.root, "cpu")


def test_an_image_is_segmented_alike_whatever_form_it_comes_in(hearts, model):
    case = hearts.test[0]
    labels = model.segment(case)
    assert labels.shape == case.geometry.shape
    assert labels.dtype == np.uint8
    (file,) = case.files[:1]
    volume = case.image[0]
    for image in (file, str(file), [file]):
        assert np.array_equal(model.segment(image), labels)
    for array in (case.image, volume, volume.astype(np.int16)):
        assert np.array_equal(model.segment(array, spacing_mm=case.spacing_mm), labels)
    plane = model.segment(volume[0], spacing_mm=case.spacing_mm[1:])
    assert plane.shape == (1, *volume.shape[1:])
    assert np.array_equal(plane, model.segment(volume[:1], case.spacing_mm))


def test_channels_come_as_files_in_order(tumours, of_brains):
    case = tumours.test[0]
    files = case.files[:4]
    assert len(files) == of_brains.channels == 4
    labels = of_brains.segment(case)
    assert np.array_equal(of_brains.segment(list(files)), labels)
    assert np.array_equal(of_brains.segment(case.image, case.spacing_mm), labels)


def test_probabilities_sum_to_1_and_are_largest_at_the_label(hearts, model):
    case = hearts.test[0]
    probabilities = model.probabilities(case)
    assert probabilities.shape == (4, *case.geometry.shape)
    assert np.allclose(probabilities.sum(axis=0), 1, atol=1e-4)
    assert np.array_equal(probabilities.argmax(axis=0), model.segment(case))
    assert np.array_equal(model.probabilities(case.image, case.spacing_mm), probabilities)


def test_evaluation_scores_every_test_case_as_by_hand(hearts, model):
    scores = scribbleseg.evaluate(model, hearts)
    assert isinstance(scores, Scores)
    by_hand = [
        each
        for case in hearts.test
        for each in score(case.name, model.segment(case), hearts.reference(case.name), case.spacing_mm, hearts.scored)
    ]
    assert repr(list(scores)) == repr(by_hand)  # NaN is not equal to itself
    assert {each.structure for each in scores} == {"RV", "Myo", "LV"}
    assert "Myo" in str(scores)


def test_evaluation_refuses_data_of_other_labels_and_data_without_references(hearts, tumours, model):
    with pytest.raises(DataError, match="expected a data set of the labels background, RV, Myo, LV"):
        scribbleseg.evaluate(model, tumours)
    blind = replace(hearts, read_reference=lambda name: None)
    with pytest.raises(DataError, match="expected test cases with reference masks to score, found none among 2"):
        scribbleseg.evaluate(model, blind)
    with pytest.raises(DataError, match="found none among 0"):
        scribbleseg.evaluate(model, replace(hearts, test=hearts.test.only([])))


def test_the_seeds_of_one_case_are_the_seeders(hearts):
    case = hearts.train[0]
    seeder = RandomWalker(tau=0.8, beta=50.0)
    assert np.array_equal(scribbleseg.seed(case, seeder), seeder(case.image, case.scribbles, case.spacing_mm))
    assert np.array_equal(scribbleseg.seed(case), RandomWalker()(case.image, case.scribbles, case.spacing_mm))
    assert np.array_equal(scribbleseg.seed(case, Strokes()), case.scribbles)
    spoilt = replace(case, image=np.full_like(case.image, np.nan))
    with pytest.raises(DataError, match=r"finite"):
        scribbleseg.seed(spoilt)


def test_a_fully_supervised_recipe_trains_on_masks(hearts, tmp_path):
    recipe = override(find("can2018.compact_full"), TINIER)
    model = scribbleseg.train(hearts, tmp_path / "run", recipe, accelerator="cpu")
    slices = open_slices(model.run.slices)
    for case in hearts.train:
        expected = recipe.preprocess.labels(hearts.reference(case.name), case.geometry)
        assert np.array_equal(slices.layer("labels", 0)[slices.rows[case.name]], expected)


def test_a_recipe_of_the_whole_tumour_trains_two_labels_on_its_scribbles(tumours, of_brains):
    assert of_brains.label_names == ("background", "WT")
    slices = open_slices(of_brains.run.slices)
    assert set(np.unique(slices.layer("labels", 0))) == {0, 1, UNLABELLED}
    assert of_brains.segment(tumours.test[0]).max() <= 1
    assert {each.structure for each in scribbleseg.evaluate(of_brains, tumours)} == {"WT"}


def test_a_hierarchy_trains_segments_and_is_scored_through_the_same_door(tumours, tmp_path):
    small = [f"{phase}.{setting}" for phase in ("whole", "substructures") for setting in TINIER]
    recipe = override(ji2019.RECIPES["compact_sub_km"], small)
    seen = []
    model = scribbleseg.train(
        tumours, tmp_path / "run", recipe, accelerator="cpu", on_recursion=lambda r: seen.append((r.phase, r.index))
    )
    assert seen == [("whole", 0), ("whole", 1), ("substructures", 0), ("substructures", 1)]
    assert model.label_names == tumours.label_names
    scores = scribbleseg.evaluate(model, tumours)
    assert {each.structure for each in scores} == {"WT", "TC", "ET", "WT*"}
    assert {each.structure for each in scores if each.auxiliary} == {"WT*"}  # of the second network by itself
    with pytest.raises(DataError, match="expected a run of one network"):
        model.probabilities(tumours.test[0])


@pytest.mark.parametrize(
    ("change", "spacing_mm", "message"),
    [
        (lambda image: image, None, r"`\[channel\] \[depth\] height width` with spacing_mm.*spacing_mm=None"),
        (lambda image: image[0, 0, 0], (1.0, 1.0, 1.0), r"expected an array .* got one of shape \(\d+,\)"),
        (lambda image: image[None], (1.0, 1.0, 1.0), r"expected an array .* got one of shape"),
        (lambda image: image, (1.0, -1.0, 1.0), r"spacing_mm of three positive numbers .* got \(1.0, -1.0, 1.0\)"),
        (lambda image: image, (1.0, 0.0, 1.0), "spacing_mm of three positive numbers"),
        (lambda image: image, (1.0, float("nan"), 1.0), "spacing_mm of three positive numbers"),
        (lambda image: image, (1.0, 1.0), "spacing_mm of three positive numbers"),
        (
            lambda image: np.where(image == image.max(), np.nan, image),
            (9.0, 2.0, 2.0),
            "finite intensities, got",
        ),
        (
            lambda image: np.where(image == image.max(), np.inf, image),
            (9.0, 2.0, 2.0),
            "finite intensities, got",
        ),
        (lambda image: np.repeat(image, 3, axis=0), (9.0, 2.0, 2.0), "expected 1 channels as in training, got 3"),
    ],
)
def test_an_array_that_is_no_image_is_refused(change, spacing_mm, message, hearts, model):
    with pytest.raises(DataError, match=message):
        model.segment(change(hearts.test[0].image), spacing_mm)


def test_an_array_of_too_few_channels_is_refused(tumours, of_brains):
    case = tumours.test[0]
    with pytest.raises(DataError, match="expected an array `channel depth height width`"):
        of_brains.segment(case.image[0], case.spacing_mm)
    with pytest.raises(DataError, match="expected 4 channels as in training, got 3"):
        of_brains.segment(case.image[:3], case.spacing_mm)
    with pytest.raises(DataError, match="expected 4 channels as in training, got 1"):
        of_brains.segment(case.files[0])


def test_a_file_that_is_no_image_is_refused(hearts, model, tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.nii\.gz"):
        model.segment(tmp_path / "nowhere.nii.gz")
    (tmp_path / "broken.nii.gz").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"broken\.nii\.gz"):
        model.segment(str(tmp_path / "broken.nii.gz"))
    with pytest.raises(DataError, match="expected a path, a list of paths .* got list"):
        model.segment([])


class TestCases:
    """`Model.cases`: the images in a path."""

    def brats_tree(self, tmp_path: Path, tumours: Dataset) -> Path:
        """Six cases in one folder, so that folds apply."""
        for n in range(6):
            case = tumours.train[n % 2]
            place = tmp_path / "flat" / f"case{n}"
            place.mkdir(parents=True)
            seg = case.files[0].with_name(f"{case.name}_seg.nii.gz")
            for source, name in zip((*case.files[:4], seg), ("t1", "t1ce", "t2", "flair", "seg"), strict=True):
                (place / f"case{n}_{name}.nii.gz").symlink_to(source)
        return tmp_path / "flat"

    def test_a_data_set_is_split_as_for_the_training(self, of_brains, tumours, tmp_path):
        root = self.brats_tree(tmp_path, tumours)
        dataset = open_dataset(root, fold=3)
        assert dataset.test.names == ("case3",)
        drawn = write_simulation(dataset, RULES["ji2019"], tmp_path / "drawn")
        recipe = override(find("ji2019.compact_wt_sc"), TINIER)
        model = scribbleseg.train(
            open_dataset(root, fold=3, scribbles=str(drawn)), tmp_path / "run", recipe, accelerator="cpu"
        )
        assert model.cases(root).names == ("case3",)
        assert model.run.details["data"]["options"]["fold"] == 3
        assert of_brains.cases(tumours.root).names == tumours.test.names

    def test_a_folder_with_nothing_but_images_is_taken_as_it_is(self, model, hearts, tmp_path):
        (tmp_path / "new" / "images").mkdir(parents=True)
        for name in ("a", "b"):
            (tmp_path / "new" / "images" / f"{name}.nii.gz").symlink_to(hearts.test[0].files[0])
        assert model.cases(tmp_path / "new").names == ("a", "b")
        assert model.cases(tmp_path / "new" / "images").names == ("a", "b")
        assert model.cases(tmp_path / "new" / "images" / "a.nii.gz").names == ("a",)

    def test_a_broken_data_set_is_not_taken_for_loose_images(self, model, hearts, tmp_path):
        broken = tmp_path / "broken"
        broken.mkdir()
        for name in ("images", "masks"):
            (broken / name).symlink_to(hearts.root / name)
        (broken / "dataset.json").write_text('{"labels": ')
        with pytest.raises(DataError, match=r"dataset\.json"):
            model.cases(broken)
        (broken / "dataset.json").unlink()
        with pytest.raises(DataError, match=r"dataset\.json: expected this file"):
            model.cases(broken)

    def test_a_data_set_of_another_layout_without_test_cases_gives_all(self, model, hearts, tmp_path):
        root = tmp_path / "nnunet"
        for name in ("imagesTr", "labelsTr"):
            (root / name).mkdir(parents=True)
        for case in hearts.train:
            (root / "imagesTr" / f"{case.name}_0000.nii.gz").symlink_to(case.files[0])
            scribbles = nib.load(hearts.root / "scribbles" / f"{case.name}.nii.gz")
            nib.save(scribbles, root / "labelsTr" / f"{case.name}.nii.gz")
        (root / "dataset.json").write_text((hearts.root / "dataset.json").read_text())
        assert model.cases(root).names == hearts.train.names

    def test_a_path_without_images_is_refused(self, model, tmp_path):
        with pytest.raises(DataError, match="expected an image or a folder of images"):
            model.cases(tmp_path / "nowhere")
        with pytest.raises(DataError, match="expected an image or a folder of images"):
            model.cases(tmp_path)
