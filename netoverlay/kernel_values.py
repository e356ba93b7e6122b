"""The kernel's numbers and structures, and the overlay's values for them: tables and conversions, both ways."""

from __future__ import annotations

import errno
import fcntl
import os
import stat as stat_bits
import time
from typing import Final

from netoverlay.backend_api import (
    Access,
    AllocateMode,
    AttributeChange,
    FileType,
    LockKind,
    NotSupportedError,
    RenameFlags,
    SpaceUsage,
    XattrMode,
    os_error,
)
from netoverlay.fuse import abi
from netoverlay.fuse.replies import FileSystemStatistics, FuseAttributes
from netoverlay.fuse.requests import LockRequest, SetattrRequest
from netoverlay.overlay.attributes import Attributes
from netoverlay.overlay.lock_table import LockCall, Owner, Wanted

_ACCESS: Final = {os.O_RDONLY: Access.READ, os.O_WRONLY: Access.WRITE, os.O_RDWR: Access.READ_WRITE}

_RENAME_NOREPLACE, _RENAME_EXCHANGE, _RENAME_WHITEOUT = 1, 2, 4
_RENAME_FLAGS: Final = (
    (_RENAME_NOREPLACE, RenameFlags.NOREPLACE),
    (_RENAME_EXCHANGE, RenameFlags.EXCHANGE),
    (_RENAME_WHITEOUT, RenameFlags.WHITEOUT),
)

_FILE_TYPES: Final = {int(kind): kind for kind in FileType}

_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 0x01, 0x02, 0x10
_ALLOCATE_MODES: Final = {
    0: AllocateMode.RESERVE,
    _KEEP_SIZE: AllocateMode.RESERVE_KEEP_SIZE,
    _PUNCH_HOLE | _KEEP_SIZE: AllocateMode.PUNCH_HOLE,
    _ZERO_RANGE: AllocateMode.ZERO_RANGE,
    _ZERO_RANGE | _KEEP_SIZE: AllocateMode.ZERO_RANGE_KEEP_SIZE,
}
"""fallocate(2), linux/falloc.h."""

LOCK_TYPE: Final = {
    LockKind.SHARED: fcntl.F_RDLCK,
    LockKind.EXCLUSIVE: fcntl.F_WRLCK,
    LockKind.UNLOCK: fcntl.F_UNLCK,
}
"""fcntl(2)."""
_LOCK_KIND: Final = {number: kind for kind, number in LOCK_TYPE.items()}

XATTR_CREATE_AND_REPLACE: Final = os.XATTR_CREATE | os.XATTR_REPLACE
"""Which nothing can satisfy."""
_XATTR_MODES: Final = {0: XattrMode.ANY, os.XATTR_CREATE: XattrMode.CREATE, os.XATTR_REPLACE: XattrMode.REPLACE}

_NANOSECONDS: Final = 1_000_000_000
PERMISSIONS: Final = 0o7777
"""The bits of a mode that are not its type."""


_DEFAULT_BLOCK_BYTES: Final = 4096
_CLOCK_REALTIME_COARSE: Final = 5
_NOW: Final = abi.Fattr.ATIME_NOW | abi.Fattr.MTIME_NOW


def wanted_lock(request: LockRequest) -> Wanted:
    """What a program asks for. EINVAL for a range or type that the kernel does not send."""
    kind = _LOCK_KIND.get(request.type)
    if kind is None or request.start > request.end:
        raise os_error(errno.EINVAL)
    call = LockCall.FLOCK if request.flags & abi.LockFlag.FLOCK else LockCall.FCNTL
    return Wanted(Owner(call, request.owner), kind, request.start, request.end + 1, request.pid)


def file_type(mode: int) -> FileType:
    """The type in a mode of the kernel; none stands for a regular file (mknod(2)). EINVAL for what is no type."""
    kind = _FILE_TYPES.get(stat_bits.S_IFMT(mode) or int(FileType.REGULAR))
    if kind is None:
        raise os_error(errno.EINVAL)
    return kind


def access(flags: int) -> Access:
    """What open(2) flags ask for."""
    # The value 3 means reading and writing to some drivers (open(2)); no file here is one.
    return _ACCESS.get(flags & os.O_ACCMODE, Access.READ_WRITE)


def rename_flags(bits: int) -> RenameFlags:
    """The flags of renameat2(2)."""
    flags = RenameFlags.NONE
    for bit, flag in _RENAME_FLAGS:
        if bits & bit:
            flags |= flag
    return flags


def allocate_mode(bits: int) -> AllocateMode:
    """The mode of fallocate(2); EOPNOTSUPP for those that layers do not know."""
    mode = _ALLOCATE_MODES.get(bits)
    if mode is None:
        raise NotSupportedError(f"fallocate mode {bits:#x}")
    return mode


def xattr_mode(bits: int) -> XattrMode:
    """The flags of setxattr(2); EINVAL for others."""
    mode = _XATTR_MODES.get(bits)
    if mode is None:
        raise os_error(errno.EINVAL)
    return mode


def fuse_attributes(shown: Attributes) -> FuseAttributes:
    """The attributes as the kernel takes them."""
    atime, atimensec = divmod(shown.atime_ns, _NANOSECONDS)
    mtime, mtimensec = divmod(shown.mtime_ns, _NANOSECONDS)
    ctime, ctimensec = divmod(shown.ctime_ns, _NANOSECONDS)
    return FuseAttributes(
        shown.ino,
        shown.size,
        shown.blocks,
        atime,
        mtime,
        ctime,
        atimensec,
        mtimensec,
        ctimensec,
        shown.mode,
        shown.nlink,
        shown.uid,
        shown.gid,
        shown.rdev,
        shown.block_size,
    )


def statistics(usage: SpaceUsage) -> FileSystemStatistics:
    """statvfs(3) as the kernel takes it."""
    size = usage.block_size or _DEFAULT_BLOCK_BYTES
    return FileSystemStatistics(
        blocks=usage.total_bytes // size,
        bfree=usage.free_bytes // size,
        bavail=usage.available_bytes // size,
        files=usage.total_files,
        ffree=usage.free_files,
        bsize=size,
        namelen=usage.max_name_bytes,
        frsize=size,
    )


def attribute_change(body: SetattrRequest) -> AttributeChange:
    """What a SETATTR sets, but for the size."""
    valid = body.valid
    # The clock that the kernel stamps files with, which lags behind the exact one by up to a tick.
    now_ns = time.clock_gettime_ns(_CLOCK_REALTIME_COARSE) if valid & _NOW else 0
    atime_ns = body.atime * _NANOSECONDS + body.atimensec if valid & abi.Fattr.ATIME else None
    mtime_ns = body.mtime * _NANOSECONDS + body.mtimensec if valid & abi.Fattr.MTIME else None
    return AttributeChange(
        mode=body.mode & PERMISSIONS if valid & abi.Fattr.MODE else None,
        uid=body.uid if valid & abi.Fattr.UID else None,
        gid=body.gid if valid & abi.Fattr.GID else None,
        atime_ns=now_ns if valid & abi.Fattr.ATIME_NOW else atime_ns,
        mtime_ns=now_ns if valid & abi.Fattr.MTIME_NOW else mtime_ns,
        atime_now=bool(valid & abi.Fattr.ATIME_NOW),
        mtime_now=bool(valid & abi.Fattr.MTIME_NOW),
    )
