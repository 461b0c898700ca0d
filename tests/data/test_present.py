import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scribbleseg.data.layouts.present import read_present, write_present
from scribbleseg.types import DataError

NAMES = ("background", "NCR/NET", "ED", "ET")
HEADER = "case,NCR/NET,ED,ET\n"


def test_both_files_say_the_same(tmp_path):
    for name in ("json", "csv"):
        (tmp_path / name).mkdir()
    (tmp_path / "json" / "present.json").write_text('{"a": ["ET", "ED"], "b": []}')
    # Excel's byte-order mark and line ends, columns in another order, spaces, an empty last line.
    (tmp_path / "csv" / "present.csv").write_bytes(b"\xef\xbb\xbfcase,ET,ED,NCR/NET\r\na, 1,1,0\r\nb,0,0,0\r\n\r\n")
    for name in ("json", "csv"):
        assert read_present(tmp_path / name, NAMES) == {"a": {2, 3}, "b": set()}


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.frozensets(st.integers(1, 3))))
def test_what_is_written_is_read(tmp_path_factory, present):
    folder = tmp_path_factory.mktemp("written")
    write_present(folder / "present.json", present, NAMES)
    assert read_present(folder, NAMES) == present
    assert list(read_present(folder, NAMES)) == list(present)


def test_no_file_is_not_an_empty_one(tmp_path):
    assert read_present(tmp_path, NAMES) is None
    write_present(tmp_path / "present.json", {}, NAMES)
    assert read_present(tmp_path, NAMES) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": ["EDEMA"]}', "case a: expected structures among NCR/NET, ED, ET, found EDEMA; write ED"),
        ('{"a": ["background"]}', "case a: expected structures among NCR/NET, ED, ET, found background"),
        ('{"a": "ET"}', 'case a: expected a list of names of structures, found "ET"'),
        ('{"a": [3]}', r"case a: expected a list of names of structures, found \[3\]"),
        ('["a"]', r'expected a JSON object, found \["a"\]'),
        ('{"a": ', "expected a JSON object, could not read it"),
        (HEADER + "a,0,2,1", "case a: expected 0 or 1 in each of the columns NCR/NET,ED,ET, found 0,2,1"),
        (HEADER + "a,0,,1", "case a: expected 0 or 1 .* found 0,,1"),
        (HEADER + "a,0,1", "case a: expected 0 or 1 .* found 0,1"),
        (HEADER + "a,0,1,1\na,0,1,0", "case a: expected one line, found two"),
        ("case,NCR/NET,ED\na,0,1", "expected the columns case,NCR/NET,ED,ET, found case,NCR/NET,ED;"),
        ("case,NCR/NET,ED,ETT\na,0,1,1", "expected the columns case,NCR/NET,ED,ET, found case,NCR/NET,ED,ETT"),
        ("\n", "expected the columns case,NCR/NET,ED,ET, found none"),
        ('case,"NCR/NET,ED,ET\n', "expected a CSV file, could not read it"),
    ],
)
def test_files_that_make_no_sense_are_refused(tmp_path, text, message):
    file = tmp_path / ("present.json" if text[0] in "{[" else "present.csv")
    file.write_text(text)
    with pytest.raises(DataError, match=f"{file}: {message}"):
        read_present(tmp_path, NAMES)


def test_two_files_are_one_too_many(tmp_path):
    for name in ("present.json", "present.csv"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(DataError, match=r"expected present\.json or present\.csv, found both; keep one"):
        read_present(tmp_path, NAMES)


def test_mistakes_in_calling_code(tmp_path):
    with pytest.raises(ValueError, match=r"case a: expected labels of structures, \[1, 2, 3\], got \[0, 4\]"):
        write_present(tmp_path / "present.json", {"a": frozenset({0, 1, 4})}, NAMES)
    with pytest.raises(ValueError, match=r"ends in present\.json"):
        write_present(tmp_path / "present.csv", {}, NAMES)
    assert not list(tmp_path.iterdir())


def test_the_file_is_one_line_a_case(tmp_path):
    write_present(tmp_path / "present.json", {"b": frozenset({3, 1}), "a": frozenset()}, NAMES)
    text = (tmp_path / "present.json").read_text()
    assert text == '{\n  "b": ["NCR/NET", "ET"],\n  "a": []\n}\n'
    assert json.loads(text)
