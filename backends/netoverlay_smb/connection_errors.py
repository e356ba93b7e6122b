"""The one translator of what smbprotocol, logging in, and sockets raise into the errors of the seam."""

from __future__ import annotations

import enum
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from smbprotocol.exceptions import (
    SMBAuthenticationError,
    SMBException,
    SMBResponseException,
    SMBUnsupportedFeature,
)
from spnego.exceptions import FeatureMissingError, SpnegoError

from netoverlay.backend_api import LayerSetupError, UnavailableError
from netoverlay_smb.errors import StatusError, describe, describe_status
from netoverlay_smb.protocol import ProtocolError
from netoverlay_smb.status import CONNECTION_LOST, Status


class Stage(enum.Enum):
    """How far connecting had come: the same refusal means another thing at each."""

    LOGIN = "login"
    SHARE = "share"


# What will not get better by trying again, until somebody changes something; with the remedy, where there is one.
_REFUSALS = {
    (Stage.LOGIN, Status.LOGON_FAILURE): "the login was refused: is the user, the password and the domain right?",
    (Stage.LOGIN, Status.WRONG_PASSWORD): "the login was refused: the password is wrong",
    (Stage.LOGIN, Status.ACCESS_DENIED): "the login was refused: does the server know this user, or does it demand an"
    " encryption that its own version of SMB has not?",
    (Stage.LOGIN, Status.INVALID_PARAMETER): "the server takes no such login: try another value of auth",
    (Stage.LOGIN, Status.BAD_TOKEN_TYPE): "the server takes no such Kerberos ticket (a PAC it does not expect, say)",
    (Stage.LOGIN, Status.NOT_SUPPORTED): "the server speaks no version of SMB that we do (2.1 to 3.1.1)",
    (Stage.SHARE, Status.ACCESS_DENIED): "access to the share is denied: may this user reach it? Or set encrypt = true,"
    " which some shares demand",
    (Stage.SHARE, Status.BAD_NETWORK_NAME): "there is no such share on this server",
    (Stage.SHARE, Status.NOT_FOUND): "there is no such share on this server",
}
_LOGON_STATUSES = range(0xC000_006A, 0xC000_0074)
"""STATUS_WRONG_PASSWORD to STATUS_ACCOUNT_DISABLED and their kind (MS-ERREF 2.3.1)."""
_MORE_LOGON_STATUSES = frozenset({0xC000_015B, 0xC000_0193, 0xC000_0224, 0xC000_0234, 0xC000_0413})
"""STATUS_LOGON_TYPE_NOT_GRANTED, _ACCOUNT_EXPIRED, _PASSWORD_MUST_CHANGE, _ACCOUNT_LOCKED_OUT and
_AUTHENTICATION_FIREWALL_FAILED: trying these again locks accounts."""
_KNOWN = frozenset(map(int, Status))


@contextmanager
def peer_errors() -> Iterator[None]:
    """Around calls of smbprotocol: whatever a malformed message causes there is a ProtocolError."""
    try:
        yield
    except (SMBException, SpnegoError, FeatureMissingError, ProtocolError, OSError, EOFError):
        raise
    except Exception as error:
        raise ProtocolError(f"the server sent what makes no sense ({type(error).__name__}: {error})") from error


def connection_error(error: Exception, server: str, stage: Stage) -> OSError:
    """The error of the seam for what `error` says of reaching `server` (host and share, for the message)."""
    if isinstance(error, UnavailableError | LayerSetupError):
        return error
    if isinstance(error, SMBResponseException | StatusError):
        return _response_error(error.status, server, stage)
    for kinds, make, phrase in _CONNECTION_ERRORS:
        if isinstance(error, kinds):
            return make(f"{server}: {phrase.format(error=error, lost=describe(error))}")
    raise error


_CONNECTION_ERRORS: tuple[tuple[tuple[type[Exception], ...], type[UnavailableError | LayerSetupError], str], ...] = (
    ((socket.gaierror,), UnavailableError, "the host name cannot be resolved: {error.strerror}"),
    ((ConnectionRefusedError,), UnavailableError, "the connection was refused; does an SMB server listen there?"),
    ((SMBAuthenticationError, SpnegoError), LayerSetupError, "the login is not possible: {error}"),
    ((FeatureMissingError,), LayerSetupError, "something is not installed here: {error}"),
    ((SMBUnsupportedFeature,), LayerSetupError, "the server lacks what is needed: {error}"),
    ((SMBException, ProtocolError, EOFError, OSError), UnavailableError, "{lost}"),
)
"""The first that fits: what will not get better by itself, and what may."""


def _response_error(status: int, server: str, stage: Stage) -> OSError:
    if status in _KNOWN and (refusal := _REFUSALS.get((stage, Status(status)))):
        return LayerSetupError(f"{server}: {refusal}")
    if status in _LOGON_STATUSES or status in _MORE_LOGON_STATUSES:
        return LayerSetupError(f"{server}: the login was refused ({describe_status(status)}): is the account usable?")
    if status in CONNECTION_LOST:
        return UnavailableError(f"{server}: the server has ended the session ({describe_status(status)})")
    return UnavailableError(f"{server}: the server refuses: {describe_status(status)}")
