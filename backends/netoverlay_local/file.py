"""An open file of a local layer."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Callable

from netoverlay.backend_api import (
    AllocateMode,
    AttributeChange,
    BackendFile,
    FileStat,
    LockKind,
    Readable,
    Writable,
    XattrMode,
    os_error,
)
from netoverlay_local.attributes import apply_change, to_file_stat
from netoverlay_local.claims import Claims
from netoverlay_local.system_calls import FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE, fallocate

FALLOCATE_MODES = {
    AllocateMode.RESERVE: 0,
    AllocateMode.RESERVE_KEEP_SIZE: FALLOC_KEEP_SIZE,
    AllocateMode.PUNCH_HOLE: FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE,
    AllocateMode.ZERO_RANGE: FALLOC_ZERO_RANGE,
    AllocateMode.ZERO_RANGE_KEEP_SIZE: FALLOC_ZERO_RANGE | FALLOC_KEEP_SIZE,
}
XATTR_FLAGS = {XattrMode.ANY: 0, XattrMode.CREATE: os.XATTR_CREATE, XattrMode.REPLACE: os.XATTR_REPLACE}
LOCK_TYPES = {
    LockKind.UNLOCK: fcntl.F_UNLCK,
    LockKind.SHARED: fcntl.F_RDLCK,
    LockKind.EXCLUSIVE: fcntl.F_WRLCK,
}
WHOLE_LOCK_TYPES = {
    LockKind.UNLOCK: fcntl.LOCK_UN,
    LockKind.SHARED: fcntl.LOCK_SH,
    LockKind.EXCLUSIVE: fcntl.LOCK_EX,
}
COPY_BYTES = 64 << 20
"""By one copy_file_range(2), which nothing interrupts."""
FLOCK = struct.Struct("@hhqqi")
"""struct flock with a 64-bit off_t (fcntl(2)): type, whence, start, length, pid."""


class LocalFile(BackendFile):
    """Owns a descriptor. After close() every method raises EBADF."""

    def __init__(
        self, descriptor: int, root_device: int, claims: Claims, on_close: Callable[[LocalFile], None]
    ) -> None:
        self._descriptor = descriptor
        self._root_device = root_device
        self._claims = claims
        self._on_close = on_close

    def read_into(self, offset: int, buffer: Writable) -> int:
        view = memoryview(buffer)
        done = 0
        while done < len(view):
            count = os.preadv(self._descriptor, [view[done:]], offset + done)
            if count == 0:
                break
            done += count
        return done

    def read_at(self, offset: int, size: int) -> bytes:
        data = os.pread(self._descriptor, size, offset)
        if len(data) in (0, size):
            return data
        # Short at the end of the file, at Linux' limit of 2 GiB for one read, and where a mounted server says less.
        rest = self.read_at(offset + len(data), size - len(data))
        return data + rest if rest else data

    def stat(self) -> FileStat:
        return to_file_stat(os.fstat(self._descriptor), self._root_device)

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            self._on_close(self)
            os.close(descriptor)

    def write_at(self, offset: int, data: Readable) -> None:
        self._claims.require_writable("write")
        view = memoryview(data)
        done = os.pwrite(self._descriptor, view, offset)
        while done < len(view):
            done += os.pwrite(self._descriptor, view[done:], offset + done)

    def truncate(self, size: int) -> None:
        self._claims.require_writable("truncate")
        # ftruncate(2) says EINVAL for a file that is open for reading only, which callers could take for a bad size.
        if fcntl.fcntl(self._descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise os_error(errno.EBADF)
        os.ftruncate(self._descriptor, size)

    def sync(self, *, data_only: bool = False) -> None:
        self._claims.require_writable("sync")
        if data_only:
            os.fdatasync(self._descriptor)
        else:
            os.fsync(self._descriptor)

    def set_attributes(self, change: AttributeChange) -> None:
        self._claims.require_change(change)
        apply_change(self._proc_path(), change)

    def seek_data(self, offset: int) -> int:
        self._claims.require(self._claims.can.holes, "seek_data")
        return os.lseek(self._descriptor, offset, os.SEEK_DATA)

    def seek_hole(self, offset: int) -> int:
        self._claims.require(self._claims.can.holes, "seek_hole")
        return os.lseek(self._descriptor, offset, os.SEEK_HOLE)

    def allocate(self, mode: AllocateMode, offset: int, length: int) -> None:
        self._claims.require_writable("allocate")
        can = self._claims.can
        self._claims.require(can.holes if mode is AllocateMode.PUNCH_HOLE else can.allocate, f"allocate({mode.value})")
        flags = FALLOCATE_MODES[mode]
        try:
            fallocate(self._descriptor, flags, offset, length)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP or not flags & FALLOC_ZERO_RANGE:
                raise
            # tmpfs has no ZERO_RANGE; a hole that is then filled reads the same.
            fallocate(self._descriptor, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, offset, length)
            fallocate(self._descriptor, flags & FALLOC_KEEP_SIZE, offset, length)

    def copy_range(self, source: BackendFile, source_offset: int, offset: int, length: int) -> int:
        """copy_file_range(2): shares blocks where the file system can, and copies in the kernel where it cannot.

        EXDEV between file systems that cannot do it together; EINVAL for overlapping ranges of one file.
        """
        self._claims.require_writable("copy_range")
        self._claims.require(self._claims.can.server_copy, "copy_range")
        descriptor = source.fileno()  # also of a cached file: what it holds is here
        if descriptor is None:
            raise os_error(errno.EXDEV)
        return os.copy_file_range(descriptor, self._descriptor, min(length, COPY_BYTES), source_offset, offset)

    def get_xattr(self, name: str) -> bytes:
        self._claims.require_xattr(name, "get_xattr")
        return os.getxattr(self.fileno(), name)

    def list_xattrs(self) -> list[str]:
        self._claims.require(self._claims.can.xattrs, "list_xattrs")
        return self._claims.visible_xattrs(os.listxattr(self.fileno()))

    def set_xattr(self, name: str, value: bytes, mode: XattrMode = XattrMode.ANY) -> None:
        self._claims.require_xattr_change(name, "set_xattr")
        os.setxattr(self.fileno(), name, value, XATTR_FLAGS[mode])

    def remove_xattr(self, name: str) -> None:
        self._claims.require_xattr_change(name, "remove_xattr")
        os.removexattr(self.fileno(), name)

    def lock(self, kind: LockKind, start: int, length: int) -> None:
        self._claims.require(self._claims.can.locks, "lock")
        request = FLOCK.pack(LOCK_TYPES[kind], os.SEEK_SET, start, length, 0)
        fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, request)

    def lock_whole(self, kind: LockKind) -> None:
        self._claims.require(self._claims.can.whole_locks, "lock_whole")
        fcntl.flock(self.fileno(), WHOLE_LOCK_TYPES[kind] | fcntl.LOCK_NB)

    def fileno(self) -> int:
        if self._descriptor < 0:
            raise os_error(errno.EBADF)
        return self._descriptor

    def _proc_path(self) -> bytes:
        return b"/proc/self/fd/%d" % self.fileno()
