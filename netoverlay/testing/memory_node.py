"""What can be told and changed of one inode in memory, within the capabilities of the backend that shows it."""

from __future__ import annotations

import errno

from netoverlay.backend_api import (
    AttributeChange,
    Capabilities,
    FileStat,
    FileType,
    NotSupportedError,
    XattrMode,
    os_error,
)
from netoverlay.backend_api.types import NAME_ENCODING, NAME_ERRORS
from netoverlay.testing.memory_tree import MemoryTree, Node

DEVICES = (FileType.CHARACTER_DEVICE, FileType.BLOCK_DEVICE)
PRIVILEGED_NAMESPACES = ("trusted.", "security.")
USER_NAMESPACE = "user."
MAX_XATTR_NAME_BYTES = 255
MAX_XATTR_VALUE_BYTES = 65536


class NodeView:
    """Reads and changes nodes of `tree`. Callers hold the tree's lock."""

    def __init__(self, tree: MemoryTree, claims: Capabilities) -> None:
        self._tree = tree
        self._claims = claims

    def require(self, claimed: bool, operation: str) -> None:
        """NotSupportedError unless `claimed`."""
        if not claimed:
            raise NotSupportedError(operation)

    def require_writable(self, operation: str) -> None:
        """NotSupportedError unless the backend is writable."""
        self.require(self._claims.writable, operation)

    def stat(self, node: Node) -> FileStat:
        """The attributes; None for what is not claimed."""
        claims = self._claims
        return FileStat(
            type=node.type,
            size=_size(node),
            mode=node.mode if claims.modes else None,
            uid=node.uid if claims.owners else None,
            gid=node.gid if claims.owners else None,
            mtime_ns=self._rounded(node.mtime_ns),
            atime_ns=self._rounded(node.atime_ns),
            ctime_ns=self._rounded(node.ctime_ns),
            nlink=_link_count(node) if claims.link_counts else None,
            file_id=node.file_id if claims.file_ids else None,
            rdev=node.rdev if node.type in DEVICES else None,
            blocks=node.content.allocated_bytes // 512,
        )

    def set_attributes(self, node: Node, change: AttributeChange) -> None:
        """All of `change` or, if a part of it is not supported, nothing."""
        self.require_writable("set_attributes")
        if change.uid is not None or change.gid is not None:
            self.require(self._claims.owners, "changing the owner")
        if change.mode is not None:
            self.require(self._claims.modes and node.type is not FileType.SYMLINK, "changing the mode")
            node.mode = change.mode & 0o7777
        node.uid = node.uid if change.uid is None else change.uid
        node.gid = node.gid if change.gid is None else change.gid
        node.atime_ns = node.atime_ns if change.atime_ns is None else self._tree.storable_time(change.atime_ns)
        node.mtime_ns = node.mtime_ns if change.mtime_ns is None else self._tree.storable_time(change.mtime_ns)
        node.ctime_ns = self._tree.now()

    def get_xattr(self, node: Node, name: str) -> bytes:
        """The value. ENODATA."""
        self._check_xattr(name, "get_xattr")
        if name not in node.xattrs:
            raise os_error(errno.ENODATA)
        return node.xattrs[name]

    def list_xattrs(self, node: Node) -> list[str]:
        """The names that the claims let show."""
        self.require(self._claims.xattrs, "list_xattrs")
        return [
            name for name in node.xattrs if self._claims.privileged_xattrs or not name.startswith(PRIVILEGED_NAMESPACES)
        ]

    def set_xattr(self, node: Node, name: str, value: bytes, mode: XattrMode) -> None:
        """Set one. EEXIST, ENODATA, E2BIG; EPERM for "user." on what is neither file nor directory."""
        self._check_xattr_change(node, name, "set_xattr")
        if mode is XattrMode.CREATE and name in node.xattrs:
            raise os_error(errno.EEXIST)
        if mode is XattrMode.REPLACE and name not in node.xattrs:
            raise os_error(errno.ENODATA)
        if len(value) > MAX_XATTR_VALUE_BYTES:
            raise os_error(errno.E2BIG)
        node.xattrs[name] = bytes(value)
        node.ctime_ns = self._tree.now()

    def remove_xattr(self, node: Node, name: str) -> None:
        """Remove one. ENODATA."""
        self._check_xattr_change(node, name, "remove_xattr")
        if name not in node.xattrs:
            raise os_error(errno.ENODATA)
        del node.xattrs[name]
        node.ctime_ns = self._tree.now()

    def _check_xattr(self, name: str, operation: str) -> None:
        privileged = name.startswith(PRIVILEGED_NAMESPACES)
        known = privileged or name.startswith(USER_NAMESPACE)
        allowed = self._claims.xattrs and (self._claims.privileged_xattrs or not privileged)
        self.require(known and allowed, operation)
        if len(name.encode(NAME_ENCODING, NAME_ERRORS)) > MAX_XATTR_NAME_BYTES:
            raise os_error(errno.ERANGE)

    def _check_xattr_change(self, node: Node, name: str, operation: str) -> None:
        self.require_writable(operation)
        self._check_xattr(name, operation)
        if name.startswith(USER_NAMESPACE) and node.type not in (FileType.REGULAR, FileType.DIRECTORY):
            raise os_error(errno.EPERM)

    def _rounded(self, time_ns: int) -> int:
        return time_ns - time_ns % self._claims.time_granularity_ns


def _size(node: Node) -> int:
    if node.type is FileType.SYMLINK:
        return len(node.target.encode("utf-8", "surrogateescape"))
    return node.content.size


def _link_count(node: Node) -> int:
    if node.type is not FileType.DIRECTORY:
        return node.nlink
    return 1 + node.nlink + sum(child.type is FileType.DIRECTORY for child in node.children.values())
