"""Copy the content of a file between layers: by the kernel or the server if they can, holes kept as holes.

Otherwise the data passes here, and then two threads share the work, a piece each: while one reads the other writes, and
where one side takes no time both do the other, so that no line is idle between two calls.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import NamedTuple

from netoverlay.backend_api import BackendFile, NotSupportedError, UnavailableError
from netoverlay.backend_api.waiting import check_interrupted, set_hooks

PIECE_BYTES = 16 << 20
"""Read and written at once: enough for a backend to keep dozens of requests in flight. Two are in memory."""
LEAST_PIECE_BYTES = 2 << 20
"""Of a file that is too small for several large pieces: without several, nothing would overlap."""
HOLE_BYTES = 64 << 10
"""Where the source tells no holes, runs of zeros of this size, aligned, become holes."""
_FEWEST_PIECES = 4

_CANNOT_COPY_THERE = frozenset({errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL})
"""The two files are of different backends or file systems: the data has to pass here."""
_ZEROS = bytes(HOLE_BYTES)
_LOOK_SECONDS = 0.25
"""How often an interrupt is looked for while only the helper works."""


class SourceChangedError(OSError):
    """The source became shorter while it was copied (ESTALE)."""

    def __init__(self) -> None:
        super().__init__(errno.ESTALE, "the file became shorter while it was copied up")


class TargetLostError(UnavailableError):
    """The target could not be reached in the middle of a copy: nobody knows what it has of it, or will have yet."""


@contextmanager
def writing() -> Iterator[None]:
    """Around what is asked of the target: TargetLostError if it could not be reached. The source is asked again."""
    try:
        yield
    except InterruptedError:
        raise
    except UnavailableError as error:
        raise TargetLostError(error.strerror or str(error), error.errno or errno.EIO) from error


def copy_content(source: BackendFile, target: BackendFile, size: int) -> None:
    """Copy the first `size` bytes of `source` to the empty file `target`.

    SourceChangedError if there are fewer; TargetLostError; EINTR if the request was interrupted.
    """
    rest = _copy_in_layer(source, target, _data_ranges(source, size))
    if (first := next(rest, None)) is not None:
        blocks = min(PIECE_BYTES // HOLE_BYTES, -(-size // (HOLE_BYTES * _FEWEST_PIECES)))
        copy = _Copy(source, target, chain([first], rest), max(LEAST_PIECE_BYTES, blocks * HOLE_BYTES))
        if size <= LEAST_PIECE_BYTES:
            copy.work()
        else:
            copy.work_in_two_threads()
    with writing():
        target.truncate(size)


class _Range(NamedTuple):
    """A part of the source that has data."""

    start: int
    end: int
    is_certain: bool
    """The source knows its holes."""


class _Piece(NamedTuple):
    """A part of that which is read at once."""

    offset: int
    length: int
    keep_zeros: bool


def _data_ranges(source: BackendFile, size: int) -> Iterator[_Range]:
    """Where there is data."""
    position = 0
    while position < size:
        try:
            start = source.seek_data(position)
            end = min(source.seek_hole(start), size)
        except NotSupportedError:
            yield _Range(position, size, is_certain=False)
            return
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        if start < end:
            # Servers say so, too, of a file whose holes they do not tell.
            yield _Range(start, end, is_certain=(start, end) != (0, size))
        position = max(end, start + 1)


def _pieces(ranges: Iterator[_Range], length: int) -> Iterator[_Piece]:
    for start, end, is_certain in ranges:
        for offset in range(start, end, length):
            yield _Piece(offset, min(length, end - offset), is_certain)


def _copy_in_layer(source: BackendFile, target: BackendFile, ranges: Iterator[_Range]) -> Iterator[_Range]:
    """Copy without the data passing here, as far as that goes; what is left to copy."""
    for start, end, is_certain in ranges:
        position = start
        while position < end:
            check_interrupted()
            copied = _copy_range(source, target, position, end - position)
            if not copied:
                return chain([_Range(position, end, is_certain)], ranges)
            position += copied
    return iter(())


def _copy_range(source: BackendFile, target: BackendFile, offset: int, length: int) -> int:
    """0 if the layer cannot do it, or the source has ended, which reading it will tell."""
    try:
        with writing():
            return target.copy_range(source, offset, offset, length)
    except OSError as error:
        if error.errno not in _CANNOT_COPY_THERE:
            raise
        return 0


def non_zero_runs(buffer: memoryview) -> Iterator[tuple[int, int]]:
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


class _Copy:
    """A copy whose data passes here."""

    def __init__(self, source: BackendFile, target: BackendFile, ranges: Iterator[_Range], piece_bytes: int) -> None:
        self._source = source
        self._target = target
        self._piece_bytes = piece_bytes
        self._pieces = _pieces(ranges, piece_bytes)
        self._lock = threading.Lock()
        """Held to take the next piece, for which the source may be asked where its data is."""
        self._stopped = threading.Event()
        self._failure: BaseException | None = None
        """Of the helper."""

    def work(self) -> None:
        """Copy pieces until none is left, or the copy is stopped."""
        piece = self._next()
        buffer = memoryview(b"")
        while piece is not None:
            if len(buffer) < piece.length:
                buffer = memoryview(bytearray(piece.length))
            check_interrupted()
            data = buffer[: piece.length]
            if self._source.read_into(piece.offset, data) < piece.length:
                raise SourceChangedError
            self._write(piece, data)
            piece = self._next()

    def work_in_two_threads(self) -> None:
        """As work(), but twice as much at a time. When this returns or raises, the other thread has ended."""
        helper = threading.Thread(target=self._help, name="copy-up", daemon=True)
        helper.start()
        try:
            self.work()
            while helper.is_alive():
                check_interrupted()
                helper.join(_LOOK_SECONDS)
        finally:
            self._stopped.set()
            helper.join()  # a call of a backend ends within its deadline
        failure, self._failure = self._failure, None
        try:
            if failure is not None:
                raise failure
        finally:
            del failure  # it refers to this frame, and to the helper's buffer

    def _help(self) -> None:
        # Also while it waits for a server to come back it shall end when the copy does.
        set_hooks(None, self._stopped.is_set)
        try:
            self.work()
        except BaseException as error:  # noqa: BLE001  (raised by who called)
            self._failure = error
            self._stopped.set()

    def _next(self) -> _Piece | None:
        with self._lock:
            return None if self._stopped.is_set() else next(self._pieces, None)

    def _write(self, piece: _Piece, data: memoryview) -> None:
        runs = [(0, len(data))] if piece.keep_zeros else non_zero_runs(data)
        with writing():
            for start, end in runs:
                self._target.write_at(piece.offset + start, data[start:end])
