"""Run folders as scribbleseg 0.1 left them, before recipes had stages: read, but not trained on."""

import importlib.metadata
import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from command_line import call
from scribbleseg import runs
from scribbleseg.annotate.simulate import RULES, Skeleton, write_simulation
from scribbleseg.data import coarse, fingerprint, open_dataset
from scribbleseg.data.preprocess import Preprocess
from scribbleseg.data.slices import open_slices
from scribbleseg.hierarchy import Hierarchy
from scribbleseg.phantoms import write_phantoms
from scribbleseg.pipeline import data_of, load, phases, recipe_of
from scribbleseg.recipe import Recipe, Relabel, Stage
from scribbleseg.relabel.decide import WelchTest
from scribbleseg.relabel.refine import DenseCRF
from scribbleseg.runs import open_run
from scribbleseg.seeds.graph_cut import GraphCut
from scribbleseg.seeds.random_walker import RandomWalker
from scribbleseg.seeds.strokes import Strokes
from scribbleseg.settings import to_plain
from scribbleseg.substructures.cluster import KMeans
from scribbleseg.training.augment import Augment
from scribbleseg.training.crf_loss import DenseCRFLoss
from scribbleseg.training.crf_rnn import CRFRNN
from scribbleseg.training.hardware import make_fabric
from scribbleseg.training.losses import PartialCrossEntropy, ScribblesAndAreas
from scribbleseg.training.optimisers import SGD, Adam
from scribbleseg.training.unet import UNet
from scribbleseg.types import DataError, Dataset

# recipe.json, word for word but for the numbers.
FIRST = json.loads("""{
 "annotation": "scribbles", "preprocess": {"spacing_mm": 6.0, "size": 32},
 "seeds": {"kind": "random_walker", "tau": 0.9, "beta": 100.0, "dimensions": 2},
 "network": {"kind": "unet", "base": 4, "padded": true, "dropout": 0.0},
 "augment": {"rotation_degrees": 30.0, "scale": 0.25, "elastic": 0.02, "knots": 6, "flips": false,
  "contrast": 0.3, "brightness": 0.2, "noise": 0.1},
 "training": {"batch": 4, "learning_rate": 0.002, "decay": 0.8, "decay_every": 200, "iterations": 7,
  "iterations_again": 5},
 "refine": {"kind": "identity"}, "decide": {"kind": "argmax"}, "recursions": 2, "stop_below": 0.002
}""")
CRF = json.loads("""{
 "annotation": "scribbles", "preprocess": {"spacing_mm": 6.0, "size": 32, "brain": false},
 "seeds": {"kind": "strokes"},
 "network": {"kind": "unet", "base": 4, "padded": true, "dropout": 0.5},
 "augment": {"rotation_degrees": 20.0, "scale": 0.25, "elastic": 0.02, "knots": 6, "flips": true,
  "contrast": 0.3, "brightness": 0.2, "noise": 0.1},
 "training": {"kind": "adam", "batch": 3, "learning_rate": 0.001, "decay": 0.9, "decay_every": 3000,
  "iterations": 7, "iterations_again": 5},
 "loss": {"kind": "scribbles_and_areas", "scribbles": 1.0, "areas": 0.5},
 "crf": {"unit": "px", "kind": "dense_crf_loss", "alpha": 13.5, "channels": [0], "sigma_space": 3.75,
  "sigma_intensity": 0.3, "scale": 2},
 "refine": {"unit": "px", "w1": 5.0, "w2": 10.0, "sigma_alpha": 1.1, "sigma_beta": 0.1, "sigma_gamma": 2.7,
  "kind": "dense_crf", "iterations": 10, "tolerance": 0.001},
 "decide": {"kind": "welch_test", "passes": 20, "significance": 0.01}, "recursions": 1, "stop_below": 0.001
}""")
CRF_RNN = json.loads("""{
 "annotation": "masks", "preprocess": {"spacing_mm": 6.0, "size": 32, "brain": false},
 "seeds": {"kind": "strokes"},
 "network": {"unit": "px", "w1": 5.0, "w2": 10.0, "sigma_alpha": 8.5, "sigma_beta": 0.012, "sigma_gamma": 1.6,
  "kind": "crf_rnn", "unet": {"kind": "unet", "base": 4, "padded": true, "dropout": 0.0}, "iterations": 3,
  "unet_updates": 7, "rnn_learning_rate": 1e-07},
 "augment": {"rotation_degrees": 30.0, "scale": 0.25, "elastic": 0.02, "knots": 6, "flips": false,
  "contrast": 0.3, "brightness": 0.2, "noise": 0.1},
 "training": {"kind": "adam", "batch": 4, "learning_rate": 0.001, "decay": 0.9, "decay_every": 3000,
  "iterations": 7, "iterations_again": 5},
 "loss": {"kind": "partial_cross_entropy"}, "crf": null,
 "refine": {"kind": "identity"}, "decide": {"kind": "argmax"}, "recursions": 0, "stop_below": 0.001
}""")
WHOLE = json.loads("""{
 "annotation": "scribbles", "preprocess": {"spacing_mm": 6.0, "size": 32, "brain": true},
 "seeds": {"kind": "graph_cut", "channel": 3, "size_mm": 3.0, "compactness": 0.3, "sigma": 0.8, "likelihood": 0.1,
  "erosion": 1},
 "network": {"kind": "unet", "base": 4, "padded": true, "dropout": 0.0},
 "augment": {"rotation_degrees": 30.0, "scale": 0.25, "elastic": 0.02, "knots": 6, "flips": true,
  "contrast": 0.3, "brightness": 0.2, "noise": 0.1},
 "training": {"kind": "sgd", "batch": 4, "learning_rate": 0.05, "momentum": 0.8, "iterations": 10,
  "iterations_again": 20},
 "loss": {"kind": "scribbles_and_areas", "scribbles": 1.0, "areas": 0.8},
 "crf": {"unit": "px", "kind": "dense_crf_loss", "alpha": 13.5, "channels": [0, 2, 3], "sigma_space": 3.75,
  "sigma_intensity": 0.3, "scale": 2},
 "refine": {"kind": "identity"}, "decide": {"kind": "keep"}, "recursions": 1, "stop_below": 0.001
}""")
HIERARCHY = {
    "whole": WHOLE,
    "clusters": {"kind": "k_means", "enhancement": 2.5},
    "scribbles": {"kind": "skeleton", "length": 0.5, "width": 1, "seed": 0},
    "substructures": WHOLE | {"seeds": {"kind": "strokes"}, "crf": None},
}

