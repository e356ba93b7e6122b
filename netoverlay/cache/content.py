"""The content cache: what was read of a read-only layer is kept on local disk, and found there by every later mount.

A file up to WHOLE_FILE bytes is fetched at open, so that open, reads and close cost the server one visit; the small
files beside it are fetched ahead when a directory's files are opened one after the other. Of a larger file the blocks
that are read are fetched (blocks.py). A content is known by layer, path, size, modification time and file id, which
come from stat(): below this belongs the metadata cache, so that asking costs nothing.

If the layer is not immutable, what is fetched is kept only if the file was the same before and after, and is not so
young that a change could hide in the granularity of its time; and an open file is looked at again with each read.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterable

from cachetools import LRUCache

from netoverlay.backend_api.backend import Backend, BackendFile
from netoverlay.backend_api.delegate import DelegatingBackend
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
from netoverlay.cache.blocks import Blocks
from netoverlay.cache.cached_file import BlockFile, CachedFile, Origin, WholeFile, version
from netoverlay.cache.disk_store import MAX_ENTRY, DiskStore, entry_key
from netoverlay.cache.single_flight import SingleFlight

WHOLE_FILE = MAX_ENTRY
AHEAD_FILE = 256 << 10
"""Bytes of the largest file that is fetched ahead of its being opened."""
DEFAULT_AHEAD = 16
YOUNG_SECONDS = 3.0
_MAX_FETCHED_AHEAD = 4096
