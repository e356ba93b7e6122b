"""A backend that sends every call to another through one method, around(), which a wrapper overrides.

Only what reaches the transport goes through around(): identity(), appearance(), asks_user(), connection_state(),
connection_problem(), at_hand() and fileno() answer from memory, and flush() asks nothing of a transport.
"""

from __future__ import annotations

import abc
import enum
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

from netoverlay.backend_api.backend import BackendFile, Readable, Writable
from netoverlay.backend_api.delegate import DelegatingBackend, DelegatingFile
from netoverlay.backend_api.types import (
    Access,
    AllocateMode,
    AttributeChange,
    Capabilities,
    Creation,
    DirEntry,
    FileStat,
    FileType,
    LayerPath,
    LockKind,
    NamedEntry,
    RenameFlags,
    SpaceUsage,
    XattrMode,
)
from netoverlay.backend_api.whole_files import FileContent, WantedFile

P = ParamSpec("P")
T = TypeVar("T")


class Operation(enum.Enum):
    """The calls of the seam; the value is the name under which one is counted."""

    CONNECT = "connect"
    CLOSE = "close"
    STAT = "stat"
    LIST_DIR = "list_dir"
    LIST_DIRS = "list_dirs"
    LIST_NAMES = "list_names"
    OPEN = "open"
    READ_FILES = "read_files"
    SPACE_USAGE = "space_usage"
    READLINK = "readlink"
    MKDIR = "mkdir"
    UNLINK = "unlink"
    RMDIR = "rmdir"
    RENAME = "rename"
    SYMLINK = "symlink"
    LINK = "link"
    MKNOD = "mknod"
    SET_ATTRIBUTES = "set_attributes"
    GET_XATTR = "get_xattr"
    LIST_XATTRS = "list_xattrs"
    SET_XATTR = "set_xattr"
    REMOVE_XATTR = "remove_xattr"
    SYNC = "sync"
    SYNC_DIRECTORY = "sync_directory"
    FILE_READ = "file_read"
    FILE_STAT = "file_stat"
    FILE_CLOSE = "file_close"
    FILE_WRITE = "file_write"
    FILE_TRUNCATE = "file_truncate"
    FILE_SYNC = "file_sync"
    FILE_SET_ATTRIBUTES = "file_set_attributes"
    FILE_SEEK = "file_seek"
    FILE_ALLOCATE = "file_allocate"
    FILE_COPY_RANGE = "file_copy_range"
    FILE_GET_XATTR = "file_get_xattr"
    FILE_LIST_XATTRS = "file_list_xattrs"
    FILE_SET_XATTR = "file_set_xattr"
    FILE_REMOVE_XATTR = "file_remove_xattr"
    FILE_LOCK = "file_lock"

    __hash__ = object.__hash__  # that of enum is in Python


