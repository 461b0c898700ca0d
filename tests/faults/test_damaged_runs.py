"""A damaged file in a run folder: one sentence that names it, or the same as before; never other results."""

import json
import re
import shutil

import pytest
import torch
from lightning_fabric import Fabric
from typer.testing import CliRunner

import scribbleseg as ss
from faults import flips
from scribbleseg import pipeline, review
from scribbleseg.cli import app
from scribbleseg.data.preprocess import Preprocess
from scribbleseg.data.slices import open_slices
from scribbleseg.evaluation.metrics import read_scores, write_scores
from scribbleseg.files import FileError, read_json, read_records, write_json
from scribbleseg.pipeline import recipe_of
from scribbleseg.recipe import Recipe, Stage
from scribbleseg.runs import Run, create_run, open_run
from scribbleseg.seeds.strokes import Strokes
from scribbleseg.training import loop
from scribbleseg.training.state import save_state, settle_checkpoint
from scribbleseg.training.unet import UNet
from scribbleseg.types import DataError
from scribbleseg.weights import read_weights, save_weights

TINY = Recipe(
    preprocess=Preprocess(spacing_mm=6.0, size=32),
    seeds=Strokes(),
    network=UNet(base=2, padded=True),
    stages=(Stage(iterations=4, batch=2),),
)


def damage(file) -> None:
    """Damages a file in its middle, by more than what lies between its parts."""
    whole = file.read_bytes()
    middle = len(whole) // 2
    file.write_bytes(whole[:middle] + bytes(byte ^ 1 for byte in whole[middle : middle + 200]) + whole[middle + 200 :])


def refused_or_equal(file, read, equal, number=200) -> int:
    """How often reading the damaged file was refused by name. In all other cases what was read is the same."""
    expected, refused, whole = read(), 0, file.read_bytes()
    for bit, damaged in flips(whole, number):
        file.write_bytes(damaged)
        try:
            found = read()
        except DataError as error:
            assert file.name in str(error), error  # noqa: PT017
            refused += 1
        else:
            assert equal(found, expected), f"bit {bit}"
    file.write_bytes(whole)
    return refused


def same_weights(one, other) -> bool:
    rest = [{key: value for key, value in each.items() if key != "state"} for each in (one, other)]
    return (
        rest[0] == rest[1]
        and list(one["state"]) == list(other["state"])
        and all(map(torch.equal, one["state"].values(), other["state"].values()))
    )


def test_damaged_weights_are_refused(tmp_path):
    file = tmp_path / "network.pt"
    save_weights(TINY.network.build(1, 4), file, (1, 3))
    assert refused_or_equal(file, lambda: read_weights(file), same_weights) > 150


@pytest.mark.parametrize("name", ["run.json", "recipe.json", "slices/index.json"])
def test_a_damaged_description_is_one_sentence(name, run):
    def read():
        if name.startswith("slices"):
            return open_slices(run.slices).index
        opened = open_run(run.path)
        return opened.recipe if name == "recipe.json" else opened.details

    def equal(found, expected):  # where the name of the digest is damaged, there is one more field
        return {key: found[key] for key in expected} == expected

    assert refused_or_equal(run.path / name, read, equal) > 100


@pytest.mark.parametrize("name", ["run.json", "recipe.json", "slices/index.json"])
def test_a_description_that_earlier_versions_wrote_is_read_without_a_digest(name, run, hearts):
    plain = read_json(run.path / name, "")
    (run.path / name).write_text(json.dumps(plain))
    ss.train(hearts, run.path, TINY, resume=True, accelerator="cpu")


@pytest.mark.parametrize("name", ["run.json", "recipe.json"])
@pytest.mark.parametrize("content", ["", "{", "[1]", "{}", '{"versions": {}}', '{"versions": {"scribbleseg": "new"}}'])
def test_damaged_beyond_recognition(name, content, run):
    (run.path / name).write_text(content)
    answer = CliRunner().invoke(app, ["report", str(run.path), "--out", str(run.path / "report.html")])
    assert answer.exit_code == 2, answer.exception
    assert answer.output.startswith("error: ")
    assert f"{name}: " in answer.output


def test_a_damaged_record_is_named_by_its_line(run):
    file = run.path / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    for damaged in ('{"event": "train"}\n', "\x00\n", "{]\n", '{"event": "train", "recursion": "0"}\n', "[]\n", "1\n"):
        file.write_text(lines[0] + damaged + lines[1])
        with pytest.raises(FileError, match=r"metrics.jsonl: .*found line 2 damaged.*delete that line"):
            _ = run.metrics
    file.write_bytes(lines[0].encode() + b"\xff\n" + lines[1].encode())
    with pytest.raises(FileError, match="found line 2 damaged"):
        _ = run.metrics


