"""Extended attributes: Linux's name space "user." is the whole of what SMB has (FILE_FULL_EA_INFORMATION)."""

from __future__ import annotations

import errno
import struct

from netoverlay.backend_api import os_error
from netoverlay.backend_api.types import NAME_ENCODING, NAME_ERRORS

PREFIX = "user."
MAX_NAME_BYTES = 255
"""Without the prefix."""
MAX_VALUE_BYTES = 0xFFFF

_ENTRY = struct.Struct("<IBBH")
"""Offset of the next entry (0 in the last), flags, bytes of the name without its NUL, of the value (MS-FSCC 2.4.15)."""

EMPTY_MARKER = bytes.fromhex("6e65746f7665726c61792d656d707479")
"""In front of a value that is empty on Linux, for to set nothing is to remove in SMB; b"netoverlay-empty"."""


class MalformedAttributesError(ValueError):
    """The bytes are no list of extended attributes."""


def to_server_value(value: bytes) -> bytes:
    """The value as it is stored: as it is, but for the empty one, and one that would be taken for it."""
    return EMPTY_MARKER + value if not value or value.startswith(EMPTY_MARKER) else value


def from_server_value(value: bytes) -> bytes:
    """The inverse."""
    return value.removeprefix(EMPTY_MARKER)


def pack(name: str, value: bytes) -> bytes:
    """The list that sets one attribute to a value of to_server_value(), or removes it if the value is empty.

    `name` is without the prefix. EINVAL if it is empty or holds a NUL, ERANGE if it is too long; E2BIG.
    """
    encoded = name.encode(NAME_ENCODING, NAME_ERRORS)
    if not encoded or b"\0" in encoded:
        raise os_error(errno.EINVAL)
    if len(encoded) > MAX_NAME_BYTES:
        raise os_error(errno.ERANGE)
    if len(value) > MAX_VALUE_BYTES:
        raise os_error(errno.E2BIG)
    return _ENTRY.pack(0, 0, len(encoded), len(value)) + encoded + b"\0" + value


def unpack_list(entries: bytes) -> dict[str, bytes]:
    """The names, with the prefix, and the values as they are stored."""
    attributes = {}
    offset = 0
    step = len(entries)
    while step:
        if offset + _ENTRY.size > len(entries):
            raise MalformedAttributesError("an extended attribute begins behind the end of its list")
        step, _, name_bytes, value_bytes = _ENTRY.unpack_from(entries, offset)
        start = offset + _ENTRY.size
        value_start = start + name_bytes + 1
        end = value_start + value_bytes
        if end > len(entries) or 0 < step < end - offset:
            raise MalformedAttributesError("an extended attribute ends behind the end of its place")
        name = entries[start : start + name_bytes].decode(NAME_ENCODING, NAME_ERRORS)
        attributes[PREFIX + name] = entries[value_start:end]
        offset += step
    return attributes
