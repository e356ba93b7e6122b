"""The extended attributes that hold ids, with other ids: access control lists and file capabilities."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, TypeAlias

from netoverlay.wrappers.id_map import ROOT_ID

ChangeId: TypeAlias = Callable[[int], int]
"""From the id that an attribute holds to the one that it is to hold."""
ChangeValue: TypeAlias = Callable[[bytes, ChangeId, ChangeId], bytes]
"""(value, for users, for groups) -> the value with other ids. What is not of the known form stays as it is."""

_ACL_VERSION = struct.Struct("<I")
_ACL_ENTRY = struct.Struct("<HHI")
"""Tag, permissions, id (linux/posix_acl_xattr.h)."""
_KNOWN_ACL_VERSION = 2
_ACL_USER = 0x02
_ACL_GROUP = 0x08

_CAPABILITY = struct.Struct("<I16s")
"""Revision and flags; the capabilities, permitted and inheritable (struct vfs_cap_data, linux/capability.h)."""
_CAPABILITY_ROOT = struct.Struct("<I")
"""What revision 3 has at its end: the user who is root of the name space in which the capabilities hold."""
_REVISION_MASK = 0xFF000000
_REVISION_2 = 0x02000000
_REVISION_3 = 0x03000000


def _access_list(value: bytes, user: ChangeId, group: ChangeId) -> bytes:
    if len(value) < _ACL_VERSION.size or (len(value) - _ACL_VERSION.size) % _ACL_ENTRY.size:
        return value
    if _ACL_VERSION.unpack_from(value)[0] != _KNOWN_ACL_VERSION:
        return value
    change = {_ACL_USER: user, _ACL_GROUP: group}
    changed = bytearray(value)
    for offset in range(_ACL_VERSION.size, len(value), _ACL_ENTRY.size):
        tag, permissions, number = _ACL_ENTRY.unpack_from(value, offset)
        if tag in change:
            _ACL_ENTRY.pack_into(changed, offset, tag, permissions, change[tag](number))
    return bytes(changed)


def _capability(value: bytes, user: ChangeId, group: ChangeId) -> bytes:  # noqa: ARG001 - as ChangeValue
    """As an idmapped mount: without a root they are those of user 0, and with another one they hold for that."""
    if len(value) == _CAPABILITY.size:
        root, revision = ROOT_ID, _REVISION_2
    elif len(value) == _CAPABILITY.size + _CAPABILITY_ROOT.size:
        (root,), revision = _CAPABILITY_ROOT.unpack_from(value, _CAPABILITY.size), _REVISION_3
    else:
        return value
    word, sets = _CAPABILITY.unpack_from(value)
    changed = user(root)
    if word & _REVISION_MASK != revision or changed == root:
        return value
    flags = word & ~_REVISION_MASK
    if changed == ROOT_ID:
        return _CAPABILITY.pack(_REVISION_2 | flags, sets)
    return _CAPABILITY.pack(_REVISION_3 | flags, sets) + _CAPABILITY_ROOT.pack(changed)


ATTRIBUTES_WITH_IDS: Final[Mapping[str, ChangeValue]] = MappingProxyType(
    {
        "system.posix_acl_access": _access_list,
        "system.posix_acl_default": _access_list,
        "security.capability": _capability,
    }
)
"""By the attribute's name."""
