"""What a step is: one call, or a few, written so that it can be printed, sent to a process, and pasted into a test."""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

SLOTS: Final = 6
"""Descriptors that are held open at once."""
MAPPINGS: Final = 3

GROUPS: Final = {0: (0, ()), 1000: (1000, (1000, 100)), 2000: (2000, (100,)), 3000: (3000, ())}
"""The users that calls are made as: their group and further groups."""


@dataclass(frozen=True, slots=True)
class Step:
    """One call of the Actor."""

    call: str
    arguments: tuple[object, ...] = ()
    user: int = 0
    at: int | None = None
    """The slot with the directory in which it is made; None is the top."""

    def __repr__(self) -> str:
        words = [repr(self.call), repr(self.arguments)]
        words += [f"user={self.user}"] if self.user else []
        words += [f"at={self.at}"] if self.at is not None else []
        return f"Step({', '.join(words)})"


class Between(enum.Enum):
    """What is done between steps."""

    REMOUNT = "remount"
    COMPARE = "compare"

    def __repr__(self) -> str:
        return f"Between.{self.name}"


class Watch(enum.IntEnum):
    """What is looked at after each step. Looking makes the kernel and the mount know more than they would."""

    NOTHING = 0
    ATTRIBUTES = 1
    EVERYTHING = 2


class AclEntry(NamedTuple):
    """One entry of a POSIX ACL."""

    tag: int
    permissions: int
    id: int = 0xFFFF_FFFF


class AclTag(enum.IntEnum):
    """linux/posix_acl.h."""

    USER_OBJ = 0x01
    USER = 0x02
    GROUP_OBJ = 0x04
    GROUP = 0x08
    MASK = 0x10
    OTHER = 0x20


def packed_acl(*entries: AclEntry) -> bytes:
    """The value of system.posix_acl_access and system.posix_acl_default: version 2, entries in order."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


ACCESS_ACLS: Final = (
    packed_acl(
        AclEntry(AclTag.USER_OBJ, 6),
        AclEntry(AclTag.USER, 7, 1000),
        AclEntry(AclTag.GROUP_OBJ, 4),
        AclEntry(AclTag.MASK, 7),
        AclEntry(AclTag.OTHER, 0),
    ),
    packed_acl(
        AclEntry(AclTag.USER_OBJ, 7),
        AclEntry(AclTag.GROUP_OBJ, 5),
        AclEntry(AclTag.GROUP, 6, 100),
        AclEntry(AclTag.MASK, 4),
        AclEntry(AclTag.OTHER, 4),
    ),
    packed_acl(AclEntry(AclTag.USER_OBJ, 6), AclEntry(AclTag.GROUP_OBJ, 4), AclEntry(AclTag.OTHER, 4)),
)
"""The last says no more than a mode."""
