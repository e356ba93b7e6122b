"""A tree of inodes in memory, with the rules of POSIX for its names: what a MemoryBackend shows."""

from __future__ import annotations

import errno
import itertools
import os
import threading
import time
from dataclasses import dataclass, field

from netoverlay.backend_api import FileType, LayerPath, RenameFlags, os_error, split_path
from netoverlay.backend_api.types import NAME_ENCODING, NAME_ERRORS
from netoverlay.testing.memory_content import RangeLocks, SparseContent

MAX_NAME_BYTES = 255
WHITEOUT_DEVICE = os.makedev(0, 0)


@dataclass(eq=False, slots=True)
class Node:
    """One inode. Compared by identity."""

    type: FileType
    mode: int
    file_id: int
    uid: int
    gid: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    nlink: int = 0
    """Names that refer to this inode; for a directory without "." and ".."."""
    rdev: int = 0
    target: str = ""
    """Of a symbolic link."""
    xattrs: dict[str, bytes] = field(default_factory=dict)
    children: dict[str, Node] = field(default_factory=dict)
    content: SparseContent = field(default_factory=SparseContent)
    locks: RangeLocks = field(default_factory=RangeLocks)


class MemoryTree:
    """What outlives a backend: several MemoryBackends on one tree are several clients of one server.

    Callers hold `lock` around every call.
    """

    def __init__(self, time_granularity_ns: int = 1) -> None:
        self.lock = threading.RLock()
        self.time_granularity_ns = time_granularity_ns
        self._file_ids = itertools.count(1)
        self.root = self.make_node(FileType.DIRECTORY, 0o755)
        self.root.nlink = 1

    def now(self) -> int:
        """The time of a change, in nanoseconds, as the tree can store it."""
        return self.storable_time(time.time_ns())

    def storable_time(self, time_ns: int) -> int:
        """`time_ns` rounded down to the granularity."""
        return time_ns - time_ns % self.time_granularity_ns

    def make_node(self, type: FileType, mode: int) -> Node:
        """An inode without a name, owned by this process' user."""
        now = self.now()
        return Node(type, mode & 0o7777, next(self._file_ids), os.geteuid(), os.getegid(), now, now, now)

    def find(self, path: LayerPath) -> Node:
        """The inode at `path`. ENOENT; ENOTDIR or, for a symlink that would have to be followed, ELOOP."""
        node = self.root
        if path:
            for name in path.split("/"):
                node = self._child(node, name, path)
        return node

    def find_parent(self, path: LayerPath) -> tuple[Node, str]:
        """The directory that holds `path`, and the name there. The root has none: EBUSY."""
        parent_path, name = split_path(path)
        if not name:
            raise os_error(errno.EBUSY, path)
        parent = self.find(parent_path)
        _require_directory(parent, path)
        _check_name(name, path)
        return parent, name

    def find_entry(self, path: LayerPath) -> tuple[Node, str, Node]:
        """The directory that holds `path`, the name there and the inode of that name. ENOENT."""
        parent, name = self.find_parent(path)
        node = parent.children.get(name)
        if node is None:
            raise os_error(errno.ENOENT, path)
        return parent, name, node

    def attach(self, path: LayerPath, node: Node) -> None:
        """Give `node` the name `path`. EEXIST."""
        if not path:
            raise os_error(errno.EEXIST, path)
        parent, name = self.find_parent(path)
        if name in parent.children:
            raise os_error(errno.EEXIST, path)
        self._enter(parent, name, node)

    def detach(self, path: LayerPath, *, directory: bool) -> None:
        """Take the name `path` away: of an empty directory, or of anything else. EISDIR, ENOTDIR, ENOTEMPTY."""
        parent, name, node = self.find_entry(path)
        if directory:
            if node.type is not FileType.DIRECTORY:
                raise os_error(errno.ENOTDIR, path)
            if node.children:
                raise os_error(errno.ENOTEMPTY, path)
        elif node.type is FileType.DIRECTORY:
            raise os_error(errno.EISDIR, path)
        self._leave(parent, name)

    def rename(self, old: LayerPath, new: LayerPath, flags: RenameFlags) -> None:
        """renameat2(2)."""
        if RenameFlags.EXCHANGE in flags and flags & (RenameFlags.NOREPLACE | RenameFlags.WHITEOUT):
            raise os_error(errno.EINVAL, old)
        old_parent, old_name, moved = self.find_entry(old)
        new_parent, new_name = self.find_parent(new)
        replaced = new_parent.children.get(new_name)
        if moved.type is FileType.DIRECTORY and new.startswith(f"{old}/"):
            raise os_error(errno.EINVAL, new)
        if RenameFlags.EXCHANGE in flags:
            self._exchange((old_parent, old_name, old), (new_parent, new_name, new))
            return
        if replaced is not None:
            if RenameFlags.NOREPLACE in flags:
                raise os_error(errno.EEXIST, new)
            if replaced is moved:
                return
            _check_replaceable(moved, replaced, old, new)
            self._leave(new_parent, new_name)
        self._leave(old_parent, old_name)
        self._enter(new_parent, new_name, moved)
        if RenameFlags.WHITEOUT in flags:
            whiteout = self.make_node(FileType.CHARACTER_DEVICE, 0)
            whiteout.rdev = WHITEOUT_DEVICE
            self._enter(old_parent, old_name, whiteout)

    def _exchange(self, one: tuple[Node, str, LayerPath], other: tuple[Node, str, LayerPath]) -> None:
        (old_parent, old_name, old), (new_parent, new_name, new) = one, other
        if new_name not in new_parent.children:
            raise os_error(errno.ENOENT, new)
        if old.startswith(f"{new}/"):
            raise os_error(errno.EINVAL, old)
        moved, swapped = old_parent.children[old_name], new_parent.children[new_name]
        old_parent.children[old_name], new_parent.children[new_name] = swapped, moved
        now = self.now()
        for node in (old_parent, new_parent):
            node.mtime_ns = node.ctime_ns = now
        moved.ctime_ns = swapped.ctime_ns = now

    def _enter(self, parent: Node, name: str, node: Node) -> None:
        parent.children[name] = node
        node.nlink += 1
        node.ctime_ns = parent.mtime_ns = parent.ctime_ns = self.now()

    def _leave(self, parent: Node, name: str) -> None:
        node = parent.children.pop(name)
        node.nlink -= 1
        node.ctime_ns = parent.mtime_ns = parent.ctime_ns = self.now()

    def _child(self, parent: Node, name: str, path: LayerPath) -> Node:
        _require_directory(parent, path)
        _check_name(name, path)
        child = parent.children.get(name)
        if child is None:
            raise os_error(errno.ENOENT, path)
        return child


def _require_directory(node: Node, path: LayerPath) -> None:
    if node.type is FileType.SYMLINK:
        raise os_error(errno.ELOOP, path)
    if node.type is not FileType.DIRECTORY:
        raise os_error(errno.ENOTDIR, path)


def _check_name(name: str, path: LayerPath) -> None:
    if name in ("", ".", "..") or "\0" in name:
        raise os_error(errno.EINVAL, path)
    if len(name.encode(NAME_ENCODING, NAME_ERRORS)) > MAX_NAME_BYTES:
        raise os_error(errno.ENAMETOOLONG, path)


def _check_replaceable(moved: Node, replaced: Node, old: LayerPath, new: LayerPath) -> None:
    if replaced.type is not FileType.DIRECTORY:
        if moved.type is FileType.DIRECTORY:
            raise os_error(errno.ENOTDIR, new)
    elif old.startswith(f"{new}/"):
        raise os_error(errno.ENOTEMPTY, new)
    elif moved.type is not FileType.DIRECTORY:
        raise os_error(errno.EISDIR, new)
    elif replaced.children:
        raise os_error(errno.ENOTEMPTY, new)
