"""Small contents on disk, those of a directory together: made, found and read as one file and not as hundreds.

A directory has a row of packs. What was fetched together is added to the first that has room, in one write; once all
are full one of them is given up. What is in them is read pack by pack, and is remembered by place: a later look reads
what was added since, by whichever process.
"""

from __future__ import annotations

import random
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from netoverlay.backend_api.types import NAME_ENCODING, NAME_ERRORS, FileVersion, LayerPath
from netoverlay.cache.disk_store import DiskStore
from netoverlay.cache.keys import layer_key
from netoverlay.cache.records import DamagedError, Extent, content_at, header, places

PACKED_FILE = 64 << 10
"""Bytes of the largest content that is kept in a pack."""
PACK_BYTES = 2 << 20
"""A pack that has so many is full."""
MAX_PACKS = 64
MAX_PLACES = 200_000
"""Contents whose places are remembered."""


def member_name(name: str, version: FileVersion) -> bytes:
    """What a content of the file `name` is called in the packs of its directory."""
    size, mtime_ns, file_id = version
    return f"{name}\0{size}\0{mtime_ns}\0{file_id}".encode(NAME_ENCODING, NAME_ERRORS)


@dataclass(slots=True)
class _Pack:
    """What is known of one."""

    extent: Extent
    """As far as it was looked at."""
    places: dict[bytes, Extent] = field(default_factory=dict)

    @property
    def is_full(self) -> bool:
        return self.extent.end >= PACK_BYTES


