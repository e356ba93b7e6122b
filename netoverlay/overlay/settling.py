"""Bring to the upper all that its lazily copied files still have in a base, so that it is whole without the base.

While the mount is in use, or without one. What is written meanwhile stays; no program sees that anything changed.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from netoverlay.backend_api import (
    BackendFile,
    FileStat,
    FileType,
    LayerPath,
    join_path,
    split_path,
)
from netoverlay.overlay.inodes import DirectoryInode, FileInode, Inode, KeptTime
from netoverlay.overlay.layers import UpperLayer
from netoverlay.overlay.lazy_file import BrokenFile, PartialFile, refuse
from netoverlay.overlay.lazy_files import LazyUsage
from netoverlay.overlay.lazy_upper import LazyUpper
from netoverlay.overlay.lookup import Lookup
from netoverlay.overlay.tree import Tree

logger = logging.getLogger(__name__)

_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ESTALE})
_ROUNDS = 10
"""How often a file is looked for that is renamed again and again."""


class Unsettled(NamedTuple):
    """A file that stays lazy."""

    path: LayerPath
    """From the root of the mount."""
    reason: str


class Settler:
    """Settles the upper of one mount."""

    def __init__(self, tree: Tree, lookup: Lookup, upper: UpperLayer, lazy: LazyUpper) -> None:
        self._tree = tree
        self._lookup = lookup
        self._upper = upper
        self._lazy = lazy

    def usage(self) -> LazyUsage:
        """What there is to settle."""
        return self._lazy.files.usage()

    def run(self, stop: Callable[[], bool], filled: Callable[[int], object]) -> list[Unsettled]:
        """Settle all files; what could not be, and why. InterruptedError once `stop` says so.

        `filled` is told the number of bytes of each piece that has come.
        """
        unsettled: dict[str, Unsettled] = {}
        for _ in range(_ROUNDS):
            if not self._lazy.files.tokens().difference(unsettled):
                break
            moves = self._lazy.moves
            found: set[str] = set()
            for path, token in self._walk():
                found.add(token)
                self._settle(path, token, stop, filled, unsettled)
            if not found.difference(unsettled):
                if moves == self._lazy.moves:
                    self._forget_all_but(found)
                break
        return list(unsettled.values())

    def _settle(
        self,
        path: LayerPath,
        token: str,
        stop: Callable[[], bool],
        filled: Callable[[int], object],
        unsettled: dict[str, Unsettled],
    ) -> None:
        try:
            with self._ctime_kept(path), self._opened(path) as file:
                if isinstance(file, BrokenFile):
                    refuse(file.reason)
                if isinstance(file, PartialFile):
                    file.complete(stop, filled)
        except InterruptedError:
            raise
        except OSError as error:
            if error.errno not in _GONE:  # else it was renamed or removed, which another look will tell
                shown = path.removeprefix(f"{self._upper.root}/")
                unsettled[token] = Unsettled(shown, error.strerror or str(error))
                logger.warning("settle: %s: %s", shown, error.strerror)

    def _forget_all_but(self, found: set[str]) -> None:
        """Drop the maps of files that are gone, after a crash. Precondition: no name has changed since the search."""
        for token in self._lazy.files.tokens().difference(found, self._lazy.files.open_tokens()):
            self._lazy.files.forget(token)

    def _walk(self) -> Iterator[tuple[LayerPath, str]]:
        """The lazily copied files of the upper, and those that only the index of hard links has: path, and token."""
        waiting = [self._upper.root, self._upper.work]
        while waiting:
            directory = waiting.pop()
            try:
                with self._tree.paths.shared():
                    entries = self._lazy.list_dir(directory)
            except (FileNotFoundError, NotADirectoryError, PermissionError):
                continue  # removed meanwhile; or overlayfs's own, which has none
            for name, stat in entries:
                path = join_path(directory, name)
                if stat.type is FileType.DIRECTORY:
                    waiting.append(path)
                elif (token := self._token(path, stat)) is not None:
                    yield path, token

    def _token(self, path: LayerPath, stat: FileStat) -> str | None:
        if stat.type is not FileType.REGULAR:
            return None
        try:
            return self._lazy.token_at(path)
        except (FileNotFoundError, NotADirectoryError):
            return None

    @contextmanager
    def _opened(self, path: LayerPath) -> Iterator[BackendFile]:
        with self._tree.paths.shared():
            file = self._lazy.open_to_complete(path)
        with file:
            yield file

    @contextmanager
    def _ctime_kept(self, path: LayerPath) -> Iterator[None]:
        """What is done inside to the file at `path` of the upper is no change for a program."""
        inode = self._inode(path)
        if inode is None:
            yield
            return
        try:
            before = self._tree.stat(inode)
            yield
            with self._tree.paths.shared():
                after = self._lazy.stat(path)
            same = (after.size, after.mtime_ns) == (before.size, before.mtime_ns)
            if same and after.ctime_ns is not None and before.ctime_ns is not None:
                inode.kept_ctime = KeptTime(after.ctime_ns, before.ctime_ns)
        finally:
            self._tree.inodes.forget(inode.nodeid)

    def _inode(self, path: LayerPath) -> FileInode | None:
        """The inode of the file at `path` of the upper, with a lookup counted; None if it has none any more."""
        parent, name = split_path(path)
        if not f"{parent}/".startswith(f"{self._upper.root}/"):
            return None
        looked_up: list[Inode] = []
        directory: Inode = self._tree.root
        try:
            for part in filter(None, parent.removeprefix(self._upper.root).split("/")):
                entry = self._lookup.lookup(directory, part) if isinstance(directory, DirectoryInode) else None
                if entry is None:
                    return None
                directory = entry.inode
                looked_up.append(directory)
            entry = self._lookup.lookup(directory, name) if isinstance(directory, DirectoryInode) else None
        finally:
            for inode in looked_up:
                self._tree.inodes.forget(inode.nodeid)
        if entry is None:
            return None
        if not isinstance(entry.inode, FileInode):
            self._tree.inodes.forget(entry.inode.nodeid)
            return None
        return entry.inode
