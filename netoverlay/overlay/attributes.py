"""Attributes: what stat(2) shows of an inode, and chmod, chown, utimens."""

from __future__ import annotations

import errno
import os
import stat as stat_bits
import time
from dataclasses import replace
from typing import NamedTuple

from netoverlay.backend_api import AttributeChange, FileStat, FileType, os_error
from netoverlay.overlay.copy_up import CopyUp
from netoverlay.overlay.files import without_set_ids
from netoverlay.overlay.inodes import FileInode, Inode
from netoverlay.overlay.tree import Tree

BLOCK_BYTES = 512
PREFERRED_IO_BYTES = 4096

_DEFAULT_MODES = {FileType.DIRECTORY: 0o755, FileType.SYMLINK: 0o777}


class Attributes(NamedTuple):
    """struct stat, complete: what a transport does not know is filled in."""

    ino: int
    size: int
    blocks: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    mode: int
    """With the type."""
    nlink: int
    uid: int
    gid: int
    rdev: int
    block_size: int


class AttributeView:
    """Completes FileStats for one mount: unknown owners are the user's who mounted."""

    def __init__(self) -> None:
        self._uid = os.geteuid()
        self._gid = os.getegid()

    def complete(self, ino: int, stat: FileStat) -> Attributes:
        """The attributes to show for an inode of number `ino`."""
        mode = _DEFAULT_MODES.get(stat.type, 0o644) if stat.mode is None else stat.mode
        return Attributes(
            ino,
            stat.size,
            -(-stat.size // BLOCK_BYTES) if stat.blocks is None else stat.blocks,
            stat.mtime_ns if stat.atime_ns is None else stat.atime_ns,
            stat.mtime_ns,
            stat.mtime_ns if stat.ctime_ns is None else stat.ctime_ns,
            stat.type | mode,
            1 if stat.nlink is None else stat.nlink,
            self._uid if stat.uid is None else stat.uid,
            self._gid if stat.gid is None else stat.gid,
            stat.rdev or 0,
            PREFERRED_IO_BYTES,
        )


class AttributeChanger:
    """Changes attributes in one tree. Permission was checked by the kernel."""

    def __init__(self, tree: Tree, copy_up: CopyUp) -> None:
        self._tree = tree
        self._copy_up = copy_up

    def change(self, inode: Inode, change: AttributeChange) -> None:
        """Copy the inode up and set what `change` holds. A new owner of a file takes its set-id bits (chown(2))."""
        if inode.removed_stat is not None and inode.type is not FileType.REGULAR and not inode.names:
            inode.removed_stat = _changed(inode.removed_stat, change)
            return
        if isinstance(inode, FileInode):
            if change.mode is None and (change.uid is not None or change.gid is not None):
                change = self._chown(inode, change)
            try:
                self._change_file(inode, change)
            finally:
                inode.may_have_set_ids = True
        else:
            self._copy_up.inode(inode)
            with self._tree.paths.shared():
                self._tree.stack.writable_upper().backend.set_attributes(self._tree.upper_path(inode), change)
        inode.kept_ctime = None

    def clear_privileges(self, inode: Inode, *, set_ids: bool) -> None:
        """Take capabilities and, if asked, set-id bits from a file, as a change of its data does; its ctime is new."""
        if inode.removed_stat is None or inode.names:
            self._copy_up.inode(inode)
        stat = self._tree.stat(inode)
        mode = stat.mode if inode.type is FileType.REGULAR and not set_ids else None
        # Which is what takes them all, where the upper's file system has them; a mode is set after it.
        self.change(inode, AttributeChange(mode=mode, uid=stat.uid, gid=stat.gid))

    def _change_file(self, inode: FileInode, change: AttributeChange) -> None:
        if inode.names:
            self._copy_up.file(inode)
            if self._change_written(inode, change):
                return
            with self._tree.paths.shared():
                if inode.names:
                    backend = self._tree.stack.writable_upper().backend
                    backend.set_attributes(self._tree.upper_path(inode), change)
                    return
        elif not inode.in_upper:
            self._copy_up.file(inode)
        with inode.copy_up_lock:
            if inode.file is None:
                raise os_error(errno.ESTALE)
            inode.file.set_attributes(change)

    @staticmethod
    def _change_written(inode: FileInode, change: AttributeChange) -> bool:
        """Through the file that is open for writing, if there is one: what was written through it must come before."""
        if not inode.writable:
            return False
        with inode.copy_up_lock:
            if inode.file is None or not inode.writable:
                return False
            inode.file.set_attributes(change)
            return True

    def _chown(self, inode: FileInode, change: AttributeChange) -> AttributeChange:
        mode = self._tree.stat(inode).mode
        if inode.type is not FileType.REGULAR or mode is None or not mode & (stat_bits.S_ISUID | stat_bits.S_ISGID):
            return change
        return replace(change, mode=without_set_ids(mode))


def _changed(stat: FileStat, change: AttributeChange) -> FileStat:
    """What remains of a removed directory or special file is what is remembered of it."""
    return stat._replace(
        mode=stat.mode if change.mode is None else change.mode,
        uid=stat.uid if change.uid is None else change.uid,
        gid=stat.gid if change.gid is None else change.gid,
        atime_ns=stat.atime_ns if change.atime_ns is None else change.atime_ns,
        mtime_ns=stat.mtime_ns if change.mtime_ns is None else change.mtime_ns,
        ctime_ns=time.time_ns(),
    )
