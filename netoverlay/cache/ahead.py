"""Fetch what a walk will ask for next, several at once, before it asks.

A tree is walked one directory after the other, so over a network a walk costs one round trip each. The policy:

- A second demand below one parent that had to wait is the sign of a walk (further ones at every power of two, so that
  scattered demands cost few fetches). The parent's other children are put on a stack, nearest first, and START_CREDITS
  fetches are granted. What a fetch finds to follow goes on the stack too, so the order is that of a walk in depth.
- Each fetch spends a credit; each fetched item that is used earns USE_EARNS, up to MAX_CREDITS. A walk that goes on
  doubles what is in flight until all workers are busy; one that ends costs what was granted last and no more. While
  there are earned credits left a walk counts as going on, and the first wait below a new parent is enough.
- Any failure ends it: whoever needs the item meets the error himself.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from cachetools import LRUCache

from netoverlay.backend_api.types import LayerPath

START_CREDITS = 16
USE_EARNS = 2
MAX_CREDITS = 256
_MAX_STACK = 16_384
_MAX_PARENTS = 4096

_log = logging.getLogger(__name__)


def log_failure(future: Future[None]) -> None:
    """Tell of an error in our own work, which nobody else would see."""
    if not future.cancelled() and future.exception() is not None:
        _log.error("a fetch ahead has failed", exc_info=future.exception())


class Ahead:
    """Runs `fetch` on paths that are likely to be wanted, in at most `workers` threads of its own.

    `fetch(path)` fetches one item unless that is needless, and returns what is likely to be wanted after it.
    """

    def __init__(self, name: str, workers: int, fetch: Callable[[LayerPath], Iterable[LayerPath]]) -> None:
        self._fetch = fetch
        self._workers = workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix=name)
        self._lock = threading.Lock()
        self._demands: LRUCache[LayerPath, int] = LRUCache(_MAX_PARENTS)
        self._stack: deque[LayerPath] = deque(maxlen=_MAX_STACK)
        self._credits = 0
        self._in_flight = 0
        self._closed = False

    def missed(self, parent: LayerPath, children: Callable[[], Iterable[LayerPath]]) -> None:
        """A child of `parent` had to be waited for; `children()` are those that can be fetched."""
        with self._lock:
            count = self._demands[parent] = self._demands.get(parent, 0) + 1
            is_walk = count & (count - 1) == 0 and (count >= 2 or self._credits > START_CREDITS)
        if is_walk:
            wanted = list(children())
            with self._lock:
                self._credits = max(self._credits, START_CREDITS)
                self._push(wanted)
                self._start()

    def used(self) -> None:
        """Something that was fetched ahead is used."""
        with self._lock:
            self._credits = min(self._credits + USE_EARNS, MAX_CREDITS)
            self._start()

    def stop(self) -> None:
        """Start nothing any more."""
        with self._lock:
            self._closed = True
            self._stack.clear()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def join(self) -> None:
        """After stop(): wait for the fetches under way."""
        self._pool.shutdown(wait=True)

    def _push(self, paths: list[LayerPath]) -> None:
        self._stack.extend(reversed(paths))

    def _start(self) -> None:
        while self._stack and self._credits > 0 and self._in_flight < self._workers and not self._closed:
            self._credits -= 1
            self._in_flight += 1
            self._pool.submit(self._run, self._stack.pop()).add_done_callback(log_failure)

    def _run(self, path: LayerPath) -> None:
        following: list[LayerPath] = []
        failed = True
        try:
            following = list(self._fetch(path))
            failed = False
        except OSError as error:
            _log.debug("fetching ahead ends: %s", error)
        finally:
            with self._lock:
                self._in_flight -= 1
                if failed:
                    self._stack.clear()
                    self._credits = 0
                else:
                    self._push(following)
                    self._start()
