"""transport = "paramiko": an SSH channel of paramiko's as a byte stream, without what makes it slow.

paramiko never sets TCP_NODELAY, polls before every transfer, and copies what a channel received through an array twice.
It lets each of these be replaced: the socket and the channel's in_buffer are duck-typed.
"""

from __future__ import annotations

import logging
import queue
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Protocol

import paramiko
from paramiko.buffered_pipe import BufferedPipe, PipeTimeout
from paramiko.common import cMSG_GLOBAL_REQUEST

from netoverlay.backend_api import LayerSetupError, Readable
from netoverlay.backend_api.leadership import TICK_SECONDS
from netoverlay_sftp.connection_errors import connection_error, peer_errors
from netoverlay_sftp.streams import ByteStream, Liveness, SshConnection, set_timeout

WINDOW_BYTES = 64 << 20
"""What the server may send ahead in one channel, and so the most that is buffered here."""
MAX_PACKET_BYTES = 256 << 10
_PACKET_OVERHEAD_BYTES = 64
"""What paramiko leaves free in a packet of the size that the server takes."""
_READ_AHEAD_BYTES = 64 << 10
_IDLE_SECONDS = 0.5
"""How often the transport's thread, when it hears nothing, looks whether it is to end or to renew its keys."""
_KEEPALIVE = "keepalive@openssh.com"
"""No server knows it, and all must say so (RFC 4254, section 4): OpenSSH's own way to ask for a sign of life."""
LOG_CHANNEL = "netoverlay_sftp.paramiko"

# What paramiko logs as an error, it also raises; without a handler Python would print it with its traceback.
logging.getLogger(LOG_CHANNEL).setLevel(logging.CRITICAL)


class Duplex(Protocol):
    """What paramiko needs of a socket: one, or a channel of another connection (ProxyJump)."""

    def recv(self, size: int, /) -> bytes: ...
    def send(self, data: bytes, /) -> int: ...
    def close(self) -> None: ...
    def settimeout(self, timeout: float | None, /) -> None: ...


class WatchedSocket:
    """The socket under a transport: notes when it hears something, and gives up when nothing can be sent.

    paramiko repeats a send that timed out for ever; here it fails once the server took nothing for `deadline` seconds.
    """

    def __init__(self, inner: Duplex, deadline: float, liveness: Liveness) -> None:
        self._inner = inner
        self._liveness = liveness
        self._deadline = deadline
        self._read_ahead = b""
        self._start = 0
        self._closed = False
        """paramiko looks at this name of Python's own sockets."""
        if isinstance(inner, socket.socket):
            inner.settimeout(None)
            inner.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            set_timeout(inner, socket.SO_RCVTIMEO, _IDLE_SECONDS)
            set_timeout(inner, socket.SO_SNDTIMEO, deadline)
        else:
            inner.settimeout(_IDLE_SECONDS)

    def recv(self, size: int) -> bytes:
        """paramiko asks for the first block of a packet, then for its rest: mostly one system call gets both."""
        start = self._start
        if start >= len(self._read_ahead):
            self._read_ahead = self._receive(max(size, _READ_AHEAD_BYTES))
            start = 0
        self._start = start + size
        return self._read_ahead[start : start + size]

    def _receive(self, size: int) -> bytes:
        try:
            data = self._inner.recv(size)
        except BlockingIOError:
            raise TimeoutError from None
        self._liveness.heard()
        return data

    def send(self, data: bytes) -> int:
        give_up_at = time.monotonic() + self._deadline
        while True:
            try:
                return self._inner.send(data)
            except (BlockingIOError, TimeoutError):
                if isinstance(self._inner, socket.socket) or time.monotonic() > give_up_at:
                    raise ConnectionAbortedError("the server takes no data any more") from None

    def settimeout(self, timeout: float | None) -> None:
        """paramiko's own choice would cost a poll(2) a transfer; __init__ has set what is right here."""

    def close(self) -> None:
        """Also wakes the thread that is in recv(), which close(2) alone does not."""
        self._closed = True
        with suppress(OSError, EOFError, paramiko.SSHException):  # the other side, or the host between, was faster
            if isinstance(self._inner, socket.socket):
                self._inner.shutdown(socket.SHUT_RDWR)
            else:
                self._inner.close()
        if isinstance(self._inner, socket.socket):
            self._inner.close()


def open_transport(wire: WatchedSocket) -> paramiko.Transport:
    """A transport over `wire`, which paramiko's documentation allows and its type stubs do not."""
    return paramiko.Transport(wire)  # type: ignore[arg-type]  # see above


