"""The tree in memory: which node a name leads to, what is known of the node, and who is changing a name.

Only what was seen or made through the wrapper is in it. One lock guards all of it, and with it the order of the
journal; nothing is asked of a server under it. Instead a name is held while the server is asked to change it: others
who come to it, or to what is below it, wait.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from netoverlay.backend_api.types import FileType, LayerPath, join_path, split_path
from netoverlay.backend_api.waiting import about_to_wait

ROOT_NUMBER = 1


class Node:
    """One file, under however many names. What is None is as the server tells. Guarded by the tree's lock."""

    __slots__ = (
        "atime_ns",
        "ctime_ns",
        "gid",
        "links",
        "mode",
        "mtime_ns",
        "named_at",
        "number",
        "rdev",
        "settled",
        "target",
        "type",
        "uid",
        "xattrs",
    )

    def __init__(self, number: int) -> None:
        self.number = number
        """Its file id."""
        self.type: FileType | None = None
        """Of what is an empty regular file on the server."""
        self.rdev: int | None = None
        self.target: str | None = None
        """Of a symbolic link that the server cannot hold."""
        self.mode: int | None = None
        self.uid: int | None = None
        self.gid: int | None = None
        self.atime_ns: int | None = None
        self.mtime_ns: int | None = None
        self.ctime_ns: int | None = None
        self.xattrs: dict[str, bytes] | None = None
        """None as long as there never was one: most have none, and a dict is large."""
        self.links = 0
        self.settled = True
        """False while it, or what is in it, is being changed: its times are not recorded, so that a crash leaves it the
        server's."""
        self.named_at = 0
        """When the journal got its newest name (Journal.position)."""


class Directory(Node):
    """A directory, and what is known of its names."""

    __slots__ = ("entries", "listings", "marker_changes", "markers", "name", "opaque", "parent", "unsettled")

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.entries: dict[str, Node] = {}
        self.parent: Directory | None = None
        self.name = ""
        self.markers: dict[str, bool] | None = None
        """The names that have a whiteout file, as in marks.py; None if the server was not asked yet."""
        self.opaque = False
        """Means nothing as long as `markers` is None."""
        self.marker_changes = 0
        """Counts them, so that a listing which began before one is not taken for the state after it."""
        self.listings: list[set[str]] = []
        """For each listing under way: the names that are changed meanwhile."""
        self.unsettled: dict[str, int] = {}
        """Names that were removed: when the journal got to know that it was done."""


class Place(NamedTuple):
    """A name in a directory."""

    directory: Directory
    name: str
    path: LayerPath


class UnknownDirectoryError(Exception):
    """The tree does not have a directory that may be on the server."""

    def __init__(self, path: LayerPath) -> None:
        super().__init__(path)
        self.path = path


