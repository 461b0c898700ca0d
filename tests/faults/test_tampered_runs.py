"""A run folder in which somebody changed values on purpose: one sentence; nothing is written outside of the run."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

import scribbleseg as ss
from scribbleseg.cli import app
from scribbleseg.data.preprocess import Preprocess
from scribbleseg.data.slices import open_slices
from scribbleseg.files import FileError, is_file_name, read_json, write_json
from scribbleseg.recipe import Recipe, Stage
from scribbleseg.runs import Run
from scribbleseg.seeds.strokes import Strokes
from scribbleseg.training.unet import UNet
from scribbleseg.types import DataError

TINY = Recipe(
    preprocess=Preprocess(spacing_mm=6.0, size=32),
    seeds=Strokes(),
    network=UNet(base=2, padded=True),
    stages=(Stage(iterations=1, batch=2),),
)

LEAD_ELSEWHERE = ["../x", "a/b", "/tmp/x", "..", ".", "", "a/", "./a", "a\0b", "\0", "x/../../y"]


@pytest.mark.parametrize("name", [*LEAD_ELSEWHERE, "\ud800"])
def test_what_is_no_name_of_a_file(name):
    assert not is_file_name(name)


@pytest.mark.parametrize("name", ["a", "a.b", "...", "..a", ".a", "patient 1", "größe", "a:b", "-"])
def test_what_is_one(name, tmp_path):
    assert is_file_name(name)
    (tmp_path / name).touch()
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", LEAD_ELSEWHERE)
def test_cases_of_a_cache_are_names_of_files(name, run, hearts):
    """By these names label maps are written: with `../x`, outside of the run."""
    file = run.slices / "index.json"
    text = file.read_text().replace("train000", json.dumps(name)[1:-1])
    file.write_text("\n".join(line for line in text.splitlines() if "sha256" not in line))
    shutil.rmtree(run.labels(0))
    for layer in run.slices.glob("labels*"):
        layer.unlink()
    shutil.rmtree(run.recursion(0))
    before = {path for path in run.path.parent.rglob("*") if run.path not in path.parents}
    with pytest.raises(FileError, match=r"index\.json: expected other values, .*delete .*slices"):
        open_slices(run.slices)
    with pytest.raises(DataError):
        ss.train(hearts, run.path, TINY, resume=True, accelerator="cpu")
    assert {path for path in run.path.parent.rglob("*") if run.path not in path.parents} == before


def changed(file: Path, *at: str | int, to: object) -> None:
    """Changes one value of a JSON file, and its digest with it."""
    whole = plain = read_json(file, "")
    for each in at[:-1]:
        plain = plain[each]
    plain[at[-1]] = to
    write_json(file, whole)


CHANGES = [
    *((at, value) for at in ("key", "cases", "shape") for value in (None, 1, [], {}, "x")),
    *((("cases", "train000", "slices"), value) for value in (0, -1, 7, 10**9, 1e9, True, "3", None)),
    *((("cases", "train000", "spacing_mm"), value) for value in ([], [1, 1], [0, 1, 1], [1, 1, "1"], 1)),
    *((("cases", "train000", "present"), value) for value in ([-1], [255], 1, "x", [0.5])),
    *((("cases", "train000", "geometry", "shape"), value) for value in ([1, 2], [0, 1, 1], [1e9] * 3, None)),
    *((("cases", "train000", "geometry", "affine"), value) for value in ([], [[1]], [[1, 0, 0, "x"]] * 4, None)),
    *((("cases", "train000", "geometry", "header", "class"), value) for value in ("x", None, [])),
    *((("cases", "train000", "geometry", "header", "endianness"), value) for value in ("x", None)),
    *((("cases", "train000", "geometry", "header", "fields"), value) for value in ({"x": 1}, [], {"dim": "x"})),
    *((("shape",), value) for value in ([1, 32], [1, 32, 31], [2, 32, 32], [0, 32, 32], [1, 2**40, 2**40])),
]


@pytest.mark.parametrize(("at", "value"), CHANGES, ids=str)
def test_changed_values_of_an_index_are_one_sentence_about_the_cache(at, value, run):
    changed(run.slices / "index.json", *((at,) if isinstance(at, str) else at), to=value)
    with pytest.raises(FileError, match="slices"):
        read_everything(run)


def read_everything(run: Run) -> None:
    slices = open_slices(run.slices)
    for kind in ("images", "inside", "scribbles"):
        slices.layer(kind)
    slices.layer("labels", 0)
    for name in slices.rows:
        slices.geometry(name)


def test_an_index_as_it_was_is_read(run):
    """So that the test above can fail."""
    index = open_slices(run.slices).index
    changed(run.slices / "index.json", "cases", "train000", "slices", to=index["cases"]["train000"]["slices"])
    read_everything(run)


@pytest.mark.parametrize(
    ("at", "value"),
    [
        *((("label_names",), value) for value in (None, 1, "background", [], ["background"], [0, 1], ["x"] * 256)),
        *((("name",), value) for value in (None, 1, [])),
        *((("seed",), value) for value in (None, "1", 1.5)),
        *((("data",), value) for value in (None, [], {}, "x")),
        *((("data", "folder"), value) for value in (None, 1, "", "a\0b")),
        *((("data", "format"), value) for value in (None, 1, "x", [])),
        *((("data", "options"), value) for value in (None, 1, [], {"x": 1})),
        *((("versions",), value) for value in (None, [], {"scribbleseg": 1}, {"scribbleseg": "x"})),
        (("date",), 1),
    ],
    ids=str,
)
def test_changed_details_are_one_sentence(at, value, run):
    changed(run.path / "run.json", *at, to=value)
    answer = CliRunner().invoke(app, ["report", str(run.path), "--out", str(run.path.parent / "report.html")])
    assert answer.exit_code == 2, answer.exception
    assert answer.output.startswith("error: ")
    assert answer.output.count("error: ") == 1


@pytest.mark.parametrize("name", ["recipe.json", "run.json"])
def test_a_value_that_cannot_be_is_an_error_that_names_the_file(name, run, hearts):
    file = run.path / name
    changed = {"held_out": 7} if name == "recipe.json" else {"date": "yesterday"}
    write_json(file, read_json(file, "") | changed)
    with pytest.raises(DataError, match=f"{name}: .*(held_out|date)"):
        ss.train(hearts, run.path, TINY, resume=True, accelerator="cpu")
    result = CliRunner().invoke(app, ["report", str(run.path), "--out", str(run.path.parent / "a.html")])
    assert result.exit_code == 2
    assert name in result.output
