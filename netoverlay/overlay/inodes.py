"""The inodes of the overlay, and the table that finds them.

An inode lives from its first lookup until the kernel has forgotten it and nothing here needs it. It keeps its nodeid
and st_ino through copy-up and rename; what backs it changes under it. Invariants, true whenever TABLE is free:

- the inode of a name is in its directory's `children`, and that (directory, name) is in its `names`;
- an inode with names is reachable from the root, so the path of every inode with a name can be computed;
- an inode that is in the upper is there under every one of its names;
- a file that has several names, or may have, is found by its file id, so that all its names are one inode.

Whatever returns an inode for a name counts a lookup on it, so that it cannot go meanwhile: the count is handed to the
kernel with the reply, or given back with forget().
"""

from __future__ import annotations

import abc
import errno
import itertools
import logging
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from netoverlay.backend_api import FileType, LayerPath, join_path
from netoverlay.backend_api.waiting import about_to_wait
from netoverlay.overlay.locks import Rank, RankedLock

if TYPE_CHECKING:
    from netoverlay.backend_api import BackendFile, FileStat
    from netoverlay.overlay.inode_locks import InodeLocks
    from netoverlay.overlay.layers import LowerPlace
    from netoverlay.overlay.links import LinkCount
    from netoverlay.overlay.subdirectories import Counted
    from netoverlay.overlay.validity import ToldNames

logger = logging.getLogger(__name__)

ROOT_NODEID = 1
MOST_KEPT: Final = 100_000
"""Forgotten inodes whose kept ctimes are remembered."""
UNKNOWN_ACL: Final = b""
"""No ACL is empty."""


_FIRST_POSITION = 3
"""After "." and ".."."""


class FileKey(NamedTuple):
    """What all links to one file of a layer share."""

    layer: int
    file_id: int


class Name(NamedTuple):
    """One name of an inode."""

    directory: DirectoryInode
    name: str


class KeptTime(NamedTuple):
    """A time that the upper's file system has moved on, where nothing has changed for a program."""

    real_ns: int
    """What the upper tells; once it tells another, there was a change."""
    shown_ns: int


class Inode(abc.ABC):
    """What directories and other files have in common. Fields change under COPY_UP and, where said, TABLE."""

    __slots__ = (
        "copy_up_lock",
        "handles",
        "in_upper",
        "ino",
        "kept_ctime",
        "lookups",
        "names",
        "nodeid",
        "removed_stat",
        "type",
    )

    def __init__(self, nodeid: int, ino: int, type: FileType, *, in_upper: bool) -> None:
        self.nodeid = nodeid
        self.ino = ino
        self.type = type
        self.in_upper = in_upper
        self.names: list[Name] = []  # TABLE
        self.lookups = 0  # TABLE
        self.handles = 0  # TABLE
        self.removed_stat: FileStat | None = None
        """What it was when a name went: all that is known of it once it has none. A directory with it is removed."""
        self.kept_ctime: KeptTime | None = None
        """Of what was changed in the upper, but for no program."""
        self.copy_up_lock = RankedLock(Rank.COPY_UP)

    @abc.abstractmethod
    def lower_place(self) -> LowerPlace:
        """Where it stands in a lower, the top-most of them. Only of what came from one."""

    def note_removed(self, stat: FileStat) -> None:
        """One of its names went; `stat` is from before that."""
        nlink = 0 if self.type is FileType.DIRECTORY else max(0, (stat.nlink or 1) - 1)
        self.removed_stat = stat._replace(nlink=nlink, ctime_ns=time.time_ns())


class DirectoryInode(Inode):
    """A directory, merged of at most one of the upper and any number of the lowers."""

    __slots__ = (
        "_path",
        "_path_epoch",
        "asked_until_ns",
        "children",
        "default_acl",
        "directory_lock",
        "lowers",
        "next_position",
        "positions",
        "shape",
        "subdirectories",
        "told",
        "version",
    )

    def __init__(self, nodeid: int, ino: int, lowers: tuple[LowerPlace, ...], *, in_upper: bool) -> None:
        super().__init__(nodeid, ino, FileType.DIRECTORY, in_upper=in_upper)
        self.lowers = lowers
        self.children: dict[str, Inode] = {}  # TABLE
        self.directory_lock = RankedLock(Rank.DIRECTORY)
        self.version = 0
        """Another number after every change of what its names stand for."""
        self.positions: dict[str, int] = {}
        """Where each name that was listed last is in the directory."""
        self.next_position = itertools.count(_FIRST_POSITION)
        self.shape = 0
        """Another number after every change of its sub-directories."""
        self.subdirectories: Counted | None = None
        self.default_acl: bytes | None = UNKNOWN_ACL
        """What is made in it inherits: of a directory in the upper, None if it has none."""
        self.told: ToldNames | None = None
        """What the kernel believes for a time (validity.py)."""
        self.asked_until_ns = 0
        """Until then, on the monotonic clock, it is told none that it need not ask for again."""
        self._path: LayerPath = ""
        self._path_epoch = -1

    def lower_place(self) -> LowerPlace:
        if not self.lowers:
            raise OSError(errno.EIO, "a directory of the upper has no place in a lower")
        return self.lowers[0]

    def note_change(self, type: FileType, more: int = 0) -> None:
        """What a name of it stands for has changed: listings that were made before are out of date.

        `type`: of what came or went under that name; `more`: how many more there are of it. Precondition: DIRECTORY.
        """
        self.kept_ctime = None
        self.version += 1
        if type is FileType.DIRECTORY:
            counted, self.shape = self.subdirectories, self.shape + 1
            if counted is not None and counted.shape == self.shape - 1:
                self.subdirectories = counted._replace(number=counted.number + more, shape=self.shape)

    def upper_path(self, root: LayerPath, epoch: int) -> LayerPath:
        """Its path in the upper, whose root is `root`. Kept as long as `epoch` stays.

        Precondition: PATHS is held. ENOENT if it was removed.
        """
        if self.nodeid == ROOT_NODEID:
            return root
        # First, and not only when the path is computed: another directory may have the name by now.
        if not self.names:
            raise OSError(errno.ENOENT, "the directory was removed")
        if self._path_epoch != epoch:
            directory, name = self.names[0]
            self._path = join_path(directory.upper_path(root, epoch), name)
            self._path_epoch = epoch
        return self._path


