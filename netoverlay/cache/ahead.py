"""Fetch what a walk will ask for next, several at once, before it asks.

A tree is walked one directory after the other, so over a network a walk costs one round trip each. When a demand is the
sign of a walk (allowance.py), the parent's other children are put on a stack, nearest first. What a fetch finds to
follow goes on the stack too, so the order is that of a walk in depth. Any failure ends it: whoever needs the item meets
the error himself.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from netoverlay.backend_api.types import LayerPath
from netoverlay.cache.allowance import Allowance

MAX_UNUSED = 64
"""Items that a walk has before it, at most: so many are fetched in vain where it ends."""
_MAX_STACK = 16_384

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
        self._stack: deque[LayerPath] = deque(maxlen=_MAX_STACK)
        self._allowance = Allowance(MAX_UNUSED)
        self._in_flight = 0
        self._closed = False

    def missed(self, parent: LayerPath, children: Callable[[], Iterable[LayerPath]]) -> None:
        """A child of `parent` had to be waited for; `children()` are those that can be fetched."""
        with self._lock:
            is_walk = self._allowance.demand(parent)
        if is_walk:
            wanted = list(children())
            with self._lock:
                self._push(wanted)
                self._start()

    def used(self) -> None:
        """Something that was fetched ahead is used."""
        with self._lock:
            self._allowance.used()
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
        while self._stack and self._in_flight < self._workers and not self._closed and self._allowance.grant(1, 1):
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
                    self._allowance.end()
                else:
                    self._push(following)
                    self._start()
