"""What is kept of an immutable layer over mounts, beside the content of its files: its listings, and the layer itself.

All of it is in the content cache's store, and shared by all mounts of the layer. A layer's *facts* are what a mount
must know before it can serve: capabilities, and the attributes of the root. They name the *edition*, drawn at random
when the layer was first connected, under which everything else is kept. When a later mount connects and finds another
root than the kept one, somebody has changed the layer between the mounts in spite of the promise: a new edition begins,
and what is kept of the old one is never found again. A change deeper down does not show; `netoverlay cache drop` is for
that.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import msgspec

from netoverlay.backend_api.types import Capabilities, DirEntry, FileStat, FileType, LayerPath, NamedEntry, split_path
from netoverlay.cache.disk_store import MAX_ENTRY, DiskStore
from netoverlay.cache.kept_listing import (
    FORMAT,
    Extras,
    decode_extras,
    decode_listing,
    decode_names,
    encode_extras,
    encode_listing,
    encode_names,
)
from netoverlay.cache.keys import layer_key, part_key
from netoverlay.cache.packed_listings import PackedListings

T = TypeVar("T")
E = TypeVar("E")

_EDITION_BYTES = 16
_DIGEST_BYTES = 16
_HEADER = struct.Struct(f"<IQ{_DIGEST_BYTES}s")
"""Of the first piece of a listing: how many pieces there are, the bytes of all, and their digest.

Without the digest two listings that were kept at the same time could be put together from pieces of both.
"""
_PIECE = MAX_ENTRY - _HEADER.size
_MAX_UNSAVED = 64

_log = logging.getLogger(__name__)


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What must be known of a layer before it can be served."""

    edition: bytes
    capabilities: Capabilities
    root: FileStat
    asked_user: bool
    """To connect somebody had to be asked, so that it has to be tried while there is a terminal."""

    def is_same_layer(self, other: Facts) -> bool:
        """Whether nothing shows that the layer was changed between the two."""
        return self.capabilities == other.capabilities and _version(self.root) == _version(other.root)


class KeptListing(NamedTuple):
    """A directory, and what else was asked of its entries."""

    entries: list[DirEntry]
    extras: Extras


class KeptNames(NamedTuple):
    """As KeptListing, of a directory of which not all attributes are known."""

    entries: list[NamedEntry]
    extras: Extras


