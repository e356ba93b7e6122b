"""How a layer says that a name below is hidden, a directory hides all below, and where a moved directory came from.

The format is the kernel overlayfs's (Documentation/filesystems/overlayfs.rst), so that an upper written here can be
mounted with `mount -t overlay` and the other way round: a whiteout is the character device 0:0, an opaque directory has
the attribute overlay.opaque = "y", a moved directory has overlay.redirect, in the name space "trusted." for root and
"user." for others (mount option userxattr). Tools that cannot make devices write a whiteout as an empty file with the
attribute overlay.whiteout, in a directory with overlay.opaque = "x": such are read, not written. A file with
overlay.metacopy has its data in a layer below (metacopy.py). A program's own attribute overlay.x, of an overlay inside
this one, is kept as overlay.overlay.x.

A lazily copied file (lazy_files.py) has a part of its data here, which overlayfs does not know. So it is marked as one
whose data is below, at a path that does not exist: overlayfs refuses it, with any options, and shows no zeros for data.
It does not look at the content of overlay.metacopy, so that without the redirect it would show the base's file.
"""

from __future__ import annotations

import enum
import errno
import os
import re
from collections.abc import Callable
from typing import Protocol

from netoverlay.backend_api import (
    Backend,
    BackendFile,
    Capabilities,
    DirEntry,
    FileStat,
    FileType,
    LayerPath,
    LayerSetupError,
    join_path,
    split_path,
)

WHITEOUT_DEVICE = os.makedev(0, 0)
LAZY_MARK = b"netoverlay:"
"""How overlay.metacopy of a lazily copied file begins; overlayfs's own has zeros there, or nothing."""
_LAZY_REDIRECT = b"/.netoverlay-lazy"
_INODE_NUMBER_BYTES = 8


class DirectoryMark(enum.Enum):
    """The attributes "overlay." that say something of a directory."""

    OPAQUE = "opaque"
    REDIRECT = "redirect"


class LayerFormat(Protocol):
    """The marks of one layer. Paths are the layer's."""

    def hides(self, path: LayerPath, stat: FileStat) -> bool:
        """Whether what stands at `path`, with these attributes, hides its name in all layers below."""

    def hidden_in(self, directory: LayerPath, entries: list[DirEntry]) -> frozenset[str]:
        """Which of a directory's entries are such."""

    def is_opaque(self, path: LayerPath) -> bool:
        """Whether the directory hides all content of the layers below."""

    def redirect(self, path: LayerPath) -> str | None:
        """Where the directory is found in the layers below: "/" and a path from their root, or another name."""

    def shown_xattr(self, name: str) -> str | None:
        """By which name a program sees an extended attribute that the layer holds; None for the format's own."""

    def held_xattr(self, name: str) -> str:
        """By which name the layer holds an extended attribute of a program."""


class PlainFormat:
    """A layer that cannot hold marks: everything in it is what it looks like."""

    def hides(self, path: LayerPath, stat: FileStat) -> bool:  # noqa: ARG002 - the protocol's signature
        return False

    def hidden_in(self, directory: LayerPath, entries: list[DirEntry]) -> frozenset[str]:  # noqa: ARG002 - as above
        return frozenset()

    def is_opaque(self, path: LayerPath) -> bool:  # noqa: ARG002 - the protocol's signature
        return False

    def redirect(self, path: LayerPath) -> str | None:  # noqa: ARG002 - the protocol's signature
        return None

    def shown_xattr(self, name: str) -> str | None:
        return name

    def held_xattr(self, name: str) -> str:
        return name


