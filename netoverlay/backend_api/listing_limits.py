"""How far the listing of a directory is read: there are servers whose listings never end.

A directory of a million names is listed; what brings nothing new, more names than any memory is for, or no end within
the layer's deadline, is an error, and the warning about it names the directory, once.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Collection

from netoverlay.backend_api.errors import EndlessListingError
from netoverlay.backend_api.waiting import SLOW_SECONDS, check_interrupted, give_up_at

MAX_NAMES = 1 << 21
MAX_BYTES = 1 << 30
"""Of replies: more than a million of the longest names take."""
MAX_REPLIES_WITHOUT_NEWS = 256
"""One after the other. A directory that is changed while it is listed may tell some names twice."""
_MAX_WARNED = 1000

_BY_NAME = "its files can still be used by their names"
_log = logging.getLogger(__name__)


class ListingLimits:
    """Of one layer. `deadline` in seconds: for a listing as a whole."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._lock = threading.Lock()
        self._warned: set[str] = set()

    def begin(self, directory: str) -> ListingProgress:
        """A listing that is about to be read. `directory`: what it is called in the error."""
        return ListingProgress(self, directory)

    def ends_at(self) -> float:
        """Until when a listing is read of which the first names have just come, on the clock of time.monotonic()."""
        return give_up_at(self._deadline)

    def exceeded(self, code: int, directory: str, problem: str) -> EndlessListingError:
        """The error to raise; the first about a directory is logged."""
        with self._lock:
            is_new = directory not in self._warned and len(self._warned) < _MAX_WARNED
            if is_new:
                self._warned.add(directory)
        if is_new:
            _log.warning("%r cannot be listed: %s; %s", directory, problem, _BY_NAME)
        return EndlessListingError(code, directory, problem)

    def too_late(self, directory: str, names: int) -> EndlessListingError:
        """As exceeded(), of a listing that takes too long."""
        problem = (
            f"after {self._deadline:g} seconds and {names} names its listing was not complete "
            "(if it is really so large, give the layer a longer deadline)"
        )
        return self.exceeded(errno.ETIMEDOUT, directory, problem)


class ListingProgress:
    """One listing, for one thread."""

    __slots__ = ("_began_at", "_bytes", "_directory", "_ends_at", "_limits", "_names", "_seen", "_without_news")

    def __init__(self, limits: ListingLimits, directory: str) -> None:
        self._limits = limits
        self._directory = directory
        self._began_at = time.monotonic()
        self._ends_at: float | None = None
        self._names = 0
        self._bytes = 0
        self._seen: set[bytes | str] = set()
        self._without_news = 0

    def told(self, names: Collection[bytes | str], reply_bytes: int) -> None:
        """A reply of the server has brought `names`. EndlessListingError, InterruptedError."""
        if self._ends_at is None:
            self._ends_at = self._limits.ends_at()
        known = len(self._seen)
        self._seen.update(names)
        self._names += len(names)
        self._bytes += reply_bytes
        self._without_news = self._without_news + 1 if len(self._seen) == known else 0
        if self._without_news > MAX_REPLIES_WITHOUT_NEWS:
            problem = f"the server repeats {known} names, and does not come to the end"
            raise self._limits.exceeded(errno.EIO, self._directory, problem)
        if self._names > MAX_NAMES or self._bytes > MAX_BYTES:
            problem = f"the server lists more than {MAX_NAMES} names or {MAX_BYTES >> 20} MiB"
            raise self._limits.exceeded(errno.EFBIG, self._directory, problem)
        self.goes_on()

    def goes_on(self) -> None:
        """Before something more is asked for its sake. EndlessListingError, InterruptedError."""
        now = time.monotonic()
        if self._ends_at is not None and now >= self._ends_at:
            raise self._limits.too_late(self._directory, len(self._seen))
        if now - self._began_at > SLOW_SECONDS:
            check_interrupted()
