"""Fill the caches of one layer: its listings, where its links point, and the content of the files that are wanted.

One thread walks, which the metadata cache lists ahead for; others fetch, several at once. What is in the caches already
costs nothing, so a prefetch that was interrupted goes on where it was.
"""

from __future__ import annotations

import fnmatch
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, TypeVar

from netoverlay.backend_api.errors import UnavailableError
from netoverlay.backend_api.types import Capabilities, DirEntry, FileType, LayerPath, join_path, split_path
from netoverlay.cache.blocks import block_range
from netoverlay.cache.content import ContentCache
from netoverlay.cache.disk_store import MAX_ENTRY

T = TypeVar("T")

WORKERS = 16
PART_BLOCKS = 16
"""Blocks of a large file that one thread fetches in turn."""
_MAX_WAITING = 64
"""Fetches for each worker that the walk is ahead of them."""


class Missed(NamedTuple):
    """What is not in the caches now, and why."""

    path: LayerPath
    reason: str


@dataclass(slots=True)
class Progress:
    """How far it is. Counts only what is wanted."""

    files: int = 0
    bytes: int = 0
    """Of the files that were found so far."""
    done_files: int = 0
    done_bytes: int = 0
    fetched_bytes: int = 0
    """Of those that are done, what had to be fetched."""
    left_out: int = 0
    """Files for which the cache has no room."""
    missed: list[Missed] = field(default_factory=list)


class Wanted:
    """Which paths are. A glob matches a whole path, or that of a directory, for all in it; "*" also matches "/"."""

    def __init__(self, globs: Sequence[str]) -> None:
        """Without any, everything is wanted."""
        trimmed = [glob.strip("/") for glob in globs]
        self._matches = [re.compile(fnmatch.translate(glob)).match for glob in trimmed]
        self._starts = [_literal_start(glob) for glob in trimmed]

    def __contains__(self, path: LayerPath) -> bool:
        if not self._matches:
            return True
        return any(matches(above) for above in _with_parents(path) for matches in self._matches)

    def may_hold(self, directory: LayerPath) -> bool:
        """Whether something in `directory`, or below, can be wanted."""
        if not self._starts or not directory:
            return True
        inside = f"{directory}/"
        return any(start.startswith(inside) or inside.startswith(start) for start in self._starts)


@dataclass(slots=True)
class _OneFile:
    """What is yet to do for it."""

    left: int
    size: int


class Prefetch:
    """Of one layer, into caches that hold `limit` bytes of content at most. `show` is called now and then."""

    def __init__(
        self,
        layer: ContentCache,
        capabilities: Capabilities,
        wanted: Wanted,
        limit: int,
        show: Callable[[Progress], object],
    ) -> None:
        """`layer` is connected, and has `capabilities`."""
        self._layer = layer
        self._has_xattrs = capabilities.xattrs
        self._wanted = wanted
        self._limit = limit
        self._show = show
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(WORKERS * _MAX_WAITING)
        self._progress = Progress()
        self._lost: UnavailableError | None = None

    def run(self) -> Progress:
        """UnavailableError if the layer cannot be reached any more."""
        with ThreadPoolExecutor(WORKERS, thread_name_prefix="prefetch") as pool:
            try:
                self._walk(pool)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        if self._lost is not None:
            raise self._lost
        self._show(self._progress)
        return self._progress

    def _walk(self, pool: ThreadPoolExecutor) -> None:
        directories: list[LayerPath] = [""]
        while directories and self._lost is None:
            directory = directories.pop()
            entries = self._or_missed(directory, partial(self._layer.list_dir, directory)) or []
            if self._has_xattrs and (not directory or directory in self._wanted):
                self._queue(pool, directory, partial(self._keep_xattrs, directory))
            for entry in entries:
                path = join_path(directory, entry.name)
                if entry.stat.type is FileType.DIRECTORY:
                    if self._wanted.may_hold(path):
                        directories.append(path)
                elif path in self._wanted:
                    self._submit(pool, path, entry)
            self._show(self._progress)

    def _submit(self, pool: ThreadPoolExecutor, path: LayerPath, entry: DirEntry) -> None:
        calls: list[Callable[[], object]] = []
        size = 0
        if entry.stat.type is FileType.SYMLINK:
            calls.append(partial(self._layer.readlink, path))
        elif entry.stat.type is FileType.REGULAR:
            size = entry.stat.size
            with self._lock:
                if self._progress.bytes + size > self._limit:
                    self._progress.left_out += 1
                    return
            calls += (partial(self._keep, path, part) for part in _parts(size))
        if self._has_xattrs:
            calls.append(partial(self._keep_xattrs, path))
        with self._lock:
            self._progress.files += 1
            self._progress.bytes += size
        one = _OneFile(len(calls), size)
        for call in calls or [lambda: None]:
            self._queue(pool, path, call, one)

    def _queue(
        self, pool: ThreadPoolExecutor, path: LayerPath, call: Callable[[], object], file: _OneFile | None = None
    ) -> None:
        """`file`: what `call` is a part of, if it is one that is counted."""
        self._slots.acquire()
        pool.submit(self._do, path, call, file)

    def _do(self, path: LayerPath, call: Callable[[], object], file: _OneFile | None) -> None:
        try:
            if self._lost is None:
                self._or_missed(path, call)
        finally:
            self._slots.release()
            if file is not None:
                self._count(file)
        self._show(self._progress)

    def _count(self, file: _OneFile) -> None:
        with self._lock:
            file.left -= 1
            if file.left <= 0:
                self._progress.done_files += 1
                self._progress.done_bytes += file.size

    def _or_missed(self, path: LayerPath, call: Callable[[], T]) -> T | None:
        """What `call` returns; None if it fails, which is noted. If the layer is lost everything ends."""
        try:
            return call()
        except UnavailableError as error:
            self._lost = error
        except OSError as error:
            with self._lock:
                self._progress.missed.append(Missed(path, error.strerror or str(error)))
        return None

    def _keep(self, path: LayerPath, part: range | None) -> None:
        count = self._layer.keep(path, part)
        with self._lock:
            if count is None:
                self._progress.missed.append(Missed(path, "it is changing, or the cache cannot be written"))
            else:
                self._progress.fetched_bytes += count

    def _keep_xattrs(self, path: LayerPath) -> None:
        for name in self._layer.list_xattrs(path):
            self._layer.get_xattr(path, name)


def _parts(size: int) -> Iterator[range | None]:
    """A file as the pieces of it that are fetched at once; None for the whole of a small one."""
    if size <= MAX_ENTRY:
        yield None
        return
    blocks = block_range(size)
    for start in range(0, len(blocks), PART_BLOCKS):
        yield blocks[start : start + PART_BLOCKS]


def _literal_start(glob: str) -> str:
    return re.split(r"[*?\[]", glob, maxsplit=1)[0]


def _with_parents(path: LayerPath) -> Iterator[LayerPath]:
    while path:
        yield path
        path = split_path(path)[0]
