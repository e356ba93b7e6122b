"""How a content lies in a file of the store: one record behind the other, each of which tells whether it is sound."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import xxhash

_LENGTHS = struct.Struct("<4sHI")
"""Magic, bytes of the name, bytes of the content."""
_CHECKS = struct.Struct("<I16s")
"""The CRC of these, for what is behind them is found by them; and the XXH3 digest (128 bits) of name and content."""
_MAGIC = b"nov2"
HEADER_BYTES = _LENGTHS.size + _CHECKS.size


class DamagedError(ValueError):
    """What was read is no record, or not the one that was written."""


class Extent(NamedTuple):
    """Where a part of a file of the store is, which others may have replaced since."""

    inode: int
    start: int
    end: int


class Place(NamedTuple):
    """Where a record lies in what was read, which goes on behind it at `end`."""

    name: bytes
    start: int
    content: int
    end: int


def header(name: bytes, content: bytes | memoryview) -> bytes:
    """What stands in front of `content`."""
    lengths = _LENGTHS.pack(_MAGIC, len(name), len(content))
    return lengths + _CHECKS.pack(zlib.crc32(lengths), _digest(name, content)) + name


def places(data: bytes) -> Iterator[Place]:
    """The records in `data`, whose contents are not checked. DamagedError.

    The last may be in part, for it is being written; that one is left out.
    """
    start = 0
    while start + HEADER_BYTES <= len(data):
        magic, name_bytes, content_bytes = _LENGTHS.unpack_from(data, start)
        told, _ = _CHECKS.unpack_from(data, start + _LENGTHS.size)
        if magic != _MAGIC or told != zlib.crc32(data[start : start + _LENGTHS.size]):
            raise DamagedError
        content = start + HEADER_BYTES + name_bytes
        end = content + content_bytes
        if end > len(data):
            return
        yield Place(data[start + HEADER_BYTES : content], start, content, end)
        start = end


def content_at(data: bytes, place: Place) -> bytes:
    """The content of a record in `data`. DamagedError."""
    content = data[place.content : place.end]
    if _CHECKS.unpack_from(data, place.start + _LENGTHS.size)[1] != _digest(place.name, content):
        raise DamagedError
    return content


def check(head: bytes, content: bytes) -> None:
    """DamagedError unless `content` is what was written with `head`, the header of a record without a name."""
    if head != header(b"", content):
        raise DamagedError


def _digest(name: bytes, content: bytes | memoryview) -> bytes:
    digest = xxhash.xxh3_128(name)
    digest.update(content)
    return digest.digest()
