"""Asks again and again: for locks that somebody outside of the mount holds, and whether ours are held still.

Nobody tells us of either. One thread, only while there is something to ask for, each file after a pause that grows.
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
    """Files to ask for."""

    def __init__(
        self,
        name: str,
        ask: Callable[[FileInode], bool],
        first_seconds: float = FIRST_PAUSE_SECONDS,
        longest_seconds: float = LONGEST_PAUSE_SECONDS,
    ) -> None:
        """`name`: of the thread. `ask` does what there is to do for a file, and tells whether to do it again.

        `first_seconds`, `longest_seconds`: the pauses before that.
        """
        self._name = name
        self._ask = ask
        self._first_seconds = first_seconds
        self._longest_seconds = longest_seconds
        self._condition = threading.Condition()
        self._due: dict[FileInode, tuple[float, float]] = {}
        """When to ask next, and the pause before that."""
        self._thread: threading.Thread | None = None
        self._stopped = False

    def add(self, inode: FileInode) -> None:
        """Ask for a file from now on; nothing if that is done already."""
        with self._condition:
            if inode in self._due or self._stopped:
                return
            self._due[inode] = (time.monotonic() + self._first_seconds, self._first_seconds)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
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
                    pause = min(pause * _GROWTH, self._longest_seconds)
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
