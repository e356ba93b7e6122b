"""Fetch the small files that a walk will open next, many in one call, before it opens them.

How many is said by allowance.py. What differs from ahead.py is that a directory's files are many and fetched together,
and that what is on the stack is found out late, by the thread that fetches:

- A second file of one directory that had to be waited for is the sign of a walk through its files; one of another
  directory, while that goes on, of a walk through the tree: the directories after it are on the stack, too. So is it
  where one directory after the other is read (tree_walk.py). What is beside a directory is fetched with caution until
  something of it was used, for the walk may have been one of that directory: no more than START_CREDITS files that are
  not used yet, and twice as many each time that the walk goes on to where it was not before.
- Directories without a file to be fetched cost nothing, and no more of them are listed than files may be unused.
- Files of the same name in one directory after the other (all `Makefile`s, say) are a walk by name (name_walk.py).
- Who has to wait although the walk goes on has caught up, and fetches what is next in the same call.
- As many files are fetched in one call as there are credits, but not few at a time: each time twice as many as before,
  up to BATCH_FILES, or BATCH_BYTES. A file of more than COSTS_ONE bytes costs several.
- Any failure ends it: whoever needs the file meets the error himself.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol, TypeAlias

from netoverlay.backend_api.errors import UnavailableError
from netoverlay.backend_api.types import DirEntry, FileStat, FileType, LayerPath, join_path, split_path
from netoverlay.cache.allowance import START_CREDITS, Allowance
from netoverlay.cache.background import Background
from netoverlay.cache.disk_store import MAX_ENTRY
from netoverlay.cache.name_walk import NameWalk, SameName
from netoverlay.cache.purpose import Purpose, listing_for
from netoverlay.cache.tree_walk import TreeWalk
from netoverlay.cache.walk_order import is_hidden

WORKERS = 4
"""Calls at once: enough for a server that is far away, and few of them have something to do if it is near."""
BATCH_FILES = 64
BATCH_BYTES = 1 << 20
WAITED_BYTES = 256 << 10
"""What goes along at most where somebody waits for the call."""
MAX_UNUSED = 4 * BATCH_FILES
"""Files that a walk has before it, at most: so many are fetched in vain where it ends."""
AHEAD_FILE = MAX_ENTRY
"""Bytes of the largest file that is fetched ahead of its being opened."""
LISTED_TOGETHER = 16
"""Directories of a walk, in one call."""
COSTS_ONE = 128 << 10
"""Bytes of a file, or of a part of it, for a credit."""
BY_NAME = 2 * BATCH_FILES
"""Files of a walk by name that are fetched before any is used."""
_MAX_STACK = 16_384

_log = logging.getLogger(__name__)


class FoundFile(NamedTuple):
    """A file that is likely to be opened."""

    path: LayerPath
    stat: FileStat

    @property
    def cost(self) -> int:
        """In credits."""
        return 1 + max(self.stat.size - 1, 0) // COSTS_ONE


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


class _Batch:
    """Files that are fetched in one call."""

    def __init__(self, credits: int, most_bytes: int) -> None:
        self.files: list[FoundFile] = []
        self.cost = 0
        self._credits = credits
        self._bytes_left = most_bytes

    @property
    def has_room(self) -> bool:
        """Whether another one can go along, however large it is."""
        return self.cost < self._credits and self._bytes_left > 0

    def has_room_for(self, file: FoundFile) -> bool:
        """Whether this one can."""
        return self.has_room and file.stat.size <= self._bytes_left

    def add(self, file: FoundFile) -> None:
        """It goes along."""
        self.files.append(file)
        self.cost += file.cost
        self._bytes_left -= file.stat.size


class Source(Protocol):
    """What files are fetched from, and by."""

    def list_dir(self, path: LayerPath) -> list[DirEntry]:
        """The entries of a directory."""

    def known_entries(self, path: LayerPath) -> Sequence[DirEntry] | None:
        """As list_dir(); None if the layer would have to be asked."""

    def list_ahead(self, paths: Sequence[LayerPath]) -> object:
        """Have all that list_dir() tells of these directories. OSError ends the walk."""

    def stat(self, path: LayerPath) -> FileStat:
        """The attributes of what stands at `path`."""

    def fetch_files(self, files: list[FoundFile]) -> list[FoundFile]:
        """Fetch what is not there yet, and tell what that was. OSError ends the walk."""


class FileAhead:
    """Fetches from `source`, in threads of its own."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._background = Background("fetch-ahead", WORKERS)
        self._lock = threading.Lock()
        self._stack: deque[_Item] = deque(maxlen=_MAX_STACK)
        self._name_walk = NameWalk()
        self._tree_walk = TreeWalk(source.known_entries)
        self._caution = START_CREDITS
        """What may be unused before more is fetched that is not where the walk has been seen."""
        self._barren = 0
        """Directories that were listed since something was used, and had no file to be fetched."""
        self._allowance = Allowance()
        self._batch = START_CREDITS
        self._running = 0

    def missed(self, path: LayerPath) -> list[FoundFile]:
        """Somebody has to wait for the file `path`, and fetches it: what he is to fetch in the same call.

        Whoever walks has caught up with what is fetched ahead, and would have to wait for these, too.
        """
        parent = split_path(path)[0]
        with self._lock:
            self._batch = START_CREDITS
            by_name = self._name_walk.goes_on
            is_step = not by_name and self._tree_walk.goes_on()
            goes_on = is_step or (self._allowance.goes_on and not is_hidden(parent))
            is_sign = not by_name and self._allowance.demand(parent, is_sign=is_step)
            self._barren = 0
            if by_name:
                self._push_same_name()
            elif is_sign and not goes_on:
                self._tree_walk.begins()
                self._caution = START_CREDITS
            elif is_step:
                self._tree_walk.widens()
        rest = list(self._expand(_Rest(path, goes_on))) if is_sign else []
        with self._lock:
            if is_sign and goes_on:
                self._stack.append(_Onward(parent))
            self._stack.extend(reversed(rest))
            files = self._pop_files(self._grant(1), WAITED_BYTES)
            self._start()
        return files

    def opened(self, path: LayerPath) -> None:
        """The file `path` is opened, whether it has to be waited for or not. To be called before missed()."""
        with self._lock:
            self._name_walk.opened(path)
            self._tree_walk.opened(path)

    def needless(self, files: Iterable[FoundFile]) -> None:
        """After missed(): these of the files were there, or somebody else is at them, or they could not be fetched."""
        with self._lock:
            self._allowance.needless(_cost(files))

    def put_back(self, files: list[FoundFile]) -> None:
        """After missed(): who has got them does not fetch them."""
        with self._lock:
            self._allowance.given_back(_cost(files))
            self._stack.extend(reversed(files))
            self._start()

    def used(self, cost: int) -> None:
        """A file that was fetched ahead, at that cost, is opened."""
        with self._lock:
            self._allowance.used(cost)
            self._barren = 0
            if self._tree_walk.widens():
                self._caution = min(2 * self._caution, MAX_UNUSED)
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
        """How many files to fetch now; twice as many the next time."""
        if self._background.is_stopped or not self._stack:
            return 0
        most_unused = self._most_unused(self._stack[-1])
        if self._barren >= most_unused:
            return 0
        count = self._allowance.grant(min(least, most_unused // 2), self._batch, most_unused)
        if count:
            self._batch = min(2 * self._batch, BATCH_FILES)
        return count

    def _run(self, count: int) -> None:
        failed = True
        try:
            while count:
                files = self._gather(count)
                fetched = self._source.fetch_files(files) if files else []
                with self._lock:
                    self._allowance.spent(count, _cost(files), _cost(fetched))
                    count = self._grant(self._batch // 2)
            failed = False
        except OSError as error:
            _log.debug("fetching ahead ends: %s", error)
        finally:
            with self._lock:
                self._running -= 1
                if failed:
                    self._stack.clear()
                    self._allowance.spent(count, 0, 0)
                    self._allowance.end()

    def _gather(self, credits: int) -> list[FoundFile]:
        """The next files, for which directories may have to be listed."""
        files = _Batch(credits, BATCH_BYTES)
        most_unused = 0
        while files.has_room:
            with self._lock:
                if self._background.is_stopped or not self._stack:
                    break
                most = self._most_unused(self._stack[-1])
                if most < most_unused or self._barren >= most:
                    break  # for which less may be granted
                most_unused = most
                items = self._pop_together()
            if isinstance(items[0], FoundFile):
                files.add(items[0])
                continue
            following = self._expanded(items)
            with self._lock:
                self._stack.extend(each for expanded in reversed(following) for each in reversed(expanded))
                self._barren += sum(not any(map(_is_file, expanded)) for expanded in following)
        return files.files

    def _most_unused(self, item: _Item) -> int:
        """How much may be fetched before it is used: all, where the walk has been seen already."""
        if self._name_walk.goes_on or self._tree_walk.is_within(split_path(item.path)[0]):
            return MAX_UNUSED
        return self._caution

    def _pop_together(self) -> list[_Item]:
        """What is on top of the stack; of directories that are all to be walked through some."""
        items = [self._stack.pop()]
        if isinstance(items[0], _Tree):
            while len(items) < LISTED_TOGETHER and self._stack and isinstance(self._stack[-1], _Tree):
                items.append(self._stack.pop())
        return items

    def _pop_files(self, credits: int, most_bytes: int) -> list[FoundFile]:
        """The files on top of the stack."""
        files = _Batch(credits, most_bytes)
        while self._stack and isinstance(item := self._stack[-1], FoundFile) and files.has_room_for(item):
            files.add(item)
            self._stack.pop()
        self._allowance.spent(credits, files.cost, files.cost)
        return files.files

    def _expanded(self, items: Sequence[_Item]) -> list[list[_Item]]:
        """What each of them stands for."""
        trees = [item.path for item in items if isinstance(item, _Tree)]
        if trees:
            self._source.list_ahead(trees)
        return [list(self._expand(item)) for item in items if not isinstance(item, FoundFile)]

    def _expand(self, item: _Rest | _Onward | _Tree | SameName) -> Iterator[_Item]:
        """What `item` stands for, in the order of a walk."""
        if isinstance(item, _Tree):
            yield from self._items(item.path, self._entries(item.path))
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
        for name, stat in self._entries(item.path, Purpose.ONE_NAME):
            if stat.type is FileType.DIRECTORY:
                yield SameName(join_path(item.path, name), item.depth - 1, item.name)

    def _entries(self, directory: LayerPath, purpose: Purpose = Purpose.AHEAD) -> Sequence[DirEntry]:
        try:
            with listing_for(purpose):
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
    def _items(directory: LayerPath, entries: Sequence[DirEntry]) -> Iterator[_Item]:
        for name, stat in entries:
            if stat.type is FileType.DIRECTORY:
                yield _Tree(join_path(directory, name))
            elif stat.type is FileType.REGULAR and stat.size <= AHEAD_FILE:
                yield FoundFile(join_path(directory, name), stat)


def _is_file(item: _Item) -> bool:
    return isinstance(item, FoundFile)


def _cost(files: Iterable[FoundFile]) -> int:
    return sum(file.cost for file in files)
