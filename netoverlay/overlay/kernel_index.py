"""The index of hard links that the kernel's overlayfs keeps with the option index=on, as far as it is followed.

A lower's file with several names that overlayfs has copied up under one of them is in `index` of the work directory: a
further hard link to the upper's file, under the file handle of the lower's. Whoever looks up another of its names finds
it here, as overlayfs does, and gives the upper's file that name too. What is there is counted in links.py.
"""

from __future__ import annotations

import ctypes
import errno
from typing import NamedTuple

from netoverlay.backend_api import Access, FileStat, FileType
from netoverlay.overlay.layers import LowerPlace
from netoverlay.overlay.links import LinkCount, LinkIndex

_MAGIC = 0xFB
_MAGIC_AT, _TYPE_AT, _HANDLE_AT = 1, 4, 21
"""In the name of an entry: the version, this, length, flags, the handle's type, the file system's UUID, the handle."""
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
    """Finds in the index of one upper, as it was when the mount began: overlayfs does not write to it meanwhile."""

    def __init__(self, links: LinkIndex) -> None:
        self._links = links
        self._names = {handle: name for name in links.kernel_names if (handle := _handle_in(name)) is not None}

    def find(self, place: LowerPlace, stat: FileStat) -> LinkCount | None:
        """The count of the upper's file to which overlayfs copied up the lower's file `stat` at `place`.

        None if it did not.
        """
        if not self._names or stat.type is not FileType.REGULAR or not place.layer.capabilities.local:
            return None
        name = self._names.get(_handle_of(place))
        return None if name is None else self._links.kernel_count(name, stat)


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