class Tree:
    """All nodes. Methods take the lock themselves; it may be held already."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.root = Directory(ROOT_NUMBER)
        self.root.links = 1
        self.next_number = ROOT_NUMBER + 1
        self._changed = threading.Condition(self.lock)
        self._busy: dict[tuple[Directory, str], int] = {}

    def number(self) -> int:
        """One that was never used."""
        with self.lock:
            number = self.next_number
            self.next_number += 1
            return number

    def find(self, path: LayerPath) -> Node | None:
        """The node at `path`, None if the tree has none. Waits while others change a name on the way."""
        with self._changed:
            while self._is_busy(path):
                about_to_wait()
                self._changed.wait()
            return self._walk(path)

    def is_still(self, path: LayerPath, node: Node | None) -> bool:
        """Whether find() would say the same, without waiting."""
        with self.lock:
            return not self._is_busy(path) and self._walk(path) is node

    @contextmanager
    def holding(self, *paths: LayerPath) -> Iterator[list[Place]]:
        """Hold names, all at once, so that no other thread uses them inside. UnknownDirectoryError."""
        places = self._hold(paths)
        try:
            yield places
        finally:
            with self._changed:
                for place in places:
                    self._busy.pop((place.directory, place.name), None)
                self._changed.notify_all()

    @contextmanager
    def listing(self, directory: Directory) -> Iterator[set[str]]:
        """Around the listing of a directory: the names that others change meanwhile."""
        with self.lock:
            seen = {name for where, name in self._busy if where is directory}
            directory.listings.append(seen)
        try:
            yield seen
        finally:
            with self.lock:
                directory.listings = [other for other in directory.listings if other is not seen]

    def path_of(self, directory: Directory) -> LayerPath:
        """Where a directory is. FileNotFoundError if it was removed."""
        with self.lock:
            names = []
            while directory is not self.root:
                if directory.parent is None:
                    raise FileNotFoundError(directory.name)
                names.append(directory.name)
                directory = directory.parent
            return "/".join(reversed(names))

    def enter(self, directory: Directory, name: str, node: Node) -> None:
        """Let the name lead to the node, and no longer to what it led to. ValueError for a directory in itself."""
        with self.lock:
            self._make_room(directory, name, node)
            directory.entries[name] = node
            node.links += 1
            if isinstance(node, Directory):
                node.parent, node.name = directory, name

    def _make_room(self, directory: Directory, name: str, node: Node) -> None:
        above: Directory | None = directory
        while isinstance(node, Directory) and above is not None:
            if above is node:
                raise ValueError(f"{name!r} would be a directory in itself")
            above = above.parent
        if isinstance(node, Directory) and node.parent is not None:  # it has one name
            self.leave(node.parent, node.name)
        self.leave(directory, name)

    def leave(self, directory: Directory, name: str) -> None:
        """Let the name lead to nothing."""
        with self.lock:
            node = directory.entries.pop(name, None)
            if node is not None:
                node.links -= 1
                if isinstance(node, Directory):
                    node.parent = None

    def move(self, old: tuple[Directory, str], new: tuple[Directory, str]) -> None:
        """As rename(2)."""
        with self.lock:
            node = old[0].entries.get(old[1])
            self.leave(*old)
            self.leave(*new)
            if node is not None:
                self.enter(*new, node)

    def swap(self, one: tuple[Directory, str], other: tuple[Directory, str]) -> None:
        """As rename(2) with RENAME_EXCHANGE."""
        with self.lock:
            nodes = [directory.entries.get(name) for directory, name in (one, other)]
            for place in (one, other):
                self.leave(*place)
            for place, node in zip((other, one), nodes, strict=True):
                if node is not None:
                    self.enter(*place, node)

    def live(self) -> Iterator[tuple[Directory, str, Node]]:
        """Every name, those of a directory after its own. The lock is held."""
        stack = [self.root]
        while stack:
            directory = stack.pop()
            for name, node in directory.entries.items():
                yield directory, name, node
                if isinstance(node, Directory):
                    stack.append(node)

    def _hold(self, paths: Iterable[LayerPath]) -> list[Place]:
        me = threading.get_ident()
        with self._changed:
            while any(self._is_busy(path) for path in paths):
                about_to_wait()
                self._changed.wait()
            places = [self._place(path) for path in paths]
            for place in places:
                self._busy[place.directory, place.name] = me
                for seen in place.directory.listings:
                    seen.add(place.name)
            return places

    def _place(self, path: LayerPath) -> Place:
        parent, name = split_path(path)
        directory = self._walk(parent)
        if not isinstance(directory, Directory):
            raise UnknownDirectoryError(parent)
        return Place(directory, name, path)

    def _walk(self, path: LayerPath) -> Node | None:
        node: Node | None = self.root
        for name in path.split("/") if path else ():
            if not isinstance(node, Directory):
                return None
            node = node.entries.get(name)
        return node

    def _is_busy(self, path: LayerPath) -> bool:
        """Whether another thread holds a name on the way."""
        if not self._busy:
            return False
        me = threading.get_ident()
        node: Node | None = self.root
        for name in path.split("/") if path else ():
            if not isinstance(node, Directory):
                return False
            if self._busy.get((node, name), me) != me:
                return True
            node = node.entries.get(name)
        return False


def place_path(tree: Tree, place: tuple[Directory, str]) -> LayerPath:
    """Where a name is now. FileNotFoundError if its directory was removed."""
    return join_path(tree.path_of(place[0]), place[1])
