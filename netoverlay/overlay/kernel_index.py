"""The index of hard links that the kernel's overlayfs keeps with the option index=on, as far as it is followed.

A lower's file with several names that overlayfs has copied up under one of them is in `index` of the work directory: a
further hard link to the upper's file, under the file handle of the lower's. Whoever looks up another of its names here
finds it, as overlayfs does. It is then also put into our own index (links.py), which sees to the rest.
"""

from __future__ import annotations

import ctypes
import errno
import re
from typing import NamedTuple

from netoverlay.backend_api import Access, Backend, FileStat, FileType, LayerPath, join_path
from netoverlay.overlay.layers import LowerPlace
from netoverlay.overlay.links import LinkCount, LinkIndex
from netoverlay.overlay.whiteouts import OverlayfsFormat

DIRECTORY_NAME = "index"
_MAGIC = 0xFB
_MAGIC_AT, _TYPE_AT, _HANDLE_AT = 1, 4, 21
"""In the name of an entry: the version, this, length, flags, the handle's type, the file system's UUID, the handle."""
_NLINK = re.compile(rb"([UL])([+-]\d+)")
"""The number of names, as a difference to the hard links of the upper's file, or of the lower's."""
_MOST_BYTES = 128
_AT_EMPTY_PATH = 0x1000

_libc = ctypes.CDLL(None, use_errno=True)


class _FileHandle(ctypes.Structure):
    _fields_ = (("bytes", ctypes.c_uint), ("type", ctypes.c_int), ("handle", ctypes.c_ubyte * _MOST_BYTES))


class FileHandle(NamedTuple):
    """What names a file of a file system for ever (open_by_handle_at(2))."""

    type: int
    handle: bytes


class KernelIndex:
    """The index of one upper, as it was when the mount began: overlayfs does not write to it meanwhile."""

    def __init__(self, backend: Backend, work: LayerPath, marks: OverlayfsFormat, links: LinkIndex) -> None:
        self._backend = backend
        self._marks = marks
        self._links = links
        self._directory = join_path(work, DIRECTORY_NAME)
        self._names: dict[FileHandle, str] = {}
        try:
            entries = backend.list_dir(self._directory)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return
        for name, stat in entries:
            handle = _handle_in(name)
            if handle is not None and stat.type is FileType.REGULAR:
                self._names[handle] = name

    def find(self, place: LowerPlace, stat: FileStat) -> LinkCount | None:
        """Our index's count of the upper's file to which overlayfs copied up the lower's file `stat` at `place`.

        None if it did not. Whoever asks gives the upper's file the name of the lower's.
        """
        if not self._names or stat.type is not FileType.REGULAR or not place.layer.capabilities.local:
            return None
        name = self._names.get(_handle_of(place))
        if name is None:
            return None
        path = join_path(self._directory, name)
        try:
            links = self._backend.stat(path).nlink or 1
        except FileNotFoundError:
            return None
        number = links
        if found := _NLINK.fullmatch(self._marks.kernel_link_count(path) or b""):
            number = (links if found[1] == b"U" else stat.nlink or 1) + int(found[2])
        self._marks.set_kernel_link_count(path, b"U%+d" % (number - (links + 1)))
        return self._links.add_existing(place.layer, stat, path, number)


def _handle_in(name: str) -> FileHandle | None:
    try:
        encoded = bytes.fromhex(name)
    except ValueError:
        return None
    if len(encoded) <= _HANDLE_AT or encoded[_MAGIC_AT] != _MAGIC:
        return None
    return FileHandle(encoded[_TYPE_AT], encoded[_HANDLE_AT:])


def _handle_of(place: LowerPlace) -> FileHandle:
    """The handle of a regular file of a local layer; one that names nothing if its file system has none."""
    file = place.layer.backend.open(place.path, Access.READ)
    try:
        descriptor = file.fileno()
        made = _FileHandle(bytes=_MOST_BYTES)
        mount = ctypes.c_int()
        if descriptor is None or _libc.name_to_handle_at(
            descriptor, b"", ctypes.byref(made), ctypes.byref(mount), _AT_EMPTY_PATH
        ):
            code = ctypes.get_errno()
            if descriptor is None or code in (errno.EOPNOTSUPP, errno.EOVERFLOW, errno.ENOSYS):
                return FileHandle(0, b"")
            raise OSError(code, "name_to_handle_at")
        return FileHandle(made.type, bytes(made.handle[: made.bytes]))
    finally:
        file.close()
