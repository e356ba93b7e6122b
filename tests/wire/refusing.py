"""A file system that refuses everything, for tests to override what they need."""

from __future__ import annotations

import errno
import os

from netoverlay.fuse.operations import Operations
from netoverlay.fuse.replies import Reply
from netoverlay.fuse.requests import RequestHeader


def _refuse(self: Operations, request: RequestHeader, body: object) -> Reply:
    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


RefusingOperations: type[Operations] = type(
    "RefusingOperations", (Operations,), dict.fromkeys(Operations.__abstractmethods__, _refuse)
)
