"""POSIX ACLs where something is made: what it inherits from its directory's default ACL (acl(5), "OBJECT CREATION").

The kernel checks ACLs and the upper's file system stores them, as extended attributes. Only this is left to the file
system, since what is made may be made in the work directory, which has none.
"""

from __future__ import annotations

import errno
from typing import NamedTuple

from netoverlay.backend_api import os_error
from netoverlay.backend_api.access_lists import (
    ACCESS,
    DEFAULT,
    PERMISSIONS,
    SHIFTS,
    AclEntry,
    mode_of,
    pack,
    says_more_than_mode,
    unpack,
    with_mode,
)

__all__ = ["ACCESS", "DEFAULT", "Inherited", "inherit", "repeats_mode"]


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
    bits = mode_of(entries) & mode
    access = pack(with_mode(entries, bits)) if says_more_than_mode(entries) else None
    return Inherited(mode & ~PERMISSIONS | bits, access, default)


def repeats_mode(access: bytes, mode: int) -> bool:
    """Whether an access ACL says no more than the permission bits of `mode`. EIO if it is none."""
    entries = _entries(access)
    return len(entries) == len(SHIFTS) and not says_more_than_mode(entries) and mode_of(entries) == mode & PERMISSIONS


def _entries(value: bytes) -> list[AclEntry]:
    try:
        entries = unpack(value)
    except ValueError:
        raise os_error(errno.EIO) from None
    if not SHIFTS.keys() <= {entry.tag for entry in entries}:
        raise os_error(errno.EIO)
    return entries
