"""Open files and directories. A handle says who opened what; the data is reached through its inode.

All handles of a file share the inode's one backing file, so that what one writes the others read, also across a
copy-up.
"""

from __future__ import annotations

import errno
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from netoverlay.backend_api import os_error
from netoverlay.overlay.inodes import DirectoryInode, FileInode
from netoverlay.overlay.merge import Listed


class FileHandle:
    """One open(2) of a file. What it may do with the file the kernel checks. In a with block of it, it stays open."""

    __slots__ = ("inode", "writes")

    def __init__(self, inode: FileInode, writes: bool = True) -> None:
        self.inode = inode
        self.writes = writes
        """What could not be written is told to who closes it."""

    def __enter__(self) -> FileHandle:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing: RELEASE closes it, after the last request that uses it."""


@dataclass(slots=True, eq=False)
class DirectoryHandle:
    """One opendir(3). Its listing is made at the first read and at each rewind."""

    inode: DirectoryInode
    listing: list[Listed] | None = None
    """In the order of their positions."""
    positions: Sequence[int] = ()
    version: int = -1
    """The directory's version that the listing shows."""


class Handles:
    """The open handles of a mount, by number."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._files: dict[int, FileHandle] = {}
        self._directories: dict[int, DirectoryHandle] = {}

    def add_file(self, handle: FileHandle) -> int:
        """The number for a file's handle."""
        number = next(self._numbers)
        self._files[number] = handle
        return number

    def add_directory(self, handle: DirectoryHandle) -> int:
        """The number for a directory's handle."""
        number = next(self._numbers)
        self._directories[number] = handle
        return number

    def file(self, number: int) -> FileHandle:
        """The file's handle; EBADF if there is none."""
        try:
            return self._files[number]
        except KeyError:
            raise os_error(errno.EBADF) from None

    def directory(self, number: int) -> DirectoryHandle:
        """The directory's handle; EBADF if there is none."""
        try:
            return self._directories[number]
        except KeyError:
            raise os_error(errno.EBADF) from None

    def remove_file(self, number: int) -> FileHandle:
        """Forget a file's handle; EBADF if there is none."""
        handle = self.file(number)
        del self._files[number]
        return handle

    def remove_directory(self, number: int) -> DirectoryHandle:
        """Forget a directory's handle; EBADF if there is none."""
        handle = self.directory(number)
        del self._directories[number]
        return handle

    def open_files(self) -> list[int]:
        """The numbers of all file handles."""
        return list(self._files)
