"""The SFTP protocol, version 3 (draft-ietf-secsh-filexfer-02), and OpenSSH's extensions (its file PROTOCOL): the bytes.

Names are bytes here, as on the wire; netoverlay's paths are made of them in paths.py. Whatever comes from the server
is checked: what does not fit its packet raises ProtocolError.
"""

from __future__ import annotations

import enum
import stat as stat_bits
import struct
from typing import NamedTuple

from netoverlay.backend_api import FileStat, FileType

PROTOCOL_VERSION = 3

FRAME_HEADER = struct.Struct(">IBI")
"""Length of what follows, type, request id (draft 02, section 3)."""
UINT32 = struct.Struct(">I")
_OFFSET_AND_LENGTH = struct.Struct(">QI")
_TWO_UINT32 = struct.Struct(">II")
_STATVFS = struct.Struct(">11Q")
_LIMITS = struct.Struct(">4Q")
_COPY_SOURCE = struct.Struct(">QQ")
_UINT64 = struct.Struct(">Q")

MAX_TIME = 0xFFFF_FFFF
"""Seconds since 1970 are unsigned 32-bit numbers in this version."""


class ProtocolError(Exception):
    """The server sent what is not SFTP version 3."""


class PacketType(enum.IntEnum):
    """Section 3 of the draft."""

    INIT = 1
    VERSION = 2
    OPEN = 3
    CLOSE = 4
    READ = 5
    WRITE = 6
    LSTAT = 7
    FSTAT = 8
    SETSTAT = 9
    FSETSTAT = 10
    OPENDIR = 11
    READDIR = 12
    REMOVE = 13
    MKDIR = 14
    RMDIR = 15
    REALPATH = 16
    STAT = 17
    RENAME = 18
    READLINK = 19
    SYMLINK = 20
    STATUS = 101
    HANDLE = 102
    DATA = 103
    NAME = 104
    ATTRS = 105
    EXTENDED = 200
    EXTENDED_REPLY = 201


class StatusCode(enum.IntEnum):
    """Section 7 of the draft."""

    OK = 0
    EOF = 1
    NO_SUCH_FILE = 2
    PERMISSION_DENIED = 3
    FAILURE = 4
    BAD_MESSAGE = 5
    NO_CONNECTION = 6
    CONNECTION_LOST = 7
    OP_UNSUPPORTED = 8


class OpenFlags(enum.IntFlag):
    """Section 6.3 of the draft."""

    READ = 0x01
    WRITE = 0x02
    APPEND = 0x04
    CREATE = 0x08
    TRUNCATE = 0x10
    EXCLUSIVE = 0x20


class _AttributeFlags(enum.IntFlag):
    """Section 5 of the draft."""

    SIZE = 0x01
    OWNER = 0x02
    PERMISSIONS = 0x04
    TIMES = 0x08
    EXTENDED = 0x8000_0000


class Extension(enum.Enum):
    """Extensions by name (OpenSSH's PROTOCOL, section 4), each with the version that we speak."""

    POSIX_RENAME = (b"posix-rename@openssh.com", b"1")
    STATVFS = (b"statvfs@openssh.com", b"2")
    HARDLINK = (b"hardlink@openssh.com", b"1")
    FSYNC = (b"fsync@openssh.com", b"1")
    LSETSTAT = (b"lsetstat@openssh.com", b"1")
    LIMITS = (b"limits@openssh.com", b"1")
    COPY_DATA = (b"copy-data", b"1")

    @property
    def wire_name(self) -> bytes:
        """As it stands in an EXTENDED packet."""
        return self.value[0]


OPENSSH_SUFFIX = b"@openssh.com"


class Attributes(NamedTuple):
    """The ATTRS of section 5, as they are sent; None is left out."""

    size: int | None = None
    uid: int | None = None
    gid: int | None = None
    permissions: int | None = None
    """With the type bits of st_mode when the server sends it."""
    atime: int | None = None
    mtime: int | None = None


class ListedName(NamedTuple):
    """One entry of a NAME packet."""

    name: bytes
    long_name: bytes
    attributes: Attributes


class Limits(NamedTuple):
    """The reply to limits@openssh.com; 0 is unlimited or unknown."""

    packet_bytes: int
    read_bytes: int
    write_bytes: int
    open_handles: int


