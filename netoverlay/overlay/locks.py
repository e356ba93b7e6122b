"""The locks of the overlay, and the one order in which they are taken.

    RENAME      one of the mount: renames between directories, one at a time, so that "parent before child" stays true
      |
    DIRECTORY   one an inode: the names of a directory; parent before child, unrelated ones by nodeid
      |
    COPY_UP     one an inode: what backs it (lower or upper, and the open file); parent before child
      |
    FILE_LOCKS  one an inode: the locks that programs hold on the file, and where the layer holds them for us. Held for
      |         calls to the layer on the open file
      |
    PATHS       one of the mount, shared or exclusive: shared while a path of the upper is being used, exclusive while
      |         a rename changes paths. Held for calls to the upper only, never while a lower is asked
      |
    TABLE       one of the mount: the maps from nodeid, name and file id to inode. Others: what locks are held, and who
                waits for one (lock_table.py); which listings the kernel has (told_listings.py, inside that of
                validity.py). Leaves: no I/O, no other lock inside

A thread that holds a lock takes only locks further down, or the same rank in the order given. Under tests
(check_order()) each acquisition is checked against it. A method with the suffix _locked is called with the lock that
its docstring names held.

A lock that is not free at once is waited for after about_to_wait(), so that its holder, who may be waiting for a
server, does not keep the mount from reading further requests.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from netoverlay.backend_api.waiting import about_to_wait


class Rank(enum.IntEnum):
    """The order of the module's docstring, first taken first."""

    RENAME = 1
    DIRECTORY = 2
    COPY_UP = 3
    FILE_LOCKS = 4
    PATHS = 5
    TABLE = 6


NESTING = frozenset({Rank.DIRECTORY, Rank.COPY_UP})
"""Ranks of which a thread may hold several."""


class LockOrderError(AssertionError):
    """A thread took a lock against the order."""


class _Held(threading.local):
    def __init__(self) -> None:
        self.ranks: list[Rank] = []


_held = _Held()
_checking = False


def check_order(enabled: bool) -> None:
    """Check every acquisition from now on. For tests: it costs about a microsecond each."""
    global _checking  # noqa: PLW0603 - one switch of the process
    _checking = enabled


def _note_taken(rank: Rank) -> None:
    deepest = max(_held.ranks, default=None)
    if deepest is not None and (rank < deepest or (rank == deepest and rank not in NESTING)):
        raise LockOrderError(f"{rank.name} taken while {deepest.name} is held")
    _held.ranks.append(rank)


def _note_released(rank: Rank) -> None:
    _held.ranks.remove(rank)


class RankedLock:
    """A mutual exclusion of one rank. Not reentrant."""

    __slots__ = ("_lock", "_rank")

    def __init__(self, rank: Rank) -> None:
        self._lock = threading.Lock()
        self._rank = rank

    def __enter__(self) -> None:
        if _checking:
            _note_taken(self._rank)
        if not self._lock.acquire(False):
            about_to_wait()
            self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        if _checking:
            _note_released(self._rank)


class PathLock:
    """PATHS: many users of paths, or one that changes them. A waiting changer holds off further users."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._condition = threading.Condition(self._lock)
        self._users = 0
        self._changers_waiting = 0
        self._changing = False

    def shared(self) -> PathLock:
        """For a with block, inside of which paths of the upper keep their meaning."""
        return self  # and nothing made for each: several a request are entered

    def __enter__(self) -> None:
        if _checking:
            _note_taken(Rank.PATHS)
        with self._lock:
            if self._changing or self._changers_waiting:
                about_to_wait()
                self._condition.wait_for(lambda: not (self._changing or self._changers_waiting))
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if not self._users and self._changers_waiting:
                self._condition.notify_all()
        if _checking:
            _note_released(Rank.PATHS)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Nobody uses a path of the upper inside."""
        if _checking:
            _note_taken(Rank.PATHS)
        with self._condition:
            self._changers_waiting += 1
            if self._changing or self._users:
                about_to_wait()
                self._condition.wait_for(lambda: not (self._changing or self._users))
            self._changers_waiting -= 1
            self._changing = True
        try:
            yield
        finally:
            with self._condition:
                self._changing = False
                self._condition.notify_all()
            if _checking:
                _note_released(Rank.PATHS)
