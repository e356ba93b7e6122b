"""POSIX ACLs as extended attributes hold them: the layout of include/uapi/linux/posix_acl_xattr.h (acl(5))."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

ACCESS: Final = "system.posix_acl_access"
DEFAULT: Final = "system.posix_acl_default"

USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
SHIFTS: Final = {USER_OBJ: 6, GROUP_OBJ: 3, OTHER: 0}
"""Of the bits of a mode without ACL, by tag: these are the entries that every ACL has."""
NAMED: Final = frozenset({USER, GROUP})
"""The tags of entries for one user or group, which have an id."""
RWX: Final = 0o7
PERMISSIONS: Final = 0o777

_HEADER: Final = struct.Struct("<I")
_ENTRY: Final = struct.Struct("<HHI")
_VERSION: Final = 2
_ORDER: Final = (USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER)


class AclEntry(NamedTuple):
    """One line of an ACL."""

    tag: int
    permissions: int
    id: int
    """Of the user or group, for a tag in NAMED."""


def unpack(value: bytes) -> list[AclEntry]:
    """ValueError if the value is not of that layout. What it says may still make no sense: is_valid()."""
    try:
        (version,) = _HEADER.unpack_from(value)
        entries = [AclEntry(*fields) for fields in _ENTRY.iter_unpack(value[_HEADER.size :])]
    except struct.error as error:
        raise ValueError(f"no access control list: {error}") from None
    if version != _VERSION:
        raise ValueError(f"version {version} of an access control list")
    return entries


def pack(entries: Iterable[AclEntry]) -> bytes:
    """The inverse."""
    return _HEADER.pack(_VERSION) + b"".join(_ENTRY.pack(*entry) for entry in entries)


def is_valid(entries: list[AclEntry]) -> bool:
    """Whether they are an ACL that Linux would take: in order, what must be there there once, and nothing unknown."""
    tags = [entry.tag for entry in entries]
    if not set(tags) <= set(_ORDER) or tags != sorted(tags, key=_ORDER.index):
        return False
    if any(entry.permissions & ~RWX for entry in entries) or not SHIFTS.keys() <= set(tags):
        return False
    if any(tags.count(tag) > 1 for tag in _ORDER if tag not in NAMED):
        return False
    return MASK in tags or NAMED.isdisjoint(tags)


def group_tag(entries: list[AclEntry]) -> int:
    """Which entry the mode's bits for the group stand for: the mask, if there is one."""
    return MASK if any(entry.tag == MASK for entry in entries) else GROUP_OBJ


def mode_of(entries: list[AclEntry]) -> int:
    """The permission bits that go with an ACL."""
    shifts = {USER_OBJ: 6, group_tag(entries): 3, OTHER: 0}
    return sum((entry.permissions & RWX) << shifts[entry.tag] for entry in entries if entry.tag in shifts)


def says_more_than_mode(entries: list[AclEntry]) -> bool:
    """Whether it has other entries than those for which a mode has bits."""
    return any(entry.tag not in SHIFTS for entry in entries)


def with_mode(entries: list[AclEntry], mode: int) -> list[AclEntry]:
    """What chmod(2) makes of an access ACL."""
    shifts = {USER_OBJ: 6, group_tag(entries): 3, OTHER: 0}
    return [
        entry._replace(permissions=mode >> shifts[entry.tag] & RWX) if entry.tag in shifts else entry
        for entry in entries
    ]
