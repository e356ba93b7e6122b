"""Which steps are made: one table a group of calls, and for each kind of argument what it is drawn from.

Most of what is drawn is there at the moment: what fails at once shows little.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, TypeAlias

from tests.mounted.differential.planting import DEVICE_MAJOR, FILE_CAPABILITIES, LONG_NAME, RAW_NAME, Carried
from tests.mounted.differential.steps import ACCESS_ACLS, GROUPS, MAPPINGS, SLOTS, Step
from tests.mounted.differential.system_calls import RENAME_EXCHANGE, RENAME_NOREPLACE, UTIME_NOW, UTIME_OMIT

NEW_NAMES: Final = (b"n1", b"n2", b"n3", b"a", b"b", b"e")
ODD_NAMES: Final = (LONG_NAME, LONG_NAME + b"L", b"d/", b".", b"a/x", b"a/", b"..", b"none/x", b"")
THROUGH: Final = (b"to-dir/a", b"to-dir/n1", b"d/e/../a", b"link", b"loop/x", b"to-dir", b"dangling")
ACL_NAMES: Final = ("system.posix_acl_access", "system.posix_acl_default")


@dataclass
class Known:
    """What is there natively: what the next step can be about."""

    carried: Carried
    acls: bool
    types: Mapping[bytes, int] = field(default_factory=dict)
    """All names, with their types."""
    slots: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    """What is open: type and flags."""
    maps: Sequence[int] = ()

    def names(self, *types: int) -> list[bytes]:
        return sorted(name for name, kind in self.types.items() if not types or kind in types) or [b"."]

    def open_slots(self, *types: int) -> list[int]:
        return sorted(slot for slot, (kind, _) in self.slots.items() if not types or kind in types)


Draw: TypeAlias = Callable[[Known, Random], Any]


def _of(*values: object) -> Draw:
    return lambda known, random: random.choice(values)


def _join(directory: bytes, name: bytes) -> bytes:
    return name if directory == b"." else directory + b"/" + name


def _new(known: Known, random: Random) -> bytes:
    kind = random.choices(("new", "old", "odd"), (8, 2, 1))[0]
    if kind == "old":
        return random.choice(known.names())
    odd = ODD_NAMES + ((RAW_NAME,) if known.carried.names else ())
    return _join(random.choice(known.names(stat.S_IFDIR)), random.choice(NEW_NAMES if kind == "new" else odd))


def _path(known: Known, random: Random) -> bytes:
    kind = random.choices(("old", "new", "through"), (10, 2, 1))[0]
    if kind == "old":
        return random.choice(known.names())
    return _new(known, random) if kind == "new" else random.choice(THROUGH)


def _mostly(*types: int) -> Draw:
    """A name of one of the types, or any path."""
    return lambda known, random: random.choice(known.names(*types)) if random.random() < 0.8 else _path(known, random)


def _slot(*types: int) -> Draw:
    """What is open of one of the types; now and then another."""

    def draw(known: Known, random: Random) -> int:
        found = known.open_slots(*types)
        return random.choice(found) if found and random.random() < 0.95 else random.randrange(SLOTS)

    return draw


def _free_slot(known: Known, random: Random) -> int:
    free = [slot for slot in range(SLOTS) if slot not in known.slots]
    return random.choice(free) if free else random.randrange(SLOTS)


def _mapping(known: Known, random: Random) -> int:
    return random.choice(known.maps) if known.maps else random.randrange(MAPPINGS)


def _flags(known: Known, random: Random) -> int:
    flags = random.choice((os.O_RDONLY, os.O_RDWR, os.O_RDWR, os.O_WRONLY))
    if random.random() < 0.6:
        return flags | random.choice((0, 0, os.O_CREAT, os.O_CREAT | os.O_TRUNC, os.O_APPEND))
    for flag in random.sample(_OPEN_FLAGS, random.randrange(1, 4)):
        flags |= flag
    return flags if known.carried.nameless else flags & ~(os.O_TMPFILE & ~os.O_DIRECTORY)


def _xattr_name(known: Known, random: Random) -> str:
    names: tuple[str, ...] = (*_XATTR_NAMES, *(ACL_NAMES if known.acls else ()))
    return random.choice(names)


def _new_xattr(known: Known, random: Random) -> tuple[str, bytes]:
    if known.acls and random.random() < 0.4:
        return random.choice(ACL_NAMES), random.choice((*ACCESS_ACLS, *ACCESS_ACLS, b"bad"))
    if random.random() < 0.2:
        return random.choice(_ODD_XATTRS)
    return random.choice(_SET_NAMES), random.choice(_XATTR_VALUES)


_OPEN_FLAGS: Final = (
    os.O_CREAT, os.O_EXCL, os.O_TRUNC, os.O_APPEND, os.O_DIRECTORY, os.O_NOFOLLOW, os.O_PATH, os.O_TMPFILE, os.O_SYNC,
    os.O_NOATIME,
)  # fmt: skip
_XATTR_NAMES: Final = ("user.one", "user.two", "trusted.two", "security.three", "security.capability", "bad", "user.")
_SET_NAMES: Final = ("user.one", "user.two", "trusted.two", "security.three", "user.")
_ODD_XATTRS: Final = (("security.capability", FILE_CAPABILITIES), ("security.capability", b"bad"), ("bad", b""))
_XATTR_VALUES: Final = (b"", b"1", b"\0\xff", b"v" * 200)
_TIMES: Final = (
    (1_111_111_111, 123_456_789), (0, 0), (-5, 1), (4_000_000_000, 999_999_999), (0, UTIME_NOW), (0, UTIME_OMIT),
)  # fmt: skip

_NODES: Final = (
    (stat.S_IFREG | 0o666, 0), (stat.S_IFIFO | 0o644, 0), (stat.S_IFSOCK | 0o755, 0),
    (stat.S_IFCHR | 0o600, os.makedev(DEVICE_MAJOR, 1)), (stat.S_IFBLK | 0o666, os.makedev(DEVICE_MAJOR, 2)),
)  # fmt: skip
_TARGETS: Final = (b"a", b"../a", b"nowhere", b"/nowhere", b"d", b".")

WORDS: Final[dict[str, Draw]] = {
    "path": _path,
    "file": _mostly(stat.S_IFREG),
    "symlink": _mostly(stat.S_IFLNK),
    "directory": _mostly(stat.S_IFDIR),
    "new": _new,
    "target": lambda known, random: random.choice((*_TARGETS, _path(known, random))),
    "slot": _slot(),
    "open file": _slot(stat.S_IFREG),
    "open directory": _slot(stat.S_IFDIR),
    "free slot": _free_slot,
    "mapping": _mapping,
    "free mapping": _of(*range(MAPPINGS)),
    "flags": _flags,
    "opendir": _of(os.O_RDONLY | os.O_DIRECTORY),
    "read-write": _of(os.O_RDWR),
    "tmpfile": _of(os.O_TMPFILE | os.O_RDWR, os.O_TMPFILE | os.O_RDWR, os.O_TMPFILE | os.O_WRONLY | os.O_EXCL),
    "status flags": _of(0, os.O_APPEND),
    "mode": _of(0o644, 0o600, 0o755, 0o4755, 0o2755, 0o6711, 0o1777, 0o777, 0, 0o400, 0o2664),
    "offset": _of(0, 1, 3, 8, 100, 4095, 4096, 4097, 10_000, 131_072, 299_999, 1 << 20, (1 << 20) + 5),
    "size": _of(0, 1, 5, 100, 4096, 5000, 70_000),
    "length": _of(1, 100, 4096, 9000, 70_000, 0),
    "letter": _of(b"A", b"B", b"\0"),
    "pieces": _of((1,), (3, 4), (4096, 1), (0, 5, 100)),
    "whence": _of(os.SEEK_SET, os.SEEK_CUR, os.SEEK_END),
    "allocate": lambda known, random: random.choice(known.carried.allocate),
    "bool": _of(False, True),
    "pages": _of(1, 2, 3),
    "rename flags": _of(0, 0, 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_EXCHANGE, 3),
    "exchange": _of(RENAME_EXCHANGE),
    "mask": _of(0o022, 0, 0o077),
    "node": lambda known, random: random.choice(_NODES),
    "uid": _of(0, 1000, 2000, -1),
    "gid": _of(0, 100, 1000, -1),
    "times": lambda known, random: (random.choice(_TIMES), random.choice(_TIMES)),
    "xattr": _xattr_name,
    "new xattr": _new_xattr,
    "xattr flags": _of(0, 0, 0, os.XATTR_CREATE, os.XATTR_REPLACE),
    "rights": _of(*range(8)),
    "batch": _of(300, 300, 1000, 4096),
    "index": _of(0, 1, 2, 4),
}

_SPREAD: Final = ("node", "new xattr")
"""Words that stand for two arguments."""
_RELATIVE: Final = frozenset({"path", "file", "symlink", "directory", "new"})

Table: TypeAlias = tuple[tuple[str, tuple[str, ...]], ...]
"""Calls, each with what its arguments are."""

CALLS: Final[dict[str, Table]] = {
    "opening": (
        *[("open", ("free slot", "file", "flags", "mode"))] * 4,
        *[("open", ("free slot", "file", "read-write"))] * 3,
        *[("open", ("free slot", "directory", "tmpfile", "mode"))] * 2,
        *[("open", ("free slot", "directory", "opendir"))] * 2,
        ("close", ("slot",)),
        ("duplicate", ("slot", "free slot")),
        ("set_flags", ("open file", "status flags")),
        ("fsync", ("slot", "bool")),
        ("umask", ("mask",)),
    ),
    "data": (
        ("pread", ("open file", "size", "offset")),
        ("readv", ("open file", "pieces")),
        ("seek", ("open file", "offset", "whence")),
        *[("pwrite", ("open file", "letter", "size", "offset"))] * 2,
        ("write", ("open file", "letter", "size")),
        ("writev", ("open file", "letter", "pieces")),
        ("ftruncate", ("open file", "offset")),
        ("truncate", ("file", "offset")),
        ("append_record", ("file", "letter")),
        *[("fallocate", ("open file", "allocate", "offset", "length"))] * 2,
        *[("copy_range", ("open file", "open file", "length", "offset", "offset"))] * 2,
        ("seek_data", ("open file", "offset")),
        ("seek_hole", ("open file", "offset")),
    ),
    "mapping": (
        *[("map", ("free mapping", "open file", "bool", "bool", "pages"))] * 2,
        *[("map_write", ("mapping", "letter", "size", "offset"))] * 2,
        ("unmap", ("mapping",)),
    ),
    "names": (
        *[("rename", ("path", "new", "rename flags"))] * 2,
        ("rename", ("path", "path", "rename flags")),
        ("rename", ("file", "file", "rename flags")),
        *[("rename", ("directory", "new", "rename flags"))] * 2,
        ("rename", ("directory", "directory", "rename flags")),
        ("rename", ("path", "path", "exchange")),
        *[("link", ("file", "new", "bool"))] * 2,
        ("link", ("path", "new", "bool")),
        *[("link_descriptor", ("open file", "new", "bool"))] * 2,
        *[("unlink", ("file",))] * 3,
        ("unlink", ("path",)),
        *[("rmdir", ("directory",))] * 3,
        *[("mkdir", ("new", "mode"))] * 2,
        ("symlink", ("target", "new")),
        ("mknod", ("new", "node")),
        ("append_record", ("new", "letter")),
    ),
    "looking": (
        ("readlink", ("symlink",)),
        ("access", ("path", "rights")),
        ("names", ("directory",)),
        ("size_of", ("path",)),
        ("getxattr", ("path", "xattr")),
        ("flistxattr", ("slot",)),
    ),
    "listing": (
        *[("open", ("free slot", "directory", "opendir"))] * 2,
        *[("read_directory", ("open directory", "batch"))] * 3,
        ("seek_directory", ("open directory", "index")),
    ),
    "attributes": (
        *[("chmod", ("path", "mode"))] * 2,
        ("fchmod", ("slot", "mode")),
        *[("chown", ("path", "uid", "gid", "bool"))] * 2,
        ("fchown", ("slot", "uid", "gid")),
        *[("utimens", ("path", "times", "bool"))] * 2,
        ("futimens", ("slot", "times")),
        *[("setxattr", ("path", "new xattr", "xattr flags", "bool"))] * 3,
        ("fsetxattr", ("slot", "new xattr", "xattr flags")),
        *[("removexattr", ("path", "xattr", "bool"))] * 2,
        ("fremovexattr", ("slot", "xattr")),
    ),
}


OPENINGS: Final[Table] = (
    *[("open", ("free slot", "file", "read-write"))] * 3,
    ("open", ("free slot", "file", "flags", "mode")),
    ("open", ("free slot", "directory", "opendir")),
)


def step(group: str, known: Known, random: Random) -> Step:
    """A step of a group of calls, or one that opens what they need."""
    possible = [row for row in CALLS[group] if not _untried(known.carried) & set(row[1])]
    usable = [row for row in possible if _can_be(row[1], known) or random.random() < 0.02]
    call, words = random.choice(usable or OPENINGS)
    arguments: list[object] = []
    for word in words:
        drawn = WORDS[word](known, random)
        arguments += drawn if word in _SPREAD else [drawn]
    user = random.choice((0, 0, 0, *GROUPS))
    directories = known.open_slots(stat.S_IFDIR)
    at = None
    if directories and _RELATIVE & set(words) and random.random() < 0.25:
        at = random.choice(directories)
        arguments = [_last(argument) for argument in arguments]
    return Step(call, tuple(arguments), user, at)


def _untried(carried: Carried) -> set[str]:
    """Words of calls that are not made."""
    return {word for word, is_tried in (("allocate", carried.allocate), ("tmpfile", carried.nameless)) if not is_tried}


def _can_be(words: tuple[str, ...], known: Known) -> bool:
    """Whether what the arguments need is open or mapped."""
    needed = {
        "slot": known.slots,
        "open file": known.open_slots(stat.S_IFREG),
        "open directory": known.open_slots(stat.S_IFDIR),
        "mapping": known.maps,
    }
    return all(needed.get(word, True) for word in words)


def _last(argument: object) -> object:
    """Of a path its last component: in the directory of a slot others lead nowhere."""
    return argument.rpartition(b"/")[2] or argument if isinstance(argument, bytes) else argument
