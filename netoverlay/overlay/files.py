"""The data of files: open, read, write, truncate, sync. Copy-up comes with the first change, not with open."""

from __future__ import annotations

import errno
import os
import stat as stat_bits
from contextlib import ExitStack

from netoverlay.backend_api import (
    Access,
    AllocateMode,
    AttributeChange,
    Backend,
    BackendFile,
    FileType,
    LayerPath,
    NotSupportedError,
    Readable,
    os_error,
)
from netoverlay.backend_api.waiting import about_to_wait
from netoverlay.overlay.capabilities import CAPABILITY, capability_of
from netoverlay.overlay.copy_up import CopyUp
from netoverlay.overlay.first_open import FirstOpen
from netoverlay.overlay.handles import FileHandle
from netoverlay.overlay.inodes import FileInode
from netoverlay.overlay.layers import FOR_EVER_NS
from netoverlay.overlay.tree import Tree


class Files:
    """Opens the files of one tree and moves their data."""

    def __init__(self, tree: Tree, copy_up: CopyUp | None) -> None:
        """`copy_up` is None if the mount has no upper."""
        self._tree = tree
        self._copy_up = copy_up
        self.first_open = FirstOpen()

    def open(
        self, inode: FileInode, access: Access, *, truncate: bool = False, clear_set_ids: bool = False
    ) -> FileHandle:
        """A handle on a regular file. ENXIO for others; EROFS for writing where there is no upper."""
        if inode.type is not FileType.REGULAR:
            raise os_error(errno.ENXIO)
        if access.writes:
            self._tree.stack.writable_upper()
        self._tree.inodes.opened(inode)
        try:
            if truncate:
                self.truncate(inode, 0, clear_set_ids=clear_set_ids)
            if self._is_settled(inode):
                self.first_open.note(inode, access)
            else:
                with inode.copy_up_lock:
                    self._back_locked(inode, writable=access.writes and inode.in_upper)
        except BaseException:
            self._released(inode)
            raise
        return FileHandle(inode, access.writes)

    def adopt(self, inode: FileInode, file: BackendFile) -> FileHandle:
        """A handle on a file that was just created and is open for reading and writing as `file`."""
        self._tree.inodes.opened(inode)
        with inode.copy_up_lock:
            inode.switch_file(file, writable=True)
        return FileHandle(inode)

    def readlink(self, inode: FileInode) -> str:
        """The target of a symbolic link. EINVAL if it is none."""
        if not inode.in_upper:
            layer, path = inode.lower_place()
            return layer.backend.readlink(path)
        with self._tree.paths.shared():
            if inode.target is not None:
                return inode.target
            return self._tree.stack.writable_upper().backend.readlink(self._tree.upper_path(inode))

    def release(self, handle: FileHandle) -> None:
        """Close a handle; with the last one of the inode, its files."""
        self._released(handle.inode)

    def read(self, handle: FileHandle, offset: int, size: int) -> bytes:
        """Up to `size` bytes; fewer only at the end of the file."""
        return self._file(handle.inode).read_at(offset, size)

    def write(
        self, handle: FileHandle, offset: int, data: Readable, *, clear_set_ids: bool, of_mapping: bool = False
    ) -> None:
        """Write all of `data`. `clear_set_ids`: as a write by an ordinary user does (inode(7)).

        `of_mapping`: a page of a shared mapping, whose change takes no privileges from the file (mmap(2)).
        """
        inode = handle.inode
        file = self._writable_file(inode)
        if clear_set_ids and inode.may_have_set_ids:
            inode.may_have_set_ids = False  # first, for a chmod(2) meanwhile sets it again
            try:
                clear_set_id_bits(file)
            except BaseException:
                inode.may_have_set_ids = True
                raise
        capability = self._capability(file) if of_mapping else None
        file.write_at(offset, data)
        if capability is not None:
            file.set_xattr(CAPABILITY, capability)
        inode.kept_ctime = None

    def _capability(self, file: BackendFile) -> bytes | None:
        """The capabilities of a file of the upper, which a write by this process would take from it."""
        claims = self._tree.stack.writable_upper().capabilities
        return capability_of(file) if claims.privileged_xattrs else None

    def truncate(self, inode: FileInode, size: int, *, clear_set_ids: bool = False) -> None:
        """Set the size of a regular file, open or not. Of a lower's file only what stays is copied up."""
        if inode.type is not FileType.REGULAR:
            raise os_error(errno.EISDIR if inode.type is FileType.DIRECTORY else errno.EINVAL)
        self._tree.inodes.opened(inode)
        try:
            file = self._writable_file(inode, size)
            if clear_set_ids:
                clear_set_id_bits(file)
            file.truncate(size)
            inode.kept_ctime = None
        finally:
            self._released(inode)

    def allocate(self, handle: FileHandle, mode: AllocateMode, offset: int, length: int) -> None:
        """fallocate(2). EOPNOTSUPP where the upper's file system has no such mode."""
        about_to_wait()
        self._writable_file(handle.inode).allocate(mode, offset, length)
        handle.inode.kept_ctime = None

    def copy_range(self, source: FileHandle, source_offset: int, target: FileHandle, offset: int, length: int) -> int:
        """Copy where the layers can do it without the data passing here; EOPNOTSUPP otherwise."""
        about_to_wait()
        writable = self._writable_file(target.inode)
        copied = writable.copy_range(self._file(source.inode), source_offset, offset, length)
        target.inode.kept_ctime = None
        return copied

    def seek(self, handle: FileHandle, offset: int, whence: int) -> int:
        """lseek(2) with SEEK_DATA or SEEK_HOLE; where the layer knows no holes, all is data."""
        if offset < 0:
            raise os_error(errno.ENXIO)
        file = self._file(handle.inode)
        seek = {os.SEEK_DATA: file.seek_data, os.SEEK_HOLE: file.seek_hole}.get(whence)
        if seek is None:
            raise os_error(errno.EINVAL)
        try:
            return seek(offset)
        except NotSupportedError:
            size = file.stat().size
            if offset >= size:
                raise os_error(errno.ENXIO) from None
            return offset if whence == os.SEEK_DATA else size

    def flush(self, handle: FileHandle) -> None:
        """close(2) of a descriptor: what was written goes to the layer, and what could not is told. No sync.

        Only to who may have written: who closes a file that he read must not take the error from who wrote to it.
        """
        inode = handle.inode
        file = inode.file
        if handle.writes and inode.writable and file is not None:
            file.flush()

    def sync(self, handle: FileHandle, *, data_only: bool) -> None:
        """fsync(2). Nothing of a lower's file can be unsynced."""
        inode = handle.inode
        if inode.in_upper:
            about_to_wait()
            with inode.copy_up_lock:
                self._back_locked(inode, writable=False)
            self._file(inode).sync(data_only=data_only)

    def lockable_file_locked(self, inode: FileInode) -> BackendFile:
        """The file that a layer is asked to lock: of the upper open for writing, so that it stays the same one.

        Preconditions: COPY_UP is held, and a handle open.
        """
        try:
            self._back_locked(inode, writable=inode.in_upper)
        except PermissionError:
            self._back_locked(inode, writable=False)
        return self._file(inode)

    def _changer(self) -> CopyUp:
        if self._copy_up is None:
            raise os_error(errno.EROFS)
        return self._copy_up

    def _is_settled(self, inode: FileInode) -> bool:
        """Whether the file can be opened in its layer as well later, when the first page of it is missing.

        What the kernel has cached of a file that never changes is then read without asking its layer for anything.
        """
        return not inode.in_upper and inode.lower_place().layer.ttl_ns == FOR_EVER_NS

    def _file(self, inode: FileInode) -> BackendFile:
        """What an open inode's data is read through. Valid while a handle is open."""
        file = inode.file
        if file is None:
            with inode.copy_up_lock:
                self._back_locked(inode, writable=False)
                file = inode.file
        if file is None:
            raise os_error(errno.EBADF)
        return file

    def _writable_file(self, inode: FileInode, size: int | None = None) -> BackendFile:
        """The inode's file, open for writing, in the upper; copied up, at most `size` bytes, if it was not.

        Precondition: a handle is open, so that the file stays open.
        """
        if inode.writable:
            return self._file(inode)
        if not inode.in_upper:
            self._changer().file(inode, size)
        with inode.copy_up_lock:
            self._back_locked(inode, writable=True)
            return self._file(inode)

    def _back_locked(self, inode: FileInode, *, writable: bool) -> None:
        """Open what backs the inode, unless it is open as needed. Preconditions: COPY_UP, and a handle counted."""
        if inode.file is not None and (inode.writable or not writable):
            return
        if inode.in_upper:
            upper = self._tree.stack.writable_upper()
            with self._tree.paths.shared():
                path = self._tree.upper_path(inode)
                file = _open(upper.backend, path, writable=writable)
        else:
            layer, path = inode.lower_place()
            file = layer.backend.open(path, Access.READ)
        inode.switch_file(file, writable=writable)

    def _released(self, inode: FileInode) -> None:
        if self._tree.inodes.released(inode) or inode.holds_nothing:
            return
        with inode.copy_up_lock:
            if inode.handles:
                return
            inode.locks = None
            if inode.lookups and _is_orphan(inode):
                return
            files = inode.take_files()
            unnamed, inode.unnamed = inode.unnamed, None
        with ExitStack() as stack:
            stack.callback(_close_all, files)
            if unnamed is not None:
                # If it fails, the next mount sweeps it.
                self._tree.stack.writable_upper().backend.unlink(unnamed)


