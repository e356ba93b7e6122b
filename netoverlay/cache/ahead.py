"""List the directories of a walk ahead of it, many at once, before it asks.

A tree is walked one directory after the other, so over a network a walk costs one round trip each. It shows when a
program lists a directory and then one below it, or when a second directory beside another has to be listed
(allowance.py). Then the directories beside it are fetched, and those below it as soon as they are known; what a fetch
finds to follow, too, and all of it in the order in which the walk will come to it (walk_order.py). Below a hidden
directory only who lists is taken to walk: git finds by name what it wants of the 256 directories of `.git/objects`.
Any failure ends it: whoever needs the directory meets the error himself.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence

from cachetools import LRUCache

from netoverlay.backend_api.types import LayerPath, split_path
from netoverlay.cache.allowance import Allowance
from netoverlay.cache.background import Background
from netoverlay.cache.purpose import Purpose, purpose
from netoverlay.cache.walk_order import WalkOrder, is_hidden

WORKERS = 4
MAX_UNUSED = 128
"""Directories that a walk has before it, at most: so many are listed in vain where it ends."""
AT_FIRST = 32
"""Directories that are listed where a walk descends: those beside the first one and a part of what is in them."""
_MAX_FOLLOWING = 16_384
_MAX_LISTED = 1024

_log = logging.getLogger(__name__)


class Ahead:
    """Runs `fetch` on directories that are likely to be wanted, at most `at_once`, in a few threads of its own.

    `fetch(paths)` lists them unless that is needless, and returns what is likely to be wanted after them.
    """

    def __init__(self, at_once: int, fetch: Callable[[Sequence[LayerPath]], Iterable[LayerPath]]) -> None:
        self._fetch = fetch
        self._workers = min(WORKERS, at_once)
        self._batch = at_once // self._workers
        self._background = Background("list-ahead", self._workers)
        self._lock = threading.Lock()
        self._following = WalkOrder(_MAX_FOLLOWING)
        self._listed: LRUCache[LayerPath, None] = LRUCache(_MAX_LISTED)
        self._allowance = Allowance()
        self._in_flight = 0

    def listed(self, path: LayerPath) -> None:
        """A program lists the directory `path`, and does not only look for names in it."""
        if purpose() is Purpose.AHEAD:
            return
        with self._lock:
            self._listed[path] = None
            self._following.reached(path)

    def missed(
        self, path: LayerPath, *, listed: bool, beside: Callable[[], Iterable[LayerPath]], again: bool = False
    ) -> bool:
        """Somebody has to wait for the directory `path`: whether there is a walk, for which found() is to be called.

        `listed`: for who lists it. `beside()`: the directories that can be fetched next to it. `again`: its names were
        fetched before.
        """
        if purpose() is Purpose.AHEAD or (is_hidden(path) and not listed):
            return False
        parent = split_path(path)[0]
        with self._lock:
            is_walk = bool(path) and not again and self._allowance.demand(parent)
            if path and listed and parent in self._listed:
                self._allowance.sign(AT_FIRST)
                is_walk = True
            goes_on = is_walk or self._allowance.goes_on
            self._following.reached(path)
        if is_walk:
            self.found(beside())
        return goes_on

    def expect(self, path: LayerPath) -> None:
        """The directory `path` is going to be used, be there a walk or not."""
        self._background.start(self._try, [path])

    def found(self, paths: Iterable[LayerPath]) -> None:
        """After missed(): the directories below that one."""
        following = list(paths)
        with self._lock:
            self._following.add(following)
            self._start()

    def used(self) -> None:
        """Something that was fetched ahead is used."""
        with self._lock:
            self._allowance.used()
            self._start()

    def stop(self) -> None:
        """Start nothing any more."""
        self._background.stop()

    def join(self) -> None:
        """After stop(): wait for the fetches under way."""
        self._background.join()

    def _start(self) -> None:
        while self._in_flight < self._workers and (batch := self._next()):
            self._in_flight += 1
            self._background.start(self._run, batch)

    def _next(self) -> list[LayerPath]:
        """What to list in one call: not few at a time while there is another call under way."""
        if self._background.is_stopped or not self._following:
            return []
        most = min(self._batch, len(self._following))
        least = max(most // 2, 1) if self._in_flight else 1
        return self._following.take(self._allowance.grant(least, most, MAX_UNUSED))

    def _run(self, paths: list[LayerPath]) -> None:
        following: list[LayerPath] | None = None
        try:
            following = self._try(paths)
        finally:
            with self._lock:
                self._in_flight -= 1
                self._allowance.spent(len(paths), len(paths), len(paths))
                if following is None:
                    self._following.clear()
                    self._allowance.end()
                else:
                    self._following.add(following)
                    self._start()

    def _try(self, paths: list[LayerPath]) -> list[LayerPath] | None:
        try:
            return list(self._fetch(paths))
        except OSError as error:
            _log.debug("fetching ahead ends: %s", error)
            return None
