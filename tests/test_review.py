"""What a report is told of a run: where it comes from, and its slices as people look at them."""

import json
from datetime import datetime
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from lightning_fabric import Fabric

from scribbleseg import pipeline
from scribbleseg.data import folder
from scribbleseg.data.preprocess import Preprocess
from scribbleseg.evaluation.report import write_report
from scribbleseg.phantoms import write_phantoms
from scribbleseg.recipe import Recipe, Relabel, Stage
from scribbleseg.review import _view, origin_of, summarise_run
from scribbleseg.runs import Run
from scribbleseg.seeds.strokes import Strokes
from scribbleseg.training.unet import UNet
from scribbleseg.types import UNLABELLED, Case, Geometry

TINY = {"seeds": Strokes(), "network": UNet(base=4, padded=True)}
GRID = Preprocess(spacing_mm=6.0, size=16)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory) -> Path:
    return write_phantoms(tmp_path_factory.mktemp("review") / "hearts", train=3, test=1, shape=(4, 48, 48))


def prepared(phantoms: Path, out: Path, fabric: Fabric, **settings: object) -> Run:
    session = pipeline.begin(folder(phantoms), out, Recipe(**TINY | {"preprocess": GRID} | settings), fabric=fabric)
    session.prepare(session.recipe.preprocess, session.recipe.held_out)
    return session.run


def test_an_origin_is_the_data_set_the_date_the_cases_and_the_share_that_was_drawn(phantoms, fabric, tmp_path):
    run = prepared(phantoms, tmp_path / "run", fabric)
    origin = origin_of(run)
    assert origin.data_set == "hearts (folder)"
    assert abs((datetime.now().astimezone() - datetime.fromisoformat(origin.begun)).total_seconds()) < 3600
    assert origin.training_cases == 3
    drawn, inside = (np.fromfile(run.slices / f"{layer}.raw", np.uint8) for layer in ("scribbles", "inside"))
    assert origin.drawn == pytest.approx((drawn != UNLABELLED).sum() / inside.sum())
    held_out = prepared(phantoms, tmp_path / "held_out", fabric, held_out=0.3)
    assert origin_of(held_out).drawn == pytest.approx(origin.drawn)  # they were drawn, too
    assert origin_of(prepared(phantoms, tmp_path / "masks", fabric, annotation="masks")).drawn is None


def test_runs_of_versions_that_noted_no_date_have_none(phantoms, fabric, tmp_path):
    run = prepared(phantoms, tmp_path / "run", fabric)
    details = {key: value for key, value in run.details.items() if key != "date"}
    (run.path / "run.json").write_text(json.dumps(details))
    assert origin_of(run).begun == ""


def volume(geometry: Geometry, channels: int = 1) -> Case:
    image = np.random.default_rng(0).uniform(0, 255, (channels, *geometry.shape)).astype(np.float32)
    scribbles = np.full(geometry.shape, UNLABELLED, np.uint8)
    scribbles[-1, 2, 1:3] = 1
    return Case("a", image, scribbles, geometry)


def test_a_volume_is_looked_at_with_its_right_on_the_left_and_its_pixels_in_mm():
    case = volume(Geometry((3, 5, 4), np.diag([1.5, 2.0, 8.0, 1.0])), channels=2)  # x to the right, y to the front
    view = _view(case, Preprocess(plane="axial"), case.scribbles, shown=1)
    picture = view.picture(0, "why", scribbles=view.of(case.scribbles))
    assert (picture.slice_index, picture.n_slices, picture.pixel, picture.sides) == (2, 3, (2.0, 1.5), "RLAP")
    assert np.array_equal(picture.image, case.image[1, 2, ::-1, ::-1])
    assert np.array_equal(picture.scribbles, case.scribbles[2, ::-1, ::-1])
    assert picture.reference is None


@pytest.mark.parametrize(("suffix", "channels"), [(".png", 3), (".png", 1), (".nii.gz", 3)])
def test_pictures_of_three_channels_are_shown_in_colour_and_volumes_in_one_channel(suffix, channels):
    case = volume(Geometry((1, 5, 4), np.eye(4), suffix), channels)
    picture = _view(case, Preprocess(), case.scribbles, shown=channels - 1).picture(None, "")
    assert picture.image.shape == ((5, 4, 3) if (suffix, channels) == (".png", 3) else (5, 4))
    if suffix == ".png":
        assert picture.sides == ""
        assert np.array_equal(picture.image[..., -1] if channels == 3 else picture.image, case.image[-1, 0])


def test_a_run_on_coloured_pictures_is_told_in_pixels(fabric, tmp_path):
    root = tmp_path / "skin"
    labels = {"background": 0, "lesion": 1, "ignore": 2}
    for part in ("images", "scribbles", "masks"):
        (root / part).mkdir(parents=True)
    (root / "dataset.json").write_text(json.dumps({"labels": labels}))
    for name in ("a", "b", "c"):
        mask = np.zeros((32, 32), np.uint8)
        mask[8:20, 8:20] = 1
        scribble = np.full((32, 32), 2, np.uint8)
        scribble[14, 10:18], scribble[2, 2:30] = 1, 0
        image = (np.stack([200 - 60 * mask, 120 + 0 * mask, 90 + 20 * mask], -1)).astype(np.uint8)
        PIL.Image.fromarray(image).save(root / "images" / f"{name}.png")
        PIL.Image.fromarray(mask).save(root / "masks" / f"{name}.png")
        if name != "c":
            PIL.Image.fromarray(scribble).save(root / "scribbles" / f"{name}.png")
    stages = (Stage(iterations=1, batch=2), Stage(iterations=1, batch=2, relabel=Relabel()))
    recipe = Recipe(**TINY, stages=stages, stop_below=0.0)
    session = pipeline.begin(folder(root), tmp_path / "run", recipe, fabric=fabric)
    list(pipeline.train(session))
    (summary,) = summarise_run(session.run, fabric)
    assert all(score.in_pixels for score in summary.scores)
    assert [score.reference_volume_ml for score in summary.scores] == [144.0]
    assert {picture.image.shape for picture in summary.pictures} == {(32, 32, 3)}
    assert [(p.case, p.recursion) for p in summary.pictures] == [("c", None), *((n, r) for n in "ab" for r in (0, 1))]
    write_report(tmp_path / "report.html", [summary])
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "HD95</abbr>, px" in html
    assert "skin (folder)" in html
