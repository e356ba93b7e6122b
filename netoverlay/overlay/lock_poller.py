"""Asks a layer again for locks that somebody outside of the mount holds: nobody tells us when they are given up.

One thread, only while somebody waits. Each file is asked for after a pause that grows while it is in vain.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from netoverlay.overlay.inodes import FileInode

logger = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS: Final = 0.005
LONGEST_PAUSE_SECONDS: Final = 0.25
_GROWTH: Final = 1.5


class LockPoller:
    """Files that somebody waits for."""

    def __init__(self, ask: Callable[[FileInode], bool]) -> None:
        """`ask` tries to grant what waits for a file, and tells whether anybody waits still."""
        self._ask = ask
        self._condition = threading.Condition()
        self._due: dict[FileInode, tuple[float, float]] = {}
        """When to ask next, and the pause before that."""
        self._thread: threading.Thread | None = None
        self._stopped = False

    def add(self, inode: FileInode) -> None:
        """Somebody waits for a lock that the layer has just refused."""
        with self._condition:
            if inode in self._due or self._stopped:
                return
            self._due[inode] = (time.monotonic() + FIRST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="lock-poller", daemon=True)
                self._thread.start()
            self._condition.notify()

    def stop(self) -> None:
        """Ask no more."""
        with self._condition:
            self._stopped = True
            self._condition.notify()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while (entry := self._next()) is not None:
            inode, pause = entry
            waits = False
            try:
                waits = self._ask(inode)
            except Exception:
                logger.exception("the locks of a file cannot be asked for")
            with self._condition:
                # Unless it was added meanwhile, by who waits since.
                if waits and inode not in self._due:
                    pause = min(pause * _GROWTH, LONGEST_PAUSE_SECONDS)
                    self._due[inode] = (time.monotonic() + pause, pause)

    def _next(self) -> tuple[FileInode, float] | None:
        """The file whose turn it is, and the pause before that; None, and the thread ends, if there is none."""
        with self._condition:
            while self._due and not self._stopped:
                inode, (at, pause) = min(self._due.items(), key=lambda entry: entry[1][0])
                wait = at - time.monotonic()
                if wait <= 0:
                    del self._due[inode]
                    return inode, pause
                self._condition.wait(wait)
            self._thread = None
            return None
