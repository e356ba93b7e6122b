"""The tree that every sequence begins with: small, but with every kind of file. Planted twice, it is twice the same."""

from __future__ import annotations

import os
import random
import socket
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tests.mounted.differential.steps import ACCESS_ACLS
from tests.mounted.differential.system_calls import KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE

LONG_NAME: Final = b"L" * 255
RAW_NAME: Final = b"\xff\xfe\n\\ *"
OLD_NS: Final = 1_234_567_890_123_456_789
DEVICE_MAJOR: Final = 60
"""For local use: no driver has it."""
FILE_CAPABILITIES: Final = struct.pack("<IIIII", 0x0200_0001, 1 << 10, 0, 0, 0)
SPARSE_BYTES: Final = 3 << 20


@dataclass(frozen=True, slots=True)
class Carried:
    """What a transport tells of a base, as far as that differs."""

    links: bool = True
    """Hard links, and inode numbers to find them by."""
    symlinks: bool = True
    special: bool = True
    """FIFOs and sockets; set-id and sticky bits."""
    devices: bool = True
    owners: bool = True
    xattrs: bool = True
    acls: bool = True
    names: bool = True
    """Names that are not UTF-8."""
    early: bool = True
    """Times before 1970."""
    time_unit: int = 1
    """In nanoseconds."""
    change_time: bool = True
    """A ctime of its own; and access times that reading on the server does not change."""
    allocate: tuple[int, ...] = (0, KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE, PUNCH_HOLE)
    """The modes of fallocate(2) that are tried: those that the upper has."""
    nameless: bool = True
    """O_TMPFILE is tried."""


ACLS_ARE_KEPT: Final = True
"""POSIX ACLs are part of the tests."""

CARRIED: Final = {
    "local": Carried(acls=ACLS_ARE_KEPT),
    "sftp": Carried(
        links=False, devices=False, xattrs=False, acls=False, early=False, time_unit=10**9, change_time=False
    ),
    "smb": Carried(
        special=False,
        devices=False,
        owners=False,
        xattrs=False,
        acls=False,
        names=False,
        time_unit=100,
        change_time=False,
    ),
}
"""What is told of a base by each transport; all of it can be made on the mount, whatever the base."""


@dataclass(frozen=True, slots=True)
class _File:
    path: bytes
    content: bytes = b""
    mode: int = 0o644
    owner: tuple[int, int] = (0, 0)


DIRECTORIES: Final = (
    (b"d", 0o755, (0, 0)),
    (b"d/e", 0o755, (1000, 1000)),
    (b"d/e/f", 0o777, (0, 0)),
    (b"empty", 0o755, (0, 0)),
    (b"sticky", 0o1777, (0, 0)),
    (b"setgid", 0o2775, (1000, 100)),
    (b"mine", 0o700, (1000, 1000)),
    (b"mine/in", 0o755, (1000, 1000)),
)

FILES: Final = (
    _File(b"a", b"content\n"),
    _File(b"b"),
    _File(b"d/a", b"x" * 4096),
    _File(b"d/b", bytes(range(256)) * 50, 0o600, (1000, 1000)),
    _File(b"d/e/a", b"deep\n", 0o666),
    _File(b"d/e/f/a", b"deeper\n", 0o664, (2000, 100)),
    _File(b"setuid", b"#!/bin/sh\n", 0o6755, (1000, 100)),
    _File(b"setgid/a", b"shared\n", 0o664, (1000, 100)),
    _File(b"sticky/a", b"of 1000\n", 0o644, (1000, 1000)),
    _File(b"sticky/b", b"of 2000\n", 0o666, (2000, 2000)),
    _File(b"mine/a", b"private\n", 0o400, (1000, 1000)),
    _File(b"mine/in/a", b"inside\n", 0o644, (1000, 1000)),
    _File(LONG_NAME, b"long"),
)

LINKS: Final = (
    (b"a", b"a2"),
    (b"d/b", b"d/e/b"),
    (b"d/e/a", b"d/e/a2"),
    (b"d/e/a", b"empty2/a3"),
    (b"setuid", b"d/su"),
)
SYMLINKS: Final = (
    (b"a", b"link"),
    (b"nowhere", b"dangling"),
    (b"d/e", b"to-dir"),
    (b"../a", b"d/up"),
    (b"loop", b"loop"),
    (b"f", b"d/e/lf"),
)

