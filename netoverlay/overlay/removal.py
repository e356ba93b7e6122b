"""Names that go: unlink and rmdir. Where a lower shows something under the name, a whiteout takes its place.

The whiteout comes in one step with the removal (rename over the file, exchange with the directory), so no crash makes
what was removed, or what it hid, appear again.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from netoverlay.backend_api import AttributeChange, FileStat, FileType, LayerPath, RenameFlags, join_path, os_error
from netoverlay.overlay.copy_up import CopyUp
from netoverlay.overlay.inodes import DirectoryInode, FileInode
from netoverlay.overlay.layers import UpperLayer
from netoverlay.overlay.lookup import Lookup
from netoverlay.overlay.tree import Tree
from netoverlay.overlay.workspace import Workspace

logger = logging.getLogger(__name__)

_OWNER_ALL = 0o700


class Remover:
    """Removes names from one tree. No data is ever copied for it."""

    def __init__(self, tree: Tree, lookup: Lookup, copy_up: CopyUp, upper: UpperLayer, workspace: Workspace) -> None:
        self._tree = tree
        self._lookup = lookup
        self._copy_up = copy_up
        self._upper = upper
        self._backend = upper.backend
        self._workspace = workspace

    def unlink(self, directory: DirectoryInode, name: str) -> None:
        """Remove a name of a file. Its content stays for who has it open. ENOENT, EISDIR."""
        with directory.directory_lock:
            inode = self._lookup.require_locked(directory, name).inode
            try:
                if not isinstance(inode, FileInode):
                    raise os_error(errno.EISDIR, name)
                self._unlink_locked(directory, name, inode)
            finally:
                self._tree.inodes.forget(inode.nodeid)

    def rmdir(self, directory: DirectoryInode, name: str) -> None:
        """Remove an empty directory. ENOENT, ENOTDIR, ENOTEMPTY."""
        with directory.directory_lock:
            inode = self._lookup.require_locked(directory, name).inode
            try:
                if not isinstance(inode, DirectoryInode):
                    raise os_error(errno.ENOTDIR, name)
                with inode.directory_lock:
                    self._rmdir_locked(directory, name, inode)
            finally:
                self._tree.inodes.forget(inode.nodeid)

    def unlink_whiteout(self, path: LayerPath) -> None:
        """Remove a whiteout that hides nothing: if that fails, it stays and does no harm. PATHS is held."""
        try:
            self._backend.unlink(path)
        except OSError as error:
            logger.warning("a whiteout that hides nothing stays, and does no harm: %s: %s", path, error.strerror)

    def require_empty_locked(self, directory: DirectoryInode) -> None:
        """ENOTEMPTY if the directory shows anything. Precondition: its DIRECTORY is held."""
        if self._lookup.list_locked(directory):
            raise os_error(errno.ENOTEMPTY)

    def empty_directory_locked(self, directory: DirectoryInode) -> None:
        """Make a directory that shows nothing hold nothing in the upper, so that it can be renamed over.

        Opaque first: then the whiteouts in it hide nothing any more. Precondition: its DIRECTORY is held.
        """
        self._copy_up.directory(directory)
        with self._tree.paths.shared():
            path = self._tree.upper_path(directory)
            if directory.lowers:
                self._upper.marks.set_opaque(path)
                directory.lowers = ()
                directory.note_change(FileType.DIRECTORY)
            for entry in self._backend.list_dir(path):
                self._workspace.discard(join_path(path, entry.name))

    def _unlink_locked(self, directory: DirectoryInode, name: str, inode: FileInode) -> None:
        self._copy_up.directory(directory)
        below = self._tree.shows_below(directory, name)
        # Under COPY_UP, for a copy-up that is about to publish the file under this name must not do so afterwards, and
        # no other of its names may go meanwhile.
        with inode.copy_up_lock:
            stat = self._tree.stat_locked(inode)
            # PATHS exclusive, for until the name is forgotten a stat by it would show the whiteout.
            with self._tree.paths.exclusive():
                path = join_path(self._tree.upper_path(directory), name)
                self._copy_up.before_removal(inode, stat)
                if not below:
                    self._backend.unlink(path)
                elif inode.in_upper:
                    self._whiteout_over(path, RenameFlags.NONE)
                else:
                    self._upper.marks.make_whiteout(path)
                inode.note_removed(stat)
                directory.note_change(inode.type)
                self._tree.inodes.remove_name(inode, directory, name)
                self._copy_up.after_removal(inode, stat)

    def _rmdir_locked(self, directory: DirectoryInode, name: str, inode: DirectoryInode) -> None:
        self.require_empty_locked(inode)
        stat = self._tree.stat(inode)
        self._copy_up.directory(directory)
        below = self._tree.shows_below(directory, name)
        with inode.copy_up_lock, self._tree.paths.exclusive():
            path = join_path(self._tree.upper_path(directory), name)
            if not inode.in_upper:
                self._upper.marks.make_whiteout(path)
            elif below:
                with self._writable(path, stat):
                    self._whiteout_over(path, RenameFlags.EXCHANGE)
            else:
                with self._writable(path, stat):
                    self._discard_directory(path)
            inode.note_removed(stat)
            directory.note_change(inode.type, -1)
            self._tree.inodes.remove_name(inode, directory, name)

    def _whiteout_over(self, path: LayerPath, flags: RenameFlags) -> None:
        """Put a whiteout in the place of what stands at `path`. Precondition: PATHS is held."""
        temporary = self._workspace.temporary()
        self._upper.marks.make_whiteout(temporary)
        try:
            self._backend.rename(temporary, path, flags)
        except BaseException:
            self._workspace.discard(temporary)
            raise
        if flags is RenameFlags.EXCHANGE:
            self._sweep(temporary)

    def _discard_directory(self, path: LayerPath) -> None:
        """Remove a directory that shows nothing, but may hold whiteouts. Precondition: PATHS is held."""
        try:
            self._backend.rmdir(path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            temporary = self._workspace.temporary()
            self._backend.rename(path, temporary)
            self._sweep(temporary)

    def _sweep(self, temporary: LayerPath) -> None:
        """Remove what is gone from the tree already: if that fails, the next mount sweeps it."""
        try:
            self._workspace.discard(temporary)
        except OSError as error:
            logger.warning(
                "what was removed stays in the work directory until the next mount: %s: %s", temporary, error.strerror
            )

    @contextmanager
    def _writable(self, path: LayerPath, stat: FileStat) -> Iterator[None]:
        """Let an ordinary user move a directory and empty it, which its own mode may forbid. As it was, on failure."""
        closed = stat.mode is not None and stat.mode & _OWNER_ALL != _OWNER_ALL
        if closed and stat.mode is not None:
            self._backend.set_attributes(path, AttributeChange(mode=stat.mode | _OWNER_ALL))
        try:
            yield
        except BaseException:
            if closed:
                self._backend.set_attributes(path, AttributeChange(mode=stat.mode))
            raise
