"""The listings of a layer's directories on disk, those of the directories beside each other in one file.

A walk after a remount reads them all, and from a disk that has yet to look for each file it does not get more than a
few thousand a second. So the first that is asked for brings those beside it, which wait in memory until they are.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Final

from netoverlay.backend_api.types import NAME_ENCODING, NAME_ERRORS, LayerPath, split_path
from netoverlay.cache.disk_store import DiskStore
from netoverlay.cache.kept_listing import FORMAT
from netoverlay.cache.packs import Packs
from netoverlay.cache.recent import RecentContents

PACKED_LISTING: Final = 16 << 10
"""Bytes of the largest that is kept so: some 250 names."""
_AT_HAND_BYTES: Final = 4 << 20
_MAX_PLACES: Final = 20_000


class PackedListings:
    """Those of one edition of the layer `identity`, of one `kind`; thread-safe.

    `renews`: they are kept again and again, so that those beside each other begin anew when they take too much room.
    """

    def __init__(self, store: DiskStore, identity: str, kind: str, edition: bytes, *, renews: bool) -> None:
        self._renews = renews
        self._packs = Packs(store, identity, (kind, FORMAT, edition.hex()), _MAX_PLACES)
        self._at_hand: RecentContents[tuple[LayerPath, bytes]] = RecentContents(_AT_HAND_BYTES)

    def get(self, path: LayerPath) -> bytes | None:
        """The bytes of the listing of `path`."""
        parent, name = _place(path)
        data = self._at_hand.take((parent, name))
        if data is None:
            data = self._packs.find(parent, name, lambda beside, found: self._at_hand.put((parent, beside), found))
            self._at_hand.take((parent, name))
        return data

    def put(self, listings: Iterable[tuple[LayerPath, bytes]]) -> list[tuple[LayerPath, bytes]]:
        """Keep the bytes of listings, those beside each other in one write; the others, for which there is no place."""
        packed: defaultdict[LayerPath, dict[bytes, bytes]] = defaultdict(dict)
        sizes: Counter[LayerPath] = Counter()
        others = []
        for path, data in listings:
            parent, name = _place(path)
            if self._renews and not self._packs.room(parent):
                self._packs.drop(parent)
            if len(data) <= PACKED_LISTING and sizes[parent] < self._packs.room(parent):
                packed[parent][name] = data
                sizes[parent] += len(data)
            else:
                others.append((path, data))
        for parent, beside in packed.items():
            self._packs.put(parent, beside)
        return others


def _place(path: LayerPath) -> tuple[LayerPath, bytes]:
    """The root is beside the directories in it, under no name."""
    parent, name = split_path(path)
    return parent, name.encode(NAME_ENCODING, NAME_ERRORS)
