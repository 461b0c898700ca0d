"""The run folder refuses to mix runs, and reads what a kill left."""

import json
from datetime import datetime

import pytest

from scribbleseg.runs import create_run, open_run
from scribbleseg.types import DataError

RECIPE = {"training": {"batch": 4}, "recursions": 1}
DETAILS = {"seed": 0, "fingerprint": "abc"}
DATA = {"format": "folder", "options": {}}


def test_a_run_is_continued_only_with_resume_and_the_same_recipe_seed_and_data(tmp_path):
    create_run(tmp_path / "run", RECIPE, DETAILS, resume=False)
    create_run(tmp_path / "run", RECIPE, DETAILS, resume=False)  # nothing was in it yet
    (tmp_path / "run" / "slices").mkdir()
    (tmp_path / "run" / "slices" / "index.json").write_text("{}")
    assert create_run(tmp_path / "run", RECIPE, DETAILS, resume=True).recipe == RECIPE
    with pytest.raises(DataError, match="add --resume"):
        create_run(tmp_path / "run", RECIPE, DETAILS, resume=False)
    with pytest.raises(DataError, match=r"begun with another recipe \(training\.batch = 4 there and 5 now\)"):
        create_run(tmp_path / "run", {"training": {"batch": 5}, "recursions": 1}, DETAILS, resume=True)
    with pytest.raises(DataError, match="another fingerprint"):
        create_run(tmp_path / "run", RECIPE, {"seed": 0, "fingerprint": "other"}, resume=True)


def test_what_a_run_was_begun_with_is_told_in_words(tmp_path):
    begun = {"name": "run", "label_names": ["background", "RV"], "data": DATA | {"folder": "/hearts"}}
    create_run(tmp_path / "run", RECIPE, begun, resume=False)
    (tmp_path / "run" / "slices").mkdir()
    (tmp_path / "run" / "slices" / "index.json").write_text("{}")
    other = {**begun, "label_names": ["background", "liver"], "data": DATA | {"folder": "/livers"}}
    words = r"begun with other labels and another data set \(label_names.1 = 'RV' there and 'liver' now; data.folder ="
    with pytest.raises(DataError, match=words):
        create_run(tmp_path / "run", {}, other, resume=True)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match="new or empty folder"):
        create_run(tmp_path, RECIPE, DETAILS, resume=True)
    with pytest.raises(DataError, match="expected a run folder"):
        open_run(tmp_path)


def test_provenance_is_recorded(tmp_path):
    details = create_run(tmp_path / "run", RECIPE, DETAILS, resume=False).details
    assert details["seed"] == 0
    assert {"torch", "scribbleseg", "python"} <= details["versions"].keys()
    assert details["command"]
    assert datetime.fromisoformat(details["date"]).tzinfo is not None


def test_metrics_are_json_lines_and_a_line_cut_short_is_left_out(tmp_path):
    run = create_run(tmp_path / "run", RECIPE, DETAILS, resume=False)
    assert run.metrics == []
    run.log({"event": "train", "recursion": 0, "iteration": 1, "loss": 0.5})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"event": "train", "recur')
    assert run.metrics == [{"event": "train", "recursion": 0, "iteration": 1, "loss": 0.5}]
    assert list((run.path / "tensorboard").iterdir())


def test_records_that_will_be_made_again_are_forgotten(tmp_path):
    run = create_run(tmp_path / "run", RECIPE, DETAILS, resume=False)
    records = [
        {"event": "relabel", "recursion": 0},
        {"event": "train", "recursion": 0, "iteration": 50},
        {"event": "relabel", "recursion": 1},
        {"event": "train", "recursion": 1, "iteration": 50},
        {"event": "train", "recursion": 1, "iteration": 100},
    ]
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    run.forget_beyond({1: 50})
    assert run.metrics == records[:4]
