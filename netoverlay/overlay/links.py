"""Hard links of the lowers: one file stays one file under all its names, with the right count of them, over remounts.

A lower's file that has names which nobody has looked up yet is indexed when it is copied up: a further hard link to the
upper's file, in the work directory, under a name made of the layer and the file's id there. Whoever looks up another of
its names finds it in the index, and gives the upper's file that name too. How many names it has in all is part of the
name in the index, in one of two forms, so that it stays true, after a crash as well, while a name is being changed. (No
attribute of the file: an ordinary user may set none at a file that he may not write, or at a symbolic link.)

    =N   there are N names: true while the upper takes over one of the lower's names
    +N   as many as hard links in the upper, and N more (or fewer): true while the upper gains or loses a name

Of a file that is still in a lower, and has lost names to whiteouts, the index keeps the number of those, and when it
lost the last of them, in the name and ctime of an empty file.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import re
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

from netoverlay.backend_api import Access, Backend, Creation, FileStat, LayerPath, LayerSetupError, join_path
from netoverlay.overlay.layers import Layer
from netoverlay.overlay.whiteouts import OverlayfsFormat

DIRECTORY_NAME = "links"
KERNEL_DIRECTORY_NAME = "index"
"""Where overlayfs has an index of its own (kernel_index.py): a file that is in that one need not be in this one."""
_LOST_MARK = "-"
_DIGEST_BYTES = 16
_KEY_LENGTH = 2 * _DIGEST_BYTES


@dataclass(frozen=True, slots=True)
class LinkCount:
    """How many names a file of the upper has that came from a lower where it had several."""

    number: int
    in_all: bool
    """`number` is the count itself, form "="; else what has to be added to the upper's, form "+"."""
    key: str
    """Of the lower's file; with a slash, its path in the work directory, where overlayfs has it in its own index."""
    size: int
    """Of the lower's file when it was copied up, in bytes: by this and `mtime_ns` it is known again."""
    mtime_ns: int

    @property
    def is_kernels(self) -> bool:
        """It is overlayfs's count, which has the form "+"."""
        return "/" in self.key

    def shown(self, links: int) -> int:
        """The st_nlink to show if the upper's file has `links` hard links."""
        return self.number if self.in_all else links + self.number

    def is_gone(self, links: int) -> bool:
        """Whether no name leads to it any more, where the upper's file has `links` hard links."""
        return self.shown(links) <= 0

    def is_complete(self, links: int) -> bool:
        """Whether all its names are in the upper, where it has `links` hard links, one of them in the index."""
        return self.shown(links) < links

    def is_of(self, stat: FileStat) -> bool:
        """Whether what has this id in the lower now is the file that was copied up."""
        return (self.size, self.mtime_ns) == (stat.size, stat.mtime_ns)

    @property
    def name(self) -> str:
        """Its name in the index."""
        return f"{self.key}{'=' if self.in_all else '+'}{self.number}:{self.size}:{self.mtime_ns}"

    @classmethod
    def of_name(cls, name: str) -> Self:
        """The count whose name is `name`. ValueError if it is of none."""
        found = _COUNT_NAME.fullmatch(name)
        if found is None:
            raise ValueError(f"{name!r} is no entry of the index of hard links")
        key, form, number, size, mtime_ns = found.groups()
        return cls(int(number), form == "=", key, int(size), int(mtime_ns))


_COUNT_NAME = re.compile(rf"([0-9a-f]{{{_KEY_LENGTH}}})([=+])(-?\d+):(\d+):(-?\d+)")
_LOST_NAME = re.compile(rf"([0-9a-f]{{{_KEY_LENGTH}}}){_LOST_MARK}(\d+)")


class Lost(NamedTuple):
    """The names that a file of a lower has lost to whiteouts."""

    number: int
    ctime_ns: int | None
    """When it lost the last one, which is a change of the file."""


_NONE_LOST = Lost(0, None)


class LostNames(NamedTuple):
    """An entry of the index for a file that is still in a lower."""

    key: str
    number: int


