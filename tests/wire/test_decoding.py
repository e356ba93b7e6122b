"""Requests, byte by byte as fuse.h lays them out (little endian), against what they decode to."""

from __future__ import annotations

import pytest

from netoverlay.fuse import decoding, requests
from netoverlay.fuse.abi import InitFlag, Opcode
from netoverlay.fuse.messages import MESSAGES, Answered
from tests.wire.kernel import message, unhex

_READ = unhex("""
    0807060504030201  # fh
    0010000000000000  # offset
    00000200          # size 131072
    02000000          # read_flags LOCKOWNER
    efbeadde00000000  # lock_owner
    00800000          # flags O_LARGEFILE
    00000000          # padding
""")
_READ_FIELDS = (0x0102030405060708, 4096, 131072, 2, 0xDEADBEEF, 0x8000)
_OPEN = unhex("""
    02820000          # flags O_RDWR | O_TRUNC | O_LARGEFILE
    01000000          # open_flags KILL_SUIDGID
""")
_RELEASE = unhex("""
    0700000000000000  # fh
    01800000          # flags
    02000000          # release_flags FLOCK_UNLOCK
    0900000000000000  # lock_owner
""")
_FSYNC = unhex("""
    0700000000000000  # fh
    01000000          # fsync_flags FDATASYNC
    00000000          # padding
""")
_LOCK = unhex("""
    0700000000000000  # fh
    0900000000000000  # owner
    0010000000000000  # start
    ffffffffffffff7f  # end: of the file
    01000000          # type F_WRLCK
    67120000          # pid
    01000000          # lk_flags FLOCK
    00000000          # padding
""")
_LOCK_FIELDS = (7, 9, 4096, (1 << 63) - 1, 1, 4711, 1)

_CREATE = unhex("""
    c2800000          # flags O_RDWR | O_CREAT | O_EXCL | O_LARGEFILE
    a4810000          # mode 0100644
    12000000          # umask 022
    01000000          # open_flags KILL_SUIDGID
    6e657700          # "new"
""")
_CREATE_FIELDS = (0x80C2, 0o100644, 0o022, 1, "new")
_COPY = unhex("""
    0100000000000000  # fh_in
    0200000000000000  # off_in
    0300000000000000  # nodeid_out
    0400000000000000  # fh_out
    0500000000000000  # off_out
    0000000001000000  # len 4 GiB
    0000000000000000  # flags
""")
_COPY_FIELDS = (1, 2, 3, 4, 5, 1 << 32, 0)
_SETATTR = unhex("""
    ff0f0000          # valid, all twelve
    00000000          # padding
    0700000000000000  # fh
    0000004000000000  # size 1 GiB
    0900000000000000  # lock_owner
    ffffffffffffffff  # atime -1
    0200000000000000  # mtime
    0300000000000000  # ctime
    ffc99a3b          # atimensec 999999999
    05000000          # mtimensec
    06000000          # ctimensec
    ed8d0000          # mode 0106755
    00000000          # unused4
    e8030000          # uid 1000
    64000000          # gid 100
    00000000          # unused5
""")