class OverlayfsFormat:
    """The kernel overlayfs's marks, read and written through a backend."""

    def __init__(self, backend: Backend, name_space: str) -> None:
        """`name_space` is "trusted." or "user."."""
        self._backend = backend
        self._own = f"{name_space}overlay."
        self._escaped = f"{name_space}overlay.overlay."
        self._opaque = f"{name_space}overlay.opaque"
        self._redirect = f"{name_space}overlay.redirect"
        self._whiteout = f"{name_space}overlay.whiteout"
        self._metacopy = f"{name_space}overlay.metacopy"
        self._origin = f"{name_space}overlay.origin"
        self._nlink = f"{name_space}overlay.nlink"
        self._inode_number = f"{name_space}overlay.netoverlay.ino"

    def hides(self, path: LayerPath, stat: FileStat) -> bool:
        if _can_be_whiteout_file(stat):
            return self._holds_whiteout_files(split_path(path)[0]) and self._is_whiteout_file(path)
        return _is_whiteout_device(stat)

    def hidden_in(self, directory: LayerPath, entries: list[DirEntry]) -> frozenset[str]:
        hidden = {name for name, stat in entries if _is_whiteout_device(stat)}
        candidates = [name for name, stat in entries if _can_be_whiteout_file(stat)]
        if candidates and self._holds_whiteout_files(directory):
            hidden.update(name for name in candidates if self._is_whiteout_file(join_path(directory, name)))
        return frozenset(hidden)

    def is_opaque(self, path: LayerPath) -> bool:
        return self._get(path, self._opaque) == b"y"

    def redirect(self, path: LayerPath) -> str | None:
        value = self._get(path, self._redirect)
        return None if value is None else os.fsdecode(value)

    def shown_xattr(self, name: str) -> str | None:
        if name.startswith(self._escaped):
            return self._own + name[len(self._escaped) :]
        return None if name.startswith(self._own) else name

    def held_xattr(self, name: str) -> str:
        return self._escaped + name[len(self._own) :] if name.startswith(self._own) else name

    def make_whiteout(self, path: LayerPath) -> None:
        """Put a whiteout at `path`. EEXIST if something stands there."""
        self._backend.mknod(path, FileType.CHARACTER_DEVICE, 0, WHITEOUT_DEVICE)

    def set_opaque(self, path: LayerPath) -> None:
        """Make the directory hide all below."""
        self._backend.set_xattr(path, self._opaque, b"y")

    def set_redirect(self, path: LayerPath, target: str) -> None:
        """Merge the directory with the one at `target` ("/" and a path from the root of the layers below)."""
        self._backend.set_xattr(path, self._redirect, os.fsencode(target))

    def marks_of_file(self, path: LayerPath) -> frozenset[DirectoryMark]:
        """Which marks that say something of directories a file has, that has its data here."""
        if self._get_of_file(path, self._metacopy) is not None:
            return frozenset()
        return frozenset(mark for mark in DirectoryMark if self._get_of_file(path, self._own + mark.value) is not None)

    def remove_mark(self, path: LayerPath, mark: DirectoryMark) -> None:
        """Take a mark away."""
        self._backend.remove_xattr(path, self._own + mark.value)

    def data_mark(self, file: BackendFile) -> bytes | None:
        """What says that the data of an open file, or a part of it, is in a layer below; None if it is all here."""
        try:
            return value_or_none(lambda: file.get_xattr(self._metacopy))
        except PermissionError:
            return None  # for writing only, by a user who may not read it: none are made in "user."

    def data_mark_at(self, path: LayerPath) -> bytes | None:
        """As data_mark()."""
        return self._get_of_file(path, self._metacopy)

    def mark_lazy(self, file: BackendFile, token: str) -> None:
        """Of the open file's data a part may be in a layer below, as the map of that name tells."""
        file.set_xattr(self._redirect, _LAZY_REDIRECT)
        file.set_xattr(self._metacopy, LAZY_MARK + token.encode())

    def mark_complete(self, file: BackendFile) -> None:
        """The open file, which lacked its data, has it now.

        With a redirect alone, as a crash may leave it, it is as any other, to overlayfs as well.
        """
        file.remove_xattr(self._metacopy)
        if value_or_none(lambda: file.get_xattr(self._redirect)) is not None:
            file.remove_xattr(self._redirect)

    def recorded_inode_number(self, path: LayerPath) -> int | None:
        """The st_ino that the file had before it was copied up, None if it never was.

        A number of this program's in the name space that overlayfs keeps to itself, where it does no harm.
        """
        value = self._get_of_file(path, self._inode_number)
        return None if value is None or len(value) != _INODE_NUMBER_BYTES else int.from_bytes(value)

    def record_inode_number(self, path: LayerPath, number: int) -> None:
        """Keep st_ino over copy-up and remount. Nothing is recorded where the file system refuses (EPERM).

        An ordinary user may set no attributes on symbolic links and special files, and there may be no room for one;
        their st_ino changes at a remount.
        """
        try:
            self._backend.set_xattr(path, self._inode_number, number.to_bytes(_INODE_NUMBER_BYTES))
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EACCES, errno.ENOSPC):
                raise

    def forget_inode_number(self, path: LayerPath) -> None:
        """Let the file have the st_ino that its layer tells."""
        self._backend.remove_xattr(path, self._inode_number)

    def origin(self, path: LayerPath) -> bytes:
        """Which lower's file overlayfs has copied up to this one: its name in overlayfs's index. Empty if none."""
        return self._get_of_file(path, self._origin) or b""

    def kernel_links(self, path: LayerPath) -> tuple[bool, int] | None:
        """How many names a file has that is in overlayfs's index; None if that is not said.

        As a difference: to the hard links of the lower's file (True), or of the upper's.
        """
        found = _KERNEL_LINKS.fullmatch(self._get(path, self._nlink) or b"")
        return None if found is None else (found[1] == b"L", int(found[2]))

    def set_kernel_links(self, path: LayerPath, difference: int) -> None:
        """Write it, as a difference to the hard links of the upper's file."""
        self._backend.set_xattr(path, self._nlink, b"U%+d" % difference)

    def _holds_whiteout_files(self, directory: LayerPath) -> bool:
        return self._get(directory, self._opaque) == b"x"

    def _is_whiteout_file(self, path: LayerPath) -> bool:
        return self._get(path, self._whiteout) is not None

    def _get_of_file(self, path: LayerPath, name: str) -> bytes | None:
        """As _get(); None also of a file that its owner may not read, which "user." attributes need."""
        try:
            return self._get(path, name)
        except PermissionError:
            return None

    def _get(self, path: LayerPath, name: str) -> bytes | None:
        return value_or_none(lambda: self._backend.get_xattr(path, name))