class Packs:
    """The packs of the layer `identity`; thread-safe. What is damaged is dropped, and so not found.

    `kind`: what the packs hold, which tells them from others of the layer. `max_places`: as MAX_PLACES.
    """

    def __init__(
        self, store: DiskStore, identity: str, kind: tuple[str | int, ...] = ("pack",), max_places: int = MAX_PLACES
    ) -> None:
        self._store = store
        self._identity = identity
        self._kind = kind
        self._max_places = max_places
        self._lock = threading.Lock()
        self._known: OrderedDict[str, _Pack] = OrderedDict()
        self._place_count = 0

    def get(self, directory: LayerPath, member: bytes) -> bytes | None:
        """One content, if look() has found it."""
        for key in self._keys(directory):
            pack = self._pack(key)
            if pack is None:
                return None
            place = pack.places.get(member)
            if place is not None:
                found = self._read(key, place, member)
                if found is None:  # it has been replaced, or is damaged
                    self._forget(key)
                    for _ in self.look(directory):
                        pass
                return found
        return None

    def has(self, directory: LayerPath, member: bytes) -> bool:
        """Whether look() or put() knows of it."""
        for key in self._keys(directory):
            pack = self._pack(key)
            if pack is None:
                return False
            if member in pack.places:
                return True
        return False

    def find(self, directory: LayerPath, member: bytes, keep: Callable[[bytes, bytes], object]) -> bytes | None:
        """One content. If that takes a look, `keep` is called with each that it finds, and what that is called."""
        content = self.get(directory, member)
        if content is not None:
            return content
        for name, found in self.look(directory):
            keep(name, found)
            if name == member:
                content = found
        # Another thread may have found it meanwhile.
        return self.get(directory, member) if content is None else content

    def room(self, directory: LayerPath) -> int:
        """How many bytes there are until the first pack is full; as far as look() and put() know."""
        pack = self._pack(self._key(directory, 0))
        return PACK_BYTES if pack is None else max(PACK_BYTES - pack.extent.end, 0)

    def expect(self, directory: LayerPath) -> bool:
        """Have the disk read what find() will, without waiting for that; False if nothing will be read."""
        key = self._key(directory, 0)
        return self._pack(key) is None and self._store.expect(key)

    def drop(self, directory: LayerPath) -> None:
        """Remove the first pack of a directory."""
        key = self._key(directory, 0)
        self._store.drop(key)
        self._forget(key)

    def look(self, directory: LayerPath) -> Iterator[tuple[bytes, bytes]]:
        """The contents, with what they are called, that others have added since the last look."""
        for key in self._keys(directory):
            pack = self._pack(key)
            found = self._store.read_beyond(key, pack.extent if pack else None)
            if found is None:
                self._forget(key)
                return
            extent, data = found
            try:
                yield from self._learn(key, pack, extent, data)
            except DamagedError:
                self._forget(key)
                if extent.start:  # it may have been replaced by one with the same inode number
                    yield from self.look(directory)
                else:
                    self._store.drop(key)
                return
            if extent.end < PACK_BYTES:
                return

    def put(self, directory: LayerPath, contents: Mapping[bytes, bytes]) -> bool:
        """Keep contents, by what they are called; False if that is not possible."""
        key = self._with_room(directory)
        parts: list[bytes] = []
        ends = []
        size = 0
        for member, content in contents.items():
            head = header(member, content)
            parts += (head, content)
            size += len(head) + len(content)
            ends.append(size)
        extent = self._store.append(key, b"".join(parts))
        if extent is None:
            return False
        starts = [0, *ends[:-1]]
        self._add(
            key,
            extent,
            {
                member: Extent(extent.inode, extent.start + start, extent.start + end)
                for member, start, end in zip(contents, starts, ends, strict=True)
            },
        )
        return True

    def _keys(self, directory: LayerPath) -> Iterator[str]:
        for number in range(MAX_PACKS):
            yield self._key(directory, number)

    def _key(self, directory: LayerPath, number: int) -> str:
        return layer_key(self._identity, *self._kind, directory, number)

    def _with_room(self, directory: LayerPath) -> str:
        for key in self._keys(directory):
            pack = self._pack(key)
            if pack is None or not pack.is_full:
                return key
        key = self._key(directory, random.randrange(MAX_PACKS))
        self._store.drop(key)
        self._forget(key)
        return key

    def _read(self, key: str, place: Extent, member: bytes) -> bytes | None:
        data = self._store.read_part(key, place)
        try:
            found = next(places(data), None) if data is not None else None
            return content_at(data, found) if data is not None and found is not None and found.name == member else None
        except DamagedError:
            return None

    def _learn(self, key: str, pack: _Pack | None, extent: Extent, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        learnt: dict[bytes, Extent] = {}
        known = pack.places if pack is not None and pack.extent.inode == extent.inode else {}
        end = 0
        for place in places(data):
            end = place.end
            if place.name not in known:
                content = content_at(data, place)
                learnt[place.name] = Extent(extent.inode, extent.start + place.start, extent.start + end)
                yield place.name, content
        self._add(key, Extent(extent.inode, extent.start, extent.start + end), learnt)

    def _pack(self, key: str) -> _Pack | None:
        with self._lock:
            return self._known.get(key)

    def _add(self, key: str, extent: Extent, learnt: Mapping[bytes, Extent]) -> None:
        """`extent`, in which `learnt` was found, or written."""
        with self._lock:
            pack = self._known.pop(key, None)
            if pack is not None and pack.extent.inode != extent.inode:
                self._place_count -= len(pack.places)
                pack = None
            if pack is None:
                pack = _Pack(Extent(extent.inode, 0, 0))
            self._place_count -= len(pack.places)
            pack.places.update(learnt)
            self._place_count += len(pack.places)
            if extent.start <= pack.extent.end:  # else others have written in between, which is yet to be looked at
                pack.extent = Extent(extent.inode, 0, max(pack.extent.end, extent.end))
            self._known[key] = pack
            while self._place_count > self._max_places and len(self._known) > 1:
                _, oldest = self._known.popitem(last=False)
                self._place_count -= len(oldest.places)

    def _forget(self, key: str) -> None:
        with self._lock:
            pack = self._known.pop(key, None)
            if pack is not None:
                self._place_count -= len(pack.places)
