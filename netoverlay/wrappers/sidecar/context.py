"""What the parts of the wrapper share, once it is connected."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from netoverlay.backend_api import Backend, Capabilities, FileStat, FileType, LayerPath, os_error, split_path
from netoverlay.backend_api.types import NAME_ENCODING, NAME_ERRORS
from netoverlay.wrappers.sidecar import markers
from netoverlay.wrappers.sidecar.attributes import WHITEOUT, Attributes
from netoverlay.wrappers.sidecar.journal import Journal
from netoverlay.wrappers.sidecar.marks import Marks
from netoverlay.wrappers.sidecar.nodes import Directory, Node, Place, Tree, UnknownDirectoryError
from netoverlay.wrappers.sidecar.recovery import Recovery


@dataclass(frozen=True, slots=True)
class Found:
    """What stands at a name that is held."""

    stat: FileStat | None
    """As it is shown; None for a name that is free."""
    node: Node | None
    """None also for a whiteout."""

    @property
    def is_whiteout(self) -> bool:
        return self.stat is WHITEOUT

    @property
    def is_directory(self) -> bool:
        return self.stat is not None and self.stat.type is FileType.DIRECTORY


class Context:
    """One connected upper."""

    def __init__(self, inner: Backend, claims: Capabilities, directory: LayerPath, journal: Journal) -> None:
        """`claims` are the server's; `directory` is the work directory. The journal is loaded."""
        self.inner = inner
        self.journal = journal
        self.tree: Tree = journal.tree
        self._max_name_bytes = claims.max_name_bytes
        self.attributes = Attributes(journal, claims)
        self.marks = Marks(inner, self.tree, claims.max_name_bytes)
        self.recovery = Recovery(inner, directory, journal, self.marks)

    def check_path(self, path: LayerPath) -> None:
        """ENOENT for what is never shown; ENAMETOOLONG for what the server cannot have."""
        if len(path) * 4 > self._max_name_bytes:  # no character has more than four bytes
            for name in path.split("/"):
                if len(name.encode(NAME_ENCODING, NAME_ERRORS)) > self._max_name_bytes:
                    raise os_error(errno.ENAMETOOLONG, path)
        if markers.leads_to_marker(path):
            raise os_error(errno.ENOENT, path)

    def check_new(self, path: LayerPath) -> None:
        """As check_path(), and EPERM for a name that would be taken for a marker."""
        parent, name = split_path(path)
        self.check_path(parent)
        if markers.is_marker(name):
            raise os_error(errno.EPERM, path)
        self.check_path(path)

    def stat(self, path: LayerPath) -> FileStat:
        """What is shown at `path`. ENOENT, ENOTDIR."""
        return self.look_up(path)[0]

    def look_up(self, path: LayerPath) -> tuple[FileStat, Node | None]:
        """What is shown at `path`, and the node that is there: None for a whiteout."""
        while True:
            node = self.tree.find(path)
            try:
                told = self.inner.stat(path)
            except FileNotFoundError:
                if path and self._is_whiteout(path):
                    return WHITEOUT, None
                if self.tree.is_still(path, node):
                    raise
                continue
            with self.tree.lock:
                if self.tree.is_still(path, node):
                    node = self._adopt_path(path, told)
                    return self.attributes.shown(node, told), node

    def node(self, path: LayerPath) -> Node:
        """The node at `path`; the server is asked only for what the tree does not have. EPERM for a whiteout."""
        node = self.tree.find(path) or self.look_up(path)[1]
        if node is None:
            raise os_error(errno.EPERM, path)
        return node

    def directory(self, path: LayerPath) -> Directory:
        """The directory at `path`. ENOENT, ENOTDIR."""
        node = self.tree.find(path)
        if not isinstance(node, Directory):
            node = self.look_up(path)[1]
        if not isinstance(node, Directory):
            raise os_error(errno.ENOTDIR, path)
        return node

    @contextmanager
    def holding(self, *paths: LayerPath) -> Iterator[list[Place]]:
        """Hold names, with every change of names before it settled. ENOENT, ENOTDIR of their directories."""
        self.recovery.settle()
        places: list[Place] | None = None
        while places is None:
            try:
                with self.tree.holding(*paths) as places:
                    self.recovery.settle()
                    yield places
            except UnknownDirectoryError as unknown:
                if places is not None:
                    raise
                self.directory(unknown.path)

    def found(self, place: Place) -> Found:
        """What stands at a name that the caller holds."""
        try:
            told = self.inner.stat(place.path)
        except FileNotFoundError:
            return Found(WHITEOUT, None) if self.marks.hides(place) else Found(None, None)
        with self.tree.lock:
            node = self.adopt(place.directory, place.name, told)
            return Found(self.attributes.shown(node, told), node)

    def adopt(self, directory: Directory, name: str, told: FileStat) -> Node:
        """The node of a name at which the server has `told`; a new one if it is not known. The tree's lock is held."""
        node = directory.entries.get(name)
        is_directory = told.type is FileType.DIRECTORY
        if node is None or isinstance(node, Directory) != is_directory:
            node = self.new_node(directory=is_directory)
            self.journal.add_name(directory, name, node)
        return node

    def new_node(self, *, directory: bool = False) -> Node:
        """A node without a name."""
        return (Directory if directory else Node)(self.tree.number())

    def _adopt_path(self, path: LayerPath, told: FileStat) -> Node:
        """As adopt(), with all directories on the way. The tree's lock is held."""
        node: Node = self.tree.root
        names = path.split("/") if path else []
        for position, name in enumerate(names, 1):
            if not isinstance(node, Directory):
                raise os_error(errno.ENOTDIR, path)
            is_last = position == len(names)
            known = node.entries.get(name)
            if is_last or not isinstance(known, Directory):
                known = self.adopt(node, name, told if is_last else _A_DIRECTORY)
            node = known
        return node

    def _is_whiteout(self, path: LayerPath) -> bool:
        parent, name = split_path(path)
        return self.marks.hides(Place(self.directory(parent), name, path))


_A_DIRECTORY = FileStat(FileType.DIRECTORY, 0, None, None, None, 0)