class _ChunkPipe(BufferedPipe):  # type: ignore[type-arg]  # generic in the type stubs only
    """A channel's in_buffer that hands out what was put in, uncopied. One thread feeds, and one reads.

    The reader is woken once all that it needs is there, not for every packet: each switch between the two costs as much
    as a packet.
    """

    def __init__(self) -> None:
        super().__init__()
        self.patience = 0.0
        """How long the next read() waits, in seconds: the channel's own timeout is for sending."""
        self.wanted = 1
        """How many bytes the next read() waits for."""
        self._mutex = threading.Lock()
        self._chunks: deque[bytes] = deque()
        self._available = 0
        self._ended = False
        self._waiting = False
        self._signal: queue.SimpleQueue[None] = queue.SimpleQueue()

    def feed(self, data: bytes | str) -> None:
        chunk = data if isinstance(data, bytes) else data.encode()
        with self._mutex:
            self._chunks.append(chunk)
            self._available += len(chunk)
            wake = self._waiting and self._available >= self.wanted
            if wake:
                self._waiting = False
        if wake:
            self._signal.put(None)

    def read(self, nbytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002  (what a channel calls)
        """One chunk, whatever `nbytes` says, when `wanted` bytes have come or time is up; b"" at the end."""
        with self._mutex:
            self._waiting = wait = self._available < self.wanted and not self._ended
        if wait:
            try:
                self._signal.get(timeout=self.patience)
            except queue.Empty:
                with self._mutex:
                    missed, self._waiting = not self._waiting, False
                if missed:  # the signal came just now, and must not be taken for the next one
                    self._signal.get()
        with self._mutex:
            if self._chunks:
                chunk = self._chunks.popleft()
                self._available -= len(chunk)
                return chunk
            if self._ended:
                return b""
        raise PipeTimeout

    def close(self) -> None:
        with self._mutex:
            self._ended = True
            wake, self._waiting = self._waiting, False
        if wake:
            self._signal.put(None)

    def __len__(self) -> int:
        return self._available


def _take(parts: list[memoryview], limit: int) -> tuple[bytes, list[memoryview]]:
    """The first `limit` bytes, and what remains."""
    taken: list[memoryview] = []
    for index, part in enumerate(parts):
        taken.append(part[:limit])
        if len(part) > limit:
            return b"".join(taken), [part[limit:], *parts[index + 1 :]]
        limit -= len(part)
    return b"".join(taken), []


class ParamikoStream(ByteStream):
    """A channel."""

    def __init__(self, liveness: Liveness, channel: paramiko.Channel, connection: ParamikoConnection) -> None:
        super().__init__(liveness, connection.server)
        self._channel = channel
        self._connection = connection
        self._pipe = _ChunkPipe()
        self._rest = memoryview(b"")
        channel.in_buffer = self._pipe

    def receive(self, timeout: float) -> memoryview:
        return self._receive(1, timeout)

    def receive_into(self, target: memoryview, timeout: float) -> int:
        chunk = self._receive(len(target), timeout)
        count = min(len(chunk), len(target))
        target[:count] = chunk[:count]
        self._rest = chunk[count:]
        return count

    def _receive(self, wanted: int, timeout: float) -> memoryview:
        rest, self._rest = self._rest, memoryview(b"")
        if rest:
            return rest
        self._pipe.wanted = wanted
        self._pipe.patience = max(0.0, min(timeout, TICK_SECONDS))
        return memoryview(self._channel.recv(WINDOW_BYTES))

    def send(self, parts: Sequence[Readable]) -> None:
        # In pieces that fill a packet each: Channel.sendall() copies all of the rest after every packet.
        limit = self._channel.out_max_packet_size - _PACKET_OVERHEAD_BYTES
        rest = [memoryview(part) for part in parts]
        while rest:
            piece, rest = _take(rest, limit)
            while piece:
                count = self._channel.send(piece)
                if not count:
                    raise EOFError
                piece = piece[count:]

    def probe(self) -> None:
        self._connection.probe()

    def close(self) -> None:
        self._pipe.close()
        self._channel.close()

    def abort(self) -> None:
        self._connection.abort()
        self._pipe.close()


class ParamikoConnection(SshConnection):
    """Logged-in transports: the last one to the server, those before it to the hosts on the way (ProxyJump)."""

    def __init__(
        self, transports: Sequence[paramiko.Transport], liveness: Liveness, deadline: float, server: str
    ) -> None:
        self._transports = list(transports)
        self._transport = self._transports[-1]
        self._liveness = liveness
        self._deadline = deadline
        self.server = server
        self._aborted = False

    @property
    def lost(self) -> bool:
        return self._aborted or not self._transport.is_active()

    def open_stream(self) -> ByteStream:
        try:
            with close_after(self._deadline, self._transport), peer_errors():
                channel = self._transport.open_session(WINDOW_BYTES, MAX_PACKET_BYTES, timeout=self._deadline)
                channel.settimeout(self._deadline)
                stream = ParamikoStream(self._liveness, channel, self)
                channel.invoke_subsystem("sftp")
        except Exception as error:
            if isinstance(error, paramiko.SSHException) and self._transport.is_active():
                raise LayerSetupError(
                    f"{self.server}: the server refuses SFTP ({error}): the account or the server must allow the "
                    "subsystem sftp (sshd_config: Subsystem sftp internal-sftp)"
                ) from error
            raise connection_error(error, self.server) from error
        return stream

    def refusal(self, error: Exception) -> OSError:
        return connection_error(error, self.server)

    def probe(self) -> None:
        """Ask the server for a sign of life."""
        message = paramiko.Message()
        message.add_byte(cMSG_GLOBAL_REQUEST)
        message.add_string(_KEEPALIVE)
        message.add_boolean(True)
        # Transport.global_request() would either ask for no reply, or wait for it without end.
        self._transport._send_user_message(message)  # type: ignore[attr-defined]  # noqa: SLF001  (as said above)

    def abort(self) -> None:
        self._aborted = True
        for transport in self._transports:
            transport.packetizer.close()

    def close(self) -> None:
        self.abort()
        for transport in reversed(self._transports):
            transport.close()
            if threading.current_thread() is not transport:
                transport.join(self._deadline)


@contextmanager
def close_after(seconds: float, transport: paramiko.Transport) -> Iterator[None]:
    """Abort `transport` unless the block ends in time: some of paramiko's calls wait without end."""
    timer = threading.Timer(seconds, transport.packetizer.close)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
