"""What a mount shows: names, content and attributes."""

from __future__ import annotations

import errno
import os
import stat as stat_bits
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tests.chaos.steps import IDENTITY


class Kind(StrEnum):
    """What a name stands for."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symbolic link"


@dataclass(frozen=True, slots=True)
class Attributes:
    """Those that a program has set; mtime_ns is None where it is the time of a write."""

    mode: int
    uid: int
    identity: bytes
    mtime_ns: int | None


@dataclass(frozen=True, slots=True)
class Seen:
    """One name."""

    kind: Kind
    attributes: Attributes
    ino: int
    links: int
    size: int
    target: str
    content: bytes | None
    """None if it was not read."""


def observe(top: Path, reads: Callable[[str], bool], failures: list[str]) -> dict[str, Seen]:
    """All below `top`, by path; with the content of what `reads`. What cannot be looked at is told in `failures`."""
    return dict(_below(str(top), "", reads, failures))


def _below(top: str, inside: str, reads: Callable[[str], bool], failures: list[str]) -> Iterator[tuple[str, Seen]]:
    try:
        names = sorted(os.listdir(f"{top}/{inside}"))
    except OSError as error:
        failures.append(f"{inside}: cannot be listed: {error}")
        return
    for name in names:
        path = f"{inside}/{name}" if inside else name
        try:
            seen = _look(f"{top}/{path}", reads=reads(path))
        except OSError as error:
            failures.append(f"{path}: cannot be looked at: {error}")
            continue
        yield path, seen
        if seen.kind is Kind.DIRECTORY:
            yield from _below(top, path, reads, failures)


def _look(path: str, *, reads: bool) -> Seen:
    stat = os.lstat(path)
    kind = {stat_bits.S_IFDIR: Kind.DIRECTORY, stat_bits.S_IFLNK: Kind.SYMLINK}.get(
        stat_bits.S_IFMT(stat.st_mode), Kind.FILE
    )
    attributes = Attributes(stat_bits.S_IMODE(stat.st_mode), stat.st_uid, _identity(path, kind), stat.st_mtime_ns)
    content = None
    if kind is Kind.FILE and reads:
        content = Path(path).read_bytes()
        if len(content) != stat.st_size:
            raise OSError(errno.EIO, f"{len(content)} bytes of {stat.st_size} can be read")
    target = os.readlink(path) if kind is Kind.SYMLINK else ""
    return Seen(kind, attributes, stat.st_ino, stat.st_nlink, stat.st_size, target, content)


def _identity(path: str, kind: Kind) -> bytes:
    if kind is Kind.SYMLINK:
        return b""
    try:
        return os.getxattr(path, IDENTITY)
    except OSError as error:
        if error.errno != errno.ENODATA:
            raise
        return b""
