"""Have the disk look for the packs that a walk will want next, while it is busy with those before them.

A walk shows where the pack of a directory is wanted, and then that of the directory which its listing names next. No
thread is needed, and nothing is read: the kernel is told what will be (DiskStore.expect()).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from cachetools import LRUCache

from netoverlay.backend_api.types import LayerPath, split_path

FIRST: Final = 2
"""Packs that are announced where a walk shows; twice as many with each that is wanted, up to AHEAD."""
AHEAD: Final = 8
"""Packs that are announced and not wanted yet, at most."""
_MAX_FOLLOWING: Final = 256
_MAX_LOOKED_INTO: Final = 4
"""Directories whose listing need not be gone through again: of a walk in depth those that it comes back to."""


class _Beside(NamedTuple):
    """The directories in one directory. They may be out of date: all that is built on them is a guess."""

    paths: Sequence[LayerPath]
    places: dict[LayerPath, int]


class PacksAhead:
    """Calls `expect` for the directories whose packs are likely to be wanted next, in that order; thread-safe.

    `expect(path)`: announce the pack of a directory; False if that is needless. `below(path)`: the directories in the
    directory `path`, as a walk meets them; none if it would have to be asked for.
    """

    def __init__(self, expect: Callable[[LayerPath], bool], below: Callable[[LayerPath], Sequence[LayerPath]]) -> None:
        self._expect = expect
        self._below = below
        self._busy = threading.Lock()
        """Nobody waits for it."""
        self._last: LayerPath | None = None
        self._most = 0
        """Packs that may be announced and not wanted yet; none if the last one was of no walk."""
        self._looked_into: LRUCache[LayerPath, _Beside] = LRUCache(_MAX_LOOKED_INTO)
        self._announced: deque[LayerPath] = deque()
        self._following: deque[LayerPath] = deque(maxlen=_MAX_FOLLOWING)
        """What comes after these."""

    def wanted(self, directory: LayerPath) -> None:
        """A pack of `directory` was on disk, and has been read."""
        if not self._busy.acquire(blocking=False):
            return  # to announce less costs less than to wait
        try:
            # The files of a directory may come before the directories in it, after them, or between them.
            if self._last is None or not _holds(directory, self._last):
                self._reached(directory)
        finally:
            self._busy.release()

    def _reached(self, directory: LayerPath) -> None:
        if self._is_announced(directory) or self._begins(directory):
            self._most = min(max(2 * self._most, FIRST), AHEAD)
            self._following.extendleft(reversed(self._below(directory)[:_MAX_FOLLOWING]))
            self._announce()
        else:
            self._most = 0
        self._last = directory

    def _is_announced(self, directory: LayerPath) -> bool:
        if directory not in self._announced:
            return False
        while self._announced.popleft() != directory:
            pass
        return True

    def _begins(self, directory: LayerPath) -> bool:
        """Whether a walk goes on from `directory`, on another way than that which is announced."""
        parent = split_path(directory)[0]
        is_walk = self._most > 0
        if self._last is None or not (is_walk or _holds(parent, self._last)):
            return False
        beside, place = self._beside(parent, directory)
        if place is None:
            return False
        is_next = _holds(beside[place - 1], self._last) if place else is_walk or parent == self._last
        if is_next:
            self._announced.clear()
            self._following.clear()
            self._following.extend(beside[place + 1 : place + 1 + _MAX_FOLLOWING])
        return is_next

    def _beside(self, parent: LayerPath, directory: LayerPath) -> tuple[Sequence[LayerPath], int | None]:
        """The directories in `parent`, and where `directory` is among them."""
        known = self._looked_into.get(parent)
        if known is None or directory not in known.places:
            paths = self._below(parent)
            known = _Beside(paths, {path: place for place, path in enumerate(paths)})
            self._looked_into[parent] = known
        return known.paths, known.places.get(directory)

    def _announce(self) -> None:
        # No more looks for packs than that, however many directories have none.
        for _ in range(AHEAD):
            if not self._following or len(self._announced) >= self._most:
                return
            path = self._following.popleft()
            if self._expect(path):
                self._announced.append(path)


def _holds(directory: LayerPath, path: LayerPath) -> bool:
    """Whether `path` is `directory` or below it."""
    return not directory or f"{path}/".startswith(f"{directory}/")
