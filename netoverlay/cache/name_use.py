"""What is looked for of the directories whose names are known and attributes are not: a few names, or all.

The lock of all listings (listings.py) is held for everything here.
"""

from __future__ import annotations

from collections import deque

from netoverlay.cache.listing import Listing

ASKED_SINGLY = 2
"""Names of a directory whose attributes are asked for one by one, before all are fetched; in a large one more."""
_LARGE = 64
"""Names for each one that is asked for by itself."""
MANY = 3
"""Names looked for in a directory, from which on a program is taken to want all that is in it."""
_RECENT = 4
"""Directories that tell what the next will be wanted for."""


class NameUse:
    """What is looked for, over all directories."""

    def __init__(self) -> None:
        self._recent: deque[Listing] = deque(maxlen=_RECENT)
        """Those that were looked into last, of which each is here once."""

    def looked_for(self, listing: Listing, name: str) -> None:
        """Somebody looks for `name` in `listing`."""
        if listing.last_name == name:
            return
        listing.last_name = name
        listing.names_used += 1
        if listing.names_used == 1:
            self._recent.append(listing)

    def are_many_wanted(self) -> bool:
        """Whether half of the last directories were looked into for many names, so that the next may well be, too."""
        return 2 * sum(listing.names_used >= MANY for listing in self._recent) >= _RECENT

    def wants_whole(self, listing: Listing) -> bool:
        """A name of `listing` has to be asked for: whether all should be."""
        if not listing.has_names_only:
            return False
        listing.asked += 1
        return listing.asked > max(0 if self.are_many_wanted() else ASKED_SINGLY, listing.size // _LARGE)
