"""The table that finds the inodes: by nodeid, by name, by file id; who may forget what, and when one is dropped.

The invariants are those of inodes.py.
"""

from __future__ import annotations

import errno
import itertools
import logging
import threading
from typing import Final

from netoverlay.backend_api.waiting import about_to_wait
from netoverlay.overlay.inodes import ROOT_NODEID, DirectoryInode, FileInode, FileKey, Inode, KeptTime, Name
from netoverlay.overlay.locks import Rank, RankedLock

logger = logging.getLogger(__name__)

MOST_INODES: Final = 150_000
"""Beyond which the kernel is asked to let go of some (pruning.py). One takes 0.6 to 0.7 KiB (bench/memory.py)."""
MOST_KEPT: Final = 100_000
"""Forgotten inodes whose kept ctimes are remembered."""


class InodeTable:
    """All inodes, by nodeid and by file id. Every method that changes something takes TABLE."""

    def __init__(self, root: DirectoryInode, most: int = MOST_INODES) -> None:
        self.lock = RankedLock(Rank.TABLE)
        self.most = most
        """As many there should be; there are more where the kernel has more in use."""
        self.crowded = threading.Event()
        """Set when there are more."""
        self.root = root
        self._by_nodeid: dict[int, Inode] = {root.nodeid: root}
        self._by_key: dict[FileKey, FileInode] = {}
        self._nodeids = itertools.count(ROOT_NODEID + 1)
        self._kept: dict[int, KeptTime] = {}

    def __len__(self) -> int:
        return len(self._by_nodeid)

    def get(self, nodeid: int) -> Inode:
        """The inode of a nodeid that the kernel holds. KeyError if there is none."""
        return self._by_nodeid[nodeid]

    def __contains__(self, nodeid: int) -> bool:
        return nodeid in self._by_nodeid

    def find_nodeid(self, nodeid: int) -> Inode | None:
        """As get(), but None if there is none."""
        return self._by_nodeid.get(nodeid)

    def nodeids(self) -> list[int]:
        """Those of all inodes but the root, in the order in which they came."""
        return list(self._by_nodeid)[1:]

    def by_numbers(self, numbers: set[int]) -> dict[int, Inode]:
        """The inodes that are shown with one of these inode numbers (st_ino)."""
        with self.lock:
            return {inode.ino: inode for inode in self._by_nodeid.values() if inode.ino in numbers}

    def next_nodeid(self) -> int:
        """A nodeid that was never used in this mount."""
        return next(self._nodeids)

    def known(self, directory: DirectoryInode, name: str) -> Inode | None:
        """The inode known under a name, with a lookup counted; None says nothing about the layers."""
        with self.lock:
            inode = directory.children.get(name)
            if inode is not None:
                inode.lookups += 1
            return inode

    def find(self, key: FileKey) -> FileInode | None:
        """The inode of a file known under another name, with a lookup counted."""
        with self.lock:
            inode = self._by_key.get(key)
            if inode is not None:
                inode.lookups += 1
            return inode

    def enter(self, inode: Inode, directory: DirectoryInode, name: str) -> Inode:
        """Make `inode` known under a name, and return it, with a lookup counted.

        If another of the same type is known there, that is returned instead; if the same file is known as another
        inode under other names, that inode, which this name is then still to be given to.
        """
        with self.lock:
            known = directory.children.get(name)
            if known is not None and known.type is not inode.type:
                self._remove_name_locked(known, directory, name)
                self._drop_unused_locked(known)
                known = None
            if known is None:
                twin = self._register_locked(inode)
                if twin is not inode:
                    twin.lookups += 1
                    return twin
                known = inode
                directory.children[name] = inode
                inode.names = (*inode.names, Name(directory, name))
            known.lookups += 1
            return known

    def enter_unnamed(self, inode: FileInode) -> FileInode:
        """Make a file known by its ids only, or find it by one of them; with a lookup counted."""
        with self.lock:
            known = self._register_locked(inode)
            if not isinstance(known, FileInode):
                raise OSError(errno.EIO, "an id of a file leads to a directory")
            known.lookups += 1
            return known

    def add_key(self, inode: FileInode, key: FileKey) -> None:
        """Find `inode` by a further file id: the upper's, after copy-up. The lower's stays."""
        with self.lock:
            if key not in inode.keys:
                inode.keys = (*inode.keys, key)
            self._by_key.setdefault(key, inode)

    def drop_keys(self, inode: FileInode, layer: int) -> None:
        """Find `inode` no more by its file ids in a layer."""
        with self.lock:
            for key in inode.keys:
                if key.layer == layer and self._by_key.get(key) is inode:
                    del self._by_key[key]
            inode.keys = tuple(key for key in inode.keys if key.layer != layer)

    def remove_name(self, inode: Inode, directory: DirectoryInode, name: str) -> None:
        """The name is gone. Harmless if it was not known."""
        with self.lock:
            self._remove_name_locked(inode, directory, name)
            self._drop_unused_locked(inode)

    def move_name(self, inode: Inode, old: Name, new: Name) -> None:
        """The inode is now known under `new` instead of `old`; what was known there has lost that name."""
        with self.lock:
            replaced = new.directory.children.get(new.name)
            if replaced is not None:
                self._remove_name_locked(replaced, new.directory, new.name)
                self._drop_unused_locked(replaced)
            self._remove_name_locked(inode, old.directory, old.name)
            new.directory.children[new.name] = inode
            inode.names = (*inode.names, new)

    def exchange_names(self, first: Name, second: Name) -> None:
        """The inodes known under two names have changed places."""
        with self.lock:
            one, other = first.directory.children[first.name], second.directory.children[second.name]
            first.directory.children[first.name], second.directory.children[second.name] = other, one
            one.names = tuple(second if name == first else name for name in one.names)
            other.names = tuple(first if name == second else name for name in other.names)

    def count_lookup(self, inode: Inode) -> None:
        """One more lookup of an inode that the caller already holds."""
        with self.lock:
            inode.lookups += 1

    def forget(self, nodeid: int, count: int = 1) -> None:
        """Give back `count` lookups: the kernel, or whoever here looked a name up for itself. Takes COPY_UP."""
        with self.lock:
            inode = self._by_nodeid.get(nodeid)
            if inode is None or inode is self.root:
                return
            inode.lookups = max(0, inode.lookups - count)
            self._drop_unused_locked(inode)
            unused = not inode.lookups and not inode.handles
        if unused and isinstance(inode, FileInode) and inode.file is not None:
            self._close(inode)

    def restore_kept(self, kept: dict[int, KeptTime]) -> None:
        """The kept ctimes of inodes that are not known yet, by st_ino; and of the root."""
        with self.lock:
            self._kept = kept
            self.root.kept_ctime = kept.pop(self.root.ino, None)

    def all_kept(self) -> dict[int, KeptTime]:
        """The kept ctimes of all files and directories of the upper, known or not, by st_ino."""
        with self.lock:
            known = {
                inode.ino: inode.kept_ctime
                for inode in self._by_nodeid.values()
                if inode.kept_ctime is not None and inode.in_upper and (inode.names or inode is self.root)
            }
            return {**self._kept, **known}

    def open_files(self) -> list[FileInode]:
        """The files that have handles."""
        with self.lock:
            return [inode for inode in self._by_nodeid.values() if isinstance(inode, FileInode) and inode.handles]

    def opened(self, inode: Inode) -> None:
        """A handle on the inode was opened."""
        with self.lock:
            inode.handles += 1
            inode.used = True

    def released(self, inode: Inode) -> int:
        """A handle was closed. How many are left."""
        with self.lock:
            inode.handles -= 1
            self._drop_unused_locked(inode)
            return inode.handles

    def _close(self, inode: FileInode) -> None:
        """Close what was kept open for who may still ask, and nobody can any more."""
        about_to_wait()
        with inode.copy_up_lock:
            files = [] if inode.handles or inode.lookups else inode.take_files()
        for file in files:
            try:
                file.close()
            except OSError as error:
                logger.warning("a removed file could not be closed, which nobody needs any more: %s", error.strerror)

    def _register_locked(self, inode: Inode) -> Inode:
        """Let `inode` be found by its nodeid and ids; the one that is found by one of the ids already, if there is."""
        if isinstance(inode, FileInode) and inode.keys:
            known = next((self._by_key[key] for key in inode.keys if key in self._by_key), inode)
            known.keys = tuple(dict.fromkeys((*known.keys, *inode.keys)))
            for key in inode.keys:
                self._by_key.setdefault(key, known)
            if known is not inode:
                return known
        is_new = inode.nodeid not in self._by_nodeid
        self._by_nodeid[inode.nodeid] = inode
        if len(self._by_nodeid) > self.most and not self.crowded.is_set():
            self.crowded.set()
        if is_new and self._kept and inode.in_upper:
            inode.kept_ctime = self._kept.pop(inode.ino, None)
        return inode

    def _remove_name_locked(self, inode: Inode, directory: DirectoryInode, name: str) -> None:
        if directory.children.get(name) is inode:
            del directory.children[name]
        entry = Name(directory, name)
        inode.names = tuple(other for other in inode.names if other != entry)
        if isinstance(inode, FileInode) and inode.removed_stat is not None and inode.removed_stat.nlink == 0:
            # Its layer may give its id to another file as soon as it is closed.
            self._drop_keys_locked(inode)

    def _drop_keys_locked(self, inode: FileInode) -> None:
        for key in inode.keys:
            if self._by_key.get(key) is inode:
                del self._by_key[key]

    def _drop_unused_locked(self, inode: Inode) -> None:
        """Let go of the inode, and of the directories above that only it kept. Precondition: TABLE is held."""
        while inode is not self.root and not (inode.lookups or inode.handles):
            if isinstance(inode, DirectoryInode):
                if inode.children:
                    return
            elif isinstance(inode, FileInode):
                self._drop_keys_locked(inode)
            self._by_nodeid.pop(inode.nodeid, None)
            names, inode.names = inode.names, ()
            if inode.kept_ctime is not None and inode.in_upper and names and len(self._kept) < MOST_KEPT:
                self._kept[inode.ino] = inode.kept_ctime
            for directory, name in names:
                directory.children.pop(name, None)
            for directory, _ in names[1:]:
                self._drop_unused_locked(directory)
            if not names:
                return
            inode = names[0].directory