SMALL = UNet(base=4, padded=True)
GRID = Preprocess(spacing_mm=6.0, size=32)
LOSS = DenseCRFLoss(alpha=13.5, channels=(0,), sigma_space=3.75, sigma_intensity=0.3, scale=2)
DENSE = DenseCRF(w1=5.0, w2=10.0, sigma_alpha=1.1, sigma_beta=0.1, sigma_gamma=2.7)
RNN = CRFRNN(
    w1=5.0, w2=10.0, sigma_alpha=8.5, sigma_beta=0.012, sigma_gamma=1.6, unaries=SMALL, iterations=3, network_updates=7
)
ADAM = Adam(learning_rate=0.002, decay=0.8, decay_every=200)
AREAS = ScribblesAndAreas(areas=0.5)
WHOLE_CRF = DenseCRFLoss(alpha=13.5, channels=(0, 2, 3), sigma_space=3.75, sigma_intensity=0.3, scale=2)


def whole(*losses, seeds=GraphCut(size_mm=3.0)) -> Recipe:  # noqa: B008  # a frozen dataclass
    options = {"batch": 4, "optimiser": SGD(learning_rate=0.05, momentum=0.8)}
    first = (ScribblesAndAreas(scribbles=1.0, areas=0.8),)
    stages = (Stage(iterations=10, losses=first, **options), Stage(iterations=20, losses=(*first, *losses), **options))
    grid = Preprocess(spacing_mm=6.0, size=32, brain=True)
    return Recipe(preprocess=grid, seeds=seeds, network=SMALL, augment=Augment(flips=True), stages=stages)


TODAY = {
    "first": Recipe(
        preprocess=GRID,
        seeds=RandomWalker(tau=0.9, beta=100.0),
        network=SMALL,
        stages=(
            Stage(iterations=7, batch=4, optimiser=ADAM),
            Stage(iterations=5, batch=4, optimiser=ADAM, relabel=Relabel(), times=2),
        ),
        stop_below=0.002,
    ),
    "crf": Recipe(
        preprocess=GRID,
        seeds=Strokes(),
        network=UNet(base=4, padded=True, dropout=0.5),
        augment=Augment(rotation_degrees=20.0, flips=True),
        stages=(
            Stage(iterations=7, batch=3, losses=(AREAS,)),
            Stage(
                iterations=5,
                batch=3,
                losses=(AREAS, LOSS),
                relabel=Relabel(refine=DENSE, decide=WelchTest(passes=20, significance=0.01)),
            ),
        ),
    ),
    "crf_rnn": Recipe(
        annotation="masks",
        preprocess=GRID,
        seeds=Strokes(),
        network=RNN,
        stages=(Stage(iterations=7, batch=4, losses=(PartialCrossEntropy(),)),),
    ),
    "hierarchy": Hierarchy(
        whole=whole(WHOLE_CRF),
        clusters=KMeans(enhancement=2.5),
        scribbles=Skeleton(length=0.5),
        substructures=whole(seeds=Strokes()),
    ),
}
OLD = {"first": FIRST, "crf": CRF, "crf_rnn": CRF_RNN, "hierarchy": HIERARCHY}


