"""Fetch the small files that a walk will open next, many in one call, before it opens them.

How many is said by allowance.py. What differs from ahead.py is that a directory's files are many and fetched together,
and that what is on the stack is found out late, by the thread that fetches:

- A second file of one directory that had to be waited for is the sign of a walk through its files; one of another
  directory, while that goes on, of a walk through the tree: the directories after it are on the stack, too.
- Files of the same name in one directory after the other (all `Makefile`s, say) are a walk by name (name_walk.py).
- Who has to wait although the walk goes on has caught up, and fetches what is next in the same call.
- As many files are fetched in one call as there are credits, but not few at a time: each time twice as many as before,
  up to BATCH_FILES, or BATCH_BYTES.
- Any failure ends it: whoever needs the file meets the error himself.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple, Protocol, TypeAlias

from netoverlay.backend_api.errors import UnavailableError
from netoverlay.backend_api.types import DirEntry, FileStat, FileType, LayerPath, join_path, split_path
from netoverlay.cache.allowance import START_CREDITS, Allowance
from netoverlay.cache.background import Background
from netoverlay.cache.name_walk import NameWalk, SameName
from netoverlay.cache.purpose import Purpose, listing_for

WORKERS = 4
"""Calls at once: enough for a server that is far away, and few of them have something to do if it is near."""
BATCH_FILES = 64
BATCH_BYTES = 1 << 20
MAX_UNUSED = 4 * BATCH_FILES
"""Files that a walk has before it, at most: so many are fetched in vain where it ends."""
AHEAD_FILE = 256 << 10
"""Bytes of the largest file that is fetched ahead of its being opened."""
BY_NAME = 2 * BATCH_FILES
"""Files of a walk by name that are fetched before any is used."""
_MAX_STACK = 16_384

_log = logging.getLogger(__name__)


class FoundFile(NamedTuple):
    """A file that is likely to be opened."""

    path: LayerPath
    stat: FileStat


class _Rest(NamedTuple):
    """The files of the directory of `path` that come after it, then those before it."""

    path: LayerPath
    is_deep: bool
    """And all that is below the directories after it."""


class _Onward(NamedTuple):
    """All that comes in a walk after the directory `path`."""

    path: LayerPath


class _Tree(NamedTuple):
    """All that is in and below the directory `path`."""

    path: LayerPath


_Item: TypeAlias = FoundFile | _Rest | _Onward | _Tree | SameName


class Source(Protocol):
    """What files are fetched from, and by."""

    def list_dir(self, path: LayerPath) -> list[DirEntry]:
        """The entries of a directory."""

    def stat(self, path: LayerPath) -> FileStat:
        """The attributes of what stands at `path`."""

    def fetch_files(self, files: list[FoundFile]) -> int:
        """Fetch what is not there yet, and tell how many that were. OSError ends the walk."""


class FileAhead:
    """Fetches from `source`, in threads of its own."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._background = Background("fetch-ahead", WORKERS)
        self._lock = threading.Lock()
        self._stack: deque[_Item] = deque(maxlen=_MAX_STACK)
        self._name_walk = NameWalk()
        self._allowance = Allowance(MAX_UNUSED)
        self._batch = START_CREDITS
        self._running = 0

    def missed(self, path: LayerPath) -> list[FoundFile]:
        """Somebody has to wait for the file `path`, and fetches it: what he is to fetch in the same call.

        Whoever walks has caught up with what is fetched ahead, and would have to wait for these, too.
        """
        parent = split_path(path)[0]
        with self._lock:
            self._batch = START_CREDITS
            goes_on = self._allowance.goes_on
            by_name = self._name_walk.goes_on
            is_sign = not by_name and self._allowance.demand(parent)
            if by_name:
                self._push_same_name()
        rest = list(self._expand(_Rest(path, goes_on))) if is_sign else []
        with self._lock:
            if is_sign and goes_on:
                self._stack.append(_Onward(parent))
            self._stack.extend(reversed(rest))
            files = self._pop_files(self._grant(1))
            self._start()
        return files

    def opened(self, path: LayerPath) -> None:
        """The file `path` is opened, whether it has to be waited for or not. To be called before missed()."""
        with self._lock:
            self._name_walk.opened(path)

    def needless(self, count: int) -> None:
        """After missed(): so many of the files were there, or somebody else is at them."""
        with self._lock:
            self._allowance.spent(0, 0, -count)

    def put_back(self, files: list[FoundFile]) -> None:
        """After missed(): who has got them does not fetch them."""
        with self._lock:
            self._allowance.spent(0, -len(files), -len(files))
            self._stack.extend(reversed(files))
            self._start()

    def used(self) -> None:
        """A file that was fetched ahead is opened."""
        with self._lock:
            self._allowance.used()
            if self._stack:
                self._start()

    def stop(self) -> None:
        """Start nothing any more."""
        self._background.stop()

    def join(self) -> None:
        """After stop(): wait for what is under way."""
        self._background.join()

    def _start(self) -> None:
        while self._running < WORKERS and (count := self._grant(self._batch // 2)):
            self._running += 1
            self._background.start(self._run, count)

    def _push_same_name(self) -> None:
        """A walk by name has to wait: more may be fetched, at first and whenever some of it was used."""
        files = self._name_walk.files()
        if files:
            self._stack.append(files)
        if files or self._allowance.goes_on:
            self._allowance.sign(BY_NAME)
            self._batch = BATCH_FILES

    def _grant(self, least: int) -> int:
        """How many files to fetch now."""
        if self._background.is_stopped or not self._stack:
            return 0
        count = self._allowance.grant(least, self._batch)
        if count:
            self._batch = min(2 * self._batch, BATCH_FILES)
        return count

    def _run(self, count: int) -> None:
        failed = True
        try:
            while count:
                files = self._gather(count)
                fetched = self._source.fetch_files(files) if files else 0
                with self._lock:
                    self._allowance.spent(count, len(files), fetched)
                    count = self._grant(self._batch // 2)
            failed = False
        except OSError as error:
            _log.debug("fetching ahead ends: %s", error)
        finally:
            with self._lock:
                self._running -= 1
                if failed:
                    self._stack.clear()
                    self._allowance.end()

    def _gather(self, count: int) -> list[FoundFile]:
        """The next files, for which directories may have to be listed."""
        files: list[FoundFile] = []
        size = 0
        while len(files) < count and size < BATCH_BYTES:
            with self._lock:
                if self._background.is_stopped or not self._stack:
                    break
                item = self._stack.pop()
            if isinstance(item, FoundFile):
                files.append(item)
                size += item.stat.size
            else:
                following = list(self._expand(item))
                with self._lock:
                    self._stack.extend(reversed(following))
        return files

    def _pop_files(self, count: int) -> list[FoundFile]:
        """The files on top of the stack."""
        files: list[FoundFile] = []
        size = 0
        while len(files) < count and size < BATCH_BYTES and self._stack:
            item = self._stack[-1]
            if not isinstance(item, FoundFile):
                break
            files.append(item)
            size += item.stat.size
            self._stack.pop()
        self._allowance.spent(count, len(files), len(files))
        return files

    def _expand(self, item: _Rest | _Onward | _Tree | SameName) -> Iterator[_Item]:
        """What `item` stands for, in the order of a walk."""
        if isinstance(item, _Tree):
            with listing_for(Purpose.AHEAD):
                entries = self._entries(item.path)
            yield from self._items(item.path, entries)
            return
        if isinstance(item, SameName):
            yield from self._of_name(item)
            return
        parent, name = split_path(item.path)
        entries = self._entries(parent)
        after = 1 + next((at for at, entry in enumerate(entries) if entry.name == name), -1)
        if isinstance(item, _Rest):
            yield from (each for each in self._items(parent, entries[after:]) if item.is_deep or _is_file(each))
            yield from filter(_is_file, self._items(parent, entries[: max(after - 1, 0)]))
            return
        yield from self._items(parent, entries[after:])
        if parent:
            yield _Onward(parent)

    def _of_name(self, item: SameName) -> Iterator[_Item]:
        if not item.depth:
            yield from filter(_is_file, self._items(item.path, self._entry(item.path, item.name)))
            return
        with listing_for(Purpose.ONE_NAME):
            entries = self._entries(item.path)
        for name, stat in entries:
            if stat.type is FileType.DIRECTORY:
                yield SameName(join_path(item.path, name), item.depth - 1, item.name)

    def _entries(self, directory: LayerPath) -> list[DirEntry]:
        try:
            return self._source.list_dir(directory)
        except UnavailableError:
            raise
        except OSError:
            return []  # which may be opened and not listed, or is gone

    def _entry(self, directory: LayerPath, name: str) -> list[DirEntry]:
        """The one called `name`, if it is there."""
        try:
            return [DirEntry(name, self._source.stat(join_path(directory, name)))]
        except UnavailableError:
            raise
        except OSError:
            return []

    @staticmethod
    def _items(directory: LayerPath, entries: list[DirEntry]) -> Iterator[_Item]:
        for name, stat in entries:
            if stat.type is FileType.DIRECTORY:
                yield _Tree(join_path(directory, name))
            elif stat.type is FileType.REGULAR and stat.size <= AHEAD_FILE:
                yield FoundFile(join_path(directory, name), stat)


def _is_file(item: _Item) -> bool:
    return isinstance(item, FoundFile)
