"""Receive messages from a socket, in the order they come, each in as few system calls as its size allows.

What has come of a message is kept when a receive runs out of time, so that another thread can go on with it.
"""

from __future__ import annotations

import select
import socket
import time

from netoverlay.backend_api.leadership import receive_into
from netoverlay_smb.protection import TAG_BYTES
from netoverlay_smb.protocol import LENGTH_BYTES, ProtocolError

MAX_FRAME_BYTES = 9 << 20
"""Servers send 8 MiB of data at most, and what is around it; a longer message is taken for nonsense."""
_AHEAD_BYTES = 32 << 10
"""Received at once when little is wanted: many small replies, but little of a large one, which would be copied."""


class FrameReader:
    """The receiving side of a connection; for one thread at a time."""

    def __init__(self, connected: socket.socket) -> None:
        """`connected` must time out (SO_RCVTIMEO) after TICK_SECONDS."""
        self._socket = connected
        self._poll = select.poll()
        self._poll.register(connected, select.POLLIN)
        self._memory = bytearray(1 << 17)
        self._view = memoryview(self._memory)
        self._start = 0
        """Of what has been received and not taken yet."""
        self._end = 0
        self.heard_at = time.monotonic()
        """When anything came last."""

    def length(self, expires_at: float) -> int:
        """The bytes of the next message, which stays where it is. TimeoutError at `expires_at`, EOFError at the end."""
        self._need(LENGTH_BYTES, expires_at)
        length = int.from_bytes(self._view[self._start : self._start + LENGTH_BYTES], "big")
        if length > MAX_FRAME_BYTES:
            raise ProtocolError(f"the server sent a message of {length} bytes")
        return length

    def peek(self, count: int, expires_at: float) -> memoryview:
        """The first `count` bytes of the next message, valid until the next call."""
        self._need(LENGTH_BYTES + count, expires_at)
        start = self._start + LENGTH_BYTES
        return self._view[start : start + count]

    def take_head(self, count: int) -> None:
        """The first `count` bytes of the next message, after a peek, are dealt with: what follows is its data."""
        self._start += LENGTH_BYTES + count

    def take(self, length: int, expires_at: float) -> memoryview:
        """The whole next message, of `length` bytes. Behind it is room for an encryption tag.

        Valid until the next call; what lies behind it is moved away first.
        """
        self._need(LENGTH_BYTES + length, expires_at)
        start = self._start + LENGTH_BYTES
        self._start = start + length
        return self._view[start : start + length]

    def take_with_room(self, length: int, expires_at: float) -> memoryview:
        """As take(), with TAG_BYTES more at the end, which may be overwritten."""
        self._need(LENGTH_BYTES + length, expires_at)
        start = self._start + LENGTH_BYTES
        following = self._end - start - length
        if following:  # the beginning of the next message, which has to make room
            self._reserve(TAG_BYTES)
            start = self._start + LENGTH_BYTES
            behind = start + length
            self._memory[behind + TAG_BYTES : self._end + TAG_BYTES] = self._memory[behind : self._end]
            self._end += TAG_BYTES
            self._start = behind + TAG_BYTES
        else:
            self._reserve(TAG_BYTES)
            start = self._start + LENGTH_BYTES
            self._start = self._end = 0
        return self._view[start : start + length + TAG_BYTES]

    def fill(self, target: memoryview, expires_at: float) -> memoryview:
        """Receive data into `target`; the part of it that is still empty, after what has come so far.

        Empty if all is there. TimeoutError only if nothing came.
        """
        ready = min(len(target), self._end - self._start)
        if ready:
            target[:ready] = self._view[self._start : self._start + ready]
            self._start += ready
            return target[ready:]
        return target[self._receive(target, expires_at) :] if target else target

    def _need(self, count: int, expires_at: float) -> None:
        while self._end - self._start < count:
            missing = count - (self._end - self._start)
            self._reserve(max(missing, _AHEAD_BYTES))
            wanted = max(_AHEAD_BYTES, missing)
            self._end += self._receive(self._view[self._end : self._end + wanted], expires_at)

    def _reserve(self, room: int) -> None:
        """Have so many bytes of memory behind what was received."""
        if self._start == self._end:
            self._start = self._end = 0
        if len(self._memory) - self._end >= room:
            return
        kept = bytes(self._view[self._start : self._end])
        if len(self._memory) - len(kept) < room:
            self._memory = bytearray(len(kept) + room + _AHEAD_BYTES)
            self._view = memoryview(self._memory)
        self._view[: len(kept)] = kept
        self._start, self._end = 0, len(kept)

    def _receive(self, target: memoryview, expires_at: float) -> int:
        count = receive_into(self._socket, self._poll, target, expires_at - time.monotonic())
        if not count:
            raise EOFError
        self.heard_at = time.monotonic()
        return count
