"""Where the control sockets of mounts lie: one for each mount, in a directory that only its user can enter."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import socket
import stat
import struct
from collections.abc import Iterator

from netoverlay.backend_api.errors import os_error

SYSTEM_DIRECTORY = "/run/netoverlay"
SUFFIX = ".sock"
_CREDENTIALS = struct.Struct("3i")
"""struct ucred of unix(7): pid, uid, gid."""


def socket_name(mountpoint: str) -> str:
    """The file name of the socket for the mount at `mountpoint`, which is absolute and free of symbolic links."""
    return hashlib.sha256(os.fsencode(mountpoint)).hexdigest()[:24] + SUFFIX


def directories_of(user_id: int) -> list[str]:
    """Where the sockets of a user's mounts can lie, the preferred place first."""
    # Root of a user name space may not write there, and has places as a user has.
    system = [SYSTEM_DIRECTORY] if user_id == 0 else []
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    own = [f"{runtime}/netoverlay"] if user_id == os.geteuid() and _is_private_directory(runtime, user_id) else []
    return list(dict.fromkeys([*system, *own, f"/run/user/{user_id}/netoverlay", f"/tmp/netoverlay-{user_id}"]))


@contextlib.contextmanager
def open_directory(path: str, user_id: int, *, create: bool = False) -> Iterator[int]:
    """A descriptor of a directory of sockets.

    FileNotFoundError if it is not there, or cannot be made; PermissionError if somebody else than `user_id` could have
    put a socket there.
    """
    if create:
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if status.st_uid != user_id or stat.S_IMODE(status.st_mode) & 0o077:
            message = f"must belong to user {user_id} with mode 0700, for it holds control sockets"
            raise PermissionError(errno.EACCES, message, path)
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(directory: int) -> Iterator[None]:
    """Hold off all who would add or remove sockets in a directory (its descriptor)."""
    fcntl.flock(directory, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(directory, fcntl.LOCK_UN)


def address(directory: int, name: str) -> str:
    """A path of the socket for bind() and connect(), which take no more than 107 bytes."""
    return f"/proc/self/fd/{directory}/{name}"


def connect(directory: int, name: str, timeout: float) -> socket.socket:
    """A connection to a socket that a daemon listens on. ConnectionRefusedError: it is dead; FileNotFoundError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout)
        connection.connect(address(directory, name))
    except BaseException:
        connection.close()
        raise
    return connection


def remove_if_stale(directory: int, name: str, timeout: float) -> bool:
    """Remove the socket of a daemon that is gone; whether there is none (any more). Call while it is locked()."""
    try:
        connect(directory, name, timeout).close()
    except FileNotFoundError:
        return True
    except ConnectionRefusedError:
        os.unlink(name, dir_fd=directory)
        return True
    except TimeoutError:
        return False
    return False


def peer_of(connection: socket.socket) -> tuple[int, int]:
    """The process and the user at the other end: who connected, or who called listen()."""
    pid, user_id, _ = _CREDENTIALS.unpack(
        connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    )
    return pid, user_id


def usable_directory() -> str:
    """Where this process puts the sockets of its mounts. ENOENT if there is no place for them."""
    user_id = os.geteuid()
    for path in directories_of(user_id):
        if os.path.isdir(os.path.dirname(path)) and os.access(os.path.dirname(path), os.W_OK):
            return path
    raise os_error(errno.ENOENT, directories_of(user_id)[0])


def _is_private_directory(path: str, user_id: int) -> bool:
    return os.path.isabs(path) and os.path.isdir(path) and os.stat(path).st_uid == user_id
