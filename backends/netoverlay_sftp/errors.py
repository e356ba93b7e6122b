"""What an SFTP server refuses, and the errors of the seam for it; connection_errors.py translates all else."""

from __future__ import annotations

import errno

from netoverlay.backend_api import NotSupportedError, UnavailableError, os_error
from netoverlay_sftp.protocol import StatusCode

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


def describe(error: BaseException) -> str:
    """One phrase for a person about a lost connection. It holds nothing secret: no exception here carries a secret."""
    from paramiko.buffered_pipe import PipeTimeout  # noqa: PLC0415  (a mount that needs no server starts without it)

    if isinstance(error, TimeoutError | PipeTimeout):
        return "the server did not answer in time"
    if isinstance(error, EOFError) and not str(error):
        return "the server closed the connection"
    return f"the connection was lost: {error.strerror if isinstance(error, OSError) and error.strerror else error}"
