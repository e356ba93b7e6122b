"""What the kernel asks: the header and the bodies of requests.

Names are str, decoded as UTF-8 with surrogate escapes, so that every byte string survives the way back. Numbers are as
in the structures of include/uapi/linux/fuse.h. `handle` is what open, create or opendir returned.
"""

from __future__ import annotations

from typing import NamedTuple

from netoverlay.fuse import abi


class RequestHeader(NamedTuple):
    """Who asks for what, about which inode."""

    length: int
    opcode: int
    """An abi.Opcode as a plain number."""
    unique: int
    nodeid: int
    """The inode; for operations on a name, its directory."""
    uid: int
    gid: int
    pid: int
    """0 if the caller lives in a PID name space that the mount cannot see."""
    extension_length: int
    """In units of 8 bytes; 0, for no extension is asked for in INIT."""


class InitRequest(NamedTuple):
    """The kernel's side of the negotiation."""

    major: int
    minor: int
    max_readahead: int
    flags: abi.InitFlag


class ForgetRequest(NamedTuple):
    """How often each inode is to be forgotten; FORGET and BATCH_FORGET alike."""

    forgets: list[tuple[int, int]]
    """(nodeid, count)."""


class InterruptRequest(NamedTuple):
    """The caller of request `unique` does not want to wait any more."""

    unique: int


class NameRequest(NamedTuple):
    """LOOKUP, UNLINK, RMDIR (`name` in the directory), REMOVEXATTR (`name` of the attribute)."""

    name: str


class GetattrRequest(NamedTuple):
    """GETATTR."""

    flags: int
    """abi.GetattrFlag: whether `handle` counts."""
    handle: int


class SetattrRequest(NamedTuple):
    """SETATTR: chmod, chown, truncate, utimens, in any combination."""

    valid: int
    """abi.Fattr: which of the others count."""
    handle: int
    size: int
    lock_owner: int
    atime: int
    """Seconds since 1970, may be negative, as are the other times; the nanoseconds follow."""
    mtime: int
    ctime: int
    atimensec: int
    mtimensec: int
    ctimensec: int
    mode: int
    uid: int
    gid: int


class SymlinkRequest(NamedTuple):
    """SYMLINK."""

    name: str
    target: str


class MknodRequest(NamedTuple):
    """MKNOD."""

    mode: int
    """Type and permissions; the umask is not applied yet."""
    rdev: int
    """As os.makedev gives it."""
    umask: int
    name: str


class MkdirRequest(NamedTuple):
    """MKDIR."""

    mode: int
    """The umask is not applied yet."""
    umask: int
    name: str


class RenameRequest(NamedTuple):
    """RENAME and RENAME2."""

    new_parent: int
    flags: int
    """Of renameat2(2)."""
    old_name: str
    new_name: str


class LinkRequest(NamedTuple):
    """LINK: a name in the header's directory for the inode `nodeid`."""

    nodeid: int
    name: str


class OpenRequest(NamedTuple):
    """OPEN and OPENDIR."""

    flags: int
    """Of open(2), without O_CREAT and O_EXCL; O_TRUNC is there, for ATOMIC_O_TRUNC is agreed on."""
    open_flags: int
    """abi.OpenRequestFlag."""


class CreateRequest(NamedTuple):
    """CREATE and TMPFILE (whose name means nothing)."""

    flags: int
    """Of open(2)."""
    mode: int
    """The umask is not applied yet."""
    umask: int
    open_flags: int
    """abi.OpenRequestFlag."""
    name: str


class ReadRequest(NamedTuple):
    """READ, READDIR and READDIRPLUS."""

    handle: int
    offset: int
    size: int
    read_flags: int
    """abi.ReadFlag."""
    lock_owner: int
    flags: int
    """Of the open file (fcntl F_GETFL)."""


class WriteRequest(NamedTuple):
    """WRITE."""

    handle: int
    offset: int
    size: int
    write_flags: int
    """abi.WriteFlag."""
    lock_owner: int
    flags: int
    """Of the open file (fcntl F_GETFL)."""
    data: memoryview
    """`size` bytes in the thread's own buffer: valid until the operation returns, and to be copied if kept longer."""


class ReleaseRequest(NamedTuple):
    """RELEASE and RELEASEDIR."""

    handle: int
    flags: int
    release_flags: int
    """abi.ReleaseFlag."""
    lock_owner: int


class FlushRequest(NamedTuple):
    """FLUSH: one descriptor of the open file was closed."""

    handle: int
    lock_owner: int


class LockRequest(NamedTuple):
    """GETLK, SETLK and SETLKW."""

    handle: int
    owner: int
    """Of fcntl(2): a process (its table of descriptors), or the open file for F_OFD_*; of flock(2): the open file."""
    start: int
    end: int
    """The last byte; 2**63 - 1 for the end of the file, wherever that is."""
    type: int
    """F_RDLCK, F_WRLCK or F_UNLCK."""
    pid: int
    """Who asks; 0 with F_UNLCK."""
    flags: int
    """abi.LockFlag."""


class FsyncRequest(NamedTuple):
    """FSYNC and FSYNCDIR."""

    handle: int
    flags: int
    """abi.FsyncFlag."""


class SetxattrRequest(NamedTuple):
    """SETXATTR."""

    size: int
    flags: int
    """Of setxattr(2)."""
    setxattr_flags: int
    """abi.SetxattrFlag."""
    name: str
    value: bytes


class GetxattrRequest(NamedTuple):
    """GETXATTR."""

    size: int
    """Bytes that the caller has room for; 0 asks for the size only."""
    name: str


class ListxattrRequest(NamedTuple):
    """LISTXATTR."""

    size: int
    """Bytes that the caller has room for; 0 asks for the size only."""


class FallocateRequest(NamedTuple):
    """FALLOCATE."""

    handle: int
    offset: int
    length: int
    mode: int
    """Of fallocate(2)."""


class LseekRequest(NamedTuple):
    """LSEEK: SEEK_DATA and SEEK_HOLE; the kernel does the others itself."""

    handle: int
    offset: int
    whence: int


class CopyFileRangeRequest(NamedTuple):
    """COPY_FILE_RANGE and COPY_FILE_RANGE_64; the header's inode is the source."""

    source_handle: int
    source_offset: int
    nodeid: int
    """The target."""
    handle: int
    offset: int
    length: int
    flags: int
