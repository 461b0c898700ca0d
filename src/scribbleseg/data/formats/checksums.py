"""Checksums of files: what is stored beside the voxels in gzip, zlib and PNG, and what reading libraries pass over.

A file with one flipped bit often still unpacks, to other voxels. Uncompressed NIfTI, NRRD, MetaImage and DICOM have no
checksum: nobody can tell.
"""

import gzip
import struct
import zlib
from io import BufferedReader
from pathlib import Path

from scribbleseg.data.formats.checks import damage_reported
from scribbleseg.data.formats.headers import Header, read_header

CHUNK = 2**20
"""Bytes that are read at a time."""

MOST_BEHIND = 2**24
"""The most bytes behind the voxels of a .nii.gz that are unpacked to reach the checksum (ours)."""

GZIP_OR_ZLIB = 47
"""The window size by which zlib recognises both kinds of streams by their headers."""

PNG_SIGNATURE = 8
"""The bytes before the first chunk."""


def read_to_end(stream: gzip.GzipFile) -> None:
    """Read what is left of a gzip stream, which compares its checksum at the end.

    Raises:
        ValueError: there is much more than the voxels.
        Exception: what `gzip` raises for damage.
    """
    left = 0
    while some := stream.read(CHUNK):
        left += len(some)
        if left > MOST_BEHIND:
            raise ValueError("there is much more in it than the voxels that its header announces")


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
            if kind == b"IHDR" and file.tell() > PNG_SIGNATURE + 25:  # Pillow would believe the last one
                raise ValueError("expected its header (IHDR) once, at its beginning, found it elsewhere")


def check_packed(path: Path) -> None:
    """Unpack the voxels of a compressed NRRD or MetaImage, which compares their checksum. Keeps none of them.

    Raises:
        FileError: the checksum is another, or there are more or fewer bytes than the header says.
    """
    header = read_header(path)
    with damage_reported(path):
        if header.compressed:
            with header.data.open("rb") as stream:
                stream.seek(header.begin)
                _unpack(stream, header)


def _unpack(stream: BufferedReader, header: Header) -> None:
    """Unpack a stream, a little at a time. Raises ValueError or zlib.error for damage."""
    unpacking = zlib.decompressobj(GZIP_OR_ZLIB)
    read = unpacked = 0
    while not unpacking.eof and unpacked <= header.n_bytes:
        packed = unpacking.unconsumed_tail or stream.read(CHUNK)
        read += 0 if unpacking.unconsumed_tail else len(packed)
        some = len(unpacking.decompress(packed, CHUNK))
        unpacked += some
        if not packed and not some:
            raise ValueError("its compressed voxels are cut off")
    if unpacked != header.n_bytes:
        more = "more" if unpacked > header.n_bytes else str(unpacked)
        raise ValueError(f"expected {header.n_bytes} bytes of voxels, as its header says, found {more}")
    used = read - len(unpacking.unused_data)
    if header.packed_bytes not in (None, used):
        raise ValueError(f"its header announces {header.packed_bytes} compressed bytes, and there are {used}")
