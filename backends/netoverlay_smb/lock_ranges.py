"""Ranges of bytes, and the locks that one open file holds on them: what overlaps, what is missing, what is left."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from netoverlay.backend_api import LockKind

END = 1 << 63
"""One past the largest offset that a program can name: where a lock of length 0 ends."""


class Span(NamedTuple):
    """Bytes from `start` up to `end`, which is not part of it."""

    start: int
    end: int

    @property
    def length(self) -> int:
        return self.end - self.start

    def overlaps(self, other: Span) -> bool:
        return self.start < other.end and other.start < self.end

    def contains(self, other: Span) -> bool:
        return self.start <= other.start and other.end <= self.end

    def inside(self, other: Span) -> Span:
        """The part of it that lies in `other`, which it overlaps."""
        return Span(max(self.start, other.start), min(self.end, other.end))

    def outside(self, other: Span) -> list[Span]:
        """The parts of it that do not lie in `other`: up to two."""
        parts = (Span(self.start, min(self.end, other.start)), Span(max(self.start, other.end), self.end))
        return [part for part in parts if part.start < part.end]


class Held(NamedTuple):
    """One range that is locked at the server, exactly as it was asked for there."""

    span: Span
    kind: LockKind


def whole_span(start: int, length: int) -> Span | None:
    """As in the seam: length 0 reaches to the end of all offsets. None where there are no such offsets."""
    end = start + length if length else END
    return Span(start, end) if 0 <= start < end <= END else None


def gaps(span: Span, taken: Iterable[Span]) -> list[Span]:
    """The parts of `span` that none of `taken` has, in order."""
    left = [span]
    for each in taken:
        left = [part for piece in left for part in piece.outside(each)]
    return sorted(left)


def without(held: Iterable[Held], span: Span) -> list[Held]:
    """What is left of `held` when `span` is let go."""
    return [Held(part, each.kind) for each in held for part in each.span.outside(span)]
