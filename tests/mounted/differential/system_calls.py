"""The system calls that Python's os module lacks, or makes for all threads where one thread is meant."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

AT_FDCWD: Final = -100
AT_SYMLINK_NOFOLLOW: Final = 0x100
AT_SYMLINK_FOLLOW: Final = 0x400
AT_EMPTY_PATH: Final = 0x1000
UTIME_NOW: Final = (1 << 30) - 1
UTIME_OMIT: Final = (1 << 30) - 2
RENAME_NOREPLACE: Final = 1
RENAME_EXCHANGE: Final = 2
KEEP_SIZE: Final = 0x01
PUNCH_HOLE: Final = 0x02
ZERO_RANGE: Final = 0x10

_CLONE_FS: Final = 0x200
_HANDLE_BYTES: Final = 128
# setresuid, setresgid, setgroups: glibc's functions of these names change every thread of the process.
_CREDENTIALS: Final = {"x86_64": (117, 119, 116), "aarch64": (147, 149, 159)}
_GETDENTS64: Final = {"x86_64": 217, "aarch64": 61}
_DIRENT: Final = struct.Struct("=QqHB")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.fallocate64.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class _TimeSpec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class DirectoryEntry(NamedTuple):
    """What getdents64(2) gives."""

    inode: int
    position: int
    type: int
    name: bytes


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def renameat2(old: bytes, new: bytes, flags: int) -> None:
    _checked(_libc.renameat2(AT_FDCWD, old, AT_FDCWD, new, ctypes.c_uint(flags)))


def linkat(directory: int, old: bytes, new: bytes, flags: int) -> None:
    _checked(_libc.linkat(directory, old, AT_FDCWD, new, flags))


def fallocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    _checked(_libc.fallocate64(descriptor, mode, offset, length))


def utimensat(path: bytes | int, times: Sequence[tuple[int, int]], flags: int) -> None:
    """Access and modification time, as seconds and nanoseconds, UTIME_NOW or UTIME_OMIT. A number is a descriptor."""
    pair = (_TimeSpec * 2)(*(_TimeSpec(*time) for time in times))
    if isinstance(path, int):
        _checked(_libc.futimens(path, pair))
    else:
        _checked(_libc.utimensat(AT_FDCWD, path, pair, flags))


def own_working_directory() -> None:
    """Give the calling thread a working directory and umask of its own."""
    _checked(_libc.unshare(_CLONE_FS))


def become(user: int, group: int, groups: Sequence[int]) -> None:
    """Make the calling thread, of root, that user; 0 makes it root again. Its saved user stays root."""
    set_user, set_group, set_groups = _CREDENTIALS[platform.machine()]
    keep = ctypes.c_long(-1)
    if user == 0:
        _checked(_libc.syscall(set_user, keep, ctypes.c_long(0), keep))
    given = (ctypes.c_uint32 * len(groups))(*groups)
    _checked(_libc.syscall(set_groups, ctypes.c_long(len(groups)), given))
    _checked(_libc.syscall(set_group, keep, ctypes.c_long(group), keep))
    if user != 0:
        _checked(_libc.syscall(set_user, keep, ctypes.c_long(user), keep))


def getdents64(descriptor: int, size: int) -> list[DirectoryEntry]:
    """As many entries as fit in `size` bytes; none at the end."""
    buffer = ctypes.create_string_buffer(size)
    count = _checked(_libc.syscall(_GETDENTS64[platform.machine()], descriptor, buffer, ctypes.c_long(size)))
    entries, offset = [], 0
    while offset < count:
        inode, position, length, kind = _DIRENT.unpack_from(buffer, offset)
        name = buffer.raw[offset + _DIRENT.size : offset + length].split(b"\0", 1)[0]
        entries.append(DirectoryEntry(inode, position, kind, name))
        offset += length
    return entries


def file_handle(path: bytes | int) -> bytes:
    """What tells an inode from all others, also from later ones with its number. No symbolic link is followed."""
    handle = ctypes.create_string_buffer(8 + _HANDLE_BYTES)
    struct.pack_into("=Ii", handle, 0, _HANDLE_BYTES, 0)
    mount = ctypes.c_int()
    if isinstance(path, int):
        result = _libc.name_to_handle_at(path, b"", handle, ctypes.byref(mount), AT_EMPTY_PATH)
    else:
        result = _libc.name_to_handle_at(AT_FDCWD, path, handle, ctypes.byref(mount), 0)
    _checked(result)
    size: int = struct.unpack_from("=I", handle, 0)[0]
    return handle.raw[4 : 8 + size]
