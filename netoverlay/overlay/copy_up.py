"""Copy-up: bring an inode's content and attributes to the upper, where it can be changed.

What is copied is made complete in the work directory, synced, and then renamed to its name, so that a crash at any
point leaves the old file or the new one. Directories above it come first. The inode stays the same inode: only what
backs it changes, under COPY_UP, and open handles go on through it.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TypeAlias

from netoverlay.backend_api import (
    Access,
    AttributeChange,
    BackendFile,
    FileStat,
    FileType,
    LayerPath,
    join_path,
    os_error,
)
from netoverlay.backend_api.waiting import about_to_wait
from netoverlay.overlay.copies import Copies, quietly
from netoverlay.overlay.inodes import DirectoryInode, FileInode, FileKey, Inode, KeptTime, Name
from netoverlay.overlay.layers import FOR_EVER_NS, UpperLayer
from netoverlay.overlay.links import LinkCount, LinkIndex
from netoverlay.overlay.tree import Tree
from netoverlay.overlay.workspace import Workspace

logger = logging.getLogger(__name__)

MovingUp: TypeAlias = Callable[[FileInode, BackendFile], AbstractContextManager[None]]

_SEVERAL = 2


class CopyUp:
    """Copies inodes of one tree up. Safe to call for what is in the upper already."""

    def __init__(self, tree: Tree, upper: UpperLayer, workspace: Workspace, index: LinkIndex) -> None:
        self._tree = tree
        self._upper = upper
        self._backend = upper.backend
        self._workspace = workspace
        self._index = index
        self._copies = Copies(upper, workspace)
        self.moving_up: MovingUp = _nothing_moves
        """What is around an inode's becoming the upper's, as its new file."""
        self.came_up: Callable[[DirectoryInode], object] = id
        """Called when a directory has come to the upper, under its COPY_UP."""

    def inode(self, inode: Inode) -> None:
        """Bring any inode to the upper, with all that it holds."""
        if isinstance(inode, DirectoryInode):
            self.directory(inode)
        elif isinstance(inode, FileInode):
            self.file(inode)

    def root(self) -> None:
        """Give the root of an upper that was never used the attributes of the root below it."""
        root = self._tree.root
        path = self._upper.root
        if not root.lowers or self._upper.marks.recorded_inode_number(path) is not None:
            return
        if not self._backend.list_dir(path):
            source = root.lowers[0]
            self._copies.attributes(path, source.layer.backend.stat(source.path), source, root)

    def directory(self, directory: DirectoryInode) -> None:
        """Bring a directory, and those above it, to the upper; not what is in it. ENOENT if it was removed.

        Takes COPY_UP of one directory at a time.
        """
        missing: list[DirectoryInode] = []
        walk = directory
        while not walk.in_upper:
            missing.append(walk)
            names = walk.names
            if not names:
                raise os_error(errno.ENOENT)
            walk = names[0].directory
        for each in reversed(missing):
            with each.copy_up_lock:
                if not each.in_upper:
                    self._directory_locked(each)

    def file(self, inode: FileInode, size: int | None = None) -> None:
        """Bring a file to the upper; of its content only the first `size` bytes, if given. Takes COPY_UP."""
        while not inode.in_upper:
            self._drop_replaced(inode)
            for name in list(inode.names):
                self.directory(name.directory)
            with inode.copy_up_lock:
                # A further name may have turned up in a directory that is not in the upper yet.
                if all(name.directory.in_upper for name in inode.names):
                    self._file_locked(inode, size)

    def _drop_replaced(self, inode: FileInode) -> None:
        """Forget names that stand for other files by now, in a lower that others change."""
        if len(inode.names) < _SEVERAL or inode.lower_place().layer.ttl_ns == FOR_EVER_NS:
            return
        for directory, name in list(inode.names):
            found = self._tree.merge.below(directory.lowers, name)
            if found is None or found.stat.file_id != inode.lower_id:
                self._tree.inodes.remove_name(inode, directory, name)

    def adopt_name(self, inode: FileInode, directory: DirectoryInode, name: str) -> None:
        """Give a file that was copied up one more of the names that it had in the lower.

        Precondition: DIRECTORY of `directory` is held, and COPY_UP of the inode is not.
        """
        self.directory(directory)
        with inode.copy_up_lock, self._tree.paths.exclusive():
            path = join_path(self._tree.upper_path(directory), name)
            with self._times_kept([directory]):
                self._take_over_locked(inode, path)

    def _take_over_locked(self, inode: FileInode, path: LayerPath) -> None:
        """Preconditions: COPY_UP is held, and PATHS exclusively."""
        inode.links = self._index.current(inode.links)
        if inode.links is None:
            existing = self._tree.upper_path(inode)
        else:
            inode.links = self._index.before_taking_over(inode.links)
            existing = self._index.path(inode.links)
        before = self._tree.with_kept_ctime(inode, self._backend.stat(existing))
        self._backend.link(existing, path)
        if inode.links is not None:
            inode.links = self._index.settle(inode.links)
        after = self._backend.stat(path)
        if (after.mtime_ns, after.size) == (before.mtime_ns, before.size):  # else it was written to meanwhile
            self._keep_ctime(inode, path, before)

    def before_change(self, inode: FileInode) -> None:
        """The upper's file is about to get a new name, or to lose one. Precondition: COPY_UP and PATHS are held."""
        inode.links = self._index.current(inode.links)
        if inode.links is not None:
            inode.links = self._index.before_change(inode.links)

    def before_removal(self, inode: FileInode, stat: FileStat) -> None:
        """A name of a file, which is shown as `stat`, is about to go. Precondition: COPY_UP and PATHS are held."""
        self.before_change(inode)
        if inode.in_upper and stat.nlink == 1:
            self._keep_content(inode)

    def after_removal(self, inode: FileInode, stat: FileStat) -> None:
        """A name of a file, which was shown as `stat`, has gone. Precondition: COPY_UP and PATHS are held.

        Never fails, for the name has gone. A count that stays too high, after a crash as well, only keeps the file in
        the index; one that is too low would part its names.
        """
        try:
            if inode.links is not None:
                inode.links = self._index.settle(inode.links)
            elif inode.keys and not inode.in_upper:
                self._index.note_removed_below(inode.lower_place().layer, stat)
        except OSError as error:
            logger.warning(
                "the number of hard links of a file is not noted, which only keeps it in the index: %s", error.strerror
            )
        if inode.in_upper or stat.ctime_ns is None:
            inode.kept_ctime = None
        else:
            # Nothing has changed in the lower, but for who holds the file.
            kept = inode.kept_ctime
            inode.kept_ctime = KeptTime(stat.ctime_ns if kept is None else kept.real_ns, time.time_ns())

    def _keep_content(self, inode: FileInode) -> None:
        """The upper's file goes with its last name, but not for who has just found it by that name.

        Where an open takes a round trip, they are told to look again (ESTALE), as on NFS.
        """
        if not self._upper.capabilities.local:
            return
        path = self._tree.upper_path(inode)
        if inode.type is FileType.SYMLINK:
            inode.target = self._backend.readlink(path)
        elif inode.type is FileType.REGULAR and not inode.writable:
            try:
                inode.switch_file(self._backend.open(path, Access.READ_WRITE), writable=True)
            except PermissionError:
                logger.info("what was removed cannot be kept for who has just found it: %s", path)

    def _directory_locked(self, directory: DirectoryInode) -> None:
        source = directory.lowers[0]
        stat = source.layer.backend.stat(source.path)
        temporary = self._workspace.temporary()
        self._backend.mkdir(temporary, 0o700)
        try:
            self._copies.attributes(temporary, stat, source, directory)
            # An ordinary user may rename only a directory that he may write: its ".." changes.
            closed: AttributeChange | None = None
            if stat.mode is not None and not stat.mode & 0o200:
                closed = AttributeChange(mode=stat.mode)
                self._backend.set_attributes(temporary, AttributeChange(mode=stat.mode | 0o200))
            self._publish(temporary, directory.names[:1], closed)
        except BaseException:
            self._workspace.abandon(temporary)
            raise
        with self._tree.paths.shared():
            self._keep_ctime(directory, self._tree.upper_path(directory), stat)
        directory.in_upper = True
        self.came_up(directory)

    def _file_locked(self, inode: FileInode, size: int | None) -> None:
        """Precondition: COPY_UP is held, and all directories of the inode's names are in the upper."""
        if inode.in_upper:
            return
        about_to_wait()
        source = inode.lower_place()
        opened: BackendFile | None = None
        links: LinkCount | None = None
        if inode.type is FileType.REGULAR:
            temporary, opened, stat = self._copies.regular_file(inode, source, size)
        else:
            temporary, stat = self._copies.special_file(inode, source)
        with ExitStack() as moving:
            try:
                if opened is not None:
                    moving.enter_context(self.moving_up(inode, opened))
                if inode.keys:
                    links = self._index.add(source.layer, stat, temporary)
                if inode.names:
                    self._publish(temporary, inode.names)
                elif opened is None or not inode.handles:
                    raise os_error(errno.ESTALE)
                else:
                    self._backend.unlink(temporary)
            except BaseException:
                if opened is not None:
                    quietly(opened.close)
                self._workspace.abandon(temporary)
                if links is not None:
                    self._index.drop(links)
                raise
            inode.links = self._settled(links)
            self._switch_backing(inode, opened)
        if inode.names:
            with self._tree.paths.shared():
                self._keep_ctime(inode, self._tree.upper_path(inode), self._tree.with_kept_ctime(inode, stat))

    def _settled(self, links: LinkCount | None) -> LinkCount | None:
        """What stays of the count once the copy is published: it stands, so nothing may fail any more."""
        try:
            return None if links is None else self._index.settle(links)
        except OSError as error:
            logger.warning("copy-up: a file stays in the index of hard links, which does no harm: %s", error.strerror)
            return links

    def _publish(self, temporary: LayerPath, names: Sequence[Name], change: AttributeChange | None = None) -> None:
        """Give what was made its names, the first one last, and then the attributes of `change`.

        The times of the directories stay: nothing in them changes for a program.
        """
        # PATHS exclusive, so that no change of a parent comes between its times being read and set again.
        with self._tree.paths.exclusive():
            paths = [join_path(self._tree.upper_path(directory), name) for directory, name in names]
            with self._times_kept([directory for directory, _ in names]):
                self._give_names(temporary, paths)
                for directory, _ in names:
                    directory.note_change(FileType.REGULAR)
                if change is not None:
                    self._settle(paths[0], change)

    def _give_names(self, temporary: LayerPath, paths: list[LayerPath]) -> None:
        linked: list[LayerPath] = []
        try:
            for path in paths[1:]:
                self._backend.link(temporary, path)
                linked.append(path)
            self._backend.rename(temporary, paths[0])
        except BaseException:
            for path in linked:
                self._backend.unlink(path)
            raise

    @contextmanager
    def _times_kept(self, directories: list[DirectoryInode]) -> Iterator[None]:
        """What is named in these directories inside was there before, for a program. PATHS is held exclusively."""
        paths = [self._tree.upper_path(directory) for directory in directories]
        times = [
            self._tree.with_kept_ctime(directory, self._backend.stat(path))
            for directory, path in zip(directories, paths, strict=True)
        ]
        yield
        for directory, path, stat in zip(directories, paths, times, strict=True):
            self._settle(path, AttributeChange(atime_ns=stat.atime_ns, mtime_ns=stat.mtime_ns))
            self._keep_ctime(directory, path, stat)

    def _keep_ctime(self, inode: Inode, path: LayerPath, before: FileStat) -> None:
        """What was done at `path` of the upper has changed nothing for a program, so neither does its ctime."""
        try:
            real_ns = self._backend.stat(path).ctime_ns
        except OSError as error:
            logger.warning("copy-up: the ctime of %s is now that of its copy: %s", path, error.strerror)
            return
        if real_ns is not None:
            inode.kept_ctime = KeptTime(real_ns, before.mtime_ns if before.ctime_ns is None else before.ctime_ns)

    def _settle(self, path: LayerPath, change: AttributeChange) -> None:
        """Set attributes once the copy is published: it stands, so a failure now must not be taken for its failure."""
        try:
            self._backend.set_attributes(path, change)
        except OSError as error:
            logger.warning("copy-up: the attributes of %s are not as they were: %s", path, error.strerror)

    def _switch_backing(self, inode: FileInode, opened: BackendFile | None) -> None:
        """From here on the inode is the upper's. Precondition: COPY_UP is held."""
        # First, for who opens it meanwhile counts his handle first and then asks where it is: one sees the other.
        inode.in_upper = True
        if opened is not None:
            if inode.handles:
                inode.switch_file(opened, writable=True)
            else:
                opened.close()
        if inode.keys and inode.names:
            stat = self._tree.stat_locked(inode)
            if stat.file_id is not None:
                self._tree.inodes.add_key(inode, FileKey(self._upper.number, stat.file_id))


def _nothing_moves(inode: FileInode, file: BackendFile) -> AbstractContextManager[None]:
    """Nobody has locked anything."""
    del inode, file
    return nullcontext()
