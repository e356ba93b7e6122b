"""The capabilities of files (capabilities(7)), which the kernel takes from any file that is written; and the like."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from netoverlay.backend_api import AttributeChange, BackendFile
from netoverlay.overlay.whiteouts import value_or_none

CAPABILITY: Final = "security.capability"


def capability_of(file: BackendFile) -> bytes | None:
    """What has to be set again after a write that is to take none; None if the file has no capabilities."""
    return value_or_none(lambda: file.get_xattr(CAPABILITY))


@contextmanager
def attributes_kept(file: BackendFile) -> Iterator[None]:
    """What is written inside is no change for a program: mode, times and capabilities stay."""
    stat = file.stat()
    capability = capability_of(file)
    try:
        yield
    finally:
        file.set_attributes(AttributeChange(mode=stat.mode, atime_ns=stat.atime_ns, mtime_ns=stat.mtime_ns))
        if capability is not None:
            file.set_xattr(CAPABILITY, capability)
