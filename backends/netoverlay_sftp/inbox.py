"""What has arrived in one SSH channel and is not taken yet."""

from __future__ import annotations

import queue
import threading
from collections import deque

from paramiko.buffered_pipe import BufferedPipe, PipeTimeout

_NOTHING = memoryview(b"")


class Inbox(BufferedPipe):  # type: ignore[type-arg]  # generic in the type stubs only
    """A channel's in_buffer that hands out what was put in, uncopied. Many threads feed, one takes.

    Who waits is woken once all that it needs is there, not for every packet: a switch costs as much as a packet.
    """

    def __init__(self) -> None:
        super().__init__()
        self._mutex = threading.Lock()
        self._chunks: deque[memoryview] = deque()
        self._available = 0
        self._wanted = 1
        self._ended = False
        self._waiting = self._nudged = False
        self._signal: queue.SimpleQueue[None] = queue.SimpleQueue()

    def expect(self, wanted: int) -> None:
        """is_ready() as soon as there are so many bytes, or no more will come."""
        self._wanted = wanted

    def is_ready(self) -> bool:
        """Whether there is what expect() asked for."""
        return self._available >= self._wanted or self._ended

    def wait(self, seconds: float) -> None:
        """Return when it is ready, when it is nudged, or when time is up."""
        with self._mutex:
            if self.is_ready() or self._nudged:
                self._nudged = False
                return
            self._waiting = True
        try:
            self._signal.get(timeout=max(0.0, seconds))
        except queue.Empty:
            with self._mutex:
                missed, self._waiting = not self._waiting, False
            if missed:  # the signal came just now, and must not be taken for the next one
                self._signal.get()

    def nudge(self) -> None:
        """End wait(), the next one if nobody is in it."""
        with self._mutex:
            self._nudged = not self._wake()

    def _wake(self) -> bool:
        """With the mutex: whether somebody was waiting."""
        if not self._waiting:
            return False
        self._waiting = False
        self._signal.put(None)
        return True

    def feed(self, data: bytes | str | memoryview) -> None:
        chunk = memoryview(data.encode() if isinstance(data, str) else data)
        with self._mutex:
            self._chunks.append(chunk)
            self._available += len(chunk)
            if self._available >= self._wanted:
                self._wake()

    def read(self, nbytes: int, timeout: float | None = None) -> memoryview:
        """One chunk, whatever `nbytes` says; empty at the end. PipeTimeout, at once, if there is none yet."""
        del nbytes, timeout
        with self._mutex:
            if self._chunks:
                chunk = self._chunks.popleft()
                self._available -= len(chunk)
                return chunk
            if self._ended:
                return _NOTHING
        raise PipeTimeout

    def close(self) -> None:
        with self._mutex:
            self._ended = True
            self._wake()

    def __len__(self) -> int:
        return self._available
