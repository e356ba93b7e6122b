"""The system calls that Python's os module lacks, each with its manual page.

All raise OSError with errno and, where there is one, the path. They release the GIL while they run.
"""

from __future__ import annotations

import ctypes
import enum
import os
from typing import Final, Literal, TypeAlias

OPENAT2_NUMBER: Final = 437
"""The same on every architecture, as for all system calls added since Linux 5.1."""

FALLOC_KEEP_SIZE: Final = 0x01
FALLOC_PUNCH_HOLE: Final = 0x02
FALLOC_ZERO_RANGE: Final = 0x10
"""linux/falloc.h."""

AT_FDCWD: Final = -100
UTIME_NOW: Final = (1 << 30) - 1
UTIME_OMIT: Final = (1 << 30) - 2
"""linux/fcntl.h and linux/stat.h."""

NANOSECONDS: Final = 1_000_000_000


class Resolve(enum.IntFlag):
    """The `resolve` field of struct open_how (linux/openat2.h)."""

    NO_MAGICLINKS = 0x02
    NO_SYMLINKS = 0x04
    BENEATH = 0x08


class RenameFlag(enum.IntFlag):
    """linux/fs.h."""

    NOREPLACE = 0x01
    EXCHANGE = 0x02
    WHITEOUT = 0x04


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class _TimeSpec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


_OPEN_HOW_SIZE: Final = ctypes.sizeof(_OpenHow)
_TimeSpecPair = _TimeSpec * 2

_libc = ctypes.CDLL(None, use_errno=True)

_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t)

_renameat2 = _libc.renameat2
_renameat2.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)

_utimensat = _libc.utimensat
_utimensat.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int)

# fallocate64 exists beside fallocate wherever off_t may have 32 bits, and is the same function elsewhere.
_fallocate = _libc.fallocate64
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)

_syncfs = _libc.syncfs
_syncfs.argtypes = (ctypes.c_int,)


class OpenMode:
    """The flags, mode and way of resolution of an openat2(2), laid out once for any number of calls.

    The kernel only reads it, so that all threads may share one.
    """

    __slots__ = ("_how", "address")

    def __init__(self, flags: int, resolve: Resolve, mode: int = 0) -> None:
        self._how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
        self.address = ctypes.addressof(self._how)


def openat2(directory: int, path: bytes, how: OpenMode) -> int:
    """openat2(2): a new descriptor. `path` holds no NUL byte. ENOSYS before Linux 5.6."""
    descriptor: int = _syscall(OPENAT2_NUMBER, directory, path, how.address, _OPEN_HOW_SIZE)
    if descriptor < 0:
        _raise_errno(path)
    return descriptor


def renameat2(old_directory: int, old: bytes, new_directory: int, new: bytes, flags: RenameFlag) -> None:
    """renameat2(2). EINVAL where the file system does not know a flag."""
    if _renameat2(old_directory, old, new_directory, new, flags) != 0:
        _raise_errno(old)


Time: TypeAlias = int | Literal["now"] | None
"""In nanoseconds since 1970, by the clock of the kernel, or left as it is."""


def set_times(path: bytes, atime_ns: Time, mtime_ns: Time) -> None:
    """utimensat(2), following a symbolic link at `path`."""
    times = _TimeSpecPair(_time_spec(atime_ns), _time_spec(mtime_ns))
    if _utimensat(AT_FDCWD, path, ctypes.addressof(times), 0) != 0:
        _raise_errno(path)


def fallocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2), `mode` of the FALLOC_ constants. EOPNOTSUPP where the file system does not know it."""
    if _fallocate(descriptor, mode, offset, length) != 0:
        _raise_errno()


def syncfs(descriptor: int) -> None:
    """syncfs(2): the whole file system that holds the open file."""
    if _syncfs(descriptor) != 0:
        _raise_errno()


def _time_spec(time_ns: Time) -> _TimeSpec:
    if time_ns is None:
        return _TimeSpec(0, UTIME_OMIT)
    if time_ns == "now":
        return _TimeSpec(0, UTIME_NOW)
    return _TimeSpec(*divmod(time_ns, NANOSECONDS))


def _raise_errno(path: bytes | None = None) -> None:
    code = ctypes.get_errno()
    raise OSError(code, os.strerror(code), None if path is None else os.fsdecode(path))
