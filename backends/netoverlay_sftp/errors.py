"""The one translator: whatever SSH, SFTP and sockets raise becomes the errors of the seam."""

from __future__ import annotations

import errno
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import paramiko
from paramiko.ber import BERException
from paramiko.buffered_pipe import PipeTimeout
from paramiko.hostkeys import InvalidHostKey
from paramiko.packet import NeedRekeyException
from paramiko.pkey import UnknownKeyType
from paramiko.sftp import SFTPError
from paramiko.ssh_exception import IncompatiblePeer

from netoverlay.backend_api import LayerSetupError, NotSupportedError, UnavailableError, os_error
from netoverlay_sftp.protocol import ProtocolError, StatusCode

MAX_NAME_BYTES = 255


class StatusError(Exception):
    """The server refused a request with a STATUS; translated by status_error(), where the circumstances are known."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{message or 'no message'} (SFTP status {code})")
        self.code = code


_LINUX_PATH_MAX = 4096
"""With the NUL."""
_STATUS_ERRNO = {
    StatusCode.NO_SUCH_FILE: errno.ENOENT,
    StatusCode.PERMISSION_DENIED: errno.EACCES,
    StatusCode.FAILURE: errno.EIO,
    StatusCode.BAD_MESSAGE: errno.EINVAL,
}


def status_error(error: StatusError, path: str, operation: str) -> OSError:
    """The OSError that the code alone tells. Where it tells too little, diagnosis.py asks the server more."""
    if error.code == StatusCode.OP_UNSUPPORTED:
        return NotSupportedError(operation)
    if error.code in (StatusCode.NO_CONNECTION, StatusCode.CONNECTION_LOST):
        return UnavailableError(f"the server lost its connection: {error}")
    code = _STATUS_ERRNO.get(StatusCode(error.code) if error.code in _KNOWN_CODES else StatusCode.FAILURE, errno.EIO)
    if code == errno.EINVAL and _is_long(path.encode(errors="surrogateescape")):
        code = errno.ENAMETOOLONG
    return os_error(code, path)


def _is_long(path: bytes) -> bool:
    return len(path) >= _LINUX_PATH_MAX or any(len(part) > MAX_NAME_BYTES for part in path.split(b"/"))


_KNOWN_CODES = frozenset(int(code) for code in StatusCode)

# What will not get better by trying again, until somebody changes something.
_SETUP_ERRORS: tuple[type[Exception], ...] = (
    paramiko.AuthenticationException,
    paramiko.BadHostKeyException,
    paramiko.ConfigParseError,
    IncompatiblePeer,
    paramiko.ProxyCommandFailure,
    BERException,
    InvalidHostKey,
    UnknownKeyType,
)
# The connection, or the way to it, is not there now.
_CONNECTION_ERRORS: tuple[type[Exception], ...] = (
    paramiko.SSHException,
    NeedRekeyException,
    PipeTimeout,
    SFTPError,
    ProtocolError,
    EOFError,
    OSError,
    subprocess.SubprocessError,
)


def describe(error: BaseException) -> str:
    """One phrase for a person about a lost connection. It holds nothing secret: no exception here carries a secret."""
    if isinstance(error, TimeoutError | PipeTimeout):
        return "the server did not answer in time"
    if isinstance(error, EOFError) and not str(error):
        return "the server closed the connection"
    return f"the connection was lost: {error.strerror if isinstance(error, OSError) and error.strerror else error}"


@contextmanager
def peer_errors() -> Iterator[None]:
    """Around calls of paramiko that raise what its own thread met: what a malformed packet causes there, which may be a
    ValueError, a struct.error or cryptography's InvalidTag, becomes an SSHException."""
    try:
        yield
    except (*_SETUP_ERRORS, *_CONNECTION_ERRORS):
        raise
    except Exception as error:
        raise paramiko.SSHException(f"the server sent what makes no sense ({type(error).__name__}: {error})") from error


def connection_error(error: Exception, server: str) -> OSError:
    """The error of the seam for what `error` says of reaching `server` (user, host and port, for the message)."""
    if isinstance(error, UnavailableError | LayerSetupError):
        return error
    if isinstance(error, socket.gaierror):
        return UnavailableError(f"{server}: the host name cannot be resolved: {error.strerror}")
    if isinstance(error, ConnectionRefusedError):
        return UnavailableError(f"{server}: the connection was refused; does an SSH server listen there?")
    if isinstance(error, _SETUP_ERRORS):
        return LayerSetupError(f"{server}: {error}")
    if isinstance(error, _CONNECTION_ERRORS):
        return UnavailableError(f"{server}: {describe(error)}")
    raise error
