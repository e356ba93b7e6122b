"""Hard links of the lowers: one file stays one file under all its names, with the right count of them, over remounts.

A lower's file that has names which nobody has looked up yet is indexed when it is copied up: a further hard link to the
upper's file, in the work directory, under a name made of the layer and the file's id there. Whoever looks up another of
its names finds it in the index, and gives the upper's file that name too. How many names it has in all is written at
the upper's file, in one of two forms, so that it stays true, after a crash as well, while a name is being changed:

    =N   there are N names: true while the upper takes over one of the lower's names
    +N   as many as hard links in the upper, and N more (or fewer): true while the upper gains or loses a name

Of a file that is still in a lower, and has lost names to whiteouts, the index keeps the number of those, and when it
lost the last of them, in the name and ctime of an empty file.
"""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

from netoverlay.backend_api import Access, Backend, Creation, FileStat, LayerPath, join_path
from netoverlay.overlay.layers import Layer
from netoverlay.overlay.whiteouts import OverlayfsFormat

DIRECTORY_NAME = "links"
_LOST_MARK = "-"


@dataclass(frozen=True, slots=True)
class LinkCount:
    """How many names a file of the upper has that came from a lower where it had several."""

    number: int
    in_all: bool
    """`number` is the count itself, form "="; else what has to be added to the upper's, form "+"."""
    key: str
    """Its name in the index."""
    size: int
    """Of the lower's file when it was copied up, in bytes: by this and `mtime_ns` it is known again."""
    mtime_ns: int

    def shown(self, links: int) -> int:
        """The st_nlink to show if the upper's file has `links` hard links."""
        return self.number if self.in_all else links + self.number

    def is_of(self, stat: FileStat) -> bool:
        """Whether what has this id in the lower now is the file that was copied up."""
        return (self.size, self.mtime_ns) == (stat.size, stat.mtime_ns)

    def encode(self) -> bytes:
        """As it is written at the file."""
        return f"{'=' if self.in_all else '+'}{self.number}:{self.key}:{self.size}:{self.mtime_ns}".encode()

    @classmethod
    def decode(cls, value: bytes) -> Self:
        """What encode() wrote. ValueError for anything else."""
        number, key, size, mtime_ns = value[1:].decode().split(":")
        return cls(int(number), value[:1] == b"=", key, int(size), int(mtime_ns))


class Lost(NamedTuple):
    """The names that a file of a lower has lost to whiteouts."""

    number: int
    ctime_ns: int | None
    """When it lost the last one, which is a change of the file."""


_NONE_LOST = Lost(0, None)


