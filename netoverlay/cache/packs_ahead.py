"""Have the disk look for the packs that a walk will want next, while it is busy with those before them.

A walk shows where the packs of two directories beside each other are wanted, one after the other. No thread is needed,
and nothing is read: the kernel is told what will be (DiskStore.expect()).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from netoverlay.backend_api.types import LayerPath, split_path

AHEAD: Final = 8
"""Packs that are announced and not wanted yet, at most."""
_MAX_FOLLOWING: Final = 4096


class PacksAhead:
    """Calls `expect` for the directories whose packs are likely to be wanted next, in that order; thread-safe.

    `expect(path)`: announce the pack of a directory; False if that is needless. `below(path)`: the directories in the
    directory `path`, as a walk meets them; none if it would have to be asked for.
    """

    def __init__(self, expect: Callable[[LayerPath], bool], below: Callable[[LayerPath], Sequence[LayerPath]]) -> None:
        self._expect = expect
        self._below = below
        self._lock = threading.Lock()
        self._last: LayerPath | None = None
        self._last_parent: LayerPath | None = None
        self._goes_on = False
        """The last one was announced."""
        self._announced: deque[LayerPath] = deque()
        self._following: deque[LayerPath] = deque(maxlen=_MAX_FOLLOWING)
        """What comes after these."""

    def wanted(self, directory: LayerPath) -> None:
        """A pack of `directory` was on disk, and has been read."""
        for path in self._next(directory):
            if not self._expect(path):
                with self._lock:
                    if path in self._announced:
                        self._announced.remove(path)

    def _next(self, directory: LayerPath) -> list[LayerPath]:
        """What to announce now that `directory` is reached."""
        parent = split_path(directory)[0]
        below = self._below(directory)
        with self._lock:
            was_announced = directory in self._announced
            is_walk = was_announced or self._goes_on or (directory != self._last and parent == self._last_parent)
            self._last, self._last_parent, self._goes_on = directory, parent, was_announced
            if not is_walk:
                return []
            if was_announced:
                while self._announced.popleft() != directory:
                    pass
            else:
                beside = self._below(parent)
                self._announced.clear()
                self._following.clear()
                self._following.extend(beside[beside.index(directory) + 1 :] if directory in beside else ())
            self._following.extendleft(reversed(below))
            count = min(AHEAD - len(self._announced), len(self._following))
            found = [self._following.popleft() for _ in range(count)]
            self._announced.extend(found)
        return found
