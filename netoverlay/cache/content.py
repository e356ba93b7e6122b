"""The content cache: what was read of a read-only layer is kept on local disk, and found there by every later mount.

A file up to WHOLE_FILE bytes is fetched at open, so that open, reads and close cost the server one visit; the small
files beside it are fetched ahead when a directory's files are opened one after the other. Of a larger file the blocks
that are read are fetched (blocks.py). A content is known by layer, path, size, modification time and file id, which
come from stat(): below this belongs the metadata cache, so that asking costs nothing.

If the layer is not immutable, what is fetched is kept only if the file was the same before and after, and is not so
young that a change could hide in the granularity of its time; and an open file is looked at again with each read.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass

from cachetools import LRUCache

from netoverlay.backend_api.backend import Backend, BackendFile
from netoverlay.backend_api.delegate import DelegatingBackend
from netoverlay.backend_api.errors import NotSupportedError
from netoverlay.backend_api.types import (
    Access,
    AttributeChange,
    Capabilities,
    Creation,
    FileStat,
    FileType,
    LayerPath,
    RenameFlags,
    join_path,
    split_path,
)
from netoverlay.cache.ahead import Ahead
from netoverlay.cache.blocks import Blocks, block_range
from netoverlay.cache.cached_file import BlockFile, Origin, WholeFile, version
from netoverlay.cache.disk_store import MAX_ENTRY, DiskStore, layer_key
from netoverlay.cache.single_flight import SingleFlight

WHOLE_FILE = MAX_ENTRY
AHEAD_FILE = 256 << 10
"""Bytes of the largest file that is fetched ahead of its being opened."""
DEFAULT_AHEAD = 32
YOUNG_SECONDS = 3.0
"""Age from which on a change of a file shows in its modification time, also where that has whole seconds."""
_MAX_FETCHED_AHEAD = 4096


class ContentCache(DelegatingBackend):
    """Serves files that are opened for reading from `store`, which the caller closes, and which others may share.

    `immutable`: nobody changes the layer, ever. `ahead`: files, and blocks, fetched ahead at once, in threads of its
    own. From the first change that is made through it a layer is none that is only read: it is passed through.
    """

    def __init__(self, inner: Backend, store: DiskStore, *, immutable: bool, ahead: int = DEFAULT_AHEAD) -> None:
        super().__init__(inner)
        self._store = store
        self._immutable = immutable
        self._identity: str | None = None
        self._has_holes = False
        self._flights: SingleFlight[str, _Fetched] = SingleFlight()
        self._blocks = Blocks(store, ahead)
        self._ahead = Ahead("fetch-ahead", ahead, self._fetch_ahead)
        self._fetched_ahead: LRUCache[str, None] = LRUCache(_MAX_FETCHED_AHEAD)
        self._lock = threading.Lock()

    def connect(self) -> Capabilities:
        capabilities = self.inner.connect()
        self._has_holes = capabilities.holes
        try:
            self._identity = self.inner.identity()
        except NotSupportedError:
            self._identity = None  # nothing could be found again, so nothing is kept
        return capabilities

    def close(self) -> None:
        self._ahead.stop()
        self._blocks.stop()
        self.inner.close()
        self._ahead.join()
        self._blocks.join()

    def open(
        self,
        path: LayerPath,
        access: Access,
        *,
        create: Creation = Creation.NEVER,
        truncate: bool = False,
        mode: int = 0o600,
    ) -> BackendFile:
        if access.writes or truncate or create is not Creation.NEVER:
            self._identity = None
        identity = self._identity
        if identity is not None:
            stat = self.inner.stat(path)
            if self._may_keep(stat):
                origin = self._origin(path, stat)
                return self._open_cached(origin, layer_key(identity, path, *version(stat)))
        return self.inner.open(path, access, create=create, truncate=truncate, mode=mode)

    def unlink(self, path: LayerPath) -> None:
        self._identity = None
        self.inner.unlink(path)

    def rename(self, old: LayerPath, new: LayerPath, flags: RenameFlags = RenameFlags.NONE) -> None:
        self._identity = None
        self.inner.rename(old, new, flags)

    def set_attributes(self, path: LayerPath, change: AttributeChange) -> None:
        self._identity = None
        self.inner.set_attributes(path, change)

    def keep(self, path: LayerPath, part: range | None = None) -> int | None:
        """Have the content of a file in the store, of a large one the blocks of `part`: how many bytes were fetched.

        None if it is not kept: it is changing, or no regular file, or the store cannot be written.
        """
        stat = self.inner.stat(path)
        identity = self._identity
        if identity is None or not self._may_keep(stat):
            return None
        key = layer_key(identity, path, *version(stat))
        origin = self._origin(path, stat)
        if stat.size <= WHOLE_FILE:
            if key in self._store:
                return 0
            fetched = self._flights.do(key, lambda: self._fetch(origin, key))
            return len(fetched.data) if fetched.data is not None and key in self._store else None
        with BlockFile(origin, key, self._blocks) as file:
            found = [self._blocks.keep(file, index) for index in part or block_range(stat.size)]
        return None if None in found else sum(count or 0 for count in found)

    def _may_keep(self, stat: FileStat) -> bool:
        if stat.type is not FileType.REGULAR:
            return False
        return self._immutable or time.time_ns() - stat.mtime_ns > YOUNG_SECONDS * 1e9

    def _origin(self, path: LayerPath, stat: FileStat) -> Origin:
        return Origin(self.inner, path, stat, immutable=self._immutable, has_holes=self._has_holes)

    def _open_cached(self, origin: Origin, key: str) -> BackendFile:
        if origin.stat.size > WHOLE_FILE:
            return BlockFile(origin, key, self._blocks)
        content: int | bytes | None = self._store.open(key)
        self._note_use(key)
        if content is None:
            self._missed(origin.path)
            fetched = self._flights.do(key, lambda: self._fetch(origin, key))
            if fetched.data is None:
                return self.inner.open(origin.path, Access.READ)
            content = self._store.open(key)
            if content is None:
                content = fetched.data
        return WholeFile(origin, content)

    def _fetch(self, origin: Origin, key: str) -> _Fetched:
        """Read a small file, and keep it if it is the one that was asked for."""
        kept = self._store.read(key)
        if kept is not None:
            return _Fetched(kept)  # somebody was faster
        size = origin.stat.size
        with self.inner.open(origin.path, Access.READ) as file:
            try:
                data = file.read_at(0, size) if size else b""
            except PermissionError:
                return _Fetched(None)  # somebody has locked it, which is for who reads it, and not for who opens it
            is_same = len(data) == size and (self._immutable or version(file.stat()) == version(origin.stat))
        if not is_same:
            return _Fetched(None)
        self._store.put(key, data)
        return _Fetched(data)

    def _missed(self, path: LayerPath) -> None:
        if self._store.is_writable:
            self._ahead.missed(split_path(path)[0], lambda: self._siblings(path))

    def _siblings(self, path: LayerPath) -> list[LayerPath]:
        """The small files of the same directory, from `path` on, then those before it."""
        parent, name = split_path(path)
        try:
            entries = self.inner.list_dir(parent)
        except OSError:
            return []  # whoever opened `path` has no need to list its directory, which may be forbidden
        names = [entry.name for entry in entries if entry.name == name or _is_small(entry.stat)]
        start = names.index(name) if name in names else 0
        return [join_path(parent, sibling) for sibling in names[start + 1 :] + names[:start]]

    def _fetch_ahead(self, path: LayerPath) -> Iterable[LayerPath]:
        stat = self.inner.stat(path)
        identity = self._identity
        if identity is not None and self._may_keep(stat):
            key = layer_key(identity, path, *version(stat))
            if key not in self._store:
                with self._lock:
                    self._fetched_ahead[key] = None
                self._flights.do(key, lambda: self._fetch(self._origin(path, stat), key))
        return ()

    def _note_use(self, key: str) -> None:
        with self._lock:
            is_first = key in self._fetched_ahead
            self._fetched_ahead.pop(key, None)
        if is_first:
            self._ahead.used()


@dataclass(frozen=True, slots=True)
class _Fetched:
    data: bytes | None
    """None if the file has changed since it was looked at, or cannot be read now."""


def _is_small(stat: FileStat) -> bool:
    return stat.type is FileType.REGULAR and stat.size <= AHEAD_FILE
