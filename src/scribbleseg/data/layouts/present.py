"""Image-level labels: which structures are known to be in each case, as present.json or present.csv in a folder.

    present.json    {"CASE": ["ED", "ET"], ...}
    present.csv     case,NCR/NET,ED,ET        one line a case, a column for each structure, 1 present or 0 absent
                    CASE,0,1,1

Structures are named as in the data set. `{"CASE": []}` says that none of them is there; a case that is not listed says
nothing.
"""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

from scribbleseg.files import FileError, atomically, parsed


def read_present(folder: Path, label_names: Sequence[str]) -> dict[str, frozenset[int]] | None:
    """Reads the labels of the structures in each listed case; None where the folder has no such file.

    Args:
        folder: the folder of present.json or present.csv.
        label_names: the name of each label; `label_names[0]` is the background, which is never listed.

    Raises:
        FileError: both files are there, one is malformed, names a structure that the data set does not have or (CSV) a
            case twice, or has a cell that is neither 0 nor 1.
    """
    files = [file for name in ("present.json", "present.csv") if (file := folder / name).is_file()]
    if not files:
        return None
    if len(files) > 1:
        raise FileError(folder, "expected present.json or present.csv, found both", "keep one")
    [file] = files
    values = {name: value for value, name in enumerate(label_names) if value}
    listed = _read_json(file) if file.suffix == ".json" else _read_csv(file, values)
    return {case: frozenset(_value(file, case, name, values) for name in names) for case, names in listed.items()}


def write_present(path: Path, present: Mapping[str, frozenset[int]], label_names: Sequence[str]) -> None:
    """Writes what `read_present` reads, atomically, the cases in the order of `present`.

    Args:
        path: a present.json.
        present: the labels of the structures in each case; 0, the background, is not one of them.
        label_names: the name of each label.

    Raises:
        FileError: the file cannot be written.
        ValueError: the name is another one, or a label is not one of a structure.
    """
    if path.name != "present.json":
        raise ValueError(f"expected a path that ends in present.json, got {path}")
    structures = range(1, len(label_names))
    for case, labels in present.items():
        if unknown := sorted(set(labels) - set(structures)):
            raise ValueError(f"case {case}: expected labels of structures, {list(structures)}, got {unknown}")
    names = {case: [label_names[label] for label in sorted(labels)] for case, labels in present.items()}
    lines = ",\n".join(f"  {json.dumps(case)}: {json.dumps(listed)}" for case, listed in names.items())
    with atomically(path) as temporary:
        temporary.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


def _read_json(file: Path) -> dict[str, list[str]]:
    remedy = 'write {"CASE": ["NAME", ...], ...}'
    try:
        listed = parsed(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise FileError(file, f"expected a JSON object, could not read it ({error})", remedy) from error
    if not isinstance(listed, dict):
        raise FileError(file, f"expected a JSON object, found {json.dumps(listed)[:60]}", remedy)
    for case, names in listed.items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise FileError(
                file, f"case {case}: expected a list of names of structures, found {json.dumps(names)}", remedy
            )
    return listed


def _read_csv(file: Path, structures: Iterable[str]) -> dict[str, list[str]]:
    header = ["case", *structures]
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
        delimiter = ";" if lines and ";" in lines[0] else ","  # what spreadsheets write where a comma is in numbers
        rows = list(csv.reader(lines, strict=True, delimiter=delimiter))
    except (OSError, ValueError, csv.Error) as error:
        raise FileError(file, f"expected a CSV file, could not read it ({error})", "correct it") from error
    rows = [[cell.strip() for cell in row] for row in rows if any(cell.strip() for cell in row)]
    columns = rows[0] if rows else []
    if columns[:1] != ["case"] or sorted(columns) != sorted(header):
        raise FileError(
            file,
            f"expected the columns {','.join(header)}, found {','.join(columns) or 'none'}",
            "write this header; every structure needs a column",
        )
    listed: dict[str, list[str]] = {}
    for case, *cells in rows[1:]:
        if case in listed:
            raise FileError(file, f"case {case}: expected one line, found two", "keep one")
        if len(cells) != len(columns) - 1 or not set(cells) <= {"0", "1"}:
            raise FileError(
                file,
                f"case {case}: expected 0 or 1 in each of the columns {','.join(columns[1:])}, found {','.join(cells)}",
                "write 1 where the structure is present, 0 where it is not",
            )
        listed[case] = [name for name, cell in zip(columns[1:], cells, strict=True) if cell == "1"]
    return listed


def _value(file: Path, case: str, name: str, values: Mapping[str, int]) -> int:
    if name in values:
        return values[name]
    similar = get_close_matches(name, values, n=1, cutoff=0.3)
    raise FileError(
        file,
        f"case {case}: expected structures among {', '.join(values)}, found {name}",
        f"write {similar[0]}, if that is what it means" if similar else "correct the name",
    )
