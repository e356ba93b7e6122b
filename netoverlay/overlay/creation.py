"""New names: create, mkdir, symlink, mknod, link; and files without one.

Where the upper holds a whiteout under the name, the new entry is made in the work directory and renamed over it, so
that the name never shows what the whiteout hid. Otherwise it is made in place. Whether anything stands there is asked
before that only where a lower could show it: of the upper alone the making of it tells (EEXIST).
"""

from __future__ import annotations

import errno
import logging
import stat as stat_bits
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, TypeAlias

from netoverlay.backend_api import (
    Access,
    AttributeChange,
    Backend,
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
from netoverlay.overlay.merge import Found
from netoverlay.overlay.tree import Tree
from netoverlay.overlay.workspace import Workspace

logger = logging.getLogger(__name__)


Make: TypeAlias = Callable[[LayerPath, int], None]
"""Makes something at a path of the upper, with a mode."""
Look: TypeAlias = Callable[[LayerPath], FileStat]
"""Tells what was made there."""


class Caller(NamedTuple):
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
        with _NewFile(self._backend) as new:
            inode, stat = self._make(directory, name, mode, caller, new.make, new.look)
            if not isinstance(inode, FileInode):
                raise os_error(errno.EISDIR, name)
            return CreatedFile(inode, stat, new.file())

    def tmpfile(self, directory: DirectoryInode, mode: int, caller: Caller) -> CreatedFile:
        """A regular file without a name (open(2), O_TMPFILE), which link() may give one."""
        with _NewFile(self._backend) as new, directory.directory_lock:
            self._bring_locked(directory)
            made = self._workspace.temporary()
            with self._tree.paths.shared(), _Discarding(self._workspace, made):
                inherited = self._inherited(directory, mode, caller)
                new.make(made, inherited.mode)
                stat = self._own(made, new.look, directory, caller, inherited, in_place=False)
            inode = FileInode(
                self._tree.inodes.next_nodeid(),
                self._upper.inode_number(made, stat),
                FileType.REGULAR,
                None,
                in_upper=True,
            )
            inode.unnamed = made
            self._tree.inodes.enter_unnamed(inode)
            return CreatedFile(inode, self._tree.shown(inode, stat), new.file())

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

        def make(path: LayerPath, bits: int) -> None:
            self._backend.mknod(path, type, bits, rdev)

        return self._make(directory, name, mode, caller, make, self._backend.stat)

    def symlink(self, directory: DirectoryInode, name: str, target: str, caller: Caller) -> Entry:
        """A symbolic link."""

        def make(path: LayerPath, _: int) -> None:
            self._backend.symlink(path, target)

        return self._make(directory, name, None, caller, make, self._backend.stat)

    def mkdir(self, directory: DirectoryInode, name: str, mode: int, caller: Caller) -> Entry:
        """An empty directory; opaque where a directory of a lower would show through."""
        with directory.directory_lock:
            is_hidden = self._prepare_locked(directory, name)
            with self._tree.paths.shared():
                parent = self._backend.stat(self._tree.upper_path(directory))
                inherited = self._inherited(directory, mode | (parent.mode or 0) & stat_bits.S_ISGID, caller)
                path = join_path(self._tree.upper_path(directory), name)
                made = self._make_at(path, inherited.mode, self._backend.mkdir, is_hidden=is_hidden)
                with _Discarding(self._workspace, made):
                    stat = self._own(made, self._backend.stat, directory, caller, inherited, in_place=made == path)
                    if made != path:
                        self._upper.marks.set_opaque(made)
                        self._backend.rename(made, path, RenameFlags.EXCHANGE)
                        self._backend.unlink(made)
            return self._enter_locked(directory, name, stat, path)

    def link(self, inode: FileInode, directory: DirectoryInode, name: str) -> Entry:
        """A further name for a file, or the first one for one of tmpfile(). ENOENT if it has lost its last one."""
        if not inode.names and inode.unnamed is None:
            raise os_error(errno.ENOENT)
        self._copy_up.file(inode)
        with directory.directory_lock:
            is_hidden = self._prepare_locked(directory, name)
            with inode.copy_up_lock, self._tree.paths.shared():
                self._copy_up.before_change(inode)
                path = join_path(self._tree.upper_path(directory), name)
                stat = self._link_locked(inode, path, is_hidden=is_hidden)
                if stat.file_id is not None:
                    self._tree.inodes.add_key(inode, FileKey(self._upper.number, stat.file_id))
                directory.note_change(inode.type)
                inode.kept_ctime = None
                self._tree.inodes.enter(inode, directory, name)
            return Entry(inode, stat)

    def _link_locked(self, inode: FileInode, path: LayerPath, *, is_hidden: bool) -> FileStat:
        """Precondition: COPY_UP of the inode and PATHS are held."""

        def make(at: LayerPath, _: int) -> None:
            self._backend.link(inode.unnamed or self._tree.upper_path(inode), at)

        made = self._make_at(path, 0, make, is_hidden=is_hidden)
        with _Discarding(self._workspace, made):
            if made != path:
                self._backend.rename(made, path)
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
        self, directory: DirectoryInode, name: str, mode: int | None, caller: Caller, make: Make, look: Look
    ) -> Entry:
        """`mode`: None for what has none."""
        with directory.directory_lock:
            is_hidden = self._prepare_locked(directory, name)
            with self._tree.paths.shared():
                inherited = None if mode is None else self._inherited(directory, mode, caller)
                path = join_path(self._tree.upper_path(directory), name)
                made = self._make_at(path, 0 if inherited is None else inherited.mode, make, is_hidden=is_hidden)
                with _Discarding(self._workspace, made):
                    stat = self._own(made, look, directory, caller, inherited, in_place=made == path)
                    if made != path:
                        self._backend.rename(made, path)
            return self._enter_locked(directory, name, stat, path)

    def _make_at(self, path: LayerPath, mode: int, make: Make, *, is_hidden: bool) -> LayerPath:
        """Make it at `path`, or, where a whiteout stands there, in the work directory: where.

        `is_hidden`: one is known to stand there. EEXIST if anything else does. PATHS is held.
        """
        if not is_hidden:
            try:
                make(path, mode)
            except FileExistsError:
                if not self._is_whiteout(path):
                    raise
            else:
                return path
        temporary = self._workspace.temporary()
        make(temporary, mode)
        return temporary

    def _prepare_locked(self, directory: DirectoryInode, name: str) -> bool:
        """Bring the directory to the upper, and see that no lower shows the name. Whether a whiteout is known there.

        Precondition: DIRECTORY is held.
        """
        self._bring_locked(directory)
        if len(name.encode(errors="surrogateescape")) > self._upper.capabilities.max_name_bytes:
            raise os_error(errno.ENAMETOOLONG, name)
        if not directory.lowers:
            return False
        with self._tree.paths.shared():
            above = self._tree.merge.above(self._upper, join_path(self._tree.upper_path(directory), name))
        taken = self._tree.shows_below(directory, name) if above is None else not above.whiteout
        if taken:
            raise os_error(errno.EEXIST, name)
        return above is not None

    def _is_whiteout(self, path: LayerPath) -> bool:
        """Whether a whiteout stands at `path` of the upper. PATHS is held."""
        above = self._tree.merge.above(self._upper, path)
        return above is not None and above.whiteout

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

    def _own(
        self,
        path: LayerPath,
        look: Look,
        directory: DirectoryInode,
        caller: Caller,
        inherited: Inherited | None,
        *,
        in_place: bool,
    ) -> FileStat:
        """Give what was just made to who asked, or to the group of a set-group-ID directory, with its ACLs.

        `in_place`: it was made in the directory, so that the file system has seen to that group. PATHS is held.
        """
        stat = look(path)
        mode = None if inherited is None else inherited.mode
        if not (in_place and (stat.uid, stat.gid) == (caller.uid, caller.gid)) and self._upper.capabilities.owners:
            parent = self._backend.stat(self._tree.upper_path(directory))
            group = _group(parent, caller)
            if (stat.uid, stat.gid) != (caller.uid, group):
                self._give(path, AttributeChange(mode=mode, uid=caller.uid, gid=group))
                stat = look(path)
        if inherited is None or inherited.default is None:
            return stat
        if inherited.access is not None:
            self._backend.set_xattr(path, ACCESS, inherited.access)
        if stat.type is FileType.DIRECTORY:
            self._backend.set_xattr(path, DEFAULT, inherited.default)
        return look(path)

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


