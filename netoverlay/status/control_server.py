"""Answer questions about a mount on its control socket.

One line of JSON in, one line out, then the end of the connection:

    {"command": "status"}  ->  {"status": {...}} or {"error": "..."}
    {"command": "settle"}  ->  the same, once it has begun

Only the user who serves the mount and root are answered. A client that is slow or silent costs a thread for
CLIENT_SECONDS, and there are never more than MAX_CLIENTS.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable

from netoverlay.status.snapshot import StatusSnapshot, to_json
from netoverlay.status.sockets import (
    address,
    locked,
    open_directory,
    peer_of,
    remove_if_stale,
    socket_name,
    usable_directory,
)

CLIENT_SECONDS = 5.0
MAX_CLIENTS = 16
MAX_REQUEST_BYTES = 4096
_LOGGER = logging.getLogger(__name__)


class ControlServer:
    """The control socket of one mount."""

    def __init__(
        self, mountpoint: str, snapshot: Callable[[], StatusSnapshot], settle: Callable[[], object] = int
    ) -> None:
        """`mountpoint` is absolute and free of symbolic links; the other two are called on threads of the server."""
        self._name = socket_name(mountpoint)
        self._mountpoint = mountpoint
        self._snapshot = snapshot
        self._settle = settle
        self._directory = usable_directory()
        self._slots = threading.BoundedSemaphore(MAX_CLIENTS)
        self._listener: socket.socket | None = None
        self._thread = threading.Thread(target=self._accept, name="control", daemon=True)

    def start(self) -> None:
        """Listen, and answer on threads of its own. OSError; EBUSY if another daemon serves the same mountpoint."""
        user_id = os.geteuid()
        with open_directory(self._directory, user_id, create=True) as directory, locked(directory):
            if not remove_if_stale(directory, self._name, CLIENT_SECONDS):
                raise OSError(errno.EBUSY, "another daemon of netoverlay still serves it", self._mountpoint)
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                listener.bind(address(directory, self._name))
                listener.listen(MAX_CLIENTS)
            except BaseException:
                listener.close()
                raise
        self._listener = listener
        self._thread.start()

    def stop(self) -> None:
        """Answer no more, and remove the socket. Nothing if it was not started, or was stopped."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        try:
            # Who tidies /tmp may have removed it before.
            with (
                contextlib.suppress(FileNotFoundError),
                open_directory(self._directory, os.geteuid()) as directory,
                locked(directory),
            ):
                os.unlink(self._name, dir_fd=directory)
        finally:
            listener.shutdown(socket.SHUT_RDWR)  # wakes accept(), which close() would not
            self._thread.join()
            listener.close()

    def _accept(self) -> None:
        listener = self._listener
        while listener is not None and self._listener is listener:
            try:
                connection, _ = listener.accept()
            except OSError as error:
                if self._listener is listener:
                    _LOGGER.error("the control socket fails: %s", error)
                return
            if not self._slots.acquire(blocking=False):
                connection.close()
                continue
            threading.Thread(target=self._serve, args=(connection,), name="control-client", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                _, user_id = peer_of(connection)
                if user_id not in (os.geteuid(), 0):
                    _LOGGER.warning("user %d is refused on the control socket", user_id)
                    return
                reply = self._answer(_receive_line(connection))
                connection.settimeout(CLIENT_SECONDS)
                connection.sendall(reply.encode() + b"\n")
        except OSError as error:
            _LOGGER.debug("a client of the control socket: %s", error)
        finally:
            self._slots.release()

    def _answer(self, line: bytes) -> str:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            return json.dumps({"error": "not a line of JSON"})
        if request not in ({"command": "status"}, {"command": "settle"}):
            return json.dumps({"error": 'the requests are {"command": "status"} and {"command": "settle"}'})
        try:
            if request["command"] == "settle":
                self._settle()
            return f'{{"status": {to_json(self._snapshot())}}}'
        except Exception:
            _LOGGER.exception("the status cannot be told")
            return json.dumps({"error": "the status cannot be told; the daemon's log says why"})


def _receive_line(connection: socket.socket) -> bytes:
    """What the client sends up to the first line end. TimeoutError if that takes longer than CLIENT_SECONDS."""
    give_up_at = time.monotonic() + CLIENT_SECONDS
    line = bytearray()
    while not line.endswith(b"\n") and len(line) < MAX_REQUEST_BYTES:
        connection.settimeout(max(give_up_at - time.monotonic(), 0.001))
        data = connection.recv(MAX_REQUEST_BYTES)
        if not data:
            break
        line += data
    return bytes(line)
