"""The command line as a new user meets it: the whole way through, and what bad input says."""

import errno
import json
import re
import shutil
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import get_args

import nibabel as nib
import numpy as np
import pytest

from command_line import call
from scribbleseg import em, tune
from scribbleseg.annotate.simulate import RULES
from scribbleseg.cli import data, use
from scribbleseg.files import FileError
from scribbleseg.phantoms import write_phantoms

TINY = [
    "network.base=4", "stages.iterations=2", "stages.0.iterations=4", "stages.batch=2", "preprocess.spacing_mm=6.0",
    "preprocess.size=32", "stages.times=1",
]  # fmt: skip
SETTINGS = [word for setting in TINY for word in ("--set", setting)]


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory) -> Path:
    return write_phantoms(tmp_path_factory.mktemp("cli") / "hearts", train=2, test=2, shape=(3, 48, 48))


@pytest.fixture(scope="session")
def trained(phantoms, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    assert "Trained" in call("train", phantoms, "--out", out, "--workers", 1, "--accelerator", "cpu", *SETTINGS)
    return out


@pytest.fixture
def copy(phantoms, tmp_path) -> Path:
    return Path(shutil.copytree(phantoms, tmp_path / "hearts"))


def test_every_verb_has_help_with_an_example():
    for verb in (
        "demo", "check", "simulate", "convert", "seeds", "train", "reproduce", "tune-crf",
        "predict", "suggest", "evaluate", "report", "recipes",
    ):  # fmt: skip
        assert f"Example: scribbleseg {verb}" in call(verb, "--help")


def test_recipes_are_shown():
    assert json.loads(call("recipes", "can2018.acdc_base"))["seeds"]["tau"] == 0.99
    assert "can2018.acdc_base" in call("recipes", "can2018.acdc_bas", code=2)


def test_check_passes_sound_data(phantoms):
    assert "0 faults" in call("check", phantoms)


def test_seeds_then_train_goes_on_from_them(phantoms, tmp_path):
    out = tmp_path / "run"
    assert "seed areas" in call("seeds", phantoms, "--out", out, "--workers", 1, *SETTINGS)
    page = (out / "seeds.html").read_text(encoding="utf-8")
    assert "No network has learned from them yet" in page
    assert ">Seed areas</" in page
    assert ">Predicted</" not in page
    assert len(list((out / "labels" / "0").glob("*.nii.gz"))) == 2
    call("train", phantoms, "--out", out, "--resume", "--workers", 1, "--accelerator", "cpu", *SETTINGS)


def test_simulated_scribbles_train(phantoms, tmp_path):
    scribbles, out = tmp_path / "scribbles", tmp_path / "run"
    assert "--scribbles" in call("simulate", phantoms, "--out", scribbles, "--rule", "quarter", "--seed", 3)
    assert json.loads((scribbles / "simulation.json").read_text())["rule"]["seed"] == 3
    settings = [*SETTINGS, "--workers", 1, "--accelerator", "cpu"]
    call("train", phantoms, "--scribbles", scribbles, "--out", out, *settings)
    assert json.loads((out / "run.json").read_text())["data"]["options"] == {"scribbles": str(scribbles)}
    call("report", out, "--out", tmp_path / "report.html", "--accelerator", "cpu")  # opens the data set again
    assert "name another folder" in call("simulate", phantoms, "--out", scribbles, code=2)


def test_reproduce_prints_the_table_and_goes_on(phantoms, tmp_path):
    out = tmp_path / "table"
    words = ["reproduce", "can2018", "--data", phantoms, "--out", out, "--accelerator", "cpu", *SETTINGS]
    rows = ["--rows", "Base + separate CRF", "--rows", "Fully supervised"]
    printed = call(*words, *rows)
    assert "separate CRF" in printed
    assert "(0.870)" in printed  # the paper's mean of that row
    assert "(0.895)" in printed
    assert (out / "report.html").stat().st_size > 1000
    table = printed[printed.index("row RV Myo") : printed.index("In brackets")]
    assert table in call(*words, *rows)
    assert "expected titles of the table" in call(*words, "--rows", "nonsense", code=2)
    assert "expected a family among" in call(*words, "--family", "liver", code=2)


def test_tune_crf(phantoms, tmp_path, monkeypatch):
    small = {"w1": (1.0,), "w2": (1.0,), "sigma_alpha": (2.0,), "sigma_beta": (0.1,), "sigma_gamma": (1.0,)}
    monkeypatch.setattr(tune, "tune_crf", partial(tune.tune_crf, grid=small))
    out = tmp_path / "tuning"
    printed = call("tune-crf", phantoms, "--out", out, "--accelerator", "cpu", *SETTINGS)
    assert "1 case held out: train001" in printed
    assert "Without a CRF:" in printed
    assert "sigma_alpha px" in printed


def test_uncertainty(phantoms, tmp_path):
    run, out = tmp_path / "run", tmp_path / "predictions"
    settings = [*SETTINGS, "--workers", 1, "--accelerator", "cpu"]
    call("train", phantoms, "--recipe", "can2018.compact_uncertainty", "--out", run, *settings)
    assert "most uncertain first" in call("predict", run, phantoms, "--out", out, "--uncertainty")
    image = nib.load(phantoms / "images" / "test000.nii.gz")
    for ending in ("uncertainty_p", "entropy", "mutual_information"):
        found = nib.load(out / f"test000_{ending}.nii.gz")
        assert np.array_equal(found.affine, image.affine)
        assert found.get_data_dtype() == np.float32
        assert np.isfinite(found.dataobj).all()
    assert len((out / "uncertainty.csv").read_text().splitlines()) == 3
    assert "left out" not in call("evaluate", out, phantoms)


def test_uncertainty_without_dropout_says_what_to_do(phantoms, trained, tmp_path):
    assert "dropout" in call("predict", trained, phantoms, "--out", tmp_path / "p", "--uncertainty", code=2)
    assert not (tmp_path / "p").exists()
    welch = ["--set", "stages.1.relabel.decide.kind=welch_test"]
    refused = call("train", phantoms, "--out", tmp_path / "r", *SETTINGS, *welch, code=2)
    assert "set network.dropout" in refused
    passes = ["--recipe", "can2018.compact_uncertainty", "--set", "stages.relabel.decide.passes=1"]
    assert "recipe field stages.1.relabel.decide.passes: input should be greater than 1" in call(
        "train", phantoms, "--out", tmp_path / "r", *passes, code=2
    )


def test_predict_evaluate_report(phantoms, trained, tmp_path):
    predictions = tmp_path / "predictions"
    assert "2 label maps" in call("predict", trained, phantoms, "--out", predictions, "--probabilities")
    image = nib.load(phantoms / "images" / "test000.nii.gz")
    labels = nib.load(predictions / "test000.nii.gz")
    assert labels.shape == image.shape
    assert np.array_equal(labels.affine, image.affine)
    probabilities = np.asarray(nib.load(predictions / "test000_probabilities.nii.gz").dataobj)
    assert probabilities.shape == (*image.shape, 4)
    assert np.allclose(probabilities.sum(axis=-1), 1, atol=1e-4)
    assert (probabilities.argmax(axis=-1) == np.asarray(labels.dataobj)).all()
    said = call("evaluate", predictions, phantoms, "--out", tmp_path / "scores")
    assert "2 of 2 test cases scored" in said
    scores = json.loads((tmp_path / "scores" / "scores.json").read_text())
    assert {row["structure"] for row in scores} == {"RV", "Myo", "LV"}
    assert not list(predictions.glob("scores*")), "nothing is written into the scored folder unless asked for"
    (predictions / "test001.nii.gz").unlink()
    (predictions / "test000.nii.gz").rename(predictions / "[bold].nii.gz")
    (predictions / "train000.nii.gz").write_bytes((phantoms / "masks" / "train000.nii.gz").read_bytes())
    said = call("evaluate", predictions, phantoms)
    assert "left out: [bold]" in said
    assert "test cases without a label map, not scored: test000, test001" in said
    assert "0 of 2 test cases scored; training cases, summed up by themselves: 1" in said
    call("report", trained, "--out", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "test000" in page
    assert "train000" in page


def test_predict_takes_one_file(phantoms, trained, tmp_path):
    call("predict", trained, phantoms / "images" / "test001.nii.gz", "--out", tmp_path)
    assert (tmp_path / "test001.nii.gz").exists()


def test_a_run_is_not_overwritten(phantoms, trained):
    assert "--resume" in call("train", phantoms, "--out", trained, *SETTINGS, code=2)
    assert "begun with another recipe" in call(
        "train", phantoms, "--out", trained, "--resume", *SETTINGS, "--set", "stages.batch=3", code=2
    )


@pytest.mark.parametrize(
    "setting",
    [
        "stages.1.times=0", "stages.iterations=0", "stages.batch=0", "stages.optimiser.learning_rate=nan",
        "network.base=0", "network.dropout=1.5", "augment.knots=0", "preprocess.size=50", "preprocess.size=-1",
        "preprocess.spacing_mm=0", "seeds.tau=2",
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_refused_before_anything_is_written(setting, phantoms, tmp_path):
    out = tmp_path / "run"
    message = call("train", phantoms, "--out", out, *SETTINGS, "--set", setting, code=2)
    assert re.search(rf"recipe fields? [\w., ]*{re.escape(setting.split('.')[0])}", message)
    assert not out.exists()


def test_predict_replaces_nothing_unasked(trained, copy, tmp_path):
    command = ("predict", trained, copy / "images", "--out", tmp_path / "out")
    call(*command)
    file = tmp_path / "out" / "test000.nii.gz"
    file.write_bytes(b"mine")
    assert "--overwrite" in call(*command, code=2)
    assert file.read_bytes() == b"mine"
    call(*command, "--overwrite")
    assert file.read_bytes() != b"mine"


def test_predict_names_a_bad_image_and_does_the_others(trained, copy, tmp_path):
    bad = copy / "images" / "test000.nii.gz"
    bad.write_bytes(bad.read_bytes()[:500])
    said = call("predict", trained, copy / "images", "--out", tmp_path / "out", code=1)
    assert "3 label maps" in said
    assert "not segmented: case test000" in said
    written = ["dataset.json", "test001.nii.gz", "train000.nii.gz", "train001.nii.gz"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([*written, use.UNFINISHED])
    assert "case test000" in call("predict", trained, bad, "--out", tmp_path / "alone", code=2)
    bad.write_bytes((copy / "images" / "test001.nii.gz").read_bytes())
    assert "4 label maps" in (said := call("predict", trained, copy / "images", "--out", tmp_path / "out"))
    assert "3 were there already" in said
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([*written, "test000.nii.gz"])


def test_predict_does_not_take_the_maps_of_another_command_for_its_own(trained, copy, tmp_path, monkeypatch):
    out, segment = tmp_path / "out", use._segment
    call("predict", trained, copy / "images", "--out", out, "--recursion", 0)
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.nii.gz")}

    def interrupted(model, case, out, probabilities):
        if case.name == "test001":
            raise KeyboardInterrupt
        segment(model, case, out, probabilities)

    monkeypatch.setattr(use, "_segment", interrupted)
    call("predict", trained, copy / "images", "--out", out, "--overwrite", code=130)
    monkeypatch.setattr(use, "_segment", segment)
    assert "--overwrite" in call("predict", trained, copy / "images", "--out", out, code=2)
    assert "1 were there already" in call("predict", trained, copy / "images", "--out", out, "--overwrite")
    assert all(path.stat().st_mtime_ns != before[path.name] for path in out.glob("*.nii.gz"))


def test_predict_stops_where_its_folder_takes_no_more(trained, copy, tmp_path, monkeypatch):
    def full(model, case, out, probabilities):
        raise FileError(out / f"{case.name}.nii.gz", "could not be written (No space left on device)", "free some")

    monkeypatch.setattr(use, "_segment", full)
    assert "No space left" in call("predict", trained, copy / "images", "--out", tmp_path / "out", code=2)
    assert (tmp_path / "out" / use.UNFINISHED).exists()


def test_predict_goes_on_where_it_was_interrupted(trained, copy, tmp_path, monkeypatch):
    command = ("predict", trained, copy / "images", "--out", tmp_path / "out")
    segment, order = use._segment, []

    def interrupted(model, case, out, probabilities):
        if len(order) == 2:
            raise KeyboardInterrupt
        order.append(case.name)
        segment(model, case, out, probabilities)

    monkeypatch.setattr(use, "_segment", interrupted)
    assert "the same command goes on" in call(*command, code=130)
    there = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.nii.gz")}
    assert len(there) == 2
    assert "--overwrite" in call(*command, "--probabilities", code=2)
    monkeypatch.setattr(use, "_segment", segment)
    assert "4 label maps" in (said := call(*command))
    assert "2 were there already" in said
    assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in there} == there
    assert sorted(path.name for path in (tmp_path / "out").iterdir())[0] == "dataset.json"
    assert len(list((tmp_path / "out").iterdir())) == 5
    assert "--overwrite" in call(*command, code=2)


def test_uncertainty_goes_on_with_the_ranks_that_are_known(phantoms, tmp_path, monkeypatch):
    run = tmp_path / "run"
    dropout = ["--recipe", "can2018.compact_uncertainty", "--set", "stages.relabel.decide.passes=2"]
    call("train", phantoms, "--out", run, "--accelerator", "cpu", *SETTINGS, *dropout)
    command = ("predict", run, phantoms, "--out", tmp_path / "out", "--uncertainty")
    uncertain, seen = use._uncertain, []

    def once(model, case, out):
        if seen:
            raise KeyboardInterrupt
        seen.append(case.name)
        return uncertain(model, case, out)

    monkeypatch.setattr(use, "_uncertain", once)
    call(*command, code=130)
    monkeypatch.setattr(use, "_uncertain", uncertain)
    assert "1 were there already" in call(*command)
    assert len((tmp_path / "out" / "uncertainty.csv").read_text().splitlines()) == 3


def test_the_version_is_said():
    assert call("--version") == version("scribbleseg")


def test_predict_leaves_the_description_of_a_data_set_alone(trained, copy):
    before = (copy / "dataset.json").read_text()
    said = call("predict", trained, copy, "--out", copy, "--overwrite", code=2)
    assert "expected a folder outside of the data" in said
    assert (copy / "dataset.json").read_text() == before
    assert not list(copy.glob("*.nii.gz"))


def test_a_failed_start_does_not_block_its_folder(copy, tmp_path):
    path = copy / "images" / "train001.nii.gz"
    whole = path.read_bytes()
    for scribbles in (copy / "scribbles").iterdir():
        shutil.copy(scribbles, tmp_path)
        rewrite(scribbles, lambda array, affine: (np.full_like(array, 4), affine))
    call("train", copy, "--out", tmp_path / "run", "--workers", 1, *SETTINGS, code=2)
    for scribbles in (copy / "scribbles").iterdir():
        shutil.copy(tmp_path / scribbles.name, scribbles)
    assert path.read_bytes() == whole
    call("train", copy, "--out", tmp_path / "run", "--workers", 1, *SETTINGS)


def test_bad_places_accelerators_and_weights_are_refused(phantoms, trained, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    assert "found a file" in call("train", phantoms, "--out", file, *SETTINGS, code=2)
    assert "accelerator" in call("train", phantoms, "--out", tmp_path / "x", "--accelerator", "tpuu", code=2)
    assert "recursions 0 to 1 are there" in call(
        "predict", trained, phantoms, "--out", tmp_path / "y", "--recursion", 7, code=2
    )
    broken = Path(shutil.copytree(trained, tmp_path / "broken"))
    weights = broken / "recursion_1" / "network.pt"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "damaged" in call("predict", broken, phantoms, "--out", tmp_path / "y", code=2)


def damage_truncate(folder: Path) -> str:
    path = folder / "images" / "train001.nii.gz"
    path.write_bytes(path.read_bytes()[:2000])
    return "train001.nii.gz"


def damage_missing(folder: Path) -> str:
    (folder / "images" / "train001.nii.gz").unlink()
    return "train001"


def rewrite(path: Path, change) -> None:
    volume = nib.load(path)
    array, affine = change(np.asarray(volume.dataobj).copy(), volume.affine.copy())
    nib.save(nib.Nifti1Image(array, affine), path)


def damage_shape(folder: Path) -> str:
    rewrite(folder / "scribbles" / "train001.nii.gz", lambda array, affine: (array[:-1], affine))
    return "expected"


def damage_affine(folder: Path) -> str:
    rewrite(folder / "scribbles" / "train001.nii.gz", lambda array, affine: (array, affine + 3.0 * np.eye(4, k=3)))
    return "train001"


def damage_value(folder: Path) -> str:
    def change(array, affine):
        array[0, 0, 0] = 9
        return array, affine

    rewrite(folder / "scribbles" / "train001.nii.gz", change)
    return "9"


def damage_nan(folder: Path) -> str:
    def change(array, affine):
        array = array.astype(np.float32)
        array[0, 0, 0] = np.nan
        return array, affine

    rewrite(folder / "images" / "train001.nii.gz", change)
    return "train001"


def damage_unlabelled(folder: Path) -> str:
    for path in (folder / "scribbles").iterdir():
        rewrite(path, lambda array, affine: (np.full_like(array, 4), affine))
    return "scribbles"


DAMAGES = [v for name, v in list(globals().items()) if name.startswith("damage_")]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda d: d.__name__.removeprefix("damage_"))
def test_bad_input_is_found_by_check_and_refused_by_train(damage, copy, tmp_path):
    expected = damage(copy)
    assert expected in call("check", copy, code=2)
    message = call("train", copy, "--out", tmp_path / "run", "--workers", 1, *SETTINGS, code=2)
    assert "error: " in message
    assert expected in message
    assert "Traceback" not in message
    assert not list(tmp_path.rglob("network.pt"))


def test_a_full_disk_is_one_clear_error(phantoms, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device", "weights")

    monkeypatch.setattr(em, "save_weights", full)
    message = call("train", phantoms, "--out", tmp_path / "run", "--workers", 1, *SETTINGS, code=2)
    assert "weights: No space left on device" in message
    monkeypatch.undo()
    call("train", phantoms, "--out", tmp_path / "run", "--resume", "--workers", 1, *SETTINGS)


def test_an_unknown_format_option_or_folder_is_refused(phantoms, tmp_path):
    assert "nnunet, folder" in call("check", phantoms, "--format", "dicom", code=2)
    assert "takes scribbles; got fold" in call("check", phantoms, "--fold", 1, code=2)
    assert "expected the folder of a data set" in call("check", tmp_path / "nowhere", code=2)


def test_names_that_look_like_markup_are_printed_as_they_are(phantoms, tmp_path):
    names = {"background": 0, "kidney [left]": 1, "kidney [right]": 2, "[/] :heart: [bold]": 3, "ignore": 4}
    root = tmp_path / "data [red]"
    for part in ("images", "scribbles", "masks"):
        shutil.copytree(phantoms / part, root / part)
    (root / "dataset.json").write_text(json.dumps({"labels": names}))
    (root / "masks" / "[odd].nii.gz").write_bytes((root / "masks" / "test000.nii.gz").read_bytes())
    said = call("check", root)
    predictions = tmp_path / "[predictions]"
    predictions.mkdir()
    for name in ("test000", "[stranger]"):
        (predictions / f"{name}.nii.gz").write_bytes((root / "masks" / "test000.nii.gz").read_bytes())
    said += call("evaluate", predictions, root)
    (root / "dataset.json").write_text(json.dumps({"labels": {**names, "[x]": 1}}))
    said += call("check", root, code=2)
    for name in (*list(names)[1:-1], "[odd]", "[stranger]", "[predictions]:", "data [red]"):
        assert name in said, name


def test_the_rules_that_can_be_asked_for_are_those_that_there_are():
    assert set(get_args(data.Rule)) == set(RULES)


def test_equal_faults_are_said_once(copy):
    for name in ("train000", "train001"):
        (copy / "scribbles" / f"{name}.nii.gz").write_bytes(b"damaged")
    image = nib.load(copy / "images" / "train000.nii.gz")
    for number in range(7):
        nib.save(image, copy / "images" / f"same{number}.nii.gz")
    said = call("check", copy, code=2)
    assert said.count("is the same image as") == 1
    assert "and 2 more: is the same image as" in said or "and 1 more: is the same image as" in said


def test_a_label_that_the_network_does_not_know_is_named(capsys):
    from scribbleseg.cli.train import warn_of_disagreement

    warn_of_disagreement({"[left] kidney": 0.31, "background": 0.99})
    said = capsys.readouterr().out
    assert "does not know [left] kidney" in said
    assert "0.31" in said
    assert "background" not in said


def test_classes_that_hardly_grow_are_named(phantoms, tmp_path):
    said = call("seeds", phantoms, "--out", tmp_path / "run", "--workers", 1, *SETTINGS, "--set", "seeds.tau=1.0")
    assert "Myo and LV hardly grew beyond the scribbles" in said
    grown = call("seeds", phantoms, "--out", tmp_path / "other", "--workers", 1, *SETTINGS)
    assert "LV hardly grew" not in grown


def test_check_grows_cases_that_are_drawn_however_few_they_are(phantoms, tmp_path):
    shutil.copytree(phantoms, tmp_path / "hearts")
    for file in sorted((tmp_path / "hearts" / "scribbles").glob("*"))[1:]:
        file.unlink()
    said = call("check", tmp_path / "hearts")
    assert "0 faults" in said
    assert "Seed areas in 1 training case," in said


@pytest.fixture
def begun(copy) -> Path:
    """A data set in which a slice of one training case has strokes; another has neither strokes nor a mask."""
    file = copy / "scribbles" / "train000.nii.gz"
    image = nib.load(file)
    scribbles = np.asanyarray(image.dataobj).copy()
    scribbles[..., :1] = json.loads((copy / "dataset.json").read_text())["labels"]["ignore"]
    nib.save(nib.Nifti1Image(scribbles, image.affine, image.header), file)
    (copy / "masks" / "test001.nii.gz").unlink()
    return copy


def suggested(*words, code=0) -> list[tuple[str, str]]:
    """The case and the number of each slice that is suggested."""
    return re.findall(r"(t\w+00\d) (\d) of \d axial", call("suggest", *words, code=code))


def test_suggest_says_where_to_draw_next(begun, trained):
    assert "1 case looked at. To do: 2 more. This takes about" in call("suggest", trained, begun)
    undrawn = [("test001", "1"), ("test001", "2"), ("test001", "3"), ("train000", "1")]
    assert sorted(suggested(trained, begun)) == undrawn
    assert len(suggested(trained, begun, "--count", 1)) == 1


def test_suggest_ranks_a_folder_of_images(begun, trained, tmp_path):
    shutil.copytree(begun / "images", tmp_path / "new")
    every = suggested(trained, tmp_path / "new")
    assert len(every) == 2 + 3 + 2 + 3
    for name in ("scribbles", "masks"):
        shutil.rmtree(begun / name)
    assert suggested(trained, begun) == every


def test_suggest_looks_at_the_strokes_that_the_run_was_trained_on(begun, tmp_path):
    apart, run = Path(shutil.move(begun / "scribbles", tmp_path / "apart")), tmp_path / "run"
    shutil.copyfile(begun / "dataset.json", apart / "dataset.json")
    train = ["train", begun, "--out", run, "--workers", 1, "--accelerator", "cpu", *SETTINGS]
    call(*train, "--scribbles", apart)
    undrawn = sorted(suggested(run, begun))
    assert {case for case, _ in undrawn} == {"train000", "test000"}  # the cases with masks train, and are not all drawn
    assert ("train000", "1") in undrawn
    (apart / "train001.nii.gz").unlink()
    assert {case for case, _ in suggested(run, begun, "--scribbles", apart)} == {"train000", "train001", "test000"}


def test_suggest_has_nothing_to_say_where_everything_is_drawn(phantoms, trained):
    assert "Nothing to suggest: every slice of 2 cases has strokes" in call("suggest", trained, phantoms)


def test_suggest_names_a_bad_image_and_looks_at_the_others(begun, trained):
    (begun / "images" / "test001.nii.gz").write_bytes(b"no image")
    said = call("suggest", trained, begun, code=1)
    assert "not looked at: case test001" in said
    assert "train000 1 of 2 axial" in said
    for image in (begun / "images").iterdir():
        image.write_bytes(b"no image")
    assert "error: case train000" in call("suggest", trained, begun, code=2)


def test_suggest_refuses_runs_that_do_not_fit(begun, phantoms, trained, tmp_path):
    unfinished = tmp_path / "unfinished"
    call("seeds", phantoms, "--out", unfinished, "--workers", 1, *SETTINGS)
    assert "finish `train`" in call("suggest", unfinished, begun, code=2)
    assert "expected a run folder" in call("suggest", tmp_path / "none", begun, code=2)
    (tmp_path / "empty").mkdir()
    assert "error" in call("suggest", trained, tmp_path / "empty", code=2)
    assert "error" in call("suggest", trained, tmp_path / "nothing", code=2)
    for file in (begun / "images").iterdir():
        shutil.copyfile(file, begun / "images" / file.name.replace(".nii", "_0001.nii"))
        file.rename(begun / "images" / file.name.replace(".nii", "_0000.nii"))
    assert "expected 1 channels as in training, got 2" in call("suggest", trained, begun, code=2)
    description = json.loads((begun / "dataset.json").read_text())
    description["labels"] = {name.replace("LV", "left"): value for name, value in description["labels"].items()}
    (begun / "dataset.json").write_text(json.dumps(description))
    said = call("suggest", trained, begun, code=2)
    assert "expected a data set of the labels background, RV, Myo, LV, found one of background, RV, Myo, left" in said
