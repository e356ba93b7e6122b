"""What the kernel is answered: encoders, one for each shape of reply.

Durations are in nanoseconds; FOR_EVER is as long as the kernel keeps anything.
"""

from __future__ import annotations

import errno
import os
from typing import Final, NamedTuple, TypeAlias

from netoverlay.fuse import abi
from netoverlay.fuse.requests import RequestHeader

Payload: TypeAlias = bytes | bytearray | memoryview
Reply: TypeAlias = Payload | tuple[Payload, ...] | None
"""What follows the reply's header; None is the bare "done". The items of a memoryview are bytes."""

FOR_EVER: Final = (1 << 31) * 1_000_000_000
"""68 years. A larger number could overflow when the kernel adds the time of day."""

_SECOND: Final = 1_000_000_000


class FuseAttributes(NamedTuple):
    """struct fuse_attr, in its order."""

    ino: int
    """st_ino."""
    size: int
    blocks: int
    """In units of 512 bytes."""
    atime: int
    """Seconds since 1970, may be negative, as are the other times; the nanoseconds follow."""
    mtime: int
    ctime: int
    atimensec: int
    """0 to 999,999,999."""
    mtimensec: int
    ctimensec: int
    mode: int
    """Type and permissions."""
    nlink: int
    uid: int
    gid: int
    rdev: int
    """The lower 32 bits of what os.makedev gives, which hold every device number of Linux."""
    blksize: int
    flags: int = 0


class Entry(NamedTuple):
    """A name that was looked up or made: the kernel now counts one more lookup of `nodeid`."""

    nodeid: int
    generation: int
    entry_valid_ns: int
    """How long the kernel may believe the name."""
    attr_valid_ns: int
    """How long it may believe the attributes."""
    attributes: FuseAttributes


class FileSystemStatistics(NamedTuple):
    """struct fuse_kstatfs, in its order; see statvfs(3)."""

    blocks: int
    """In units of `frsize`, as are the next two."""
    bfree: int
    bavail: int
    files: int
    ffree: int
    bsize: int
    """Bytes, best for input and output."""
    namelen: int
    frsize: int
    """Bytes."""


def _entry_fields(found: Entry) -> tuple[int, ...]:
    nodeid, generation, entry_valid_ns, attr_valid_ns, attributes = found
    entry_valid, entry_valid_nsec = divmod(entry_valid_ns, _SECOND)
    attr_valid, attr_valid_nsec = divmod(attr_valid_ns, _SECOND)
    return nodeid, generation, entry_valid, attr_valid, entry_valid_nsec, attr_valid_nsec, *attributes


def entry(found: Entry) -> bytes:
    """LOOKUP, MKNOD, MKDIR, SYMLINK, LINK."""
    return abi.ENTRY_OUT.pack(*_entry_fields(found))


def absent(entry_valid_ns: int) -> bytes:
    """LOOKUP: there is no such name, and the kernel may believe so for that long. ENOENT is not remembered."""
    seconds, nanoseconds = divmod(entry_valid_ns, _SECOND)
    return abi.ENTRY_OUT.pack(0, 0, seconds, 0, nanoseconds, 0, *_NO_ATTRIBUTES)


_NO_ATTRIBUTES: Final = (0,) * len(FuseAttributes._fields)


def attributes(found: FuseAttributes, attr_valid_ns: int) -> bytes:
    """GETATTR, SETATTR."""
    return abi.ATTR_OUT.pack(*divmod(attr_valid_ns, _SECOND), *found)


def opened(handle: int, flags: int = 0, backing: int = 0) -> bytes:
    """OPEN, OPENDIR. `handle`: any 64 bits; `flags`: abi.Fopen; `backing`: with PASSTHROUGH, as backing.py has it."""
    return abi.OPEN_OUT.pack(handle, flags, backing)


def created(found: Entry, handle: int, flags: int = 0, backing: int = 0) -> bytes:
    """CREATE, TMPFILE."""
    return entry(found) + opened(handle, flags, backing)


def target(path: str) -> bytes:
    """READLINK."""
    return os.fsencode(path)


def written(count: int) -> bytes:
    """WRITE: how many bytes, which must be all of them unless an error follows."""
    return abi.WRITE_OUT.pack(count)


def copied(request: RequestHeader, count: int) -> bytes:
    """COPY_FILE_RANGE and COPY_FILE_RANGE_64, which differ in the width of the count."""
    if request.opcode == abi.Opcode.COPY_FILE_RANGE_64:
        return abi.COPY_FILE_RANGE_OUT.pack(count)
    return abi.WRITE_OUT.pack(count)


def statistics(found: FileSystemStatistics) -> bytes:
    """STATFS."""
    return abi.STATFS_OUT.pack(*found)


def xattr(room: int, value: bytes) -> bytes:
    """GETXATTR, and LISTXATTR with every name ended by a zero byte.

    `room` is the request's `size`: 0 is answered with the size alone; ERANGE if the value needs more.
    """
    if room == 0:
        return abi.GETXATTR_OUT.pack(len(value))
    if len(value) > room:
        raise OSError(errno.ERANGE, os.strerror(errno.ERANGE))
    return value


def position(offset: int) -> bytes:
    """LSEEK."""
    return abi.LSEEK_OUT.pack(offset)


def lock(start: int, end: int, type: int, pid: int) -> bytes:
    """GETLK: what is in the way, `end` being its last byte; F_UNLCK if nothing is."""
    return abi.LK_OUT.pack(start, end, type, pid)


class DirectoryPacker:
    """The reply to READDIR or READDIRPLUS, packed up to the size that was asked for.

    One object serves one request: add() until it returns False or there are no more entries, then reply().
    """

    __slots__ = ("_buffer", "_room")

    def __init__(self, size: int) -> None:
        self._buffer = bytearray()
        self._room = size

    def add(self, name: str, ino: int, type: int, next_offset: int) -> bool:
        """One entry of READDIR; False, and nothing is added, if it does not fit.

        `type`: the file type bits of its mode, shifted right by 12 (DT_*). `next_offset`: what the kernel sends as
        `offset` to go on after this entry; not 0.
        """
        raw = os.fsencode(name)
        return self._append(abi.DIRENT.pack(ino, next_offset, len(raw), type), raw)

    def add_plus(self, name: str, ino: int, type: int, next_offset: int, found: Entry | None) -> bool:
        """One entry of READDIRPLUS; False, and nothing is added or counted as a lookup, if it does not fit.

        None for `found` gives no attributes and counts no lookup: for "." and "..", which must have it so, and for
        what cannot be looked up now.
        """
        raw = os.fsencode(name)
        fields = _NO_ENTRY if found is None else _entry_fields(found)
        return self._append(abi.DIRENTPLUS.pack(*fields, ino, next_offset, len(raw), type), raw)

    def reply(self) -> bytearray:
        """What was packed; empty says that the listing is at its end."""
        return self._buffer

    def _append(self, head: bytes, name: bytes) -> bool:
        size = len(head) + len(name)
        padding = -size % 8
        self._room -= size + padding
        if self._room < 0:
            # The caller must not fill the gap with a shorter name: offsets would be skipped.
            self._room = 0
            return False
        self._buffer += head + name + _ZEROS[:padding]
        return True


_ZEROS: Final = bytes(8)
_NO_ENTRY: Final = (0,) * 6 + _NO_ATTRIBUTES
