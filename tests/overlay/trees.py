"""Overlays of directories of this machine, for tests of the core without a mount; and trees written and read as dicts.

A tree is a dict: names to bytes (a file), to a dict (a directory), or to a str (a symbolic link's target).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from netoverlay.backend_api import Access, Backend, FileType, LayerUrl
from netoverlay.overlay import locks
from netoverlay.overlay.creation import Caller
from netoverlay.overlay.inodes import DirectoryInode, FileInode, Inode, Name
from netoverlay.overlay.layers import FOR_EVER_NS, UPPER_NUMBER, Layer, LayerStack, UpperLayer
from netoverlay.overlay.lazy_files import LAZY_BYTES
from netoverlay.overlay.lazy_upper import LazyUpper
from netoverlay.overlay.lock_rules import LockMode
from netoverlay.overlay.metacopy import with_data_below
from netoverlay.overlay.overlay import Overlay
from netoverlay.overlay.whiteouts import lower_format, upper_format
from netoverlay_local import PLUGIN

Tree: TypeAlias = "dict[str, bytes | str | Tree]"
ME = Caller(os.getuid(), os.getgid())

locks.check_order(True)


def write_tree(path: Path, tree: Tree) -> None:
    path.mkdir(parents=True, exist_ok=True)
    for name, content in tree.items():
        if isinstance(content, dict):
            write_tree(path / name, content)
        elif isinstance(content, str):
            (path / name).symlink_to(content)
        else:
            (path / name).write_bytes(content)


def read_tree(path: Path) -> Tree:
    tree: Tree = {}
    for entry in path.iterdir():
        if entry.is_symlink():
            tree[entry.name] = str(entry.readlink())
        elif entry.is_dir():
            tree[entry.name] = read_tree(entry)
        else:
            tree[entry.name] = entry.read_bytes() if entry.is_file() else repr(entry.stat().st_mode)
    return tree


class Mounted:
    """An overlay of the directories lower0, lower1, ... and upper of `directory`, used by path as a program would."""

    def __init__(
        self,
        directory: Path,
        *,
        upper: bool = True,
        wrap_upper: Callable[[Backend], Backend] = lambda backend: backend,
        wrap_lower: Callable[[Backend], Backend] = lambda backend: backend,
        ttl_ns: int = FOR_EVER_NS,
        shared_upper: bool = False,
        lock_mode: LockMode = LockMode.DELEGATE,
        lazy_from: int = LAZY_BYTES,
        mounted: bool = True,
    ) -> None:
        """`ttl_ns`: of the lowers. `shared_upper`: others may lock what is in the upper.

        `lazy_from`: larger files are copied lazily, from lowers that are not local. Not `mounted`: the layers are
        connected, as for a check, and nobody owns the upper.
        """
        self.directory = directory
        self.backends: list[Backend] = []
        lowers: tuple[Layer, ...] = ()
        for number, path in reversed(list(enumerate(sorted(directory.glob("lower*")), 1))):
            backend = wrap_lower(self._local(path))
            capabilities = backend.connect()
            form = lower_format(backend, capabilities)
            whole = with_data_below(backend, form, "", lowers)
            changes = ttl_ns != FOR_EVER_NS
            lowers = (Layer(number, whole, capabilities, form, path.name, "", ttl_ns, changes), *lowers)
        stacked = None
        if upper:
            (directory / "upper").mkdir(exist_ok=True)
            backend = wrap_upper(self._local(directory))
            capabilities = backend.connect()
            marks = upper_format(backend, capabilities)
            lazy = LazyUpper(backend, marks, capabilities, "upper", "upper.work", lowers, larger_than=lazy_from)
            stacked = UpperLayer(
                UPPER_NUMBER,
                lazy,
                capabilities,
                marks,
                "upper",
                "upper",
                FOR_EVER_NS,
                shared_upper,
                "upper.work",
                marks,
                lazy,
            )
        self.stack = LayerStack(stacked, lowers)
        if mounted:
            self.overlay = Overlay(self.stack, str(directory / "mnt"), lock_mode=lock_mode)

    def _local(self, path: Path) -> Backend:
        backend: Backend = PLUGIN.create(LayerUrl("file", str(path)), PLUGIN.options(), 30.0)
        self.backends.append(backend)
        return backend

    def close(self) -> None:
        self.overlay.close()
        self.abandon()

    def abandon(self) -> None:
        """As if the process had been killed."""
        for backend in self.backends:
            backend.close()

    def inode(self, path: str) -> Inode:
        inode: Inode = self.overlay.tree.root
        for name in filter(None, path.split("/")):
            assert isinstance(inode, DirectoryInode), path
            entry = self.overlay.lookup.lookup(inode, name)
            if entry is None:
                raise FileNotFoundError(path)
            inode = entry.inode
        return inode

    def name(self, path: str) -> Name:
        parent, _, name = path.rpartition("/")
        return Name(self.directory_inode(parent), name)

    def directory_inode(self, path: str) -> DirectoryInode:
        inode = self.inode(path)
        assert isinstance(inode, DirectoryInode), path
        return inode

    def file_inode(self, path: str) -> FileInode:
        inode = self.inode(path)
        assert isinstance(inode, FileInode), path
        return inode

    def read(self, path: str) -> bytes:
        handle = self.overlay.files.open(self.file_inode(path), Access.READ)
        try:
            return self.overlay.files.read(handle, 0, 1 << 24)
        finally:
            self.overlay.files.release(handle)

    def write(self, path: str, data: bytes, offset: int = 0) -> None:
        handle = self.overlay.files.open(self.file_inode(path), Access.READ_WRITE)
        try:
            self.overlay.files.write(handle, offset, data, clear_set_ids=False)
        finally:
            self.overlay.files.release(handle)

    def create(self, path: str, data: bytes = b"") -> None:
        made = self.overlay.changes().creator.create(*self.name(path), 0o644, ME)
        handle = self.overlay.files.adopt(made.inode, made.file)
        self.overlay.files.write(handle, 0, data, clear_set_ids=False)
        self.overlay.files.release(handle)

    def mkdir(self, path: str) -> None:
        self.overlay.changes().creator.mkdir(*self.name(path), 0o755, ME)

    def unlink(self, path: str) -> None:
        self.overlay.changes().remover.unlink(*self.name(path))

    def rmdir(self, path: str) -> None:
        self.overlay.changes().remover.rmdir(*self.name(path))

    def tree(self, path: str = "") -> Tree:
        """What the overlay shows."""
        directory = self.directory_inode(path)
        with directory.directory_lock:
            listing = self.overlay.lookup.list_locked(directory)
        assert len({listed.name for listed in listing}) == len(listing)
        tree: Tree = {}
        for listed in listing:
            name, stat, ino = listed.name, listed.stat, listed.ino
            below = f"{path}/{name}" if path else name
            inode = self.inode(below)
            assert (inode.type, inode.ino) == (stat.type, ino), below
            if stat.type is FileType.DIRECTORY:
                tree[name] = self.tree(below)
            elif stat.type is FileType.SYMLINK:
                tree[name] = self.overlay.files.readlink(self.file_inode(below))
            else:
                tree[name] = self.read(below)
        return tree
