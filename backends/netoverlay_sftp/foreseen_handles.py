"""Which handle a server is about to give, so that what is asked of a file goes out with its opening, in one round trip.

OpenSSH's server numbers the handles of a channel: the one that was closed last is given next, or else a new number
(handle_new() in its sftp-server.c). It serves what a channel asks in that order. So the next handle is known from what
was sent, if every opening on its way succeeds.

Where one fails, it takes no handle, and those after it get others than was thought. A request for the wrong one is
refused then, and harms nobody: what is free here is free at the server, too, in the same order, with something more in
between. So a handle that is foreseen in vain is nobody's.

Of other servers none of this is known. Each handle that is given is compared with the one that is due, and the first
that is another one ends it for good. Until then a READDIR may have taken names from somebody else's directory: who was
listing meanwhile has to begin again.
"""

from __future__ import annotations

import struct
import threading
from typing import Final, NamedTuple

_HANDLE: Final = struct.Struct(">II")
_NUMBER_BYTES: Final = 4


class OnOpened(NamedTuple):
    """The body of a request on what the opening before it opens: its handle, which is yet to be given, and `rest`."""

    rest: bytes = b""


class _Table:
    """The server's handles."""

    __slots__ = ("count", "free")

    def __init__(self, free: list[int], count: int) -> None:
        self.free = free
        """Those that were closed, last what is given next."""
        self.count = count

    def take(self) -> int:
        """The handle of something that is opened now."""
        if self.free:
            return self.free.pop()
        self.count += 1
        return self.count - 1


class ForeseenHandles:
    """Those of one channel, in which nothing was opened yet. Thread-safe."""

    def __init__(self) -> None:
        self.is_sure = True
        """No handle was another one than was due."""
        self._lock = threading.Lock()
        self._given = _Table([], 0)
        """After all that was answered."""
        self._expected = _Table([], 0)
        """After all that was sent, if every opening of it succeeds."""
        self._sent: dict[int, int | None] = {}
        """By the number of the request, in their order: the handle that is closed, None where something is opened."""

    def opening(self, number: int) -> bytes | None:
        """A request to open something is about to be sent: its handle, as requests hold it; None if it is not known."""
        with self._lock:
            if not self.is_sure:
                return None
            self._sent[number] = None
            return _HANDLE.pack(_NUMBER_BYTES, self._expected.take())

    def closing(self, number: int, handle: bytes) -> None:
        """So is a request to close something."""
        with self._lock:
            if self.is_sure:
                closed = _number(handle)
                self._sent[number] = closed
                self._expected.free.append(closed)

    def answered(self, number: int, handle: bytes | None) -> None:
        """The reply to a request, of whatever kind: the handle that was given, None for anything else."""
        if number not in self._sent:
            return
        with self._lock:
            in_order = next(iter(self._sent), None) == number
            closed = self._sent.pop(number, None)
            if closed is not None:
                self._given.free.append(closed)
            elif handle is None:
                self._expect_anew()
            elif len(handle) != _HANDLE.size or _number(handle) != self._given.take():
                in_order = False
            if not in_order:
                self.is_sure = False
                self._sent.clear()

    def _expect_anew(self) -> None:
        self._expected = _Table(self._given.free.copy(), self._given.count)
        for closed in self._sent.values():
            if closed is None:
                self._expected.take()
            else:
                self._expected.free.append(closed)


def _number(handle: bytes) -> int:
    number: int = _HANDLE.unpack(handle)[1]
    return number
