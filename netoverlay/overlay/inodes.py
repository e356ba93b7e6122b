"""The inodes of the overlay: files and directories, under all their names (found by inode_table.py).

An inode lives from its first lookup until the kernel has forgotten it and nothing here needs it. It keeps its nodeid
and st_ino through copy-up and rename; what backs it changes under it. Invariants, true whenever TABLE is free:

- the inode of a name is in its directory's `children`, and that (directory, name) is in its `names`;
- an inode with names is reachable from the root, so the path of every inode with a name can be computed;
- an inode that is in the upper is there under every one of its names;
- a file that has several names, or may have, is found by its file id, so that all its names are one inode.

Whatever returns an inode for a name counts a lookup on it, so that it cannot go meanwhile: the count is handed to the
kernel with the reply, or given back with forget().

There are as many inodes as the kernel remembers files, so what few of them need is made when it is needed, and what
many have in common is there once.
"""

from __future__ import annotations

import errno
import threading
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from netoverlay.backend_api import FileType, LayerPath, join_path
from netoverlay.overlay.layers import Layer, LowerPlace
from netoverlay.overlay.locks import Rank, RankedLock
from netoverlay.overlay.positions import Positions

if TYPE_CHECKING:
    from netoverlay.backend_api import BackendFile, FileStat
    from netoverlay.overlay.inode_locks import InodeLocks
    from netoverlay.overlay.links import LinkCount
    from netoverlay.overlay.subdirectories import Counted
    from netoverlay.overlay.validity import ToldNames

ROOT_NODEID = 1
UNKNOWN_ACL: Final = b""
"""No ACL is empty."""

_making_lock = threading.Lock()
"""While the lock of an inode is made."""


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


class Inode:
    """What directories and other files have in common. Fields change under COPY_UP and, where said, TABLE.

    Not an ABC: of those isinstance() takes as long as a system call, and every request asks what an inode is.
    """

    __slots__ = (
        "_copy_up_lock",
        "handles",
        "in_upper",
        "ino",
        "kept_ctime",
        "lookups",
        "names",
        "nodeid",
        "removed_stat",
        "type",
        "used",
    )

    def __init__(self, nodeid: int, ino: int, type: FileType, *, in_upper: bool) -> None:
        self.nodeid = nodeid
        self.ino = ino
        self.type = type
        self.in_upper = in_upper
        self.names: tuple[Name, ...] = ()  # TABLE
        self.lookups = 0  # TABLE
        self.handles = 0  # TABLE
        self.used = False
        """It was opened since pruning.py has last considered it."""
        self.removed_stat: FileStat | None = None
        """What it was when a name went: all that is known of it once it has none. A directory with it is removed."""
        self.kept_ctime: KeptTime | None = None
        """Of what was changed in the upper, but for no program."""
        self._copy_up_lock: RankedLock | None = None

    @property
    def copy_up_lock(self) -> RankedLock:
        """COPY_UP of the inode."""
        lock = self._copy_up_lock
        if lock is None:
            with _making_lock:
                lock = self._copy_up_lock = self._copy_up_lock or RankedLock(Rank.COPY_UP)
        return lock

    def lower_place(self) -> LowerPlace:
        """Where it stands in a lower, the top-most of them. Only of what came from one."""
        raise NotImplementedError

    def lower_layer(self) -> Layer:
        """The layer of lower_place()."""
        raise NotImplementedError

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
        self.positions = Positions()
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

    def lower_layer(self) -> Layer:
        return self.lower_place().layer

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
        "_lower_directory",
        "_lower_name",
        "file",
        "keys",
        "links",
        "locks",
        "lower_id",
        "may_have_set_ids",
        "retired",
        "target",
        "unnamed",
        "was_opened",
        "writable",
    )

    def __init__(self, nodeid: int, ino: int, type: FileType, key: FileKey | None, *, in_upper: bool) -> None:
        super().__init__(nodeid, ino, type, in_upper=in_upper)
        self._lower_directory: LowerPlace | None = None
        self._lower_name = ""
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
        self.was_opened = False
        """The kernel may have read of it (first_open.py)."""
        self.may_have_set_ids = True
        """A write by an ordinary user has to look: false once one has, until the mode is changed."""
        self.retired: tuple[BackendFile, ...] = ()
        """Earlier `file`s that a read may still be using: closed with the last handle."""

    @property
    def holds_nothing(self) -> bool:
        """Whether nothing is open or locked for its handles."""
        return self.file is None and not self.retired and self.locks is None and self.unnamed is None

    def switch_file(self, file: BackendFile, *, writable: bool) -> None:
        """Read through `file` from now on. Preconditions: COPY_UP is held, and a handle counted."""
        if self.locks is not None:
            self.locks.move_to(file)
        if self.file is not None:
            self.retired = (*self.retired, self.file)
        self.file, self.writable = file, writable

    def take_files(self) -> list[BackendFile]:
        """All that is open, to be closed: nothing is from here on. Precondition: COPY_UP is held."""
        files = [*self.retired, *([] if self.file is None else [self.file])]
        self.retired, self.file, self.writable = (), None, False
        return files

    def stand_in(self, directory: LowerPlace, name: str) -> None:
        """From now on it stands, or stood before copy-up, under `name` in a directory of a lower."""
        # Both are shared with others, where a path of its own would take as much as all the rest.
        self._lower_directory, self._lower_name = directory, name

    def lower_place(self) -> LowerPlace:
        layer, path = self._required_lower_directory()
        return LowerPlace(layer, join_path(path, self._lower_name))

    def lower_layer(self) -> Layer:
        return self._required_lower_directory().layer

    def _required_lower_directory(self) -> LowerPlace:
        if self._lower_directory is None:
            raise OSError(errno.EIO, "a file of the upper has no place in a lower")
        return self._lower_directory
