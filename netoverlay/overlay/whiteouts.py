"""How a layer says that a name below is hidden, a directory hides all below, and where a moved directory came from.

The format is the kernel overlayfs's (Documentation/filesystems/overlayfs.rst), so that an upper written here can be
mounted with `mount -t overlay` and the other way round: a whiteout is the character device 0:0, an opaque directory has
the attribute overlay.opaque = "y", a moved directory has overlay.redirect, in the name space "trusted." for root and
"user." for others (mount option userxattr).
"""

from __future__ import annotations

import errno
import os
from typing import Protocol

from netoverlay.backend_api import Backend, Capabilities, FileStat, FileType, LayerPath, LayerSetupError

WHITEOUT_DEVICE = os.makedev(0, 0)

PRIVATE_PREFIXES = ("trusted.overlay.", "user.overlay.")
"""Attributes of the format itself: never shown, never set by a program, not copied up."""


class LayerFormat(Protocol):
    """The marks of one layer. Paths are the layer's."""

    def is_whiteout(self, stat: FileStat) -> bool:
        """Whether an entry with these attributes hides its name in all layers below."""

    def is_opaque(self, path: LayerPath) -> bool:
        """Whether the directory hides all content of the layers below."""

    def redirect(self, path: LayerPath) -> str | None:
        """Where the directory is found in the layers below: "/" and a path from their root, or another name."""


class PlainFormat:
    """A layer that cannot hold marks: everything in it is what it looks like."""

    def is_whiteout(self, stat: FileStat) -> bool:  # noqa: ARG002 - the protocol's signature
        return False

    def is_opaque(self, path: LayerPath) -> bool:  # noqa: ARG002 - the protocol's signature
        return False

    def redirect(self, path: LayerPath) -> str | None:  # noqa: ARG002 - the protocol's signature
        return None


class OverlayfsFormat:
    """The kernel overlayfs's marks, read and written through a backend."""

    def __init__(self, backend: Backend, name_space: str) -> None:
        """`name_space` is "trusted." or "user."."""
        self._backend = backend
        self._opaque = f"{name_space}overlay.opaque"
        self._redirect = f"{name_space}overlay.redirect"
        self._inode_number = f"{name_space}overlay.netoverlay.ino"
        self._link_count = f"{name_space}overlay.netoverlay.links"

    def is_whiteout(self, stat: FileStat) -> bool:
        return stat.type is FileType.CHARACTER_DEVICE and stat.rdev == WHITEOUT_DEVICE

    def is_opaque(self, path: LayerPath) -> bool:
        return self._get(path, self._opaque) == b"y"

    def redirect(self, path: LayerPath) -> str | None:
        value = self._get(path, self._redirect)
        return None if value is None else os.fsdecode(value)

    def make_whiteout(self, path: LayerPath) -> None:
        """Put a whiteout at `path`. EEXIST if something stands there."""
        self._backend.mknod(path, FileType.CHARACTER_DEVICE, 0, WHITEOUT_DEVICE)

    def set_opaque(self, path: LayerPath) -> None:
        """Make the directory hide all below."""
        self._backend.set_xattr(path, self._opaque, b"y")

    def set_redirect(self, path: LayerPath, target: str) -> None:
        """Merge the directory with the one at `target` ("/" and a path from the root of the layers below)."""
        self._backend.set_xattr(path, self._redirect, os.fsencode(target))

    def recorded_inode_number(self, path: LayerPath) -> int | None:
        """The st_ino that the file had before it was copied up, None if it never was.

        A number of this program's in the name space that overlayfs keeps to itself, where it does no harm.
        """
        value = self._get(path, self._inode_number)
        return None if value is None else int.from_bytes(value)

    def record_inode_number(self, path: LayerPath, number: int) -> None:
        """Keep st_ino over copy-up and remount. Nothing is recorded where the file system refuses (EPERM).

        An ordinary user may set no attributes on symbolic links and special files; their st_ino changes at a remount.
        """
        try:
            self._backend.set_xattr(path, self._inode_number, number.to_bytes(8))
        except PermissionError:
            return

    def link_count(self, path: LayerPath) -> bytes | None:
        """What record_link_count() wrote; None if nothing."""
        return self._get(path, self._link_count)

    def record_link_count(self, path: LayerPath, value: bytes) -> bool:
        """Keep links.LinkCount at the file. False where the file system refuses, as for record_inode_number()."""
        try:
            self._backend.set_xattr(path, self._link_count, value)
        except PermissionError:
            return False
        return True

    def remove_link_count(self, path: LayerPath) -> None:
        """Undo record_link_count()."""
        self._backend.remove_xattr(path, self._link_count)

    def _get(self, path: LayerPath, name: str) -> bytes | None:
        try:
            return self._backend.get_xattr(path, name)
        except OSError as error:
            if error.errno in (errno.ENODATA, errno.EOPNOTSUPP, errno.EPERM):
                return None
            raise


_UPPER_NEEDS = {
    "xattrs": "extended attributes",
    "whiteout_devices": "character devices 0:0 (whiteouts)",
    "atomic_replace": "atomic rename over an existing file",
    "rename_exchange": "RENAME_EXCHANGE",
    "rename_whiteout": "RENAME_WHITEOUT",
}


def upper_format(backend: Backend, capabilities: Capabilities) -> OverlayfsFormat:
    """The format for an upper. LayerSetupError, naming what is missing, if it cannot be one."""
    missing = [text for name, text in _UPPER_NEEDS.items() if not getattr(capabilities, name)]
    if missing or not capabilities.writable:
        lacks = ", ".join(missing) or "permission to write"
        raise LayerSetupError(f"it cannot be the upper layer: it lacks {lacks}; use a directory on ext4, xfs or btrfs")
    return OverlayfsFormat(backend, _name_space(capabilities))


def lower_format(backend: Backend, capabilities: Capabilities) -> LayerFormat:
    """The format for a lower: overlayfs's where it can be one that overlayfs or netoverlay wrote as an upper."""
    if capabilities.local and capabilities.xattrs:
        return OverlayfsFormat(backend, _name_space(capabilities))
    return PlainFormat()


def _name_space(capabilities: Capabilities) -> str:
    return "trusted." if capabilities.privileged_xattrs else "user."
