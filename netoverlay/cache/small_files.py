"""Small files of a layer that is only read: fetched many in one call, kept in memory for a while, and on disk in packs.

What has been fetched is served from memory at once, and written to disk behind that (write_behind.py).
"""

from __future__ import annotations

import time
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from netoverlay.backend_api.types import DirEntry, FileStat, FileType, LayerPath, split_path
from netoverlay.backend_api.whole_files import FileContent, WantedFile
from netoverlay.cache.disk_store import MAX_ENTRY, DiskStore
from netoverlay.cache.file_ahead import FileAhead, FoundFile
from netoverlay.cache.keys import layer_key
from netoverlay.cache.metadata import MetadataCache
from netoverlay.cache.packs import PACKED_FILE, Packs, member_name
from netoverlay.cache.packs_ahead import PacksAhead
from netoverlay.cache.recent import RecentContents
from netoverlay.cache.single_flight import SingleFlight
from netoverlay.cache.write_behind import WriteBehind

WHOLE_FILE = MAX_ENTRY
"""Bytes of the largest file that is read whole."""
RECENT_BYTES = 32 << 20
YOUNG_SECONDS = 3.0
"""Age from which on a change of a file shows in its modification time, also where that has whole seconds."""
_MAX_UNUSED = 4096


class _Key(NamedTuple):
    """One content of a file."""

    directory: LayerPath
    member: bytes


@dataclass(frozen=True, slots=True)
class _Fetched:
    data: bytes | None
    """None if the file has changed since it was looked at, or cannot be read now."""


def may_keep(stat: FileStat, *, immutable: bool) -> bool:
    """Whether what is read of a file now is found again by its version."""
    if stat.type is not FileType.REGULAR:
        return False
    return immutable or time.time_ns() - stat.mtime_ns > YOUNG_SECONDS * 1e9


