"""An answer that comes later: what an operation returns that would have to wait for somebody else's request.

A thread that waited for another program to give up a lock could not serve the request by which that is done. So the
operation returns a Deferred, the thread reads on, and whoever brings about what was waited for gives the answer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeAlias

Send: TypeAlias = Callable[[OSError | None], None]


class Deferred:
    """The answer to one request, given once, on any thread: "done", or an error."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._send: Send | None = None
        self._answers: list[OSError | None] = []
        self._interrupt: Callable[[], None] | None = None
        self._interrupted = False

    def answer(self, error: OSError | None = None) -> None:
        """Give the answer. May come before the operation has returned."""
        with self._lock:
            send = self._send
            if send is None:
                self._answers.append(error)
        if send is not None:
            send(error)

    def on_interrupt(self, interrupt: Callable[[], None]) -> None:
        """What to call if the caller gives up, on the thread that reads: it must not wait. The answer is due still."""
        with self._lock:
            self._interrupt = interrupt
            interrupted = self._interrupted
        if interrupted:
            interrupt()

    def attach(self, send: Send) -> None:
        """For the session: how the answer is sent, from now on."""
        with self._lock:
            self._send = send
            answers = list(self._answers)
        for error in answers:
            send(error)

    def interrupt(self) -> None:
        """For the session: the caller has given up. Harmless more than once."""
        with self._lock:
            self._interrupted = True
            interrupt = self._interrupt
        if interrupt is not None:
            interrupt()
