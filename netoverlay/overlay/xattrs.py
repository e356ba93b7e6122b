"""Extended attributes. Those of the overlay's own format are neither shown nor set."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TypeVar

from netoverlay.backend_api import Backend, BackendFile, LayerPath, XattrMode, os_error
from netoverlay.overlay.acl import DEFAULT
from netoverlay.overlay.copy_up import CopyUp
from netoverlay.overlay.inodes import UNKNOWN_ACL, DirectoryInode, FileInode, Inode
from netoverlay.overlay.layers import Layer
from netoverlay.overlay.tree import Tree
from netoverlay.overlay.whiteouts import PRIVATE_PREFIXES

_Result = TypeVar("_Result")


class Xattrs:
    """Reads and changes the extended attributes of one tree's inodes."""

    def __init__(self, tree: Tree, copy_up: CopyUp | None) -> None:
        """`copy_up` is None if the mount has no upper."""
        self._tree = tree
        self._copy_up = copy_up

    def get(self, inode: Inode, name: str) -> bytes:
        """ENODATA if there is none, also where the layer holds none at all."""
        if name.startswith(PRIVATE_PREFIXES) or not self._layer(inode).capabilities.xattrs:
            raise os_error(errno.ENODATA)
        return self._on(inode, lambda backend, path: backend.get_xattr(path, name), lambda file: file.get_xattr(name))

    def list(self, inode: Inode) -> list[str]:
        """The names, without the overlay's own."""
        if not self._layer(inode).capabilities.xattrs:
            return []
        names = self._on(inode, lambda backend, path: backend.list_xattrs(path), lambda file: file.list_xattrs())
        return [name for name in names if not name.startswith(PRIVATE_PREFIXES)]

    def set(self, inode: Inode, name: str, value: bytes, mode: XattrMode) -> None:
        """Copy the inode up and set it. EPERM for the overlay's own."""
        self._prepare(inode, name)
        self._on(
            inode,
            lambda backend, path: backend.set_xattr(path, name, value, mode),
            lambda file: file.set_xattr(name, value, mode),
        )
        _forget_acl(inode, name)

    def remove(self, inode: Inode, name: str) -> None:
        """Copy the inode up and remove it. ENODATA if there is none."""
        self.get(inode, name)
        self._prepare(inode, name)
        self._on(inode, lambda backend, path: backend.remove_xattr(path, name), lambda file: file.remove_xattr(name))
        _forget_acl(inode, name)

    def _prepare(self, inode: Inode, name: str) -> None:
        if name.startswith(PRIVATE_PREFIXES):
            raise os_error(errno.EPERM)
        if self._copy_up is None:
            raise os_error(errno.EROFS)
        self._copy_up.inode(inode)

    def _layer(self, inode: Inode) -> Layer:
        """Which layer holds the inode."""
        return self._tree.stack.writable_upper() if inode.in_upper else inode.lower_place().layer

    def _on(
        self,
        inode: Inode,
        by_path: Callable[[Backend, LayerPath], _Result],
        by_file: Callable[[BackendFile], _Result],
    ) -> _Result:
        """Do it where the inode is: by path, or through the open file of one that has no name any more."""
        if not inode.in_upper:
            layer, path = inode.lower_place()
            return by_path(layer.backend, path)
        if isinstance(inode, DirectoryInode) or inode.names:
            with self._tree.paths.shared():
                return by_path(self._tree.stack.writable_upper().backend, self._tree.upper_path(inode))
        if isinstance(inode, FileInode):
            with inode.copy_up_lock:
                if inode.file is not None:
                    return by_file(inode.file)
        raise os_error(errno.ESTALE)


def _forget_acl(inode: Inode, name: str) -> None:
    if name == DEFAULT and isinstance(inode, DirectoryInode):
        inode.default_acl = UNKNOWN_ACL
