"""The one table of what the kernel is answered for errors of the overlay."""

from __future__ import annotations

import errno
from typing import Final

from netoverlay.backend_api import LayerSetupError, NotSupportedError, StaleHandleError, UnavailableError

ERRNO_OF: Final[tuple[tuple[type[OSError], int], ...]] = (
    (NotSupportedError, errno.EOPNOTSUPP),
    (StaleHandleError, errno.ESTALE),
    # After the mount was made, a refused login is no answer to a question about permissions.
    (LayerSetupError, errno.EIO),
    (InterruptedError, errno.EINTR),
    (UnavailableError, errno.EIO),
)
"""What the kernel is told for errors that are kinds of their own. Others are told as they are."""

_NEVER_TOLD: Final = {errno.ENOSYS: errno.EOPNOTSUPP, errno.ENOTCONN: errno.EIO}
"""Codes that must not reach the kernel: ENOSYS switches the operation off for the whole mount, ENOTCONN is what a dead
mount says."""


def errno_of(error: OSError) -> int:
    """What the kernel is answered for an error of the overlay."""
    for kind, code in ERRNO_OF:
        if isinstance(error, kind):
            return code
    code = error.errno or errno.EIO
    return _NEVER_TOLD.get(code, code)
