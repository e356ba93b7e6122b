"""Reading directories: one listing for each opendir, offered entry by entry with positions that stay.

A position belongs to a name for as long as the directory's inode lives, whoever reads: the kernel goes on, from what it
has cached of another reader's listing, wherever that ended.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from operator import itemgetter
from typing import TypeAlias

from netoverlay.backend_api import FileType
from netoverlay.overlay.handles import DirectoryHandle
from netoverlay.overlay.inodes import DirectoryInode
from netoverlay.overlay.lookup import Entry, Lookup
from netoverlay.overlay.merge import Listed
from netoverlay.overlay.tree import Tree

Offered: TypeAlias = tuple[str, int, FileType, int, Listed | None]
"""One entry of a directory: name, st_ino, type, position, and what is listed, None for "." and "..".

The position is where to go on after it: what telldir(3) shows.
"""


class Directories:
    """Lists the directories of one tree."""

    def __init__(self, tree: Tree, lookup: Lookup) -> None:
        self._tree = tree
        self._lookup = lookup

    def open(self, directory: DirectoryInode) -> DirectoryHandle:
        """A handle for reading a directory."""
        self._tree.inodes.opened(directory)
        return DirectoryHandle(directory)

    def release(self, handle: DirectoryHandle) -> None:
        """Close a handle."""
        self._tree.inodes.released(handle.inode)

    def read_locked(self, handle: DirectoryHandle, position: int) -> Iterator[Offered]:
        """The entries from `position` on. 0 lists anew. Precondition: DIRECTORY of the handle's inode is held."""
        directory = handle.inode
        if position == 0 or handle.listing is None:
            self._list_locked(handle)
        parent = directory.names[0].directory if directory.names else directory
        for index, (name, inode) in enumerate(((".", directory), ("..", parent))):
            if position <= index:
                yield name, inode.ino, FileType.DIRECTORY, index + 1, None
        listing, positions = handle.listing or [], handle.positions
        for index in range(bisect_right(positions, position), len(listing)):
            listed = listing[index]
            yield listed.name, listed.ino, listed.stat.type, positions[index], listed

    def _list_locked(self, handle: DirectoryHandle) -> None:
        directory = handle.inode
        handle.version = directory.version
        listing = self._lookup.list_locked(directory)
        positions = directory.positions.renew([listed.name for listed in listing])
        if not isinstance(positions, range):
            placed = sorted(zip(positions, listing, strict=True), key=itemgetter(0))
            positions = array("Q", [position for position, _ in placed])
            listing = [listed for _, listed in placed]
        handle.listing, handle.positions = listing, positions

    def entry_locked(self, handle: DirectoryHandle, listed: Listed) -> Entry | None:
        """The inode of a listed name, with a lookup counted; None if the name went meanwhile.

        What the listing says of a file of a lower is still true while no name of the directory has changed. Of the
        upper's files it is asked again: they change without their directory. So is everything where others change the
        upper, too. Precondition: as for read_locked().
        """
        directory = handle.inode
        is_old = handle.version != directory.version or self._lookup.others_change(directory)
        if not listed.is_whole or listed.in_upper or is_old:
            return self._lookup.lookup_locked(directory, listed.name)
        return self._lookup.enter_locked(directory, listed.name, listed)
