"""What is received: the bodies of replies (MS-SMB2 section 2.2), and the structures of MS-FSCC in them.

Offsets on the wire count from the header. A body that makes no sense is a ProtocolError, never an IndexError.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

from netoverlay_smb.names import decode_utf16
from netoverlay_smb.protocol import HEADER_BYTES, FileAttributes, ProtocolError

_CREATED = struct.Struct("<HBBIQQQQQQII16sII")
_READ = struct.Struct("<HBBIII")
_BUFFER = struct.Struct("<HHI")
_WRITTEN = struct.Struct("<HHI")
_IOCTL = struct.Struct("<HHI16sIIII")
_ALL = struct.Struct("<QQQQIIQQIBBHQI")
_STANDARD = struct.Struct("<QQI")
_LISTED = struct.Struct("<IIQQQQQQIIIIQ")
_LISTED_BOTH = struct.Struct("<IIQQQQQQIIIB1x24sHQ")
_FULL_SIZE = struct.Struct("<QQQII")
_VOLUME = struct.Struct("<IiI")
_RESUME_KEY = struct.Struct("<24s")
_COPIED = struct.Struct("<III")
_RANGE = struct.Struct("<QQ")
_CONTEXT = struct.Struct("<IHHHHI")
_OPLOCK_BREAK = struct.Struct("<HBBI16s")
_LEASE_BREAK = struct.Struct("<HHI16sII")
_UINT32 = struct.Struct("<I")
_NAME_LENGTH_AT = 96
_EPOCH_TICKS = 116_444_736_000_000_000
"""1970 in units of 100 ns since 1601 (MS-DTYP 2.3.3)."""
_ACK_REQUIRED = 1
_OVERLAP = "the server sent a listing whose entries overlap or lie outside of it"
"""Such a one would make gigabytes of names out of kilobytes."""
# As plain numbers where tens of thousands are looked at: an operation on flags costs several times as much.
_DIRECTORY = int(FileAttributes.DIRECTORY)
_REPARSE_POINT = int(FileAttributes.REPARSE_POINT)


class Created(NamedTuple):
    """2.2.14: what was opened."""

    handle: bytes
    oplock: int
    action: int
    attributes: int
    contexts: bytes


class FileFacts(NamedTuple):
    """What the server tells of a file in one piece. Times in nanoseconds since 1970."""

    mtime_ns: int
    atime_ns: int
    ctime_ns: int
    size: int
    allocated: int
    attributes: int
    file_id: int
    nlink: int | None
    ea_size: int | None = None
    """Of its extended attributes; 0 if it has none."""

    @property
    def is_directory(self) -> bool:
        return bool(self.attributes & _DIRECTORY)


class Listed(NamedTuple):
    """One entry of a directory."""

    name: str
    """As on the wire."""
    facts: FileFacts
    reparse_tag: int
    """Of a reparse point, else 0 or the size of its extended attributes."""
    unix_mode: int
    """With AAPL's listing (Apple's extension): the whole st_mode; else 0."""


class Volume(NamedTuple):
    """MS-FSCC 2.5.1."""

    flags: int
    max_name_units: int
    kind: str
    """As "NTFS"."""


class VolumeSize(NamedTuple):
    """MS-FSCC 2.5.4, in bytes."""

    total: int
    available: int
    free: int
    unit: int


class Copied(NamedTuple):
    """2.2.32.1: what was copied; with STATUS_INVALID_PARAMETER the most that the server takes of each."""

    chunks: int
    chunk_bytes: int
    """Of a chunk that was copied in part; or the most that one may have."""
    total_bytes: int


class OplockBreak(NamedTuple):
    """2.2.23.1."""

    handle: bytes
    level: int


class LeaseBreak(NamedTuple):
    """2.2.23.2."""

    key: bytes
    state: int
    """The new one."""
    must_acknowledge: bool


def to_ns(ticks: int) -> int:
    """Nanoseconds since 1970 from 100 ns since 1601."""
    return (ticks - _EPOCH_TICKS) * 100


def to_ticks(nanoseconds: int) -> int:
    """Rounded down. At least 1, for 0 means to leave a time as it is (MS-FSCC 2.4.7)."""
    return max(1, nanoseconds // 100 + _EPOCH_TICKS)


def _unpack(layout: struct.Struct, body: bytes, offset: int = 0) -> tuple[Any, ...]:
    try:
        return layout.unpack_from(body, offset)
    except struct.error as error:
        raise ProtocolError(f"the server sent a reply of {len(body)} bytes, which is too short") from error


def _part(body: bytes, offset: int, length: int) -> bytes:
    return _within(body, offset - HEADER_BYTES, length)


def _within(whole: bytes, start: int, length: int) -> bytes:
    if length and (start < 0 or start + length > len(whole)):
        raise ProtocolError("the server sent a reply whose parts lie outside of it")
    return whole[start : start + length] if length else b""


def created(body: bytes) -> Created:
    """The reply to CREATE."""
    fields = _unpack(_CREATED, body)
    return Created(fields[12], fields[1], fields[3], fields[10], _part(body, fields[13], fields[14]))


def create_contexts(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """2.2.14.2: names and data of a chain of contexts."""
    while data:
        following, name_at, name_bytes, _, data_at, data_bytes = _unpack(_CONTEXT, data)
        entry = data[:following] if following else data
        if following > len(data) - _CONTEXT.size or 0 < following < _CONTEXT.size:
            raise ProtocolError("the server sent contexts that overlap or lie outside of their reply")
        yield _within(entry, name_at, name_bytes), _within(entry, data_at, data_bytes)
        data = data[following:] if following else b""


def read_payload(body: bytes) -> tuple[int, int]:
    """Where in the message the data of a READ reply begins, and its length in bytes (2.2.20)."""
    fields = _unpack(_READ, body)
    return fields[1], fields[3]


def read_data(body: bytes) -> bytes:
    """The data of a READ reply."""
    return _part(body, *read_payload(body))


def written(body: bytes) -> int:
    """The bytes that a WRITE wrote (2.2.22)."""
    count: int = _WRITTEN.unpack_from(body)[2] if len(body) >= _WRITTEN.size else 0
    return count


def info(body: bytes) -> bytes:
    """What QUERY_INFO or QUERY_DIRECTORY found (2.2.38, 2.2.34)."""
    _, offset, length = _unpack(_BUFFER, body)
    return _part(body, offset, length)


def controlled(body: bytes) -> bytes:
    """The output of an IOCTL (2.2.32)."""
    fields = _unpack(_IOCTL, body)
    return _part(body, fields[6], fields[7])


def resume_key(body: bytes) -> bytes:
    """The key of a source (2.2.32.3), out of the reply to an IOCTL."""
    (key,) = _unpack(_RESUME_KEY, controlled(body))
    return bytes(key)


def copied(body: bytes) -> Copied:
    """2.2.32.1, out of the reply to an IOCTL."""
    return Copied(*_unpack(_COPIED, controlled(body)))


def all_information(data: bytes) -> FileFacts:
    """MS-FSCC 2.4.2."""
    fields = _unpack(_ALL, data)
    _, accessed, modified, changed, attributes, _, allocated, size, nlink, _, _, _, number, ea_size = fields
    times = to_ns(modified), to_ns(accessed), to_ns(changed)
    known_size = None if attributes & _REPARSE_POINT else ea_size
    return FileFacts(*times, size, allocated, attributes, number, nlink, known_size)


def link_count(data: bytes) -> int:
    """MS-FSCC 2.4.47."""
    count: int = _unpack(_STANDARD, data)[2]
    return count


def name_of_all(data: bytes) -> str:
    """The path on the share that is at the end of MS-FSCC 2.4.2."""
    (length,) = _unpack(_UINT32, data, _NAME_LENGTH_AT)
    start = _NAME_LENGTH_AT + _UINT32.size
    return decode_utf16(data[start : start + length])


def listed(data: bytes) -> list[Listed]:
    """MS-FSCC 2.4.18, FileIdFullDirectoryInformation."""
    found = []
    at = 0
    end = len(data)
    unpack = _LISTED.unpack_from
    while data:
        try:
            fields = unpack(data, at)
        except struct.error as error:
            raise ProtocolError("the server sent a listing that ends in the middle of an entry") from error
        following, _, _, accessed, modified, changed, size, allocated, attributes, length, tag, _, number = fields
        ea_size = None if attributes & _REPARSE_POINT else tag
        if at + 80 + length > end or 0 < following < 80 + length:
            raise ProtocolError(_OVERLAP)
        name = decode_utf16(data[at + 80 : at + 80 + length])
        times = to_ns(modified), to_ns(accessed), to_ns(changed)
        facts = FileFacts(*times, size, allocated, attributes, number, None, ea_size)
        found.append(Listed(name, facts, tag, 0))
        if not following:
            break
        at += following
    return found


def listed_with_modes(data: bytes) -> list[Listed]:
    """MS-FSCC 2.4.17, FileIdBothDirectoryInformation, as filled in by servers that speak AAPL.

    There the two bytes after the short name (Reserved2) hold the mode.
    """
    found = []
    at = 0
    while data:
        fields = _unpack(_LISTED_BOTH, data, at)
        following, _, _, accessed, modified, changed, size, allocated, attributes, length, tag = fields[:11]
        mode, number = fields[13:]
        if at + 104 + length > len(data) or 0 < following < 104 + length:
            raise ProtocolError(_OVERLAP)
        name = decode_utf16(data[at + 104 : at + 104 + length])
        facts = FileFacts(to_ns(modified), to_ns(accessed), to_ns(changed), size, allocated, attributes, number, None)
        found.append(Listed(name, facts, tag, mode))
        if not following:
            break
        at += following
    return found


def volume(data: bytes) -> Volume:
    """MS-FSCC 2.5.1."""
    flags, units, length = _unpack(_VOLUME, data)
    return Volume(flags, units, decode_utf16(data[12 : 12 + length]))


def volume_size(data: bytes) -> VolumeSize:
    """MS-FSCC 2.5.4."""
    total, available, free, sectors, bytes_each = _unpack(_FULL_SIZE, data)
    unit = sectors * bytes_each
    return VolumeSize(total * unit, available * unit, free * unit, unit)


def ranges(data: bytes) -> list[tuple[int, int]]:
    """MS-FSCC 2.3.54: offset and length of what is allocated."""
    return [(start, length) for start, length in _RANGE.iter_unpack(data[: len(data) // 16 * 16])]


def broken(body: bytes) -> OplockBreak | LeaseBreak:
    """A notification that an oplock or a lease is broken (2.2.23)."""
    if len(body) >= 2 and body[0] == 44:
        _, _, flags, key, _, state = _unpack(_LEASE_BREAK, body)
        return LeaseBreak(key, state, bool(flags & _ACK_REQUIRED))
    fields = _unpack(_OPLOCK_BREAK, body)
    return OplockBreak(fields[4], fields[1])
