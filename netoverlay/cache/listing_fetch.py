"""What is under way: the fetch of a directory, and the question for one name of it.

The lock of all listings (listings.py) is held for everything here.
"""

from __future__ import annotations

import time
from concurrent.futures import Future

from netoverlay.backend_api.types import LayerPath
from netoverlay.cache.listing import Listing


class Fetch:
    """One list_dir() under way. `result` is what all who need it wait for."""

    __slots__ = ("ahead", "began", "born", "forgotten", "path", "result", "stale")

    def __init__(self, path: LayerPath, born: int, *, ahead: bool) -> None:
        self.path = path
        self.born = born
        self.began = time.monotonic()
        self.ahead = ahead
        self.forgotten: set[str] = set()
        self.stale = False
        self.result: Future[Listing] = Future()


class Mark:
    """Where a listing stood before its transport was asked for one name, to see afterwards whether it still does."""

    __slots__ = ("listing", "version")

    def __init__(self, listing: Listing) -> None:
        self.listing = listing
        self.version = listing.version
