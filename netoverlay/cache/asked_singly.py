"""Directories that are not listed for the sake of one name.

The lock of all listings (listings.py) is held for everything here.
"""

from __future__ import annotations

import math
import time

from cachetools import LRUCache

from netoverlay.backend_api.types import LayerPath

HUGE_DIRECTORY = 8192
"""Entries from which on a directory whose listing is no longer kept is not listed again for that."""
_MOST = 1024
"""Directories of each kind that are remembered."""
_SECONDS = 10.0


class AskedSingly:
    """Those that had HUGE_DIRECTORY entries or more when they were last listed, or whose listing did not end, or that
    will be told soon again to have changed."""

    def __init__(self) -> None:
        self._huge: LRUCache[LayerPath, None] = LRUCache(_MOST)
        self._changed: LRUCache[LayerPath, float] = LRUCache(_MOST)
        """When a directory was told to have changed, on the monotonic clock."""

    def __contains__(self, path: LayerPath) -> bool:
        return path in self._huge or self._changed.get(path, -math.inf) > time.monotonic() - _SECONDS

    def listed(self, path: LayerPath, size: int) -> None:
        """The listing of `path` has so many entries."""
        if size >= HUGE_DIRECTORY:
            self._huge[path] = None

    def endless(self, path: LayerPath) -> None:
        """The listing of `path` did not end."""
        self._huge[path] = None

    def changed(self, path: LayerPath) -> None:
        """Others may have changed the names in `path`."""
        self._changed[path] = time.monotonic()
