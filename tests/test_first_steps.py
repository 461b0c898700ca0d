"""What people meet on their first way through README and tutorial, mistakes that everybody makes included."""

import json
import re
import shutil
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from command_line import call
from scribbleseg import cli, ranking, recipe_names
from scribbleseg.annotate.check import check, sentences
from scribbleseg.annotate.simulate import write
from scribbleseg.cli import app
from scribbleseg.cli.app import held_out_line
from scribbleseg.data import open_dataset
from scribbleseg.data.formats import write_labels
from scribbleseg.data.formats.names import meant
from scribbleseg.files import FileError
from scribbleseg.phantoms import write_phantoms


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory) -> Path:
    return write_phantoms(tmp_path_factory.mktemp("first") / "hearts", train=3, test=1, shape=(3, 48, 48))


@pytest.fixture
def hearts(phantoms, tmp_path) -> Path:
    return Path(shutil.copytree(phantoms, tmp_path / "hearts"))


@pytest.mark.parametrize("masks", ["none", "some"])
@pytest.mark.parametrize("there", [False, True])
def test_simulate_that_is_refused_leaves_its_folder_to_another_try(hearts, tmp_path, masks, there):
    out = tmp_path / "drawn"
    if there:
        out.mkdir()
    if masks == "none":
        shutil.rmtree(hearts / "masks")
    else:
        (hearts / "masks" / "train001.nii.gz").unlink()
    said = call("simulate", hearts, "--out", out, code=2)
    assert "expected a reference mask" in said
    assert ("Scribbles" in said) == (masks == "some")  # no bar of which nothing is done
    assert out.exists() == there
    assert not list(out.glob("*"))
    call("simulate", hearts, "--out", out, "--source", "scribbles", "--length", 0.5)
    assert (out / "dataset.json").exists()
    before = {path.name: path.read_bytes() for path in out.glob("*")}
    assert "or delete it" in call("simulate", hearts, "--out", out, code=2)
    assert {path.name: path.read_bytes() for path in out.glob("*")} == before


def test_simulate_keeps_what_was_drawn_until_the_disk_was_full(hearts, tmp_path, monkeypatch):
    out, written = tmp_path / "drawn", []

    def full(file, labels, case):
        if written:
            raise FileError(file, "could not be written: No space left on device", "free some space")
        written.append(file)
        write_labels(file, labels, case.geometry)

    monkeypatch.setattr(write, "_write", full)
    assert "No space left" in call("simulate", hearts, "--out", out, code=2)
    assert {path.name for path in out.glob("*")} == {"simulation.json", "drawn_from.json", "train000.nii.gz"}


