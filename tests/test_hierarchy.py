"""The hierarchy: what each phase is taught, what it never sees, how the phases are merged, and that a kill is cheap."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from scribbleseg import em, hierarchy, pipeline, reproduce, review
from scribbleseg.annotate.simulate import RULES, Skeleton, write_simulation
from scribbleseg.data import brats, coarse, open_dataset, with_scribbles
from scribbleseg.data.formats import read_labels
from scribbleseg.data.preprocess import Preprocess
from scribbleseg.data.slices import open_slices
from scribbleseg.evaluation.metrics import Score, dice, summarise
from scribbleseg.hierarchy import Hierarchy, ReferenceMasks
from scribbleseg.phantoms import write_phantoms
from scribbleseg.pipeline import begin, load, phases, recipe_of
from scribbleseg.recipe import Recipe, Stage
from scribbleseg.recipes import ji2019
from scribbleseg.reproduce import run_folder, train_rows
from scribbleseg.review import dataset_of
from scribbleseg.review import test_scores as scores_of
from scribbleseg.runs import open_run
from scribbleseg.seeds.graph_cut import GraphCut
from scribbleseg.seeds.strokes import Strokes
from scribbleseg.settings import from_plain, override, to_plain
from scribbleseg.substructures.cluster import KMeans
from scribbleseg.training import optimisers
from scribbleseg.training.crf_loss import DenseCRFLoss
from scribbleseg.training.losses import PartialCrossEntropy, ScribblesAndAreas
from scribbleseg.training.optimisers import SGD
from scribbleseg.training.unet import UNet
from scribbleseg.types import UNLABELLED, DataError

LEARNING = Stage(batch=4, iterations=3, optimiser=SGD(), losses=(ScribblesAndAreas(),))
WHOLE = Recipe(
    preprocess=Preprocess(spacing_mm=6.0, size=32, brain=True),
    seeds=GraphCut(),
    network=UNet(base=4, padded=True),
    stages=(LEARNING, replace(LEARNING, iterations=2, losses=(ScribblesAndAreas(), DenseCRFLoss()))),
)


def weighing(recipe: Recipe, areas: float, crf: DenseCRFLoss) -> Recipe:
    return ji2019.fine_tuned_with(ji2019.with_losses(recipe, ScribblesAndAreas(areas=areas)), crf)


TINY = Hierarchy(
    whole=WHOLE,
    clusters=KMeans(),
    scribbles=Skeleton(),
    substructures=weighing(WHOLE, 0.2, DenseCRFLoss(channels=(0, 1, 3))),
)
TRUE_SC = replace(TINY, clusters=ReferenceMasks(), substructures=weighing(WHOLE, 0.0, DenseCRFLoss(channels=(0, 1, 3))))


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = write_phantoms(tmp_path_factory.mktemp("tumours") / "phantoms", "tumour", train=2, test=1, shape=(8, 96, 96))
    return root, write_simulation(brats(root), RULES["ji2019"], root.with_name("scribbles"))


@pytest.fixture(scope="module")
def dataset(folders):
    return open_dataset(folders[0], scribbles=str(folders[1]))


def train(recipe, dataset, path, fabric):
    session = begin(dataset, path, recipe, fabric=fabric, resume=True)
    return session.run, [(recursion.phase, recursion.index) for recursion in pipeline.train(session)]


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory, fabric):
    return train(TINY, dataset, tmp_path_factory.mktemp("runs") / "run", fabric)


def weights(run, phase):
    return torch.load(phases(run)[phase].network(1), weights_only=True)["state"]


def test_both_phases_train_and_are_told_apart(trained, dataset):
    run, steps = trained
    assert steps == [("whole", 0), ("whole", 1), ("substructures", 0), ("substructures", 1)]
    names = {phase: part.details["label_names"] for phase, part in phases(run).items()}
    assert names == {"whole": ["background", "WT"], "substructures": list(dataset.label_names)}
    found = recipe_of(run)
    left_open = replace(found.whole.preprocess, usual_mm=None, crops=None, orientation=None)
    same = {phase: replace(getattr(found, phase), preprocess=left_open) for phase in ("whole", "substructures")}
    given = replace(TINY.substructures, preprocess=TINY.whole.preprocess)
    assert replace(found, **same) == replace(TINY, substructures=given)
    assert dataset_of(run).scored == {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}
    assert dataset_of(phases(run)["whole"]).scored == {"WT": (1,)}


def test_phase_2_learns_from_clusters_inside_the_tumour_and_their_scribbles(trained, dataset):
    run, _ = trained
    whole, parts = (open_slices(part.slices) for part in phases(run).values())
    assert np.array_equal(whole.images(), parts.images())
    clusters, scribbles = parts.layer("labels", 0), parts.scribbles
    drawn = scribbles != UNLABELLED
    assert np.array_equal(clusters[drawn], scribbles[drawn])
    assert not clusters[whole.scribbles == 0].any()  # what was scribbled as background stays background
    present = {case.name: case.present for case in dataset.train}
    assert whole.present == parts.present == present
    found = {name: set(np.unique(clusters[rows]).tolist()) - {0, UNLABELLED} for name, rows in parts.rows.items()}
    assert all(found[name] <= present[name] for name in found)
    assert set().union(*found.values()) == {1, 2, 3}


def test_segmentation_is_the_merge_of_both_networks_on_the_native_grid(trained, dataset, fabric):
    run, _ = trained
    segmenter = load(run, fabric)
    case = dataset.test[0]
    labels, whole = segmenter.segment(case), segmenter.whole.segment(case) > 0
    parts = segmenter.substructures.segment(case)
    assert labels.shape == case.geometry.shape
    assert not labels[~whole].any()
    assert np.array_equal(labels[whole], np.where(np.isin(parts[whole], (1, 3)), parts[whole], 2))
    assert not labels[(case.image == 0).all(axis=0)].any()
    assert np.array_equal(segmenter.segment_unmerged(case)[0], labels)
    assert np.array_equal(segmenter.segment_unmerged(case)[1], parts)


def test_wt_of_the_second_network_by_itself_is_among_the_scores_and_in_no_mean(trained, dataset, tmp_path, fabric):
    run, _ = trained
    segmenter = load(run, fabric)
    scores = scores_of(run, fabric)
    assert [score.structure for score in scores] == ["WT", "TC", "ET", "WT*"] * len(dataset.test)
    for case in dataset.test:
        reference = dataset.reference(case.name)
        alone = dice(segmenter.substructures.segment(case), reference, {"WT": (1, 2, 3)})["WT"]
        merged = dice(segmenter.segment(case), reference, dataset.scored)
        found = {score.structure: score.dice for score in scores if score.case == case.name}
        assert found == pytest.approx({**merged, "WT*": alone})
        assert found["WT"] != found["WT*"], "phase 1 has another tumour than phase 2"
    *_, mean = summarise(scores)
    main = [score.dice for score in scores if score.structure != "WT*"]
    assert mean["dice_mean"] == pytest.approx(np.mean(main))
    (row,) = rows_of(["run"], run.path.parent, fabric)
    assert row.structures == ("WT", "TC", "ET", "WT*")
    assert row.by_seed == pytest.approx([np.mean(main)])
    assert row.recall == pytest.approx(np.mean([score.recall for score in scores if score.structure != "WT*"]))


def test_the_worst_case_of_the_pictures_is_the_worst_without_wt_of_the_second_network(
    trained, dataset, fabric, monkeypatch
):
    monkeypatch.setattr(review, "dataset_of", lambda run: replace(dataset, test=dataset.train))
    dices = {("train000", "WT"): 0.9, ("train000", "WT*"): 0.0, ("train001", "WT"): 0.6, ("train001", "WT*"): 1.0}
    scores = [Score(case, name, dice, *[0.5] * 8) for (case, name), dice in dices.items()]
    shown = [
        (picture.case, picture.title) for picture in review._test_pictures(trained[0], fabric, scores, Preprocess())
    ]
    assert shown[0] == ("train001", "worst test case")
    assert shown[1][0] == "train000"


def rows_of(titles, out, fabric):
    """The rows of runs that lie in folders of these names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reproduce, "run_folder", lambda out, title, seed: out / title)
        return reproduce.summarise(titles, out, [0], fabric)


