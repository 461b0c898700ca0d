"""No verb writes over what it reads: images, scribbles, masks and what a run consists of."""

import os
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from scribbleseg.annotate.simulate import RULES, write_simulation
from scribbleseg.cli import app, use
from scribbleseg.data import folder
from scribbleseg.data.formats import read_labels, write_labels
from scribbleseg.evaluation.report import RunSummary, write_report
from scribbleseg.files import is_within
from scribbleseg.recipe import Recipe, Stage
from scribbleseg.runs import check_outside
from scribbleseg.seeds.strokes import Strokes
from scribbleseg.training.unet import UNet
from scribbleseg.types import DataError

TINY = Recipe(seeds=Strokes(), stages=(Stage(iterations=1, batch=2),), network=UNet(base=4, padded=True))


def call(*words, code: int = 0) -> str:
    answer = CliRunner().invoke(app, [str(word) for word in words])
    assert answer.exit_code == code, answer.output
    return answer.output


def contents(place: Path) -> dict[str, bytes]:
    return {str(path.relative_to(place)): path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()}


@pytest.fixture
def place(hearts, tmp_path) -> Path:
    """A copy of the data set that the run was trained on, by the name of `new`: images that the run has not seen."""
    shutil.copytree(hearts.root, tmp_path / "new")
    return tmp_path


@pytest.mark.parametrize("asked", ["images", "data set", "image"])
@pytest.mark.parametrize("name", ["as it is", "link", "relative", "nested link"])
def test_predict_never_writes_into_the_folder_of_the_images(asked, name, run, place, monkeypatch):
    images = place / "new" / "images"
    given = {"images": images, "data set": place / "new", "image": images / "test000.nii.gz"}[asked]
    (place / "link").symlink_to(images, target_is_directory=True)
    (place / "above").symlink_to(place / "new", target_is_directory=True)
    monkeypatch.chdir(place / "new" / "masks")
    out = {"as it is": images, "link": place / "link", "relative": "../images", "nested link": place / "above/images"}
    before = contents(place / "new")
    said = call("predict", run.path, given, "--out", out[name], "--overwrite", code=2)
    assert "give another --out" in said
    assert contents(place / "new") == before


@pytest.mark.parametrize("inside", ["masks", "imagesTs", "of another", "masks/../images", ""])
def test_predict_writes_nothing_into_a_data_set(inside, run, hearts, place):
    for root in (place / "new", hearts.root):
        (root / "of another").mkdir(exist_ok=True)
        shutil.copy(place / "new" / "masks" / "test000.nii.gz", root / "of another")
    before = contents(place / "new")
    call("predict", run.path, place / "new", "--out", place / "new" / inside, "--overwrite", code=2)
    assert contents(place / "new") == before
    own, images = contents(hearts.root), place / "new" / "images"
    call("predict", run.path, images, "--out", hearts.root / inside, "--overwrite", code=2)
    assert contents(hearts.root) == own  # that of the training, whatever is segmented


def test_predict_replaces_nothing_that_it_did_not_write(run, place):
    """Masks that lie beside the images of no data set are told by what is not there: the dataset.json of `predict`."""
    (place / "new" / "dataset.json").unlink()
    shutil.rmtree(place / "new" / "scribbles")
    (place / "new" / "masks").rename(place / "new" / "truth")
    before = contents(place)
    said = call("predict", run.path, place / "new" / "images", "--out", place / "new" / "truth", "--overwrite", code=2)
    assert "which `predict` did not write" in said
    assert contents(place) == before


def test_predict_does_not_replace_maps_of_other_kinds_unasked(run, place):
    images, out = place / "new" / "images", place / "out"
    call("predict", run.path, images / "test000.nii.gz", "--out", out)
    (out / "train000_probabilities.nii.gz").write_bytes(b"mine")
    assert "train000_probabilities.nii.gz" in call(
        "predict", run.path, images / "train000.nii.gz", "--out", out, "--probabilities", code=2
    )
    assert (out / "train000_probabilities.nii.gz").read_bytes() == b"mine"


def test_a_folder_of_its_own_beside_an_image_and_in_a_run_is_welcome(run, place, monkeypatch):
    monkeypatch.chdir(place / "new" / "images")
    shutil.copy("test000.nii.gz", place)
    monkeypatch.chdir(place)
    call("predict", run.path, "test000.nii.gz", "--out", "predictions")
    call("predict", run.path, ".", "--out", "all")
    call("predict", run.path, "test000.nii.gz", "--out", run.path / "predictions")
    for _ in range(2):
        call("predict", run.path, place / "new", "--out", place / "new" / "predictions", "--overwrite")


@pytest.mark.parametrize("inside", ["", "labels", "labels/0", "slices", "recursion_0", "recursion_0/new"])
def test_no_verb_writes_among_the_files_of_a_run(inside, run, hearts, place):
    before = contents(run.path)
    out = run.path / inside
    assert "of the run" in call("predict", run.path, place / "new" / "images", "--out", out, "--overwrite", code=2)
    assert "of the run" in call("evaluate", place / "new" / "masks", place / "new", "--out", out, code=2)
    assert "of the run" in call("simulate", place / "new", "--out", out, code=2)
    assert contents(run.path) == before


