"""What the index of a cache says, and that it can be believed: a run folder may come from somebody else."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat

from scribbleseg.data.formats.plain import HEADERS
from scribbleseg.files import check_plain, is_file_name, read_json

MOST = 2**31 - 1
"""The most slices or pixels along an axis."""

Count = Annotated[int, Field(ge=1, le=MOST)]
Row = Annotated[list[FiniteFloat], Field(min_length=4, max_length=4)]
Label = Annotated[int, Field(ge=0, le=254)]


def _file_name(name: str) -> str:
    if not is_file_name(name):  # label maps are written by these names
        raise ValueError("the name of a case has to be that of a file, without a folder")
    return name


def _header_class(name: str) -> str:
    if name not in HEADERS:
        raise ValueError(f"expected one of {', '.join(HEADERS)}")
    return name


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class _Header(_Model):
    kind: Annotated[str, AfterValidator(_header_class), Field(alias="class")]
    endianness: Literal["<", ">"]
    fields: dict[str, Any]


class _Geometry(_Model):
    shape: Annotated[list[Count], Field(min_length=3, max_length=3)]
    affine: Annotated[list[Row], Field(min_length=4, max_length=4)]
    suffix: str
    header: _Header | None


class _Case(_Model):
    slices: Count
    pixels: Annotated[int, Field(ge=0)]
    spacing_mm: Annotated[list[Annotated[FiniteFloat, Field(gt=0)]], Field(min_length=3, max_length=3)]
    present: list[Label] | None
    geometry: _Geometry | None = None  # 0.1 has none
    files: str | None = None
    strokes: str | None = None  # before 0.3 there are none


class _Key(_Model):
    preprocess: dict[str, Any]
    cases: list[str]


class _Index(_Model):
    key: _Key
    fingerprint: str = ""  # 0.1 has none
    shape: Annotated[list[Count], Field(min_length=3, max_length=3)]
    images_as: Literal["float16", "float32"] = "float32"  # before 0.3 there is none
    cases: Annotated[dict[Annotated[str, AfterValidator(_file_name)], _Case], Field(min_length=1)]
    checksums: dict[str, int] = {}


def made_again(folder: Path) -> str:
    """What to do about a damaged cache."""
    return f"delete {folder} and go on with `train --resume`, which makes it again"


def read_index(folder: Path) -> dict[str, Any]:
    """Reads the index of the cache in a folder.

    Raises:
        FileError: it is missing or damaged, holds other values than an index does, or names a case by what is no name
            of a file, such as "../x".
    """
    remedy = made_again(folder)
    index = read_json(folder / "index.json", remedy)
    check_plain(folder / "index.json", index, _Index.model_validate, remedy)
    return index
