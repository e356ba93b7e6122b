"""The values that cross the seam between the overlay and a backend."""

from __future__ import annotations

import enum
import stat as stat_bits
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

LayerPath: TypeAlias = str
"""A path inside a layer: components joined by "/", no leading slash, no "." or ".."; "" is the layer's root.

Bytes that are not UTF-8 are carried as surrogate escapes (PEP 383).
"""

NAME_ENCODING = "utf-8"
NAME_ERRORS = "surrogateescape"


def join_path(parent: LayerPath, name: str) -> LayerPath:
    """The path of the entry `name` of the directory `parent`."""
    return f"{parent}/{name}" if parent else name


def split_path(path: LayerPath) -> tuple[LayerPath, str]:
    """The directory that holds `path`, and its name there. The root is ("", "")."""
    parent, _, name = path.rpartition("/")
    return parent, name


class FileType(enum.IntEnum):
    """The type bits of st_mode (inode(7))."""

    REGULAR = stat_bits.S_IFREG
    DIRECTORY = stat_bits.S_IFDIR
    SYMLINK = stat_bits.S_IFLNK
    FIFO = stat_bits.S_IFIFO
    SOCKET = stat_bits.S_IFSOCK
    CHARACTER_DEVICE = stat_bits.S_IFCHR
    BLOCK_DEVICE = stat_bits.S_IFBLK


class FileVersion(NamedTuple):
    """What tells one content of a file from the next, as far as the transport knows."""

    size: int
    mtime_ns: int
    file_id: int | None


class FileStat(NamedTuple):
    """What a transport tells about one file. None where it cannot know; never a guess.

    A NamedTuple and not a frozen dataclass: listings make tens of thousands of these, and a tuple is made four
    times as fast.
    """

    type: FileType
    size: int
    """Bytes."""
    mode: int | None
    """Permission, set-id and sticky bits (0 to 0o7777), without the type."""
    uid: int | None
    gid: int | None
    mtime_ns: int
    """Nanoseconds since 1970, as are the other times; may be negative."""
    atime_ns: int | None = None
    ctime_ns: int | None = None
    nlink: int | None = None
    file_id: int | None = None
    """64 bits; two names of one layer have the same id exactly if they are links to one file."""
    rdev: int | None = None
    """Of a device, as os.makedev gives it."""
    blocks: int | None = None
    """Allocated, in units of 512 bytes."""
    has_xattrs: bool | None = None
    """False: it has no extended attributes, and nobody need ask."""

    @property
    def version(self) -> FileVersion:
        """Of the content."""
        return FileVersion(self.size, self.mtime_ns, self.file_id)


class DirEntry(NamedTuple):
    """One name of a directory, with the attributes that the listing brought."""

    name: str
    stat: FileStat


class NamedEntry(NamedTuple):
    """One name of a directory, with what its listing told at little cost."""

    name: str
    type: FileType
    stat: FileStat | None
    """None where more has to be asked."""


class SpaceUsage(NamedTuple):
    """statvfs(3) in bytes; the file counts are 0 where the transport has none."""

    total_bytes: int
    free_bytes: int
    available_bytes: int
    """Free for an ordinary user."""
    total_files: int
    free_files: int
    block_size: int
    max_name_bytes: int


class Access(enum.Enum):
    """What a file is opened for."""

    READ = "read"
    WRITE = "write"
    READ_WRITE = "read-write"

    __hash__ = object.__hash__  # that of enum is in Python

    @property
    def reads(self) -> bool:
        return self is not Access.WRITE

    @property
    def writes(self) -> bool:
        return self is not Access.READ


class Creation(enum.Enum):
    """Whether open() may make the file."""

    NEVER = "never"
    EXCLUSIVE = "exclusive"
    """The file must not exist yet: FileExistsError."""


class RenameFlags(enum.Flag):
    """The flags of renameat2(2)."""

    NONE = 0
    NOREPLACE = enum.auto()
    EXCHANGE = enum.auto()
    WHITEOUT = enum.auto()
    """Leave an overlayfs whiteout (character device 0:0) under the old name, in the same step."""


class AllocateMode(enum.Enum):
    """The modes of fallocate(2) that layers know."""

    RESERVE = "reserve"
    """Allocate, growing the file where the range passes its end."""
    RESERVE_KEEP_SIZE = "reserve-keep-size"
    PUNCH_HOLE = "punch-hole"
    """Deallocate and read as zeros; the size stays."""
    ZERO_RANGE = "zero-range"
    ZERO_RANGE_KEEP_SIZE = "zero-range-keep-size"


class LockKind(enum.Enum):
    """Of a byte-range lock."""

    UNLOCK = "unlock"
    SHARED = "shared"
    EXCLUSIVE = "exclusive"


@dataclass(frozen=True, slots=True)
class AttributeChange:
    """Attributes to set; None leaves one as it is."""

    mode: int | None = None
    """Permission, set-id and sticky bits."""
    uid: int | None = None
    gid: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    atime_now: bool = False
    """By the layer's own clock, where that can be said, which also stamps the writes; `atime_ns` is about that."""
    mtime_now: bool = False
    """As `atime_now`."""


class XattrMode(enum.Enum):
    """The flags of setxattr(2)."""

    ANY = "any"
    CREATE = "create"
    """EEXIST if the attribute is there."""
    REPLACE = "replace"
    """ENODATA if it is not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a connected backend can do; fixed from connect() on.

    Each claim is proved both ways by the conformance suite: what is claimed works, what is not raises
    NotSupportedError. The defaults are those of a transport that can only be read.
    """

    local: bool = False
    """Calls wait on no network, and open files have a fileno()."""
    writable: bool = False
    """create, write, truncate, mkdir, unlink, rmdir, rename, set_attributes (times)."""
    modes: bool = False
    """The mode of a file is told, kept and can be changed."""
    owners: bool = False
    """Owner and group are told, and can be changed by who may."""
    symlinks: bool = False
    hard_links: bool = False
    special_files: bool = False
    """mknod() of FIFOs and sockets."""
    devices: bool = False
    """mknod() of devices."""
    whiteout_devices: bool = False
    """mknod() of the character device 0:0, which an ordinary user may make on Linux since 5.8."""
    xattrs: bool = False
    """Extended attributes, at least in the name space "user."."""
    privileged_xattrs: bool = False
    """Also "trusted.", and whatever is in "security."; a layer on a server without it has none in "system." either."""
    file_ids: bool = False
    link_counts: bool = False
    atomic_replace: bool = False
    """rename() replaces an existing target in one step."""
    rename_noreplace: bool = False
    rename_exchange: bool = False
    rename_whiteout: bool = False
    holes: bool = False
    """seek_data(), seek_hole() and allocate(PUNCH_HOLE)."""
    allocate: bool = False
    """allocate() with the other modes."""
    server_copy: bool = False
    """BackendFile.copy_range(): the data does not come here."""
    locks: bool = False
    """BackendFile.lock(), seen by others than this process."""
    whole_locks: bool = False
    """BackendFile.lock_whole(), seen by others than this process, and apart from lock()."""
    names_first: bool = False
    """list_names() of large directories costs much less than list_dir()."""
    case_sensitive: bool = True
    time_granularity_ns: int = 1_000_000_000
    max_name_bytes: int = 255