def read_entry(name: str) -> LinkCount | LostNames:
    """What the name of an entry of the index says. ValueError if that is nothing."""
    found = _LOST_NAME.fullmatch(name)
    return LinkCount.of_name(name) if found is None else LostNames(found[1], int(found[2]))


class LinkIndex:
    """The index of one upper. What changes it is called with COPY_UP of the file, and PATHS, held."""

    def __init__(self, backend: Backend, work: LayerPath, marks: OverlayfsFormat) -> None:
        """`work` is the upper's work directory, which is there. Drops what no name leads to any more."""
        self._backend = backend
        self._marks = marks
        self._work = work
        self._directory = join_path(work, DIRECTORY_NAME)
        self.kernel_names = _names(backend, join_path(work, KERNEL_DIRECTORY_NAME))
        """What overlayfs's index holds, since before the mount began."""
        self._files: dict[str, LinkCount] = {}
        self._keys: dict[int, str] = {}
        """By the file's id in the upper."""
        self._lost: dict[str, Lost] = {}
        with contextlib.suppress(FileNotFoundError):
            for entry in backend.list_dir(self._directory):
                self._load(entry.name, entry.stat)

    def path(self, count: LinkCount) -> LayerPath:
        """Where the upper's file always is, whatever its names are."""
        return join_path(self._work, count.key) if count.is_kernels else self._path(self._files[count.key].name)

    def find(self, layer: Layer, stat: FileStat) -> LinkCount | None:
        """The count of the upper's file to which the lower's file `stat` was copied up; None if it was not."""
        count = self._files.get(_key(layer, stat)) if self._files and stat.file_id is not None else None
        return count if count is not None and count.is_of(stat) else None

    def count_at(self, path: LayerPath, stat: FileStat) -> LinkCount | None:
        """The count of the upper's file at `path`, which is `stat`; None if it is not in the index."""
        if self.kernel_names and (name := self._marks.origin(path).hex()) in self.kernel_names:
            return self.kernel_count(name, None)
        key = None if stat.file_id is None else self._keys.get(stat.file_id)
        return None if key is None else self._files[key]

    def current(self, count: LinkCount | None) -> LinkCount | None:
        """`count` while it holds: None once another file has taken its place, in a lower that others change."""
        if count is None or count.is_kernels or self._files.get(count.key) == count:
            return count
        return None

    def shown_below(self, layer: Layer, stat: FileStat) -> FileStat:
        """What a lower tells of a file, with the names that are still shown."""
        lost = self._lost.get(_key(layer, stat), _NONE_LOST) if self._lost else _NONE_LOST
        if not lost.number or stat.nlink is None:
            return stat
        return stat._replace(nlink=stat.nlink - lost.number, ctime_ns=lost.ctime_ns)

    def add(self, layer: Layer, stat: FileStat, made: LayerPath) -> LinkCount | None:
        """Index the copy of a lower's file that was `made` and is about to get its names; None if that is one name.

        Also if it gets all of them: after a crash in between, those that it has not got are found by the index.
        """
        if stat.file_id is None:
            return None
        key = _key(layer, stat)
        number = self.shown_below(layer, stat).nlink or 1
        count = LinkCount(number, in_all=True, key=key, size=stat.size, mtime_ns=stat.mtime_ns)
        file_id = self._backend.stat(made).file_id
        if count.number == 1 or file_id is None:
            return None
        if key in self._files:
            # Of a file that had this id before, in a lower that others change.
            self.drop(self._files[key])
        self._make_directory()
        self._backend.link(made, self._path(count.name))
        self._files[key] = count
        self._keys[file_id] = key
        return count

    def kernel_count(self, name: str, below: FileStat | None) -> LinkCount | None:
        """The count of what is in overlayfs's index under `name`, None if it is gone.

        `below`: the lower's file of which it is the copy, if that is at hand.
        """
        count = LinkCount(0, in_all=False, key=f"{KERNEL_DIRECTORY_NAME}/{name}", size=0, mtime_ns=0)
        path = self.path(count)
        try:
            links = self._backend.stat(path).nlink or 1
        except FileNotFoundError:
            return None
        relative_to_below, number = self._marks.kernel_links(path) or (False, -1)
        if relative_to_below:
            number += (links if below is None else below.nlink or 1) - links
        return replace(count, number=number)

    def before_taking_over(self, count: LinkCount) -> LinkCount:
        """The upper's file is about to get one of the lower's names."""
        if count.is_kernels:
            taken = replace(count, number=count.number - 1)
            self._marks.set_kernel_links(self.path(taken), taken.number)
            return taken
        return self._rewrite(count, in_all=True)

    def before_change(self, count: LinkCount) -> LinkCount:
        """The upper's file is about to get a new name, or to lose one."""
        return self._rewrite(count, in_all=False)

    def settle(self, count: LinkCount) -> LinkCount | None:
        """After a change: take the file out of the index, and return None, if all its names are in the upper.

        From its own index overlayfs itself takes what has lost all its names.
        """
        links = self._backend.stat(self.path(count)).nlink or 1
        if count.is_kernels:
            return count if count.shown(links) > 0 else None
        if not count.is_complete(links):
            return count
        self.drop(count)
        return None

    def drop(self, count: LinkCount) -> None:
        """Take the upper's file out of the index."""
        path = self.path(count)
        file_id = self._backend.stat(path).file_id
        self._backend.unlink(path)
        del self._files[count.key]
        if file_id is not None:
            self._keys.pop(file_id, None)

    def note_removed_below(self, layer: Layer, stat: FileStat) -> None:
        """A whiteout hides one of the names of a file that is still in a lower. No data is copied for it.

        `stat`: as it is shown before that.
        """
        key = _key(layer, stat)
        before = self._lost.get(key, _NONE_LOST).number
        path = self._lost_path(key, before)
        if (stat.nlink or 1) == 1:
            if before:
                self._backend.unlink(path)
                del self._lost[key]
            return
        further = self._lost_path(key, before + 1)
        if before:
            self._backend.rename(path, further)
        else:
            self._make_directory()
            self._backend.open(further, Access.READ_WRITE, create=Creation.EXCLUSIVE, mode=0o600).close()
        self._lost[key] = Lost(before + 1, self._backend.stat(further).ctime_ns)

    def _make_directory(self) -> None:
        with contextlib.suppress(FileExistsError):
            self._backend.mkdir(self._directory, 0o700)

    def _path(self, name: str) -> LayerPath:
        return join_path(self._directory, name)

    def _lost_path(self, key: str, number: int) -> LayerPath:
        return self._path(f"{key}{_LOST_MARK}{number}")

    def _rewrite(self, count: LinkCount, *, in_all: bool) -> LinkCount:
        if count.in_all is in_all:
            return count
        path = self.path(count)
        links = self._backend.stat(path).nlink or 1
        shown = count.shown(links)
        other = replace(count, number=shown if in_all else shown - links, in_all=in_all)
        self._backend.rename(path, self._path(other.name))
        self._files[count.key] = other
        return other

    def _load(self, name: str, stat: FileStat) -> None:
        try:
            entry = read_entry(name)
        except ValueError:
            raise LayerSetupError(
                f"{self._path(name)} is no entry of the index of hard links: see `netoverlay fsck`", errno.EINVAL
            ) from None
        if isinstance(entry, LostNames):
            self._lost[entry.key] = Lost(entry.number, stat.ctime_ns)
            return
        count = entry
        if count.is_gone(stat.nlink or 1) or stat.file_id is None:
            self._backend.unlink(self._path(name))
            return
        self._files[count.key] = count
        self._keys[stat.file_id] = count.key


def _names(backend: Backend, directory: LayerPath) -> frozenset[str]:
    """What is in a directory that may not be there, or not be for this user."""
    try:
        return frozenset(entry.name for entry in backend.list_dir(directory))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return frozenset()


def _key(layer: Layer, stat: FileStat) -> str:
    name = f"{layer.identity}\0{stat.file_id}".encode(errors="surrogateescape")
    return hashlib.blake2b(name, digest_size=_DIGEST_BYTES).hexdigest()