def test_a_network_of_all_structures_has_the_same_wt_twice_and_one_of_the_whole_tumour_once(dataset, tmp_path, fabric):
    once = (replace(LEARNING, losses=(PartialCrossEntropy(),)),)
    every = replace(WHOLE, annotation="masks", seeds=Strokes(), stages=once)
    run, _ = train(every, dataset, tmp_path / "a", fabric)
    found = {score.structure: score for score in scores_of(run, fabric)}
    assert list(found) == ["WT", "TC", "ET", "WT*"]
    assert found["WT*"].dice == found["WT"].dice
    whole, _ = train(WHOLE.beginning(1), dataset, tmp_path / "b", fabric)
    assert [score.structure for score in scores_of(whole, fabric)] == ["WT"]


def test_weak_training_never_reads_a_reference_mask(dataset, tmp_path, fabric):
    def never(name):
        raise AssertionError(f"the reference of {name} was read")

    train(TINY, replace(dataset, read_reference=never), tmp_path / "run", fabric)
    with pytest.raises(AssertionError, match="was read"):
        train(TRUE_SC, replace(dataset, read_reference=never), tmp_path / "true", fabric)


def test_true_scribbles_are_all_that_their_row_learns_from(dataset, tmp_path, fabric):
    run, _ = train(TRUE_SC, dataset, tmp_path / "run", fabric)
    slices = open_slices(phases(run)["substructures"].slices)
    assert np.array_equal(slices.layer("labels", 0), slices.scribbles)
    assert set(np.unique(slices.scribbles)) >= {0, 2, UNLABELLED}
    assert np.mean(slices.scribbles != UNLABELLED) < 0.2