class SmallFiles:
    """The contents of files of `layer` up to WHOLE_FILE bytes, also those that a walk is likely to open next.

    `immutable`: nobody changes the layer, ever.
    """

    def __init__(self, layer: MetadataCache, identity: str, store: DiskStore, *, immutable: bool) -> None:
        self._layer = layer
        self._identity = identity
        self._store = store
        self._immutable = immutable
        self._packs = Packs(store, identity)
        self._behind = WriteBehind(self._packs.put)
        self._packs_ahead = PacksAhead(self._packs.expect, layer.known_subdirectories)
        self._recent: RecentContents[_Key] = RecentContents(RECENT_BYTES)
        self._flights: SingleFlight[_Key, _Fetched] = SingleFlight()
        self._ahead = FileAhead(self)
        self._unused: OrderedDict[_Key, int] = OrderedDict()
        """What was fetched ahead, and not opened yet, and what each has cost; the oldest first."""

    def stop(self) -> None:
        """Fetch nothing ahead any more."""
        self._ahead.stop()

    def join(self) -> None:
        """After stop(): wait for what is under way, and have all on disk."""
        self._ahead.join()
        self._behind.close()

    def content(self, path: LayerPath, stat: FileStat) -> bytes | int | None:
        """The bytes, or a descriptor of the store for the caller to close (DiskStore.open()); None if what stands at
        `path` is not what `stat` tells of, or cannot be read now."""
        key = _key(path, stat)
        self._ahead.opened(path)
        found = self._here(key, path, stat)
        if found is None:
            found = self._missed(key, path, stat)
        self._note_use(key)
        return found

    def at_hand(self, path: LayerPath, stat: FileStat) -> bytes | int | None:
        """As content(); None if that would have to ask the layer."""
        key = _key(path, stat)
        found = self._here(key, path, stat)
        if found is not None:
            self._ahead.opened(path)
            self._note_use(key)
        return found

    def _here(self, key: _Key, path: LayerPath, stat: FileStat) -> bytes | int | None:
        data = self._recent.get(key)
        return self._kept(key, path, stat) if data is None else data

    def _note_use(self, key: _Key) -> None:
        cost = self._unused.pop(key, None)
        if cost is not None:
            self._ahead.used(cost)

    def _missed(self, key: _Key, path: LayerPath, stat: FileStat) -> bytes | None:
        """Fetch it, and what comes after it, or wait for who does."""
        more = [] if key in self._flights else self._ahead.missed(path)
        is_ours = False

        def fetch() -> _Fetched:
            nonlocal is_ours
            is_ours = True
            return self._fetch(key, path, stat, more)

        try:
            return self._flights.do(key, fetch).data
        finally:
            if more and not is_ours:
                self._ahead.put_back(more)

    def keep(self, path: LayerPath, stat: FileStat) -> int | None:
        """Have a content in the store: how many bytes were fetched for that. None if it cannot be kept."""
        key = _key(path, stat)
        if self._is_kept(key, path, stat):
            return 0
        known = self._recent.get(key)
        data = self._flights.do(key, lambda: self._fetch(key, path, stat, [])).data if known is None else known
        if data is None or not self._have_on_disk(key, path, stat, data):
            return None
        return len(data) if known is None else 0

    def _have_on_disk(self, key: _Key, path: LayerPath, stat: FileStat, data: bytes) -> bool:
        """What may still be in memory only."""
        if stat.size > PACKED_FILE:
            return self._single_key(path, stat) in self._store
        self._behind.withdraw(*key)
        return self._packs.put(key.directory, {key.member: data})

    def list_dir(self, path: LayerPath) -> list[DirEntry]:
        """As Source.list_dir()."""
        return self._layer.list_dir(path)

    def known_entries(self, path: LayerPath) -> Sequence[DirEntry] | None:
        """As Source.known_entries()."""
        return self._layer.known_entries(path)

    def list_ahead(self, paths: Sequence[LayerPath]) -> None:
        """As Source.list_ahead()."""
        self._layer.list_ahead(paths)

    def stat(self, path: LayerPath) -> FileStat:
        """As Source.stat()."""
        return self._layer.stat(path)

    def fetch_files(self, files: list[FoundFile]) -> list[FoundFile]:
        """As Source.fetch_files()."""
        claimed = self._claim(files)
        if not claimed:
            return []
        try:
            found = self._read(list(claimed.values()))
        except BaseException as error:
            self._fail(claimed, error)
            raise
        contents = self._settle(claimed, found)
        self._write(contents)
        return [claimed[key] for key in contents]

    def _claim(self, files: Sequence[FoundFile]) -> dict[_Key, FoundFile]:
        """Those of `files` that are not there, and that nobody is at."""
        for directory in {split_path(file.path)[0] for file in files}:
            self._load(directory)
        wanted = {
            key: file
            for file in files
            if may_keep(file.stat, immutable=self._immutable)
            and not self._is_here(key := _key(file.path, file.stat), file)
        }
        claimed = {key: wanted[key] for key in self._flights.claim(wanted)}
        for key in list(claimed):
            data = self._recent.get(key)
            if data is not None:  # somebody was at it until now
                self._flights.settle(key, _Fetched(data))
                del claimed[key]
        return claimed

    def _fail(self, claimed: Iterable[_Key], error: BaseException) -> None:
        for key in claimed:
            self._flights.fail(key, error)

    def _settle(self, claimed: dict[_Key, FoundFile], found: Sequence[_Fetched | OSError]) -> dict[_Key, bytes]:
        """Let those go on who wait for what was read: that, as far as it is to be kept."""
        contents: dict[_Key, bytes] = {}
        for (key, file), one in zip(claimed.items(), found, strict=True):
            if isinstance(one, OSError):
                self._flights.fail(key, one)
                continue
            if one.data is not None:
                contents[key] = one.data
                self._unused[key] = file.cost
                self._remember(key, file.path, file.stat, one.data)
            self._flights.settle(key, one)
        while len(self._unused) > _MAX_UNUSED:
            self._unused.popitem(last=False)
        return contents

    def _fetch(self, key: _Key, path: LayerPath, stat: FileStat, more: list[FoundFile]) -> _Fetched:
        """Read a file, and keep it if it is the one that was asked for; and `more` in the same call."""
        data = self._recent.get(key)
        if data is not None:  # somebody was faster
            self._ahead.put_back(more)
            return _Fetched(data)
        others = self._claim(more)
        self._ahead.needless(set(more).difference(others.values()))
        try:
            one, *found = self._read([FoundFile(path, stat), *others.values()])
        except BaseException as error:
            self._fail(others, error)
            self._ahead.needless(others.values())
            raise
        contents = self._settle(others, found)
        self._ahead.needless(file for key, file in others.items() if key not in contents)
        if isinstance(one, _Fetched) and one.data is not None:
            contents[key] = one.data
            self._remember(key, path, stat, one.data)
        self._write(contents)
        if isinstance(one, OSError):
            raise one
        return one

    def _read(self, files: Sequence[FoundFile]) -> list[_Fetched | OSError]:
        wanted = [WantedFile(file.path, file.stat.size) for file in files]
        found = self._layer.read_files(wanted, unchanging=self._immutable)
        return [self._checked(file.stat, content) for file, content in zip(files, found, strict=True)]

    def _checked(self, stat: FileStat, content: FileContent | OSError) -> _Fetched | OSError:
        if isinstance(content, PermissionError):
            return _Fetched(None)  # somebody may have locked it, which is for who reads it, and not for who opens it
        if isinstance(content, OSError):
            return content
        is_same = len(content.data) == stat.size and (self._immutable or content.version == stat.version)
        return _Fetched(content.data if is_same else None)

    def _remember(self, key: _Key, path: LayerPath, stat: FileStat, data: bytes) -> None:
        """Before the waiting threads go on; what is too large for the memory goes to disk by then."""
        if len(data) <= PACKED_FILE:
            self._recent.put(key, data)
        else:
            self._store.put(self._single_key(path, stat), data)

    def _write(self, contents: dict[_Key, bytes]) -> None:
        by_directory: defaultdict[LayerPath, dict[bytes, bytes]] = defaultdict(dict)
        for key, data in contents.items():
            if len(data) <= PACKED_FILE:
                by_directory[key.directory][key.member] = data
        for directory, members in by_directory.items():
            self._behind.put(directory, members)

    def _kept(self, key: _Key, path: LayerPath, stat: FileStat) -> bytes | int | None:
        """What the store has of it."""
        if stat.size > PACKED_FILE:
            return self._store.open(self._single_key(path, stat))
        was_read = False

        def remember(member: bytes, data: bytes) -> None:
            nonlocal was_read
            was_read = True
            self._recent.put(_Key(key.directory, member), data)

        found = self._packs.find(*key, remember)
        if was_read:
            self._packs_ahead.wanted(key.directory)
        if found is not None:
            self._recent.put(key, found)
        return found

    def _load(self, directory: LayerPath) -> None:
        """What is on disk of the small files of a directory, and not known yet."""
        for member, data in self._packs.look(directory):
            self._recent.put(_Key(directory, member), data)

    def _is_here(self, key: _Key, file: FoundFile) -> bool:
        return key in self._recent or self._is_on_disk(key, file.path, file.stat)

    def _is_kept(self, key: _Key, path: LayerPath, stat: FileStat) -> bool:
        if stat.size <= PACKED_FILE and not self._packs.has(*key):
            self._load(key.directory)
        return self._is_on_disk(key, path, stat)

    def _is_on_disk(self, key: _Key, path: LayerPath, stat: FileStat) -> bool:
        if stat.size > PACKED_FILE:
            return self._single_key(path, stat) in self._store
        return self._packs.has(*key)

    def _single_key(self, path: LayerPath, stat: FileStat) -> str:
        return layer_key(self._identity, path, *stat.version)


def _key(path: LayerPath, stat: FileStat) -> _Key:
    directory, name = split_path(path)
    return _Key(directory, member_name(name, stat.version))