def write_details(path: Path, recipe: dict, dataset: Dataset, version: str = "0.1.0") -> None:
    data = {"folder": str(dataset.root), "format": dataset.name, "options": dataset.options}
    details = {"name": path.name, "seed": 0, "label_names": dataset.label_names, "data": data}
    details |= {"fingerprint": fingerprint(dataset.train), "versions": {"scribbleseg": version, "torch": "2.13.0"}}
    path.mkdir(parents=True, exist_ok=True)
    (path / "recipe.json").write_text(json.dumps(recipe))
    (path / "run.json").write_text(json.dumps(details | {"platform": "Linux", "command": ["scribbleseg", "train"]}))


def write_old_run(path: Path, recipe: dict, dataset: Dataset) -> Path:
    """The files of 0.1: no `inside` in the cache, no fingerprint or geometry in its index, a CRF-RNN's `unet.`."""
    write_details(path, recipe, dataset)
    preprocess, slices = Preprocess(**recipe["preprocess"]), path / "slices"
    images, scribbles, index = [], [], {}
    for case in dataset.train:
        images.append(preprocess.image(case))
        scribbles.append(preprocess.labels(case.scribbles, case.geometry))
        described = {"slices": len(images[-1]), "pixels": int(preprocess.inside(case).sum())}
        described |= {"spacing_mm": (case.spacing_mm[0], 6.0, 6.0)}
        index[case.name] = described | {"present": None if case.present is None else sorted(case.present)}
    slices.mkdir()
    (slices / "images.raw").write_bytes(np.concatenate(images).tobytes())
    key = {"preprocess": recipe["preprocess"], "cases": list(dataset.train.names)}
    shape = images[0].shape[1:]
    (slices / "index.json").write_text(json.dumps({"key": key, "shape": shape, "cases": index}))
    records = []
    spec = RNN if recipe["network"]["kind"] == "crf_rnn" else SMALL
    for n in range(recipe["recursions"] + 1):
        torch.manual_seed(n)
        state = spec.build(shape[0], len(dataset.label_names)).state_dict()
        state = {name.replace("unaries.", "unet.", 1): weights for name, weights in state.items()}
        (path / f"recursion_{n}").mkdir()
        torch.save({"channels": shape[0], "state": state}, path / f"recursion_{n}" / "network.pt")
        (slices / f"labels_{n}.raw").write_bytes(np.concatenate(scribbles).tobytes())
        records += [
            {"event": "relabel", "recursion": n, "labelled": 0.4, "per_label": {"background": 0.3}},
            {"event": "train", "recursion": n, "iteration": 7, "loss": 0.5, "learning_rate": 0.001},
        ]
    (slices / "scribbles.raw").write_bytes((slices / "labels_0.raw").read_bytes())
    (path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture(scope="module")
def hearts(tmp_path_factory) -> Dataset:
    return open_dataset(write_phantoms(tmp_path_factory.mktemp("old") / "hearts", train=2, test=1, shape=(3, 48, 48)))


@pytest.fixture(scope="module")
def tumours(tmp_path_factory) -> Dataset:
    root = tmp_path_factory.mktemp("old")
    phantoms = write_phantoms(root / "tumours", "tumour", train=2, test=1, shape=(4, 96, 96))
    drawn = write_simulation(open_dataset(phantoms), RULES["ji2019"], root / "drawn")
    return open_dataset(phantoms, scribbles=str(drawn))


@pytest.fixture(scope="module")
def old(hearts, tumours, tmp_path_factory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("runs")
    paths = {name: write_old_run(out / name, OLD[name], hearts) for name in ("first", "crf", "crf_rnn")}
    write_details(out / "hierarchy", HIERARCHY, tumours)
    write_old_run(out / "hierarchy" / "whole", HIERARCHY["whole"], coarse(tumours))
    write_old_run(out / "hierarchy" / "substructures", HIERARCHY["substructures"], tumours)
    return paths | {"hierarchy": out / "hierarchy"}


@pytest.fixture
def later(monkeypatch) -> None:
    """This version is a later one than 0.1, whatever it is called while it is made."""
    monkeypatch.setattr(
        runs, "version", lambda name: "0.2.0" if name == "scribbleseg" else importlib.metadata.version(name)
    )


@pytest.mark.parametrize("name", OLD)
def test_its_recipe_is_read_in_stages(name, old):
    run = open_run(old[name])
    assert recipe_of(run) == TODAY[name]
    assert run.recipe == OLD[name], "the file is left as it is"


@pytest.mark.parametrize(
    ("layout", "options", "today"),
    [
        ("acdc", {"split": "paper", "fold": 2}, {"split": "paper_validation", "fold": 2}),
        ("acdc", {"split": "published", "fold": 0}, {"split": "published", "fold": 0}),
        ("brats", {"fold": 3}, {"fold": 3, "folds": 4}),
        ("brats", {}, {}),  # its folders are the split
        ("nci_isbi", {"split": "paper_validation"}, {"split": "both_validation"}),
    ],
)
def test_its_data_set_is_opened_as_it_was_then(layout, options, today, hearts, tmp_path):
    dataset = replace(hearts, name=layout, options=options)
    write_details(tmp_path / "old", FIRST, dataset)
    assert data_of(open_run(tmp_path / "old"))["options"] == today
    write_details(tmp_path / "new", to_plain(Recipe()), dataset, version=importlib.metadata.version("scribbleseg"))
    assert data_of(open_run(tmp_path / "new"))["options"] == options


@pytest.mark.parametrize("name", OLD)
def test_predict_reads_it(name, old, hearts, tumours, tmp_path):
    dataset = tumours if name == "hierarchy" else hearts
    assert "1 label map" in call("predict", old[name], dataset.root, "--out", tmp_path / "out", "--accelerator", "cpu")
    labels = np.asarray(nib.load(tmp_path / "out" / "test000.nii.gz").dataobj).T
    assert np.array_equal(labels, load(open_run(old[name]), make_fabric("cpu")).segment(dataset.test[0]))


def test_a_crf_rnns_weights_are_found_under_their_old_names(old, hearts):
    torch.manual_seed(0)
    expected = RNN.build(1, 4).eval()
    loaded = load(open_run(old["crf_rnn"]), Fabric(accelerator="cpu", devices=1)).network.eval()
    images = torch.from_numpy(open_slices(old["crf_rnn"] / "slices").images())
    with torch.inference_mode():
        assert torch.equal(loaded(images), expected(images))


def test_report_reads_them(old, tmp_path):
    call("report", *old.values(), "--out", tmp_path / "report.html", "--accelerator", "cpu")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for text in ("train000", "test000", *old, "hierarchy: whole", "substructures"):
        assert text in page


def test_training_does_not_go_on_and_says_what_can_be_done(old, hearts, later, tmp_path):
    settings = [*("--set", "preprocess.spacing_mm=6"), *("--set", "preprocess.size=32")]
    before = {path: path.read_bytes() for path in old["first"].rglob("*.*")}
    said = call("train", hearts.root, "--out", old["first"], "--resume", *settings, code=2)
    assert "found one that 0.1.0 made; `predict` and `report` read it" in said
    assert "Traceback" not in said
    assert {path: path.read_bytes() for path in old["first"].rglob("*.*")} == before


def test_a_run_of_a_newer_version_is_refused(hearts, tmp_path):
    write_details(tmp_path / "run", {"kind": "quantum"}, hearts, version="9.9.0")
    with pytest.raises(DataError, match=r"found one that 9\.9\.0 made; update scribbleseg"):
        open_run(tmp_path / "run")
    assert "update scribbleseg" in call("predict", tmp_path / "run", hearts.root, "--out", tmp_path / "out", code=2)
    assert not (tmp_path / "out").exists()


def test_a_recipe_of_an_unknown_pipeline_is_refused(hearts, tmp_path):
    write_details(tmp_path / "run", {"kind": "quantum"}, hearts)
    with pytest.raises(DataError, match="expected a recipe of em or hierarchy, got quantum"):
        recipe_of(open_run(tmp_path / "run"))
    with pytest.raises(DataError, match="expected a recipe of em or hierarchy, got quantum"):
        phases(open_run(tmp_path / "run"))