GOLDEN: dict[Opcode, tuple[bytes, object]] = {
    Opcode.LOOKUP: (unhex("61ff2e6300  # a\\xff.c, no UTF-8"), requests.NameRequest("a\udcff.c")),
    Opcode.FORGET: (unhex("0300000000000000  # nlookup"), requests.ForgetRequest([(1, 3)])),
    Opcode.GETATTR: (
        unhex("""
            01000000          # getattr_flags FH
            00000000          # dummy
            0700000000000000  # fh
        """),
        requests.GetattrRequest(1, 7),
    ),
    Opcode.SETATTR: (
        _SETATTR,
        requests.SetattrRequest(0xFFF, 7, 1 << 30, 9, -1, 2, 3, 999_999_999, 5, 6, 0o106755, 1000, 100),
    ),
    Opcode.READLINK: (b"", None),
    Opcode.SYMLINK: (unhex("6c6e6b00 2e2e2f7800  # lnk, ../x"), requests.SymlinkRequest("lnk", "../x")),
    Opcode.MKNOD: (
        unhex("""
            b6210000          # mode 0020666
            03010000          # rdev 1:3
            12000000          # umask 022
            00000000          # padding
            6e756c6c00        # "null"
        """),
        requests.MknodRequest(0o020666, 0x103, 0o022, "null"),
    ),
    Opcode.MKDIR: (
        unhex("""
            ed010000          # mode 0755
            12000000          # umask 022
            6400              # "d"
        """),
        requests.MkdirRequest(0o755, 0o022, "d"),
    ),
    Opcode.UNLINK: (unhex("6100  # a"), requests.NameRequest("a")),
    Opcode.RMDIR: (unhex("6400  # d"), requests.NameRequest("d")),
    Opcode.RENAME: (
        unhex("""
            0500000000000000  # newdir
            6f6c6400          # "old"
            6e657700          # "new"
        """),
        requests.RenameRequest(5, 0, "old", "new"),
    ),
    Opcode.RENAME2: (
        unhex("""
            0500000000000000  # newdir
            02000000          # flags RENAME_EXCHANGE
            00000000          # padding
            6f6c6400          # "old"
            6e657700          # "new"
        """),
        requests.RenameRequest(5, 2, "old", "new"),
    ),
    Opcode.LINK: (
        unhex("""
            0600000000000000  # oldnodeid
            6e00              # "n"
        """),
        requests.LinkRequest(6, "n"),
    ),
    Opcode.OPEN: (_OPEN, requests.OpenRequest(0x8202, 1)),
    Opcode.OPENDIR: (_OPEN, requests.OpenRequest(0x8202, 1)),
    Opcode.READ: (_READ, requests.ReadRequest(*_READ_FIELDS)),
    Opcode.READDIR: (_READ, requests.ReadRequest(*_READ_FIELDS)),
    Opcode.READDIRPLUS: (_READ, requests.ReadRequest(*_READ_FIELDS)),
    Opcode.WRITE: (
        unhex("""
            0700000000000000  # fh
            0010000000000000  # offset
            05000000          # size
            06000000          # write_flags LOCKOWNER | KILL_SUIDGID
            0900000000000000  # lock_owner
            01800000          # flags O_WRONLY | O_LARGEFILE
            00000000          # padding
            68656c6c6f        # "hello"
        """),
        requests.WriteRequest(7, 4096, 5, 6, 9, 0x8001, memoryview(b"hello")),
    ),
    Opcode.STATFS: (b"", None),
    Opcode.RELEASE: (_RELEASE, requests.ReleaseRequest(7, 0x8001, 2, 9)),
    Opcode.RELEASEDIR: (_RELEASE, requests.ReleaseRequest(7, 0x8001, 2, 9)),
    Opcode.FSYNC: (_FSYNC, requests.FsyncRequest(7, 1)),
    Opcode.FSYNCDIR: (_FSYNC, requests.FsyncRequest(7, 1)),
    Opcode.SETXATTR: (
        unhex("""
            03000000          # size
            01000000          # flags XATTR_CREATE
            01000000          # setxattr_flags ACL_KILL_SGID
            00000000          # padding
            757365722e6100    # "user.a"
            780079            # x, zero, y
        """),
        requests.SetxattrRequest(3, 1, 1, "user.a", b"x\0y"),
    ),
    Opcode.GETXATTR: (
        unhex("""
            00010000          # size 256
            00000000          # padding
            757365722e6100    # "user.a"
        """),
        requests.GetxattrRequest(256, "user.a"),
    ),
    Opcode.LISTXATTR: (
        unhex("""
            00010000          # size 256
            00000000          # padding
        """),
        requests.ListxattrRequest(256),
    ),
    Opcode.REMOVEXATTR: (unhex("757365722e6100  # user.a"), requests.NameRequest("user.a")),
    Opcode.FLUSH: (
        unhex("""
            0700000000000000  # fh
            00000000          # unused
            00000000          # padding
            0900000000000000  # lock_owner
        """),
        requests.FlushRequest(7, 9),
    ),
    Opcode.GETLK: (_LOCK, requests.LockRequest(*_LOCK_FIELDS)),
    Opcode.SETLK: (_LOCK, requests.LockRequest(*_LOCK_FIELDS)),
    Opcode.SETLKW: (_LOCK, requests.LockRequest(*_LOCK_FIELDS)),
    Opcode.CREATE: (_CREATE, requests.CreateRequest(*_CREATE_FIELDS)),
    Opcode.TMPFILE: (_CREATE, requests.CreateRequest(*_CREATE_FIELDS)),
    Opcode.INTERRUPT: (unhex("2a00000000000000  # unique"), requests.InterruptRequest(42)),
    Opcode.BATCH_FORGET: (
        unhex("""
            02000000          # count
            00000000          # dummy
            0500000000000000  # nodeid
            0100000000000000  # nlookup
            0600000000000000  # nodeid
            0900000000000000  # nlookup
        """),
        requests.ForgetRequest([(5, 1), (6, 9)]),
    ),
    Opcode.FALLOCATE: (
        unhex("""
            0700000000000000  # fh
            0010000000000000  # offset
            0020000000000000  # length
            03000000          # mode PUNCH_HOLE | KEEP_SIZE
            00000000          # padding
        """),
        requests.FallocateRequest(7, 4096, 8192, 3),
    ),
    Opcode.LSEEK: (
        unhex("""
            0700000000000000  # fh
            0010000000000000  # offset
            03000000          # whence SEEK_DATA
            00000000          # padding
        """),
        requests.LseekRequest(7, 4096, 3),
    ),
    Opcode.SYNCFS: (unhex("0000000000000000  # padding"), None),
    Opcode.COPY_FILE_RANGE: (_COPY, requests.CopyFileRangeRequest(*_COPY_FIELDS)),
    Opcode.COPY_FILE_RANGE_64: (_COPY, requests.CopyFileRangeRequest(*_COPY_FIELDS)),
}


