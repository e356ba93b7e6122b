"""Which listings are in memory, and for how long they count.

The lock of all listings (listings.py) is held for everything here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from cachetools import LRUCache

from netoverlay.backend_api.types import FileStat, LayerPath
from netoverlay.cache.listing import Listing, Unpacked


def _size(listing: Listing) -> int:
    return listing.size + 1


class ListingMemory:
    """At most `max_entries` names; the directories that were used least recently go first."""

    def __init__(self, ttl: float | None, max_entries: int, keeps_expired: Callable[[], bool]) -> None:
        """As Listings has them."""
        self.ttl = math.inf if ttl is None else ttl
        """Seconds that a listing counts."""
        self._keeps_expired = keeps_expired
        self.unpacked = Unpacked()
        self._listings: LRUCache[LayerPath, Listing] = LRUCache(max_entries, getsizeof=_size)

    def get(self, path: LayerPath) -> Listing | None:
        """The listing of `path`, however old it is."""
        listing: Listing | None = self._listings.get(path)
        return listing

    def fresh(self, path: LayerPath) -> Listing | None:
        """The listing of `path`, if it counts."""
        listing: Listing | None = self._listings.get(path)
        # One that is too old stays: it may yet be all that there is.
        return None if listing is None or self.is_expired(listing) else listing

    def is_expired(self, listing: Listing) -> bool:
        """Whether it is too old to count."""
        return listing.expires <= time.monotonic() and not self._keeps_expired()

    def opened(self, listing: Listing) -> dict[str, FileStat | None]:
        """The entries of a listing, which is used now."""
        self.unpacked.use(listing)
        return listing.entries()

    def keep(self, path: LayerPath, listing: Listing) -> None:
        """The listing of `path` from now on. It may have grown since it was kept."""
        self.drop(path)
        if _size(listing) <= self._listings.maxsize:
            self._listings[path] = listing
            self.unpacked.add(listing)
        else:
            listing.version += 1

    def drop(self, path: LayerPath) -> None:
        """Keep none of `path`."""
        listing = self._listings.pop(path, None)
        if listing is not None:
            self.unpacked.drop(listing)

    def drop_tree(self, path: LayerPath) -> None:
        """Keep none of `path`, and of what is below it."""
        prefix = f"{path}/"
        for known in [known for known in self._listings if known == path or known.startswith(prefix)]:
            self.drop(known)

    def clear(self) -> None:
        """Keep none."""
        self._listings.clear()

    def names_only(self) -> list[tuple[LayerPath, Listing]]:
        """Those that were fetched without all attributes."""
        return [(path, listing) for path, listing in self._listings.items() if listing.has_names_only]
