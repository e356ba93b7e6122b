"""Handles of files and directories that the kernel uses without having opened them here.

It does so where it opens and closes by itself (NO_OPEN_SUPPORT in fuse/negotiation.py). Each file has one such handle
from its first use on, so that what it is read through stays open; the MOST_FILES that were used last keep theirs. A
file that the kernel forgets loses it at once: no program has it open then.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from typing import Final

from cachetools import LRUCache

from netoverlay.overlay.files import Files
from netoverlay.overlay.handles import DirectoryHandle, FileHandle
from netoverlay.overlay.inodes import DirectoryInode, FileInode
from netoverlay.overlay.tree import Tree

logger = logging.getLogger(__name__)

MOST_FILES: Final = 1024
MOST_DIRECTORIES: Final = 64
"""Directories that are being read at once. One more is listed again for each part of it that is read."""


class ImplicitHandle(FileHandle):
    """The handle of a file that nobody opened. It is closed only when nobody is in a with block of it."""

    __slots__ = ("_handles", "is_kept", "users")

    def __init__(self, inode: FileInode, handles: ImplicitHandles) -> None:
        super().__init__(inode)
        self._handles = handles
        self.users = 0
        self.is_kept = True

    def __exit__(self, *_: object) -> None:
        self._handles.leave(self)


class ImplicitHandles:
    """Those of one mount; thread-safe."""

    def __init__(self, tree: Tree, files: Files) -> None:
        self._inodes = tree.inodes
        self._files = files
        # Taken with nothing held but, for directories, DIRECTORY; under it TABLE.
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, ImplicitHandle] = OrderedDict()
        """By nodeid; last what was used last."""
        self._directories: LRUCache[int, DirectoryHandle] = LRUCache(MOST_DIRECTORIES)

    def file(self, inode: FileInode) -> FileHandle:
        """The handle of a file, to be used in one with block."""
        surplus = None
        with self._lock:
            handle = self._kept.get(inode.nodeid)
            if handle is None:
                self._inodes.opened(inode)
                handle = self._kept[inode.nodeid] = ImplicitHandle(inode, self)
                if len(self._kept) > MOST_FILES:
                    surplus = self._take_oldest_locked()
            else:
                self._kept.move_to_end(inode.nodeid)
            handle.users += 1
        self._close(surplus)
        return handle

    def directory(self, inode: DirectoryInode) -> DirectoryHandle:
        """The handle of a directory, which all who read it share, under its DIRECTORY lock."""
        with self._lock:
            handle = self._directories.get(inode.nodeid)
            if handle is None:
                handle = self._directories[inode.nodeid] = DirectoryHandle(inode)
            return handle

    def read_to_end(self, inode: DirectoryInode) -> None:
        """Nobody is likely to read on in the directory."""
        with self._lock:
            self._directories.pop(inode.nodeid, None)

    def leave(self, handle: ImplicitHandle) -> None:
        """The end of a with block of `handle`."""
        with self._lock:
            handle.users -= 1
            is_done = not handle.users and not handle.is_kept
        if is_done:
            self._close(handle)

    def forgotten(self, nodeid: int) -> None:
        """The kernel is about to give back lookups of an inode, as a rule all: nobody has it open then."""
        with self._lock:
            self._directories.pop(nodeid, None)
            handle = self._take_locked(nodeid)
        self._close(handle)

    def close(self) -> None:
        """Close all of them. Nothing is served any more."""
        with self._lock:
            handles = [self._take_locked(nodeid) for nodeid in list(self._kept)]
        for handle in handles:
            self._close(handle)

    def _take_oldest_locked(self) -> ImplicitHandle | None:
        """What was not used for longest; but a file without a name is gone with its handle, and stays."""
        nodeid, handle = next(iter(self._kept.items()))
        if handle.inode.unnamed is None:
            return self._take_locked(nodeid)
        self._kept.move_to_end(nodeid)
        return None

    def _take_locked(self, nodeid: int) -> ImplicitHandle | None:
        """No longer keep the handle; returned if it can be closed now, and otherwise closed when it is left."""
        handle = self._kept.pop(nodeid, None)
        if handle is None:
            return None
        handle.is_kept = False
        return None if handle.users else handle

    def _close(self, handle: ImplicitHandle | None) -> None:
        """Whoever used the file has long had the answer to each write: nobody is left to be told of an error."""
        if handle is None:
            return
        try:
            self._files.release(handle)
        except OSError as error:
            logger.warning(
                "what was written last to a file may be lost, for it could not be closed: %s", error.strerror
            )
