"""What is known of the work on a case beside its strokes: a small JSON file beside its scribbles.

CASE_annotation.json    who drew, for how long, how many strokes and voxels of each class, when, and whether the
case is done or was flagged with a note
"""

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from scribbleseg.files import write_text

Count = Field(default=0, ge=0)


class Record(BaseModel):
    """The record of one case and one annotator.

    Args:
        annotator: the name of the person who drew, or "".
        done: whether that person is done with the case.
        flag: a note on what is wrong with the case; "" is none.
        seconds: the time of drawing, pauses of more than a few seconds left out.
        strokes: how many strokes of each class were drawn, those that were undone included.
        ink_voxels: how many voxels of each class the scribbles have.
        slices_drawn: in how many slices of the plane that is drawn in there are scribbles.
        begun: the time of the first change, ISO 8601.
        changed: that of the last.
    """

    model_config = ConfigDict(extra="ignore")

    annotator: str = ""
    done: bool = False
    flag: str = ""
    seconds: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    strokes: dict[str, int] = {}
    ink_voxels: dict[str, int] = {}
    slices_drawn: int = Count
    begun: str = ""
    changed: str = ""

    def worked(self, annotator: str, seconds: float, strokes: Mapping[str, int]) -> "Record":
        """Returns the record after some more work, which ends now."""
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        total = {**self.strokes}
        for name, n in strokes.items():
            total[name] = total.get(name, 0) + n
        work = {"seconds": round(self.seconds + seconds, 1), "strokes": total, "begun": self.begun or now}
        return self.model_copy(update={"annotator": annotator, "changed": now, **work})


State = Literal["untouched", "begun", "done"]


def record_file(folder: Path, name: str) -> Path:
    """The file of a case's record. It ends in a way that no case's scribbles do."""
    return folder / f"{name}_annotation.json"


def read_record(folder: Path, name: str) -> Record | None:
    """Reads the record of a case; None where there is none, or none that can be read."""
    try:
        return Record.model_validate_json(record_file(folder, name).read_bytes())
    except (OSError, ValidationError):
        return None


def write_record(folder: Path, name: str, record: Record) -> None:
    """Writes the record of a case, atomically. Raises FileError."""
    text = json.dumps({"case": name, **record.model_dump()}, indent=2, ensure_ascii=False)
    write_text(record_file(folder, name), text + "\n")
