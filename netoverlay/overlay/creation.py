"""New names: create, mkdir, symlink, mknod, link; and files without one.

Where the upper holds a whiteout under the name, the new entry is made in the work directory and renamed over it, so
that the name never shows what the whiteout hid. Otherwise it is made in place.
"""

from __future__ import annotations

import errno
import logging
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
from netoverlay.overlay.acl import ACCESS, DEFAULT, Inherited, inherit
from netoverlay.overlay.copy_up import CopyUp
from netoverlay.overlay.inodes import UNKNOWN_ACL, DirectoryInode, FileInode, FileKey
from netoverlay.overlay.layers import UpperLayer
from netoverlay.overlay.lookup import Entry, Lookup
from netoverlay.overlay.merge import Above, Found
from netoverlay.overlay.tree import Tree
from netoverlay.overlay.workspace import Workspace

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: what is made is theirs."""

    uid: int
    gid: int
    umask: int = 0


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

    def create(self, directory: DirectoryInode, name: str, mode: int, caller: Caller) -> CreatedFile:
        """A regular file, open for reading and writing."""
        with self._opening() as opened:
            inode, stat = self._make(directory, name, mode, caller, self._opener(opened))
            if not isinstance(inode, FileInode):
                raise os_error(errno.EISDIR, name)
            return CreatedFile(inode, stat, opened[0])

    def tmpfile(self, directory: DirectoryInode, mode: int, caller: Caller) -> CreatedFile:
        """A regular file without a name (open(2), O_TMPFILE), which link() may give one."""
        with self._opening() as opened, directory.directory_lock:
            self._bring_locked(directory)
            made = self._workspace.temporary()
            with self._tree.paths.shared(), self._discarding_on_failure(made):
                inherited = self._inherited(directory, mode, caller)
                self._opener(opened)(made, inherited.mode)
                stat = self._own(made, directory, caller, inherited, in_place=False)
            inode = FileInode(
                self._tree.inodes.next_nodeid(),
                self._upper.inode_number(made, stat),
                FileType.REGULAR,
                None,
                in_upper=True,
            )
            inode.unnamed = made
            self._tree.inodes.enter_unnamed(inode)
            return CreatedFile(inode, self._tree.shown(inode, stat), opened[0])

    def mknod(
        self, directory: DirectoryInode, name: str, type: FileType, mode: int, rdev: int, caller: Caller
    ) -> Entry:
        """A FIFO, socket, device or empty regular file."""
        if type is FileType.REGULAR:
            inode, stat, file = self.create(directory, name, mode, caller)
            file.close()
            return Entry(inode, stat)
        if type is FileType.CHARACTER_DEVICE and rdev == 0:
            raise OSError(errno.EPERM, "the device 0:0 is how the upper writes a whiteout")
        return self._make(directory, name, mode, caller, lambda path, bits: self._backend.mknod(path, type, bits, rdev))

    def symlink(self, directory: DirectoryInode, name: str, target: str, caller: Caller) -> Entry:
        """A symbolic link."""
        return self._make(directory, name, None, caller, lambda path, _: self._backend.symlink(path, target))

    def mkdir(self, directory: DirectoryInode, name: str, mode: int, caller: Caller) -> Entry:
        """An empty directory; opaque where a directory of a lower would show through."""
        with directory.directory_lock:
            above = self._prepare_locked(directory, name)
            temporary = self._workspace.temporary() if above is not None else None
            with self._tree.paths.shared():
                parent = self._backend.stat(self._tree.upper_path(directory))
                inherited = self._inherited(directory, mode | (parent.mode or 0) & stat_bits.S_ISGID, caller)
                path = join_path(self._tree.upper_path(directory), name)
                made = temporary or path
                self._backend.mkdir(made, inherited.mode)
                with self._discarding_on_failure(made):
                    stat = self._own(made, directory, caller, inherited, in_place=temporary is None)
                    if temporary is not None:
                        self._upper.marks.set_opaque(temporary)
                        self._backend.rename(temporary, path, RenameFlags.EXCHANGE)
                        self._backend.unlink(temporary)
            return self._enter_locked(directory, name, stat, path)

    def link(self, inode: FileInode, directory: DirectoryInode, name: str) -> Entry:
        """A further name for a file, or the first one for one of tmpfile(). ENOENT if it has lost its last one."""
        if not inode.names and inode.unnamed is None:
            raise os_error(errno.ENOENT)
        self._copy_up.file(inode)
        with directory.directory_lock:
            above = self._prepare_locked(directory, name)
            with inode.copy_up_lock, self._tree.paths.shared():
                self._copy_up.before_change(inode)
                stat = self._link_locked(inode, join_path(self._tree.upper_path(directory), name), above)
                if stat.file_id is not None:
                    self._tree.inodes.add_key(inode, FileKey(self._upper.number, stat.file_id))
                directory.note_change(inode.type)
                inode.kept_ctime = None
                self._tree.inodes.enter(inode, directory, name)
            return Entry(inode, stat)

    def _link_locked(self, inode: FileInode, path: LayerPath, above: Above | None) -> FileStat:
        """Precondition: COPY_UP of the inode and PATHS are held."""
        temporary = self._workspace.temporary() if above is not None else None
        self._backend.link(inode.unnamed or self._tree.upper_path(inode), temporary or path)
        with self._discarding_on_failure(temporary or path):
            if temporary is not None:
                self._backend.rename(temporary, path)
            stat = self._backend.stat(path)
        unnamed, inode.unnamed = inode.unnamed, None
        if unnamed is not None:
            stat = stat._replace(nlink=1)
            try:
                self._backend.unlink(unnamed)
            except OSError as error:
                logger.warning("a name in the work directory stays until the next mount: %s", error.strerror)
        return self._tree.shown(inode, stat)

    def _make(
        self,
        directory: DirectoryInode,
        name: str,
        mode: int | None,
        caller: Caller,
        make: Callable[[LayerPath, int], None],
    ) -> Entry:
        """`make` is called with a path and a mode. `mode`: None for what has none."""
        with directory.directory_lock:
            above = self._prepare_locked(directory, name)
            with self._tree.paths.shared():
                inherited = None if mode is None else self._inherited(directory, mode, caller)
                path = join_path(self._tree.upper_path(directory), name)
                made = self._workspace.temporary() if above is not None else path
                make(made, 0 if inherited is None else inherited.mode)
                with self._discarding_on_failure(made):
                    stat = self._own(made, directory, caller, inherited, in_place=made == path)
                    if made != path:
                        self._backend.rename(made, path)
            return self._enter_locked(directory, name, stat, path)

    @contextmanager
    def _opening(self) -> Iterator[list[BackendFile]]:
        """The files that are opened inside are closed if it fails."""
        opened: list[BackendFile] = []
        try:
            yield opened
        except BaseException:
            for file in opened:
                file.close()
            raise

    def _opener(self, opened: list[BackendFile]) -> Callable[[LayerPath, int], None]:
        def make(path: LayerPath, mode: int) -> None:
            opened.append(self._backend.open(path, Access.READ_WRITE, create=Creation.EXCLUSIVE, mode=mode))

        return make

    def _prepare_locked(self, directory: DirectoryInode, name: str) -> Above | None:
        """Bring the directory to the upper, and see that the name is free. The whiteout that stands there, if any.

        Precondition: DIRECTORY is held.
        """
        self._bring_locked(directory)
        if len(name.encode(errors="surrogateescape")) > self._upper.capabilities.max_name_bytes:
            raise os_error(errno.ENAMETOOLONG, name)
        with self._tree.paths.shared():
            above = self._tree.merge.above(self._upper, join_path(self._tree.upper_path(directory), name))
        taken = self._tree.shows_below(directory, name) if above is None else not above.whiteout
        if taken:
            raise os_error(errno.EEXIST, name)
        return above

    def _bring_locked(self, directory: DirectoryInode) -> None:
        if directory.removed_stat is not None:
            raise os_error(errno.ENOENT)
        self._copy_up.directory(directory)

    def _inherited(self, directory: DirectoryInode, mode: int, caller: Caller) -> Inherited:
        """Preconditions: PATHS is held, and the directory is in the upper."""
        if directory.default_acl == UNKNOWN_ACL:
            directory.default_acl = self._default_acl(self._tree.upper_path(directory))
        return inherit(directory.default_acl, mode, caller.umask)

    def _default_acl(self, path: LayerPath) -> bytes | None:
        try:
            return self._backend.get_xattr(path, DEFAULT)
        except OSError as error:
            if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
                return None
            raise

    @contextmanager
    def _discarding_on_failure(self, made: LayerPath) -> Iterator[None]:
        """What was made does not stay if the rest cannot be done: the caller is told that nothing was made."""
        try:
            yield
        except BaseException:
            self._workspace.discard(made)
            raise

    def _own(
        self, path: LayerPath, directory: DirectoryInode, caller: Caller, inherited: Inherited | None, *, in_place: bool
    ) -> FileStat:
        """Give what was just made to who asked, or to the group of a set-group-ID directory, with its ACLs.

        `in_place`: it was made in the directory, so that the file system has seen to that group. PATHS is held.
        """
        stat = self._backend.stat(path)
        mode = None if inherited is None else inherited.mode
        if not (in_place and (stat.uid, stat.gid) == (caller.uid, caller.gid)) and self._upper.capabilities.owners:
            parent = self._backend.stat(self._tree.upper_path(directory))
            group = _group(parent, caller)
            if (stat.uid, stat.gid) != (caller.uid, group):
                self._give(path, AttributeChange(mode=mode, uid=caller.uid, gid=group))
                stat = self._backend.stat(path)
        if inherited is None or inherited.default is None:
            return stat
        if inherited.access is not None:
            self._backend.set_xattr(path, ACCESS, inherited.access)
        if stat.type is FileType.DIRECTORY:
            self._backend.set_xattr(path, DEFAULT, inherited.default)
        return self._backend.stat(path)

    def _give(self, path: LayerPath, change: AttributeChange) -> None:
        """A daemon that may not give files away keeps them: as any FUSE mount of a user does."""
        try:
            self._backend.set_attributes(path, change)
        except PermissionError:
            return

    def _enter_locked(self, directory: DirectoryInode, name: str, stat: FileStat, path: LayerPath) -> Entry:
        directory.note_change(stat.type, 1)
        ino = self._upper.inode_number(path, stat)
        return self._lookup.enter_locked(directory, name, Found(stat, ino, in_upper=True, lowers=()))


def _group(parent: FileStat, caller: Caller) -> int:
    """Of what `caller` makes in a directory: its own, or that of a set-group-ID directory (inode(7))."""
    inherits = (parent.mode or 0) & stat_bits.S_ISGID
    return parent.gid if inherits and parent.gid is not None else caller.gid
