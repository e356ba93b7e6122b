"""What a program can see: of names, of open descriptors, of whole trees. Looking changes nothing, not even an atime."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from tests.mounted.differential.system_calls import file_handle, getdents64

_CHUNK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Seen:
    """An inode, as it was seen under a name or through a descriptor."""

    mode: int
    uid: int
    gid: int
    size: int
    """0 of directories: every file system has its own."""
    nlink: int
    rdev: int
    atime: int
    mtime: int
    ctime: int
    ino: int
    device: int
    identity: bytes
    """On the native side: this inode and no other, ever."""
    listed: tuple[int, int] | None = None
    """The number and type that its directory's listing gives it; None for what no listing has."""
    content: str | None = None
    """The hash of a file, the target of a link."""
    xattrs: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """Everything that was looked at, at one time."""

    names: Mapping[bytes, Seen] = field(default_factory=dict)
    descriptors: Mapping[str, Seen] = field(default_factory=dict)
    mappings: Mapping[int, str] = field(default_factory=dict)
    positions: Mapping[int, int] = field(default_factory=dict)
    failed: str = ""
    """Why there is nothing to be seen."""


def digest(content: bytes) -> str:
    """A few bytes as they are, more as a hash."""
    if len(content) <= 40:
        return repr(content)
    return f"{len(content)} {hashlib.blake2b(content, digest_size=8).hexdigest()}"


def seen(
    path: bytes | int,
    status: os.stat_result,
    *,
    native: bool,
    listed: tuple[int, int] | None = None,
    content: str | None = None,
) -> Seen:
    """What stat(2) gave, and what else was found."""
    directory = stat.S_ISDIR(status.st_mode)
    return Seen(
        mode=status.st_mode,
        uid=status.st_uid,
        gid=status.st_gid,
        size=0 if directory else status.st_size,
        nlink=status.st_nlink,
        rdev=status.st_rdev,
        atime=status.st_atime_ns,
        mtime=status.st_mtime_ns,
        ctime=status.st_ctime_ns,
        ino=status.st_ino,
        device=status.st_dev,
        identity=file_handle(path) if native else b"",
        listed=listed,
        content=content,
    )


def types() -> dict[bytes, int]:
    """The names below the working directory, and that itself, with their types."""
    found, waiting = {b".": stat.S_IFDIR}, [b"."]
    while waiting:
        top = waiting.pop()
        for name, _, kind in _listing(top):
            path = name if top == b"." else top + b"/" + name
            found[path] = kind
            if stat.S_ISDIR(kind):
                waiting.append(path)
    return found


def tree(*, native: bool, everything: bool) -> dict[bytes, Seen]:
    """All names below the working directory, and that itself as "."."""
    found = {b".": seen(b".", os.lstat(b"."), native=native)}
    waiting = [b""]
    while waiting:
        top = waiting.pop()
        for name, *listed in _listing(top or b"."):
            path = top + b"/" + name if top else name
            status = os.lstat(path)
            found[path] = seen(path, status, native=native, listed=(listed[0], listed[1]))
            if stat.S_ISDIR(status.st_mode):
                waiting.append(path)
    if not everything:
        return found
    # After all else: on a mount, reading moves the time of access of a file's other names.
    return {path: replace(one, content=_content(path, one.mode), xattrs=_xattrs(path)) for path, one in found.items()}


def _listing(path: bytes) -> list[tuple[bytes, int, int]]:
    """Names, numbers and types, read without a trace."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOATIME)
    try:
        entries = []
        while some := getdents64(descriptor, 1 << 16):
            entries += [(one.name, one.inode, one.type << 12) for one in some if one.name not in (b".", b"..")]
        return entries
    finally:
        os.close(descriptor)


def _content(path: bytes, mode: int) -> str | None:
    if stat.S_ISLNK(mode):
        return repr(os.readlink(path))
    if not stat.S_ISREG(mode):
        return None
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NOATIME)
    try:
        return content_of(descriptor)
    finally:
        os.close(descriptor)


def _xattrs(path: bytes) -> dict[str, str]:
    return {
        name: os.getxattr(path, name, follow_symlinks=False).hex()
        for name in sorted(os.listxattr(path, follow_symlinks=False))
    }


def content_of(descriptor: int) -> str:
    """Of a file opened for reading."""
    pieces, offset = [], 0
    while piece := os.pread(descriptor, _CHUNK, offset):
        pieces.append(piece)
        offset += len(piece)
    return digest(b"".join(pieces))
