"""POSIX ACLs where something is made: what it inherits from its directory's default ACL (acl(5), "OBJECT CREATION").

The kernel checks ACLs and the upper's file system stores them, as extended attributes. Only this is left to the file
system, since what is made may be made in the work directory, which has none. The layout of the attributes is that of
include/uapi/linux/posix_acl_xattr.h.
"""

from __future__ import annotations

import errno
import struct
from typing import Final, NamedTuple

from netoverlay.backend_api import os_error

ACCESS: Final = "system.posix_acl_access"
DEFAULT: Final = "system.posix_acl_default"

_HEADER: Final = struct.Struct("<I")
_ENTRY: Final = struct.Struct("<HHI")
"""Tag, permissions, id."""
_VERSION: Final = 2

_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_SHIFTS: Final = {_USER_OBJ: 6, _GROUP_OBJ: 3, _OTHER: 0}
"""Of the bits of a mode without ACL."""
_NAMED: Final = frozenset({_USER, _GROUP})
_RWX: Final = 0o7
_PERMISSIONS: Final = 0o777


class Inherited(NamedTuple):
    """What a new file or directory gets."""

    mode: int
    access: bytes | None
    """The value of its access ACL; None if it has none beside its mode."""
    default: bytes | None
    """The value of a new directory's default ACL."""


def inherit(default: bytes | None, mode: int, umask: int) -> Inherited:
    """What is made with `mode`, in a directory with the default ACL `default`, by a caller with `umask`.

    With a default ACL the umask does not count. EIO if the ACL is not one.
    """
    if default is None:
        return Inherited(mode & ~umask, None, None)
    entries = _entries(default)
    by_tag = {tag: permissions for tag, permissions, _ in entries if tag not in _NAMED}
    # What the mode's bits for the group stand for: the mask, if there is one.
    group = _MASK if _MASK in by_tag else _GROUP_OBJ
    shifts = {_USER_OBJ: 6, group: 3, _OTHER: 0}
    limited = {tag: by_tag[tag] & (mode >> shift) & _RWX for tag, shift in shifts.items()}
    bits = sum(limited[tag] << shift for tag, shift in shifts.items())
    access = None
    if len(by_tag) < len(entries) or _MASK in by_tag:
        packed = (_ENTRY.pack(tag, limited.get(tag, permissions), who) for tag, permissions, who in entries)
        access = _HEADER.pack(_VERSION) + b"".join(packed)
    return Inherited(mode & ~_PERMISSIONS | bits, access, default)


def repeats_mode(access: bytes, mode: int) -> bool:
    """Whether an access ACL says no more than the permission bits of `mode`. EIO if it is none."""
    entries = _entries(access)
    permissions = {tag: granted for tag, granted, _ in entries}
    if len(entries) > len(_SHIFTS) or permissions.keys() != _SHIFTS.keys():
        return False
    return sum((granted & _RWX) << _SHIFTS[tag] for tag, granted in permissions.items()) == mode & _PERMISSIONS


def _entries(value: bytes) -> list[tuple[int, int, int]]:
    try:
        (version,) = _HEADER.unpack_from(value)
        entries = list(_ENTRY.iter_unpack(value[_HEADER.size :]))
    except struct.error:
        raise os_error(errno.EIO) from None
    if version != _VERSION or not {_USER_OBJ, _GROUP_OBJ, _OTHER}.issubset(tag for tag, _, _ in entries):
        raise os_error(errno.EIO)
    return entries
