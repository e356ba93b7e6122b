"""Requests that failed for want of an answer, and which the kernel makes once more within the same system call.

What it could not read ahead it reads again, a page of it (fs/fuse/file.c: fuse_readahead, fuse_read_folio). A name that
it could not have confirmed it looks up (fs/fuse/dir.c: fuse_dentry_revalidate). To wait once more would be to wait for
twice the deadline of a layer, or longer.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Hashable
from typing import Final, NamedTuple, ParamSpec, TypeVar

from netoverlay.backend_api import UnavailableError, waiting
from netoverlay.backend_api.errors import InterruptedWaitError

P = ParamSpec("P")
T = TypeVar("T")

_PATIENCE_SECONDS: Final = 0.3
"""For a page that is read once more: a server that is there again answers in that."""
_AGAIN_SECONDS: Final = 0.5
"""The kernel asks again at once; this is what a busy machine may make of it."""
_LONG_SECONDS: Final = 0.5
"""What was waited for less than that can be waited for once more."""


class _Failure(NamedTuple):
    at: float
    times: int
    """How many of them the kernel has not asked for again."""


_NEVER: Final = _Failure(-math.inf, 0)


class GivenUp:
    """The last such requests. Any thread may call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failures: dict[Hashable, _Failure] = {}
        """By what was asked for; the oldest first."""

    def read(self, nodeid: int, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """A READ: what the call returns or raises. It does not wait for long if one of this file was just given up.

        It is not known which of many requests ahead the kernel wants a page of, nor whether it was one ahead at all.
        """
        try:
            if self._failures and self._is_recent(nodeid):
                with waiting.waiting_at_most(_PATIENCE_SECONDS):
                    return call(*args, **kwargs)
            return call(*args, **kwargs)
        except UnavailableError as error:
            self.note(nodeid, error)
            raise

    def refuse_again(self, asked: Hashable) -> None:
        """UnavailableError if the same was given up a moment ago, as often as that was noted.

        For a LOOKUP of a name that the kernel knew. It is not tried once more, for it could have to wait for others
        that look for something in the same directory.
        """
        if self._failures and self._is_recent(asked):
            self._take(asked)
            raise UnavailableError("the layer has not answered, a moment ago")

    def note(self, asked: Hashable, error: UnavailableError) -> None:
        """The request that this thread serves fails with `error`."""
        now = time.monotonic()
        if isinstance(error, InterruptedWaitError) or waiting.waited(now) < _LONG_SECONDS:
            return
        with self._lock:
            before = self._failures.pop(asked, _NEVER)
            self._failures[asked] = _Failure(now, before.times + 1 if now - before.at < _AGAIN_SECONDS else 1)
            while now - self._failures[oldest := next(iter(self._failures))].at > _AGAIN_SECONDS:
                del self._failures[oldest]

    def _is_recent(self, asked: Hashable) -> bool:
        failure = self._failures.get(asked)
        return failure is not None and time.monotonic() - failure.at < _AGAIN_SECONDS

    def _take(self, asked: Hashable) -> None:
        with self._lock:
            failure = self._failures.pop(asked, None)
            if failure is not None and failure.times > 1:
                self._failures[asked] = failure._replace(times=failure.times - 1)
