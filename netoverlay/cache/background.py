"""What nobody waits for: done in a few threads of its own, until it is told to stop."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec

P = ParamSpec("P")

_log = logging.getLogger(__name__)


class Background:
    """At most `threads` threads, called `name`, each of which is started when there is something for it to do."""

    def __init__(self, name: str, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._lock = threading.Lock()
        self._is_stopped = False

    @property
    def is_stopped(self) -> bool:
        """Whether stop() was called."""
        return self._is_stopped

    def start(self, work: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Have it done as soon as a thread is free; not at all after stop(). What it raises is an error of ours."""
        with self._lock:
            if self._is_stopped:
                return
            future = self._pool.submit(work, *args, **kwargs)
        future.add_done_callback(_log_failure)

    def stop(self) -> None:
        """Begin nothing any more."""
        with self._lock:
            self._is_stopped = True
        self._pool.shutdown(wait=False, cancel_futures=True)

    def join(self) -> None:
        """After stop(): wait for what is under way."""
        self._pool.shutdown(wait=True)


def _log_failure(future: Future[object]) -> None:
    """Nobody else would see it."""
    if not future.cancelled() and future.exception() is not None:
        _log.error("work in the background has failed", exc_info=future.exception())
