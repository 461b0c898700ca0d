"""TIFF and JPEG pictures through every command, with coloured scribbles and with values below 0."""

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile

from command_line import call
from scribbleseg.data import open_dataset
from scribbleseg.types import UNLABELLED

SETTINGS = [
    "--set", "network.base=4", "--set", "stages.iterations=2", "--set", "stages.batch=2", "--set", "preprocess.size=32",
    "--set", "stages.times=1", "--workers", "1", "--accelerator", "cpu",
]  # fmt: skip
LABELS = {"background": 0, "disc": 1, "ignore": -1}


@pytest.fixture
def root(tmp_path) -> Path:
    """Discs on a noisy ground: training cases of 16-bit TIFF, one drawn in colours, a test case of each format."""
    rng = np.random.default_rng(0)
    disc = np.hypot(*np.mgrid[-20:20, -24:24]) < 11
    for name in ("images", "scribbles", "masks"):
        (tmp_path / name).mkdir()
    for name in ("a", "b", "c", "d"):
        pixels = rng.normal(80 + 80 * disc, 9).clip(0, 255).astype(np.uint8)
        if name == "d":
            PIL.Image.fromarray(pixels).save(tmp_path / "images" / "d.jpg")
        else:
            tifffile.imwrite(tmp_path / "images" / f"{name}.tif", pixels.astype(np.uint16) * 100)
        PIL.Image.fromarray(disc.astype(np.uint8)).save(tmp_path / "masks" / f"{name}.png")
    values = np.full(disc.shape, -1, np.int16)
    values[20, 18:30], values[4, 4:44] = 1, 0
    tifffile.imwrite(tmp_path / "scribbles" / "a.tif", values)
    table = np.array([[0, 255, 0, 255], [255, 0, 0, 255], [0, 0, 0, 0]], np.uint8)
    PIL.Image.fromarray(table[values]).save(tmp_path / "scribbles" / "b.png")
    declared = {"labels": LABELS, "colors": {"disc": "#ff0000", "background": "#00ff00"}}
    (tmp_path / "dataset.json").write_text(json.dumps(declared))
    return tmp_path


def test_pictures_go_through_every_command(root):
    for case in open_dataset(root).train:
        assert [(case.scribbles == label).sum() for label in (0, 1, UNLABELLED)] == [40, 12, 40 * 48 - 52]
    assert "0 faults" in call("check", root)
    run, out = root / "run", root / "out"
    call("train", root, "--out", run, *SETTINGS)
    labels = json.loads((run / "labels" / "0" / "dataset.json").read_text())["labels"]
    assert labels == {"background": 0, "disc": 1, "ignore": 2}, "PNG holds no -1"
    with PIL.Image.open(run / "labels" / "0" / "a.png") as seeds:
        assert {0, 1} <= set(np.unique(seeds)) <= {0, 1, 2}
    call("predict", run, root / "images", "--out", out, "--accelerator", "cpu")
    assert sorted(path.name for path in out.iterdir() if path.suffix == ".png") == ["a.png", "b.png", "c.png", "d.png"]
    assert "disc" in call("evaluate", out, root)


def test_scribbles_drawn_by_rule_on_pictures_are_pictures(root):
    out, mask = root / "drawn", np.array(PIL.Image.open(root / "masks" / "a.png"))
    for _ in range(2):  # the second time nothing is drawn again
        call("simulate", root, "--rule", "full", "--out", out)
        drawn = {name: np.array(PIL.Image.open(out / f"{name}.png")) for name in ("a", "b")}
        assert {path.name for path in out.iterdir() if path.suffix != ".json"} == {"a.png", "b.png"}
        assert {0, 1} < set(np.unique(drawn["a"]))
        assert (drawn["a"] == mask)[drawn["a"] < 2].all()
        np.testing.assert_array_equal(
            open_dataset(root, scribbles=str(out)).train[0].scribbles[0] == 1, drawn["a"] == 1
        )
    (out / "a.png").write_bytes(b"not again")
    call("simulate", root, "--rule", "full", "--out", out)
    assert (out / "a.png").read_bytes() == b"not again"
