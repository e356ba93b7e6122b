"""New names: create, mkdir, symlink, mknod, link.

Where the upper holds a whiteout under the name, the new entry is made in the work directory and renamed over it, so
that the name never shows what the whiteout hid. Otherwise it is made in place.
"""

from __future__ import annotations

import errno
import stat as stat_bits
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from netoverlay.backend_api import (
    Access,
    AttributeChange,
    BackendFile,
    Creation,
    FileStat,
    FileType,
    LayerPath,
    RenameFlags,
    join_path,
    os_error,
)
from netoverlay.overlay.copy_up import CopyUp
from netoverlay.overlay.inodes import DirectoryInode, FileInode, FileKey
from netoverlay.overlay.layers import UpperLayer
from netoverlay.overlay.lookup import Entry, Lookup
from netoverlay.overlay.merge import Above, Found
from netoverlay.overlay.tree import Tree
from netoverlay.overlay.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Owner:
    """Who asks: what is made is theirs."""

    uid: int
    gid: int


class CreatedFile(NamedTuple):
    """A file that was just made, with a lookup counted."""

    inode: FileInode
    stat: FileStat
    file: BackendFile
    """Open for reading and writing."""


class Creator:
    """Makes names in one tree. What is returned has a lookup counted. EEXIST if the name is taken."""

    def __init__(self, tree: Tree, lookup: Lookup, copy_up: CopyUp, upper: UpperLayer, workspace: Workspace) -> None:
        self._tree = tree
        self._lookup = lookup
        self._copy_up = copy_up
        self._upper = upper
        self._backend = upper.backend
        self._workspace = workspace

    def create(self, directory: DirectoryInode, name: str, mode: int, owner: Owner) -> CreatedFile:
        """A regular file, open for reading and writing."""
        opened: list[BackendFile] = []

        def make(path: LayerPath) -> None:
            opened.append(self._backend.open(path, Access.READ_WRITE, create=Creation.EXCLUSIVE, mode=mode))

        try:
            inode, stat = self._make(directory, name, owner, make)
            if not isinstance(inode, FileInode):
                raise os_error(errno.EISDIR, name)
            return CreatedFile(inode, stat, opened[0])
        except BaseException:
            for file in opened:
                file.close()
            raise

    def mknod(self, directory: DirectoryInode, name: str, type: FileType, mode: int, rdev: int, owner: Owner) -> Entry:
        """A FIFO, socket, device or empty regular file."""
        if type is FileType.REGULAR:
            inode, stat, file = self.create(directory, name, mode, owner)
            file.close()
            return Entry(inode, stat)
        if type is FileType.CHARACTER_DEVICE and rdev == 0:
            raise OSError(errno.EPERM, "the device 0:0 is how the upper writes a whiteout")
        return self._make(directory, name, owner, lambda path: self._backend.mknod(path, type, mode, rdev))

    def symlink(self, directory: DirectoryInode, name: str, target: str, owner: Owner) -> Entry:
        """A symbolic link."""
        return self._make(directory, name, owner, lambda path: self._backend.symlink(path, target))

    def mkdir(self, directory: DirectoryInode, name: str, mode: int, owner: Owner) -> Entry:
        """An empty directory; opaque where a directory of a lower would show through."""
        with directory.directory_lock:
            above = self._prepare_locked(directory, name)
            parent = self._tree.stat(directory)
            setgid = (parent.mode or 0) & stat_bits.S_ISGID
            group = _group(parent, owner)
            temporary = self._workspace.temporary() if above is not None else None
            with self._tree.paths.shared():
                path = join_path(self._tree.upper_path(directory), name)
                made = temporary or path
                self._backend.mkdir(made, mode | setgid)
                with self._discarding_on_failure(made):
                    self._give(made, Owner(owner.uid, group), mode | setgid)
                    if temporary is not None:
                        self._upper.marks.set_opaque(temporary)
                        self._backend.rename(temporary, path, RenameFlags.EXCHANGE)
                        self._backend.unlink(temporary)
                    stat = self._backend.stat(path)
            return self._enter_locked(directory, name, stat, path)

    def link(self, inode: FileInode, directory: DirectoryInode, name: str) -> Entry:
        """A further name for a file, or the first one for one of tmpfile(). ENOENT if it has lost its last one."""
        if not inode.names and inode.unnamed is None:
            raise os_error(errno.ENOENT)
        self._copy_up.file(inode)
        with directory.directory_lock:
            above = self._prepare_locked(directory, name)
            with inode.copy_up_lock, self._tree.paths.shared():
                if inode.links is not None and self._tree.links is not None:
                    inode.links = self._tree.links.before_change(inode.links)
                stat = self._link_locked(inode, join_path(self._tree.upper_path(directory), name), above)
                if stat.file_id is not None:
                    self._tree.inodes.add_key(inode, FileKey(self._upper.number, stat.file_id))
                directory.note_change()
                self._tree.inodes.enter(inode, directory, name)
            return Entry(inode, stat)

    def _link_locked(self, inode: FileInode, path: LayerPath, above: Above | None) -> FileStat:
        """Precondition: COPY_UP of the inode and PATHS are held."""
        temporary = self._workspace.temporary() if above is not None else None
        self._backend.link(inode.unnamed or self._tree.upper_path(inode), temporary or path)
        with self._discarding_on_failure(temporary or path):
            if temporary is not None:
                self._backend.rename(temporary, path)
            if inode.unnamed is not None:
                self._backend.unlink(inode.unnamed)
                inode.unnamed = None
            return self._tree.shown(inode, self._backend.stat(path))

    def _make(self, directory: DirectoryInode, name: str, owner: Owner, make: Callable[[LayerPath], None]) -> Entry:
        with directory.directory_lock:
            above = self._prepare_locked(directory, name)
            with self._tree.paths.shared():
                path = join_path(self._tree.upper_path(directory), name)
                made = self._workspace.temporary() if above is not None else path
                make(made)
                with self._discarding_on_failure(made):
                    stat = self._own(made, directory, owner, in_place=made == path)
                    if made != path:
                        self._backend.rename(made, path)
            return self._enter_locked(directory, name, stat, path)

    def _prepare_locked(self, directory: DirectoryInode, name: str) -> Above | None:
        """Bring the directory to the upper, and see that the name is free. The whiteout that stands there, if any.

        Precondition: DIRECTORY is held.
        """
        if directory.removed_stat is not None:
            raise os_error(errno.ENOENT)
        self._copy_up.directory(directory)
        if len(name.encode(errors="surrogateescape")) > self._upper.capabilities.max_name_bytes:
            raise os_error(errno.ENAMETOOLONG, name)
        with self._tree.paths.shared():
            above = self._tree.merge.above(self._upper, join_path(self._tree.upper_path(directory), name))
        taken = self._tree.shows_below(directory, name) if above is None else not above.whiteout
        if taken:
            raise os_error(errno.EEXIST, name)
        return above

    @contextmanager
    def _discarding_on_failure(self, made: LayerPath) -> Iterator[None]:
        """What was made does not stay if the rest cannot be done: the caller is told that nothing was made."""
        try:
            yield
        except BaseException:
            self._workspace.discard(made)
            raise

    def _own(self, path: LayerPath, directory: DirectoryInode, owner: Owner, *, in_place: bool) -> FileStat:
        """Give what was just made to who asked, or to the group of a set-group-ID directory. PATHS is held.

        `in_place`: it was made in the directory, so that the file system has seen to that group.
        """
        stat = self._backend.stat(path)
        if not self._upper.capabilities.owners or (in_place and (stat.uid, stat.gid) == (owner.uid, owner.gid)):
            return stat
        parent = self._backend.stat(self._tree.upper_path(directory))
        group = _group(parent, owner)
        if (stat.uid, stat.gid) == (owner.uid, group):
            return stat
        mode = None if stat.type is FileType.SYMLINK else stat.mode
        self._give(path, Owner(owner.uid, group), mode)
        return self._backend.stat(path)

    def _give(self, path: LayerPath, owner: Owner, mode: int | None) -> None:
        """Set owner and mode. A daemon that may not give files away keeps them: as any FUSE mount of a user does."""
        stat = self._backend.stat(path)
        if (stat.uid, stat.gid) == (owner.uid, owner.gid) or not self._upper.capabilities.owners:
            return
        try:
            self._backend.set_attributes(path, AttributeChange(mode=mode, uid=owner.uid, gid=owner.gid))
        except PermissionError:
            return

    def _enter_locked(self, directory: DirectoryInode, name: str, stat: FileStat, path: LayerPath) -> Entry:
        directory.note_change()
        ino = self._upper.inode_number(path, stat)
        return self._lookup.enter_locked(directory, name, Found(stat, ino, in_upper=True, lowers=()))


def _group(parent: FileStat, owner: Owner) -> int:
    """Of what `owner` makes in a directory: its own, or that of a set-group-ID directory (inode(7))."""
    inherits = (parent.mode or 0) & stat_bits.S_ISGID
    return parent.gid if inherits and parent.gid is not None else owner.gid
