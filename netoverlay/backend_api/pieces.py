"""Move the bytes of a file in pieces, many of which are in flight: for backends whose server takes so much at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from netoverlay.backend_api.errors import UnavailableError

R = TypeVar("R")


def read_in_pieces(
    buffer: memoryview,
    piece: int,
    depth: int,
    submit: Callable[[int, memoryview], R],
    finish: Callable[[R, int, memoryview], int],
    wait: Callable[[R], object],
) -> int:
    """Fill `buffer`, `piece` bytes at a time, `depth` of them in flight; the count is less only at the end of the file.

    `submit(start, part)` asks for a part, `finish(request, start, part)` returns its count once it is there, and
    `wait(request)` returns when nothing can come in any more for a request that nobody finishes.
    """
    in_flight: deque[tuple[int, memoryview, R]] = deque()
    start = 0
    total = 0
    try:
        while start < len(buffer) or in_flight:
            while start < len(buffer) and len(in_flight) < depth:
                part = buffer[start : start + piece]
                in_flight.append((start, part, submit(start, part)))
                start += len(part)
            at, part, request = in_flight.popleft()
            filled = finish(request, at, part)
            total = at + filled
            if filled < len(part):
                return total
        return total
    finally:
        for _, _, request in in_flight:  # their replies go to the caller's memory
            with suppress(UnavailableError):
                wait(request)


def write_in_pieces(
    data: memoryview,
    piece: int,
    depth: int,
    submit: Callable[[int, memoryview], R],
    finish: Callable[[R, int], Exception | None],
) -> None:
    """Write all of `data`, `piece` bytes at a time, `depth` of them in flight.

    `submit(start, part)` sends a part, and `finish(request, size)` returns once it is written, or what was refused. Of
    that one is raised when nothing is in flight any more; then some of the data may be written.
    """
    in_flight: deque[tuple[R, int]] = deque()
    failure: Exception | None = None
    for start in range(0, len(data), piece):
        part = data[start : start + piece]
        in_flight.append((submit(start, part), len(part)))
        if len(in_flight) >= depth:
            failure = finish(*in_flight.popleft())
        if failure is not None:
            break
    while in_flight:
        failure = finish(*in_flight.popleft()) or failure
    if failure is not None:
        raise failure