class KeptLayer:
    """One layer's listings and facts in `store`. Thread-safe. What cannot be read is not there; nothing here fails."""

    def __init__(self, store: DiskStore, identity: str, appearance: str) -> None:
        """`appearance`: what of the profile changes the attributes that the layer tells."""
        self._store = store
        self._identity = identity
        self._packed: PackedListings | None = None
        self._packed_names: PackedListings | None = None
        self._facts_key = layer_key(identity, "facts", FORMAT, appearance)
        self._lock = threading.Lock()
        self._unsaved: dict[LayerPath, Extras] = {}
        self._unsaved_count = 0
        self._facts: Facts | None = None
        facts = self._load(self._facts_key, msgspec.msgpack.Decoder(Facts).decode)
        if facts is not None:
            self._take(facts)
        self.on_other_edition: Callable[[], object] = lambda: None
        """Called when it turns out that what was read from here is no longer so."""

    @property
    def facts(self) -> Facts | None:
        """None before connected() was called at this mount or an earlier one."""
        return self._facts

    def connected(self, capabilities: Capabilities, root: FileStat, *, asked_user: bool) -> None:
        """The layer is connected, and has told this of itself."""
        before = self._facts
        edition = os.urandom(_EDITION_BYTES) if before is None else before.edition
        facts = Facts(edition=edition, capabilities=capabilities, root=root, asked_user=asked_user)
        if before is not None and before.is_same_layer(facts):
            if before.asked_user == asked_user:
                # Not written again for an access time: a mount that begins meanwhile could find nothing.
                return
        elif before is not None:
            _log.warning(
                "%s is immutable, and has changed since it was mounted before: what was kept of it is dropped; "
                "mount again, for programs may have seen it already",
                self._identity,
            )
            facts = msgspec.structs.replace(facts, edition=os.urandom(_EDITION_BYTES))
        data = _encoded(lambda: msgspec.msgpack.encode(facts))
        if data is not None:
            self._store.put(self._facts_key, data)
        # Of two mounts that both come first the later one's stays, and what the earlier one keeps is for itself alone.
        self._take(facts)
        if before is not None and before.edition != facts.edition:
            with self._lock:
                self._unsaved, self._unsaved_count = {}, 0
            self.on_other_edition()

    def _take(self, facts: Facts) -> None:
        if self._packed is None or self._facts is None or self._facts.edition != facts.edition:
            self._packed = PackedListings(self._store, self._identity, "listings", facts.edition, renews=False)
            self._packed_names = PackedListings(self._store, self._identity, "names", facts.edition, renews=True)
        self._facts = facts

    def listing(self, path: LayerPath) -> KeptListing | None:
        """The listing of the directory `path`, if it is kept."""
        entries = self._from_pack(self._packed, path, decode_listing)
        if entries is None:
            entries = self._single_listing(path)
        if entries is None:
            return None
        return KeptListing(entries, self._extras_of(path, ((stat.type, stat) for _, stat in entries)))

    def _from_pack(self, packed: PackedListings | None, path: LayerPath, decode: Callable[[bytes], T]) -> T | None:
        data = None if packed is None else packed.get(path)
        return None if data is None else self._decoded(data, decode)

    def _single_listing(self, path: LayerPath) -> list[DirEntry] | None:
        key = self._key("listing", path)
        return None if key is None else self._load(key, lambda first: self._whole_listing(key, first))

    def _extras_of(self, path: LayerPath, entries: Iterable[tuple[FileType, FileStat | None]]) -> Extras:
        """Those of the directory `path`: a file of their own, not looked for where the listing has told all."""
        has_xattrs = self._facts is not None and self._facts.capabilities.xattrs
        may_be_there = any(
            kind is FileType.SYMLINK or (has_xattrs and (stat is None or stat.has_xattrs is not False))
            for kind, stat in entries
        )
        return self._extras(path) if may_be_there else Extras.none()

    def keep_listing(self, path: LayerPath, entries: Sequence[DirEntry]) -> None:
        """Keep the listing of the directory `path`."""
        self.keep_listings([(path, entries)])

    def keep_listings(self, directories: Iterable[tuple[LayerPath, Sequence[DirEntry]]]) -> None:
        """Keep the listings of directories: those beside each other cost one write."""
        if self._packed is None or not self._store.is_writable:
            return
        for path, data in self._packed.put(_all_encoded(encode_listing, directories)):
            key = self._key("listing", path)
            if key is not None:
                self._keep_single(key, data)

    def _keep_single(self, key: str, data: bytes) -> None:
        pieces = [data[start : start + _PIECE] for start in range(0, len(data), _PIECE)]
        # The first one last: whoever finds it finds the others.
        for number, piece in list(enumerate(pieces))[:0:-1]:
            if not self._store.put(part_key(key, number), piece):
                return
        self._store.put(key, _HEADER.pack(len(pieces), len(data), _digest(data)) + pieces[0])

    def names(self, path: LayerPath) -> KeptNames | None:
        """What is known of the directory `path`, whose listing is not kept."""
        entries = self._from_pack(self._packed_names, path, decode_names)
        key = self._key("names", path)
        if entries is None and key is not None:
            entries = self._load(key, decode_names)
        if entries is None:
            return None
        return KeptNames(entries, self._extras_of(path, ((kind, stat) for _, kind, stat in entries)))

    def keep_names(self, directories: Iterable[tuple[LayerPath, Sequence[NamedEntry]]]) -> None:
        """Keep the names in directories, as keep_listing() does, and the attributes of some; not too many."""
        if self._packed_names is None or not self._store.is_writable:
            return
        for path, data in self._packed_names.put(_all_encoded(encode_names, directories)):
            key = self._key("names", path)
            if key is not None:
                self._store.put(key, data)

    def xattrs(self, path: LayerPath) -> dict[str, bytes | None] | None:
        """All extended attributes of `path`, if they are kept; None for a value that is not."""
        directory, name = split_path(path)
        return self._extras(directory).xattrs.get(name)

    def keep_target(self, path: LayerPath, target: str) -> None:
        """Keep where the symbolic link `path` points. Many are saved together; flush() saves the last ones."""
        self._keep(path, lambda extras, name: extras.targets.update({name: target}))

    def keep_xattrs(self, path: LayerPath, found: dict[str, bytes | None]) -> None:
        """Keep all extended attributes of `path`, as keep_target() does."""
        self._keep(path, lambda extras, name: extras.xattrs.update({name: found}))

    def flush(self) -> None:
        """Save what is kept in memory only."""
        with self._lock:
            unsaved, self._unsaved, self._unsaved_count = self._unsaved, {}, 0
        for directory, extras in unsaved.items():
            key = self._key("extras", directory)
            if key is not None:
                saved = self._extras(directory)
                merged = Extras(saved.targets | extras.targets, saved.xattrs | extras.xattrs)
                self._store.put(key, encode_extras(merged))

    def _keep(self, path: LayerPath, add: Callable[[Extras, str], object]) -> None:
        directory, name = split_path(path)
        with self._lock:
            add(self._unsaved.setdefault(directory, Extras.none()), name)
            self._unsaved_count += 1
            is_due = self._unsaved_count >= _MAX_UNSAVED
        if is_due:
            self.flush()

    def _extras(self, directory: LayerPath) -> Extras:
        key = self._key("extras", directory)
        return (None if key is None else self._load(key, decode_extras)) or Extras.none()

    def _key(self, kind: str, path: LayerPath) -> str | None:
        facts = self._facts
        return None if facts is None else layer_key(self._identity, kind, FORMAT, facts.edition.hex(), path)

    def _load(self, key: str, decode: Callable[[bytes], T]) -> T | None:
        data = self._store.read(key)
        return None if data is None else self._decoded(data, decode)

    def _decoded(self, data: bytes, decode: Callable[[bytes], T]) -> T | None:
        try:
            return decode(data)
        except (ValueError, struct.error, msgspec.MsgspecError) as error:
            _log.info("what is kept of %s is not used: %s", self._identity, error)
            return None

    def _whole_listing(self, key: str, first: bytes) -> list[DirEntry]:
        count, size, digest = _HEADER.unpack_from(first)
        pieces = [first[_HEADER.size :]]
        for number in range(1, count):
            piece = self._store.read(part_key(key, number))
            if piece is None:
                raise ValueError(f"piece {number} of a listing is gone")
            pieces.append(piece)
        data = b"".join(pieces)
        if len(data) != size or _digest(data) != digest:
            raise ValueError("a listing is made up of several")
        return decode_listing(data)


def _encoded(encode: Callable[[], bytes]) -> bytes | None:
    """None if a number has no place in the bytes: a server may tell of times in the year 20000."""
    try:
        return encode()
    except OverflowError as error:
        _log.info("something is not kept: %s", error)
        return None


def _all_encoded(
    encode: Callable[[Sequence[E]], bytes], directories: Iterable[tuple[LayerPath, Sequence[E]]]
) -> Iterator[tuple[LayerPath, bytes]]:
    for path, entries in directories:
        data = _encoded(functools.partial(encode, entries))
        if data is not None:
            yield path, data


def _version(stat: FileStat) -> FileStat:
    """What changes when a directory is changed, and not when it is read."""
    return stat._replace(atime_ns=None)


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()
