"""The command line on brain tumours: scribbles of the whole go in, three regions come out, and what goes wrong."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from command_line import call
from scribbleseg.phantoms import write_phantoms

SETTINGS = [
    word
    for phase in ("whole", "substructures")
    for setting in ("network.base=4", "stages.iterations=2", "stages.0.iterations=3", "stages.batch=2")
    for word in ("--set", f"{phase}.{setting}")
] + ["--set", "whole.preprocess.spacing_mm=6", "--set", "whole.preprocess.size=32"]
RECIPE = ["--recipe", "ji2019.compact_full", *SETTINGS, "--accelerator", "cpu", "--workers", 1]


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory) -> Path:
    return write_phantoms(tmp_path_factory.mktemp("cli") / "tumours", "tumour", train=2, test=1, shape=(8, 96, 96))


@pytest.fixture(scope="module")
def scribbles(phantoms, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("drawn") / "scribbles"
    assert "--recipe ji2019.compact_full" in call("simulate", phantoms, "--out", out, "--rule", "ji2019")
    return out


@pytest.fixture(scope="module")
def trained(phantoms, scribbles, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    said = call("train", phantoms, "--scribbles", scribbles, "--out", out, *RECIPE)
    assert "whole: round 1 of training (recursion 1)" in said
    assert "substructures: round 1 of training (recursion 1)" in said
    assert "changed by relabelling" not in said
    return out


def test_predict_evaluate_report(phantoms, trained, tmp_path):
    assert "0 background, 1 NCR/NET, 2 ED, 3 ET" in call("predict", trained, phantoms, "--out", tmp_path / "labels")
    labels = np.asarray(nib.load(tmp_path / "labels" / "test000.nii.gz").dataobj)
    assert set(np.unique(labels)) <= {0, 1, 2, 3}
    said = call("evaluate", tmp_path / "labels", phantoms)
    assert all(f"labels: {region}" in said for region in ("WT", "TC", "ET"))
    call("report", trained, "--out", tmp_path / "report.html", "--accelerator", "cpu")
    page = (tmp_path / "report.html").read_text()
    assert "training case, substructures" in page
    assert "run: whole" in page


def test_label_maps_of_the_first_phase_are_scored_as_what_they_are(phantoms, trained, tmp_path):
    assert "1 WT" in call("predict", trained / "whole", phantoms, "--out", tmp_path / "whole")
    said = call("evaluate", tmp_path / "whole", phantoms)
    assert "whole: WT" in said
    assert "TC" not in said
    (tmp_path / "whole" / "dataset.json").write_text('{"labels": {"background": 0, "liver": 1}}')
    assert "expected a data set of the labels background, liver" in call(
        "evaluate", tmp_path / "whole", phantoms, code=2
    )


def test_new_cases_need_no_masks(phantoms, trained, tmp_path):
    for file in (phantoms / "test" / "test000").glob("*.nii.gz"):
        if not file.name.endswith("_seg.nii.gz"):
            (tmp_path / "new" / "test000").mkdir(parents=True, exist_ok=True)
            shutil.copy(file, tmp_path / "new" / "test000")
    assert "1 label map in" in call("predict", trained, tmp_path / "new", "--out", tmp_path / "labels")


def test_what_two_networks_cannot_say_is_refused(phantoms, trained, tmp_path):
    for option in ("--probabilities", "--uncertainty"):
        said = call("predict", trained, phantoms, "--out", tmp_path / "labels", option, code=2)
        assert "give one of its phases" in said
    call("predict", trained / "whole", phantoms, "--out", tmp_path / "whole", "--probabilities")
    assert "expected a recipe of one network" in call("seeds", phantoms, "--out", tmp_path / "s", *RECIPE[:-4], code=2)


def test_check_says_what_a_recipe_of_two_phases_would_do_and_that_there_is_one(phantoms, scribbles):
    said = call("check", phantoms, "--scribbles", scribbles, *RECIPE[:-4])
    assert "would do: whole: 2 rounds" in said
    assert "; substructures: 2 rounds" in said
    assert "Dimensions:" not in said
    assert "--recipe ji2019.compact_full learns them, too" in call("check", phantoms, "--scribbles", scribbles)


def test_data_without_image_level_labels_are_refused_at_once(phantoms, scribbles, tmp_path):
    drawn = Path(shutil.copytree(scribbles, tmp_path / "drawn"))
    (drawn / "present.json").unlink()
    assert "recipes of two phases (ji2019.full) need one" in call("check", phantoms, "--scribbles", drawn)
    said = call("train", phantoms, "--scribbles", drawn, "--out", tmp_path / "run", *RECIPE, code=2)
    assert "case train000: expected image-level labels" in said
    assert not (tmp_path / "run").exists()
    (drawn / "present.csv").write_text("case;NCR/NET;ED;ET\ntrain000;1;1;1\ntrain001;1;1;1\ntrian002;0;1;0\n")
    assert "no case of" in (said := call("check", phantoms, "--scribbles", drawn))
    assert "trian002" in said


def test_a_missing_modality_and_another_grid_are_named(phantoms, scribbles, tmp_path):
    copy = Path(shutil.copytree(phantoms, tmp_path / "tumours"))
    file = copy / "train" / "train001" / "train001_t2.nii.gz"
    image = nib.load(file)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[:-2], image.affine), file)
    said = call("train", copy, "--scribbles", scribbles, "--out", tmp_path / "run", *RECIPE, code=2)
    assert "train001_t2.nii.gz" in said
    assert "expected 8 x 96 x 96 voxels" in said
    file.unlink()
    said = call("train", copy, "--scribbles", scribbles, "--out", tmp_path / "run", *RECIPE, code=2)
    assert "train001_t2.nii.gz" in said
    assert "expected this file, found none" in said


def test_simulate_takes_lengths_width_and_labels(phantoms, tmp_path):
    options = ["--rule", "ji2019", "--length", "0.5", "--length", "WT=0.25", "--width", 5]
    call("simulate", phantoms, "--out", tmp_path / "short", *options)
    rule = json.loads((tmp_path / "short" / "simulation.json").read_text())["rule"]
    assert (rule["length"], rule["width"]) == ([0.5, 0.25], 5)
    call("simulate", phantoms, "--out", tmp_path / "all", "--labels", "all")
    assert json.loads((tmp_path / "all" / "dataset.json").read_text())["labels"]["ET"] == 3
    assert "background, WT" in call("simulate", phantoms, "--out", tmp_path / "no", "--length", "liver=1", code=2)


def test_reproduce_prints_both_tables(phantoms, tmp_path):
    one_phase = [
        word
        for setting in ("network.base=4", "stages.batch=2", "preprocess.spacing_mm=6", "preprocess.size=32")
        for word in ("--set", setting)
    ]
    said = call(
        "reproduce", "ji2019", "--data", phantoms, "--out", tmp_path / "table", "--iterations", 6, *one_phase,
        "--rows", "WT SC", "--rows", "Full", "--accelerator", "cpu",
    )  # fmt: skip
    assert said.count("precision") == 2
    assert (tmp_path / "table" / "scribbles" / "present.json").is_file()
    assert "WT SC+GC+CRF" in call(
        "reproduce", "ji2019", "--data", phantoms, "--out", tmp_path / "table", "--rows", "SC", code=2
    )