@pytest.mark.parametrize(
    "words",
    [
        "check nowhere", "seeds nowhere --out run", "train nowhere --out run",
        "train hearts --scribbles nowhere --out run", "check hearts --scribbles nowhere",
        "simulate nowhere --out drawn", "evaluate nowhere hearts", "evaluate hearts/masks nowhere",
        "report nowhere", "predict nowhere hearts --out labels", "suggest nowhere hearts",
        "convert nowhere out --to itksnap", "convert nowhere out --images hearts",
        "convert hearts/scribbles out --images nowhere", "annotate nowhere --no-open",
        "reproduce can2018 --data nowhere --out rows", "tune-crf nowhere --out tuning",
    ],
)  # fmt: skip
def test_a_folder_that_is_not_there_is_said_to_be_so(hearts, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    assert "nowhere: expected" in (said := call(*words.split(), code=2))
    assert "found no such folder" in said or "no such file or folder" in said
    assert [path.name for path in tmp_path.iterdir()] == ["hearts"]


TINY = (
    "network.base=4", "stages.iterations=2", "stages.batch=2", "preprocess.spacing_mm=6.0", "preprocess.size=32",
    "stages.times=1",
)  # fmt: skip
SETTINGS = [word for setting in TINY for word in ("--set", setting)]
SMALL = ["--workers", 1, "--accelerator", "cpu", *SETTINGS]


@pytest.fixture(scope="module")
def drawn_only(phantoms, tmp_path_factory) -> Path:
    """A data set without masks."""
    hearts = Path(shutil.copytree(phantoms, tmp_path_factory.mktemp("drawn only") / "hearts"))
    shutil.rmtree(hearts / "masks")
    return hearts


@pytest.fixture(scope="module")
def trained(drawn_only) -> tuple[Path, str]:
    """A run on it, in a folder with a space in its name, and what `train` said in a narrow window."""
    out = drawn_only.parent / "first run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "60")
        result = CliRunner().invoke(app, ["train", str(drawn_only), "--out", str(out), *map(str, SMALL)])
    assert result.exit_code == 0, result.output
    return out, result.output


@pytest.mark.parametrize(
    ("folder", "name", "right"),
    [
        ("scribbles", "train001_scribble", "train001"), ("scribbles", "TRAIN001", "train001"),
        ("scribbles", "train001-2", "train001"), ("masks", "train001 mask", "train001"),
        ("scribbles", "tran001", "train001"), ("masks", "trainn001", "train001"),
    ],
)  # fmt: skip
def test_a_label_map_that_is_not_named_like_its_image_is_told_which_one_is_meant(hearts, folder, name, right):
    (hearts / folder / f"{right}.nii.gz").rename(hearts / folder / f"{name}.nii.gz")
    said = call("check", hearts, code=2 if folder == "scribbles" else 0)
    assert f"{name}.nii.gz probably belongs to image {right}: rename it to {right}.nii.gz" in said
    assert "expected this file, found none" not in said
    if folder == "scribbles":
        assert f"rename it to {right}.nii.gz" in call("train", hearts, "--out", hearts.parent / "run", *SMALL, code=2)


@pytest.mark.parametrize(
    ("name", "names", "found"),
    [
        ("p02_scribble", ["p0", "p02", "p1"], "p02"), ("p02scribble", ["p02"], "p02"), ("p021", ["p02"], None),
        ("heartless", ["heart"], None), ("P02", ["p02"], "p02"), ("q02", ["p02"], None), ("p02", [], None),
        ("03-folow-up", ["02-follow-up", "03-follow-up"], "03-follow-up"), ("patient01", ["patient02"], None),
        ("hospital-c", ["hospital-a", "hospital-b"], None),
    ],
)  # fmt: skip
def test_the_image_that_is_meant_is_the_longest_whose_name_is_whole(name, names, found):
    assert meant(Path(f"{name}.nii.gz"), names) == found


def test_a_misnamed_file_in_a_folder_of_scribbles_or_of_predictions_is_named(hearts, tmp_path):
    drawn = tmp_path / "drawn"
    call("simulate", hearts, "--out", drawn)
    (drawn / "train001.nii.gz").rename(drawn / "train001_drawn.nii.gz")
    assert "rename it to train001.nii.gz" in call("check", hearts, "--scribbles", drawn)
    assert "rename it to train001.nii.gz" in call("evaluate", drawn, hearts)


def test_check_of_other_scribbles_speaks_of_these(hearts, tmp_path):
    drawn = tmp_path / "drawn"
    call("simulate", hearts, "--out", drawn)
    (drawn / "train001.nii.gz").unlink()
    said = call("check", hearts, "--scribbles", drawn)
    assert str(hearts / "scribbles") not in said
    assert "Scribbles in 2 of 3 training cases" in said
    assert "warning train001: expected scribbles, found every voxel unlabelled" in said
    assert "1 of 4 cases has no scribbles, there or in the folder that was given, and is a test case" in said


@pytest.mark.parametrize("place", ["images", "."])
@pytest.mark.parametrize("verb", ["check", "train"])
def test_images_alone_are_told_how_to_draw(phantoms, tmp_path, place, verb):
    shutil.copytree(phantoms / "images", tmp_path / "my hearts" / place)
    words = ["--out", tmp_path / "run"] if verb == "train" else []
    assert f"`scribbleseg annotate '{tmp_path / 'my hearts'}'`" in call(verb, tmp_path / "my hearts", *words, code=2)


def exchange(hearts: Path) -> None:
    """Exchange the values of background and ignore, as where a drawing program leaves 0."""
    file = hearts / "dataset.json"
    description = json.loads(file.read_text())
    labels = description["labels"]
    labels["background"], labels["ignore"] = labels["ignore"], labels["background"]
    file.write_text(json.dumps(description))


@pytest.mark.parametrize("verb", ["train", "seeds"])
def test_what_check_calls_a_fault_is_refused_in_its_words(hearts, tmp_path, verb):
    exchange(hearts)
    fault = call("check", hearts, code=2)
    sentence = fault[fault.index("fault ") + 6 : fault.index(" 3 faults")]
    words = SMALL if verb == "train" else SETTINGS
    said = call(verb, hearts, "--out", tmp_path / "run", *words, code=2)
    assert f"error: {sentence}" in said
    assert "To do" not in said
    exchange(hearts)
    call(verb, hearts, "--out", tmp_path / "run", "--resume" if verb == "train" else "--seed=0", *words)


def test_what_check_warns_of_train_warns_of(hearts, tmp_path, caplog):
    file = hearts / "scribbles" / "train000.nii.gz"
    image = nib.load(file)
    values = np.asarray(image.dataobj).copy()
    values[..., 1][values[..., 1] == 0] = 4  # no background in a slice
    nib.save(nib.Nifti1Image(values, image.affine, image.header), file)
    warnings = [said for severity, said in sentences(check(open_dataset(hearts)).faults) if severity == "warning"]
    assert any("no background in slice 2 " in said for said in warnings)
    call("train", hearts, "--out", tmp_path / "run", *SMALL)
    assert [m for m in caplog.messages if m.startswith("warning ")] == [f"warning {said}" for said in warnings]


def test_the_report_of_a_data_set_without_masks_says_so(trained, tmp_path):
    said = call("report", trained[0], "--out", tmp_path / "report.html")
    assert "first run: No test case has a reference mask, so nothing was scored." in said
    assert "mean over cases" not in said
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert 'id="show-labels"' in page
    assert "labelled as background" in page
    for absent in ('id="show-outline"', 'id="show-errors"', "outline of the", "found another structure"):
        assert absent not in page


def test_changed_scribbles_are_the_first_thing_that_a_resumed_run_says(hearts, tmp_path):
    words = ["train", hearts, "--out", tmp_path / "run", "--resume", *SMALL]
    call(*words)
    assert "To do: nothing" in call(*words)
    scribbles = hearts / "scribbles"
    shutil.copyfile(scribbles / "train000.nii.gz", tmp_path / "kept.nii.gz")
    image = nib.load(scribbles / "train000.nii.gz")
    values = np.asarray(image.dataobj).copy()
    values[0, 0, 0] = 0 if values[0, 0, 0] else 4
    nib.save(nib.Nifti1Image(values, image.affine, image.header), scribbles / "train000.nii.gz")
    said = call(*words, code=2)
    assert "expected the images and scribbles that this run was begun with" in said
    assert "To do" not in said
    shutil.copyfile(tmp_path / "kept.nii.gz", scribbles / "train000.nii.gz")
    assert "To do: nothing" in call(*words)


def test_how_many_slices_are_held_out_is_said(hearts, tmp_path):
    held = ["--set", "held_out=0.4"]
    seeded = call("seeds", hearts, "--out", tmp_path / "run", *SETTINGS, *held)
    line = re.search(r"Held out: (\d+) of (\d+) drawn slices \(40% .*? --set\)\.", seeded.replace("(--set)", "--set)"))
    assert 0 < int(line[1]) < int(line[2])
    said = call("train", hearts, "--out", tmp_path / "run", "--resume", *SMALL, *held)
    assert f"Held out: {line[1]} of {line[2]} drawn slices" in said
    assert "Held out" not in call("train", hearts, "--out", tmp_path / "all", *SMALL, "--set", "held_out=0")
    checked = call("check", hearts)
    assert f"Held out: probably nothing, for too few slices are drawn ({line[2]})." in checked
    assert held_out_line(5, 95, 0.05, about=True).startswith("Held out: about 5 of 95 drawn slices (5%")


def test_that_nothing_is_held_out_of_few_slices_is_said_with_what_it_means(hearts, tmp_path):
    for name in ("train001", "train002"):
        (hearts / "scribbles" / f"{name}.nii.gz").unlink()
    checked = call("check", hearts)
    assert "a network trained on one case fits that case" in checked
    assert "0 faults, 1 warning in 4 cases" in checked
    assert re.search(r"Held out: probably nothing, for too few slices are drawn \(\d\)\. So how far", checked)
    said = call("train", hearts, "--out", tmp_path / "run", *SMALL, "--set", "held_out=0.001")
    assert re.search(r"Held out: nothing, for too few slices are drawn \(\d\)\. So how far", said)
    assert "How far the network agrees with people was not measured" in said
    assert "not measured" not in call("train", hearts, "--out", tmp_path / "all", *SMALL, "--set", "held_out=0")


def test_a_value_that_an_option_does_not_take_is_refused_in_plain_words(hearts):
    said = call("convert", hearts, "out", "--to", "itksnp", code=2)
    assert "'itksnp' is not one of" in said
    assert "Value error" not in said


def test_what_one_would_copy_is_in_one_line(trained):
    out, said = trained
    assert f"Next: scribbleseg predict '{out}' IMAGES --out PREDICTIONS" in said.splitlines()[-1]
    assert sys.modules["scribbleseg.cli.app"].console.soft_wrap
    assert sys.modules["scribbleseg.cli.app"].errors.soft_wrap


def test_where_every_slice_is_drawn_there_is_nothing_to_suggest(trained, drawn_only, monkeypatch):
    monkeypatch.setattr(ranking, "rank", lambda *_: [])
    assert "Nothing to suggest: every slice of" in call("suggest", trained[0], drawn_only)


def test_recipes_fit_a_screen_and_families_list_theirs(monkeypatch):
    listed = CliRunner().invoke(app, ["recipes"]).output.splitlines()
    assert len(listed) < 24
    assert listed[1].split()[0] == "default.quick"
    names = set()
    for family in recipe_names.families():
        rows = [line.split() for line in CliRunner().invoke(app, ["recipes", family]).output.splitlines()]
        found = {row[0] for row in rows if row and row[0] in recipe_names.described()}
        assert found == set(recipe_names.families()[family]) or family.startswith("default")
        names |= set(recipe_names.families()[family])
    assert names == set(recipe_names.described())
    assert "can2018.acdc_base" in call("recipes", "can2018")
    ours = {name: what for name, what in recipe_names.described().items() if name.startswith("default.")}
    for name, what in ours.items():
        assert what.startswith("from full masks" if name.endswith("_full") else "from scribbles")


@pytest.mark.parametrize("verb", cli.ORDER)
def test_help_has_no_words_that_only_authors_know(verb):
    said = call(verb.replace("_", "-"), "--help")
    assert not re.search(r"\bM steps?\b|\bE steps?\b|manyth|\(s\)", said)
