"""An open file of a MemoryBackend."""

from __future__ import annotations

import errno
from collections.abc import Callable

from netoverlay.backend_api import (
    Access,
    AllocateMode,
    AttributeChange,
    BackendFile,
    Capabilities,
    FileStat,
    LockKind,
    Readable,
    Writable,
    XattrMode,
    os_error,
)
from netoverlay.backend_api.delegate import DelegatingFile
from netoverlay.testing.memory_node import NodeView
from netoverlay.testing.memory_tree import MemoryTree, Node

COPY_CHUNK_BYTES = 1 << 20
MAX_FILE_BYTES = 2**63 - 1


class MemoryFile(BackendFile):
    """Stays usable when its node has lost its names, until it or its backend is closed."""

    def __init__(
        self,
        tree: MemoryTree,
        node: Node,
        access: Access,
        claims: Capabilities,
        *,
        view: NodeView,
        on_close: Callable[[MemoryFile], None],
    ) -> None:
        self.tree = tree
        self._node = node
        self._access = access
        self._claims = claims
        self._view = view
        self._on_close = on_close
        self._open = True

    def read_into(self, offset: int, buffer: Writable) -> int:
        with self.tree.lock:
            node = self.checked_node(reads=True)
            _check_range(offset, len(buffer))
            return node.content.read_into(offset, buffer)

    def stat(self) -> FileStat:
        with self.tree.lock:
            return self._view.stat(self.checked_node())

    def close(self) -> None:
        with self.tree.lock:
            if self._open:
                self._open = False
                self._node.locks.release(self)
                self._on_close(self)

    def write_at(self, offset: int, data: Readable) -> None:
        with self.tree.lock:
            self._view.require_writable("write")
            node = self.checked_node(writes=True)
            _check_range(offset, len(data))
            node.content.write(offset, data)
            self._changed()

    def truncate(self, size: int) -> None:
        with self.tree.lock:
            self._view.require_writable("truncate")
            node = self.checked_node(writes=True)
            _check_range(size, 0)
            node.content.truncate(size)
            self._changed()

    def sync(self, *, data_only: bool = False) -> None:  # noqa: ARG002 - memory keeps data and attributes alike
        self._view.require_writable("sync")
        self.checked_node()

    def set_attributes(self, change: AttributeChange) -> None:
        with self.tree.lock:
            self._view.set_attributes(self.checked_node(), change)

    def seek_data(self, offset: int) -> int:
        with self.tree.lock:
            self._view.require(self._claims.holes, "seek_data")
            return self.checked_node().content.seek_data(offset)

    def seek_hole(self, offset: int) -> int:
        with self.tree.lock:
            self._view.require(self._claims.holes, "seek_hole")
            return self.checked_node().content.seek_hole(offset)

    def allocate(self, mode: AllocateMode, offset: int, length: int) -> None:
        with self.tree.lock:
            self._view.require_writable("allocate")
            punches = mode is AllocateMode.PUNCH_HOLE
            self._view.require(self._claims.holes if punches else self._claims.allocate, f"allocate({mode.value})")
            content = self.checked_node(writes=True).content
            _check_range(offset, length)
            if length == 0:
                raise os_error(errno.EINVAL)
            if mode in (AllocateMode.PUNCH_HOLE, AllocateMode.ZERO_RANGE, AllocateMode.ZERO_RANGE_KEEP_SIZE):
                content.punch(offset, length)
            if not punches:
                content.reserve(offset, length)
            if mode in (AllocateMode.RESERVE, AllocateMode.ZERO_RANGE):
                content.size = max(content.size, offset + length)
            self._changed()

    def copy_range(self, source: BackendFile, source_offset: int, offset: int, length: int) -> int:
        while isinstance(source, DelegatingFile):  # also what a cache has not opened yet: it costs nothing here
            source = source.inner
        with self.tree.lock:
            self._view.require_writable("copy_range")
            self._view.require(self._claims.server_copy, "copy_range")
            node = self.checked_node(writes=True)
            if not isinstance(source, MemoryFile) or source.tree is not self.tree:
                raise os_error(errno.EXDEV)
            origin = source.checked_node(reads=True)
            overlaps = source_offset < offset + length and offset < source_offset + length
            if origin is node and overlaps:
                raise os_error(errno.EINVAL)
            data = bytearray(min(length, COPY_CHUNK_BYTES))
            count = origin.content.read_into(source_offset, data)
            node.content.write(offset, memoryview(data)[:count])
            self._changed()
            return count

    def get_xattr(self, name: str) -> bytes:
        with self.tree.lock:
            return self._view.get_xattr(self.checked_node(), name)

    def list_xattrs(self) -> list[str]:
        with self.tree.lock:
            return self._view.list_xattrs(self.checked_node())

    def set_xattr(self, name: str, value: bytes, mode: XattrMode = XattrMode.ANY) -> None:
        with self.tree.lock:
            self._view.set_xattr(self.checked_node(), name, value, mode)

    def remove_xattr(self, name: str) -> None:
        with self.tree.lock:
            self._view.remove_xattr(self.checked_node(), name)

    def lock(self, kind: LockKind, start: int, length: int) -> None:
        with self.tree.lock:
            self._view.require(self._claims.locks, "lock")
            _check_range(start, length)
            node = self.checked_node(reads=kind is LockKind.SHARED, writes=kind is LockKind.EXCLUSIVE)
            node.locks.set(self, kind, start, length)

    def checked_node(self, *, reads: bool = False, writes: bool = False) -> Node:
        """The node, if the file is open and its access allows to read or write. EBADF."""
        allowed = (self._access.reads or not reads) and (self._access.writes or not writes)
        if not (self._open and allowed):
            raise os_error(errno.EBADF)
        return self._node

    def _changed(self) -> None:
        self._node.mtime_ns = self._node.ctime_ns = self.tree.now()


def _check_range(offset: int, length: int) -> None:
    if offset < 0 or length < 0:
        raise os_error(errno.EINVAL)
    if offset + length > MAX_FILE_BYTES:
        raise os_error(errno.EFBIG)
