"""A layer in memory that has every capability but a descriptor, or as few as a test asks for."""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Sequence

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
    NamedEntry,
    RenameFlags,
    SpaceUsage,
    XattrMode,
    os_error,
)
from netoverlay.testing.memory_file import MemoryFile
from netoverlay.testing.memory_node import DEVICES, NodeView
from netoverlay.testing.memory_tree import MAX_NAME_BYTES, WHITEOUT_DEVICE, MemoryTree, Node

ALL_CAPABILITIES = Capabilities(
    writable=True,
    modes=True,
    owners=True,
    symlinks=True,
    hard_links=True,
    special_files=True,
    devices=True,
    whiteout_devices=True,
    xattrs=True,
    privileged_xattrs=True,
    file_ids=True,
    link_counts=True,
    atomic_replace=True,
    rename_noreplace=True,
    rename_exchange=True,
    rename_whiteout=True,
    holes=True,
    allocate=True,
    server_copy=True,
    locks=True,
    time_granularity_ns=1,
    max_name_bytes=MAX_NAME_BYTES,
)
READ_ONLY_CAPABILITIES = dataclasses.replace(ALL_CAPABILITIES, writable=False)
SPACE = SpaceUsage(
    total_bytes=1 << 40,
    free_bytes=1 << 39,
    available_bytes=1 << 39,
    total_files=1 << 20,
    free_files=1 << 19,
    block_size=4096,
    max_name_bytes=MAX_NAME_BYTES,
)


