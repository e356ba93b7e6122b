"""Which files are open through the metadata cache, and under which names they stand now.

Attributes of a file that is open for writing are not kept: they change with every write, and a transport may apply
writes later than it returns from them. A file keeps changing after it was renamed, and through each of its names.
"""

from __future__ import annotations

import threading
from typing import Protocol

from netoverlay.backend_api.backend import BackendFile
from netoverlay.backend_api.delegate import DelegatingFile
from netoverlay.backend_api.types import AttributeChange, FileStat, LayerPath, XattrMode, split_path


class Place:
    """Where an open file stands. Only OpenFiles changes it."""

    __slots__ = ("linked", "path", "writes")

    def __init__(self, path: LayerPath, *, writes: bool, linked: bool) -> None:
        self.path: LayerPath | None = path
        """None when the name that it was opened by is gone."""
        self.writes = writes
        self.linked = linked
        """It may have other names."""

    @property
    def is_adrift(self) -> bool:
        """Whether the file may have names of which none is known."""
        return self.path is None and self.linked


class Owner(Protocol):
    """Who is told of changes through open files."""

    def file_changed(self, place: Place) -> None:
        """The attributes of the file may have changed."""

    def file_revalidated(self, place: Place) -> None:
        """What others changed of the file, and of the names beside it, is to be seen from now on."""

    def file_closed(self, place: Place) -> None:
        """The file is closed below, or lost."""


class TrackedFile(DelegatingFile):
    """An open file whose changes its owner is told of."""

    def __init__(self, inner: BackendFile, owner: Owner, place: Place) -> None:
        super().__init__(inner)
        self._owner = owner
        self._place = place

    def close(self) -> None:
        try:
            self.inner.close()
        finally:
            self._owner.file_closed(self._place)

    def revalidate(self) -> FileStat:
        try:
            return self.inner.revalidate()
        finally:
            self._owner.file_revalidated(self._place)

    def set_attributes(self, change: AttributeChange) -> None:
        try:
            self.inner.set_attributes(change)
        finally:
            self._owner.file_changed(self._place)

    def set_xattr(self, name: str, value: bytes, mode: XattrMode = XattrMode.ANY) -> None:
        try:
            self.inner.set_xattr(name, value, mode)
        finally:
            self._owner.file_changed(self._place)

    def remove_xattr(self, name: str) -> None:
        try:
            self.inner.remove_xattr(name)
        finally:
            self._owner.file_changed(self._place)


class OpenFiles:
    """The places of the open files of one backend; thread-safe. Its lock is a leaf."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._places: dict[LayerPath, list[Place]] = {}
        self._linked_writers = 0
        self._adrift_writers = 0

    @property
    def shared_files_change(self) -> bool:
        """Whether a file that may have several names is open for writing."""
        return self._linked_writers > 0

    @property
    def names_unknown(self) -> bool:
        """Whether a file is open for writing that may have names of which none is known."""
        return self._adrift_writers > 0

    def add(self, path: LayerPath, *, writes: bool, linked: bool) -> Place:
        """A file is about to be opened. Before it is, so that a rename in between is not missed."""
        place = Place(path, writes=writes, linked=linked)
        with self._lock:
            self._places.setdefault(path, []).append(place)
            self._count(place, 1)
        return place

    def remove(self, place: Place) -> None:
        """The file is closed. Twice is harmless."""
        with self._lock:
            self._count(place, -1)
            places = self._places.get(place.path, []) if place.path is not None else []
            if place in places:
                places.remove(place)
            if place.path is not None and not places:
                self._places.pop(place.path, None)
            place.path, place.writes, place.linked = None, False, False

    def is_written(self, path: LayerPath) -> bool:
        """Whether the file at `path` is open for writing."""
        with self._lock:
            return any(place.writes for place in self._places.get(path, ()))

    def any_written(self) -> bool:
        """Whether any file that has a name is open for writing."""
        with self._lock:
            return any(place.writes for places in self._places.values() for place in places)

    def written_in(self, directory: LayerPath) -> list[str]:
        """The names in `directory` that are open for writing."""
        with self._lock:
            written = [path for path, places in self._places.items() if any(place.writes for place in places)]
        return [name for parent, name in map(split_path, written) if parent == directory]

    def linked(self, path: LayerPath) -> None:
        """The file at `path` is about to get another name."""
        with self._lock:
            for place in self._places.get(path, ()):
                self._set(place, path, linked=True)

    def gone(self, path: LayerPath) -> None:
        """The name was removed, or taken by another file."""
        with self._lock:
            for place in self._places.pop(path, []):
                self._set(place, None, linked=place.linked)

    def moved(self, old: LayerPath, new: LayerPath, *, exchange: bool) -> None:
        """What stood at `old` and below stands at `new`; for an exchange also the other way round."""
        with self._lock:
            there = self._take_tree(new) if exchange else {}
            here = self._take_tree(old)
            self._put_tree(here, old, new)
            self._put_tree(there, new, old)

    def lost(self, *tops: LayerPath) -> None:
        """Nobody knows under which names the files at `tops` and below stand."""
        with self._lock:
            for top in tops:
                for places in self._take_tree(top).values():
                    for place in places:
                        self._set(place, None, linked=True)

    def _take_tree(self, top: LayerPath) -> dict[LayerPath, list[Place]]:
        prefix = f"{top}/"
        paths = [path for path in self._places if path == top or path.startswith(prefix)]
        return {path: self._places.pop(path) for path in paths}

    def _put_tree(self, tree: dict[LayerPath, list[Place]], old: LayerPath, new: LayerPath) -> None:
        for path, places in tree.items():
            moved = new + path[len(old) :]
            for place in places:
                place.path = moved
            self._places.setdefault(moved, []).extend(places)

    def _set(self, place: Place, path: LayerPath | None, *, linked: bool) -> None:
        self._count(place, -1)
        place.path, place.linked = path, linked
        self._count(place, 1)

    def _count(self, place: Place, step: int) -> None:
        if place.writes and place.linked:
            self._linked_writers += step
            if place.path is None:
                self._adrift_writers += step
