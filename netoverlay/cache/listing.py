"""One directory's listing in memory, and which of all listings are ready to be looked into.

A listing that was not used for some time is packed into bytes, where a name takes a tenth, and unpacked at its next
use. The lock of all listings (listings.py) is held for everything here.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict

from netoverlay.backend_api.types import FileStat, FileType, NamedEntry
from netoverlay.cache.kept_listing import Extras, decode_entries, encode_entries

MOST_UNPACKED = 30_000
"""Names in listings that are ready to be looked into."""


class Listing:
    """The entries of one directory; None instead of attributes that must be asked for."""

    __slots__ = (
        "__weakref__",
        "_entries",
        "_packed",
        "_size",
        "ahead",
        "asked",
        "born",
        "expires",
        "extras",
        "is_kept",
        "last_name",
        "names_used",
        "untold_directories",
        "version",
    )

    def __init__(self, entries: dict[str, FileStat | None], expires: float, born: int) -> None:
        self._entries = entries
        self._packed: bytes | None = None
        self._size = 0
        """Of the entries, while they are packed."""
        self.extras = Extras.none()
        self.expires = expires
        """On the monotonic clock."""
        self.born = born
        """The count of changes when the fetch began."""
        self.version = 0
        """The count of names forgotten here."""
        self.ahead = False
        """Fetched before anybody asked, and not used yet."""
        self.untold_directories: tuple[str, ...] | None = None
        """Those whose attributes were left out when it was fetched; None if none were, of whatever type."""
        self.is_kept = False
        """It came from disk."""
        self.asked = 0
        """How many attributes that were left out had to be asked for."""
        self.last_name: str | None = None
        """That somebody looked for."""
        self.names_used = 0
        """How often it was another than before."""

    @property
    def size(self) -> int:
        """How many names there are."""
        return self._size if self._packed is not None else len(self._entries)

    @property
    def has_names_only(self) -> bool:
        """Whether attributes were left out when it was fetched."""
        return self.untold_directories is not None

    @property
    def is_packed(self) -> bool:
        """Whether entries() has to unpack it."""
        return self._packed is not None

    def entries(self) -> dict[str, FileStat | None]:
        """What there is, to be looked into and changed."""
        if self._packed is not None:
            self._entries, self._packed = decode_entries(self._packed), None
        return self._entries

    def named_entries(self) -> list[NamedEntry]:
        """What there is, with the types of those whose attributes were left out when it was fetched."""
        directories = frozenset(self.untold_directories or ())
        return [NamedEntry(name, _type(name, stat, directories), stat) for name, stat in self.entries().items()]

    def pack(self) -> None:
        """Make it small until entries() is called."""
        if self._packed is None:
            try:
                self._packed = encode_entries(self._entries)
            except OverflowError:
                return  # a server may tell of times in the year 20000, which have no place in the bytes
            self._size = len(self._entries)
            self._entries = {}


def _type(name: str, stat: FileStat | None, directories: frozenset[str]) -> FileType:
    if stat is not None:
        return stat.type
    return FileType.DIRECTORY if name in directories else FileType.REGULAR


class Unpacked:
    """The listings that are ready to be looked into: about as many as have `most` names, the others are packed.

    The one that was used least recently goes. One that another has replaced is not kept from going.

    A listing counts at most half of `most`: one that is larger than that would have to go for each small one that is
    looked into, and come back in between. So there are `most` names at most, and those of two listings of any size,
    which are some of those that are in memory at all (ListingMemory).
    """

    def __init__(self, most: int = MOST_UNPACKED) -> None:
        self._most = most
        self._sizes: OrderedDict[weakref.ref[Listing], int] = OrderedDict()
        """Of each the names that count; the one that was used last at the end."""
        self._names = 0

    def use(self, listing: Listing) -> None:
        """`listing` is about to be looked into."""
        reference = weakref.ref(listing)
        if reference in self._sizes:
            self._sizes.move_to_end(reference)
        elif listing.is_packed:
            self.add(listing)  # else it is none of those that are kept, and never packed

    def add(self, listing: Listing) -> None:
        """`listing` has come, or has grown."""
        reference = weakref.ref(listing)
        size = min(listing.size + 1, self._most // 2)
        self._names += size - self._sizes.pop(reference, 0)
        self._sizes[reference] = size
        while self._names > self._most and len(self._sizes) > 1:
            oldest, size = self._sizes.popitem(last=False)
            self._names -= size
            unused = oldest()
            if unused is not None:
                unused.pack()

    def drop(self, listing: Listing) -> None:
        """`listing` is not kept any more."""
        self._names -= self._sizes.pop(weakref.ref(listing), 0)
