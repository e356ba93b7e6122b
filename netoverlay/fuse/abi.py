"""The numbers of the FUSE kernel interface: opcodes, flags and structures of include/uapi/linux/fuse.h.

The number after a name is the minor version of interface 7 that brought it; none means it is older than 7.9. Served are
7.31 (Linux 5.4) to 7.45 (Linux 6.18). All structures are in the machine's byte order and without hidden padding.

Flags that are tested for every request are plain integers, in a class for their name space: an operation on a Flag
member costs a microsecond, as much as the rest of the decoding.
"""

from __future__ import annotations

import enum
from struct import Struct
from typing import Final

MAJOR: Final = 7
MINOR: Final = 45
"""The newest minor version that is served."""
OLDEST_MINOR: Final = 31
"""The oldest one: it has max_pages, copy_file_range, cached symlinks and directories."""
PRUNE_MINOR: Final = 45
"""From which on the kernel knows the notification PRUNE."""

ROOT_NODEID: Final = 1
MIN_READ_BUFFER: Final = 8192
"""Bytes; the kernel refuses to be read with less."""


class Opcode(enum.IntEnum):
    """What a request asks for (enum fuse_opcode)."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    BMAP = 37
    DESTROY = 38
    IOCTL = 39  # 11
    POLL = 40  # 11
    NOTIFY_REPLY = 41  # 15
    BATCH_FORGET = 42  # 16
    FALLOCATE = 43  # 19
    READDIRPLUS = 44  # 21
    RENAME2 = 45  # 23
    LSEEK = 46  # 24
    COPY_FILE_RANGE = 47  # 28
    SETUPMAPPING = 48  # 31
    REMOVEMAPPING = 49  # 31
    SYNCFS = 50  # 34
    TMPFILE = 51  # 37
    STATX = 52  # 39
    COPY_FILE_RANGE_64 = 53  # 45
    CUSE_INIT = 4096  # 12
    CUSE_INIT_BSWAP_RESERVED = 4096 << 8  # 33
    INIT_BSWAP_RESERVED = 26 << 24  # 33


class InitFlag(enum.IntFlag):
    """What kernel and server agree on in INIT; the bits from 32 on travel in the field flags2."""

    ASYNC_READ = 1 << 0
    POSIX_LOCKS = 1 << 1
    FILE_OPS = 1 << 2
    ATOMIC_O_TRUNC = 1 << 3
    EXPORT_SUPPORT = 1 << 4  # 10
    BIG_WRITES = 1 << 5
    DONT_MASK = 1 << 6  # 12
    SPLICE_WRITE = 1 << 7  # 14
    SPLICE_MOVE = 1 << 8  # 14
    SPLICE_READ = 1 << 9  # 14
    FLOCK_LOCKS = 1 << 10  # 17
    HAS_IOCTL_DIR = 1 << 11  # 18
    AUTO_INVAL_DATA = 1 << 12  # 20
    DO_READDIRPLUS = 1 << 13  # 21
    READDIRPLUS_AUTO = 1 << 14  # 21
    ASYNC_DIO = 1 << 15  # 22
    WRITEBACK_CACHE = 1 << 16  # 23
    NO_OPEN_SUPPORT = 1 << 17  # 23
    PARALLEL_DIROPS = 1 << 18  # 25
    HANDLE_KILLPRIV = 1 << 19  # 26
    POSIX_ACL = 1 << 20  # 26
    ABORT_ERROR = 1 << 21  # 27
    MAX_PAGES = 1 << 22  # 28
    CACHE_SYMLINKS = 1 << 23  # 28
    NO_OPENDIR_SUPPORT = 1 << 24  # 29
    EXPLICIT_INVAL_DATA = 1 << 25  # 30
    MAP_ALIGNMENT = 1 << 26  # 31
    SUBMOUNTS = 1 << 27  # 32
    HANDLE_KILLPRIV_V2 = 1 << 28  # 33
    SETXATTR_EXT = 1 << 29  # 33
    INIT_EXT = 1 << 30  # 36
    INIT_RESERVED = 1 << 31  # 36
    SECURITY_CTX = 1 << 32  # 36
    HAS_INODE_DAX = 1 << 33  # 36
    CREATE_SUPP_GROUP = 1 << 34  # 38
    HAS_EXPIRE_ONLY = 1 << 35  # 38
    DIRECT_IO_ALLOW_MMAP = 1 << 36  # 39
    PASSTHROUGH = 1 << 37  # 40
    NO_EXPORT_SUPPORT = 1 << 38  # 40
    HAS_RESEND = 1 << 39  # 40
    ALLOW_IDMAP = 1 << 40  # 41
    OVER_IO_URING = 1 << 41  # 42
    REQUEST_TIMEOUT = 1 << 42  # 43


class NotifyCode(enum.IntEnum):
    """Messages that the server sends unasked (enum fuse_notify_code), in the field `error` of a reply to request 0."""

    POLL = 1  # 11
    INVAL_INODE = 2  # 12
    INVAL_ENTRY = 3  # 12
    STORE = 4  # 15
    RETRIEVE = 5  # 15
    DELETE = 6  # 18
    RESEND = 7  # 40
    INC_EPOCH = 8  # 44
    PRUNE = 9  # 45


class Fattr:
    """Which fields of SetattrRequest count (its field `valid`)."""

    MODE: Final = 1 << 0
    UID: Final = 1 << 1
    GID: Final = 1 << 2
    SIZE: Final = 1 << 3
    ATIME: Final = 1 << 4
    MTIME: Final = 1 << 5
    HANDLE: Final = 1 << 6
    ATIME_NOW: Final = 1 << 7  # 9
    MTIME_NOW: Final = 1 << 8  # 9
    LOCK_OWNER: Final = 1 << 9  # 9
    CTIME: Final = 1 << 10  # 23
    KILL_SUIDGID: Final = 1 << 11  # 33


class Fopen:
    """How the kernel treats an open file: the flags of the replies to OPEN, OPENDIR and CREATE."""

    DIRECT_IO: Final = 1 << 0
    """Past the page cache."""
    KEEP_CACHE: Final = 1 << 1
    """The pages that are cached stay."""
    NONSEEKABLE: Final = 1 << 2  # 10
    CACHE_DIR: Final = 1 << 3  # 28
    """The kernel may keep the listing of this directory."""
    STREAM: Final = 1 << 4  # 31
    NOFLUSH: Final = 1 << 5  # 35
    """No FLUSH at close(2)."""
    PARALLEL_DIRECT_WRITES: Final = 1 << 6  # 38
    PASSTHROUGH: Final = 1 << 7  # 40


class OpenRequestFlag:
    """The field `open_flags` of OPEN and CREATE."""

    KILL_SUIDGID: Final = 1 << 0  # 33


class GetattrFlag:
    """The field `flags` of GETATTR."""

    HANDLE: Final = 1 << 0  # 9


class ReadFlag:
    """The field `read_flags` of READ."""

    LOCK_OWNER: Final = 1 << 1  # 9


class WriteFlag:
    """The field `write_flags` of WRITE."""

    CACHE: Final = 1 << 0  # 9
    """From the page cache: the handle is any one that was opened for writing, the caller's ids are not known."""
    LOCK_OWNER: Final = 1 << 1  # 9
    KILL_SUIDGID: Final = 1 << 2  # 31


