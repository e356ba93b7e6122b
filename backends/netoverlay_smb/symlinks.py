"""Symbolic links: those that we keep in ordinary files, and those that Windows and its Linux subsystem make.

A server that has no symbolic links for us stores them as files of 1067 bytes in the format of Minshall and French,
which Linux's cifs (`mfsymlinks`) and Macs write and read too (fs/smb/client/link.c):

    XSym
    0011                                the length of the target
    d62255da6780f02c7e0ae7a16d1fb763    its MD5
    some/target                         itself, and a line feed unless it fills the file
                                        and spaces up to the end
"""

from __future__ import annotations

import errno
import hashlib
import re
import struct

from netoverlay.backend_api import os_error
from netoverlay.backend_api.types import NAME_ENCODING, NAME_ERRORS
from netoverlay_smb.names import decode_utf16, from_server

MAX_TARGET_BYTES = 1024
_HEADER = re.compile(rb"XSym\n([0-9]{4})\n([0-9a-f]{32})\n")
_HEADER_BYTES = 43
MFSYMLINK_BYTES = _HEADER_BYTES + MAX_TARGET_BYTES
"""The size of every such file: no file of another size needs to be read."""

REPARSE_TAG_SYMLINK = 0xA000_000C
"""A link of Windows (MS-FSCC 2.1.2.1)."""
REPARSE_TAG_LX_SYMLINK = 0xA000_001D
"""A link of the Windows Subsystem for Linux (MS-FSCC 2.1.2.7)."""

_REPARSE_HEADER = struct.Struct("<IHH")
"""Tag, length of what follows, reserved (MS-FSCC 2.1.2.2)."""
_SYMLINK_FIELDS = struct.Struct("<HHHHI")
"""Offset and length of the substitute name, then of the print name, flags (MS-FSCC 2.1.2.4)."""
_SYMLINK_FLAG_RELATIVE = 0x1
_LX_VERSION = struct.pack("<I", 2)
"""The only one that is documented: the target is UTF-8."""
_NT_PREFIX = "\\??\\"


def pack(target: bytes) -> bytes:
    """The content of the file that stands for a link. ENAMETOOLONG, ENOENT (no target) and EINVAL (NUL)."""
    if not target:
        raise os_error(errno.ENOENT)
    if len(target) > MAX_TARGET_BYTES:
        raise os_error(errno.ENAMETOOLONG)
    if b"\0" in target:
        raise os_error(errno.EINVAL)
    return _padded(b"XSym\n%04u\n%b\n%b" % (len(target), _digest(target), target))


def target_of(content: bytes) -> bytes | None:
    """The target; None if the content of the file is not exactly what pack() would have made."""
    header = _HEADER.match(content)
    if header is None or len(content) != MFSYMLINK_BYTES:
        return None
    length = int(header[1])
    target = content[_HEADER_BYTES : _HEADER_BYTES + length]
    if not 0 < length <= MAX_TARGET_BYTES or b"\0" in target or header[2] != _digest(target):
        return None
    return target if content == _padded(content[: _HEADER_BYTES + length]) else None


def reparse_target(buffer: bytes) -> str | None:
    """The target in a REPARSE_DATA_BUFFER; None if that is no link, or a malformed one.

    A relative one is as Linux writes it; one that begins with "/" counts from the root of the server's volume. An
    absolute one names a drive or a share, such as "C:/directory": it leads nowhere here, but tells what it means.
    """
    if len(buffer) < _REPARSE_HEADER.size:
        return None
    tag, length, _ = _REPARSE_HEADER.unpack_from(buffer)
    data = buffer[_REPARSE_HEADER.size : _REPARSE_HEADER.size + length]
    if len(data) != length:
        return None
    if tag == REPARSE_TAG_SYMLINK:
        return _windows_target(data)
    if tag == REPARSE_TAG_LX_SYMLINK:
        return _lx_target(data)
    return None


def _digest(target: bytes) -> bytes:
    return hashlib.md5(target, usedforsecurity=False).hexdigest().encode()


def _padded(content: bytes) -> bytes:
    if len(content) < MFSYMLINK_BYTES:
        content += b"\n"
    return content.ljust(MFSYMLINK_BYTES)


def _windows_target(data: bytes) -> str | None:
    if len(data) < _SYMLINK_FIELDS.size:
        return None
    substitute_offset, substitute_bytes, print_offset, print_bytes, flags = _SYMLINK_FIELDS.unpack_from(data)
    substitute = _name(data, substitute_offset, substitute_bytes)
    shown = _name(data, print_offset, print_bytes)
    if not substitute or shown is None:
        return None
    if not flags & _SYMLINK_FLAG_RELATIVE:
        # The substitute name is one of the NT kernel's; the print name is how a person writes it, but is optional.
        substitute = shown or substitute.removeprefix(_NT_PREFIX)
    target = "/".join(map(from_server, substitute.split("\\")))
    return None if "\0" in target or not target else target


def _name(data: bytes, offset: int, length: int) -> str | None:
    start = _SYMLINK_FIELDS.size + offset
    name = data[start : start + length]
    return None if len(name) != length or length % 2 else decode_utf16(name)


def _lx_target(data: bytes) -> str | None:
    version, target = data[:4], data[4:]
    if version != _LX_VERSION or not target or b"\0" in target:
        return None
    return target.decode(NAME_ENCODING, NAME_ERRORS)
