"""Listings that the kernel has cached, of directories in which others make and remove names, too.

Where it opens directories by itself (NO_OPENDIR_SUPPORT) it caches every listing that was read to its end, and keeps it
until the directory's time of change is another one. That is not enough: a change in the same tick of the file system's
clock shows no other time. So each listing is dropped when its time to live is over, on a thread of its own, and at once
where a lock has to be a barrier.

The kernel may be told to drop what it is just being told: it marks a listing as complete after the reply that ends it,
finds its pages gone, and asks again (fuse_readdir_cached() in fs/fuse/readdir.c).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

_EARLIER_PART: Final = 8
"""What has to go within this part of the time to live goes together, for one waking of the thread."""
_NS: Final = 1_000_000_000


class ToldListings:
    """Those of one mount, by the nodeid of the directory; thread-safe."""

    def __init__(self, valid_ns: int) -> None:
        """`valid_ns`: how long a listing is believed."""
        self._valid_ns = valid_ns
        self._changed = threading.Condition()
        self._due: dict[int, int] = {}
        """When each has to go, on the monotonic clock; but for what goes at once in the order of time."""
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

    def told(self, nodeid: int, *, believed: bool = True) -> None:
        """The kernel may have a listing of the directory now. `believed`: for the time to live, else not at all.

        May be called with any lock held.
        """
        if self._thread is None:
            return
        with self._changed:
            if not believed:
                self._due[nodeid] = 0
                self._changed.notify()
            elif nodeid not in self._due:
                self._due[nodeid] = time.monotonic_ns() + self._valid_ns
                if len(self._due) == 1:
                    self._changed.notify()

    def drop(self, nodeid: int) -> None:
        """At once: returns when the kernel has no listing of the directory. As for Notifier, no lock may be held."""
        with self._changed:
            was_told = self._due.pop(nodeid, None) is not None
        if was_told:
            self._drop(nodeid)

    def _run(self) -> None:
        while (nodeids := self._wait()) is not None:
            for nodeid in nodeids:
                self._drop(nodeid)

    def _wait(self) -> list[int] | None:
        """What has to go, as soon as something has to; None at the end."""
        with self._changed:
            while not self._stopped:
                now_ns = time.monotonic_ns()
                first_ns = min(self._due.values(), default=None)
                if first_ns is not None and first_ns <= now_ns:
                    limit_ns = now_ns + self._valid_ns // _EARLIER_PART
                    going = [nodeid for nodeid, due_ns in self._due.items() if due_ns <= limit_ns]
                    for nodeid in going:
                        del self._due[nodeid]
                    return going
                self._changed.wait(None if first_ns is None else (first_ns - now_ns) / _NS)
            return None
