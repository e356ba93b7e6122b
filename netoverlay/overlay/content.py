"""Copy the content of a file between layers: by the kernel or the server if they can, holes kept as holes."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from netoverlay.backend_api import BackendFile, NotSupportedError
from netoverlay.backend_api.waiting import check_interrupted

CHUNK_BYTES = 8 << 20
"""Read and written at once: enough for a backend to keep dozens of requests in flight; two are in memory."""
HOLE_BYTES = 64 << 10
"""Where the source tells no holes, runs of zeros of this size, aligned, become holes."""

_CANNOT_COPY_THERE = frozenset({errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL})
"""The two files are of different backends or file systems: the data has to pass here."""
_ZEROS = bytes(HOLE_BYTES)


class SourceChangedError(OSError):
    """The source became shorter while it was copied (ESTALE)."""

    def __init__(self) -> None:
        super().__init__(errno.ESTALE, "the file became shorter while it was copied up")


def copy_content(source: BackendFile, target: BackendFile, size: int) -> None:
    """Copy the first `size` bytes of `source` to the empty file `target`.

    SourceChangedError if there are fewer; EINTR if the request was interrupted.
    """
    for start, end, certain in _data_ranges(source, size):
        position = start
        while position < end:
            check_interrupted()
            position += _copy_piece(source, target, position, min(CHUNK_BYTES, end - position), keep_zeros=certain)
    target.truncate(size)


def _data_ranges(source: BackendFile, size: int) -> Iterator[tuple[int, int, bool]]:
    """Where there is data, as (start, end, whether the source knows)."""
    position = 0
    while position < size:
        try:
            start = source.seek_data(position)
            end = min(source.seek_hole(start), size)
        except NotSupportedError:
            yield position, size, False
            return
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        if start < end:
            yield start, end, True
        position = max(end, start + 1)


def _copy_piece(source: BackendFile, target: BackendFile, offset: int, length: int, *, keep_zeros: bool) -> int:
    try:
        copied = target.copy_range(source, offset, offset, length)
    except OSError as error:
        if error.errno not in _CANNOT_COPY_THERE:
            raise
        copied = 0
    if copied:
        return copied
    buffer = memoryview(bytearray(length))
    if source.read_into(offset, buffer) < length:
        raise SourceChangedError
    if keep_zeros:
        target.write_at(offset, buffer)
    else:
        for start, end in _non_zero_runs(buffer):
            target.write_at(offset + start, buffer[start:end])
    return length


def _non_zero_runs(buffer: memoryview) -> Iterator[tuple[int, int]]:
    """The parts of `buffer` between runs of zeros."""
    run: int | None = None
    for start in range(0, len(buffer), HOLE_BYTES):
        block = buffer[start : start + HOLE_BYTES]
        if not block[0] and bytes(block) == _ZEROS[: len(block)]:
            if run is not None:
                yield run, start
                run = None
        elif run is None:
            run = start
    if run is not None:
        yield run, len(buffer)
