"""Names that differ in case only, on a server that takes them for one (spellings.py)."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from netoverlay.backend_api import (
    Access,
    AttributeChange,
    Backend,
    BackendFile,
    Capabilities,
    Creation,
    DirEntry,
    FileStat,
    FileType,
    LayerPath,
    RenameFlags,
    XattrMode,
    join_path,
    os_error,
    split_path,
)
from netoverlay.backend_api.delegate import DelegatingBackend
from netoverlay.wrappers.spellings import Spellings, fold, is_marked

T = TypeVar("T")


class LetterCaseBackend(DelegatingBackend):
    """Gives `inner`, a layer that only this process changes, names that are told apart by their case.

    Where they are anyway, every call goes through as it is. Otherwise `inner` is asked by names that it lists, or that
    are free as far as anybody knows. The names of each directory that was used are kept.
    """

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner)
        self.is_needed = False
        """Once connected: `inner` takes names that differ in case only for one."""
        self._no_replace = RenameFlags.NONE
        self._lock = threading.Lock()
        self._known: dict[LayerPath, Spellings | None] = {}
        """By stored paths. None for one that must be listed anew; so what is below a directory that is not here is not
        here either."""
        self._worn: dict[LayerPath, frozenset[str]] = {}
        """By the stored paths of directories: values of fold() that no new name is to have. Samba before 4.19.2 gives
        what it makes the spelling of what it last found under the name in another case (its bug 15481)."""
        self._doubts = 0
        """Counts them, so that what was listed before one is not kept."""

    def connect(self) -> Capabilities:
        claims = self.inner.connect()
        self.is_needed = not claims.case_sensitive
        if claims.rename_noreplace:
            self._no_replace = RenameFlags.NOREPLACE
        return dataclasses.replace(claims, case_sensitive=True)

    def stat(self, path: LayerPath) -> FileStat:
        return self.inner.stat(self._stored(path))

    def list_dir(self, path: LayerPath) -> list[DirEntry]:
        if not self.is_needed:
            return self.inner.list_dir(path)
        directory = self._stored(path)
        doubts = self._doubts
        entries = self.inner.list_dir(directory)
        spellings = self._learn(directory, entries, doubts)
        return [
            DirEntry(spellings.shown(entry.name), entry.stat) if is_marked(entry.name) else entry for entry in entries
        ]

    def open(
        self,
        path: LayerPath,
        access: Access,
        *,
        create: Creation = Creation.NEVER,
        truncate: bool = False,
        mode: int = 0o600,
    ) -> BackendFile:
        def opened(stored: LayerPath) -> BackendFile:
            return self.inner.open(stored, access, create=create, truncate=truncate, mode=mode)

        return opened(self._stored(path)) if create is Creation.NEVER else self._made(path, opened)

    def readlink(self, path: LayerPath) -> str:
        return self.inner.readlink(self._stored(path))

    def mkdir(self, path: LayerPath, mode: int) -> None:
        def make(stored: LayerPath) -> None:
            self.inner.mkdir(stored, mode)
            with self._lock:
                self._known[stored] = Spellings(())

        self._made(path, make)

    def unlink(self, path: LayerPath) -> None:
        with self._leaving(path) as stored:
            self.inner.unlink(stored)

    def rmdir(self, path: LayerPath) -> None:
        with self._leaving(path) as stored:
            self.inner.rmdir(stored)
            with self._lock:
                self._drop_tree(stored)

    def rename(self, old: LayerPath, new: LayerPath, flags: RenameFlags = RenameFlags.NONE) -> None:
        if not self.is_needed or not old or not new:
            self.inner.rename(old, new, flags)
            return
        source, target = self._stored(old), self._stored_if_there(new)
        if RenameFlags.EXCHANGE in flags:
            with self._doubting(old, new):
                self.inner.rename(source, target or self._stored(new), flags)
            self._doubt_trees(source, target)
        elif target is not None:
            with self._leaving(old, stays=source == target):
                self.inner.rename(source, target, flags)
                self._move_tree(source, target)
        else:
            self._rename_to_free(old, new, flags)

    def symlink(self, path: LayerPath, target: str) -> None:
        self._made(path, lambda stored: self.inner.symlink(stored, target))

    def link(self, existing: LayerPath, new: LayerPath) -> None:
        source = self._stored(existing)
        self._made(new, lambda stored: self.inner.link(source, stored))

    def mknod(self, path: LayerPath, type: FileType, mode: int, rdev: int = 0) -> None:
        self._made(path, lambda stored: self.inner.mknod(stored, type, mode, rdev))

    def set_attributes(self, path: LayerPath, change: AttributeChange) -> None:
        self.inner.set_attributes(self._stored(path), change)

    def get_xattr(self, path: LayerPath, name: str) -> bytes:
        return self.inner.get_xattr(self._stored(path), name)

    def list_xattrs(self, path: LayerPath) -> list[str]:
        return self.inner.list_xattrs(self._stored(path))

    def set_xattr(self, path: LayerPath, name: str, value: bytes, mode: XattrMode = XattrMode.ANY) -> None:
        self.inner.set_xattr(self._stored(path), name, value, mode)

    def remove_xattr(self, path: LayerPath, name: str) -> None:
        self.inner.remove_xattr(self._stored(path), name)

    def sync_directory(self, path: LayerPath) -> None:
        self.inner.sync_directory(self._stored(path))

    def _rename_to_free(self, old: LayerPath, new: LayerPath, flags: RenameFlags) -> None:
        """The name is free here; it is for the server to say whether it is there, which must lose nothing."""

        def move(stored: LayerPath) -> None:
            source = self._stored(old)
            with self._leaving(old):
                if _is_other_case(source, stored):
                    self._wear_out(*split_path(stored))
                self.inner.rename(source, stored, flags | self._no_replace)
                self._move_tree(source, stored)

        directory, name = split_path(self._stored(old))
        leaving = name if directory == self._stored(split_path(new)[0]) else None
        try:
            self._made(new, move, leaving=leaving)
        except FileExistsError:
            target = self._stored_if_there(new)
            if target is None or flags & (RenameFlags.NOREPLACE | RenameFlags.EXCHANGE):
                raise
            self.rename(old, new, flags)  # it was made past us, and may be replaced

    def _made(self, path: LayerPath, make: Callable[[LayerPath], T], *, leaving: str | None = None) -> T:
        """What `make` returns for the path by which a new name is to be stored. EEXIST if it is there."""
        if not self.is_needed or not path:
            return make(path)
        parent, name = split_path(path)
        directory = self._stored(parent)
        while True:
            spellings = self._spellings(directory)
            known = spellings.stored(name)
            if known is not None:
                return make(join_path(directory, known))
            with self._lock:
                stored = spellings.allot(name, without=self._worn.get(directory, ()), leaving=leaving)
            try:
                made = make(join_path(directory, stored))
            except FileExistsError:
                # The server tells fewer names apart than fold(), or one was made past us: the next turn sees.
                self._wear_out(directory, stored)
                self._doubt(directory)
            except BaseException:
                self._doubt(directory)
                raise
            else:
                if self._known.get(directory) is not spellings:
                    self._doubt(directory)
                return made

    def _stored(self, path: LayerPath) -> LayerPath:
        """The path by which `inner` knows `path`. ENOENT if it would find something else there; ENOTDIR."""
        if not self.is_needed:
            return path
        stored = ""
        for name in path.split("/") if path else ():
            spellings = self._spellings(stored)
            known = spellings.stored(name)
            if known is None and (spellings.is_taken(name) or is_marked(name)):
                raise os_error(errno.ENOENT, path)
            stored = join_path(stored, known or name)
        return stored

    def _stored_if_there(self, path: LayerPath) -> LayerPath | None:
        """As _stored(); None if there is no such name in its directory."""
        parent, name = split_path(path)
        directory = self._stored(parent)
        known = self._spellings(directory).stored(name)
        return None if known is None else join_path(directory, known)

    def _spellings(self, directory: LayerPath) -> Spellings:
        """The names of a directory, by its stored path. ENOENT, ENOTDIR."""
        known = self._known.get(directory)
        if known is not None:
            return known
        doubts = self._doubts
        return self._learn(directory, self.inner.list_dir(directory), doubts)

    def _learn(self, directory: LayerPath, entries: list[DirEntry], doubts: int) -> Spellings:
        """The names of a directory that was listed when `_doubts` was `doubts`."""
        known = self._known.get(directory)
        if known is not None:
            return known
        found = Spellings([entry.name for entry in entries])
        with self._lock:
            known = self._known.get(directory)
            if known is None:
                self._known[directory] = found if doubts == self._doubts else None
        return known or found

    @contextlib.contextmanager
    def _leaving(self, path: LayerPath, *, stays: bool = False) -> Iterator[LayerPath]:
        """The stored path of a name that is removed inside."""
        stored = self._stored(path)
        with self._doubting(path):
            yield stored
        if self.is_needed and path and not stays:
            spellings = self._known.get(split_path(stored)[0])
            with self._lock:
                if spellings is not None:
                    spellings.leave(split_path(path)[1])

    @contextlib.contextmanager
    def _doubting(self, *paths: LayerPath) -> Iterator[None]:
        """If the change of these names fails, nobody knows what was done."""
        directories = [self._stored(split_path(path)[0]) for path in paths]
        try:
            yield
        except BaseException:
            for directory in directories:
                self._doubt(directory)
            raise

    def _wear_out(self, directory: LayerPath, stored: str) -> None:
        with self._lock:
            self._worn[directory] = self._worn.get(directory, frozenset()) | {fold(stored)}

    def _doubt(self, directory: LayerPath) -> None:
        """List it anew before it is used again."""
        with self._lock:
            self._doubts += 1
            if directory in self._known:
                self._known[directory] = None

    def _doubt_trees(self, *paths: LayerPath | None) -> None:
        with self._lock:
            for path in paths:
                if path is not None:
                    self._drop_tree(path)

    def _drop_tree(self, path: LayerPath) -> None:
        """The lock is held."""
        self._doubts += 1
        if path in self._known:
            for known in self._below(path):
                del self._known[known]

    def _move_tree(self, old: LayerPath, new: LayerPath) -> None:
        with self._lock:
            self._drop_tree(new)
            if old in self._known:
                for known in self._below(old):
                    self._known[new + known[len(old) :]] = self._known.pop(known)

    def _below(self, path: LayerPath) -> list[LayerPath]:
        prefix = f"{path}/"
        return [known for known in self._known if known == path or known.startswith(prefix)]


def _is_other_case(old: LayerPath, new: LayerPath) -> bool:
    """Whether the two are one name in one directory, to a server that does not tell cases apart."""
    (directory, name), (other, new_name) = split_path(old), split_path(new)
    return directory == other and fold(name) == fold(new_name)
