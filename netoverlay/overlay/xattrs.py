"""Extended attributes. The overlay's own are not shown; a program's of such a name is kept under another one."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TypeVar

from netoverlay.backend_api import Backend, BackendFile, LayerPath, NotSupportedError, XattrMode, os_error
from netoverlay.overlay.acl import ACCESS, DEFAULT, repeats_mode
from netoverlay.overlay.copy_up import CopyUp
from netoverlay.overlay.inodes import UNKNOWN_ACL, DirectoryInode, FileInode, Inode
from netoverlay.overlay.layers import Layer
from netoverlay.overlay.tree import Tree

_PRIVILEGED = "trusted."
_SYSTEM = "system."
"""Has attributes of fixed names only."""
_NAME_SPACES = ("user.", _PRIVILEGED, "security.", _SYSTEM)

_Result = TypeVar("_Result")


class Xattrs:
    """Reads and changes the extended attributes of one tree's inodes."""

    def __init__(self, tree: Tree, copy_up: CopyUp | None) -> None:
        """`copy_up` is None if the mount has no upper."""
        self._tree = tree
        self._copy_up = copy_up

    def get(self, inode: Inode, name: str) -> bytes:
        """ENODATA if there is none, also where the layer holds none at all."""
        if not name.startswith(_NAME_SPACES):
            raise NotSupportedError(f"the extended attribute {name}")
        if name in _NAME_SPACES and name != _SYSTEM:
            raise os_error(errno.EINVAL)
        layer = None if _is_removed(inode) else self._layer(inode)
        if layer is None or not layer.capabilities.xattrs:
            raise os_error(errno.ENODATA)
        held = layer.format.held_xattr(name)
        try:
            return self._get(inode, layer, held)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP or name not in (ACCESS, DEFAULT):
                raise
            # The kernel, which asks for its own check of permissions, takes no other answer for "none".
            raise os_error(errno.ENODATA) from None

    def _get(self, inode: Inode, layer: Layer, held: str) -> bytes:
        if isinstance(inode, FileInode) and inode.writable and layer.capabilities.local:
            # The kernel asks at the first write to each new file, and no path need be walked for that.
            value = self._tree.of_open_file(inode, lambda file: file.get_xattr(held))
            if value is not None:
                return value
        return self._on(inode, lambda backend, path: backend.get_xattr(path, held), lambda file: file.get_xattr(held))

    def list(self, inode: Inode, *, privileged: bool) -> list[str]:
        """The names, without the overlay's own; those in "trusted." only for who is privileged (xattr(7))."""
        layer = None if _is_removed(inode) else self._layer(inode)
        if layer is None or not layer.capabilities.xattrs:
            return []
        names = self._on(inode, lambda backend, path: backend.list_xattrs(path), lambda file: file.list_xattrs())
        names = [shown for name in names if (shown := layer.format.shown_xattr(name)) is not None]
        return names if privileged else [name for name in names if not name.startswith(_PRIVILEGED)]

    def set(self, inode: Inode, name: str, value: bytes, mode: XattrMode) -> None:
        """Copy the inode up and set it. EEXIST, ENODATA by `mode`."""
        before = self._value(inode, name)
        if mode is not XattrMode.ANY and (before is not None) is (mode is XattrMode.CREATE):
            # Before it is copied up, for which there is no reason.
            raise os_error(errno.EEXIST if mode is XattrMode.CREATE else errno.ENODATA)
        if value == before or (before is None and name == ACCESS and self._repeats_mode(inode, value)):
            # Which leaves the attribute as it is, and the times of its inode.
            return
        held = self._prepare(inode, name)
        with _changing(inode, name):
            self._on(
                inode,
                lambda backend, path: backend.set_xattr(path, held, value, mode),
                lambda file: file.set_xattr(held, value, mode),
            )

    def remove(self, inode: Inode, name: str) -> None:
        """Copy the inode up and remove it. ENODATA if there is none; an ACL need not be there."""
        if self._value(inode, name) is None:
            if name in (ACCESS, DEFAULT):
                return
            raise os_error(errno.ENODATA)
        held = self._prepare(inode, name)
        with _changing(inode, name):
            self._on(
                inode, lambda backend, path: backend.remove_xattr(path, held), lambda file: file.remove_xattr(held)
            )

    def _repeats_mode(self, inode: Inode, value: bytes) -> bool:
        mode = self._tree.stat(inode).mode
        return mode is not None and repeats_mode(value, mode)

    def _value(self, inode: Inode, name: str) -> bytes | None:
        try:
            return self.get(inode, name)
        except OSError as error:
            if error.errno != errno.ENODATA:
                raise
            return None

    def _prepare(self, inode: Inode, name: str) -> str:
        """Copy the inode up. The name by which the upper holds the attribute."""
        if self._copy_up is None:
            raise os_error(errno.EROFS)
        self._copy_up.inode(inode)
        return self._tree.stack.writable_upper().marks.held_xattr(name)

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


def _is_removed(inode: Inode) -> bool:
    return isinstance(inode, DirectoryInode) and inode.removed_stat is not None


@contextmanager
def _changing(inode: Inode, name: str) -> Iterator[None]:
    """An attribute of the inode changes inside. With DIRECTORY for a default ACL, so that nobody reads the old one."""
    is_default = name == DEFAULT and isinstance(inode, DirectoryInode)
    with inode.directory_lock if is_default and isinstance(inode, DirectoryInode) else nullcontext():
        try:
            yield
            inode.kept_ctime = None
        finally:
            if is_default and isinstance(inode, DirectoryInode):
                inode.default_acl = UNKNOWN_ACL
