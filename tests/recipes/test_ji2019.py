"""Ji et al. 2019, sentence by sentence: every number of the paper against the recipes, and all of Table 1."""

from dataclasses import replace

import numpy as np
import pytest

from scribbleseg.annotate.simulate import RULES
from scribbleseg.data.layouts.brats import ED, ET, N_FOLDS, NCR, REGIONS
from scribbleseg.recipes import ji2019, recipes
from scribbleseg.recipes.ji2019 import ALPHA, BRATS, FAMILIES, PAPER, TITLES, paper
from scribbleseg.seeds.strokes import Strokes
from scribbleseg.substructures.cluster import named_clusters
from scribbleseg.training.crf_loss import DenseCRFLoss
from scribbleseg.training.losses import PartialCrossEntropy, ScribblesAndAreas
from scribbleseg.training.plain_unet import PlainUNet

WT, SUB = BRATS["wt_sc_gc_crf"], BRATS["sub_km_sc_crf"]
"""The rows of the whole method: Unet-WT, and Unet-sub after it."""


def networks(row):
    return (row,) if row.kind == "em" else (row.whole, row.substructures)


def every_network():
    return [network for row in BRATS.values() for network in networks(row)]


def every_stage():
    return [stage for network in every_network() for stage in network.stages]


def crf_of(recipe):
    """The CRF loss of each stage, None where there is none."""
    return [next((loss for loss in stage.losses if loss.kind == "dense_crf_loss"), None) for stage in recipe.stages]


def clusters_of(present):
    """The number of clusters in a tumour of three kinds of voxels."""
    described = np.repeat(np.arange(3.0), 20)[:, None] * [[1.0, 1, 1, 1, 1]]
    rng = np.random.default_rng(0)
    described = described + rng.normal(0, 0.01, described.shape)
    t1ce = np.repeat(np.float32([0, 1, 2]), 20)
    return len(np.unique(named_clusters(described, t1ce, np.ones(60), frozenset(present))))


def names_of(present, t1ce, depth):
    """The name of each of three clusters, or two, by their T1ce and their distance to the surface."""
    n = len(t1ce)
    described = np.repeat(np.arange(n, dtype=float), 20)[:, None] * np.ones((1, 5))
    of = lambda values, kind: np.repeat(np.array(values, kind), 20)  # noqa: E731
    found = named_clusters(described, of(t1ce, np.float32), of(depth, float), frozenset(present))
    return found[::20].tolist()


