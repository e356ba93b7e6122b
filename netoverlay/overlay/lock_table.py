"""The locks that programs hold on one file, as fcntl(2) and flock(2) have them. Knows no layers, and never waits.

Locks of the two calls do not see each other, as on a local disk. An owner's own locks never conflict: a range that it
locks again becomes of the new kind, whatever it was.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from netoverlay.backend_api import LockKind
from netoverlay.overlay.range_map import Piece, RangeMap

END: Final = 1 << 63
"""Behind the last byte that a lock can cover: offsets are 63 bits."""


class LockCall(enum.Enum):
    """By which system call a lock is held."""

    FCNTL = "fcntl"
    """A range of bytes, of a process or (F_OFD_SETLK) of an open file."""
    FLOCK = "flock"
    """The whole file, of an open file."""


class Owner(NamedTuple):
    """Who holds a lock."""

    call: LockCall
    number: int
    """The kernel's, for a process or an open file."""


class Wanted(NamedTuple):
    """What a program asks for."""

    owner: Owner
    kind: LockKind
    start: int
    end: int
    """Behind the last byte; END for all that there may ever be."""
    pid: int

    def conflicts_with(self, held: LockKind) -> bool:
        """Whether another owner's lock of the kind `held`, on one of the bytes, is in the way."""
        return self.kind is not LockKind.UNLOCK and LockKind.EXCLUSIVE in (self.kind, held)


class Held(NamedTuple):
    """A lock."""

    owner: Owner
    kind: LockKind
    start: int
    end: int
    pid: int


class LockTable:
    """All locks on one file. Precondition of every method: the leaf lock of the mount's lock tables is held."""

    __slots__ = ("_held", "_pids")

    def __init__(self) -> None:
        self._held: dict[Owner, RangeMap[LockKind]] = {}
        self._pids: dict[Owner, int] = {}

    def __bool__(self) -> bool:
        return bool(self._held)

    def __iter__(self) -> Iterator[Held]:
        for owner, ranges in self._held.items():
            for start, end, kind in ranges:
                yield Held(owner, kind, start, end, self._pids[owner])

    def conflicts(self, wanted: Wanted) -> Iterator[Held]:
        """The locks of others that are in the way, in full (F_GETLK)."""
        for owner, ranges in self._held.items():
            if owner == wanted.owner or owner.call is not wanted.owner.call:
                continue
            for start, end, kind in ranges.overlapping(wanted.start, wanted.end):
                if wanted.conflicts_with(kind):
                    yield Held(owner, kind, start, end, self._pids[owner])

    def own(self, wanted: Wanted) -> Iterator[Held]:
        """The owner's locks that share a byte with the range, in full (F_OFD_GETLK of F_UNLCK)."""
        ranges = self._held.get(wanted.owner)
        if ranges is not None:
            for start, end, kind in ranges.overlapping(wanted.start, wanted.end):
                yield Held(wanted.owner, kind, start, end, self._pids[wanted.owner])

    def set(self, wanted: Wanted) -> None:
        """Lock or unlock. Nothing of others is in the way."""
        owner = wanted.owner
        value = None if wanted.kind is LockKind.UNLOCK else wanted.kind
        self._write(owner, [Piece(wanted.start, wanted.end, value)])
        if value is not None:
            self._pids[owner] = wanted.pid

    def saved(self, wanted: Wanted) -> list[Piece[LockKind | None]]:
        """What the owner holds of the range now, for restore()."""
        ranges = self._held.get(wanted.owner)
        return [Piece(wanted.start, wanted.end, None)] if ranges is None else list(ranges.covering(*wanted[2:4]))

    def restore(self, owner: Owner, pieces: Iterable[Piece[LockKind | None]]) -> None:
        """Undo a set()."""
        self._write(owner, pieces)

    def _write(self, owner: Owner, pieces: Iterable[Piece[LockKind | None]]) -> None:
        ranges = self._held.setdefault(owner, RangeMap())
        for start, end, value in pieces:
            ranges.set(start, end, value)
        if not ranges:
            del self._held[owner]
            self._pids.pop(owner, None)
        else:
            self._pids.setdefault(owner, 0)

    def union(self, start: int, end: int, calls: Iterable[LockCall]) -> RangeMap[LockKind]:
        """For each byte the strongest kind that anybody holds by one of `calls`."""
        union: RangeMap[LockKind] = RangeMap()
        for owner, ranges in self._held.items():
            if owner.call not in calls:
                continue
            for piece in ranges.within(start, end):
                if piece.value is LockKind.EXCLUSIVE:
                    union.set(*piece)
                else:
                    for below in list(union.covering(piece.start, piece.end)):
                        if below.value is None:
                            union.set(below.start, below.end, piece.value)
        return union
