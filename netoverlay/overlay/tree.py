"""The state of one mount, and what can be asked of it without changing it: paths, attributes, what stands where."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TypeVar

from netoverlay.backend_api import BackendFile, FileStat, FileType, LayerPath, join_path, os_error
from netoverlay.overlay.inode_table import InodeTable
from netoverlay.overlay.inodes import ROOT_NODEID, DirectoryInode, FileInode, Inode
from netoverlay.overlay.layers import LayerStack, LowerPlace
from netoverlay.overlay.links import LinkIndex
from netoverlay.overlay.locks import PathLock, Rank, RankedLock
from netoverlay.overlay.merge import Found, Merge
from netoverlay.overlay.subdirectories import SubdirectoryCounter

_Result = TypeVar("_Result")


class Tree:
    """The layers, the inodes and the locks of one mount."""

    def __init__(self, stack: LayerStack) -> None:
        """Reads the root of the top-most layer; OSError if it cannot be read."""
        self.stack = stack
        self.merge = Merge(stack)
        self.paths = PathLock()
        self._subdirectories = SubdirectoryCounter(stack, self.merge, self.paths, self.upper_path)
        self.rename_lock = RankedLock(Rank.RENAME)
        self.links: LinkIndex | None = None
        """Of the upper, once it has been taken over."""
        self.path_epoch = 0
        """Changed, under PATHS exclusive, whenever the path of a directory changes."""
        places = self.merge.root()
        top = stack.upper or places[0].layer
        ino = top.inode_number(top.root, top.backend.stat(top.root))
        self.inodes = InodeTable(DirectoryInode(ROOT_NODEID, ino, places, in_upper=stack.upper is not None))

    @property
    def root(self) -> DirectoryInode:
        """The inode of the mount's root."""
        return self.inodes.root

    def upper_path(self, inode: Inode) -> LayerPath:
        """Where the inode is, or would be, in the upper: under its first name.

        Precondition: PATHS is held. ENOENT for a directory that has no name any more; ESTALE for a file, at which the
        kernel looks again for what the name leads to now.
        """
        if isinstance(inode, DirectoryInode):
            return inode.upper_path(self.stack.writable_upper().root, self.path_epoch)
        if not inode.names:
            raise os_error(errno.ESTALE)
        directory, name = inode.names[0]
        return join_path(self.upper_path(directory), name)

    def find_locked(self, directory: DirectoryInode, name: str) -> Found | None:
        """What the layers hold under `name`. Precondition: DIRECTORY of `directory` is held."""
        upper = self.stack.upper
        if upper is not None and directory.in_upper:
            links = None
            with self.paths.shared():
                path = join_path(self.upper_path(directory), name)
                above = self.merge.above(upper, path)
                if above is not None and self.links is not None and has_links(above.stat):
                    links = self.links.count_at(path, above.stat)
            if above is not None:
                if above.whiteout:
                    return None
                lowers: tuple[LowerPlace, ...] = ()
                if above.stat.type is FileType.DIRECTORY:
                    lowers = self.merge.below_upper(above, directory.lowers, name)
                return Found(above.stat, above.ino, in_upper=True, lowers=lowers, links=links)
        return self.merge.below(directory.lowers, name)

    def shows_below(self, directory: DirectoryInode, name: str) -> bool:
        """Whether a lower shows something under `name` where the upper does not hide it. Asks the lowers."""
        return bool(directory.lowers) and self.merge.below(directory.lowers, name) is not None

    def stat(self, inode: Inode) -> FileStat:
        """The attributes of the inode, as the layer that holds it tells them. ENOENT, ESTALE if that lost it.

        Must be called without PATHS, and without COPY_UP of the inode.
        """
        if isinstance(inode, DirectoryInode):
            return self._stat_directory(inode)
        if not isinstance(inode, FileInode):
            raise os_error(errno.EIO)
        stat = self._stat_named(inode)
        if stat is not None:
            return stat
        with inode.copy_up_lock:
            return self._stat_unnamed(inode)

    def named_stat(self, inode: Inode) -> FileStat | None:
        """As stat(), but None if its name has gone, or stands for another file by now."""
        return self._stat_named(inode) if isinstance(inode, FileInode) else self.stat(inode)

    def stat_locked(self, inode: FileInode) -> FileStat:
        """As stat(). Precondition: COPY_UP of the inode is held."""
        stat = self._stat_named(inode)
        return self._stat_unnamed(inode) if stat is None else stat

    def shown(self, inode: Inode, stat: FileStat) -> FileStat:
        """What the layer that holds the inode tells of it, with what only the overlay knows: links, and kept times.

        Must be called without PATHS for a directory.
        """
        if isinstance(inode, DirectoryInode):
            return self._shown_directory(inode, stat)
        if inode.kept_ctime is not None:
            stat = self.with_kept_ctime(inode, stat)
        return self._shown_file(inode, stat) if isinstance(inode, FileInode) else stat

    @staticmethod
    def with_kept_ctime(inode: Inode, stat: FileStat) -> FileStat:
        """With the ctime that it had before the upper's was moved on by what no program did."""
        kept = inode.kept_ctime
        return stat if kept is None or kept.real_ns != stat.ctime_ns else stat._replace(ctime_ns=kept.shown_ns)

    def _shown_file(self, inode: FileInode, stat: FileStat) -> FileStat:
        if not has_links(stat):
            return stat._replace(nlink=0) if inode.unnamed is not None else stat
        links = None if self.links is None else self.links.current(inode.links)
        if links is not None:
            return stat._replace(nlink=links.shown(stat.nlink or 1))
        if not inode.in_upper and self.links is not None:
            return self.links.shown_below(inode.lower_layer(), stat)
        return stat

    def _shown_directory(self, inode: DirectoryInode, stat: FileStat) -> FileStat:
        stat = self.with_kept_ctime(inode, stat)
        nlink = self._subdirectories.link_count(inode, stat.nlink)
        return stat if nlink == stat.nlink else stat._replace(nlink=nlink)

    def _stat_directory(self, inode: DirectoryInode) -> FileStat:
        if inode.removed_stat is not None:
            return inode.removed_stat
        if not inode.in_upper:
            layer, path = inode.lowers[0]
            return self.shown(inode, layer.backend.stat(path))
        with self.paths.shared():
            stat = self.stack.writable_upper().backend.stat(self.upper_path(inode))
        return self.shown(inode, stat)

    def _stat_named(self, inode: FileInode) -> FileStat | None:
        """None if it has no name, or others have put another file in its place in the lower."""
        if not inode.names:
            return None
        if inode.in_upper:
            written = self._stat_written(inode)
            if written is not None:
                return self.shown(inode, written)
            with self.paths.shared():
                if not inode.names:
                    return None
                return self.shown(inode, self.stack.writable_upper().backend.stat(self.upper_path(inode)))
        layer, path = inode.lower_place()
        stat = layer.backend.stat(path)
        if inode.lower_id not in (None, stat.file_id):
            return None
        return self.shown(inode, stat)

    def _stat_written(self, inode: FileInode) -> FileStat | None:
        """Of the file that is open for writing, which knows what is not on the layer yet; None if there is none."""
        return self.open_stat(inode) if inode.writable else None

    def open_stat(self, inode: FileInode) -> FileStat | None:
        """Of the open file, None if there is none."""
        return self.of_open_file(inode, _stat_of)

    @staticmethod
    def of_open_file(inode: FileInode, look: Callable[[BackendFile], _Result]) -> _Result | None:
        """What `look` returns or raises, of the open file; None if there is none.

        Without COPY_UP, under which it may be closed at any moment: what is told counts only if it was open until then.
        """
        file = inode.file
        if file is None:
            return None
        try:
            seen = look(file)
        except OSError as error:
            if error.errno in (errno.EBADF, errno.ESTALE) or inode.file is not file:
                return None
            raise
        return seen if inode.file is file else None

    def _stat_unnamed(self, inode: FileInode) -> FileStat:
        """Of a file without names: of its open file, or what was noted when the last name went."""
        if inode.file is not None:
            stat = self.shown(inode, inode.file.stat())
            return stat if inode.in_upper or inode.keys else stat._replace(nlink=0)
        if inode.removed_stat is not None:
            return inode.removed_stat
        raise os_error(errno.ESTALE)


def _stat_of(file: BackendFile) -> FileStat:
    return file.stat()


def has_links(stat: FileStat) -> bool:
    """Whether a file has, or may have, further names."""
    return stat.nlink is not None and stat.nlink > 1 and stat.type is not FileType.DIRECTORY
