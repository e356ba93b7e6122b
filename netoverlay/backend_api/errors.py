"""The errors of the seam: OSError with errno set, and the few kinds that a caller treats differently.

A backend translates every exception of its libraries, in one place, into OSError or one of these.
"""

from __future__ import annotations

import errno
import os


class UnavailableError(OSError):
    """The layer could not be reached, or did not answer in time. The only error after which a retry makes sense.

    Nothing is known about the file: it must never be taken for absent.
    """

    def __init__(self, message: str, code: int = errno.EIO) -> None:
        super().__init__(code, message)


class LayerClosedError(UnavailableError):
    """The layer was closed, and will not be there again."""

    def __init__(self) -> None:
        super().__init__("the layer is closed")


class InterruptedWaitError(UnavailableError, InterruptedError):
    """The request was interrupted while it waited for the layer (EINTR). Whether the layer did what it was asked is not
    known, as with every UnavailableError; but there is nobody for whom to try again."""

    def __init__(self) -> None:
        super().__init__("a signal came while the layer was waited for", errno.EINTR)


class StaleHandleError(OSError):
    """The open file is no longer the one that was opened (ESTALE)."""

    def __init__(self, message: str) -> None:
        super().__init__(errno.ESTALE, message)


class EndlessListingError(OSError):
    """A directory whose listing does not end, or not within what is read of one (listing_limits.py)."""

    def __init__(self, code: int, directory: str, problem: str) -> None:
        super().__init__(code, problem, directory)


class NotSupportedError(OSError):
    """The transport has no such operation (EOPNOTSUPP)."""

    def __init__(self, operation: str) -> None:
        super().__init__(errno.EOPNOTSUPP, f"{operation} is not supported by this backend")


class LayerSetupError(OSError):
    """connect() cannot succeed until somebody changes something: a refused login, an unknown host key, no such root.

    The message is one sentence for a person: what was refused, and the remedy. It never holds a secret.
    """

    def __init__(self, message: str, code: int = errno.EACCES) -> None:
        super().__init__(code, message)


def os_error(code: int, path: str | None = None) -> OSError:
    """The OSError of `code` (an errno value), as the fitting subclass, with the system's message."""
    return OSError(code, os.strerror(code), path)