def test_the_last_record_is_kept_where_only_the_end_of_its_line_is_missing(tmp_path):
    (tmp_path / "records").write_text('{"a": 1}\n{"a": 2}')
    assert read_records(tmp_path / "records") == [{"a": 1}, {"a": 2}]
    (tmp_path / "records").write_text('{"a": 1}\n{"a": {}')
    assert read_records(tmp_path / "records") == [{"a": 1}]


def test_a_damaged_network_says_what_to_do_and_that_helps(run, hearts):
    file = run.network(0)
    damage(file)
    with pytest.raises(FileError, match="network.pt: expected whole weights.*or delete .*recursion_0 and go on"):
        ss.load(run.path, "cpu")
    shutil.rmtree(run.recursion(0))
    ss.train(hearts, run.path, TINY, resume=True, accelerator="cpu")


def test_weights_of_another_network_are_refused(run):
    save_weights(UNet(base=4, padded=True).build(1, 4), run.network(0))
    with pytest.raises(FileError, match="network.pt: expected weights of the network in recipe.json"):
        ss.load(run.path, "cpu")


@pytest.fixture
def stopped(hearts, tmp_path, monkeypatch):
    """The folder of a run that was killed by the second checkpoint of its M step, of iteration 4."""
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 2)
    saved, times = loop.save_checkpoint, []

    def killed(path, state):
        saved(path, state)
        times.append(1)
        if len(times) == 2:
            raise ConnectionAbortedError

    monkeypatch.setattr(loop, "save_checkpoint", killed)
    with pytest.raises(ConnectionAbortedError):
        ss.train(hearts, tmp_path / "run", TINY, accelerator="cpu")
    monkeypatch.setattr(loop, "save_checkpoint", saved)
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("damaged", "says"),
    [
        (
            ["m_step.ckpt"],
            "m_step.ckpt: expected whole weights, found a damaged file (.*); going back to the checkpoint before",
        ),
        (["m_step.ckpt", "m_step.previous.ckpt"], "found a damaged file (.*); this round of training begins anew"),
        (["m_step.previous.ckpt"], None),
    ],
)
def test_a_damaged_checkpoint_is_warned_of_and_the_one_before_taken(damaged, says, stopped, hearts, trained, caplog):
    for name in damaged:
        damage(stopped / "recursion_0" / name)
    ss.train(hearts, stopped, TINY, resume=True, accelerator="cpu")
    warnings = [record.getMessage() for record in caplog.records if record.name == "scribbleseg.training.state"]
    assert len(warnings) == (says is not None)
    assert says is None or re.search(says, warnings[0])
    assert same_weights(*(read_weights(Run(path).network(0)) for path in (trained, stopped)))
    losses = [[record.get("loss") for record in Run(path).metrics] for path in (trained, stopped)]
    assert losses[0] == losses[1], "those before the checkpoint count"
    assert not list(stopped.rglob("*.ckpt"))


def test_where_the_training_goes_on(stopped):
    file = Run(stopped).checkpoint(0)
    assert settle_checkpoint(file) == 4
    damage(file)
    assert settle_checkpoint(file) == 2
    assert settle_checkpoint(file) == 2, "it is in its place now"
    file.rename(file.with_name("m_step.previous.ckpt"))
    assert settle_checkpoint(file) == 2, "where somebody has deleted the last one"
    assert file.exists()
    damage(file)
    assert settle_checkpoint(file) == 0
    assert not list(stopped.rglob("*.ckpt"))


def test_states_of_other_networks_are_refused(stopped, hearts):
    file = Run(stopped).checkpoint(0)
    save_state(file, {"iteration": 3, "network": UNet(base=4, padded=True).build(1, 4).state_dict()})
    with pytest.raises(FileError, match="m_step.ckpt: expected the state of a training of this network.*delete"):
        ss.train(hearts, stopped, TINY, resume=True, accelerator="cpu")
    save_state(file, {"network": 1, "iteration": 1})
    with pytest.raises(FileError, match="m_step.ckpt: expected whole weights with iteration, network"):
        ss.train(hearts, stopped, TINY, resume=True, accelerator="cpu")


@pytest.mark.parametrize("state", [{}, [], None, {"channels": 1}, {"channels": 1, "state": {"x": torch.zeros(3)}},
                                   {"channels": 1, "state": 5}, {"channels": "x", "state": {}}])  # fmt: skip
def test_foreign_weights_are_one_sentence(state, run):
    torch.save(state, run.network(0))
    with pytest.raises(FileError, match=r"network\.pt: expected"):
        ss.load(run.path, "cpu")


