"""The socket under an SSH connection: what has arrived, in whole packets where their length is readable."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from select import POLLIN, poll
from typing import Protocol

import paramiko

from netoverlay.backend_api.leadership import TICK_SECONDS, receive_into
from netoverlay_sftp.protocol import UINT32
from netoverlay_sftp.streams import Liveness, set_timeout

MAX_PACKET_BYTES = 256 << 10
"""Of data in one SSH packet: what the server is told, and what OpenSSH's own client tells it."""
_BUFFER_BYTES = 2 * MAX_PACKET_BYTES
_ROOM_BYTES = 64 << 10
"""Less than that is not worth a system call."""
_LENGTH_BYTES = UINT32.size
_PACKET_OVERHEAD_BYTES = 1024
"""Beside the data: header, padding and tag are far less."""


class Duplex(Protocol):
    """What paramiko needs of a socket: one, or a channel of another connection (ProxyJump)."""

    def recv(self, size: int, /) -> bytes: ...
    def send(self, data: bytes, /) -> int: ...
    def close(self) -> None: ...
    def settimeout(self, timeout: float | None, /) -> None: ...


class WatchedSocket:
    """The socket under a transport: notes when it hears something, and gives up when nothing can be sent.

    paramiko repeats a send that timed out for ever; here it fails once the server took nothing for `deadline` seconds.
    One thread receives at a time.
    """

    def __init__(self, inner: Duplex, deadline: float, liveness: Liveness) -> None:
        self._inner = inner
        self._socket = inner if isinstance(inner, socket.socket) else None
        self._liveness = liveness
        self._deadline = deadline
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))
        self._start = self._end = 0
        """Where in the buffer what has arrived begins and ends."""
        self._poll = poll()
        self._closed = False
        """paramiko looks at this name of Python's own sockets."""
        if self._socket is not None:
            self._poll.register(self._socket, POLLIN)
            self._socket.settimeout(None)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            set_timeout(self._socket, socket.SO_RCVTIMEO, TICK_SECONDS)
            set_timeout(self._socket, socket.SO_SNDTIMEO, deadline)
        else:
            inner.settimeout(TICK_SECONDS)

    def recv(self, size: int) -> bytes:
        """paramiko asks for the first block of a packet, then for its rest: mostly one system call gets both."""
        if self._start == self._end:
            self._receive_more(TICK_SECONDS)
        start = self._start
        self._start = min(start + size, self._end)
        return bytes(self._buffer[start : self._start])

    def packet(self, tag_bytes: int, timeout: float) -> memoryview:
        """The next packet of a cipher that leaves its length readable, with the length and the tag (RFC 5647).

        Valid until the next call. TimeoutError if it is not there in full within about `timeout` seconds, or
        TICK_SECONDS if that is less, and nothing is lost; EOFError at the end. SSHException if it is too long.
        """
        give_up_at = time.monotonic() + timeout
        while True:
            size = self._packet_size(tag_bytes)
            if size:
                start = self._start
                self._start = start + size
                return self._buffer[start : self._start]
            if not self._receive_more(timeout):
                raise EOFError
            timeout = give_up_at - time.monotonic()

    def has_packet(self, tag_bytes: int) -> bool:
        """Whether packet() would return, or raise an error, at once."""
        return bool(self._packet_size(tag_bytes)) or (self._socket is not None and bool(self._poll.poll(0)))

    def _packet_size(self, tag_bytes: int) -> int:
        """Of the packet that has arrived in full, or 0."""
        count = self._end - self._start
        if count < _LENGTH_BYTES:
            return 0
        size: int = _LENGTH_BYTES + UINT32.unpack_from(self._buffer, self._start)[0] + tag_bytes
        if size > MAX_PACKET_BYTES + _PACKET_OVERHEAD_BYTES:
            raise paramiko.SSHException(f"the server sent a packet of {size} bytes")
        return size if size <= count else 0

    def _receive_more(self, timeout: float) -> int:
        """What has arrived goes behind what is there; the count. TimeoutError if it is none."""
        if self._start == self._end:
            self._start = self._end = 0
        elif _BUFFER_BYTES - self._end < _ROOM_BYTES:
            rest = self._end - self._start
            self._buffer[:rest] = self._buffer[self._start : self._end]
            self._start, self._end = 0, rest
        room = self._buffer[self._end :]
        if self._socket is None:
            self._inner.settimeout(max(0.001, min(timeout, TICK_SECONDS)))
            data = self._inner.recv(len(room))
            count = len(data)
            room[:count] = data
        else:
            count = receive_into(self._socket, self._poll, room, timeout)
        self._end += count
        self._liveness.heard()
        return count

    def send(self, data: bytes) -> int:
        give_up_at = time.monotonic() + self._deadline
        while True:
            try:
                return self._inner.send(data)
            except (BlockingIOError, TimeoutError):
                if self._socket is not None or time.monotonic() > give_up_at:
                    raise ConnectionAbortedError("the server takes no data any more") from None

    def settimeout(self, timeout: float | None) -> None:
        """paramiko's own choice would cost a poll(2) a transfer; __init__ has set what is right here."""

    def close(self) -> None:
        """Also wakes the thread that receives, which close(2) alone does not."""
        self._closed = True
        with suppress(OSError, EOFError, paramiko.SSHException):  # the other side, or the host between, was faster
            if self._socket is not None:
                self._socket.shutdown(socket.SHUT_RDWR)
            else:
                self._inner.close()
        if self._socket is not None:
            self._socket.close()
