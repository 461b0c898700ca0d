"""`predict` stopped at any moment, or on a full disk: the same command goes on, and replaces nothing of others."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from scribbleseg.cli import app, use
from scribbleseg.files import FileError
from scribbleseg.lock import is_held
from scribbleseg.recipe import Recipe, Stage
from scribbleseg.seeds.strokes import Strokes
from scribbleseg.training.unet import UNet

TINY = Recipe(seeds=Strokes(), stages=(Stage(iterations=1, batch=2),), network=UNet(base=4, padded=True))


def call(*words, code: int = 0) -> str:
    answer = CliRunner().invoke(app, [str(word) for word in words])
    assert answer.exit_code == code, answer.output
    return answer.output


@pytest.fixture
def place(hearts, tmp_path) -> Path:
    """A copy of the data set that the run was trained on, by the name of `new`: images that the run has not seen."""
    shutil.copytree(hearts.root, tmp_path / "new")
    return tmp_path


@pytest.mark.parametrize("again", [False, True], ids=["", "and stopped before it goes on"])
def test_predict_goes_on_between_a_label_map_and_its_note(again, run, place, monkeypatch):
    command = ("predict", run.path, place / "new" / "images", "--out", place / "out", "--probabilities")
    whole = ("predict", run.path, place / "new" / "images", "--out", place / "whole", "--probabilities")
    finish = use._Progress.finish

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(use._Progress, "finish", stopped)
    call(*command, code=130)
    assert len(list((place / "out").glob("*.nii.gz"))) == 2
    monkeypatch.setattr(use._Progress, "finish", finish)
    if again:
        with monkeypatch.context() as patch:
            patch.setattr(use, "_segment_all", stopped)
            call(*command, code=130)
    (place / "out" / "train000.nii.gz").write_bytes(b"mine")
    assert "found train000.nii.gz" in call(*command, code=2)
    (place / "out" / "train000.nii.gz").unlink()
    assert "3 label maps" in call(*command)
    call(*whole)
    for file in (place / "whole").iterdir():
        assert (place / "out" / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("written", [0, 1], ids=["nothing", "probabilities"])
def test_predict_goes_on_where_the_disk_was_full_within_a_case(written, run, place, monkeypatch):
    command = ("predict", run.path, place / "new" / "images", "--out", place / "out", "--probabilities")

    def full(path, *_):
        raise FileError(path, "could not be written (No space left on device)", "free some")

    with monkeypatch.context() as disk:
        for writer in ("write_probabilities", "write_labels")[written:]:
            disk.setattr(f"scribbleseg.data.formats.{writer}", full)
        assert "No space left" in call(*command, code=2)
    assert len(list((place / "out").glob("*.nii.gz"))) == written
    assert "3 label maps" in call(*command)


def test_a_map_of_the_name_of_an_image_that_could_not_be_segmented_is_not_replaced(run, place):
    bad, out = place / "new" / "images" / "test000.nii.gz", place / "out"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:500])
    call("predict", run.path, place / "new" / "images", "--out", out, code=1)
    bad.write_bytes(whole)
    (out / "test000.nii.gz").write_bytes(b"mine")
    assert "--overwrite" in call("predict", run.path, place / "new" / "images", "--out", out, code=2)


def test_two_never_write_into_one_folder(run, place, monkeypatch):
    """The maps of one would lie among those of the other, and both would have gone well."""
    command = ("predict", run.path, place / "new" / "images", "--out", place / "out", "--overwrite")
    holds = "import sys, time; from pathlib import Path; from scribbleseg.lock import hold; hold(Path(sys.argv[1])); "
    words = [sys.executable, "-c", f"{holds}print('held', flush=True); time.sleep(60)", str(place / "out")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        assert "expected a folder of label maps that no other process works on, found process" in call(*command, code=2)
        other.kill()
    segment, seen = use._segment, []
    monkeypatch.setattr(use, "_segment", lambda *given: (seen.append(is_held(place / "out")), segment(*given)))
    call(*command)
    assert seen == [True, True, True]
    assert {path.suffix for path in (place / "out").iterdir()} == {".gz", ".json"}
    assert not (place / "out" / "lock.json").exists()