def test_a_killed_run_ends_with_the_same_weights(trained, dataset, tmp_path, fabric, monkeypatch):
    step, calls = optimisers.torch.optim.SGD.step, iter(range(100))

    def killed(self, *args, **kwargs):
        if next(calls) == 7:  # 5 in phase 1, then the third of phase 2
            raise Killed
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(optimisers.torch.optim.SGD, "step", killed)
        with pytest.raises(Killed):
            train(TINY, dataset, tmp_path / "run", fabric)
    again, _ = train(TINY, dataset, tmp_path / "run", fabric)
    for phase in ("whole", "substructures"):
        for (name, a), b in zip(weights(trained[0], phase).items(), weights(again, phase).values(), strict=True):
            assert torch.equal(a, b), (phase, name)


def test_a_case_without_image_level_labels_is_refused_before_any_training(folders, dataset, tmp_path, fabric):
    train_cases = replace(dataset.train[0], present=None), dataset.train[1]
    by_name = {case.name: case for case in train_cases}
    missing = replace(dataset, train=type(dataset.train)(list(by_name), by_name.__getitem__))
    with pytest.raises(DataError, match=r"case train000: expected image-level labels.*present\.csv"):
        train(TINY, missing, tmp_path / "run", fabric)
    assert not list(tmp_path.rglob("network.pt"))


def test_a_healthy_brain_trains_too(dataset, tmp_path, fabric):
    sick, case = dataset.train[0], dataset.train[1]
    healthy = replace(case, scribbles=np.where(case.scribbles == 1, UNLABELLED, case.scribbles), present=frozenset())
    by_name = {sick.name: sick, healthy.name: healthy}
    run, _ = train(
        TINY, replace(dataset, train=type(dataset.train)(list(by_name), by_name.__getitem__)), tmp_path / "run", fabric
    )
    whole, parts = (open_slices(part.slices) for part in phases(run).values())
    rows = whole.rows[healthy.name]
    brain = (whole.images(rows) != 0).any(axis=1)
    areas = whole.layer("labels", 0)[rows]
    assert np.array_equal(areas[brain], whole.scribbles[rows][brain])  # one kind of scribbles does not grow
    assert (areas[brain] == 0).any()
    assert not (areas == 1).any()
    assert set(np.unique(parts.layer("labels", 0)[rows])) <= {0, UNLABELLED}


def test_an_empty_tumour_passes_through(trained, dataset, fabric):
    class Nothing(torch.nn.Module):
        channels = 4

        def forward(self, x):
            return torch.stack([torch.ones_like(x[:, 0]), torch.zeros_like(x[:, 0])], dim=1)

    run, _ = trained
    session = begin(dataset, run.path, TINY, fabric=fabric, resume=True)
    whole = hierarchy.part(session, "whole")
    unscribbled = np.where(whole.slices.scribbles == 1, UNLABELLED, whole.slices.scribbles)
    vars(whole.slices)["scribbles"] = unscribbled  # in memory alone: the phases' sessions are made anew each time
    clusters, scribbles = hierarchy.divide_case(session, whole, Nothing(), "train000")
    assert not clusters.any()
    assert set(np.unique(scribbles)) == {0, UNLABELLED}
    segmenter = load(run, fabric)
    empty = replace(segmenter, whole=replace(segmenter.whole, network=Nothing()))
    assert not empty.segment(dataset.test[0]).any()


