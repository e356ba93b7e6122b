"""What was written to a file and is not sent yet: runs of bytes, sorted, none over another.

A run grows at its end, as a sequential writer fills it, up to the size of a piece. What is written over a run changes
it in place or cuts it; small writes here and there stay runs of their own. What is taken to be sent is joined of runs
that touch. Whoever uses it holds a lock.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import NamedTuple

RUN_OVERHEAD_BYTES = 256
"""What a run costs beside its data: so many small ones cannot take more memory than was allowed."""

_start = attrgetter("start")


class Piece(NamedTuple):
    """Bytes on their way to the layer."""

    start: int
    data: bytearray
    cost: int
    """Bytes of memory that are free again once it is sent."""

    @property
    def end(self) -> int:
        """Behind its last byte."""
        return self.start + len(self.data)


class _Run:
    __slots__ = ("born", "data", "start")

    def __init__(self, start: int, data: bytearray, born: float) -> None:
        self.start = start
        self.data = data
        self.born = born

    @property
    def end(self) -> int:
        return self.start + len(self.data)


class Extents:
    """The runs of one file."""

    def __init__(self, piece_bytes: int) -> None:
        """`piece_bytes`: how long a run, and a piece that is taken, may be."""
        self._piece_bytes = piece_bytes
        self._runs: list[_Run] = []
        self._by_age: OrderedDict[_Run, None] = OrderedDict()
        self._full: OrderedDict[_Run, None] = OrderedDict()
        """Those that can grow no further."""
        self._bytes = 0

    def __bool__(self) -> bool:
        return bool(self._runs)

    @property
    def cost(self) -> int:
        """Bytes of memory."""
        return self._bytes + RUN_OVERHEAD_BYTES * len(self._runs)

    @property
    def size(self) -> int:
        """Bytes of data."""
        return self._bytes

    @property
    def end(self) -> int:
        """Behind the last byte; 0 if there is none."""
        return self._runs[-1].end if self._runs else 0

    def is_ready(self, before: float) -> bool:
        """Whether a run is full, or was begun no later than `before`."""
        return bool(self._full) or (bool(self._by_age) and next(iter(self._by_age)).born <= before)

    def add(self, start: int, data: memoryview, now: float) -> None:
        """Write `data`, at least one byte and at most a piece, at byte `start`."""
        end = start + len(data)
        before = self._run_before(start)
        if before is not None and end <= before.end:
            before.data[start - before.start : end - before.start] = data
            return
        self._clear(start, end)
        before = self._run_before(start)
        if before is not None and before.end == start and len(before.data) + len(data) <= self._piece_bytes:
            before.data += data
        else:
            before = _Run(start, bytearray(data), now)
            self._runs.insert(bisect_right(self._runs, start, key=_start), before)
            self._by_age[before] = None
        self._bytes += len(data)
        if len(before.data) == self._piece_bytes:
            self._full[before] = None

    def put_back(self, piece: Piece, now: float) -> None:
        """What could not be sent is to be sent again, but for what has been written over it since."""
        newer = list(self.copies(piece.start, piece.end))
        with memoryview(piece.data) as view:
            for at in range(0, len(view), self._piece_bytes):
                self.add(piece.start + at, view[at : at + self._piece_bytes], now)
        for start, data in newer:
            self.add(start, memoryview(data), now)

    def cut(self, size: int) -> None:
        """Drop all from byte `size` on."""
        if self.end > size:
            self._clear(size, self.end)

    def take(self, avoid: Iterable[Piece], before: float) -> Piece | None:
        """Remove and return what to send next: full, or begun no later than `before`; None if there is no such run.

        It overlaps none of `avoid`.
        """
        busy = [(piece.start, piece.end) for piece in avoid]
        for run in self._full:
            if not _meets(run, busy):
                return self._take_around(run, busy)
        for run in self._by_age:
            if run.born > before:
                break
            if not _meets(run, busy):
                return self._take_around(run, busy)
        return None

    def copies(self, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        """What there is between two offsets, as (offset, bytes), in order."""
        for run in self._overlapping(start, end):
            low, high = max(start, run.start), min(end, run.end)
            yield low, bytes(memoryview(run.data)[low - run.start : high - run.start])

    def _run_before(self, start: int) -> _Run | None:
        """The last run that starts at byte `start` or before it."""
        index = bisect_right(self._runs, start, key=_start)
        return self._runs[index - 1] if index else None

    def _overlapping(self, start: int, end: int) -> list[_Run]:
        index = bisect_right(self._runs, start, key=_start)
        if index and self._runs[index - 1].end > start:
            index -= 1
        found = []
        while index < len(self._runs) and self._runs[index].start < end:
            found.append(self._runs[index])
            index += 1
        return found

    def _clear(self, start: int, end: int) -> None:
        """Drop what lies between two offsets."""
        touched = self._overlapping(start, end)
        if not touched:
            return
        # What stays counts as the oldest of all: it is no later than it was, and the order of ages is kept.
        born = next(iter(self._by_age)).born
        kept = []
        for run in touched:
            if run.start < start:
                kept.append(_Run(run.start, run.data[: start - run.start], born))
            if run.end > end:
                kept.append(_Run(end, run.data[end - run.start :], born))
        index = bisect_right(self._runs, touched[0].start, key=_start) - 1
        self._remove(index, index + len(touched))
        self._runs[index:index] = kept
        for run in kept:
            self._by_age[run] = None
            self._by_age.move_to_end(run, last=False)
        self._bytes += sum(len(run.data) for run in kept)

    def _take_around(self, run: _Run, busy: list[tuple[int, int]]) -> Piece:
        """`run` with what touches it on both sides, as far as a piece goes."""
        first = bisect_right(self._runs, run.start, key=_start) - 1
        until, length = first + 1, len(run.data)
        while first and self._joins(first - 1, first, length, busy):
            first -= 1
            length += len(self._runs[first].data)
        while until < len(self._runs) and self._joins(until - 1, until, length, busy, added=until):
            length += len(self._runs[until].data)
            until += 1
        taken = self._remove(first, until)
        data = run.data if len(taken) == 1 else bytearray().join(each.data for each in taken)
        return Piece(taken[0].start, data, length + RUN_OVERHEAD_BYTES * len(taken))

    def _joins(self, left: int, right: int, length: int, busy: list[tuple[int, int]], added: int | None = None) -> bool:
        """Whether two neighbours touch, and the one that is `added` (by default the left) can join `length` bytes."""
        run = self._runs[left if added is None else added]
        touches = self._runs[left].end == self._runs[right].start
        return touches and length + len(run.data) <= self._piece_bytes and not _meets(run, busy)

    def _remove(self, first: int, until: int) -> list[_Run]:
        removed = self._runs[first:until]
        del self._runs[first:until]
        for run in removed:
            self._bytes -= len(run.data)
            del self._by_age[run]
            self._full.pop(run, None)
        return removed


def _meets(run: _Run, busy: list[tuple[int, int]]) -> bool:
    return any(run.start < end and start < run.end for start, end in busy)
