"""Disjoint ranges of bytes, each with a value; what touches and has equal values is one range."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from operator import itemgetter
from typing import Generic, NamedTuple, TypeVar

V = TypeVar("V")


class Piece(NamedTuple, Generic[V]):
    """A range, and its value there."""

    start: int
    end: int
    """The first byte behind it."""
    value: V


_start = itemgetter(0)
_end = itemgetter(1)


class RangeMap(Generic[V]):
    """A value, or none, for every byte. Not thread-safe."""

    __slots__ = ("_pieces",)

    def __init__(self) -> None:
        self._pieces: list[Piece[V]] = []

    def __bool__(self) -> bool:
        return bool(self._pieces)

    def __iter__(self) -> Iterator[Piece[V]]:
        """The ranges that have a value, in order."""
        return iter(self._pieces)

    def set(self, start: int, end: int, value: V | None) -> None:
        """Give the bytes from `start` up to `end` another value; None: none."""
        first = bisect_left(self._pieces, start, key=_end)
        last = bisect_right(self._pieces, end, key=_start)
        low, high = start, end
        before: list[Piece[V]] = []
        after: list[Piece[V]] = []
        for piece in self._pieces[first:last]:
            if piece.value == value:
                low, high = min(low, piece.start), max(high, piece.end)
                continue
            if piece.start < start:
                before.append(piece._replace(end=min(piece.end, start)))
            if piece.end > end:
                after.append(piece._replace(start=max(piece.start, end)))
        middle = [] if value is None else [Piece(low, high, value)]
        self._pieces[first:last] = before + middle + after

    def overlapping(self, start: int, end: int) -> Iterator[Piece[V]]:
        """The ranges that have a value and share a byte with what is between `start` and `end`: as they are."""
        index = bisect_right(self._pieces, start, key=_end)
        while start < end and index < len(self._pieces) and self._pieces[index].start < end:
            yield self._pieces[index]
            index += 1

    def within(self, start: int, end: int) -> Iterator[Piece[V]]:
        """The ranges that have a value, as far as they are between `start` and `end`."""
        for piece in self.overlapping(start, end):
            yield Piece(max(piece.start, start), min(piece.end, end), piece.value)

    def covering(self, start: int, end: int) -> Iterator[Piece[V | None]]:
        """All that is between `start` and `end`, gaps included."""
        at = start
        for piece in self.within(start, end):
            if piece.start > at:
                yield Piece(at, piece.start, None)
            yield Piece(piece.start, piece.end, piece.value)
            at = piece.end
        if at < end:
            yield Piece(at, end, None)
