"""The seam: what a layer's transport must do for the overlay.

Every method blocks, and may be called from many threads at once. Paths are LayerPath; no method follows a symbolic
link, in any component, or leaves the layer's root. Errors are OSError with errno set (see errors.py); a method returns
or raises within the deadline that the backend was made with. What a transport does not have raises NotSupportedError,
as the defaults here do, and is not claimed in its Capabilities.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from types import TracebackType
from typing import Self, TypeAlias

from netoverlay.backend_api.errors import NotSupportedError, UnavailableError
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
from netoverlay.backend_api.whole_files import FileContent, WantedFile, read_one_by_one

Readable: TypeAlias = bytes | bytearray | memoryview
Writable: TypeAlias = bytearray | memoryview


class BackendFile(abc.ABC):
    """An open regular file. It stays usable after its name was renamed or removed, until close()."""

    @abc.abstractmethod
    def read_into(self, offset: int, buffer: Writable) -> int:
        """Fill `buffer` from byte `offset`; the count is less than its length only at the end of the file.

        EBADF if the file was opened for writing only.
        """

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from byte `offset`; fewer only at the end of the file."""
        buffer = bytearray(size)
        return bytes(memoryview(buffer)[: self.read_into(offset, buffer)])

    @abc.abstractmethod
    def stat(self) -> FileStat:
        """The attributes now."""

    @abc.abstractmethod
    def close(self) -> None:
        """Release the file, raising errors of earlier writes that nobody has seen. Closing twice is harmless."""

    def write_at(self, offset: int, data: Readable) -> None:
        """Write all of `data` at byte `offset`; a gap before it reads as zeros. EBADF if opened for reading."""
        raise NotSupportedError("write")

    def flush(self) -> None:
        """Hand everything written to the layer, raising what could not be; where nothing is held back, nothing.

        Not a sync: the layer may lose it yet.
        """

    def truncate(self, size: int) -> None:
        """Set the size in bytes; what is added reads as zeros."""
        raise NotSupportedError("truncate")

    def sync(self, *, data_only: bool = False) -> None:
        """Return once everything written is on the layer's stable storage (fsync(2), fdatasync(2))."""
        raise NotSupportedError("sync")

    def set_attributes(self, change: AttributeChange) -> None:
        """As Backend.set_attributes, on the open file, also when it has no name any more."""
        raise NotSupportedError("set_attributes")

    def seek_data(self, offset: int) -> int:
        """Where the next data at or after `offset` starts; ENXIO if there is none."""
        raise NotSupportedError("seek_data")

    def seek_hole(self, offset: int) -> int:
        """Where the next hole at or after `offset` starts (the end of the file is one); ENXIO if past the end."""
        raise NotSupportedError("seek_hole")

    def allocate(self, mode: AllocateMode, offset: int, length: int) -> None:
        """fallocate(2)."""
        raise NotSupportedError("allocate")

    def copy_range(self, source: BackendFile, source_offset: int, offset: int, length: int) -> int:
        """Copy from `source` without moving its data here. The count, which may be less; 0 at the end of the source.

        EXDEV if the layer cannot copy from there, which need not be a file of the same backend (places.py); EINVAL if
        the ranges overlap in one file.
        """
        raise NotSupportedError("copy_range")

    def get_xattr(self, name: str) -> bytes:
        """As Backend.get_xattr, on the open file."""
        raise NotSupportedError("get_xattr")

    def list_xattrs(self) -> list[str]:
        """As Backend.list_xattrs, on the open file."""
        raise NotSupportedError("list_xattrs")

    def set_xattr(self, name: str, value: bytes, mode: XattrMode = XattrMode.ANY) -> None:
        """As Backend.set_xattr, on the open file."""
        raise NotSupportedError("set_xattr")

    def remove_xattr(self, name: str) -> None:
        """As Backend.remove_xattr, on the open file."""
        raise NotSupportedError("remove_xattr")

    def lock(self, kind: LockKind, start: int, length: int) -> None:
        """Set the range to `kind` for this open file, at once or BlockingIOError (EAGAIN). Length 0: to the end.

        The owner is the open file, as with OFD locks (fcntl(2)); close() releases all. A transport may refuse what the
        file was not opened for (EBADF). EINVAL if there are no such offsets.

        ENOLCK if a lock could not be kept: one that was held is lost. From then on this refuses to lock, and reading
        and writing say EIO, until all that was lost (lost_locks) has been unlocked, which never fails for that.
        """
        raise NotSupportedError("lock")

    @property
    def lost_locks(self) -> tuple[tuple[int, int], ...]:
        """Start and length (0: to the end) of what this open file had locked, lost, and has not unlocked since.

        Answered from memory: that a connection is lost shows when the file is used next.
        """
        return ()

    def lock_whole(self, kind: LockKind) -> None:
        """As flock(2) of this open file, at once or BlockingIOError (EAGAIN). What it held may be lost by a refusal."""
        raise NotSupportedError("lock_whole")

    def revalidate(self) -> FileStat:
        """The attributes as the layer has them now, past all that is kept of the file, which is dropped if it changed.

        For who has just taken a lock: what it protects is to be read from the layer.
        """
        return self.stat()

    def fileno(self) -> int | None:
        """The descriptor behind a local file, valid until close(); None elsewhere."""
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Backend(abc.ABC):
    """One layer's transport, rooted at a directory."""

    @abc.abstractmethod
    def connect(self) -> Capabilities:
        """Reach the root. Call it before anything else, again only if it failed.

        UnavailableError if it cannot be reached now, LayerSetupError if it never will be as things are.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Release everything; open files become unusable. Closing twice is harmless."""

    @abc.abstractmethod
    def stat(self, path: LayerPath) -> FileStat:
        """The attributes of what stands at `path` itself (lstat). ENOENT, ENOTDIR."""

    @abc.abstractmethod
    def list_dir(self, path: LayerPath) -> list[DirEntry]:
        """Every entry but "." and "..", in no order, with attributes. An entry that vanished meanwhile is left out."""

    @abc.abstractmethod
    def open(
        self,
        path: LayerPath,
        access: Access,
        *,
        create: Creation = Creation.NEVER,
        truncate: bool = False,
        mode: int = 0o600,
    ) -> BackendFile:
        """Open a regular file, or create it with `mode` exactly (no umask). EISDIR, ELOOP (a symlink), ENXIO."""

    def list_dirs(self, paths: Sequence[LayerPath]) -> list[list[DirEntry] | OSError]:
        """list_dir() of several directories, all at once where the transport can: for each its entries, or its error.

        What is about the layer is raised.
        """
        found: list[list[DirEntry] | OSError] = []
        for path in paths:
            try:
                found.append(self.list_dir(path))
            except UnavailableError:
                raise
            except OSError as error:
                found.append(error)
        return found

    def list_names(self, paths: Sequence[LayerPath]) -> list[list[NamedEntry] | OSError]:
        """As list_dirs(), without the attributes that would cost more than the names.

        A name whose attributes are left out is one that stat() tells of, and of the type that is told here.
        """
        return [
            found if isinstance(found, OSError) else [NamedEntry(name, stat.type, stat) for name, stat in found]
            for found in self.list_dirs(paths)
        ]

    def read_files(self, wanted: Sequence[WantedFile], *, unchanging: bool) -> list[FileContent | OSError]:
        """Read small files whole, all at once where the transport can: for each what is read, or why it cannot be.

        The errors are those of open() and of reading, and each is about that file alone; what is about the layer is
        raised. `unchanging`: the caller has seen that all are regular files, and nobody changes the layer, so that no
        file need be looked at.
        """
        return read_one_by_one(self, wanted, unchanging=unchanging)

    def at_hand(self, path: LayerPath, most: int) -> bytes | None:
        """The content of a file of up to `most` bytes that never changes, if it is on this machine, and else None.

        Of the size that stat() tells. Asks no server. To hand it on is up to wrappers whose open() shows the same.
        """
        return None

    @abc.abstractmethod
    def space_usage(self) -> SpaceUsage:
        """The space of the file system that holds the root."""

    def identity(self) -> str:
        """Names what is mounted (scheme, host, port, user, root), the same in every process; holds no secret."""
        raise NotSupportedError("identity")

    def appearance(self) -> str:
        """What of the options changes the attributes that are told: two backends of one identity and one appearance
        tell the same."""
        return ""

    def asks_user(self) -> bool:
        """Whether connect() had to ask the user something, or may have to next time: to be called while he is there."""
        return False

    def connection_state(self) -> str:
        """One word for `status`: "connected", "reconnecting", "down"."""
        return "connected"

    def connection_problem(self) -> str | None:
        """One line for `status` on why the layer is not connected, if that is known."""
        return None

    def readlink(self, path: LayerPath) -> str:
        """The target of a symbolic link. EINVAL if it is none."""
        raise NotSupportedError("readlink")

    def mkdir(self, path: LayerPath, mode: int) -> None:
        """Create a directory with `mode` exactly (no umask). EEXIST."""
        raise NotSupportedError("mkdir")

    def unlink(self, path: LayerPath) -> None:
        """Remove a name that is no directory. EISDIR. Open files of it stay usable."""
        raise NotSupportedError("unlink")

    def rmdir(self, path: LayerPath) -> None:
        """Remove an empty directory. ENOTEMPTY, ENOTDIR."""
        raise NotSupportedError("rmdir")

    def rename(self, old: LayerPath, new: LayerPath, flags: RenameFlags = RenameFlags.NONE) -> None:
        """renameat2(2): replaces `new`, unless a flag says otherwise."""
        raise NotSupportedError("rename")

    def symlink(self, path: LayerPath, target: str) -> None:
        """Create a symbolic link at `path`. EEXIST."""
        raise NotSupportedError("symlink")

    def link(self, existing: LayerPath, new: LayerPath) -> None:
        """Give a file that is no directory a second name; a symlink itself is linked. EEXIST."""
        raise NotSupportedError("link")

    def mknod(self, path: LayerPath, type: FileType, mode: int, rdev: int = 0) -> None:
        """Create a FIFO, a socket or a device with `mode` exactly (no umask). EEXIST."""
        raise NotSupportedError("mknod")

    def set_attributes(self, path: LayerPath, change: AttributeChange) -> None:
        """Owner first, then mode, then times, so that the result is what was asked. EPERM where it is not allowed."""
        raise NotSupportedError("set_attributes")

    def get_xattr(self, path: LayerPath, name: str) -> bytes:
        """The value of an extended attribute; ENODATA if there is none of that name."""
        raise NotSupportedError("get_xattr")

    def list_xattrs(self, path: LayerPath) -> list[str]:
        """The names of the extended attributes."""
        raise NotSupportedError("list_xattrs")

    def set_xattr(self, path: LayerPath, name: str, value: bytes, mode: XattrMode = XattrMode.ANY) -> None:
        """Set an extended attribute. EEXIST, ENODATA by `mode`; E2BIG, ENOSPC."""
        raise NotSupportedError("set_xattr")

    def remove_xattr(self, path: LayerPath, name: str) -> None:
        """Remove an extended attribute; ENODATA if there is none of that name."""
        raise NotSupportedError("remove_xattr")

    def sync_directory(self, path: LayerPath) -> None:
        """Return once the names in a directory are on stable storage (fsync(2) on it)."""
        self.sync()

    def sync(self) -> None:
        """Return once every change so far is on stable storage (syncfs(2)); where a transport cannot, nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