class FileInode(Inode):
    """Anything but a directory."""

    __slots__ = (
        "file",
        "keys",
        "links",
        "locks",
        "lower",
        "lower_id",
        "may_have_set_ids",
        "retired",
        "target",
        "unnamed",
        "writable",
    )

    def __init__(
        self, nodeid: int, ino: int, type: FileType, lower: LowerPlace | None, key: FileKey | None, *, in_upper: bool
    ) -> None:
        super().__init__(nodeid, ino, type, in_upper=in_upper)
        self.lower = lower
        """Where it stands, or stood before copy-up, in a lower."""
        self.lower_id: int | None = None
        """The file id of what stood there when it was found."""
        self.locks: InodeLocks | None = None
        """What programs have locked, while it is open."""
        self.links: LinkCount | None = None
        """It is in the index of hard links, with so many names."""
        self.unnamed: LayerPath | None = None
        """Where it is in the work directory while it never had a name (O_TMPFILE)."""
        self.target: str | None = None
        """Of a symbolic link that has lost its last name in the upper."""
        self.keys: tuple[FileKey, ...] = () if key is None else (key,)  # TABLE
        """By which it is found: of the lower, of the upper, or both."""
        self.file: BackendFile | None = None
        """What all its handles read through; of the upper once it is there. Where its last name went without it being
        open, it was opened, and stays so until the kernel has forgotten it: who found it by that name may still ask."""
        self.writable = False
        """`file` is open for writing."""
        self.may_have_set_ids = True
        """A write by an ordinary user has to look: false once one has, until the mode is changed."""
        self.retired: list[BackendFile] = []
        """Earlier `file`s that a read may still be using: closed with the last handle."""

    def switch_file(self, file: BackendFile, *, writable: bool) -> None:
        """Read through `file` from now on. Preconditions: COPY_UP is held, and a handle counted."""
        if self.locks is not None:
            self.locks.move_to(file)
        if self.file is not None:
            self.retired.append(self.file)
        self.file, self.writable = file, writable

    def take_files(self) -> list[BackendFile]:
        """All that is open, to be closed: nothing is from here on. Precondition: COPY_UP is held."""
        files = [*self.retired, *([] if self.file is None else [self.file])]
        self.retired, self.file, self.writable = [], None, False
        return files

    def lower_place(self) -> LowerPlace:
        if self.lower is None:
            raise OSError(errno.EIO, "a file of the upper has no place in a lower")
        return self.lower


class InodeTable:
    """All inodes, by nodeid and by file id. Every method takes TABLE."""

    def __init__(self, root: DirectoryInode) -> None:
        self.lock = RankedLock(Rank.TABLE)
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
                inode.names.append(Name(directory, name))
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
            inode.names.append(new)

    def exchange_names(self, first: Name, second: Name) -> None:
        """The inodes known under two names have changed places."""
        with self.lock:
            one, other = first.directory.children[first.name], second.directory.children[second.name]
            first.directory.children[first.name], second.directory.children[second.name] = other, one
            one.names[one.names.index(first)] = second
            other.names[other.names.index(second)] = first

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
                logger.warning("a removed file could not be closed: %s", error.strerror)

    def _register_locked(self, inode: Inode) -> Inode:
        """Let `inode` be found by its nodeid and ids; the one that is found by one of the ids already, if there is."""
        if isinstance(inode, FileInode):
            known = next((self._by_key[key] for key in inode.keys if key in self._by_key), inode)
            known.keys = tuple(dict.fromkeys((*known.keys, *inode.keys)))
            for key in inode.keys:
                self._by_key.setdefault(key, known)
            if known is not inode:
                return known
        is_new = inode.nodeid not in self._by_nodeid
        self._by_nodeid[inode.nodeid] = inode
        if is_new and self._kept and inode.in_upper:
            inode.kept_ctime = self._kept.pop(inode.ino, None)
        return inode

    def _remove_name_locked(self, inode: Inode, directory: DirectoryInode, name: str) -> None:
        if directory.children.get(name) is inode:
            del directory.children[name]
        entry = Name(directory, name)
        if entry in inode.names:
            inode.names.remove(entry)
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
            names, inode.names = inode.names, []
            if inode.kept_ctime is not None and inode.in_upper and names and len(self._kept) < MOST_KEPT:
                self._kept[inode.ino] = inode.kept_ctime
            for directory, name in names:
                directory.children.pop(name, None)
            for directory, _ in names[1:]:
                self._drop_unused_locked(directory)
            if not names:
                return
            inode = names[0].directory
