"""A layer: a connected backend and its role in the stack."""

from __future__ import annotations

import errno
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from netoverlay.backend_api import Backend, Capabilities, FileStat, LayerPath
from netoverlay.overlay.whiteouts import LayerFormat, OverlayfsFormat

if TYPE_CHECKING:
    from netoverlay.overlay.lazy_upper import LazyUpper

FOR_EVER_NS = -1
"""A time to live that does not end."""

UPPER_NUMBER = 0
_NUMBER_SHIFT = 55
_ID_MASK = (1 << _NUMBER_SHIFT) - 1
_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR})


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One layer, connected. Two layers are equal only if they are the same object."""

    number: int
    """Its place in the stack: UPPER_NUMBER, then the lowers, top-most first."""
    backend: Backend
    capabilities: Capabilities
    format: LayerFormat
    """How it says that a name is hidden, a directory opaque."""
    identity: str
    root: LayerPath
    """The directory that is shown as the root of the mount."""
    ttl_ns: int
    """How long what was read of it stays true; FOR_EVER_NS if nobody else changes it."""
    has_outsiders: bool
    """Others than this mount may lock its files, and write them."""

    def stat_or_none(self, path: LayerPath) -> FileStat | None:
        """The attributes of `path`, None if nothing stands there. Any other failure is raised: it is not absence."""
        try:
            return self.backend.stat(path)
        except OSError as error:
            if error.errno in _ABSENT:
                return None
            raise

    def inode_number(self, path: LayerPath, stat: FileStat) -> int:
        """The st_ino of what stands at `path`: 63 bits, the same at every mount while it stands there.

        From the layer's file id and number; a hash of layer and path where the transport has no ids.
        """
        if stat.file_id is not None:
            return ((stat.file_id ^ (stat.file_id >> _NUMBER_SHIFT)) & _ID_MASK) | (self.number << _NUMBER_SHIFT)
        name = f"{self.identity}\0{path}".encode(errors="surrogateescape")
        digest = hashlib.blake2b(name, digest_size=8).digest()
        return (int.from_bytes(digest) & _ID_MASK) | (self.number << _NUMBER_SHIFT)


@dataclass(frozen=True, slots=True, eq=False)
class UpperLayer(Layer):
    """The layer that takes all changes."""

    work: LayerPath
    """A directory of the same file system as `root` and outside it: things are made there, then renamed into place."""
    marks: OverlayfsFormat
    """Its `format`, which can also be written."""
    lazy: LazyUpper | None = None
    """Its `backend`, if files may be copied lazily to it."""


class LowerPlace(NamedTuple):
    """Where something stands in a lower layer."""

    layer: Layer
    path: LayerPath


@dataclass(frozen=True, slots=True)
class LayerStack:
    """The layers of a mount. Without an upper it is read-only."""

    upper: UpperLayer | None
    lowers: tuple[Layer, ...]

    def writable_upper(self) -> UpperLayer:
        """The upper; EROFS where there is none."""
        if self.upper is None:
            raise OSError(errno.EROFS, "the profile has no upper layer")
        return self.upper

    @property
    def lowers_unchanging(self) -> bool:
        """Nobody changes anything that is not in the upper."""
        return all(lower.ttl_ns == FOR_EVER_NS for lower in self.lowers)

    @property
    def unchanging(self) -> bool:
        """Nobody but this mount changes anything that it shows."""
        return self.lowers_unchanging and (self.upper is None or self.upper.ttl_ns == FOR_EVER_NS)
