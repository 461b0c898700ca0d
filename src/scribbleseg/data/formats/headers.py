"""Headers of NRRD and MetaImage as text: read strictly, so that ITK is given no file that could lead it astray.

ITK believes what a header says: it allocates whatever is claimed, crashes on some numbers of dimensions, and reads
voxels from any file that is named, wherever it lies. Here the voxels are in the same file, or in one other file in the
same folder.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path

from scribbleseg.data.formats.checks import DEFLATE_RATIO, check_claim, damage_reported
from scribbleseg.data.formats.names import META, ending
from scribbleseg.files import FileError
from scribbleseg.plural import number_of

HEADER_BYTES = 2**20
"""Where a header ends at the latest (ours): those of 3D Slicer with hundreds of segments take a tenth of it."""

MOST_DIMENSIONS = 16
"""The most dimensions that NRRD has."""

NRRD_END, META_END = (
    re.compile(rb"\r?\n\r?\n"),
    re.compile(rb"ElementDataFile[^\n]*(?:\n|\Z)"),
)
"""What ends a header: an empty line, or the line that names the voxels' file."""

META_NUMBERS = {
    **dict.fromkeys(("ID", "ParentID", "NDims", "HeaderSize", "CompressedDataSize", "ElementNumberOfChannels"), 0),
    **dict.fromkeys(("ElementMin", "ElementMax", "ElementNBits"), 0),
    **dict.fromkeys(("ElementToIntensityFunctionSlope", "ElementToIntensityFunctionOffset"), 0),
    **dict.fromkeys(
        ("Position", "Offset", "Origin", "CenterOfRotation", "ElementSpacing", "ElementSize", "DimSize"), 1
    ),
    **dict.fromkeys(("Orientation", "Rotation", "TransformMatrix"), 2),
}
"""The fields of MetaImage that hold numbers, by the power of the number of axes. ITK takes what is missing
from the lines that follow, whatever they say."""

NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?", re.IGNORECASE)

META_BYTES = {
    **dict.fromkeys(("MET_CHAR", "MET_UCHAR"), 1),
    **dict.fromkeys(("MET_SHORT", "MET_USHORT"), 2),
    **dict.fromkeys(("MET_INT", "MET_UINT", "MET_LONG", "MET_ULONG", "MET_FLOAT"), 4),
    **dict.fromkeys(("MET_LONG_LONG", "MET_ULONG_LONG", "MET_DOUBLE"), 8),
}
"""The bytes of a value of each type of MetaImage."""

NRRD_BYTES = {
    **dict.fromkeys(("signedchar", "int8", "int8_t", "uchar", "unsignedchar", "uint8", "uint8_t"), 1),
    **dict.fromkeys(("short", "shortint", "signedshort", "signedshortint", "int16", "int16_t"), 2),
    **dict.fromkeys(("ushort", "unsignedshort", "unsignedshortint", "uint16", "uint16_t"), 2),
    **dict.fromkeys(("int", "signedint", "int32", "int32_t", "uint", "unsignedint", "uint32", "uint32_t", "float"), 4),
    **dict.fromkeys(("longlong", "longlongint", "signedlonglong", "signedlonglongint", "int64", "int64_t"), 8),
    **dict.fromkeys(("ulonglong", "unsignedlonglong", "unsignedlonglongint", "uint64", "uint64_t", "double"), 8),
}
"""The bytes of a value of each type of NRRD, by its names without spaces."""

TEXT = ("ascii", "text", "txt")
GZIP = ("gzip", "gz")
NRRD_ENCODINGS = ("raw", "hex", *TEXT, *GZIP)
"""How NRRD stores voxels; ITK has no bzip2."""


