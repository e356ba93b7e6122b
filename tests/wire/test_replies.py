"""Replies, byte by byte as fuse.h lays them out (little endian)."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netoverlay.fuse import replies, requests
from netoverlay.fuse.abi import Opcode
from netoverlay.fuse.undelivered import granted
from tests.wire.kernel import little, unhex

ATTRIBUTES = replies.FuseAttributes(
    ino=0x11,
    size=0x1234567890,
    blocks=8,
    atime=-1,
    mtime=1_600_000_000,
    ctime=3,
    atimensec=999_999_999,
    mtimensec=5,
    ctimensec=6,
    mode=0o100644,
    nlink=2,
    uid=1000,
    gid=100,
    rdev=0x103,
    blksize=4096,
)
ATTRIBUTES_RAW = unhex("""
    1100000000000000  # ino
    9078563412000000  # size
    0800000000000000  # blocks
    ffffffffffffffff  # atime -1
    00105e5f00000000  # mtime
    0300000000000000  # ctime
    ffc99a3b          # atimensec
    05000000          # mtimensec
    06000000          # ctimensec
    a4810000          # mode
    02000000          # nlink
    e8030000          # uid
    64000000          # gid
    03010000          # rdev
    00100000          # blksize
    00000000          # flags
""")
ENTRY = replies.Entry(5, 1, 1_500_000_000, replies.FOR_EVER, ATTRIBUTES)
ENTRY_RAW = (
    unhex("""
    0500000000000000  # nodeid
    0100000000000000  # generation
    0100000000000000  # entry_valid
    0000008000000000  # attr_valid
    0065cd1d          # entry_valid_nsec 500000000
    00000000          # attr_valid_nsec
""")
    + ATTRIBUTES_RAW
)
OPENED_RAW = unhex("""
    efcdab8967452301  # fh
    0a000000          # open_flags KEEP_CACHE | CACHE_DIR
    00000000          # backing_id