def lazy_token(mark: bytes | None) -> str | None:
    """The name of its map, if `mark` is a lazily copied file's."""
    if mark is None or not mark.startswith(LAZY_MARK):
        return None
    return mark.removeprefix(LAZY_MARK).decode(errors="replace")


def _is_whiteout_device(stat: FileStat) -> bool:
    return stat.type is FileType.CHARACTER_DEVICE and stat.rdev == WHITEOUT_DEVICE


def _can_be_whiteout_file(stat: FileStat) -> bool:
    return stat.size == 0 and stat.type is FileType.REGULAR


def value_or_none(get: Callable[[], bytes]) -> bytes | None:
    """What `get` reads of an extended attribute, None if there is none."""
    try:
        return get()
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP, errno.EPERM):
            return None
        raise


_KERNEL_LINKS = re.compile(rb"([UL])([+-]\d+)")
_INCOMPATIBLE = "work/incompat"
"""In the work directory: what overlayfs leaves of a mount with the option "volatile"."""
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


def check_work_directory(backend: Backend, work: LayerPath) -> None:
    """LayerSetupError if overlayfs has left a mark that nobody may mount the upper as it is.

    Its part of the work directory has the mode 0: an ordinary user does not see the mark.
    """
    marks = join_path(work, _INCOMPATIBLE)
    try:
        found = sorted(entry.name for entry in backend.list_dir(marks))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    if found:
        raise LayerSetupError(
            f"overlayfs was mounted on it with the option {', '.join(found)}, and a crash may have left files that are "
            f"not whole: see to that, and remove {_INCOMPATIBLE} in its work directory"
        )


def lower_format(backend: Backend, capabilities: Capabilities) -> LayerFormat:
    """The format for a lower: overlayfs's where it can be one that overlayfs or netoverlay wrote as an upper."""
    if capabilities.local and capabilities.xattrs:
        return OverlayfsFormat(backend, _name_space(capabilities))
    return PlainFormat()


def _name_space(capabilities: Capabilities) -> str:
    return "trusted." if capabilities.privileged_xattrs else "user."
