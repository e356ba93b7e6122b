"""Whether two observations, of the mount and of the native directory, are the same, and how they differ.

What is not compared, and why:

- sizes of directories, and blocks: every file system has its own (and Seen has none of them);
- the link count of a directory that is 1: not every file system, and no server, counts subdirectories;
- numbers of inodes and devices by themselves: only that they stay, and which names share one;
- times that are "now": that they are, and whether they changed since the last look, but not to the nanosecond;
- access times that reading has moved, and of directories, which removing them reads, too: what reads is the mount's
  daemon, or a server, and these know of no O_NOATIME;
- whether a ctime changed in a remount: nothing can set one, so then it may be that of the copy-up;
- the order of directories.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar

from tests.mounted.differential.observing import Observation, Seen
from tests.mounted.differential.planting import Carried

EXACT: Final = ("mode", "uid", "gid", "size", "nlink", "rdev", "content", "xattrs")
_Key = TypeVar("_Key", bytes, str)
CHANGED_ALONE: Final = "changed, natively it did not"
NOW_NS: Final = 3600 * 10**9
CLOSE_NS: Final = 30 * 10**9


@dataclass
class Comparison:
    """What is known of both sides of one tree, from the first look on."""

    carried: Carried
    numbers: dict[bytes, int] = field(default_factory=dict)
    """The mount's inode numbers, by the identity of the native inode."""
    device: int | None = None
    contents_read: bool = False
    """By looking at them."""
    before: dict[bytes, tuple[Seen, Seen]] = field(default_factory=dict)
    """Both sides of each inode at the last look, by its native identity."""

    def differences(self, native: Observation, mount: Observation, *, fresh: bool = False) -> list[str]:
        """How they differ. `fresh`: for the first time after a remount."""
        if native.failed or mount.failed:
            return [f"looking fails: {mount.failed!r}, natively {native.failed!r}"]
        found = [*_missing(native.names, mount.names), *_missing(native.descriptors, mount.descriptors)]
        for what in ("mappings", "positions"):
            found += _unequal(what, getattr(native, what), getattr(mount, what))
        pairs = {
            **_pairs(native.names, mount.names),
            **_pairs(native.descriptors, mount.descriptors),
        }
        for name, (one, other) in pairs.items():
            found += [f"{name}: {text}" for text in self._differing(one, other, fresh=fresh)]
        self.contents_read |= any(one.content is not None for one in mount.names.values())
        found += self._renumbered(pairs)
        found += self._unlike_its_listing(mount.names)
        self.before = {one.identity: (one, other) for one, other in pairs.values()}
        return found

    def _differing(self, native: Seen, mount: Seen, *, fresh: bool) -> Iterator[str]:
        for what in EXACT:
            one, other = getattr(native, what), getattr(mount, what)
            if what == "nlink" and stat.S_ISDIR(native.mode) and 1 in (one, other):
                continue  # that is: not counted
            if one != other and one is not None and other is not None:
                yield f"{what} is {_shown(what, other)}, natively {_shown(what, one)}"
        yield from self._differing_time("mtime", native.mtime, mount.mtime)
        told = self.carried.change_time and not self.contents_read and native.listed and stat.S_ISREG(native.mode)
        if told and not _is_now(native.atime):
            yield from self._differing_time("atime", native.atime, mount.atime)
        before = self.before.get(native.identity)
        if before is None:
            return
        for what in ("mtime", "ctime"):
            natively = getattr(native, what) != getattr(before[0], what)
            here = getattr(mount, what) != getattr(before[1], what)
            if natively == here or (what == "ctime" and fresh):
                continue
            yield f"{what} {CHANGED_ALONE}" if here else f"{what} did not change, natively it did"

    def _differing_time(self, what: str, native: int, mount: int) -> Iterator[str]:
        same = abs(native - mount) < CLOSE_NS if _is_now(native) else native == mount
        if not same:
            yield f"{what} is {mount}, natively {'now, ' if _is_now(native) else ''}{native}"

    def _renumbered(self, pairs: Mapping[str, tuple[Seen, Seen]]) -> Iterator[str]:
        """Inode numbers that changed, or do not tell the same inodes apart as the native ones."""
        seen: dict[int, tuple[bytes, str]] = {}
        numbers: dict[bytes, int] = {}
        for name, (native, mount) in pairs.items():
            known = numbers.get(native.identity, self.numbers.get(native.identity))
            if known is not None and known != mount.ino:
                yield f"{name}: st_ino was {known:#x} and is {mount.ino:#x}"
            numbers.setdefault(native.identity, mount.ino)
            owner, first = seen.setdefault(mount.ino, (native.identity, name))
            if owner != native.identity:
                yield f"{name} and {first} have one st_ino, and are two files"
            self.device = mount.device if self.device is None else self.device
            if mount.device != self.device:
                yield f"{name}: st_dev is {mount.device}, not {self.device}"
        self.numbers = numbers

    def _unlike_its_listing(self, names: Mapping[bytes, Seen]) -> Iterator[str]:
        for path, one in names.items():
            if one.listed is None:
                continue
            ino, kind = one.listed
            if ino != one.ino:
                yield f"{_text(path)}: d_ino is {ino:#x}, st_ino {one.ino:#x}"
            if kind and kind != one.mode & 0o170000:
                yield f"{_text(path)}: d_type {kind:o}, st_mode {one.mode:o}"

    def forget_device(self) -> None:
        """The next mount has a device number of its own."""
        self.device = None


def may_be_forgotten(differences: Iterable[str]) -> bool:
    """Whether they can come from inodes that the kernel forgot for want of memory, as from a remount."""
    return all(text.endswith(f"ctime {CHANGED_ALONE}") for text in differences)


def _is_now(nanoseconds: int) -> bool:
    return abs(time.time_ns() - nanoseconds) < NOW_NS


def _text(name: object) -> str:
    return os.fsdecode(name) if isinstance(name, bytes) else str(name)


def _shown(what: str, value: object) -> str:
    return oct(value) if what == "mode" and isinstance(value, int) else repr(value)


def _pairs(native: Mapping[_Key, Seen], mount: Mapping[_Key, Seen]) -> dict[str, tuple[Seen, Seen]]:
    return {repr(_text(name)): (native[name], mount[name]) for name in native if name in mount}


def _missing(native: Mapping[_Key, Seen], mount: Mapping[_Key, Seen]) -> Iterator[str]:
    for name in native.keys() - mount.keys():
        yield f"{_text(name)!r} is missing"
    for name in mount.keys() - native.keys():
        yield f"{_text(name)!r} is there, natively it is not"


def _unequal(what: str, native: Mapping[int, object], mount: Mapping[int, object]) -> Iterator[str]:
    for number in native.keys() | mount.keys():
        one, other = native.get(number), mount.get(number)
        if one != other:
            yield f"{what} {number}: {other}, natively {one}"
