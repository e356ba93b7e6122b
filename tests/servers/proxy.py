"""A TCP proxy on loopback that cuts connections, goes silent, or adds delay, for servers that die or hang.

with Proxy(server.port) as proxy:
    ... connect to proxy.port ...
    proxy.silence()     # nothing passes any more; new connections are accepted and hear nothing
    proxy.cut()         # every connection is reset
    proxy.cut_in_reply()  # likewise, as soon as a part of what the server says next has passed
    proxy.restore()
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import socket
import struct
import threading
import time
from types import TracebackType
from typing import Self

CHUNK_BYTES = 1 << 18
PART_SECONDS = 0.02
"""After which a part of a reply has arrived."""
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, zero seconds: close() sends RST
_NO_ADDRESS = struct.pack("=H14x", socket.AF_UNSPEC)
_libc = ctypes.CDLL(None, use_errno=True)


class Proxy:
    """Forwards 127.0.0.1:`port` to 127.0.0.1:`target_port`. `delay` is added in each direction, in seconds."""

    def __init__(self, target_port: int, *, delay: float = 0.0) -> None:
        self.delay = delay
        self._target_port = target_port
        self._flowing = threading.Event()
        self._flowing.set()
        self._refusing = False
        self._cuts_next_reply = False
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self.accepted = 0
        self.cuts = 0
        """How often connections were cut."""
        self.passed = 0
        """Bytes, in both directions."""
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, name="proxy-accept", daemon=True).start()

    def silence(self) -> None:
        """Hold back everything from now on, without closing anything."""
        self._flowing.clear()

    def cut(self) -> None:
        """Reset every connection."""
        with self._lock:
            sockets = list(self._sockets)
            self._sockets.clear()
            self.cuts += bool(sockets)
        for end in sockets:
            _reset(end)

    def cut_in_reply(self) -> None:
        """Reset every connection when a half of the next that a server sends has passed."""
        self._cuts_next_reply = True

    def refuse(self) -> None:
        """Reset new connections at once, too, until restore()."""
        self._refusing = True
        self.cut()

    def restore(self) -> None:
        """Pass everything again, what was held back first."""
        self._refusing = self._cuts_next_reply = False
        self._flowing.set()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._flowing.set()
        self.cut()

    def descriptors(self) -> list[int]:
        """Of its connections, both ends."""
        with self._lock:
            return [end.fileno() for end in self._sockets]

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            if self._refusing:
                _reset(client)
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._target_port))
            except OSError:
                client.close()
                continue
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:  # from here on they may be cut
                self._sockets |= {client, server}
            for source, target in ((client, server), (server, client)):
                self._pump(source, target, is_server=source is server)

    def _pump(self, source: socket.socket, target: socket.socket, *, is_server: bool) -> None:
        chunks: queue.Queue[tuple[float, bytes]] = queue.Queue(maxsize=256)
        receiving, sending = (source, chunks, is_server), (target, source, chunks)
        threading.Thread(target=self._receive, args=receiving, name="proxy-receive", daemon=True).start()
        threading.Thread(target=self._send, args=sending, name="proxy-send", daemon=True).start()

    def _receive(self, source: socket.socket, chunks: queue.Queue[tuple[float, bytes]], is_server: bool) -> None:
        while True:
            self._flowing.wait()
            try:
                data = source.recv(CHUNK_BYTES)
            except OSError:
                data = b""
            if is_server and self._cuts_next_reply and data:
                self._cuts_next_reply = False
                chunks.put((0.0, data[: len(data) // 2]))
                time.sleep(PART_SECONDS)
                self.cut()
                data = b""
            with self._lock:
                self.passed += len(data)
            chunks.put((time.monotonic() + self.delay, data))
            if not data:
                return

    def _send(self, target: socket.socket, source: socket.socket, chunks: queue.Queue[tuple[float, bytes]]) -> None:
        broken = False
        while True:
            due, data = chunks.get()
            time.sleep(max(0.0, due - time.monotonic()))
            self._flowing.wait()
            if not data:
                break
            if broken:
                continue
            try:
                target.sendall(data)
            except OSError:
                broken = True
                with contextlib.suppress(OSError):
                    source.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._sockets -= {target, source}
        for end in (target, source):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _reset(end: socket.socket) -> None:
    """Close it, and have the peer told by RST at once.

    close() alone tells it only when no process has the socket any more. One that is being started has all of ours until
    its program runs; and it may be waiting, in chdir(2) to a mount, for the very server that this connection leads to.
    """
    with contextlib.suppress(OSError):  # it may be closed by its pump already
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        end.shutdown(socket.SHUT_RD)  # who receives returns
        if _libc.connect(end.fileno(), _NO_ADDRESS, len(_NO_ADDRESS)):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    end.close()