def test_header() -> None:
    raw = unhex("""
        2a000000          # len 42
        01000000          # opcode LOOKUP
        0600000000000080  # unique, with the bit of a request that is sent again
        0500000000000000  # nodeid
        e8030000          # uid 1000
        64000000          # gid 100
        39300000          # pid 12345
        0000              # total_extlen
        0000              # padding
        6100              # "a"
    """)
    expected = requests.RequestHeader(42, 1, (1 << 63) + 6, 5, 1000, 100, 12345, 0)
    assert decoding.decode_header(memoryview(raw)) == expected


@pytest.mark.parametrize("opcode", [code for code, row in MESSAGES.items() if not isinstance(row, Answered)])
def test_body(opcode: Opcode) -> None:
    """Every opcode that is decoded has its bytes here."""
    row = MESSAGES[opcode]
    assert not isinstance(row, Answered)
    body, expected = GOLDEN[opcode]
    decoded = row.decode(memoryview(message(opcode, body)))
    assert decoded == expected
    assert type(decoded) is type(expected)


def test_setxattr_without_the_extension() -> None:
    body = unhex("""
        03000000          # size
        02000000          # flags XATTR_REPLACE
        757365722e6100    # "user.a"
        780079            # x, zero, y
    """)
    decoded = decoding.setxattr_short(memoryview(message(Opcode.SETXATTR, body)))
    assert decoded == requests.SetxattrRequest(3, 2, 0, "user.a", b"x\0y")


_INIT = """
    07000000          # major
    2d000000          # minor 45
    00000200          # max_readahead 131072
    fbffff73          # flags, as Linux 6.18 offers them
"""


def test_init_with_flags2() -> None:
    flags2 = unhex("fd050000  # flags2, as Linux 6.18 offers them") + bytes(11 * 4)
    asked = decoding.init(memoryview(message(Opcode.INIT, unhex(_INIT) + flags2)))
    assert asked[:3] == (7, 45, 131072)
    assert asked.flags == 0x5FD_73FF_FFFB
    assert InitFlag.PASSTHROUGH in asked.flags


def test_init_of_an_older_kernel() -> None:
    asked = decoding.init(memoryview(message(Opcode.INIT, unhex(_INIT))))
    assert asked.flags == 0x73FF_FFFB
