"""Checksums of the files of a cache, which tell damage and cost less than reading the files does."""

import zlib
from pathlib import Path

CHECKSUM = ".crc32"
"""The ending of the file that holds the checksum of a layer of labels; those of the others are in the index."""

MOST_DIGITS = 10
"""The digits of the largest checksum."""


def checksum(path: Path) -> int:
    """The checksum of a file."""
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            value = zlib.crc32(chunk, value)
    return value


def checksum_beside(path: Path) -> int | None:
    """The checksum in the file beside a layer; None where there is none, as in caches of earlier versions."""
    file = path.with_suffix(CHECKSUM)
    if not file.exists():
        return None
    written = file.read_bytes().strip()
    return int(written) if written.isdigit() and len(written) <= MOST_DIGITS else -1
