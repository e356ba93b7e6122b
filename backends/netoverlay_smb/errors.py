"""What an SMB server refuses, and the errors of the seam for it; connection_errors.py translates all else."""

from __future__ import annotations

import errno

from smbprotocol.exceptions import SMBConnectionClosed

from netoverlay.backend_api import NotSupportedError, UnavailableError, os_error
from netoverlay_smb.status import CONNECTION_LOST, ERRNO, NOT_SUPPORTED, Status


class StatusError(Exception):
    """The server refused a request; translated by status_error(), where the circumstances are known."""

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(describe_status(status))


def describe_status(status: int) -> str:
    """As "STATUS_ACCESS_DENIED", for those that we know."""
    name = _NAMES.get(status)
    return f"STATUS_{name}" if name else f"status {status:#010x}"


_NAMES = {int(status): status.name for status in Status}


def status_error(error: StatusError, path: str | None, operation: str) -> OSError:
    """The OSError that the status alone tells. Where it tells too little, diagnosis.py asks the server more."""
    status = error.status
    if status in NOT_SUPPORTED:
        return NotSupportedError(operation)
    if status in CONNECTION_LOST:
        return UnavailableError(f"the server has ended the session: {error}")
    code = ERRNO.get(Status(status)) if status in _NAMES else None
    if code is None:
        return OSError(errno.EIO, f"the server refuses: {error}", path)
    return os_error(code, path)


def describe(error: BaseException) -> str:
    """One phrase for a person about a lost connection. It holds nothing secret: no exception here carries a secret."""
    if isinstance(error, TimeoutError | BlockingIOError):
        return "the server did not answer in time"
    if isinstance(error, EOFError | SMBConnectionClosed):
        return "the server closed the connection"
    return f"the connection was lost: {error.strerror if isinstance(error, OSError) and error.strerror else error}"
