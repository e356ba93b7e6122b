"""transport = "paramiko": an SSH channel of paramiko's as a byte stream, without what makes it slow.

paramiko never sets TCP_NODELAY, polls before every transfer, and copies what a channel received through an array twice.
It lets each of these be replaced: the socket and the channel's in_buffer are duck-typed, the packetizer is a class.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import paramiko
from paramiko.common import cMSG_GLOBAL_REQUEST

from netoverlay.backend_api import LayerSetupError, Readable
from netoverlay.backend_api.leadership import TICK_SECONDS
from netoverlay_sftp.connection_errors import connection_error, peer_errors
from netoverlay_sftp.inbox import Inbox
from netoverlay_sftp.shared_packets import SharedPacketizer
from netoverlay_sftp.streams import ByteStream, Liveness, SshConnection
from netoverlay_sftp.watched_socket import MAX_PACKET_BYTES, WatchedSocket

WINDOW_BYTES = 64 << 20
"""What the server may send ahead in one channel, and so the most that is buffered here."""
_PACKET_OVERHEAD_BYTES = 64
"""What paramiko leaves free in a packet of the size that the server takes."""
_KEEPALIVE = "keepalive@openssh.com"
"""No server knows it, and all must say so (RFC 4254, section 4): OpenSSH's own way to ask for a sign of life."""
LOG_CHANNEL = "netoverlay_sftp.paramiko"

# What paramiko logs as an error, it also raises; without a handler Python would print it with its traceback.
logging.getLogger(LOG_CHANNEL).setLevel(logging.CRITICAL)


def open_transport(wire: WatchedSocket) -> paramiko.Transport:
    """A transport over `wire`, which paramiko's documentation allows and its type stubs do not."""
    return paramiko.Transport(wire, packetizer_class=SharedPacketizer)  # type: ignore[arg-type]  # see above


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
        self._packets = connection.packets
        self._inbox = Inbox()
        self._rest = memoryview(b"")
        channel.in_buffer = self._inbox
        self._packets.register(channel, self._inbox)

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
        try:
            self._packets.await_data(self._inbox, wanted, max(0.0, min(timeout, TICK_SECONDS)))
        except TimeoutError:
            if not self._inbox:  # some of it has come
                raise
        return memoryview(self._channel.recv(WINDOW_BYTES))

    def send(self, parts: Sequence[Readable]) -> None:
        # In pieces that fill a packet each: Channel.sendall() copies all of the rest after every packet.
        limit = self._channel.out_max_packet_size - _PACKET_OVERHEAD_BYTES
        rest = [memoryview(part) for part in parts]
        while rest:
            piece, rest = _take(rest, limit)
            while piece:
                count = self._send(piece)
                if not count:
                    raise EOFError
                piece = piece[count:]

    def _send(self, piece: bytes) -> int:
        if self._channel.out_window_size >= len(piece):
            return self._channel.send(piece)
        with self._packets.attended():  # it is the server's word that the window is wide again
            return self._channel.send(piece)

    def probe(self) -> None:
        self._connection.probe()

    def close(self) -> None:
        self._inbox.close()
        self._channel.close()

    def abort(self) -> None:
        self._connection.abort()
        self._inbox.close()


class ParamikoConnection(SshConnection):
    """Logged-in transports: the last one to the server, those before it to the hosts on the way (ProxyJump)."""

    def __init__(
        self, transports: Sequence[paramiko.Transport], liveness: Liveness, deadline: float, server: str
    ) -> None:
        self._transports = list(transports)
        self._transport = self._transports[-1]
        self.packets = cast(SharedPacketizer, self._transport.packetizer)
        self.packets.lend()
        self._liveness = liveness
        self._deadline = deadline
        self.server = server
        self._aborted = False

    @property
    def lost(self) -> bool:
        return self._aborted or not self._transport.is_active()

    def open_stream(self) -> ByteStream:
        try:
            with close_after(self._deadline, self._transport), peer_errors(), self.packets.attended():
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