PINS = [
    (
        "abstract",
        "we use only two kinds of weak labels, i.e., scribbles on whole tumor and healthy brain tissue, and global "
        "labels",
        lambda: {network.annotation for end, row in BRATS.items() if "full" not in end for network in networks(row)},
        {"scribbles"},
    ),
    (
        "1",
        "whole tumor (WT) contains all three regions; tumor core (TC) includes ET and NET/NCR; and ET itself",
        lambda: {name: set(labels) for name, labels in REGIONS.items()},
        {"WT": {NCR, ED, ET}, "TC": {NCR, ET}, "ET": {ET}},
    ),
    (
        "2",
        "Both Unets are first trained on weak labels, and then finetuned with dense CRF loss",
        lambda: [[crf is not None for crf in crf_of(recipe)] for recipe in (WT, SUB.whole, SUB.substructures)],
        [[False, True]] * 3,
    ),
    ("2.1", "we apply Graph Cut [7] to generate the initial tumor masks", lambda: WT.seeds.kind, "graph_cut"),
    ("2.1", "Flair scan is used as the reference image", lambda: WT.seeds.channel, 3),
    (
        "2.1",
        "Both foreground and background masks are then eroded to reduce the label ambiguities on the boundaries.",
        lambda: WT.seeds.erosion > 0,
        True,
    ),
    (
        "2.1",
        "we exclude S from G because they are treated separately",
        lambda: {stage.losses[0].kind for stage in WT.stages},
        {"scribbles_and_areas"},
    ),
    ("2.1", "Unet [11] is used as our base model", lambda: {n.network for n in every_network()}, {PlainUNet(base=64)}),
    (
        "2.1, Eq. 1",
        "LpCE = LS + λLG",
        lambda: {(loss.scribbles, loss.areas) for stage in WT.stages for loss in stage.losses[:1]},
        {(1.0, 0.8)},
    ),
    (
        "2.1, Eq. 2",
        "Lf t = LpCE + αLcrf",
        lambda: [[loss.kind for loss in stage.losses] for stage in WT.stages],
        [["scribbles_and_areas"], ["scribbles_and_areas", "dense_crf_loss"]],
    ),
    ("2.2", "Here we simply choose k-means method", lambda: SUB.clusters.kind, "k_means"),
    (
        "2.2",
        "k is set to be 2 or 3 depending on the global labels.",
        lambda: [clusters_of(present) for present in ((NCR, ED), (NCR, ED, ET))],
        [2, 3],
    ),
    (
        "2.2",
        "fi∈F Gr = [T 1i , 2 · T 1cei , wt2 · T 2i , wf l · F Li , 2 · (T 1ce − T 1)]",
        lambda: {row.clusters.enhancement for row in BRATS.values() if getattr(row, "clusters", SUB).kind == "k_means"},
        {2.0},
    ),
    (
        "2.2",
        "The group with highest mean T1ce intensity is labeled as ET, if global label indicates 3 substructures; ED "
        "always surrounds the tumor core, so the group with the smallest mean distance to the whole tumor surface is "
        "labeled ED, and the remaining group as NET/NCR.",
        lambda: [names_of((NCR, ED, ET), (1, 9, 3), (5, 2, 3)), names_of((NCR, ED), (9, 1), (5, 2))],
        [[NCR, ET, ED], [NCR, ED]],
    ),
    (
        "2.2",
        "Image erosion followed by morphological skeletonizing operation are applied to each slice",
        lambda: SUB.scribbles.kind,
        "skeleton",
    ),
    (
        "2.2",
        "The Unetsub architecture is similar to the Unet-WT architecture",
        lambda: SUB.substructures.network == SUB.whole.network == WT.network,
        True,
    ),
    (
        "2.2",
        "The weight λ of k-means loss is set to be smaller than scribbles loss",
        lambda: [stage.losses[0].areas < stage.losses[0].scribbles for stage in SUB.substructures.stages],
        [True, True],
    ),
    (
        "3",
        "It contains 285 brain tumor MRI scans, with four MRI modalities as T1, T1ce, T2, and Flair for each scan.",
        lambda: 285 % N_FOLDS,
        0,
    ),
    (
        "3",
        "into training set with 228 scans and test set with 57 scans",
        lambda: (285 - 285 // N_FOLDS, 285 // N_FOLDS),
        (228, 57),
    ),
    (
        "3",
        "The MRI scans are normalized by subtracting mean and divided by standard deviation",
        lambda: {network.preprocess.brain for network in every_network()},  # those of the brain: our reading
        {True},
    ),
    (
        "3",
        "All the slices are center cropped to 192×192 to remove most of the black background.",
        lambda: {(network.preprocess.size, network.preprocess.spacing_mm) for network in every_network()},
        {(192, 1.0)},  # BraTS' own pixels
    ),
    ("3", "erode FG with a 3 × 3 kernel", lambda: RULES["ji2019"].erosion, 3),
    ("3", "a scribble curve S with 3 pixel width", lambda: RULES["ji2019"].width, 3),
    (
        "3",
        "we randomly translate each S in both horizontal and vertical orientations by [-20,20] pixels",
        lambda: RULES["ji2019"].shift,
        20,
    ),
    ("3", "and rotate it by [-30,30] degrees", lambda: RULES["ji2019"].rotation, 30),
    (
        "3",
        "only this time we first erode BG with a large kernel of 30 × 30",
        lambda: RULES["ji2019"].background_erosion,
        30,
    ),
    (
        "3",
        "We select 15224 tumor slices from training set for training.",
        lambda: {network.slices for network in every_network()},
        {"structures"},
    ),
    (
        "3",
        "we use [T1, T2, Flair] channels and [T1, T1ce, Flair] channels to calculate CRF loss when training Unet-WT "
        "and Unet-sub respectively",
        lambda: [crf_of(recipe)[1].channels for recipe in (WT, SUB.whole, SUB.substructures)],
        [(0, 2, 3), (0, 2, 3), (0, 1, 3)],
    ),
    (
        "3",
        "Both Unet models are trained for 10k iteration, followed by 20k finetuning on CRF loss",
        lambda: {tuple(stage.iterations for stage in network.steps) for network in every_network()},
        {(10_000, 20_000)},
    ),
    (
        "3",
        "with learning rate linearly reduced from 0.011 to 0",
        lambda: {(stage.optimiser.kind, stage.optimiser.learning_rate) for stage in every_stage()},
        {("sgd", 0.01)},  # not 0.011: we read its last digit as the mark of a footnote
    ),
    (
        "3",
        "using SGD with momentum 0.9 and batch size of 32",
        lambda: {(stage.optimiser.momentum, stage.batch) for stage in every_stage()},
        {(0.9, 32)},
    ),
    (
        "3",
        "λ for Unet-WT and Unet-sub training are fixed to 0.8 and 0.2 respectively",
        lambda: [{stage.losses[0].areas for stage in recipe.stages} for recipe in (WT, SUB.substructures)],
        [{0.8}, {0.2}],
    ),
    (
        "3",
        "and α is 10−8",  # of the sum over pairs of pixels, here of their mean
        lambda: {
            round(crf.alpha / (192 * 192) ** 2 * 1e8, 9)
            for network in every_network()
            for crf in crf_of(network)
            if crf
        },
        {1.0},
    ),
    (
        "Table 1",
        "Full: training on full (ground truth) masks",
        lambda: [(BRATS[end].annotation, BRATS[end].stages[0].losses) for end in ("wt_full", "sub_full")],
        [("coarse_masks", (PartialCrossEntropy(),)), ("masks", (PartialCrossEntropy(),))],
    ),
    ("Table 1", "SC: training on scribbles only.", lambda: BRATS["wt_sc"].seeds, Strokes()),
    (
        "Table 1",
        "SC+GC: training on both scribbles and Graph Cut masks.",
        lambda: BRATS["wt_sc_gc"].seeds.kind,
        "graph_cut",
    ),
    (
        "Table 1",
        "CRF: finetuning on dense CRF loss.",
        lambda: {end: crf_of(networks(row)[-1])[1] is not None for end, row in BRATS.items()},
        {end: end.endswith("_crf") for end in TITLES},
    ),
    (
        "Table 1",
        "TrueSC: training on tumor substructure scribbles extracted from the ground truth masks",
        lambda: (
            BRATS["sub_true_sc_crf"].clusters.kind,
            {stage.losses[0] for stage in BRATS["sub_true_sc_crf"].substructures.stages},
        ),
        ("reference_masks", {ScribblesAndAreas(scribbles=1.0, areas=0.0)}),
    ),
    (
        "Table 1",
        "KM: training on k-means masks only.",
        lambda: {stage.losses for stage in BRATS["sub_km"].substructures.stages},
        {(PartialCrossEntropy(),)},
    ),
    (
        "Table 1",
        "KM+SC: training on both k-means masks and scribbles from k-means masks.",
        lambda: {stage.losses for stage in BRATS["sub_km_sc"].substructures.stages},
        {(ScribblesAndAreas(scribbles=1.0, areas=0.2),)},
    ),
    (
        "Table 1",
        "After merging the result from phase1, the final WT dice is the same as phase1.",
        lambda: {row.whole == WT for row in BRATS.values() if row.kind == "hierarchy"},
        {True},
    ),
]


@pytest.mark.parametrize(("section", "quote", "found", "expected"), PINS, ids=[quote[:48] for _, quote, *_ in PINS])
def test_a_sentence_of_the_paper_is_what_the_recipes_do(section, quote, found, expected):
    assert found() == expected, f"section {section}: {quote}"


def test_what_the_paper_does_not_mention_is_not_done_at_its_scale():
    assert {network.augment for network in every_network()} == {None}
    assert {stage.relabel for stage in every_stage()} == {None}


PHASE_1 = """
            Dice   Recall Precision
Full        0.8987 0.9465 0.9498
SC          0.8487 0.9032 0.9441
SC+CRF      0.8609 0.9130 0.9461
SC+GC       0.8540 0.9501 0.9030
SC+GC+CRF   0.8823 0.9443 0.9338
"""
PHASE_2 = """
            WT*    TC     ET
Full        0.9008 0.8063 0.8305
TrueSC+CRF  0.8836 0.7991 0.7920
KM          0.8516 0.6015 0.6502
KM+SC       0.8643 0.6714 0.6433
KM+SC+CRF   0.8721 0.6988 0.6537
"""


def rows_of(table, before, names):
    _, *lines = table.strip().splitlines()
    return {
        f"{before}{title}": dict(zip(names, map(float, numbers), strict=True))
        for title, *numbers in map(str.split, lines)
    }


TABLE_1 = rows_of(PHASE_1, "WT ", ("WT", "recall", "precision")) | rows_of(PHASE_2, "", ("WT*", "TC", "ET"))


def test_table_1_has_the_papers_rows_in_its_order():
    assert len(TABLE_1) == 10
    assert list(TABLE_1) == list(TITLES.values())
    assert list(PAPER) == list(TITLES)
    for family in FAMILIES:
        assert list(ji2019.table_1(family)) == list(paper(family)) == list(TABLE_1)


@pytest.mark.parametrize("title", TABLE_1)
def test_table_1_digit_by_digit(title):
    for family in FAMILIES:
        assert paper(family)[title] == TABLE_1[title]


def test_what_the_text_says_of_the_table():
    # Section 3: "very close to the fully supervised model with only a 1.64% margin".
    assert PAPER["wt_full"]["WT"] - PAPER["wt_sc_gc_crf"]["WT"] == pytest.approx(0.0164)
    # "boosts the WT Dice score by ∼ 3% compared with the SC+GC setting".
    assert PAPER["wt_sc_gc_crf"]["WT"] - PAPER["wt_sc_gc"]["WT"] == pytest.approx(0.0283)
    # "TC dice score is greatly increased to ∼ 70%".
    assert PAPER["sub_km_sc_crf"]["TC"] == pytest.approx(0.70, abs=0.0051)
    # "Unet-WT trained on scribbles is able to provide a more accurate WT prediction than Unet-sub" (section 2.2).
    weak = [PAPER[end]["WT*"] for end in ("sub_km", "sub_km_sc", "sub_km_sc_crf")]
    assert PAPER["wt_sc_gc_crf"]["WT"] > max(weak)


CHANGED = {
    "wt_sc_crf": ("wt_sc", r"stages\.1\.losses\.1\."),
    "wt_sc_gc": ("wt_sc", r"seeds\."),
    "wt_sc_gc_crf": ("wt_sc_gc", r"stages\.1\.losses\.1\."),
    "wt_full": ("wt_sc", r"annotation|stages\.\d\.losses\.0\."),  # a mask leaves no areas beside it to be weighed
    "sub_full": ("wt_full", r"annotation"),
    "sub_km_sc": ("sub_km", r"substructures\.stages\.\d\.losses\.0\."),
    "sub_km_sc_crf": ("sub_km_sc", r"substructures\.stages\.1\.losses\.1\."),
    "sub_true_sc_crf": ("sub_km_sc_crf", r"clusters\.|scribbles\.width|substructures\.stages\.\d\.losses\.0\.areas"),
}
"""The row that each is made of, and what is changed in it."""


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("end", CHANGED)
def test_a_row_differs_from_the_row_that_it_is_made_of_in_one_thing(family, end, differs_in_one_thing):
    differs_in_one_thing(FAMILIES[family], end, CHANGED)
    assert {*CHANGED, "wt_sc", "sub_km"} == set(TITLES)


def test_the_loss_of_pairs_weighs_the_same_in_both_phases():
    for rows in FAMILIES.values():
        both = [crf_of(network)[1] for row in rows.values() for network in networks(row)]
        assert {(crf.alpha, crf.sigma_space, crf.unit, crf.scale) for crf in both if crf} == {
            (ALPHA, DenseCRFLoss().sigma_space, "mm", 1 if rows is BRATS else 2)
        }


@pytest.mark.parametrize("family", [*FAMILIES, "demo"])
def test_all_rows_train_as_long_and_at_the_same_learning_rates(family, learning_rates):
    rows = FAMILIES.get(family) or {name: row for name, row in ji2019.RECIPES.items() if name.startswith("demo")}
    walks = [learning_rates(network) for row in rows.values() for network in networks(row)]
    assert len({len(walk) for walk in walks}) == 1
    assert all(np.array_equal(walk, walks[0]) for walk in walks)
    if family != "demo":  # "linearly reduced from ... to 0", over both stretches together
        np.testing.assert_allclose(walks[0], walks[0][0] * (1 - np.arange(len(walks[0])) / len(walks[0])))


def test_all_of_the_method_has_a_name_of_its_own():
    assert ji2019.RECIPES["full"] == SUB
    assert ji2019.RECIPES["compact_full"] == ji2019.RECIPES["compact_sub_km_sc_crf"]
    assert replace(SUB, whole=WT) == SUB


@pytest.mark.parametrize("name", [name for name in recipes() if name.startswith("ji2019.")])
def test_every_recipe_trains_at_a_toy_size(name, train_at_toy_size, tmp_path):
    train_at_toy_size(name, tmp_path / "run")
