"""The byte streams that SFTP is spoken over, and the SSH connections that carry them."""

from __future__ import annotations

import abc
import socket
import struct
import time
from collections.abc import Sequence

from netoverlay.backend_api import Readable


class Liveness:
    """When a connection last heard anything from its server; shared by all of its streams."""

    __slots__ = ("heard_at",)

    def __init__(self) -> None:
        self.heard_at = time.monotonic()

    def heard(self) -> None:
        """Something came from the server."""
        self.heard_at = time.monotonic()

    def silence(self) -> float:
        """Seconds since then."""
        return time.monotonic() - self.heard_at


class ByteStream(abc.ABC):
    """Both directions of one channel. One thread receives at a time, and one sends.

    Every method raises an exception that errors.py knows when the connection is lost, at once in all threads.
    """

    def __init__(self, liveness: Liveness, server: str) -> None:
        self.liveness = liveness
        self.server = server

    @abc.abstractmethod
    def receive(self, timeout: float) -> memoryview:
        """What has arrived, as much as is at hand; empty at the end of the stream. Valid until the next call.

        TimeoutError if nothing came within `timeout` seconds, or TICK_SECONDS if that is less.
        """

    @abc.abstractmethod
    def receive_into(self, target: memoryview, timeout: float) -> int:
        """As receive(), but into `target`; the count, 0 at the end."""

    @abc.abstractmethod
    def send(self, parts: Sequence[Readable]) -> None:
        """Send all of them. An exception if the server takes nothing for the connection's deadline."""

    @abc.abstractmethod
    def probe(self) -> None:
        """Ask the server for a sign of life, if the transport can; the answer shows in `liveness`."""

    @abc.abstractmethod
    def close(self) -> None:
        """End this stream alone. Never waits for the server."""

    @abc.abstractmethod
    def abort(self) -> None:
        """Break the whole connection: threads that wait in other methods return or raise. Never waits itself."""


class SshConnection(abc.ABC):
    """A login at a server, which carries any number of SFTP streams."""

    server: str
    """User, host and port, for messages."""

    @property
    @abc.abstractmethod
    def lost(self) -> bool:
        """Whether it is known to be of no use any more; asked before every call, so that it must be quick."""

    @abc.abstractmethod
    def open_stream(self) -> ByteStream:
        """Start the SFTP subsystem in a channel. UnavailableError, or LayerSetupError if the server has none."""

    @abc.abstractmethod
    def refusal(self, error: Exception) -> OSError:
        """The error of the seam for `error`, which starting SFTP on a stream of this connection raised."""

    @abc.abstractmethod
    def abort(self) -> None:
        """Break it, from any thread, without waiting."""

    @abc.abstractmethod
    def close(self) -> None:
        """Release everything. Closing twice is harmless."""


def set_timeout(connected: socket.socket, option: int, seconds: float) -> None:
    """SO_RCVTIMEO or SO_SNDTIMEO (socket(7)), after which the call gives BlockingIOError.

    Unlike settimeout(), which has Python call poll(2) before every transfer, they cost nothing.
    """
    connected.setsockopt(socket.SOL_SOCKET, option, struct.pack("@ll", int(seconds), int(seconds % 1 * 1_000_000)))