def test_data_whose_scribbles_name_all_structures_is_refused(folders, dataset, tmp_path):
    every = write_simulation(brats(folders[0]), RULES["ji2019"], tmp_path / "all", labels="all")
    with pytest.raises(DataError, match="expected scribbles of all structures as one"):
        hierarchy.fit(TINY, with_scribbles(brats(folders[0]), every))


@pytest.mark.parametrize("setting", ["substructures.network.base=8", "substructures.neighbours=1"])
def test_networks_that_cannot_start_from_each_other_are_refused(setting, dataset):
    with pytest.raises(DataError, match="expected networks of which the second can start from"):
        hierarchy.fit(override(TINY, [setting]), dataset)


def test_masks_in_a_phase_are_refused(dataset):
    with pytest.raises(DataError, match="expected scribbles, got coarse_masks"):
        hierarchy.fit(override(TINY, ["whole.annotation=coarse_masks"]), dataset)


def test_both_upper_bounds_learn_from_masks_in_their_own_labels(dataset):
    whole = em.fit(ji2019.COMPACT["wt_full"], dataset)[1]
    every = em.fit(ji2019.COMPACT["sub_full"], dataset)[1]
    reference = dataset.reference("train000")
    assert np.array_equal(whole.train[0].scribbles, (reference > 0).astype(np.uint8))
    assert np.array_equal(every.train[0].scribbles, reference)
    assert coarse(whole) is whole


def test_recipes_survive_json_and_take_settings_of_either_phase():
    assert from_plain(Hierarchy, to_plain(TINY)) == TINY
    changed = override(
        TINY, ["whole.stages.optimiser.learning_rate=0.1", "clusters.enhancement=3", "scribbles.length=0.5"]
    )
    assert [stage.optimiser.learning_rate for stage in changed.whole.stages] == [0.1, 0.1]
    assert changed.substructures == TINY.substructures
    assert (changed.clusters.enhancement, changed.scribbles.length) == (3, 0.5)
    with pytest.raises(DataError, match=r"recipe field whole\.stages\.1\.optimiser\.momentum: .*less than 1"):
        override(TINY, ["whole.stages.1.optimiser.momentum=1"])


def test_every_row_of_the_paper_is_there_at_the_same_budget():
    for family in ji2019.FAMILIES:
        rows = ji2019.table_1(family, 90)
        assert len(rows) == 10
        networks = [
            part for row in rows.values() for part in (getattr(row, "whole", row), getattr(row, "substructures", row))
        ]
        assert {tuple(step.iterations for step in r.steps) for r in networks} == {(30, 60)}
        assert len({(r.preprocess, r.network, r.augment) for r in networks}) == 1
        subs = [row for row in rows.values() if isinstance(row, Hierarchy)]
        assert {row.whole for row in subs} == {rows["WT SC+GC+CRF"]}
    with pytest.raises(DataError, match="expected a family among brats, compact"):
        ji2019.table_1("liver")


def test_rows_share_the_first_phase_and_nothing_else(dataset, tmp_path):
    rows = {"A TrueSC": TRUE_SC, "KM": TINY, "WT": WHOLE}  # the first is the others' donor
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        step = optimisers.torch.optim.SGD.step
        patch.setattr(
            optimisers.torch.optim.SGD, "step", lambda self, *args, **kw: (calls.append(0), step(self, *args, **kw))[1]
        )
        train_rows(rows, dataset, tmp_path, [0], accelerator="cpu")
    assert len(calls) == 3 * 5  # phase 1 once, phase 2 of two rows
    runs = [phases(open_run(run_folder(tmp_path, title, 0))) for title in rows]
    first, *others = (next(iter(parts.values())) for parts in runs)
    assert all(other.network(1).read_bytes() == first.network(1).read_bytes() for other in others)
    assert [r["event"] for r in others[0].metrics] == [r["event"] for r in first.metrics]
    taught = [open_slices(parts["substructures"].slices) for parts in runs[:2]]
    assert np.mean(taught[0].layer("labels", 0) != UNLABELLED) < 0.2
    brain = (taught[1].images() != 0).any(axis=1)
    assert (taught[1].layer("labels", 0)[brain] != UNLABELLED).all()  # clusters, not the donor's scribbles


def test_the_label_maps_of_a_phase_are_on_disk_in_the_cases_geometry(trained, dataset):
    run, _ = trained
    for name in dataset.train.names:
        values, geometry = read_labels(phases(run)["substructures"].labels(0) / f"{name}.nii.gz")
        assert geometry.shape == dataset.train.named(name).geometry.shape
        assert set(np.unique(values)) <= {0, 1, 2, 3, 4}  # 4 is "ignore"