class InterceptingBackend(DelegatingBackend, abc.ABC):
    """Sends every call through around(), and those of its open files through around() of the same object."""

    @abc.abstractmethod
    def around(self, operation: Operation, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `function` with the arguments, and whatever the wrapper adds before, after or instead."""

    def wrap_file(self, file: BackendFile) -> BackendFile:
        """The file to give to the caller of open()."""
        return InterceptingFile(file, self)

    def connect(self) -> Capabilities:
        return self.around(Operation.CONNECT, self.inner.connect)

    def close(self) -> None:
        self.around(Operation.CLOSE, self.inner.close)

    def stat(self, path: LayerPath) -> FileStat:
        return self.around(Operation.STAT, self.inner.stat, path)

    def list_dir(self, path: LayerPath) -> list[DirEntry]:
        return self.around(Operation.LIST_DIR, self.inner.list_dir, path)

    def list_dirs(self, paths: Sequence[LayerPath]) -> list[list[DirEntry] | OSError]:
        return self.around(Operation.LIST_DIRS, self.inner.list_dirs, paths)

    def list_names(self, paths: Sequence[LayerPath]) -> list[list[NamedEntry] | OSError]:
        return self.around(Operation.LIST_NAMES, self.inner.list_names, paths)

    def open(
        self,
        path: LayerPath,
        access: Access,
        *,
        create: Creation = Creation.NEVER,
        truncate: bool = False,
        mode: int = 0o600,
    ) -> BackendFile:
        return self.wrap_file(
            self.around(Operation.OPEN, self.inner.open, path, access, create=create, truncate=truncate, mode=mode)
        )

    def read_files(self, wanted: Sequence[WantedFile], *, unchanging: bool) -> list[FileContent | OSError]:
        return self.around(Operation.READ_FILES, self.inner.read_files, wanted, unchanging=unchanging)

    def space_usage(self) -> SpaceUsage:
        return self.around(Operation.SPACE_USAGE, self.inner.space_usage)

    def readlink(self, path: LayerPath) -> str:
        return self.around(Operation.READLINK, self.inner.readlink, path)

    def mkdir(self, path: LayerPath, mode: int) -> None:
        self.around(Operation.MKDIR, self.inner.mkdir, path, mode)

    def unlink(self, path: LayerPath) -> None:
        self.around(Operation.UNLINK, self.inner.unlink, path)

    def rmdir(self, path: LayerPath) -> None:
        self.around(Operation.RMDIR, self.inner.rmdir, path)

    def rename(self, old: LayerPath, new: LayerPath, flags: RenameFlags = RenameFlags.NONE) -> None:
        self.around(Operation.RENAME, self.inner.rename, old, new, flags)

    def symlink(self, path: LayerPath, target: str) -> None:
        self.around(Operation.SYMLINK, self.inner.symlink, path, target)

    def link(self, existing: LayerPath, new: LayerPath) -> None:
        self.around(Operation.LINK, self.inner.link, existing, new)

    def mknod(self, path: LayerPath, type: FileType, mode: int, rdev: int = 0) -> None:
        self.around(Operation.MKNOD, self.inner.mknod, path, type, mode, rdev)

    def set_attributes(self, path: LayerPath, change: AttributeChange) -> None:
        self.around(Operation.SET_ATTRIBUTES, self.inner.set_attributes, path, change)

    def get_xattr(self, path: LayerPath, name: str) -> bytes:
        return self.around(Operation.GET_XATTR, self.inner.get_xattr, path, name)

    def list_xattrs(self, path: LayerPath) -> list[str]:
        return self.around(Operation.LIST_XATTRS, self.inner.list_xattrs, path)

    def set_xattr(self, path: LayerPath, name: str, value: bytes, mode: XattrMode = XattrMode.ANY) -> None:
        self.around(Operation.SET_XATTR, self.inner.set_xattr, path, name, value, mode)

    def remove_xattr(self, path: LayerPath, name: str) -> None:
        self.around(Operation.REMOVE_XATTR, self.inner.remove_xattr, path, name)

    def sync(self) -> None:
        self.around(Operation.SYNC, self.inner.sync)

    def sync_directory(self, path: LayerPath) -> None:
        self.around(Operation.SYNC_DIRECTORY, self.inner.sync_directory, path)


class InterceptingFile(DelegatingFile):
    """Sends every call through the around() of the backend that opened it."""

    def __init__(self, inner: BackendFile, backend: InterceptingBackend) -> None:
        super().__init__(inner)
        self._backend = backend

    def read_into(self, offset: int, buffer: Writable) -> int:
        return self._backend.around(Operation.FILE_READ, self.inner.read_into, offset, buffer)

    def read_at(self, offset: int, size: int) -> bytes:
        return self._backend.around(Operation.FILE_READ, self.inner.read_at, offset, size)

    def stat(self) -> FileStat:
        return self._backend.around(Operation.FILE_STAT, self.inner.stat)

    def close(self) -> None:
        self._backend.around(Operation.FILE_CLOSE, self.inner.close)

    def write_at(self, offset: int, data: Readable) -> None:
        self._backend.around(Operation.FILE_WRITE, self.inner.write_at, offset, data)

    def truncate(self, size: int) -> None:
        self._backend.around(Operation.FILE_TRUNCATE, self.inner.truncate, size)

    def sync(self, *, data_only: bool = False) -> None:
        self._backend.around(Operation.FILE_SYNC, self.inner.sync, data_only=data_only)

    def set_attributes(self, change: AttributeChange) -> None:
        self._backend.around(Operation.FILE_SET_ATTRIBUTES, self.inner.set_attributes, change)

    def seek_data(self, offset: int) -> int:
        return self._backend.around(Operation.FILE_SEEK, self.inner.seek_data, offset)

    def seek_hole(self, offset: int) -> int:
        return self._backend.around(Operation.FILE_SEEK, self.inner.seek_hole, offset)

    def allocate(self, mode: AllocateMode, offset: int, length: int) -> None:
        self._backend.around(Operation.FILE_ALLOCATE, self.inner.allocate, mode, offset, length)

    def copy_range(self, source: BackendFile, source_offset: int, offset: int, length: int) -> int:
        return self._backend.around(
            Operation.FILE_COPY_RANGE, super().copy_range, source, source_offset, offset, length
        )

    def get_xattr(self, name: str) -> bytes:
        return self._backend.around(Operation.FILE_GET_XATTR, self.inner.get_xattr, name)

    def list_xattrs(self) -> list[str]:
        return self._backend.around(Operation.FILE_LIST_XATTRS, self.inner.list_xattrs)

    def set_xattr(self, name: str, value: bytes, mode: XattrMode = XattrMode.ANY) -> None:
        self._backend.around(Operation.FILE_SET_XATTR, self.inner.set_xattr, name, value, mode)

    def remove_xattr(self, name: str) -> None:
        self._backend.around(Operation.FILE_REMOVE_XATTR, self.inner.remove_xattr, name)

    def lock(self, kind: LockKind, start: int, length: int) -> None:
        self._backend.around(Operation.FILE_LOCK, self.inner.lock, kind, start, length)

    def lock_whole(self, kind: LockKind) -> None:
        self._backend.around(Operation.FILE_LOCK, self.inner.lock_whole, kind)

    def revalidate(self) -> FileStat:
        return self._backend.around(Operation.FILE_STAT, self.inner.revalidate)