class ReleaseFlag:
    """The field `release_flags` of RELEASE."""

    FLUSH: Final = 1 << 0
    FLOCK_UNLOCK: Final = 1 << 1  # 17


class LockFlag:
    """The field `lk_flags` of GETLK, SETLK and SETLKW."""

    FLOCK: Final = 1 << 0  # 9
    """flock(2), of the whole file; else fcntl(2)."""


class SetxattrFlag:
    """SETXATTR, the flags of its extended form."""

    ACL_KILL_SGID: Final = 1  # 33


class FsyncFlag:
    """The field `flags` of FSYNC and FSYNCDIR."""

    DATA_ONLY: Final = 1 << 0


class NotifyEntryFlag:
    """The flags of the notification INVAL_ENTRY."""

    EXPIRE_ONLY: Final = 1 << 0  # 38


IN_HEADER: Final = Struct("=IIQQIIIHxx")
"""len, opcode, unique, nodeid, uid, gid, pid, total_extlen (38; in units of 8 bytes)."""
OUT_HEADER: Final = Struct("=IiQ")
"""len, error (0 or a negative errno), unique."""

_ATTR: Final = "QQQqqqIIIIIIIIII"
_ENTRY: Final = "QQQQII" + _ATTR
ATTR_OUT: Final = Struct("=QIxxxx" + _ATTR)
"""attr_valid, attr_valid_nsec, struct fuse_attr. Its times are declared unsigned and used signed."""
ENTRY_OUT: Final = Struct("=" + _ENTRY)
"""nodeid, generation, entry_valid, attr_valid, entry_valid_nsec, attr_valid_nsec, struct fuse_attr."""
OPEN_OUT: Final = Struct("=QIi")
"""fh, open_flags, backing_id (40)."""
DIRENT: Final = Struct("=QQII")
"""ino, off, namelen, type; the name follows, and zeros up to a multiple of 8 bytes."""
DIRENTPLUS: Final = Struct("=" + _ENTRY + "QQII")
"""struct fuse_entry_out, then as DIRENT. Since 21."""
STATFS_OUT: Final = Struct("=QQQQQIII28x")
"""blocks, bfree, bavail, files, ffree, bsize, namelen, frsize."""
WRITE_OUT: Final = Struct("=Ixxxx")
"""size. Also the reply to COPY_FILE_RANGE."""
GETXATTR_OUT: Final = Struct("=Ixxxx")
"""size."""
LSEEK_OUT: Final = Struct("=Q")
"""offset. Since 24."""
LK_OUT: Final = Struct("=QQII")
"""start, end, type, pid."""
COPY_FILE_RANGE_OUT: Final = Struct("=Q")
"""bytes_copied. Since 45."""

