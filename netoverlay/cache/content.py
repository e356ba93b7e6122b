"""The content cache: what was read of a read-only layer is kept on local disk, and found there by every later mount.

A file up to WHOLE_FILE bytes is fetched at open, so that open, reads and close cost the server one visit; the small
files that a walk is likely to open next are fetched ahead, many in one visit (small_files.py). Of a larger file the
blocks that are read are fetched (blocks.py). A content is known by layer, path, size, modification time and file id,
which come from stat(): below this belongs the metadata cache, so that asking costs nothing.

If the layer is not immutable, what is fetched is kept only if the file was the same before and after, and is not so
young that a change could hide in the granularity of its time; and an open file is looked at again with each read.
"""

from __future__ import annotations

from contextlib import ExitStack

from netoverlay.backend_api.backend import BackendFile
from netoverlay.backend_api.delegate import DelegatingBackend
from netoverlay.backend_api.errors import NotSupportedError
from netoverlay.backend_api.types import (
    Access,
    AttributeChange,
    Capabilities,
    Creation,
    FileStat,
    LayerPath,
    RenameFlags,
)
from netoverlay.cache.blocks import Blocks, block_range
from netoverlay.cache.cached_file import BlockFile, Origin, WholeFile
from netoverlay.cache.disk_store import DiskStore
from netoverlay.cache.keys import layer_key
from netoverlay.cache.metadata import MetadataCache
from netoverlay.cache.packs import PACKED_FILE
from netoverlay.cache.small_files import WHOLE_FILE, SmallFiles, may_keep

DEFAULT_AHEAD = 32


class ContentCache(DelegatingBackend):
    """Serves files that are opened for reading from `store`, which the caller closes, and which others may share.

    `metadata`: the layer, and what version of a file is wanted.

    `immutable`: nobody changes the layer, ever. `ahead`: blocks fetched ahead at once, in threads of its own. From the
    first change that is made through it a layer is none that is only read: it is passed through.
    """

    def __init__(
        self, metadata: MetadataCache, store: DiskStore, *, immutable: bool, ahead: int = DEFAULT_AHEAD
    ) -> None:
        super().__init__(metadata)
        self._metadata = metadata
        self._store = store
        self._immutable = immutable
        self._identity: str | None = None
        self._has_holes = False
        self._small: SmallFiles | None = None
        self._blocks = Blocks(store, ahead)

    def connect(self) -> Capabilities:
        capabilities = self.inner.connect()
        self._has_holes = capabilities.holes
        try:
            self._identity = self.inner.identity()
        except NotSupportedError:
            self._identity = None  # nothing could be found again, so nothing is kept
        else:
            self._small = SmallFiles(self._metadata, self._identity, self._store, immutable=self._immutable)
        return capabilities

    def close(self) -> None:
        with ExitStack() as ending:
            for ahead in self._fetchers():
                ahead.stop()
                ending.callback(ahead.join)
            self.inner.close()

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
        if self._identity is not None:
            stat = self.inner.stat(path)
            if may_keep(stat, immutable=self._immutable):
                return self._open_cached(self._identity, path, stat)
        return self.inner.open(path, access, create=create, truncate=truncate, mode=mode)

    def at_hand(self, path: LayerPath, most: int) -> bytes | None:
        if self._identity is None or self._small is None or not self._immutable:
            return None
        stat = self._metadata.known(path)
        if stat is None or not 0 < stat.size <= min(most, PACKED_FILE) or not may_keep(stat, immutable=True):
            return None
        content = self._small.at_hand(path, stat)
        return content if isinstance(content, bytes) else None

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
        identity, small = self._identity, self._small
        if identity is None or small is None or not may_keep(stat, immutable=self._immutable):
            return None
        if stat.size <= WHOLE_FILE:
            return small.keep(path, stat)
        key = layer_key(identity, path, *stat.version)
        origin = self._origin(path, stat)
        with BlockFile(origin, key, self._blocks) as file:
            found = [self._blocks.keep(file, index) for index in part or block_range(stat.size)]
        return None if None in found else sum(count or 0 for count in found)

    def _origin(self, path: LayerPath, stat: FileStat) -> Origin:
        return Origin(self.inner, path, stat, immutable=self._immutable, has_holes=self._has_holes)

    def _open_cached(self, identity: str, path: LayerPath, stat: FileStat) -> BackendFile:
        if stat.size > WHOLE_FILE:
            return BlockFile(self._origin(path, stat), layer_key(identity, path, *stat.version), self._blocks)
        content = self._small.content(path, stat) if self._small is not None else None
        if content is None:
            return self.inner.open(path, Access.READ)
        return WholeFile(self._origin(path, stat), content)

    def _fetchers(self) -> list[Blocks | SmallFiles]:
        """What has threads of its own."""
        return [self._blocks] if self._small is None else [self._small, self._blocks]
