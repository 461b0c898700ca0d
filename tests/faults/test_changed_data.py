"""Data that changes after a run was trained or scored: nothing that is kept is given for what it is not of."""

import gzip
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from lightning_fabric import Fabric
from typer.testing import CliRunner

import scribbleseg as ss
from scribbleseg import review
from scribbleseg.annotate.simulate import RULES, write_simulation
from scribbleseg.cli import app
from scribbleseg.data import folder, with_scribbles
from scribbleseg.data.fingerprint import digest_of_files
from scribbleseg.files import write_json
from scribbleseg.phantoms import write_phantoms
from scribbleseg.recipe import Recipe, Stage
from scribbleseg.runs import Run
from scribbleseg.seeds.strokes import Strokes
from scribbleseg.training.unet import UNet
from scribbleseg.types import DataError

TINY = Recipe(seeds=Strokes(), stages=(Stage(iterations=1, batch=2),), network=UNet(base=4, padded=True))
FABRIC = Fabric(accelerator="cpu", devices=1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A folder with a data set and a run that was trained and scored on it; read only."""
    place = tmp_path_factory.mktemp("changed")
    hearts = write_phantoms(place / "hearts", train=2, test=1, shape=(3, 48, 48))
    for file in hearts.glob("*/*.nii.gz"):  # not compressed, so that a change leaves the size
        nib.save(nib.load(file), str(file).removesuffix(".gz"))
        file.unlink()
    ss.train(folder(hearts), place / "run", TINY, accelerator="cpu")
    review.test_scores(Run(place / "run"), FABRIC)
    return place


@pytest.fixture
def place(finished, tmp_path) -> Path:
    """A copy of it, to be changed; the run still names its data set by its folder."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    run = Run(tmp_path / "run")
    run.add(data={**run.details["data"], "folder": str(tmp_path / "hearts")})
    return tmp_path


@pytest.fixture
def scored(monkeypatch) -> list[str]:
    """The cases that are scored from now on."""
    names: list[str] = []
    score_cases = review.score_cases

    def counted(segmenter, dataset, cases, *words):
        names.extend(cases.names)
        return score_cases(segmenter, dataset, cases, *words)

    monkeypatch.setattr(review, "score_cases", counted)
    return names


def change(file: Path, values) -> None:
    """Other voxels in a file of the same size and the same date."""
    before = file.stat()
    nifti = nib.load(file)
    nib.save(nib.Nifti1Image(values(np.asarray(nifti.dataobj).copy()), None, nifti.header), file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def mirrored(voxels):
    return voxels[::-1].copy()


def scores_of(place: Path) -> str:
    return repr(review.test_scores(Run(place / "run"), FABRIC))


def test_scores_are_kept_while_nothing_changes(place, scored):
    before = scores_of(place)
    assert not scored
    for file in place.glob("hearts/*/*"):
        os.utime(file)  # another date is no other content
    assert scores_of(place) == before
    assert not scored


@pytest.mark.parametrize("part", ["masks", "images"])
def test_other_masks_or_images_are_scored_again_though_size_and_date_are_the_same(place, scored, part):
    before = scores_of(place)
    change(place / "hearts" / part / "test000.nii", mirrored)
    after = scores_of(place)
    assert scored == ["test000"]
    assert after != before
    assert scores_of(place) == after
    assert scored == ["test000"]  # once


def test_a_mask_that_is_gone_or_new_changes_what_is_scored(place, scored):
    mask = place / "hearts" / "masks" / "test000.nii"
    mask.rename(place / "away.nii")
    assert scores_of(place) == "[]"
    (place / "away.nii").rename(mask)
    assert "test000" in scores_of(place)
    shutil.copyfile(place / "hearts" / "images" / "test000.nii", place / "hearts" / "images" / "test001.nii")
    shutil.copyfile(mask, mask.with_name("test001.nii"))
    assert "test001" in scores_of(place)


def test_a_case_that_was_trained_on_is_no_test_case_when_its_scribbles_are_gone(place, scored):
    before = scores_of(place)
    scribbles = next((place / "hearts" / "scribbles").iterdir())
    trained_on = scribbles.name.split(".")[0]
    scribbles.unlink()
    assert trained_on in review.dataset_of(Run(place / "run")).test.names
    assert (place / "hearts" / "masks" / f"{trained_on}.nii").exists()
    assert scores_of(place) == before
    assert not scored


def test_labels_in_another_order_are_refused(place):
    file = place / "hearts" / "dataset.json"
    labels = json.loads(file.read_text())["labels"]
    one, other = [name for name in labels if name not in ("background", "ignore")][:2]
    file.write_text(json.dumps({"labels": labels | {one: labels[other], other: labels[one]}}))
    with pytest.raises(DataError, match="expected a data set of the labels background, "):
        scores_of(place)


def test_other_values_or_regions_of_the_same_names_are_scored_again(place, scored, monkeypatch):
    opened = review.dataset_of(Run(place / "run"))
    others = [
        replace(opened, mask_values={**opened.mask_values, 7: 1}),
        replace(opened, regions={"heart": (1, 2, 3)}),
        opened,
    ]
    for n, each in enumerate(others, start=1):
        monkeypatch.setattr(review, "dataset_of", lambda run, each=each: each)
        scores_of(place)
        scores_of(place)
        assert len(scored) == n


def test_other_weights_another_recipe_or_another_version_are_scored_again(place, scored, monkeypatch):
    run = Run(place / "run")
    write_json(run.path / "recipe.json", run.recipe | {"stop_below": 0.5})
    scores_of(place)
    assert len(scored) == 1
    monkeypatch.setattr(review, "version", lambda name: "99.0")
    scores_of(place)
    assert len(scored) == 2
    monkeypatch.setattr(Run, "weights", "others")
    scores_of(place)
    assert len(scored) == 3


@pytest.mark.parametrize("noted", [None, "{", "[]", '{"sha256": "0", "weights": ""}'])
def test_scores_that_do_not_say_what_they_are_of_are_made_again(place, scored, noted):
    file = place / "run" / "test_scores_0" / review.SCORED
    file.unlink()
    if noted is not None:
        file.write_text(noted)
    scores_of(place)
    scores_of(place)
    assert scored == ["test000"]


def test_a_kill_while_scores_are_written_leaves_none_that_claim_to_be_of_other_data(place, scored, monkeypatch):
    """The data comes back to what it was; the scores of what it was in between do not stand for it."""
    before = scores_of(place)
    mask = place / "hearts" / "masks" / "test000.nii"
    kept = mask.read_bytes()
    change(mask, mirrored)
    monkeypatch.setattr(review, "write_json", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        scores_of(place)
    monkeypatch.undo()
    mask.write_bytes(kept)
    assert scores_of(place) == before


def changed(place: Path) -> str:
    return review.training_of(Run(place / "run")).changed


def test_a_run_whose_data_is_as_it_was_says_nothing(place, monkeypatch):
    monkeypatch.setattr(review, "fingerprint", lambda cases: pytest.fail("files of the same content are not read"))
    assert changed(place) == ""


def test_cases_that_were_only_packed_anew_are_the_same(place):
    for part in ("images", "scribbles"):
        file = place / "hearts" / part / "train000.nii"
        file.with_suffix(".nii.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    assert review.training_of(Run(place / "run")) == review.Training(("train000", "train001"), "")


def test_a_training_mask_is_not_what_was_trained_on(place):
    change(place / "hearts" / "masks" / "train000.nii", mirrored)
    assert changed(place) == ""


@pytest.mark.parametrize("part", ["images", "scribbles"])
def test_a_report_says_that_training_cases_have_changed(place, part):
    change(place / "hearts" / part / "train001.nii", mirrored)
    assert "(other files: train001)" in changed(place)
    (summary,) = review.summarise_run(Run(place / "run"), FABRIC)
    assert summary.warnings == (changed(place),)
    assert {picture.case for picture in summary.pictures} == {"train000", "test000"}  # not the changed one's
    page = place / "report.html"
    said = CliRunner().invoke(app, ["report", str(place / "run"), "--out", str(page), "--accelerator", "cpu"])
    assert said.exit_code == 0, said.output
    assert "no longer those that this run was trained on (other files: train001)" in said.output
    assert "(other files: train001)" in page.read_text(encoding="utf-8")


def test_a_report_says_that_training_cases_are_gone_or_new(place):
    hearts = place / "hearts"
    for part in ("images", "scribbles"):
        shutil.copyfile(hearts / part / "train001.nii", hearts / part / "train002.nii")
        (hearts / part / "train000.nii").unlink()
    (hearts / "masks" / "train000.nii").unlink()
    assert "(gone: train000; new: train002)" in changed(place)
    (summary,) = review.summarise_run(Run(place / "run"), FABRIC)
    assert {picture.case for picture in summary.pictures} == {"train001", "test000"}


def test_a_run_that_noted_no_digests_compares_its_fingerprint(place):
    index = place / "run" / "slices" / "index.json"
    plain = {key: value for key, value in json.loads(index.read_text()).items() if key != "sha256"}
    for case in plain["cases"].values():
        del case["files"]
    write_json(index, plain)
    assert review.training_of(Run(place / "run")) == review.Training(("train000", "train001"), "")
    change(place / "hearts" / "scribbles" / "train001.nii", mirrored)
    assert changed(place).startswith("The training cases are no longer those that this run was trained on: ")


def test_the_digest_of_a_header_is_that_of_its_voxels_too(tmp_path):
    header, voxels, other = tmp_path / "a.mhd", tmp_path / "a.raw", tmp_path / "b.raw"
    header.write_text("ElementDataFile = a.raw\n")
    voxels.write_bytes(b"12")
    other.write_bytes(b"12")
    before = digest_of_files([header])
    other.write_bytes(b"21")
    assert digest_of_files([header]) == before
    voxels.write_bytes(b"21")
    assert digest_of_files([header]) != before
    assert digest_of_files([tmp_path]) != digest_of_files([header])
    header.write_text("ElementDataFile = %c.raw 97 98 1\n")  # names that nobody finds: all that lies there counts
    before = digest_of_files([header])
    other.write_bytes(b"33")
    assert digest_of_files([header]) != before


def test_a_device_is_not_read_for_a_digest_and_a_missing_file_counts(tmp_path):
    digests = {digest_of_files([tmp_path / "none"]), digest_of_files([Path("/dev/zero")]), digest_of_files([])}
    os.mkfifo(tmp_path / "pipe")
    assert len(digests | {digest_of_files([tmp_path / "pipe"])}) == 3


def test_the_files_of_a_case_are_all_that_it_is_read_from(place, tmp_path):
    hearts = folder(place / "hearts")
    own = ("images/train000.nii", "scribbles/train000.nii", "masks/train000.nii", "dataset.json")
    assert hearts.files["train000"] == tuple(place / "hearts" / name for name in own)
    drawn = write_simulation(hearts, RULES["full"], tmp_path / "drawn")
    others = tuple(drawn / name for name in ("train000.nii.gz", "dataset.json"))
    seen = with_scribbles(hearts, drawn)
    assert seen.files["train000"] == hearts.files["train000"] + others
    assert seen.files["test000"] == hearts.files["test000"]