@dataclass(frozen=True)
class Header:
    """What the header of a NRRD or MetaImage says, once it has been checked.

    Args:
        text: the header.
        data: the file that holds the voxels, which may be the same one.
        begin: where the voxels begin in it.
        n_bytes: how many bytes the voxels are, once unpacked.
        compressed: whether they are compressed (zlib or gzip).
        packed_bytes: how many bytes they are in the file, where the header says so.
    """

    text: str
    data: Path
    begin: int
    n_bytes: int
    compressed: bool
    packed_bytes: int | None = None


def read_header(path: Path) -> Header:
    """Reads the header of a NRRD or MetaImage, and refuses one that claims what cannot be.

    Raises:
        FileError: missing or damaged, more voxels than the file can hold or than are read at all (`MOST_VALUES`), or
            voxels in another folder or in several files.
    """
    with damage_reported(path):
        with path.open("rb") as file:
            start = file.read(HEADER_BYTES)
        end = (META_END if ending(path) in META else NRRD_END).search(start)
        if end is None and (ending(path) != ".nhdr" or len(start) == HEADER_BYTES):
            raise ValueError(f"its header does not end within {HEADER_BYTES} bytes")
        begin = end.end() if end else len(start)
        text = start[:begin].decode("utf-8", "replace")
        text = text.replace("\r\n", "\n")
        if found := next((name for name in "\0\r" if name in text), None):  # ITK ends lines elsewhere than we would
            raise ValueError(f"expected lines of text as its header, found {found!r} in it")
        return (_meta if ending(path) in META else _nrrd)(path, text, begin)


def _meta(path: Path, text: str, begin: int) -> Header:
    fields: dict[str, str] = {}
    for line in filter(str.strip, text.split("\n")):
        key, equals, value = (part.strip() for part in line.partition("="))
        if not equals or not key or ":" in key:  # which ITK takes for an equals sign
            raise ValueError(f"expected a line KEY = VALUE, found {line[:40]!r}")
        _add(fields, key, value)
    n = _whole(fields, "NDims")
    if n not in (2, 3):
        raise FileError(path, f"expected one 3-D volume, found {n} dimensions", "save one file a channel or time point")
    for key, count in {**{key: n**power for key, power in META_NUMBERS.items()}, "Color": 4, "SequenceID": 4}.items():
        words = fields.get(key, "").split()
        plain = key == "ElementSpacing" or all(map(NUMBER.fullmatch, words))  # NaN there is told apart later
        if key in fields and not (plain and len(words) == count):
            raise ValueError(f"expected {number_of(count, 'number')} as {key}, found {fields[key][:40]!r}")
    sizes, kind = _sizes(fields, "DimSize", n), fields.get("ElementType", "")
    if kind not in META_BYTES:
        raise ValueError(f"expected ElementType among {', '.join(META_BYTES)}, found {kind!r}")
    channels = _whole(fields, "ElementNumberOfChannels") if "ElementNumberOfChannels" in fields else 1
    compressed = fields.get("CompressedData", "").lower()[:1] in ("t", "1", "y")
    text_values = fields.get("BinaryData", "True").lower()[:1] in ("f", "0", "n")
    name = fields.get("ElementDataFile", "")
    local = name in ("LOCAL", "Local", "local")
    packed = None
    if "CompressedDataSize" in fields:
        packed = _whole(fields, "CompressedDataSize")
    elif compressed and local:  # ITK would read something else
        raise ValueError("its header does not say how long the compressed voxels are (CompressedDataSize)")
    data = path if local else _beside(path, name)
    skipped = _whole(fields, "HeaderSize") if "HeaderSize" in fields else 0
    if skipped < -1 or (skipped > 0 and (local or compressed)):  # ITK would read something else
        raise ValueError(f"expected 0 or -1 as HeaderSize, found {skipped}")
    there = data.stat().st_size - (begin if local else max(skipped, 0))
    bits = 8 if text_values else 8 * META_BYTES[kind]  # a number in text takes a byte at least
    check_claim(path, (*sizes, channels), bits, there * (DEFLATE_RATIO if compressed else 1))
    n_bytes = math.prod((*sizes, channels)) * META_BYTES[kind]
    return Header(text, data, begin if local else 0, n_bytes, compressed, packed)


