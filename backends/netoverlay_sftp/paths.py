"""Between the paths of the seam, relative to a layer's root, and the server's, absolute and in bytes."""

from __future__ import annotations

import errno
import logging
import threading

from netoverlay.backend_api import LayerPath, os_error
from netoverlay.backend_api.types import NAME_ENCODING, NAME_ERRORS

_FORBIDDEN_PARTS = frozenset((b"", b".", b".."))
_log = logging.getLogger(__name__)


def encode(text: str) -> bytes:
    """As it was on the server."""
    return text.encode(NAME_ENCODING, NAME_ERRORS)


def decode(name: bytes) -> str:
    """With bytes that are not UTF-8 as surrogate escapes."""
    return name.decode(NAME_ENCODING, NAME_ERRORS)


class PathMap:
    """The root of a layer, and the names below it that can be used."""

    def __init__(self, root: str) -> None:
        self.root = encode(root)
        self._prefix = b"/" if self.root == b"/" else self.root + b"/"
        self._lock = threading.Lock()
        self._warned = False

    def on_server(self, path: LayerPath) -> bytes:
        """The server's path. EINVAL for one that would lead out of the root, or that no server can know."""
        if not path:
            return self.root
        encoded = encode(path)
        if b"\0" in encoded or not _FORBIDDEN_PARTS.isdisjoint(encoded.split(b"/")):
            raise os_error(errno.EINVAL, path)
        return self._prefix + encoded

    def is_usable(self, name: bytes, directory: bytes) -> bool:
        """Whether a name that the server listed can be an entry; the first that cannot is logged."""
        if name in _FORBIDDEN_PARTS:
            if name:  # "." and ".." belong into the listing
                return False
        elif b"/" not in name and b"\0" not in name:
            return True
        with self._lock:
            if not self._warned:
                self._warned = True
                _log.warning(
                    "%r: the server lists %r, which is no file name: such entries are left out", directory, name
                )
        return False
