"""Whiteouts and opaque directories: what a server's directory says of them, kept in memory, and changed there."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator
from typing import NamedTuple

from netoverlay.backend_api import (
    Access,
    Backend,
    Creation,
    DirEntry,
    FileType,
    LayerPath,
    UnavailableError,
    join_path,
    split_path,
)
from netoverlay.backend_api.types import NAME_ENCODING, NAME_ERRORS
from netoverlay.wrappers.sidecar import markers
from netoverlay.wrappers.sidecar.nodes import Directory, Node, Place, Tree

_MODE = 0o644
_DIRECTORY_MODE = 0o755


def make_empty(backend: Backend, path: LayerPath, mode: int) -> None:
    """Make an empty file. FileExistsError.

    It is there once it was opened: a connection that is lost before it is closed has nothing of it to lose.
    """
    file = backend.open(path, Access.WRITE, create=Creation.EXCLUSIVE, mode=mode)
    with contextlib.suppress(UnavailableError):
        file.close()


class Marked(NamedTuple):
    """What the marker files in a directory say."""

    hidden: dict[str, bool]
    """The names that have a whiteout file, and whether that is in the directory for long names."""
    opaque: bool


class Marks:
    """The marker files of one upper. A name's are changed by whoever holds the name."""

    def __init__(self, inner: Backend, tree: Tree, max_name_bytes: int) -> None:
        """`max_name_bytes`: the server's."""
        self._inner = inner
        self._tree = tree
        self._max_hidden_bytes = max_name_bytes - len(markers.PREFIX)

    def hides(self, place: Place) -> bool:
        """Whether there is a whiteout file for the name. It is shown only if the name itself is free."""
        return place.name in self.names(place.directory, split_path(place.path)[0])

    def names(self, directory: Directory, path: LayerPath) -> dict[str, bool]:
        """The names that have a whiteout file, as in Marked; the server is asked once."""
        known = directory.markers
        while known is None:
            changes = directory.marker_changes
            known = self.learn(directory, self.read(path, self._inner.list_dir(path)), changes)
        return known

    def read(self, path: LayerPath, listing: list[DirEntry]) -> Marked:
        """What the markers in a listing of `path` say; that of the directory for long names is asked for."""
        found = {entry.name: entry.stat.type for entry in listing if markers.is_marker(entry.name)}
        hidden = {name: False for name in map(markers.hidden_name, found) if name is not None}
        if found.get(markers.LONG_DIRECTORY) is FileType.DIRECTORY:
            with contextlib.suppress(FileNotFoundError):  # its last whiteout has just been removed
                long = self._inner.list_dir(join_path(path, markers.LONG_DIRECTORY))
                hidden |= {entry.name: True for entry in long}
        return Marked(hidden, markers.OPAQUE in found)

    def learn(self, directory: Directory, marked: Marked, changes: int) -> dict[str, bool] | None:
        """What a listing, begun when `marker_changes` was `changes`, tells; None if it is out of date."""
        with self._tree.lock:
            if directory.markers is None and directory.marker_changes == changes:
                directory.markers, directory.opaque = marked
            return directory.markers

    def start_empty(self, node: Node) -> None:
        """A directory was just made: there is nothing in it."""
        if isinstance(node, Directory):
            node.markers = {}

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
                names[place.name] = self._put(place, self._make)

    def remove(self, place: Place) -> None:
        """Remove the whiteout file of a name, if there is one."""
        if self.hides(place):
            with self._changing(place.directory) as names:
                is_long = names.get(place.name, False)
                self._remove(_marker_path(place.path, is_long=is_long))
                names.pop(place.name, None)
                if is_long:
                    self._remove_long_directory(place, names)

    def move(self, old: Place, new: Place) -> None:
        """Make the whiteout file of one name that of another, which may have one."""
        self.names(new.directory, split_path(new.path)[0])
        with self._changing(old.directory) as old_names, self._changing(new.directory) as new_names:
            was_long = old_names.get(old.name, False)
            source = _marker_path(old.path, is_long=was_long)
            is_long = self._put(new, lambda path: self._inner.rename(source, path))
            old_names.pop(old.name, None)
            new_names[new.name] = is_long
            if was_long:
                self._remove_long_directory(old, old_names)

    def _put(self, place: Place, put: Callable[[LayerPath], None]) -> bool:
        """Call `put` with where the whiteout file of a name is to be: whether that is in the directory for long ones.

        What is too long is for the server to say: some of them store characters in more bytes than we count.
        """
        if len(place.name.encode(NAME_ENCODING, NAME_ERRORS)) <= self._max_hidden_bytes:
            try:
                put(_marker_path(place.path, is_long=False))
            except OSError as error:
                if error.errno != errno.ENAMETOOLONG:
                    raise
            else:
                return False
        path = _marker_path(place.path, is_long=True)
        with contextlib.suppress(FileExistsError):
            self._inner.mkdir(split_path(path)[0], _DIRECTORY_MODE)
        put(path)
        return True

    def _make(self, path: LayerPath) -> None:
        with contextlib.suppress(FileExistsError):
            make_empty(self._inner, path, _MODE)

    def _remove(self, path: LayerPath) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._inner.unlink(path)

    def _remove_long_directory(self, place: Place, names: dict[str, bool]) -> None:
        if not any(names.values()):
            with contextlib.suppress(OSError):  # somebody may be about to use it; and an empty one says nothing
                self._inner.rmdir(join_path(split_path(place.path)[0], markers.LONG_DIRECTORY))

    @contextlib.contextmanager
    def _changing(self, directory: Directory) -> Iterator[dict[str, bool]]:
        """The markers as they are known. If the change fails, nobody knows what was done: they are asked for anew."""
        with self._tree.lock:
            directory.marker_changes += 1
            known = directory.markers
        try:
            yield {} if known is None else known
        except BaseException:
            with self._tree.lock:
                directory.markers = None
            raise
        finally:
            directory.marker_changes += 1


def _marker_path(path: LayerPath, *, is_long: bool) -> LayerPath:
    return markers.long_marker_path(path) if is_long else markers.marker_path(path)
