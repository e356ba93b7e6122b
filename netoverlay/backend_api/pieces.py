"""Move the bytes of a file in pieces, many of which are in flight: for backends whose server takes so much at once."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from netoverlay.backend_api.errors import UnavailableError
from netoverlay.backend_api.waiting import is_interrupted

R = TypeVar("R")

NEAR_DEPTH = 32
FAR_DEPTH = 64
FAR_SECONDS = 0.005
"""The round trip from which more must be in flight to fill the line."""
_FIRST_DEPTH = 5
"""A mebibyte, of a server that gives 255 KiB at once."""
_SHORT_QUEUE_SECONDS = 0.1
_LONG_QUEUE_SECONDS = 0.5
_COPY_SECONDS = 1.0
_COPY_DEPTH = 4
"""Copies in flight, from when the first was quick."""


class Window:
    """How many pieces are in flight: as many as the line carries, and few on a slow one.

    There they would only queue: other requests would wait behind them, and the last of them would miss its deadline. A
    piece that takes much longer than the quickest one has stood in a queue. Threads may share a window: what they lose
    of each other's counts does no harm.
    """

    def __init__(self, round_trip: float = 0.0) -> None:
        """`round_trip` in seconds."""
        self.depth = _FIRST_DEPTH
        self._most = FAR_DEPTH if round_trip >= FAR_SECONDS else NEAR_DEPTH
        self._quickest = float("inf")
        self._settling = 0

    def finished(self, seconds: float) -> None:
        """A piece has taken so long, from when it was sent."""
        self._quickest = min(self._quickest, seconds)
        queued = seconds - self._quickest
        if self._settling > 0:  # what was in flight before the window shrank
            self._settling -= 1
        elif queued > _LONG_QUEUE_SECONDS:
            self._settling = self.depth
            self.depth = max(1, self.depth // 2)
        elif queued < _SHORT_QUEUE_SECONDS:
            self.depth = min(self._most, self.depth + 1)


def read_in_pieces(
    buffer: memoryview,
    piece: int,
    window: Window,
    submit: Callable[[int, memoryview], R],
    finish: Callable[[R, int, memoryview], int],
    wait: Callable[[R], object],
) -> int:
    """Fill `buffer`, `piece` bytes at a time; the count is less only at the end of the file.

    `submit(start, part)` asks for a part, `finish(request, start, part)` returns its count once it is there, and
    `wait(request)` returns when nothing can come in any more for a request that nobody finishes.
    """
    in_flight: deque[tuple[int, memoryview, R, float]] = deque()
    start = 0
    total = 0
    try:
        while start < len(buffer) or in_flight:
            while start < len(buffer) and len(in_flight) < window.depth:
                part = buffer[start : start + piece]
                in_flight.append((start, part, submit(start, part), time.monotonic()))
                start += len(part)
            at, part, request, sent_at = in_flight.popleft()
            filled = finish(request, at, part)
            window.finished(time.monotonic() - sent_at)
            total = at + filled
            if filled < len(part):
                return total
        return total
    finally:
        for _, _, request, _ in in_flight:  # their replies go to the caller's memory
            with suppress(UnavailableError):
                wait(request)


def write_in_pieces(
    data: memoryview,
    piece: int,
    window: Window,
    submit: Callable[[int, memoryview], R],
    finish: Callable[[R, int], Exception | None],
) -> None:
    """Write all of `data`, `piece` bytes at a time.

    `submit(start, part)` sends a part, and `finish(request, size)` returns once it is written, or what was refused. Of
    that one is raised when nothing is in flight any more; then some of the data may be written.
    """
    in_flight: deque[tuple[R, int, float]] = deque()
    failure: Exception | None = None

    def finish_first() -> Exception | None:
        request, size, sent_at = in_flight.popleft()
        refused = finish(request, size)
        window.finished(time.monotonic() - sent_at)
        return refused

    for start in range(0, len(data), piece):
        part = data[start : start + piece]
        sent_at = time.monotonic()
        in_flight.append((submit(start, part), len(part), sent_at))
        while len(in_flight) >= window.depth and failure is None:
            failure = finish_first()
        if failure is not None:
            break
    while in_flight:
        failure = finish_first() or failure
    if failure is not None:
        raise failure


def copy_in_pieces(
    length: int, piece: int, submit: Callable[[int, int], R], finish: Callable[[R, int], int | Exception]
) -> int:
    """Have a server copy `length` bytes, for about a second at most; the count up to where all is copied.

    `submit(start, size)` asks for a piece, and `finish(request, size)` returns how much of it was copied once that is
    done, or what was refused: raised if nothing was copied before it. Stops when the caller is interrupted.
    """
    in_flight: deque[tuple[R, int, float]] = deque()
    failure: Exception | None = None
    start = done = 0
    depth = 1
    ended = False
    give_up_at = time.monotonic() + _COPY_SECONDS
    while in_flight or (start < length and not ended):
        while start < length and len(in_flight) < depth and not ended:
            size = min(piece, length - start)
            in_flight.append((submit(start, size), size, time.monotonic()))
            start += size
        request, size, sent_at = in_flight.popleft()
        outcome = finish(request, size)
        now = time.monotonic()
        depth = _COPY_DEPTH if now - sent_at < _LONG_QUEUE_SECONDS else 1
        if not ended:
            copied, failure = (outcome, None) if isinstance(outcome, int) else (0, outcome)
            done += copied
            ended = copied < size or now > give_up_at or is_interrupted()
    if failure is not None and not done:
        raise failure
    return done
