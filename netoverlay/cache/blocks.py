"""Large files in blocks: kept in the store, fetched once for all who need them, and ahead of who reads on and on."""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Iterable
from typing import NamedTuple, Protocol

from cachetools import LRUCache

from netoverlay.cache.background import Background
from netoverlay.cache.disk_store import DiskStore
from netoverlay.cache.keys import part_key
from netoverlay.cache.single_flight import SingleFlight

BLOCK = 1 << 20
"""Bytes of a block; the last of a file may be shorter."""
FIRST_WINDOW = 2
MAX_WINDOW = 16
"""Blocks ahead of a reader, at first and at most."""
RANDOM_BYTES = BLOCK // 8
"""From so many bytes on that were read of a block here and there it is fetched whole, and kept."""
_MAX_READ_AT_RANDOM = 65_536
RECENT_BLOCKS = 32
"""Blocks kept in memory: the kernel asks for one in several pieces, and those ahead are wanted soon."""
_SEQUENTIAL_READS = 2

_log = logging.getLogger(__name__)


def block_range(size: int) -> range:
    """The indexes of the blocks of a file of `size` bytes."""
    return range((size + BLOCK - 1) // BLOCK)


class BlockSource(Protocol):
    """One version of one large file."""

    @property
    def key(self) -> str:
        """Stands for this content."""

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def is_closed(self) -> bool:
        """Nobody needs its blocks any more."""

    def fetch(self, offset: int, size: int) -> tuple[bytes, bool]:
        """The bytes there, and whether they are of this version, so that they may be kept."""


class Blocks:
    """The blocks of all open files of a layer; thread-safe. `workers`: blocks fetched ahead at once."""

    def __init__(self, store: DiskStore, workers: int) -> None:
        self._store = store
        self._background = Background("read-ahead", workers)
        self._lock = threading.Lock()
        self._recent: LRUCache[str, bytes] = LRUCache(RECENT_BLOCKS)
        self._flights: SingleFlight[str, bytes] = SingleFlight()
        self._read_at_random: LRUCache[str, int] = LRUCache(_MAX_READ_AT_RANDOM)
        """By the key of a block that is not kept: how many bytes of it were read."""

    def read(self, source: BlockSource, index: int) -> bytes:
        """The block. Errors of the layer."""
        key = part_key(source.key, index)
        with self._lock:
            block = self._recent.get(key)
        return self._flown(source, index, key, remember=True) if block is None else block

    def read_once(self, source: BlockSource, index: int) -> bytes:
        """As read(), for who takes all of it: it is not wanted soon again, and leaves its memory to the next."""
        key = part_key(source.key, index)
        with self._lock:
            block = self._recent.pop(key, None)
        return self._flown(source, index, key, remember=False) if block is None else block

    def _flown(self, source: BlockSource, index: int, key: str, *, remember: bool) -> bytes:
        try:
            return self._flights.do(key, lambda: self._load(source, index, key, remember=remember))
        except OSError as error:
            if error.errno != errno.EBADF or source.is_closed:
                raise
            # It was fetched for another open file of the same content, which has been closed.
            return self._load(source, index, key, remember=remember)

    def read_part(self, source: BlockSource, index: int, start: int, size: int) -> bytes:
        """`size` bytes from `start` in the block, or up to its end, without the rest of it unless that is worth while.

        Errors of the layer.
        """
        key = part_key(source.key, index)
        size = min(size, source.size - index * BLOCK - start)
        with self._lock:
            count = self._read_at_random.get(key, 0) + size
            is_whole = count >= RANDOM_BYTES or key in self._recent
            if not is_whole:
                self._read_at_random[key] = count
        if is_whole or key in self._flights or key in self._store:
            return self.read(source, index)[start : start + size]
        return source.fetch(index * BLOCK + start, size)[0]

    def keep(self, source: BlockSource, index: int) -> int | None:
        """Have a block in the store. The bytes that had to be fetched for it; None if it could not be kept."""
        key = part_key(source.key, index)
        if key in self._store:
            return 0
        count = len(self.read(source, index))
        return count if key in self._store else None

    def ahead(self, source: BlockSource, indexes: Iterable[int]) -> None:
        """Fetch blocks in the background. What fails is met by whoever needs it."""
        for index in indexes:
            self._background.start(self._read_ahead, source, index)

    def stop(self) -> None:
        """Start nothing any more."""
        self._background.stop()

    def join(self) -> None:
        """After stop(): wait for what is under way."""
        self._background.join()

    def _load(self, source: BlockSource, index: int, key: str, *, remember: bool) -> bytes:
        offset = index * BLOCK
        size = min(BLOCK, source.size - offset)
        block = self._store.read(key)
        if block is None or len(block) != size:
            block, is_ours = source.fetch(offset, size)
            if not is_ours or len(block) != size:
                return block
            remember = not self._store.put(key, block) or remember
        if remember:
            with self._lock:
                self._recent[key] = block
        return block

    def _read_ahead(self, source: BlockSource, index: int) -> None:
        key = part_key(source.key, index)
        with self._lock:
            is_here = key in self._recent
        is_needless = is_here or source.is_closed or self._background.is_stopped or key in self._flights
        if is_needless or self._store.expect(key):
            return
        try:
            self.read(source, index)
        except OSError as error:
            _log.debug("reading block %d ahead: %s", index, error)


class Plan(NamedTuple):
    """What to do for a read."""

    ahead: range
    """The blocks to fetch in the background."""
    at_random: bool
    """What is beside it is not likely to be wanted."""


class Reader:
    """How one open file is read: which blocks will be wanted next; thread-safe.

    Reads that each start near the end of the one before are sequential; "near" is a block, for the kernel sends several
    at once and they overtake each other. It does so with large ones only: a small one is near within RANDOM_BYTES, lest
    pages read at random fetch blocks whenever two of them fall together. Who begins with a whole block reads on, it may
    be supposed. The window doubles with each block that is reached, and closes at a jump.
    """

    def __init__(self, size: int) -> None:
        self._last_block = (size - 1) // BLOCK
        self._lock = threading.Lock()
        self._expected = 0
        self._run = 0
        self._window = 0
        self._reached = 0
        self._scheduled = 0

    def note(self, offset: int, size: int) -> Plan:
        """Note a read, and tell what to do for it."""
        block = (offset + size - 1) // BLOCK
        with self._lock:
            is_jump = abs(offset - self._expected) > (BLOCK if size >= RANDOM_BYTES else RANDOM_BYTES)
            if is_jump:
                self._run = self._window = 0
                self._reached = self._scheduled = block
            self._expected = offset + size
            self._run += 1 if offset or size < BLOCK else _SEQUENTIAL_READS
            if self._run >= _SEQUENTIAL_READS and (self._window == 0 or block > self._reached):
                self._window = min(self._window * 2, MAX_WINDOW) if self._window else FIRST_WINDOW
            self._reached = max(self._reached, block)
            if not self._window:
                return Plan(range(0), is_jump and size < RANDOM_BYTES)
            first = max(self._scheduled, self._reached) + 1
            self._scheduled = max(self._scheduled, min(self._reached + self._window, self._last_block))
            return Plan(range(first, self._scheduled + 1), at_random=False)
