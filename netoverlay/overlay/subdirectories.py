"""st_nlink of merged directories: two, and one for each sub-directory, as programs that walk trees know it.

No layer can tell it, so the names of all of them are listed, once for as long as no directory comes or goes in it.
Where one of the layers counts no sub-directories (SFTP, SMB, btrfs), it is 1, before copy-up and after it: "unknown".
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from netoverlay.backend_api import FileType, LayerPath
from netoverlay.overlay.inodes import DirectoryInode
from netoverlay.overlay.layers import FOR_EVER_NS, Layer, LayerStack
from netoverlay.overlay.locks import PathLock
from netoverlay.overlay.merge import Listed, Merge

UNKNOWN = 1
_OWN_NAMES = 2
"""Its name and its "."."""


class Counted(NamedTuple):
    """The sub-directories of a merged directory."""

    number: int
    shape: int
    """The directory's `shape` when they were counted."""
    at_ns: int
    """time.monotonic_ns()."""


class SubdirectoryCounter:
    """Counts for one mount."""

    def __init__(
        self, stack: LayerStack, merge: Merge, paths: PathLock, upper_path: Callable[[DirectoryInode], LayerPath]
    ) -> None:
        """`upper_path` tells where a directory is in the upper, while PATHS is held."""
        self._upper = stack.upper
        self._upper_path = upper_path
        self._merge = merge
        self._paths = paths
        layers = [*([] if stack.upper is None else [stack.upper]), *stack.lowers]
        self._counting = {layer for layer in layers if _counts(layer)}

    def link_count(self, directory: DirectoryInode, told: int | None) -> int:
        """The st_nlink of a directory, of which its top-most layer tells `told`. Must be called without PATHS."""
        layers: list[Layer] = [place.layer for place in directory.lowers]
        if directory.in_upper and self._upper is not None:
            layers.append(self._upper)
        if not self._counting.issuperset(layers):
            return UNKNOWN
        if len(layers) == 1:
            return told or UNKNOWN
        counted = directory.subdirectories
        if counted is None or counted.shape != directory.shape or _is_old(counted, layers):
            shape, now_ns = directory.shape, time.monotonic_ns()
            counted = Counted(self._count(directory), shape, now_ns)
            directory.subdirectories = counted
        return _OWN_NAMES + counted.number

    def _count(self, directory: DirectoryInode) -> int:
        seen: dict[str, Listed | None] = {}
        above = 0
        if directory.in_upper and self._upper is not None:
            with self._paths.shared():
                for name, stat in self._upper.backend.list_dir(self._upper_path(directory)):
                    seen[name] = None
                    above += stat.type is FileType.DIRECTORY
        self._merge.list_below(directory.lowers, seen)
        return above + sum(listed is not None and listed.stat.type is FileType.DIRECTORY for listed in seen.values())


def _counts(layer: Layer) -> bool:
    """Its root has two names at least, if it counts any."""
    return layer.capabilities.link_counts and (layer.backend.stat(layer.root).nlink or 0) >= _OWN_NAMES


def _is_old(counted: Counted, layers: list[Layer]) -> bool:
    ttls = [layer.ttl_ns for layer in layers if layer.ttl_ns != FOR_EVER_NS]
    return bool(ttls) and time.monotonic_ns() - counted.at_ns > min(ttls)
