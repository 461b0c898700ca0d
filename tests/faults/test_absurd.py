"""Values that nobody can mean, in recipes, files and names: one sentence each, neither a traceback nor a hang."""

import ast
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

import scribbleseg as ss
from scribbleseg import cli
from scribbleseg.cli import app
from scribbleseg.files import MOST_NESTED, FileError, parsed, read_json
from scribbleseg.recipe import Recipe
from scribbleseg.recipes import find
from scribbleseg.settings import MOST_SHOWN, override, to_plain
from scribbleseg.types import DataError

ABSURD = [
    "1e99", "-1", "0", "nan", "-inf", "1e-300", "null", "[]", "x", "1" + "0" * 22, "[[1]]", '"\\ud800"', "[" * 5000,
]  # fmt: skip
TINY = override(Recipe(), ["preprocess.size=32", "network.base=2", "network.padded=true"])
ROWS = ("can2018.compact_crf_rnn_uncertainty", "default.quick", "ji2019.demo_full")


def paths(node, at=()):
    """The path of every field of a recipe, as `--set` takes it."""
    if isinstance(node, dict | list):
        for name, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from paths(value, (*at, str(name)))
    if at:
        yield ".".join(at)


def refusal(recipe, setting: str) -> str | None:
    """The sentence by which a setting is refused, if it is."""
    try:
        override(recipe, [setting])
    except DataError as error:
        return str(error)
    return None


@pytest.mark.parametrize("row", ROWS)
def test_every_field_of_a_recipe_is_a_sentence_or_a_recipe(row):
    recipe = find(row)
    for n, path in enumerate(list(paths(to_plain(recipe)))[::3]):
        said = refusal(recipe, f"{path}={ABSURD[n % len(ABSURD)]}")
        assert said is None or said.startswith("recipe field")
        assert len(said or "") < 500 + 3 * MOST_SHOWN, path


@pytest.mark.parametrize(
    "setting",
    [
        "stages.iterations=1e99", "stages.times=1000000000", "network.base=0", "network.base=1000000",
        "augment.knots=1000000", "stages.batch=100000000", "preprocess.spacing_mm=1e-300",
        "stages.optimiser.learning_rate=nan", "stop_below=1e10",
        "stages.optimiser.learning_rate=1e-300", "rotations=[1e99]",
    ],
)  # fmt: skip
def test_settings_that_overflow_somewhere_are_refused(setting):
    with pytest.raises(DataError, match=rf"recipe field .*{setting.partition('=')[0].rpartition('.')[2]}.*got"):
        override(Recipe(), [setting])


def test_pixels_that_are_too_small_for_the_images_are_refused(hearts, tmp_path):
    recipe = override(TINY, ["preprocess.spacing_mm=0.001"])
    with pytest.raises(DataError, match=r"preprocess.spacing_mm: expected slices of at most 16384 pixels.*give larger"):
        ss.train(hearts, tmp_path / "run", recipe, accelerator="cpu")


@pytest.mark.parametrize(("spacing", "size"), [(0.001, None), (0.01, None), (0.001, 32)])
def test_pixels_that_are_too_small_are_refused_before_a_training_is_planned(spacing, size, hearts, tmp_path):
    """The plan times the network on slices of the grid's size, which would not end."""
    words = ["--set", f"preprocess.spacing_mm={spacing}", "--set", f"preprocess.size={json.dumps(size)}"]
    command = ["train", str(hearts.root), "--out", str(tmp_path / "run"), "--accelerator", "cpu"]
    answer = CliRunner().invoke(app, [*command, *words, "--recipe", "can2018.compact_crf", "--set", "network.base=2"])
    assert answer.exit_code == 2, answer.exception
    assert re.search(r"error: .*preprocess.spacing_mm: expected slices of at most (16384|4096) pixels", answer.output)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[" * 500 + "]" * 500, '{"a": "\\ud800"}',
                                  '{"\\uDCFF": 1}', "1" * 5000, "\ufeff{}", "", "{'a': 1}"])  # fmt: skip
def test_json_that_breaks_readers_is_a_sentence(text, tmp_path):
    with pytest.raises(ValueError):  # noqa: PT011
        parsed(text)
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    with pytest.raises(FileError, match=r"a\.json: expected whole JSON, found a damaged file \(.*\); remedy"):
        read_json(tmp_path / "a.json", "remedy")


def test_json_with_pairs_of_surrogates_and_some_levels_is_read():
    assert parsed('{"a": "\\ud83e\\udec0"}') == {"a": "🫀"}
    deep = "[" * MOST_NESTED + "]" * MOST_NESTED
    assert json.dumps(parsed(deep)) == deep
    with pytest.raises(ValueError, match="nested more than"):
        parsed(f"[{deep}]")


@pytest.mark.skipif(os.name == "nt", reason="file names of Unix are any bytes")
@pytest.mark.parametrize("what", ["label", "file", "out"])
@pytest.mark.parametrize("verb", ["check", "train"])
def test_names_that_are_no_text_are_named(what, verb, hearts, tmp_path):
    data, out = shutil.copytree(hearts.root, tmp_path / "data"), tmp_path / "run"
    if what == "label":
        text = (data / "dataset.json").read_text()
        (data / "dataset.json").write_text(text.replace('"RV"', '"RV\\ud800"'))
    elif what == "file":
        for part in ("images", "masks", "scribbles"):
            (data / part / "train000.nii.gz").rename(data / part / os.fsdecode(b"train\xff.nii.gz"))
    elif verb == "check":
        pytest.skip("it writes nothing")
    else:
        out = tmp_path / os.fsdecode(b"run\xff")
    answer = CliRunner().invoke(app, [verb, str(data)] + ["--out", str(out)] * (verb == "train"))
    assert answer.exit_code == 2, answer.exception
    assert answer.output.count("error: ") == 1
    assert "\\ud" in answer.output or "surrogates" in answer.output


@pytest.mark.parametrize("seed", [-1, 2**63, 10**30])
def test_seeds_that_no_generator_takes_are_refused(seed, hearts, tmp_path):
    with pytest.raises(DataError, match="random seed of 0 or more, below 2"):
        ss.train(hearts, tmp_path / "run", seed=seed, accelerator="cpu")
    answer = CliRunner().invoke(app, ["train", str(hearts.root), "--out", str(tmp_path / "run"), "--seed", str(seed)])
    assert answer.exit_code == 2
    assert "--seed" in answer.output
    assert not (tmp_path / "run").exists()


def test_every_whole_number_on_the_command_line_has_a_bound():
    """What is beyond it would overflow somewhere, or never end."""
    for file in Path(cli.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            named = {each.arg for each in node.keywords} if isinstance(node, ast.Call) else set()
            assert "max" in named or "min" not in named, f"{file.name}, line {node.lineno}"
