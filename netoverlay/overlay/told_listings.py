"""Listings that the kernel has cached, of directories in which others make and remove names, too.

Where it opens directories by itself (NO_OPENDIR_SUPPORT) it caches every listing that was read to its end, and keeps it
until the directory's time of change is another one. That is not enough: a change in the same tick of the file system's
clock shows no other time. So each listing is dropped when its time to live is over, on a thread of its own, and at once
where a lock has to be a barrier.

A listing is as old as its beginning. That may be another reader's than its end: the kernel keeps the part that one has
read, and adds what the next one reads after it. So from its first part on a listing is in `_begun`, then in `_due`,
until it was dropped (fs/fuse/readdir.c):

- At its end the kernel may be told to drop what it is just being told: it marks the listing as complete after the reply
  that ends it, finds its pages gone, and asks again. What is over by then goes so. Until it has gone, which takes a
  moment, another reader may be shown it.
- What is dropped in the middle of a listing is as a rule not cached again before the kernel forgets the directory: it
  waits for a next part that it has no page for. So what is due while the directory is listed anew waits for the end of
  that, but only for a time to live: of two readers at once, the kernel may have the whole listing of one, and not ask
  for the rest of the other's. A lock does not wait.
"""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

logger = logging.getLogger(__name__)

MOST_BEGUN: Final = 1024
"""Listings that were not read to their end. One more has the oldest dropped."""
_EARLIER_PART: Final = 8
"""What has to go within this part of the time to live goes together, for one waking of the thread."""
_NS: Final = 1_000_000_000
_AT_ONCE_NS: Final = 0


class ToldListings:
    """Those of one mount, by the nodeid of the directory; thread-safe. All times are on the monotonic clock."""

    def __init__(self, valid_ns: int) -> None:
        """`valid_ns`: how long a listing is believed."""
        self._valid_ns = valid_ns
        self._changed = threading.Condition()
        self._begun: OrderedDict[int, int] = OrderedDict()
        """When each that is being read has to go; those that were begun first come first."""
        self._due: dict[int, int] = {}
        """When each that was read to its end has to go."""
        self._queue: list[tuple[int, int]] = []
        """A heap of what is in `_due`, the time first; and of what was, which is passed over."""
        self._together_ns = 0
        self._going: int | None = None
        """What the thread has taken, and may not have dropped yet."""
        self._stopped = False
        self._thread: threading.Thread | None = None
        self._drop: Callable[[int], object] = id

    def start(self, drop: Callable[[int], object]) -> None:
        """From now on the kernel caches listings. `drop` has it forget one; called with no lock held."""
        self._drop = drop
        self._thread = threading.Thread(target=self._run, name="listings", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Returns when nothing is dropped any more. Harmless if it was never started."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def begun(self, nodeid: int) -> None:
        """The first part of a listing is about to be made. May be called with any lock held."""
        if self._thread is None:
            return
        with self._changed:
            self._begun.setdefault(nodeid, time.monotonic_ns() + self._valid_ns)
            if len(self._begun) > MOST_BEGUN:
                oldest, _ = self._begun.popitem(last=False)
                self._set_due_locked(oldest, _AT_ONCE_NS)

    def told(self, nodeid: int, *, believed: bool = True) -> None:
        """The kernel may have a listing of the directory now. `believed`: for the time to live, else not at all.

        May be called with any lock held.
        """
        if self._thread is None:
            return
        with self._changed:
            now_ns = time.monotonic_ns()
            due_ns = self._begun.pop(nodeid, now_ns + self._valid_ns)
            if due_ns <= now_ns or not believed:
                due_ns = _AT_ONCE_NS
            if due_ns < self._due.get(nodeid, due_ns + 1):
                self._set_due_locked(nodeid, due_ns)

    def drop(self, nodeid: int) -> None:
        """At once: returns when the kernel has no listing of the directory. As for Notifier, no lock may be held."""
        with self._changed:
            is_begun = nodeid in self._begun
            if is_begun:  # a part that was made before may come to the kernel only after this
                self._begun[nodeid] = _AT_ONCE_NS
            was_told = self._due.pop(nodeid, None) is not None or nodeid == self._going
        if was_told or is_begun:
            self._drop(nodeid)

    def _set_due_locked(self, nodeid: int, due_ns: int) -> None:
        self._due[nodeid] = due_ns
        heapq.heappush(self._queue, (due_ns, nodeid))
        if self._queue[0] == (due_ns, nodeid):
            self._changed.notify()

    def _run(self) -> None:
        while (nodeid := self._next()) is not None:
            try:
                self._drop(nodeid)
            except Exception:
                logger.exception("the kernel could not be told to drop the listing of a directory")

    def _next(self) -> int | None:
        """What has to go, as soon as something has to; None at the end."""
        with self._changed:
            self._going = None
            while not self._stopped:
                now_ns = time.monotonic_ns()
                first_ns = self._queue[0][0] if self._queue else None
                if first_ns is not None and first_ns <= max(now_ns, self._together_ns):
                    if first_ns > self._together_ns:
                        self._together_ns = now_ns + self._valid_ns // _EARLIER_PART
                    self._going = self._take_first_locked(now_ns)
                    if self._going is not None:
                        return self._going
                else:
                    self._changed.wait(None if first_ns is None else (first_ns - now_ns) / _NS)
            return None

    def _take_first_locked(self, now_ns: int) -> int | None:
        """The first of the queue, out of `_due`; None if it does not have to go now."""
        due_ns, nodeid = heapq.heappop(self._queue)
        if self._due.get(nodeid) != due_ns:
            return None
        begun_due_ns = self._begun.get(nodeid, _AT_ONCE_NS)
        if due_ns != _AT_ONCE_NS and begun_due_ns > max(now_ns, due_ns):
            self._set_due_locked(nodeid, begun_due_ns)
            return None
        del self._due[nodeid]
        return nodeid