class VolumeStatus(NamedTuple):
    """The reply to statvfs@openssh.com: statvfs(3)."""

    block_size: int
    fragment_size: int
    blocks: int
    free_blocks: int
    available_blocks: int
    files: int
    free_files: int
    available_files: int
    identifier: int
    flags: int
    max_name_bytes: int


VOLUME_READ_ONLY = 0x1
"""In VolumeStatus.flags."""

_ALL_BASIC = _AttributeFlags.SIZE | _AttributeFlags.OWNER | _AttributeFlags.PERMISSIONS | _AttributeFlags.TIMES
_BASIC = struct.Struct(">QIIIII")
_ALL_BASIC_VALUE = int(_ALL_BASIC)


def pack_string(value: bytes) -> bytes:
    """A length and the bytes."""
    return UINT32.pack(len(value)) + value


def pack_strings(*values: bytes) -> bytes:
    """Several of them."""
    return b"".join(map(pack_string, values))


def pack_open(path: bytes, flags: OpenFlags, permissions: int | None = None) -> bytes:
    """The body of OPEN."""
    return pack_string(path) + UINT32.pack(flags) + pack_attributes(Attributes(permissions=permissions))


def pack_range(handle: bytes, offset: int, length: int) -> bytes:
    """The body of READ, and of WRITE up to its data. `handle` as unpack_handle() gave it."""
    return handle + _OFFSET_AND_LENGTH.pack(offset, length)


def pack_extended(extension: Extension, *parts: bytes) -> bytes:
    """The body of EXTENDED; `parts` are packed already."""
    return pack_string(extension.wire_name) + b"".join(parts)


def pack_copy(source: bytes, source_offset: int, length: int, target: bytes, offset: int) -> bytes:
    """The parts of copy-data; a `length` of 0 means to the end of the source."""
    return source + _COPY_SOURCE.pack(source_offset, length) + target + _UINT64.pack(offset)


def pack_attributes(attributes: Attributes) -> bytes:
    """ATTRS. Owner and group go together, as do the two times: ValueError if only one of two is given."""
    flags = 0
    parts = []
    if attributes.size is not None:
        flags |= _AttributeFlags.SIZE
        parts.append(_UINT64.pack(attributes.size))
    pairs = (
        (_AttributeFlags.OWNER, attributes.uid, attributes.gid),
        (_AttributeFlags.TIMES, attributes.atime, attributes.mtime),
    )
    packed_pairs = []
    for flag, first, second in pairs:
        if first is not None and second is not None:
            flags |= flag
            packed_pairs.append(_TWO_UINT32.pack(first, second))
        elif first is not None or second is not None:
            raise ValueError(f"SFTP has no {flag.name} with one value")
        else:
            packed_pairs.append(b"")
    parts.append(packed_pairs[0])
    if attributes.permissions is not None:
        flags |= _AttributeFlags.PERMISSIONS
        parts.append(UINT32.pack(attributes.permissions))
    parts.append(packed_pairs[1])
    return UINT32.pack(flags) + b"".join(parts)


def _unpack_string(body: bytes, offset: int) -> tuple[bytes, int]:
    start = offset + 4
    end = start + UINT32.unpack_from(body, offset)[0]
    if end > len(body):
        raise ProtocolError("a string is longer than its packet")
    return body[start:end], end


def _unpack_attributes(body: bytes, offset: int) -> tuple[Attributes, int]:
    flags = UINT32.unpack_from(body, offset)[0]
    offset += 4
    if flags == _ALL_BASIC_VALUE:  # what OpenSSH always sends
        return Attributes(*_BASIC.unpack_from(body, offset)), offset + _BASIC.size
    size = uid = gid = permissions = atime = mtime = None
    if flags & _AttributeFlags.SIZE:
        (size,), offset = _UINT64.unpack_from(body, offset), offset + 8
    if flags & _AttributeFlags.OWNER:
        (uid, gid), offset = _TWO_UINT32.unpack_from(body, offset), offset + 8
    if flags & _AttributeFlags.PERMISSIONS:
        (permissions,), offset = UINT32.unpack_from(body, offset), offset + 4
    if flags & _AttributeFlags.TIMES:
        (atime, mtime), offset = _TWO_UINT32.unpack_from(body, offset), offset + 8
    if flags & _AttributeFlags.EXTENDED:
        (count,), offset = UINT32.unpack_from(body, offset), offset + 4
        for _ in range(2 * count):  # a name and a value each; a hostile count ends with the packet
            _, offset = _unpack_string(body, offset)
    return Attributes(size, uid, gid, permissions, atime, mtime), offset


