"""Attribute changes as SFTP can carry them: in pairs, and in an order that gives what was asked for."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator

from netoverlay.backend_api import AttributeChange, NotSupportedError, os_error
from netoverlay_sftp.protocol import MAX_TIME, Attributes

_NANOSECONDS = 1_000_000_000


def _seconds(nanoseconds: int) -> int:
    """Rounded down, as file systems do. EINVAL outside of 1970 to 2106, which SFTP cannot tell."""
    seconds = nanoseconds // _NANOSECONDS
    if not 0 <= seconds <= MAX_TIME:
        raise os_error(errno.EINVAL)
    return seconds


def steps(change: AttributeChange, current: Callable[[], Attributes]) -> Iterator[Attributes]:
    """What to send, one after the other: the owner alone first, since a change of owner clears set-id bits.

    Owner and group, and the two times, go together only; where one of a pair is to stay, `current` tells it.
    NotSupportedError if it does not.
    """
    atime = None if change.atime_ns is None else _seconds(change.atime_ns)
    mtime = None if change.mtime_ns is None else _seconds(change.mtime_ns)
    uid, gid = change.uid, change.gid
    if (uid is None) != (gid is None) or (atime is None) != (mtime is None):
        now = current()
        if uid is not None or gid is not None:
            uid, gid = (now.uid if uid is None else uid), (now.gid if gid is None else gid)
        if atime is not None or mtime is not None:
            atime, mtime = (now.atime if atime is None else atime), (now.mtime if mtime is None else mtime)
        if (uid is None) != (gid is None) or (atime is None) != (mtime is None):
            raise NotSupportedError("set_attributes: the server does not tell the other one of a pair")
    if uid is not None:
        yield Attributes(uid=uid, gid=gid)
    if change.mode is not None or mtime is not None:
        yield Attributes(permissions=change.mode, atime=atime, mtime=mtime)