class _NewFile:
    """The opening of a new file. In a with block of it: what was opened is closed if the block fails."""

    __slots__ = ("_backend", "_opened")

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._opened: list[BackendFile] = []

    def make(self, path: LayerPath, mode: int) -> None:
        """Make it at `path`, where nothing stands."""
        file = self._backend.open(path, Access.READ_WRITE, create=Creation.EXCLUSIVE, mode=mode)
        self._opened.append(file)

    def look(self, path: LayerPath) -> FileStat:
        """What it is now: of the open file, for which no path is walked."""
        del path
        return self.file().stat()

    def file(self) -> BackendFile:
        """What was opened."""
        return self._opened[0]

    def __enter__(self) -> _NewFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            for file in self._opened:
                file.close()


class _Discarding:
    """What was made does not stay if the rest cannot be done: the caller is told that nothing was made."""

    __slots__ = ("_path", "_workspace")

    def __init__(self, workspace: Workspace, path: LayerPath) -> None:
        self._workspace = workspace
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._workspace.discard(self._path)


def _group(parent: FileStat, caller: Caller) -> int:
    """Of what `caller` makes in a directory: its own, or that of a set-group-ID directory (inode(7))."""
    inherits = (parent.mode or 0) & stat_bits.S_ISGID
    return parent.gid if inherits and parent.gid is not None else caller.gid
