"""Whiteouts and opaque directories: what a server's directory says of them, kept in memory, and changed there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from netoverlay.backend_api import Access, Backend, Creation, DirEntry, LayerPath, join_path, split_path
from netoverlay.wrappers.sidecar import markers
from netoverlay.wrappers.sidecar.nodes import Directory, Node, Place, Tree

_MODE = 0o644


class Marks:
    """The marker files of one upper. A name's are changed by whoever holds the name."""

    def __init__(self, inner: Backend, tree: Tree) -> None:
        self._inner = inner
        self._tree = tree

    def hides(self, place: Place) -> bool:
        """Whether there is a whiteout file for the name. It is shown only if the name itself is free."""
        return place.name in self.names(place.directory, split_path(place.path)[0])

    def names(self, directory: Directory, path: LayerPath) -> set[str]:
        """The names that have a whiteout file; the server is asked once."""
        known = directory.markers
        while known is None:
            changes = directory.marker_changes
            known = self.learn(directory, self._inner.list_dir(path), changes)
        return known

    def learn(self, directory: Directory, listing: list[DirEntry], changes: int) -> set[str] | None:
        """What a listing, begun when `marker_changes` was `changes`, tells; None if it is out of date."""
        with self._tree.lock:
            if directory.markers is None and directory.marker_changes == changes:
                found = {entry.name for entry in listing if entry.name.startswith(markers.PREFIX)}
                directory.opaque = markers.OPAQUE in found
                directory.markers = {name for name in map(markers.hidden_name, found) if name is not None}
            return directory.markers

    def start_empty(self, node: Node) -> None:
        """A directory was just made: there is nothing in it."""
        if isinstance(node, Directory):
            node.markers = set()

    def is_opaque(self, directory: Directory, path: LayerPath) -> bool:
        """Whether the directory has the mark."""
        self.names(directory, path)
        return directory.opaque

    def set_opaque(self, directory: Directory, path: LayerPath, *, opaque: bool) -> None:
        """Make the mark, or remove it."""
        if self.is_opaque(directory, path) == opaque:
            return
        marker = join_path(path, markers.OPAQUE)
        with self._changing(directory):
            if opaque:
                self._make(marker)
            else:
                self._remove(marker)
            directory.opaque = opaque

    def make(self, place: Place) -> None:
        """Make the whiteout file of a name, if there is none."""
        if not self.hides(place):
            with self._changing(place.directory) as names:
                self._make(markers.marker_path(place.path))
                names.add(place.name)

    def remove(self, place: Place) -> None:
        """Remove the whiteout file of a name, if there is one."""
        if self.hides(place):
            with self._changing(place.directory) as names:
                self._remove(markers.marker_path(place.path))
                names.discard(place.name)

    def move(self, old: Place, new: Place) -> None:
        """Make the whiteout file of one name that of another, which may have one."""
        self.names(new.directory, split_path(new.path)[0])
        with self._changing(old.directory) as old_names, self._changing(new.directory) as new_names:
            self._inner.rename(markers.marker_path(old.path), markers.marker_path(new.path))
            old_names.discard(old.name)
            new_names.add(new.name)

    def _make(self, path: LayerPath) -> None:
        with contextlib.suppress(FileExistsError):
            self._inner.open(path, Access.WRITE, create=Creation.EXCLUSIVE, mode=_MODE).close()

    def _remove(self, path: LayerPath) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._inner.unlink(path)

    @contextlib.contextmanager
    def _changing(self, directory: Directory) -> Iterator[set[str]]:
        """The markers as they are known. If the change fails, nobody knows what was done: they are asked for anew."""
        with self._tree.lock:
            directory.marker_changes += 1
            known = directory.markers
        try:
            yield set() if known is None else known
        except BaseException:
            with self._tree.lock:
                directory.markers = None
            raise
        finally:
            directory.marker_changes += 1
