import os
import pickle
import threading
from pathlib import Path

import pytest

from scribbleseg.files import FileError, atomically, finish_folder, link_or_copy, read_records, write_text
from scribbleseg.types import DataError


def test_a_folder_that_cannot_be_made_is_a_data_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="could not be written"), atomically(tmp_path / "file" / "out.nii"):
        pass


def test_a_failing_block_leaves_nothing(tmp_path):
    def fail(path):
        path.write_text("half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), atomically(tmp_path / "new" / "out.nii") as temporary:
        fail(temporary)
    assert not list((tmp_path / "new").iterdir())


def test_two_threads_that_write_one_file_do_not_disturb_each_other(tmp_path):
    file = tmp_path / "dataset.json"
    with atomically(file) as temporary:
        temporary.write_text("first")
        other = threading.Thread(target=write_text, args=(file, "second"))
        other.start()
        other.join()
        assert file.read_text() == "second"
        assert temporary.read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["dataset.json"]
    assert file.read_text() == "first"


def test_texts_are_written_as_a_whole(tmp_path):
    write_text(tmp_path / "new" / "notes.txt", "first")
    write_text(tmp_path / "new" / "notes.txt", "second")
    assert (tmp_path / "new" / "notes.txt").read_text() == "second"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["notes.txt"]


def test_records_of_a_file_that_was_cut_off_or_is_not_there(tmp_path):
    assert read_records(tmp_path / "none.jsonl") == []
    (tmp_path / "some.jsonl").write_text('{"a": 1}\n{"a": 2}\n{"a": ')
    assert read_records(tmp_path / "some.jsonl") == [{"a": 1}, {"a": 2}]


def test_a_finished_folder_replaces_what_had_its_name(tmp_path):
    for name in ("partial", "folder"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"of_{name}").touch()
    finish_folder(tmp_path / "partial", tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["of_partial"]


@pytest.mark.parametrize("links", [True, False])
def test_a_file_is_linked_or_where_that_is_impossible_copied(tmp_path, monkeypatch, links):
    def refuse(source, target):
        raise OSError("no links here")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "a").write_text("text")
    link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "text"
    assert (tmp_path / "a").samefile(tmp_path / "b") is links


def test_a_file_error_comes_through_from_another_process():
    error = pickle.loads(pickle.dumps(FileError(Path("a.nii"), "expected this, found that", "do so")))
    assert str(error) == "a.nii: expected this, found that; do so"
    assert (error.file, error.problem, error.remedy) == (Path("a.nii"), "expected this, found that", "do so")
