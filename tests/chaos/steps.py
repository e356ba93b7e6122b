"""What a worker does, one system call after the other, as values."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum


class Call(StrEnum):
    """The call of a step, and which of its fields it uses."""

    OPEN = "open"
    """path, slot."""
    CREATE = "create"
    """path, slot, number: the mode. O_EXCL."""
    EMPTY = "empty"
    """path, slot. O_TRUNC."""
    WRITE = "write"
    """slot, offset, seed, number: how many bytes."""
    SYNC = "sync"
    """slot."""
    CLOSE = "close"
    """slot."""
    TRUNCATE = "truncate"
    """path, number: the size."""
    RENAME = "rename"
    """path, other."""
    EXCHANGE = "exchange"
    """path, other."""
    UNLINK = "unlink"
    """path."""
    RMDIR = "rmdir"
    """path."""
    MKDIR = "mkdir"
    """path, number: the mode."""
    SYMLINK = "symlink"
    """path, other: the target."""
    LINK = "link"
    """path: what there is, other: the new name."""
    CHMOD = "chmod"
    """path, number."""
    CHOWN = "chown"
    """path, number: the user."""
    SET_XATTR = "setxattr"
    """path, other: the value, of IDENTITY."""
    UTIME = "utime"
    """path, number: mtime in nanoseconds."""
    SYNC_DIRECTORY = "fsyncdir"
    """path."""


RENAMES = frozenset({Call.RENAME, Call.EXCHANGE})
IDENTITY = "user.identity"
"""The extended attribute that says whose attributes these are: each file and directory has its own."""


@dataclass(frozen=True, slots=True)
class Step:
    """One call. Paths are from the mount's root."""

    call: Call
    path: str = ""
    other: str = ""
    slot: int = 0
    offset: int = 0
    seed: int = 0
    number: int = 0
    copies_up: bool = False
    """What it changes was not changed before, and is in the base only."""

    def __str__(self) -> str:
        told = [self.path or f"slot {self.slot}", self.other, str(self.number) if self.number else ""]
        return f"{self.call.value}({', '.join(word for word in told if word)})"


def bytes_of(seed: int, length: int) -> bytes:
    """Content that is like no other: a part of one is recognised wherever it turns up."""
    return random.Random(seed).randbytes(length)