def test_the_run_is_known_by_other_names(run, place):
    (place / "link").symlink_to(run.path / "labels", target_is_directory=True)
    with pytest.raises(DataError, match="of the run"):
        check_outside(place / "link" / "0")
    with pytest.raises(DataError, match="of the run"):
        check_outside(place / "link" / ".." / "slices" / "new")
    check_outside(run.path / "labels of mine")
    check_outside(run.path.parent)


def test_a_folder_is_known_by_other_letters_where_the_file_system_knows_no_case(tmp_path, monkeypatch):
    (tmp_path / "Images").mkdir()
    assert not is_within(tmp_path / "images" / "a", tmp_path / "Images")
    (tmp_path / "images").mkdir()
    samefile = Path.samefile
    monkeypatch.setattr(Path, "samefile", lambda a, b: str(a).lower() == str(b).lower() or samefile(a, b))
    assert is_within(tmp_path / "images" / "a", tmp_path / "Images")


def test_evaluate_writes_nothing_into_a_data_set(place):
    before = contents(place)
    masks = shutil.copytree(place / "new" / "masks", place / "predictions")
    said = call("evaluate", masks, place / "new", "--out", place / "new" / "masks", code=2)
    assert "outside of the data" in said
    assert contents(place / "new") == {k.removeprefix("new/"): v for k, v in before.items()}


@pytest.mark.parametrize("name", ["images/test000.nii.gz", "dataset.json", "pipe", "folder"])
def test_a_report_replaces_nothing_but_a_report(name, place):
    file = place / "new" / name
    if name == "pipe":
        os.mkfifo(file)
    if name == "folder":
        file.mkdir()
    before = contents(place)
    with pytest.raises(DataError, match="give another name"):
        write_report(file, [RunSummary("run", ("background", "a"))])
    assert "give another name" in call("report", place / "no run", "--out", file, code=2)
    assert contents(place) == before
    write_report(place / "report.html", [RunSummary("run", ("background", "a"))])
    write_report(place / "report.html", [RunSummary("other", ("background", "a"))])
    assert "other" in (place / "report.html").read_text(encoding="utf-8")


def test_simulate_writes_nothing_into_a_data_set_nor_beside_what_others_drew(hearts, place):
    new, before = folder(place / "new"), contents(place)
    for inside in ("", "images", "scribbles"):
        with pytest.raises(DataError, match="outside of the data"):
            write_simulation(new, RULES["full"], place / "new" / inside)
    experts = shutil.copytree(place / "new" / "scribbles", place / "experts")
    with pytest.raises(DataError, match="found train000.nii.gz and no simulation.json"):
        write_simulation(new, RULES["full"], experts)
    shutil.rmtree(experts)
    assert contents(place) == before


def test_scribbles_of_a_mask_that_has_changed_are_not_taken_for_its_own(place):
    new = folder(place / "new")
    drawn = write_simulation(new, RULES["full"], place / "drawn")
    before = contents(drawn)
    write_simulation(new, RULES["full"], drawn)
    assert contents(drawn) == before
    mask = place / "new" / "masks" / "train001.nii.gz"
    values, geometry = read_labels(mask)
    write_labels(mask, values[:, ::-1].copy(), geometry)
    with pytest.raises(DataError, match="case train001, found others: its image or mask has changed"):
        write_simulation(new, RULES["full"], drawn)
    assert contents(drawn) == before
    (drawn / "train001.nii.gz").unlink()
    write_simulation(new, RULES["full"], drawn)
    assert contents(drawn)["train001.nii.gz"] != before["train001.nii.gz"]


def test_scribbles_are_kept_where_files_were_only_packed_anew_or_nothing_says_what_of(place):
    new = folder(place / "new")
    drawn = write_simulation(new, RULES["full"], place / "drawn")
    file = drawn / "train000.nii.gz"
    before = file.read_bytes()
    (place / "new" / "dataset.json").write_text((place / "new" / "dataset.json").read_text() + "\n")
    write_simulation(new, RULES["full"], drawn)
    assert file.read_bytes() == before
    (drawn / "drawn_from.json").unlink()  # earlier versions wrote none
    file.write_bytes((drawn / "train001.nii.gz").read_bytes())
    write_simulation(new, RULES["full"], drawn)
    assert file.read_bytes() == (drawn / "train001.nii.gz").read_bytes()


def test_predict_makes_the_map_of_an_image_again_that_changed_while_it_was_interrupted(run, place, monkeypatch):
    command = ("predict", run.path, place / "new" / "images", "--out", place / "out")
    segment = use._segment

    def interrupted(model, case, out, probabilities):
        if case.name == "train001":  # the last one
            raise KeyboardInterrupt
        segment(model, case, out, probabilities)

    monkeypatch.setattr(use, "_segment", interrupted)
    call(*command, code=130)
    monkeypatch.setattr(use, "_segment", segment)
    image = place / "new" / "images" / "test000.nii.gz"
    shutil.copyfile(place / "new" / "images" / "train000.nii.gz", image)
    said = " ".join(call(*command).split())
    assert "3 label maps" in said
    assert "1 were there already" in said
    maps = [(place / "out" / f"{name}.nii.gz").read_bytes() for name in ("test000", "train000")]
    assert maps[0] == maps[1]