INIT_IN: Final = Struct("=IIII")
"""major, minor, max_readahead, flags."""
INIT_IN_EXT: Final = Struct("=IIIII44x")
"""The same with flags2 and room to grow. Since 36, told by the length of the request."""
INIT_OUT: Final = Struct("=IIIIHHIIHHIIH22x")
"""major, minor, max_readahead, flags, max_background, congestion_threshold, max_write, time_gran (23), max_pages (28),
map_alignment (31), flags2 (36), max_stack_depth (40), request_timeout (43)."""

FORGET_IN: Final = Struct("=Q")
"""nlookup."""
FORGET_ONE: Final = Struct("=QQ")
"""nodeid, nlookup."""
BATCH_FORGET_IN: Final = Struct("=Ixxxx")
"""count; that many FORGET_ONE follow. Since 16."""
GETATTR_IN: Final = Struct("=IxxxxQ")
"""getattr_flags, fh. Since 9."""
SETATTR_IN: Final = Struct("=IxxxxQQQqqqIIIIxxxxIIxxxx")
"""valid, fh, size, lock_owner, atime, mtime, ctime, atimensec, mtimensec, ctimensec, mode, uid, gid."""
MKNOD_IN: Final = Struct("=IIIxxxx")
"""mode, rdev, umask (12)."""
MKDIR_IN: Final = Struct("=II")
"""mode, umask (12)."""
RENAME_IN: Final = Struct("=Q")
"""newdir."""
RENAME2_IN: Final = Struct("=QIxxxx")
"""newdir, flags. Since 23."""
LINK_IN: Final = Struct("=Q")
"""oldnodeid."""
OPEN_IN: Final = Struct("=II")
"""flags, open_flags (33)."""
CREATE_IN: Final = Struct("=IIII")
"""flags, mode, umask (12), open_flags (33)."""
READ_IN: Final = Struct("=QQIIQIxxxx")
"""fh, offset, size, read_flags (9), lock_owner (9), flags (9)."""
WRITE_IN: Final = Struct("=QQIIQIxxxx")
"""fh, offset, size, write_flags, lock_owner (9), flags (9)."""
RELEASE_IN: Final = Struct("=QIIQ")
"""fh, flags, release_flags, lock_owner."""
FLUSH_IN: Final = Struct("=QxxxxxxxxQ")
"""fh, lock_owner."""
LK_IN: Final = Struct("=QQQQIIIxxxx")
"""fh, owner, start, end, type, pid, lk_flags (9)."""
FSYNC_IN: Final = Struct("=QIxxxx")
"""fh, fsync_flags."""
SETXATTR_IN: Final = Struct("=II")
"""size, flags. The form without SETXATTR_EXT."""
SETXATTR_IN_EXT: Final = Struct("=IIIxxxx")
"""size, flags, setxattr_flags. Since 33."""
GETXATTR_IN: Final = Struct("=Ixxxx")
"""size."""
INTERRUPT_IN: Final = Struct("=Q")
"""unique of the request that is interrupted."""
FALLOCATE_IN: Final = Struct("=QQQIxxxx")
"""fh, offset, length, mode. Since 19."""
LSEEK_IN: Final = Struct("=QqIxxxx")
"""fh, offset (whatever the program gave), whence. Since 24."""
COPY_FILE_RANGE_IN: Final = Struct("=QQQQQQQ")
"""fh_in, off_in, nodeid_out, fh_out, off_out, len, flags. Since 28."""

NOTIFY_INVAL_INODE_OUT: Final = Struct("=Qqq")
"""ino (the nodeid), off, len. Since 12."""
NOTIFY_INVAL_ENTRY_OUT: Final = Struct("=QII")
"""parent, namelen, flags (38); the name and a zero byte follow. Since 12."""
NOTIFY_STORE_OUT: Final = Struct("=QQIxxxx")
"""nodeid, offset, size; that many bytes follow. Since 15."""
NOTIFY_PRUNE_OUT: Final = Struct("=I12x")
"""count; that many nodeids of 64 bits follow. Since 45."""
NOTIFY_DELETE_OUT: Final = Struct("=QQIxxxx")
"""parent, child, namelen; the name and a zero byte follow. Since 18."""
