"""The owner, group and mode that a security descriptor tells.

Samba makes the descriptor of a file from its POSIX mode: owner, group and everyone have one ACE each. Servers of Macs
and of NFS add the exact numbers as SIDs of their own. On Windows, where access is a list of grants to anybody, the
mode is what the list gives to the owner, to the group and to everyone.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

_DESCRIPTOR = struct.Struct("<BBHIIII")
"""Revision, alignment, control, offsets of owner, group, SACL and DACL (MS-DTYP 2.4.6)."""
_ACL = struct.Struct("<BBHHH")
"""Revision, alignment, size, number of ACEs, alignment (MS-DTYP 2.4.5)."""
_ACE = struct.Struct("<BBHI")
"""Type, flags, size and, of the types that count here, the access mask (MS-DTYP 2.4.4.1, 2.4.4.2)."""
_UINT32 = struct.Struct("<I")

_SELF_RELATIVE = 0x8000
_DACL_PRESENT = 0x0004
_DENIES_BY_TYPE = {0: False, 1: True}
"""Types of ACEs; the others are conditional or of Active Directory's."""
_INHERIT_ONLY = 0x08
_SID_HEADER_BYTES = 8
"""Revision, number of subauthorities, authority (MS-DTYP 2.4.2.2)."""

_ACCESS_OF_BIT = (
    (0o4, 0x0000_0001 | 0x8000_0000 | 0x1000_0000),
    (0o2, 0x0000_0002 | 0x4000_0000 | 0x1000_0000),
    (0o1, 0x0000_0020 | 0x2000_0000 | 0x1000_0000),
)
"""For each bit of a mode: the file access mask (MS-SMB2 2.2.13.1), the generic one of its kind, and GENERIC_ALL."""
_ALL_MODE_BITS = 0o7777
_OPEN_TO_ALL = 0o777


class MalformedDescriptorError(ValueError):
    """The bytes are no self-relative security descriptor."""


class Ownership(NamedTuple):
    """What a descriptor tells; None is what it does not."""

    uid: int | None
    gid: int | None
    mode: int | None
    """Permission bits, and the set-id and sticky bits if the server tells the exact mode."""


class _Ace(NamedTuple):
    denies: bool
    applies: bool
    """To the file itself, and not only to what is made in it."""
    mask: int
    sid: bytes


def _sid(authority: int, *subauthorities: int) -> bytes:
    count = len(subauthorities)
    return struct.pack(f">BBHI{'4s' * count}", 1, count, 0, authority, *map(_UINT32.pack, subauthorities))


_NOBODY = _sid(0, 0)
_ALL_USERS = frozenset((_sid(1, 0), _sid(5, 11)))
"""Everyone and, which is the same for who could log in, Authenticated Users (MS-DTYP 2.4.2.4)."""

# Without their last subauthority, which is the number.
_UNIX_USER = _sid(22, 1, 0)[:-4]
_UNIX_GROUP = _sid(22, 2, 0)[:-4]
"""S-1-22-1-UID and S-1-22-2-GID: Samba's, for who has no SID in its domain."""
_NFS = _sid(5, 88, 0, 0)[:-8]
_NFS_USER = _sid(5, 88, 1, 0)[:-4]
_NFS_GROUP = _sid(5, 88, 2, 0)[:-4]
_NFS_MODE = _sid(5, 88, 3, 0)[:-4]
"""S-1-5-88-1-UID, -2-GID and -3-MODE: of Windows' NFS server and, with Apple's extensions, of Samba and Macs."""


@lru_cache(maxsize=4096)
def ownership_of(descriptor: bytes) -> Ownership:
    """What the descriptor tells, which must have been asked for its owner, group and DACL.

    Remembered: most files of a tree have one of a few descriptors, and listings are long.
    """
    try:
        return _parse(descriptor)
    except struct.error as error:
        raise MalformedDescriptorError(f"a security descriptor ends too early: {error}") from error


def _parse(descriptor: bytes) -> Ownership:
    revision, _, control, owner_offset, group_offset, _, dacl_offset = _DESCRIPTOR.unpack_from(descriptor)
    if revision != 1 or not control & _SELF_RELATIVE:
        raise MalformedDescriptorError("this is no self-relative security descriptor of revision 1")
    owner = _sid_at(descriptor, owner_offset, len(descriptor)) if owner_offset else b""
    group = _sid_at(descriptor, group_offset, len(descriptor)) if group_offset else b""
    aces = list(_aces(descriptor, dacl_offset)) if control & _DACL_PRESENT and dacl_offset else None
    exact = [sid for sid in (owner, group, *(ace.sid for ace in aces or ())) if sid.startswith(_NFS)]
    uid, gid, mode = _number(exact, _NFS_USER), _number(exact, _NFS_GROUP), _number(exact, _NFS_MODE)
    return Ownership(
        _number([owner], _UNIX_USER) if uid is None else uid,
        _number([group], _UNIX_GROUP) if gid is None else gid,
        _mode(aces, owner, group) if mode is None else mode & _ALL_MODE_BITS,
    )


def _sid_at(descriptor: bytes, offset: int, end: int) -> bytes:
    length = _SID_HEADER_BYTES + 4 * (descriptor[offset + 1] if offset + 1 < end else 0)
    if offset + length > end:
        raise MalformedDescriptorError("a SID ends too early")
    return descriptor[offset : offset + length]


def _aces(descriptor: bytes, offset: int) -> Iterator[_Ace]:
    _, _, size, count, _ = _ACL.unpack_from(descriptor, offset)
    end = offset + size
    if end > len(descriptor):
        raise MalformedDescriptorError("an ACL ends too early")
    offset += _ACL.size
    for _ in range(count):
        kind, flags, size, mask = _ACE.unpack_from(descriptor, offset)
        start, offset = offset + _ACE.size, offset + size
        if size < _ACE.size or offset > end:
            raise MalformedDescriptorError("an ACE does not fit into its ACL")
        applies = not flags & _INHERIT_ONLY
        denies = _DENIES_BY_TYPE.get(kind)
        if denies is None:
            yield _Ace(False, applies, 0, _NOBODY)
        else:
            yield _Ace(denies, applies, mask, _sid_at(descriptor, start, offset))


def _number(sids: list[bytes], prefix: bytes) -> int | None:
    size = len(prefix)
    for sid in sids:
        if len(sid) == size + 4 and sid.startswith(prefix):
            return int(_UINT32.unpack_from(sid, size)[0])
    return None


def _mode(aces: list[_Ace] | None, owner: bytes, group: bytes) -> int | None:
    """None if the list speaks of neither the owner nor the group nor everyone: then nobody here can tell."""
    if aces is None:
        return _OPEN_TO_ALL
    applying = [ace for ace in aces if ace.applies]
    known = _ALL_USERS | {owner, group}
    heard = [ace for ace in applying if ace.sid in known]
    if applying and not heard:
        return None
    return _bits(heard, owner) << 6 | _bits(heard, group) << 3 | _bits(heard)


def _bits(aces: list[_Ace], own: bytes | None = None) -> int:
    """What a walk through the list gives: for each right, the first ACE that names it decides (MS-DTYP 2.5.3.2).

    What everyone is granted is not for who has a grant of his own: a mode may give the owner less than the others.
    """
    has_own_grant = any(ace.sid == own and not ace.denies for ace in aces)
    granted = refused = 0
    for denies, _, mask, sid in aces:
        if sid == own or (sid in _ALL_USERS and (denies or not has_own_grant)):
            if denies:
                refused |= mask & ~granted
            else:
                granted |= mask & ~refused
    return sum(bit for bit, access in _ACCESS_OF_BIT if granted & access)