""")
HANDLE = 0x0123456789ABCDEF


def _header(opcode: Opcode) -> requests.RequestHeader:
    return requests.RequestHeader(40, opcode, 2, 1, 0, 0, 0, 0)


def test_entry() -> None:
    assert replies.entry(ENTRY) == ENTRY_RAW
    assert len(ENTRY_RAW) == 128


def test_absent() -> None:
    raw = unhex("""
        0000000000000000  # nodeid 0: no such name
        0000000000000000  # generation
        0200000000000000  # entry_valid
        0000000000000000  # attr_valid
        00000000          # entry_valid_nsec
        00000000          # attr_valid_nsec
    """)
    assert replies.absent(2_000_000_000) == raw + bytes(88)


def test_attributes() -> None:
    raw = unhex("""
        0100000000000000  # attr_valid
        07000000          # attr_valid_nsec
        00000000          # dummy
    """)
    assert replies.attributes(ATTRIBUTES, 1_000_000_007) == raw + ATTRIBUTES_RAW


def test_opened_and_created() -> None:
    assert replies.opened(HANDLE, 0x0A) == OPENED_RAW
    assert replies.created(ENTRY, HANDLE, 0x0A) == ENTRY_RAW + OPENED_RAW


def test_statistics() -> None:
    raw = unhex("""
        0100000000000000  # blocks
        0200000000000000  # bfree
        0300000000000000  # bavail
        0400000000000000  # files
        0500000000000000  # ffree
        06000000          # bsize
        07000000          # namelen
        08000000          # frsize
        00000000          # padding
        000000000000000000000000000000000000000000000000  # spare[6]
    """)
    assert replies.statistics(replies.FileSystemStatistics(1, 2, 3, 4, 5, 6, 7, 8)) == raw


def test_counts() -> None:
    assert replies.written(5) == unhex("05000000 00000000  # size, padding")
    assert replies.position(1 << 33) == unhex("0000000002000000  # offset")
    assert replies.copied(_header(Opcode.COPY_FILE_RANGE), 5) == unhex("05000000 00000000  # size, padding")
    assert replies.copied(_header(Opcode.COPY_FILE_RANGE_64), 1 << 33) == unhex("0000000002000000  # bytes_copied")


def test_a_lock_that_is_in_the_way() -> None:
    assert replies.lock(4096, (1 << 63) - 1, 1, 4711) == unhex("""
        0010000000000000  # start
        ffffffffffffff7f  # end
        01000000          # type F_WRLCK
        67120000          # pid
    """)


def test_target_of_a_link() -> None:
    assert replies.target("../a\udcff") == b"../a\xff"


def test_xattr() -> None:
    assert replies.xattr(0, b"value") == unhex("05000000 00000000  # size, padding")
    assert replies.xattr(5, b"value") == b"value"
    with pytest.raises(OSError) as raised:  # noqa: PT011 - the errno is checked below
        replies.xattr(4, b"value")
    assert raised.value.errno == errno.ERANGE


def test_dirent() -> None:
    packer = replies.DirectoryPacker(4096)
    assert packer.add("abc", 0x11, 8, 3)
    assert packer.add("12345678", 0x12, 4, 4)
    assert packer.reply() == unhex("""
        1100000000000000  # ino
        0300000000000000  # off
        03000000          # namelen
        08000000          # type DT_REG
        6162630000000000  # "abc", padded
        1200000000000000  # ino
        0400000000000000  # off
        08000000          # namelen
        04000000          # type DT_DIR
        3132333435363738  # no padding
    """)


def test_direntplus() -> None:
    packer = replies.DirectoryPacker(4096)
    assert packer.add_plus(".", 0x11, 4, 1, None)
    assert packer.add_plus("\udcff", 0x11, 8, 2, ENTRY)
    dot = unhex("""
        1100000000000000  # ino
        0100000000000000  # off
        01000000          # namelen
        04000000          # type DT_DIR
        2e00000000000000  # "."
    """)
    name = unhex("""
        1100000000000000  # ino
        0200000000000000  # off
        01000000          # namelen
        08000000          # type DT_REG
        ff00000000000000  # no UTF-8
    """)
    assert packer.reply() == bytes(128) + dot + ENTRY_RAW + name


@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=60), max_size=40),
    st.integers(0, 2000),
)
def test_packing_stops_at_the_first_that_does_not_fit(names: list[str], size: int) -> None:
    packer = replies.DirectoryPacker(size)
    taken = [packer.add(name, 1, 8, number + 1) for number, name in enumerate(names)]
    fitting = taken.index(False) if False in taken else len(names)
    assert not any(taken[fitting:])
    sizes = [(24 + len(name.encode()) + 7) // 8 * 8 for name in names]
    assert len(packer.reply()) == sum(sizes[:fitting]) <= size
    assert fitting == len(names) or sum(sizes[: fitting + 1]) > size


ABSENT_RAW = replies.absent(0)


@pytest.mark.parametrize(
    ("opcode", "reply", "expected"),
    [
        (Opcode.LOOKUP, ENTRY_RAW, ([(5, 1)], None, False)),
        (Opcode.LOOKUP, ABSENT_RAW, ([], None, False)),
        (Opcode.CREATE, ENTRY_RAW + OPENED_RAW, ([(5, 1)], HANDLE, False)),
        (Opcode.TMPFILE, (ENTRY_RAW, OPENED_RAW), ([(5, 1)], HANDLE, False)),
        (Opcode.OPEN, OPENED_RAW, ([], HANDLE, False)),
        (Opcode.OPENDIR, memoryview(OPENED_RAW), ([], HANDLE, True)),
        (Opcode.UNLINK, None, ([], None, False)),
        (Opcode.READ, ENTRY_RAW, ([], None, False)),
    ],
)
def test_what_a_reply_gives(opcode: Opcode, reply: replies.Reply, expected: tuple[object, ...]) -> None:
    assert granted(opcode, reply) == expected


def test_what_a_listing_gives() -> None:
    names = [b"a", b"1234567", b"12345678"]
    raw = b""
    for number, name in enumerate(names):
        head = little(number, 8) + bytes(120) + little(1, 8) + little(number + 1, 8) + little(len(name), 4) + bytes(4)
        raw += head + name + bytes(-len(name) % 8)
    assert granted(Opcode.READDIRPLUS, raw).forgets == [(1, 1), (2, 1)]
