"""Reading directories: one listing for each opendir, offered entry by entry with positions that stay."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from netoverlay.backend_api import FileType
from netoverlay.overlay.handles import DirectoryHandle
from netoverlay.overlay.inodes import DirectoryInode
from netoverlay.overlay.lookup import Entry, Lookup
from netoverlay.overlay.merge import Listed
from netoverlay.overlay.tree import Tree

DOTS = 2
"""The entries before the listing: "." and ".."."""


class Offered(NamedTuple):
    """One entry of a directory."""

    name: str
    ino: int
    type: FileType
    position: int
    """Where to go on after it: what telldir(3) shows. Stays valid until the directory is closed or rewound."""
    listed: Listed | None
    """None for "." and ".."."""


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
            handle.version = directory.version
            handle.listing = self._lookup.list_locked(directory)
        parent = directory.names[0].directory if directory.names else directory
        for index, (name, inode) in enumerate(((".", directory), ("..", parent))):
            if position <= index:
                yield Offered(name, inode.ino, FileType.DIRECTORY, index + 1, None)
        start = max(0, position - DOTS)
        for index in range(start, len(handle.listing)):
            listed = handle.listing[index]
            yield Offered(listed.name, listed.ino, listed.stat.type, index + 1 + DOTS, listed)

    def entry_locked(self, handle: DirectoryHandle, listed: Listed) -> Entry | None:
        """The inode of a listed name, with a lookup counted; None if the name went meanwhile.

        What the listing says of a file of a lower is still true while no name of the directory has changed. Of the
        upper's files it is asked again: they change without their directory. Precondition: as for read_locked().
        """
        directory = handle.inode
        found = listed.found
        if found is None or found.in_upper or handle.version != directory.version:
            return self._lookup.lookup_locked(directory, listed.name)
        return self._lookup.enter_locked(directory, listed.name, found)
