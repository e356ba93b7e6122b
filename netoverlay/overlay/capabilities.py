"""The capabilities of files (capabilities(7)): the kernel takes them from any file that is written to."""

from __future__ import annotations

from typing import Final

from netoverlay.backend_api import BackendFile
from netoverlay.overlay.whiteouts import value_or_none

CAPABILITY: Final = "security.capability"


def capability_of(file: BackendFile) -> bytes | None:
    """What has to be set again after a write that is to take none; None if the file has no capabilities."""
    return value_or_none(lambda: file.get_xattr(CAPABILITY))
