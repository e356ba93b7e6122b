"""One directory's listing in memory, and which of all listings are ready to be looked into.

A listing that was not used for some time is packed into bytes, where a name takes a tenth, and unpacked at its next
use. The lock of all listings (listings.py) is held for everything here.
"""

from __future__ import annotations

import weakref
from collections import deque

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
        "queued",
        "untold_directories",
        "used",
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
        self.queued = False
        """It is among the unpacked ones."""
        self.used = False
        """Since they have last considered it."""

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

    A clock: the oldest goes, unless it was used since it was last considered. One that another has replaced is not kept
    from going.
    """

    def __init__(self, most: int = MOST_UNPACKED) -> None:
        self._most = most
        self._queue: deque[tuple[weakref.ref[Listing], int]] = deque()
        self._names = 0

    def add(self, listing: Listing) -> None:
        """`listing` has come, or is about to be unpacked. Harmless if it is there already."""
        if listing.queued:
            return
        self._append(listing)
        while self._names > self._most and len(self._queue) > 1:
            reference, size = self._queue.popleft()
            self._names -= size
            oldest = reference()
            if oldest is None:
                continue
            oldest.queued = False
            if oldest.used:
                oldest.used = False
                self._append(oldest)
            else:
                oldest.pack()

    def _append(self, listing: Listing) -> None:
        # As large as it is now: what it grows by is counted when it comes round.
        size = listing.size + 1
        listing.queued = True
        self._queue.append((weakref.ref(listing), size))
        self._names += size
