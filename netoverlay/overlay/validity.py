"""How long the kernel may believe what it was told of names and attributes, of layers that others change as well.

For the time to live of the layers that can change the answer; for ever where none can. Where a lock was taken that a
layer holds for us, that is too long: who has the lock must see what its last holder left, and not of the file alone
(SQLite looks for the journal beside its database). So when such a lock is granted, all names of the file's directory
that the kernel may still believe are expired; and for some time it is told none that it need not ask for again, since
one lock seldom comes alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Final

from netoverlay.overlay.inodes import DirectoryInode, Inode
from netoverlay.overlay.layers import FOR_EVER_NS, Layer, LayerStack
from netoverlay.overlay.told_listings import ToldListings

ASKED_NS: Final = 10_000_000_000
"""For so long after a lock no name beside the file is believed."""


class Validity:
    """Of the names and attributes of one mount. All times are in nanoseconds, or FOR_EVER_NS."""

    def __init__(self, stack: LayerStack) -> None:
        self._upper = stack.upper
        layers: tuple[Layer, ...] = stack.lowers if stack.upper is None else (stack.upper, *stack.lowers)
        self._longest_ns = max((layer.ttl_ns for layer in layers), default=FOR_EVER_NS)
        self._lock = threading.Lock()
        self.listings = ToldListings(FOR_EVER_NS if stack.upper is None else stack.upper.ttl_ns)
        """Which the kernel caches where it opens directories by itself; their lowers never change then."""
        self.expire_name: Callable[[DirectoryInode, str], object] = lambda *_: None
        """Has the kernel ask again for a name. Called on a thread that serves no request."""

    def of_attributes(self, inode: Inode) -> int:
        """Those of the layer that holds the inode."""
        return self._home(inode).ttl_ns

    def of_entry(self, directory: DirectoryInode, name: str, inode: Inode) -> tuple[int, int]:
        """That `name` leads to `inode`, which is about to be told; and as of_attributes()."""
        layer = self._home(inode)
        # Nothing is above the upper, and all that is in it is in directories of it.
        is_top = inode.in_upper or (not directory.in_upper and directory.lowers[0].layer is layer)
        valid_ns = layer.ttl_ns if is_top else _shortest((layer, *self._above(directory, layer)))
        return self._noted(directory, name, valid_ns), layer.ttl_ns

    def of_absence(self, directory: DirectoryInode, name: str) -> int:
        """That there is no such name, which is about to be told."""
        return self._noted(directory, name, _shortest(self._above(directory, None)))

    def is_kept(self, inode: Inode) -> bool:
        """Whether nobody else changes the content of a file, or the names in a directory."""
        if isinstance(inode, DirectoryInode):
            return _shortest(self._above(inode, None)) == FOR_EVER_NS
        return self.of_attributes(inode) == FOR_EVER_NS

    def note_begun(self, directory: DirectoryInode) -> None:
        """The names of a directory are about to be listed, from the first one on. With any lock held."""
        if not self.is_kept(directory):
            self.listings.begun(directory.nodeid)

    def note_listing(self, directory: DirectoryInode) -> None:
        """The kernel may have cached the names of a directory: as listed, or as they are now. With any lock held."""
        if not self.is_kept(directory):
            with self._lock:  # so that drop_names() comes after it, or is seen
                self.listings.told(directory.nodeid, believed=time.monotonic_ns() >= directory.asked_until_ns)

    def drop_names(self, inode: Inode) -> None:
        """A lock on a file was granted that its layer holds, too: the names beside it are to be asked for."""
        for directory, _ in list(inode.names):
            with self._lock:
                told, directory.told = directory.told, None
                directory.asked_until_ns = time.monotonic_ns() + ASKED_NS
            self.listings.drop(directory.nodeid)
            if told is not None:
                for name in told.names():
                    self.expire_name(directory, name)

    def _home(self, inode: Inode) -> Layer:
        return self._upper if inode.in_upper and self._upper is not None else inode.lower_layer()

    def _above(self, directory: DirectoryInode, layer: Layer | None) -> Iterable[Layer]:
        """The layers in which the name would hide that of `layer`; all that the directory has, for None."""
        if directory.in_upper and self._upper is not None:
            yield self._upper
        for place in directory.lowers:
            if place.layer is layer:
                return
            yield place.layer

    def _noted(self, directory: DirectoryInode, name: str, valid_ns: int) -> int:
        """How long `name` is believed, kept in mind as long."""
        if valid_ns in (0, FOR_EVER_NS):
            return valid_ns
        with self._lock:
            if time.monotonic_ns() < directory.asked_until_ns:
                return 0
            if directory.told is None:
                directory.told = ToldNames(self._longest_ns)
            directory.told.add(name)
        return valid_ns


class ToldNames:
    """The names of a directory that the kernel was told of, and may still believe. Kept for up to twice as long."""

    __slots__ = ("_names", "_older", "_since_ns", "_valid_ns")

    def __init__(self, valid_ns: int) -> None:
        """`valid_ns`: how long it believes any of them, at most."""
        self._valid_ns = valid_ns
        self._names: set[str] = set()
        self._older: set[str] = set()
        self._since_ns = time.monotonic_ns()

    def add(self, name: str) -> None:
        """It is told of a name now."""
        now_ns = time.monotonic_ns()
        if now_ns - self._since_ns > self._valid_ns:
            self._older, self._names, self._since_ns = self._names, set(), now_ns
        self._names.add(name)

    def names(self) -> set[str]:
        """All of them."""
        return self._names | self._older


def _shortest(layers: Iterable[Layer]) -> int:
    return min((layer.ttl_ns for layer in layers if layer.ttl_ns != FOR_EVER_NS), default=FOR_EVER_NS)
