"""The journal, read whole: the tree that it tells of, up to where a crash has torn it, or a refusal."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import NamedTuple

from netoverlay.backend_api import LayerPath, LayerSetupError
from netoverlay.wrappers.sidecar import records

PIECE_BYTES = 256 << 10
"""Written at once, and the most that a crash can leave half-written."""


class ForeignJournalError(LayerSetupError):
    """Another version has written the journal (EINVAL)."""

    def __init__(self, path: LayerPath, error: records.UnknownVersionError) -> None:
        super().__init__(f"{path} was written by another version of netoverlay: {error}", errno.EINVAL)


class DamagedJournalError(LayerSetupError):
    """More of the journal cannot be read than a crash can have left (EINVAL)."""

    def __init__(self, path: LayerPath, end: int) -> None:
        super().__init__(f"{path} is damaged from byte {end} on: restore it, or cut it off there", errno.EINVAL)


class Read(NamedTuple):
    """A journal that was read."""

    loader: records.Loader
    end: int
    """Where what can be read of it ends, in bytes."""


def read_journal(data: bytes, path: LayerPath) -> Read:
    """What `data`, the journal at `path`, says. ForeignJournalError, DamagedJournalError."""
    loader: Callable[[bytes], None]
    loading = records.Loader()
    end = 0
    loader = loading.header
    while (newline := data.find(b"\n", end)) >= 0:
        try:
            loader(data[end:newline])
        except records.UnknownVersionError as error:
            raise ForeignJournalError(path, error) from None
        except records.UNREADABLE:
            break
        end = newline + 1
        loader = loading.line
    if len(data) - end > PIECE_BYTES or (end == 0 and b"\n" in data):
        raise DamagedJournalError(path, end)
    return Read(loading, end)
