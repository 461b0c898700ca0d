"""Checksums of files: what is stored beside the voxels in gzip, zlib and PNG, and what reading libraries pass over.

A file with one flipped bit often still unpacks, to other voxels. Uncompressed NIfTI, NRRD, MetaImage and DICOM have no
checksum: nobody can tell.
"""

import gzip
import re
import struct
import zlib
from io import BufferedReader
from pathlib import Path

from scribbleseg.data.formats.checks import damage_reported

CHUNK = 2**20
"""Bytes that are read at a time."""

GZIP_OR_ZLIB = 47
"""The window size by which zlib recognises both kinds of streams by their headers."""

PNG_SIGNATURE = 8
"""The bytes before the first chunk."""


def read_to_end(stream: gzip.GzipFile) -> None:
    """Read what is left of a gzip stream, which compares its checksum at the end. Raises what `gzip` raises."""
    while stream.read(CHUNK):
        pass


def check_png(path: Path) -> None:
    """Compare the checksum of every chunk of a PNG. Raises FileError."""
    with damage_reported(path), path.open("rb") as file:
        file.seek(PNG_SIGNATURE)
        kind = b""
        while kind != b"IEND":
            length, kind = struct.unpack(">I4s", file.read(8))
            content, checksum = file.read(length), file.read(4)
            if len(checksum) < 4 or zlib.crc32(kind + content) != int.from_bytes(checksum):
                raise ValueError(f"the checksum of its part {kind.decode('ascii', 'replace')} is another")


def unpacked_bytes(path: Path) -> int | None:
    """Unpack the voxels of an NRRD or MetaImage to compare their checksum, and return how many bytes they are.

    Returns:
        None for one whose voxels are not compressed, or lie in several files.

    Raises:
        FileError: the checksum is another, or something is missing.
    """
    with damage_reported(path), path.open("rb") as file:
        where = _packed(path, file)
        if where is None:
            return None
        packed, begin, length = where
        with packed.open("rb") as stream:
            stream.seek(begin)
            return _unpack(stream, length)


def _packed(path: Path, file: BufferedReader) -> tuple[Path, int, int | None] | None:
    """The file that holds the compressed voxels, where they begin in it, and their length where the header has it."""
    fields: dict[str, str] = {}
    for line in iter(file.readline, b""):
        words = re.split(r"\s*:=?\s*|\s*=\s*", line.decode("utf-8", "replace").strip(), maxsplit=1)
        if words == [""]:
            break
        if len(words) == 2:
            fields[words[0]] = words[1]
        if words[0] == "ElementDataFile":
            break
    length: int | None = None
    if "ElementDataFile" in fields:  # MetaImage, whose names are as they are
        if fields.get("CompressedData", "").lower()[:1] not in ("t", "1", "y"):
            return None
        name = "" if fields["ElementDataFile"].upper() == "LOCAL" else fields["ElementDataFile"]
        if "CompressedDataSize" in fields:
            length = int(fields["CompressedDataSize"])
        elif not name:  # ITK would read something else
            raise ValueError("its header does not say how long the compressed voxels are (CompressedDataSize)")
    else:
        fields = {key.lower().replace(" ", ""): value for key, value in fields.items()}
        if fields.get("encoding", "").lower() not in ("gzip", "gz") or int(fields.get("lineskip", 0)):
            return None
        name = fields.get("datafile", "")
    if not name:
        return path, file.tell(), length
    return (path.parent / name, 0, length) if (path.parent / name).is_file() else None


def _unpack(stream: BufferedReader, length: int | None) -> int:
    """Unpack a stream, and return the number of bytes that come out. Raises ValueError or zlib.error for damage."""
    unpacking = zlib.decompressobj(GZIP_OR_ZLIB)
    read = unpacked = 0
    while not unpacking.eof and (packed := stream.read(CHUNK)):
        read += len(packed)
        unpacked += len(unpacking.decompress(packed))
    if not unpacking.eof:
        raise ValueError("its compressed voxels are cut off")
    used = read - len(unpacking.unused_data)
    if length is not None and used != length:
        raise ValueError(f"its header announces {length} compressed bytes, and there are {used}")
    return unpacked