XATTRS: Final = (
    (b"a", "user.one", b"1"),
    (b"a", "trusted.two", b"\0\xff"),
    (b"d/a", "security.three", b"three"),
    (b"d/e/a", "user.empty", b""),
    (b"d", "user.dir", b"directory"),
    (b"d/e", "trusted.dir", b"v"),
    (b"setuid", "security.capability", FILE_CAPABILITIES),
)
ACLS: Final = (
    (b"d/a", "system.posix_acl_access", ACCESS_ACLS[0]),
    (b"d/e", "system.posix_acl_access", ACCESS_ACLS[1]),
    (b"d/e", "system.posix_acl_default", ACCESS_ACLS[0]),
    (b"setgid", "system.posix_acl_default", ACCESS_ACLS[1]),
)


def plant(top: bytes, carried: Carried) -> None:
    """Make the tree in `top`, which is not there yet."""
    os.mkdir(top)
    os.chmod(top, 0o777)
    made = list(_make(top, carried))
    for number, path in enumerate(reversed([top, *made])):
        past = OLD_NS + number * 1_000_000_007 - number % (3 if carried.early else 2) * (10**18)
        past -= past % carried.time_unit
        os.utime(path, ns=(past + 1000 * carried.time_unit, past), follow_symlinks=False)


def _make(top: bytes, carried: Carried) -> Iterator[bytes]:
    """Make all of it but the times; each is returned after its directory."""
    keep = 0o7777 if carried.special else 0o777
    os.mkdir(top + b"/empty2")
    yield top + b"/empty2"
    for path, _, _ in DIRECTORIES:
        os.mkdir(top + b"/" + path)
        yield top + b"/" + path
    raw = [_File(b"d/" + RAW_NAME, b"raw")] if carried.names else []
    for file in [*FILES, *raw]:
        path = top + b"/" + file.path
        with open(path, "wb") as opened:
            opened.write(file.content)
        _give(path, file.mode & keep, file.owner, carried)
        yield path
    yield from _make_large(top)
    for target, path in SYMLINKS if carried.symlinks else ():
        os.symlink(target, top + b"/" + path)
        yield top + b"/" + path
    if carried.special:
        yield from _make_special(top, carried)
    for path, mode, owner in DIRECTORIES:
        _give(top + b"/" + path, mode & keep, owner, carried)
    for path, name, value in [*(XATTRS if carried.xattrs else ()), *(ACLS if carried.acls else ())]:
        os.setxattr(top + b"/" + path, name, value)
    for path, other in LINKS if carried.links else ():
        os.link(top + b"/" + path, top + b"/" + other)


def _make_large(top: bytes) -> Iterator[bytes]:
    with open(top + b"/large", "wb") as file:
        file.write(random.Random(1).randbytes(300_000))
    yield top + b"/large"
    with open(top + b"/d/sparse", "wb") as file:
        file.seek(1 << 20)
        file.write(b"in the middle")
        file.truncate(SPARSE_BYTES)
    yield top + b"/d/sparse"


def _make_special(top: bytes, carried: Carried) -> Iterator[bytes]:
    os.mkfifo(top + b"/fifo")
    os.chmod(top + b"/fifo", 0o666)
    yield top + b"/fifo"
    here = os.open(".", os.O_RDONLY)
    try:  # The path of a socket is short.
        os.chdir(top + b"/d")
        with socket.socket(socket.AF_UNIX) as unix:
            unix.bind(b"socket")
    finally:
        os.fchdir(here)
        os.close(here)
    yield top + b"/d/socket"
    if carried.devices:
        os.mknod(top + b"/char", stat.S_IFCHR | 0o600, os.makedev(DEVICE_MAJOR, 3))
        os.mknod(top + b"/d/block", stat.S_IFBLK | 0o660, os.makedev(DEVICE_MAJOR, 300))
        yield top + b"/char"
        yield top + b"/d/block"


def _give(path: bytes, mode: int, owner: tuple[int, int], carried: Carried) -> None:
    if carried.owners:
        os.chown(path, *owner)
    os.chmod(path, mode)