def _is_orphan(inode: FileInode) -> bool:
    """Whether the open file is all that is left of the upper's file."""
    return inode.in_upper and not inode.names and inode.unnamed is None and inode.links is None


def _open(backend: Backend, path: LayerPath, *, writable: bool) -> BackendFile:
    """For reading as well, wherever that is allowed, since all handles share the file."""
    try:
        return backend.open(path, Access.READ_WRITE if writable else Access.READ)
    except PermissionError:
        if not writable:
            raise
        return backend.open(path, Access.WRITE)


def _close_all(files: list[BackendFile]) -> None:
    """Close each, whatever the others do."""
    with ExitStack() as stack:
        for file in files:
            stack.callback(file.close)


def clear_set_id_bits(file: BackendFile) -> None:
    """Take set-user-ID from a file that changes, and set-group-ID if its group may execute it."""
    mode = file.stat().mode
    if mode is not None and (kept := without_set_ids(mode)) != mode:
        file.set_attributes(AttributeChange(mode=kept))


def without_set_ids(mode: int) -> int:
    """The mode after a change by an ordinary user (inode(7)): set-group-ID without group execute means a lock."""
    kept = mode & ~stat_bits.S_ISUID
    return kept & ~stat_bits.S_ISGID if mode & stat_bits.S_IXGRP else kept