def unpack_attributes(body: bytes) -> Attributes:
    """The body of ATTRS."""
    with _checking():
        return _unpack_attributes(body, 0)[0]


def unpack_names(body: bytes) -> list[ListedName]:
    """The body of NAME."""
    names = []
    with _checking():
        count, offset = UINT32.unpack_from(body)[0], 4
        for _ in range(count):
            name, offset = _unpack_string(body, offset)
            long_name, offset = _unpack_string(body, offset)
            attributes, offset = _unpack_attributes(body, offset)
            names.append(ListedName(name, long_name, attributes))
    return names


def only_name(names: list[ListedName]) -> bytes:
    """Of a NAME that answers for one path."""
    if len(names) != 1:
        raise ProtocolError(f"the server sent {len(names)} names where one was due")
    return names[0].name


def unpack_handle(body: bytes) -> bytes:
    """The handle in the body of HANDLE, with its length in front, as requests want it."""
    with _checking():
        _unpack_string(body, 0)
    return body


def unpack_data(body: bytes) -> bytes:
    """The payload of DATA."""
    with _checking():
        return _unpack_string(body, 0)[0]


def unpack_status(body: bytes) -> tuple[int, str]:
    """The code and the message (for a person; "" if there is none) in the body of STATUS."""
    with _checking():
        code = UINT32.unpack_from(body)[0]
        if len(body) < 8:  # servers of older drafts send the code alone
            return code, ""
        return code, _unpack_string(body, 4)[0].decode("utf-8", "replace")


def unpack_limits(body: bytes) -> Limits:
    """The reply to limits@openssh.com."""
    with _checking():
        return Limits(*_LIMITS.unpack_from(body))


def unpack_volume_status(body: bytes) -> VolumeStatus:
    """The reply to statvfs@openssh.com."""
    with _checking():
        return VolumeStatus(*_STATVFS.unpack_from(body))


def unpack_version(body: bytes) -> tuple[int, dict[bytes, bytes]]:
    """The version and the extensions (name to data) in the body of VERSION."""
    extensions = {}
    with _checking():
        version, offset = UINT32.unpack_from(body)[0], 4
        while offset < len(body):
            name, offset = _unpack_string(body, offset)
            extensions[name], offset = _unpack_string(body, offset)
    return version, extensions


class _Checking:
    """struct.error, which a packet that ends too early gives, becomes ProtocolError."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, struct.error):
            raise ProtocolError(f"a packet ends too early: {error}") from error


_CHECKING = _Checking()


def _checking() -> _Checking:
    return _CHECKING


_MAX_LINK_DIGITS = 9
"""The kernel takes 32 bits."""
_FILE_TYPES = {int(file_type): file_type for file_type in FileType}


def file_stat(attributes: Attributes) -> FileStat:
    """As the seam wants it. ProtocolError if the server does not tell the type, the size or the time of change."""
    size, uid, gid, permissions, atime, mtime = attributes
    if permissions is None or mtime is None or atime is None:
        raise ProtocolError("the server does not tell a file's type and times")
    file_type = _FILE_TYPES.get(stat_bits.S_IFMT(permissions))
    if file_type is None:
        raise ProtocolError(f"the server tells an unknown file type: mode {permissions:o}")
    if size is None:
        raise ProtocolError("the server does not tell a file's size")
    return FileStat(file_type, size, permissions & 0o7777, uid, gid, mtime * 1_000_000_000, atime * 1_000_000_000)


def link_count(long_name: bytes) -> int | None:
    """The second column of `ls -l`, in which OpenSSH's server gives st_nlink; None if it is no such number."""
    columns = long_name.split(None, 2)
    is_count = len(columns) == 3 and columns[1].isdigit() and len(columns[1]) <= _MAX_LINK_DIGITS
    return int(columns[1]) if is_count else None
