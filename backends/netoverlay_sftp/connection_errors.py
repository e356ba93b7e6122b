"""The one translator of what SSH and sockets raise into the errors of the seam."""

from __future__ import annotations

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

from netoverlay.backend_api import LayerSetupError, UnavailableError
from netoverlay_sftp.errors import describe
from netoverlay_sftp.protocol import ProtocolError

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
