"""The directory that a layer is rooted at, and how paths beneath it are resolved.

Whoever can write into a layer can plant symbolic links there, so that no path is ever given to the kernel as a whole
without openat2(2) and its RESOLVE_ flags: a link in any component is ELOOP, and a ".." that leads out is EXDEV. What
is done to the last component is done relative to the descriptor of its parent. Mount points are crossed.
"""

from __future__ import annotations

import errno
import os
from types import TracebackType

from netoverlay.backend_api import LayerPath, os_error
from netoverlay_local.system_calls import OpenMode, Resolve, openat2

RESOLVE = Resolve.BENEATH | Resolve.NO_SYMLINKS | Resolve.NO_MAGICLINKS

_PIN = OpenMode(os.O_PATH | os.O_NOFOLLOW, RESOLVE)
_PIN_DIRECTORY = OpenMode(os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, RESOLVE)
_LIST = OpenMode(os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, RESOLVE)

_PATH_BYTES = 4095
"""What the kernel takes of a path in one call: PATH_MAX less the zero byte."""


def encode_path(path: LayerPath) -> bytes:
    """`path` as the kernel takes it, "." for the root. EINVAL for a NUL, which would end it early."""
    if "\0" in path:
        raise os_error(errno.EINVAL, path)
    return path.encode("utf-8", "surrogateescape") if path else b"."


class Pinned:
    """A descriptor that is closed at the end of a with block."""

    __slots__ = ("descriptor",)

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @property
    def proc_path(self) -> bytes:
        """A path that leads to exactly this inode, even if it is a symlink or has no name any more (proc(5))."""
        return b"/proc/self/fd/%d" % self.descriptor

    def __enter__(self) -> Pinned:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.descriptor)


class Entry:
    """The descriptor of a directory and a name in it, while in a with block."""

    __slots__ = ("_owned", "directory", "name")

    def __init__(self, directory: int, name: bytes, *, owned: bool) -> None:
        self.directory = directory
        self.name = name
        self._owned = owned

    def pin(self) -> Pinned:
        """Hold on to the inode that has the name now."""
        return Pinned(openat2(self.directory, self.name, _PIN))

    def __enter__(self) -> Entry:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._owned:
            os.close(self.directory)


class Root:
    """An open root directory. `descriptor` is valid until close(), after which every method raises EBADF."""

    def __init__(self, path: str) -> None:
        """Open the directory `path`, itself reached through symlinks if it is. ENOENT, ENOTDIR, EACCES."""
        self.descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.device = os.fstat(self.descriptor).st_dev

    def close(self) -> None:
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def stat(self, path: LayerPath) -> os.stat_result:
        """lstat(2). A path of one component takes one system call, a longer one three."""
        if "/" not in path:
            name = _checked_name(encode_path(path), path) if path else b"."
            return os.stat(name, dir_fd=self._open_descriptor(), follow_symlinks=False)
        descriptor = self.open(path, _PIN)
        try:
            return os.fstat(descriptor)
        finally:
            os.close(descriptor)

    def open(self, path: LayerPath, how: OpenMode) -> int:
        """A descriptor of what is at `path`, opened as `how` says."""
        return _open_at(self._open_descriptor(), encode_path(path), how)

    def open_directory(self, path: LayerPath) -> int:
        """A descriptor to list the directory `path` with. ENOTDIR."""
        return self.open(path, _LIST)

    def pin(self, path: LayerPath) -> Pinned:
        """Hold on to the inode at `path`, of any type, without opening it."""
        return Pinned(self.open(path, _PIN))

    def entry(self, path: LayerPath, root_code: int) -> Entry:
        """The parent of `path` and the name in it. The root, which has none, raises the errno `root_code`."""
        parent, _, last = encode_path(path).rpartition(b"/")
        if not path:
            raise os_error(root_code, path)
        name = _checked_name(last, path)
        if not parent:
            return Entry(self._open_descriptor(), name, owned=False)
        return Entry(_open_at(self._open_descriptor(), parent, _PIN_DIRECTORY), name, owned=True)

    def _open_descriptor(self) -> int:
        # -1 must not reach the kernel as a directory: some calls take other negative numbers for the working directory.
        if self.descriptor < 0:
            raise os_error(errno.EBADF)
        return self.descriptor


def _checked_name(name: bytes, path: LayerPath) -> bytes:
    if name in (b"", b".", b".."):
        raise os_error(errno.EINVAL, path)
    return name


def _open_at(directory: int, path: bytes, how: OpenMode) -> int:
    """openat2(2) of a path of any length: one that is longer than the kernel takes is walked in pieces."""
    if len(path) <= _PATH_BYTES:
        return openat2(directory, path, how)
    end = path.rfind(b"/", 0, _PATH_BYTES + 1)
    if end < 0:
        raise os_error(errno.ENAMETOOLONG)
    with Pinned(openat2(directory, path[:end], _PIN_DIRECTORY)) as piece:
        return _open_at(piece.descriptor, path[end + 1 :], how)
