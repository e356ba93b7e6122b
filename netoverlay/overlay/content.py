"""Copy the content of a file between layers: by the kernel or the server if they can, holes kept as holes.

Otherwise the data passes here, and then two threads share the work: one reads ahead while the other writes, so that
two networks, or a network and a disk, are busy at the same time.
"""

from __future__ import annotations

import errno
import queue
import threading
from collections.abc import Iterator
from itertools import chain
from types import TracebackType
from typing import NamedTuple, Self

from netoverlay.backend_api import BackendFile, NotSupportedError
from netoverlay.backend_api.waiting import check_interrupted, set_hooks

LAYER_COPY_BYTES = 64 << 20
"""Copied by a layer itself in one call: so often is an interrupt looked for."""
PIECE_BYTES = 16 << 20
"""Read and written at once: enough for a backend to keep dozens of requests in flight."""
LEAST_PIECE_BYTES = 2 << 20
"""Of a file that is too small for several large pieces: without several, nothing would overlap."""
PIECES_IN_MEMORY = 3
"""One being read, one being written, and one between the two."""
HOLE_BYTES = 64 << 10
"""Where the source tells no holes, runs of zeros of this size, aligned, become holes."""

_CANNOT_COPY_THERE = frozenset({errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL})
"""The two files are of different backends or file systems: the data has to pass here."""
_ZEROS = bytes(HOLE_BYTES)
_LOOK_SECONDS = 0.25
"""How often an interrupt is looked for while nothing has been read."""


class SourceChangedError(OSError):
    """The source became shorter while it was copied (ESTALE)."""

    def __init__(self) -> None:
        super().__init__(errno.ESTALE, "the file became shorter while it was copied up")


def copy_content(source: BackendFile, target: BackendFile, size: int) -> None:
    """Copy the first `size` bytes of `source` to the empty file `target`.

    SourceChangedError if there are fewer; EINTR if the request was interrupted.
    """
    rest = _copy_in_layer(source, target, _data_ranges(source, size))
    if size <= LEAST_PIECE_BYTES:
        for piece in _pieces(rest, LEAST_PIECE_BYTES):
            check_interrupted()
            _write(target, piece.read(source, bytearray(piece.length)))
    elif first := next(rest, None):
        with _ReadAhead(source, chain([first], rest), size) as pieces:
            for read in pieces:
                _write(target, read)
    target.truncate(size)


class _Range(NamedTuple):
    """A part of the source that has data."""

    start: int
    end: int
    is_certain: bool
    """The source knows its holes."""


class _Read(NamedTuple):
    """A piece that was read."""

    offset: int
    data: memoryview
    buffer: bytearray
    """Whose beginning `data` is."""
    keep_zeros: bool


class _Piece(NamedTuple):
    """A piece to read."""

    offset: int
    length: int
    keep_zeros: bool

    def read(self, source: BackendFile, buffer: bytearray) -> _Read:
        data = memoryview(buffer)[: self.length]
        if source.read_into(self.offset, data) < self.length:
            raise SourceChangedError
        return _Read(self.offset, data, buffer, self.keep_zeros)


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
            copied = _copy_range(source, target, position, min(LAYER_COPY_BYTES, end - position))
            if not copied:
                return chain([_Range(position, end, is_certain)], ranges)
            position += copied
    return iter(())


def _copy_range(source: BackendFile, target: BackendFile, offset: int, length: int) -> int:
    """0 if the layer cannot do it, or the source has ended, which reading it will tell."""
    try:
        return target.copy_range(source, offset, offset, length)
    except OSError as error:
        if error.errno not in _CANNOT_COPY_THERE:
            raise
        return 0


def _write(target: BackendFile, read: _Read) -> None:
    if read.keep_zeros:
        target.write_at(read.offset, read.data)
        return
    for start, end in _non_zero_runs(read.data):
        target.write_at(read.offset + start, read.data[start:end])


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


class _ReadAhead:
    """The pieces of a file, read by a thread of its own. That has ended when the `with` block is left, however."""

    def __init__(self, source: BackendFile, ranges: Iterator[_Range], size: int) -> None:
        """`size` is that of the whole file."""
        self._source = source
        self._ranges = ranges
        self._piece_bytes = max(LEAST_PIECE_BYTES, min(PIECE_BYTES, -(-size // (PIECES_IN_MEMORY + 1))))
        self._stopped = threading.Event()
        self._free: queue.SimpleQueue[bytearray | None] = queue.SimpleQueue()
        """Buffers to read into; at the end None, so that nobody waits for one."""
        self._read: queue.SimpleQueue[_Read | BaseException | None] = queue.SimpleQueue()
        """What was read, in order, then the error that ended it, or None."""
        self._thread = threading.Thread(target=self._run, name="copy-up", daemon=True)

    def __enter__(self) -> Self:
        for _ in range(PIECES_IN_MEMORY):
            self._free.put(bytearray(self._piece_bytes))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._free.put(None)
        self._thread.join()  # a call of a backend ends within its deadline

    def __iter__(self) -> Iterator[_Read]:
        while True:
            check_interrupted()
            try:
                read = self._read.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                continue
            if read is None:
                return
            if isinstance(read, BaseException):
                try:
                    raise read
                finally:
                    del read  # it refers to this frame, which would keep the buffers
            yield read
            self._free.put(read.buffer)

    def _run(self) -> None:
        # Who waits for the server to come back looks for an interrupt, in this thread, too.
        set_hooks(None, self._stopped.is_set)
        try:
            for piece in _pieces(self._ranges, self._piece_bytes):
                buffer = self._free.get()
                if buffer is None or self._stopped.is_set():
                    return
                self._read.put(piece.read(self._source, buffer))
            self._read.put(None)
        except BaseException as error:  # noqa: BLE001  (raised by who writes)
            self._read.put(error)