@pytest.mark.parametrize("killed_at", ["run.json", "recipe.json"])
def test_a_run_that_was_killed_while_its_folder_was_made_can_be_begun_again(killed_at, hearts, tmp_path, monkeypatch):
    def begin(resume):
        return pipeline.begin(hearts, tmp_path / "run", TINY, fabric=Fabric(accelerator="cpu"), resume=resume)

    def killed(path, plain):
        write_json(path, plain)
        if path.name == killed_at:
            raise ConnectionAbortedError

    for _ in range(2):
        monkeypatch.setattr("scribbleseg.runs.write_json", killed)
        with pytest.raises(ConnectionAbortedError):
            begin(False)
    monkeypatch.setattr("scribbleseg.runs.write_json", write_json)
    (tmp_path / "run" / ".12-recipe.json").write_text("cut o")  # what SIGKILL leaves
    assert recipe_of(begin(False).run) == begin(True).recipe


def test_a_recipe_alone_which_earlier_versions_left_is_begun_again(tmp_path):
    (tmp_path / "recipe.json").write_text(json.dumps({"batch": 4}))
    with pytest.raises(DataError, match="new or empty folder"):
        create_run(tmp_path, {"batch": 5}, {"seed": 0}, resume=False)
    assert create_run(tmp_path, {"batch": 4}, {"seed": 0}, resume=False).recipe == {"batch": 4}


def test_summaries_come_also_where_a_kill_left_scores_alone(run):
    fabric = Fabric(accelerator="cpu", devices=1)
    scores = review.test_scores(run, fabric)
    names = {file.name: file.read_bytes() for file in (run.path / "test_scores_0").iterdir()}
    assert set(names) == {"scored.json", "scores.csv", "scores.json", "summary.csv", "summary.json"}
    for name in ("summary.csv", "summary.json"):
        (run.path / "test_scores_0" / name).unlink()
    assert repr(review.test_scores(run, fabric)) == repr(scores)  # NaN is not equal to itself
    assert {file.name: file.read_bytes() for file in (run.path / "test_scores_0").iterdir()} == names


def test_scores_come_last(run, tmp_path):
    """They say that everything is there."""
    scores = review.test_scores(run, Fabric(accelerator="cpu", devices=1))
    write_scores(scores, tmp_path / "again")
    assert len(read_scores(tmp_path / "again" / "scores.json")) == len(scores)
    written = sorted((tmp_path / "again").iterdir(), key=lambda file: file.stat().st_mtime_ns)
    assert written[-1].name == "scores.json"


@pytest.mark.parametrize("words", [["--seed", "-1"], ["--workers", "-1"], ["--devices", "0"], ["--nodes", "0"]])
def test_numbers_that_mean_nothing_are_refused(words, hearts, tmp_path):
    answer = CliRunner().invoke(app, ["train", str(hearts.root), "--out", str(tmp_path / "run"), *words])
    assert answer.exit_code == 2
    assert words[0] in answer.output
    assert not (tmp_path / "run").exists()


def test_a_file_of_which_the_line_with_the_checksum_is_deleted_is_read(tmp_path):
    write_json(tmp_path / "run.json", {"name": "first", "seed": 0})
    lines = (tmp_path / "run.json").read_text().splitlines()
    kept = [line.replace("first", "other") for line in lines if "sha256" not in line]
    (tmp_path / "run.json").write_text("\n".join(kept))
    assert read_json(tmp_path / "run.json", "") == {"name": "other", "seed": 0}


def test_a_run_that_has_a_checkpoint_alone_is_a_run(tmp_path):
    create_run(tmp_path / "run", {"x": 1}, {"seed": 0}, resume=False)
    checkpoint = Run(tmp_path / "run").checkpoint(0)
    checkpoint.parent.mkdir()
    checkpoint.touch()
    with pytest.raises(DataError, match="expected no run here, found one"):
        create_run(tmp_path / "run", {"x": 2}, {"seed": 7}, resume=False)
    with pytest.raises(DataError, match="begun with another seed"):
        create_run(tmp_path / "run", {"x": 1}, {"seed": 7}, resume=True)


def test_records_are_forgotten_of_networks_that_were_deleted_and_of_no_others(tmp_path):
    run = create_run(tmp_path / "run", {"x": 1}, {"seed": 0}, resume=False)
    for index in range(3):
        run.recursion(index).mkdir()
        run.network(index).touch()
        run.log({"event": "relabel", "recursion": index})
        run.log({"event": "train", "recursion": index, "iteration": 4})
        run.log({"event": "agreement", "recursion": index, "mean": 0.5, "agreement": {}})
    records = run.metrics
    run.forget_beyond({})
    assert run.metrics == records
    run.network(0).unlink()
    run.forget_beyond({0: 0})
    assert run.metrics == [records[0], *records[3:]]
    for again in records[1:3]:
        run.log(again)
    assert run.metrics == records  # though they stand at the end of the file
    run.network(2).unlink()
    run.forget_beyond({0: 0, 2: 0})
    assert run.metrics == [records[0], *records[3:6]]  # network 0 is not there either
    run.network(1).unlink()
    run.forget_beyond({0: 0, 1: 4, 2: 0})
    assert run.metrics == [records[0], *records[3:5]]  # the second one goes on from its last iteration