class MemoryBackend(Backend):
    """Shows `tree`, by default an empty one of its own, with the given capabilities.

    What is not claimed raises NotSupportedError, or is None in a FileStat. There are no permission checks: whoever
    calls may do everything. To prepare a read-only layer, fill its tree through a second, writable backend; to
    mount the same content again, give the tree to a second backend.
    """

    def __init__(self, capabilities: Capabilities = ALL_CAPABILITIES, tree: MemoryTree | None = None) -> None:
        self.tree = MemoryTree(capabilities.time_granularity_ns) if tree is None else tree
        self.capabilities = capabilities
        self._view = NodeView(self.tree, capabilities)
        self._connected = False
        self._files: set[MemoryFile] = set()

    def connect(self) -> Capabilities:
        self._connected = True
        return self.capabilities

    def close(self) -> None:
        with self.tree.lock:
            self._connected = False
            for file in list(self._files):
                file.close()

    def identity(self) -> str:
        return f"memory://{id(self.tree):x}"

    def space_usage(self) -> SpaceUsage:
        with self.tree.lock:
            self._find("")
            return SPACE

    def stat(self, path: LayerPath) -> FileStat:
        with self.tree.lock:
            return self._view.stat(self._find(path))

    def list_dir(self, path: LayerPath) -> list[DirEntry]:
        with self.tree.lock:
            node = self._find(path)
            if node.type is not FileType.DIRECTORY:
                raise os_error(errno.ENOTDIR, path)
            return [DirEntry(name, self._view.stat(child)) for name, child in node.children.items()]

    def list_names(self, paths: Sequence[LayerPath]) -> list[list[NamedEntry] | OSError]:
        """With attributes, or with `names_first` without any."""
        return [
            found
            if isinstance(found, OSError) or not self.capabilities.names_first
            else [entry._replace(stat=None) for entry in found]
            for found in super().list_names(paths)
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
        with self.tree.lock:
            if access.writes or truncate or create is Creation.EXCLUSIVE:
                self._view.require_writable("open for writing")
            if create is Creation.EXCLUSIVE:
                node = self._create(path, FileType.REGULAR, mode)
            else:
                node = self._find(path)
                _check_regular(node, path)
            if truncate:
                node.content.truncate(0)
                node.mtime_ns = node.ctime_ns = self.tree.now()
            file = MemoryFile(self.tree, node, access, self.capabilities, view=self._view, on_close=self._files.discard)
            self._files.add(file)
            return file

    def readlink(self, path: LayerPath) -> str:
        with self.tree.lock:
            self._view.require(self.capabilities.symlinks, "readlink")
            node = self._find(path)
            if node.type is not FileType.SYMLINK:
                raise os_error(errno.EINVAL, path)
            return node.target

    def mkdir(self, path: LayerPath, mode: int) -> None:
        with self.tree.lock:
            self._view.require_writable("mkdir")
            self._create(path, FileType.DIRECTORY, mode)

    def unlink(self, path: LayerPath) -> None:
        with self.tree.lock:
            self._view.require_writable("unlink")
            self._check_connected()
            self.tree.detach(path, directory=False)

    def rmdir(self, path: LayerPath) -> None:
        with self.tree.lock:
            self._view.require_writable("rmdir")
            self._check_connected()
            self.tree.detach(path, directory=True)

    def rename(self, old: LayerPath, new: LayerPath, flags: RenameFlags = RenameFlags.NONE) -> None:
        claims = self.capabilities
        with self.tree.lock:
            self._view.require_writable("rename")
            for flag, claimed in (
                (RenameFlags.NOREPLACE, claims.rename_noreplace),
                (RenameFlags.EXCHANGE, claims.rename_exchange),
                (RenameFlags.WHITEOUT, claims.rename_whiteout),
            ):
                self._view.require(claimed or flag not in flags, f"rename({flag.name})")
            self._check_connected()
            self.tree.rename(old, new, flags)

    def symlink(self, path: LayerPath, target: str) -> None:
        with self.tree.lock:
            self._view.require_writable("symlink")
            self._view.require(self.capabilities.symlinks, "symlink")
            if not target:
                raise os_error(errno.ENOENT, path)
            self._create(path, FileType.SYMLINK, 0o777).target = target

    def link(self, existing: LayerPath, new: LayerPath) -> None:
        with self.tree.lock:
            self._view.require_writable("link")
            self._view.require(self.capabilities.hard_links, "link")
            node = self._find(existing)
            if node.type is FileType.DIRECTORY:
                raise os_error(errno.EPERM, existing)
            self.tree.attach(new, node)

    def mknod(self, path: LayerPath, type: FileType, mode: int, rdev: int = 0) -> None:
        claims = self.capabilities
        with self.tree.lock:
            self._view.require_writable("mknod")
            if type in (FileType.FIFO, FileType.SOCKET):
                self._view.require(claims.special_files, f"mknod of a {type.name}")
            elif type in DEVICES:
                whiteout = type is FileType.CHARACTER_DEVICE and rdev == WHITEOUT_DEVICE
                self._view.require(claims.whiteout_devices if whiteout else claims.devices, f"mknod of a {type.name}")
            else:
                raise os_error(errno.EINVAL, path)
            self._create(path, type, mode).rdev = rdev if type in DEVICES else 0

    def set_attributes(self, path: LayerPath, change: AttributeChange) -> None:
        with self.tree.lock:
            self._view.set_attributes(self._find(path), change)

    def get_xattr(self, path: LayerPath, name: str) -> bytes:
        with self.tree.lock:
            return self._view.get_xattr(self._find(path), name)

    def list_xattrs(self, path: LayerPath) -> list[str]:
        with self.tree.lock:
            return self._view.list_xattrs(self._find(path))

    def set_xattr(self, path: LayerPath, name: str, value: bytes, mode: XattrMode = XattrMode.ANY) -> None:
        with self.tree.lock:
            self._view.set_xattr(self._find(path), name, value, mode)

    def remove_xattr(self, path: LayerPath, name: str) -> None:
        with self.tree.lock:
            self._view.remove_xattr(self._find(path), name)

    def _check_connected(self) -> None:
        if not self._connected:
            raise OSError(errno.ENOTCONN, "the memory backend is not connected: call connect() first")

    def _find(self, path: LayerPath) -> Node:
        self._check_connected()
        return self.tree.find(path)

    def _create(self, path: LayerPath, type: FileType, mode: int) -> Node:
        self._check_connected()
        node = self.tree.make_node(type, mode)
        self.tree.attach(path, node)
        return node


def _check_regular(node: Node, path: LayerPath) -> None:
    if node.type is FileType.DIRECTORY:
        raise os_error(errno.EISDIR, path)
    if node.type is FileType.SYMLINK:
        raise os_error(errno.ELOOP, path)
    if node.type is not FileType.REGULAR:
        raise os_error(errno.ENXIO, path)
