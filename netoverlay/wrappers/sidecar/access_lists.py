"""POSIX ACLs of nodes: attributes that change the mode, and are changed by it, as on a local file system (acl(5))."""

from __future__ import annotations

import errno
from typing import Final

from netoverlay.backend_api import FileType, NotSupportedError, os_error
from netoverlay.backend_api.access_lists import (
    ACCESS,
    DEFAULT,
    PERMISSIONS,
    AclEntry,
    is_valid,
    mode_of,
    pack,
    says_more_than_mode,
    unpack,
    with_mode,
)

NAMES: Final = frozenset({ACCESS, DEFAULT})


def checked(type: FileType, name: str, value: bytes) -> list[AclEntry]:
    """The entries to set; none is the same as to remove it. EOPNOTSUPP, EINVAL, EACCES as setxattr(2) on Linux."""
    if type is FileType.SYMLINK:
        raise NotSupportedError(f"set_xattr of {name} of a symbolic link")
    try:
        entries = unpack(value)
    except ValueError:
        raise os_error(errno.EINVAL) from None
    if entries and name == DEFAULT and type is not FileType.DIRECTORY:
        raise os_error(errno.EACCES)
    if entries and not is_valid(entries):
        raise os_error(errno.EINVAL)
    return entries


def kept(name: str, entries: list[AclEntry]) -> bytes | None:
    """The value to keep; None for an access ACL that says what the mode says."""
    return pack(entries) if entries and (name == DEFAULT or says_more_than_mode(entries)) else None


def mode_after(name: str, entries: list[AclEntry], mode: int) -> int:
    """What a mode becomes when the ACL is set."""
    return mode & ~PERMISSIONS | mode_of(entries) if entries and name == ACCESS else mode


def after_chmod(xattrs: dict[str, bytes] | None, mode: int) -> dict[str, bytes] | None:
    """The attributes of a node whose mode is set."""
    if not xattrs or ACCESS not in xattrs:
        return xattrs
    return {**xattrs, ACCESS: pack(with_mode(unpack(xattrs[ACCESS]), mode))}