class LinkIndex:
    """The index of one upper. What changes it is called with COPY_UP of the file, and PATHS, held."""

    def __init__(self, backend: Backend, work: LayerPath, marks: OverlayfsFormat) -> None:
        """`work` is the upper's work directory, which is there. Drops what no name leads to any more."""
        self._backend = backend
        self._marks = marks
        self._directory = join_path(work, DIRECTORY_NAME)
        self._files: set[str] = set()
        self._lost: dict[str, Lost] = {}
        with contextlib.suppress(FileNotFoundError):
            for entry in backend.list_dir(self._directory):
                self._load(entry.name, entry.stat)

    def path(self, count: LinkCount) -> LayerPath:
        """Where the upper's file always is, whatever its names are."""
        return self._path(count.key)

    def find(self, layer: Layer, stat: FileStat) -> LinkCount | None:
        """The count of the upper's file to which the lower's file `stat` was copied up; None if it was not."""
        if not self._files or stat.file_id is None or (key := _key(layer, stat)) not in self._files:
            return None
        count = self.count_at(self._path(key))
        return count if count is not None and count.is_of(stat) else None

    def count_at(self, path: LayerPath) -> LinkCount | None:
        """The count of the upper's file at `path`, None if it is not in the index."""
        value = self._marks.link_count(path) if self._files else None
        if value is None:
            return None
        count = LinkCount.decode(value)
        return count if count.key in self._files else None

    def shown_below(self, layer: Layer, stat: FileStat) -> FileStat:
        """What a lower tells of a file, with the names that are still shown."""
        lost = self._lost.get(_key(layer, stat), _NONE_LOST) if self._lost else _NONE_LOST
        if not lost.number or stat.nlink is None:
            return stat
        return stat._replace(nlink=stat.nlink - lost.number, ctime_ns=lost.ctime_ns)

    def add(self, layer: Layer, stat: FileStat, made: LayerPath, names: int) -> LinkCount | None:
        """Index the copy of a lower's file that was `made` and is about to get `names` names, if it has more.

        None if it has not, or if the upper's file system cannot hold the count.
        """
        if stat.file_id is None:
            return None
        key = _key(layer, stat)
        number = self.shown_below(layer, stat).nlink or 1
        count = LinkCount(number, in_all=True, key=key, size=stat.size, mtime_ns=stat.mtime_ns)
        return self._enter(count, made) if count.number > names else None

    def add_existing(self, layer: Layer, stat: FileStat, existing: LayerPath, names: int) -> LinkCount | None:
        """Index the upper's file `existing`, the copy of a lower's file `stat`, which has `names` names in all."""
        count = LinkCount(names, in_all=True, key=_key(layer, stat), size=stat.size, mtime_ns=stat.mtime_ns)
        return self._enter(count, existing)

    def before_taking_over(self, count: LinkCount) -> LinkCount:
        """The upper's file is about to get one of the lower's names."""
        return self._rewrite(count, in_all=True)

    def before_change(self, count: LinkCount) -> LinkCount:
        """The upper's file is about to get a new name, or to lose one."""
        return self._rewrite(count, in_all=False)

    def settle(self, count: LinkCount) -> LinkCount | None:
        """After a change: take the file out of the index, and return None, if all its names are in the upper."""
        path = self._path(count.key)
        links = self._backend.stat(path).nlink or 1
        if count.shown(links) >= links:
            return count
        # The mark goes first: without it the count is the hard links', one too many until the next step.
        self._marks.remove_link_count(path)
        self.drop(count)
        return None

    def drop(self, count: LinkCount) -> None:
        """Take the upper's file out of the index."""
        self._backend.unlink(self._path(count.key))
        self._files.discard(count.key)

    def note_removed_below(self, layer: Layer, stat: FileStat) -> None:
        """A whiteout is about to hide one of the names of a file that is still in a lower. No data is copied for it.

        `stat`: as it is shown before that.
        """
        key = _key(layer, stat)
        before = self._lost.pop(key, _NONE_LOST).number
        path = self._lost_path(key, before)
        if (stat.nlink or 1) == 1:
            if before:
                self._backend.unlink(path)
            return
        further = self._lost_path(key, before + 1)
        if before:
            self._backend.rename(path, further)
        else:
            self._make_directory()
            self._backend.open(further, Access.READ_WRITE, create=Creation.EXCLUSIVE, mode=0o600).close()
        self._lost[key] = Lost(before + 1, self._backend.stat(further).ctime_ns)

    def _enter(self, count: LinkCount, existing: LayerPath) -> LinkCount | None:
        """None if the upper's file system cannot hold the count."""
        if not self._marks.record_link_count(existing, count.encode()):
            return None
        if count.key in self._files:
            # Of a file that had this id before, in a lower that others change.
            self._backend.unlink(self._path(count.key))
        self._make_directory()
        self._backend.link(existing, self._path(count.key))
        self._files.add(count.key)
        return count

    def _make_directory(self) -> None:
        with contextlib.suppress(FileExistsError):
            self._backend.mkdir(self._directory, 0o700)

    def _path(self, key: str) -> LayerPath:
        return join_path(self._directory, key)

    def _lost_path(self, key: str, number: int) -> LayerPath:
        return self._path(f"{key}{_LOST_MARK}{number}")

    def _rewrite(self, count: LinkCount, *, in_all: bool) -> LinkCount:
        if count.in_all is in_all:
            return count
        path = self._path(count.key)
        links = self._backend.stat(path).nlink or 1
        shown = count.shown(links)
        other = replace(count, number=shown if in_all else shown - links, in_all=in_all)
        self._marks.record_link_count(path, other.encode())
        return other

    def _load(self, name: str, stat: FileStat) -> None:
        key, mark, number = name.partition(_LOST_MARK)
        if mark:
            self._lost[key] = Lost(int(number), stat.ctime_ns)
            return
        value = self._marks.link_count(self._path(name))
        if value is None or LinkCount.decode(value).shown(stat.nlink or 1) <= 0:
            self._backend.unlink(self._path(name))
        else:
            self._files.add(name)


def _key(layer: Layer, stat: FileStat) -> str:
    name = f"{layer.identity}\0{stat.file_id}".encode(errors="surrogateescape")
    return hashlib.blake2b(name, digest_size=16).hexdigest()
