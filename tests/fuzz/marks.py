"""The marks of overlayfs in layers, whatever they hold: an overlay of such layers is walked through and changed.

The layers are in memory: of the upper and of the lower below it `d` is a directory with files, `f` a file, `w` an empty
one; below these is a lower without marks. A mark is a byte that says which, one that says of what, one for the length,
and the value.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import suppress
from typing import Final, NamedTuple

from netoverlay.backend_api import Access, Backend, FileType, LayerPath, RenameFlags
from netoverlay.fuse import replies
from netoverlay.kernel_values import fuse_attributes
from netoverlay.overlay.creation import Caller
from netoverlay.overlay.inodes import DirectoryInode, FileInode, Name
from netoverlay.overlay.layers import FOR_EVER_NS, UPPER_NUMBER, Layer, LayerStack, UpperLayer
from netoverlay.overlay.lazy_files import LAZY_BYTES
from netoverlay.overlay.lazy_upper import LazyUpper
from netoverlay.overlay.lookup import Entry
from netoverlay.overlay.metacopy import with_data_below
from netoverlay.overlay.overlay import Overlay
from netoverlay.overlay.whiteouts import lower_format, upper_format
from netoverlay.testing.memory_backend import ALL_CAPABILITIES, READ_ONLY_CAPABILITIES, MemoryBackend
from tests.fuzz.checks import GuardedTree, HeldForEver, require_name

_NAMES: Final = ("opaque", "redirect", "whiteout", "metacopy", "origin", "nlink", "impure", "netoverlay.ino")
_PLACES: Final = ("d", "f", "w", "d/f")
_ME: Final = Caller(0, 0)
_DEEPEST: Final = 4


class Mark(NamedTuple):
    """An extended attribute of overlayfs."""

    name: str
    in_upper: bool
    path: LayerPath
    value: bytes

    def packed(self) -> bytes:
        """As it stands in a record."""
        which = _NAMES.index(self.name) | (8 if self.in_upper else 0)
        return bytes([which, _PLACES.index(self.path), len(self.value)]) + self.value


def _marks(data: bytes) -> Iterator[Mark]:
    at = 0
    while at + 3 <= len(data):
        which, where, length = data[at : at + 3]
        value = data[at + 3 : at + 3 + length]
        yield Mark(_NAMES[which & 7], bool(which & 8), _PLACES[where % len(_PLACES)], value)
        at += 3 + length


def _tree(root: str) -> GuardedTree:
    tree = GuardedTree()
    for path in filter(None, (root, f"{root}.work" if root else "")):
        tree.attach(path, tree.make_node(FileType.DIRECTORY, 0o755))
    for name in _PLACES:
        node = tree.make_node(FileType.DIRECTORY if name == "d" else FileType.REGULAR, 0o644)
        if name != "w" and name != "d":
            node.content.write(0, b"0123456789")
        tree.attach(f"{root}/{name}" if root else name, node)
    return tree


def _overlay(marks: list[Mark]) -> Overlay:
    upper_tree, lower_tree = _tree("upper"), _tree("")
    for mark in marks:
        node = upper_tree.find(f"upper/{mark.path}") if mark.in_upper else lower_tree.find(mark.path)
        node.xattrs[f"trusted.overlay.{mark.name}"] = mark.value
    local = dataclasses.replace(READ_ONLY_CAPABILITIES, local=True)
    lowest = _layer(2, MemoryBackend(READ_ONLY_CAPABILITIES, _tree("")), ())
    lower = _layer(1, MemoryBackend(local, lower_tree), (lowest,))
    above = MemoryBackend(ALL_CAPABILITIES, upper_tree)
    above.connect()
    form = upper_format(above, ALL_CAPABILITIES)
    lowers = (lower, lowest)
    lazy = LazyUpper(above, form, ALL_CAPABILITIES, "upper", "upper.work", lowers, larger_than=LAZY_BYTES)
    upper = UpperLayer(
        UPPER_NUMBER, lazy, ALL_CAPABILITIES, form, "upper", "upper", FOR_EVER_NS, False, "upper.work", form, lazy
    )
    return Overlay(LayerStack(upper, lowers), "/mnt", HeldForEver())


def _layer(number: int, backend: Backend, below: tuple[Layer, ...]) -> Layer:
    capabilities = backend.connect()
    form = lower_format(backend, capabilities)
    whole = with_data_below(backend, form, "", below)
    return Layer(number, whole, capabilities, form, str(number), "", FOR_EVER_NS, False)


def read_marks(data: bytes) -> None:
    """Walk through an overlay whose layers have the marks of `data`, change it, and walk through it again."""
    with suppress(OSError):
        overlay = _overlay(list(_marks(data)))
        try:
            _walk(overlay, overlay.tree.root, _DEEPEST)
            _change(overlay)
            _walk(overlay, overlay.tree.root, _DEEPEST)
        finally:
            overlay.close()


def _walk(overlay: Overlay, directory: DirectoryInode, deepest: int) -> None:
    try:
        with directory.directory_lock:
            names = [listed.name for listed in overlay.lookup.list_locked(directory)]
    except OSError:
        return
    for name in names:
        require_name(name)
        with suppress(OSError):
            entry = overlay.lookup.lookup(directory, name)
            if entry is not None:
                _look(overlay, entry)
                if isinstance(entry.inode, DirectoryInode) and deepest:
                    _walk(overlay, entry.inode, deepest - 1)


def _look(overlay: Overlay, entry: Entry) -> None:
    replies.attributes(fuse_attributes(overlay.view.complete(entry.inode.ino, entry.stat)), 0)
    overlay.xattrs.list(entry.inode, privileged=True)
    if isinstance(entry.inode, FileInode):
        handle = overlay.files.open(entry.inode, Access.READ)
        try:
            overlay.files.read(handle, 0, 100)
        finally:
            overlay.files.release(handle)


def _change(overlay: Overlay) -> None:
    changes, root = overlay.changes(), overlay.tree.root
    with suppress(OSError):
        entry = overlay.lookup.lookup(root, "f")
        if entry is not None and isinstance(entry.inode, FileInode):
            handle = overlay.files.open(entry.inode, Access.READ_WRITE)
            overlay.files.write(handle, 5, b"x", clear_set_ids=False)
            overlay.files.release(handle)
            changes.creator.link(entry.inode, root, "g")
    for step in (
        lambda: changes.renamer.rename(Name(root, "d"), Name(root, "e"), RenameFlags.NONE),
        lambda: changes.remover.unlink(root, "w"),
        lambda: changes.remover.rmdir(root, "e"),
        lambda: changes.creator.mkdir(root, "d", 0o755, _ME),
    ):
        with suppress(OSError):
            step()


MARKS: Final = (
    Mark("opaque", False, "d", b"y").packed() + Mark("opaque", True, "d", b"x").packed(),
    Mark("redirect", True, "d", b"/d").packed() + Mark("redirect", False, "d", b"f").packed(),
    Mark("redirect", True, "f", b"w").packed() + Mark("metacopy", True, "f", b"").packed(),
    Mark("redirect", False, "f", b"/d/f").packed() + Mark("metacopy", False, "f", b"").packed(),
    Mark("opaque", True, "d", b"x").packed() + Mark("whiteout", True, "d/f", b"").packed(),
    Mark("netoverlay.ino", True, "f", bytes(7) + b"\x07").packed() + Mark("nlink", True, "f", b"U+1").packed(),
    Mark("origin", True, "f", b"\0\xfb\x15\0\1" + bytes(16)).packed() + Mark("impure", True, "d", b"y").packed(),
    Mark("redirect", True, "d", b"/../d").packed() + Mark("redirect", False, "d", b"..").packed(),
    Mark("redirect", True, "f", b"../../f").packed() + Mark("metacopy", True, "f", b"").packed(),
    Mark("netoverlay.ino", True, "f", b"\xff" * 20).packed() + Mark("nlink", True, "f", b"L-" + b"9" * 200).packed(),
    Mark("metacopy", True, "f", b"netoverlay:../../x").packed(),
    Mark("redirect", True, "d", b"a\0b").packed() + Mark("redirect", False, "f", b"/\0").packed(),
)
"""For a search to begin with: also such as lead elsewhere, or tell of too much."""
