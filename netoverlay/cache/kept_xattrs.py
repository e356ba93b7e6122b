"""The extended attributes of files that nobody changes: read once, then answered from what is kept."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import NamedTuple

from netoverlay.backend_api.backend import Backend
from netoverlay.backend_api.errors import os_error
from netoverlay.backend_api.types import LayerPath
from netoverlay.cache.kept_layer import KeptLayer
from netoverlay.cache.listings import Listings

_MAX_KEPT = 4096
"""Bytes of the largest value that is kept."""


class KeptXattrs(NamedTuple):
    """As Backend has them."""

    layer: Backend
    listings: Listings
    kept: KeptLayer

    def get_xattr(self, path: LayerPath, name: str) -> bytes:
        known = self._all(path)
        if name not in known:
            raise os_error(errno.ENODATA, path)
        value = known[name]
        if value is None:
            value = self.layer.get_xattr(path, name)
            if len(value) <= _MAX_KEPT:
                learned = {**known, name: value}
                self.listings.learn_xattrs(path, learned)
                self.kept.keep_xattrs(path, learned)
        return value

    def list_xattrs(self, path: LayerPath) -> list[str]:
        return list(self._all(path))

    def _all(self, path: LayerPath) -> Mapping[str, bytes | None]:
        """By name; None for a value that is not known."""
        known = self.listings.xattrs(path)
        if known is not None:
            return known
        found = self.kept.xattrs(path)  # its directory need not have been listed
        if found is None:
            found = dict.fromkeys(self.layer.list_xattrs(path))
            self.kept.keep_xattrs(path, found)
        self.listings.learn_xattrs(path, found)
        return found