def _nrrd(path: Path, text: str, begin: int) -> Header:
    first, *lines = text.split("\n")
    if not re.fullmatch(r"NRRD000\d", first):
        raise ValueError(f"expected its first line to be NRRD0004 or alike, found {first[:40]!r}")
    fields: dict[str, str] = {}
    for line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        key, colon, value = line.partition(":")
        if not colon:
            raise ValueError(f"expected a line FIELD: VALUE, found {line[:40]!r}")
        if not value.startswith("="):  # else it is KEY:=VALUE, which may stand twice
            _add(fields, "".join(key.lower().split()), value.strip())
    n = _whole(fields, "dimension")
    if not 1 <= n <= MOST_DIMENSIONS:
        raise ValueError(f"expected 1 to {MOST_DIMENSIONS} dimensions, found {n}")
    sizes = _sizes(fields, "sizes", n)
    kind, encoding = (fields.get(key, "").lower().replace(" ", "") for key in ("type", "encoding"))
    if kind not in NRRD_BYTES or encoding not in NRRD_ENCODINGS:
        raise FileError(
            path,
            f"expected numbers encoded as {', '.join(NRRD_ENCODINGS)}, found {kind or 'no type'}, "
            f"{encoding or 'no encoding'}",
            "save it again, as raw or gzip",
        )
    name = fields.get("datafile")
    data = path if name is None else _beside(path, name)
    skipped = _whole(fields, "byteskip") if "byteskip" in fields else 0
    if skipped < -1:
        raise ValueError(f"expected a byte skip of -1 or more, found {skipped}")
    there = data.stat().st_size - (begin if name is None else 0) - max(skipped, 0)
    bits = 8 if encoding in TEXT else 8 * NRRD_BYTES[kind]  # a number in text takes a byte at least
    check_claim(path, sizes, bits, there * (DEFLATE_RATIO if encoding in GZIP else 1))
    compressed = encoding in GZIP and not int(fields.get("lineskip", 0))
    return Header(text, data, begin if name is None else 0, math.prod(sizes) * NRRD_BYTES[kind], compressed)


def _add(fields: dict[str, str], key: str, value: str) -> None:
    if key in fields:
        raise ValueError(f"expected {key} once in its header, found it twice")
    fields[key] = value


def _whole(fields: dict[str, str], key: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,18}", fields.get(key, "")):
        raise ValueError(f"expected a whole number as {key}, found {fields.get(key, 'none')[:40]!r}")
    return int(fields[key])


def _sizes(fields: dict[str, str], key: str, n: int) -> list[int]:
    words = fields.get(key, "").split()
    if len(words) != n or not all(re.fullmatch(r"-?[0-9]{1,18}", word) for word in words):
        raise ValueError(f"expected {n} whole numbers as {key}, found {' '.join(words)[:40]!r}")
    return [int(word) for word in words]


def _beside(path: Path, name: str) -> Path:
    """The file of that name in the folder of the header. Raises FileError where it is none, or leads elsewhere."""
    data = path.parent / name
    if "%" in name or name.startswith("LIST") or name in ("", "-"):
        raise FileError(
            path, f"expected its voxels in one file, found {name[:80]!r} in its header", "save it as one file"
        )
    if data.is_file() and data.samefile(path):
        raise FileError(path, "expected its voxels in another file, found its own name in its header", "name that file")
    elsewhere = Path(name).name != name or "\\" in name or data.resolve().parent != path.parent.resolve()
    if elsewhere:  # a header from elsewhere could have any file on this machine read
        raise FileError(
            path,
            f"expected its voxels in a file in the same folder, found {name[:80]!r} in its header, which leads "
            "elsewhere",
            "put that file beside the header, and its name alone into the header",
        )
    if not data.is_file():
        raise FileError(path, f"expected its voxels in {name[:80]}, found no such file", "put it beside this header")
    return data
