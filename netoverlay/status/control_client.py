"""Ask the daemon of a mount on its control socket."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from typing import Literal, NamedTuple

import msgspec

from netoverlay.status.snapshot import StatusSnapshot
from netoverlay.status.sockets import (
    SUFFIX,
    connect,
    directories_of,
    locked,
    open_directory,
    peer_of,
    remove_if_stale,
    socket_name,
)

ANSWER_SECONDS = 10.0
MAX_REPLY_BYTES = 4 << 20
Command = Literal["status", "settle"]


class DaemonError(OSError):
    """The daemon of a mount cannot be asked: it is gone, or does not answer."""


class Answer(NamedTuple):
    """What a daemon said."""

    pid: int
    """Its process, as the kernel knows it."""
    snapshot: StatusSnapshot


def daemon_pid(mountpoint: str, user_id: int) -> int | None:
    """The process that serves the mount of a user at `mountpoint`; None if there is none any more."""
    for directory, name in _sockets(user_id, socket_name(mountpoint)):
        connection = _connect(directory, name)
        if connection is not None:
            with connection:
                return _trusted_pid(connection, user_id)
    return None


def ask(mountpoint: str, user_id: int, command: Command = "status") -> Answer:
    """The state of the mount of a user at `mountpoint`, once `command` was heard. DaemonError."""
    for directory, name in _sockets(user_id, socket_name(mountpoint)):
        connection = _connect(directory, name)
        if connection is not None:
            with connection:
                return _ask(connection, user_id, command)
    raise DaemonError(f"{mountpoint}: its daemon is gone")


def ask_all(user_id: int) -> Iterator[Answer]:
    """The state of every mount that a user's daemons serve; those that do not answer are left out."""
    for directory, name in _sockets(user_id):
        connection = _connect(directory, name)
        if connection is not None:
            with connection, contextlib.suppress(DaemonError):
                yield _ask(connection, user_id)


def _sockets(user_id: int, wanted: str | None = None) -> Iterator[tuple[int, str]]:
    """(descriptor of the directory, name) of the user's sockets, all or those of one name.

    A directory that somebody else could have written to counts as empty: nobody serves a mount from there.
    """
    for path in directories_of(user_id):
        with contextlib.suppress(FileNotFoundError, PermissionError), open_directory(path, user_id) as directory:
            for name in sorted(os.listdir(directory)):
                if name.endswith(SUFFIX) and wanted in (None, name):
                    yield directory, name


def _connect(directory: int, name: str) -> socket.socket | None:
    try:
        return connect(directory, name, ANSWER_SECONDS)
    except FileNotFoundError:
        return None
    except ConnectionRefusedError:
        # Or it is a socket that does not listen yet: its daemon holds the lock until it does.
        with locked(directory):
            remove_if_stale(directory, name, ANSWER_SECONDS)
        return None


def _trusted_pid(connection: socket.socket, user_id: int) -> int:
    pid, peer = peer_of(connection)
    if peer != user_id:
        raise DaemonError(f"the control socket of user {user_id} is served by user {peer}")
    return pid


def _ask(connection: socket.socket, user_id: int, command: Command = "status") -> Answer:
    pid = _trusted_pid(connection, user_id)
    try:
        connection.sendall(json.dumps({"command": command}).encode() + b"\n")
        reply = json.loads(_receive_all(connection))
        return Answer(pid, msgspec.convert(reply["status"], StatusSnapshot))
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise DaemonError(f"process {pid}, which serves the mount, does not answer: {error}") from error


def _receive_all(connection: socket.socket) -> bytes:
    give_up_at = time.monotonic() + ANSWER_SECONDS
    received = bytearray()
    while len(received) <= MAX_REPLY_BYTES:
        connection.settimeout(max(give_up_at - time.monotonic(), 0.001))
        data = connection.recv(1 << 16)
        if not data:
            return bytes(received)
        received += data
    raise OSError("the answer is too long")
