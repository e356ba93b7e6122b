"""Messages of the kernel, into a session with the bridge and an overlay in memory.

The head is one byte, whose bits say how the mount is made (_Setup); each record is a message of the device.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from contextlib import suppress
from random import Random
from typing import Final

from netoverlay.backend_api import FileType
from netoverlay.bridge import Bridge
from netoverlay.fuse import abi
from netoverlay.fuse.abi import InitFlag, Opcode
from netoverlay.fuse.negotiation import SessionSettings
from netoverlay.fuse.session import Session
from netoverlay.kernel_errors import errno_of
from netoverlay.overlay.layers import FOR_EVER_NS, UPPER_NUMBER, Layer, LayerStack, UpperLayer
from netoverlay.overlay.overlay import Overlay
from netoverlay.overlay.whiteouts import PlainFormat, upper_format
from netoverlay.testing.memory_backend import ALL_CAPABILITIES, READ_ONLY_CAPABILITIES, MemoryBackend
from netoverlay.testing.memory_tree import MemoryTree
from tests.fuzz.checks import GuardedTree, HeldForEver, WrongError, no_defects
from tests.fuzz.kernel_device import Device
from tests.fuzz.target import Target, joined, split
from tests.wire.kernel import message
from tests.wire.test_decoding import GOLDEN

_SECOND_NS: Final = 1_000_000_000
_HEADER_BYTES: Final = abi.IN_HEADER.size
_OPCODES: Final = tuple(int(opcode) for opcode in Opcode)
_FEW: Final = 12
"""Nodeids and handles that messages use: all count from 1."""
_NAMES: Final = (b"a\0", b"d\0", b"e\0", b"link\0", b"fifo\0", b"new\0", b"hard\0", b"user.a\0", b"..\0", b"d/e\0")


class _Setup(enum.IntFlag):
    """The head."""

    READ_ONLY = 1
    HANDLELESS = 2
    CHANGING = 4
    """The lower may change, and others may lock its files."""
    OLD_KERNEL = 8
    """One that offers none of the flags."""
    SHARED_UPPER = 16
    FIRST_IS_INIT = 32
    """The first record is fed before any INIT, and is one itself if it can be agreed on."""


def _lower_tree() -> MemoryTree:
    """Inodes in the order of their names: a, d, d/e, d/f, fifo, hard (also d/hard), link."""
    tree = GuardedTree()
    for path, kind in (
        ("a", FileType.REGULAR),
        ("d", FileType.DIRECTORY),
        ("d/e", FileType.REGULAR),
        ("d/f", FileType.DIRECTORY),
        ("fifo", FileType.FIFO),
        ("hard", FileType.REGULAR),
        ("link", FileType.SYMLINK),
    ):
        node = tree.make_node(kind, 0o6755)
        if kind is FileType.REGULAR:
            node.content.write(0, path.encode() * 1000)
            node.xattrs["user.a"] = b"value"
        elif kind is FileType.SYMLINK:
            node.target = "d/e"
        tree.attach(path, node)
    tree.attach("d/hard", tree.find("hard"))
    return tree


def _overlay(setup: _Setup) -> Overlay:
    ttl_ns = _SECOND_NS if setup & _Setup.CHANGING else FOR_EVER_NS
    below = MemoryBackend(READ_ONLY_CAPABILITIES, _lower_tree())
    below.connect()
    outsiders = bool(setup & _Setup.CHANGING)
    lower = Layer(1, below, READ_ONLY_CAPABILITIES, PlainFormat(), "lower", "", ttl_ns, outsiders)
    if setup & _Setup.READ_ONLY:
        return Overlay(LayerStack(None, (lower,)), "/mnt")
    above = MemoryBackend(ALL_CAPABILITIES, GuardedTree())
    above.connect()
    for path in ("upper", "upper.work"):
        above.mkdir(path, 0o755)
    marks = upper_format(above, ALL_CAPABILITIES)
    shared = bool(setup & _Setup.SHARED_UPPER)
    upper = UpperLayer(
        UPPER_NUMBER, above, ALL_CAPABILITIES, marks, "upper", "upper", FOR_EVER_NS, shared, "upper.work", marks
    )
    return Overlay(LayerStack(upper, (lower,)), "/mnt", HeldForEver())


def _init(setup: _Setup) -> bytes:
    offered = 0 if setup & _Setup.OLD_KERNEL else sum(flag for flag in InitFlag if flag != InitFlag.PASSTHROUGH)
    body = struct.pack("=IIIII44x", abi.MAJOR, abi.MINOR, 1 << 17, offered & 0xFFFF_FFFF, offered >> 32)
    return message(Opcode.INIT, body)


def run(data: bytes) -> int:
    """Serve the messages of one input."""
    with no_defects():
        return _run(data)


def _run(data: bytes) -> int:
    setup = _Setup(data[0] & 63 if data else 0)
    records = split(data[1:])
    overlay = _overlay(setup)
    device = Device()
    # Without threads of its own, the session reads on when a request is done: so the same comes of the same input.
    settings = SessionSettings(
        max_write=16384, max_threads=0, idle_threads=0, handleless=bool(setup & _Setup.HANDLELESS)
    )
    session = Session(device, Bridge(overlay), settings, errno_of)
    try:
        agreed = None
        if setup & _Setup.FIRST_IS_INIT and records:
            device.give(records[:1])
            with suppress(OSError):
                agreed = session.handshake()
            device.abandon()
            records = records[1:]
        if agreed is None:
            device.give([_init(setup)])
            session.handshake()
        device.give(records)
        session._work()
        overlay.close()
        device.look_at_replies()
        missing = device.unanswered() - session._deferred.keys()
        if missing:
            raise WrongError(f"{len(missing)} requests were not answered")
    finally:
        overlay.close()
        device.close()
    return device.taken


def _repair(record: bytearray, random: Random) -> None:
    """A length that is right, an opcode, nodeids and handles that are likely to be there, and a name that is one."""
    if len(record) < _HEADER_BYTES:
        record.extend(bytes(_HEADER_BYTES - len(record)))
    (opcode,) = struct.unpack_from("=I", record, 4)
    if opcode not in _OPCODES:
        opcode = random.choice(_OPCODES)
        struct.pack_into("=I", record, 4, opcode)
    if random.random() < 0.5:
        struct.pack_into("=Q", record, 16, random.randint(1, _FEW))
    if opcode in _WITH_HANDLE and len(record) >= _HEADER_BYTES + 8 and random.random() < 0.5:
        struct.pack_into("=Q", record, _HEADER_BYTES, random.randint(0, _FEW))
    if opcode in _WITH_NAME and (not record.endswith(b"\0") or random.random() < 0.2):
        start = record.rfind(b"\0", _HEADER_BYTES, len(record) - 1) + 1 or len(record)
        record[start:] = random.choice(_NAMES)
    struct.pack_into("=I", record, 0, len(record))


_WITH_NAME: Final = frozenset(
    {
        *(Opcode.LOOKUP, Opcode.SYMLINK, Opcode.MKNOD, Opcode.MKDIR, Opcode.UNLINK, Opcode.RMDIR, Opcode.RENAME),
        *(Opcode.LINK, Opcode.GETXATTR, Opcode.REMOVEXATTR, Opcode.CREATE, Opcode.RENAME2, Opcode.TMPFILE),
    }
)
_WITH_HANDLE: Final = frozenset(
    {
        *(Opcode.READ, Opcode.WRITE, Opcode.RELEASE, Opcode.FSYNC, Opcode.FLUSH, Opcode.READDIR, Opcode.READDIRPLUS),
        *(Opcode.RELEASEDIR, Opcode.FSYNCDIR, Opcode.GETLK, Opcode.SETLK, Opcode.SETLKW, Opcode.FALLOCATE),
        *(Opcode.LSEEK, Opcode.COPY_FILE_RANGE, Opcode.RENAME, Opcode.RENAME2, Opcode.LINK, Opcode.COPY_FILE_RANGE_64),
    }
)


def _lookup(name: bytes, parent: int = 1) -> bytes:
    return message(Opcode.LOOKUP, name + b"\0", nodeid=parent)


_OPEN = struct.pack("=II", 2, 0)
# Node 2 is "a" and has handle 1; node 3 is "d" and has handle 2.
_BEGINNING: Final = (
    _lookup(b"a"),
    _lookup(b"d"),
    _lookup(b"e", 3),
    _lookup(b"link"),
    message(Opcode.OPEN, _OPEN, nodeid=2),
    message(Opcode.OPENDIR, _OPEN, nodeid=3),
)


def _templates() -> Sequence[bytes]:
    golden = [message(opcode, body, nodeid=nodeid) for opcode, (body, _) in GOLDEN.items() for nodeid in (1, 2, 3)]
    bare = [message(opcode) for opcode in Opcode if opcode not in GOLDEN]
    return [*golden, *_used(), *bare, *_BEGINNING]


def _used() -> list[bytes]:
    """As the golden ones, of what _BEGINNING has opened."""
    lock = struct.pack("=QQQQIII4x", 1, 9, 0, 100, 1, 4711, 0)
    read = struct.pack("=QQIIQI4x", 1, 0, 4096, 0, 0, 0)
    listing = struct.pack("=QQIIQI4x", 2, 0, 4096, 0, 0, 0)
    write = struct.pack("=QQIIQI4x", 1, 10, 5, 4, 0, 1) + b"hello"
    return [
        message(Opcode.READ, read, nodeid=2),
        message(Opcode.WRITE, write, nodeid=2),
        message(Opcode.READDIR, listing, nodeid=3),
        message(Opcode.READDIRPLUS, listing, nodeid=3),
        message(Opcode.SETLK, lock, nodeid=2),
        message(Opcode.SETLKW, lock, nodeid=2),
        message(Opcode.SETLKW, lock[:8] + bytes([8]) + lock[9:], nodeid=2),
        message(Opcode.GETLK, lock, nodeid=2),
        message(Opcode.FLUSH, struct.pack("=Q8xQ", 1, 9), nodeid=2),
        message(Opcode.FSYNC, struct.pack("=QI4x", 1, 0), nodeid=2),
        message(Opcode.LSEEK, struct.pack("=QqI4x", 1, 0, 4), nodeid=2),
        message(Opcode.FALLOCATE, struct.pack("=QQQI4x", 1, 0, 4096, 1), nodeid=2),
        message(Opcode.COPY_FILE_RANGE, struct.pack("=QQQQQQQ", 1, 0, 2, 1, 4096, 100, 0), nodeid=2),
        message(Opcode.RELEASE, struct.pack("=QIIQ", 1, 0, 0, 9), nodeid=2),
        message(Opcode.RELEASEDIR, struct.pack("=QIIQ", 2, 0, 0, 9), nodeid=3),
        message(Opcode.INTERRUPT, struct.pack("=Q", 16)),
        message(Opcode.FORGET, struct.pack("=Q", 1), nodeid=2),
        message(Opcode.RENAME2, struct.pack("=QI4x", 3, 0) + b"a\0b\0"),
        message(Opcode.UNLINK, b"a\0"),
        message(Opcode.RMDIR, b"d\0"),
        message(Opcode.LINK, struct.pack("=Q", 2) + b"new\0", nodeid=3),
    ]


def _seeds() -> Sequence[bytes]:
    alone = [joined([*_BEGINNING, template]) for template in _templates()]
    whole = joined([*_BEGINNING, *_used()])
    heads = [bytes([head]) for head in (0, 1, 2, 4, 8, 16, 32, 20)]
    return [*(b"\0" + each for each in alone), *(head + whole for head in heads)]


TARGET: Final = Target("kernel", 1, 8192, run, _seeds, _templates, _repair)
