"""Open files of the upper of which a part is still in a lower: read from both, written to one."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final, NoReturn

from netoverlay.backend_api import (
    AllocateMode,
    AttributeChange,
    BackendFile,
    FileStat,
    NotSupportedError,
    Readable,
    Writable,
    os_error,
)
from netoverlay.backend_api.delegate import DelegatingFile
from netoverlay.backend_api.places import FilePlace
from netoverlay.backend_api.waiting import about_to_wait, is_interrupted
from netoverlay.overlay import lazy_state
from netoverlay.overlay.lazy_state import SHORTER, LazyState

_ZEROING: Final = frozenset({AllocateMode.PUNCH_HOLE, AllocateMode.ZERO_RANGE, AllocateMode.ZERO_RANGE_KEEP_SIZE})


class PartialFile(DelegatingFile):
    """One open file. `inner` is the upper's."""

    def __init__(self, inner: BackendFile, state: LazyState, on_close: Callable[[LazyState], None]) -> None:
        super().__init__(inner)
        self._state = state
        self._on_close = on_close
        self._writes = False
        self._closing = threading.Lock()
        self._is_open = True

    @property
    def place(self) -> FilePlace | None:
        return None if self._state.is_lazy else super().place

    def unwrapped(self) -> BackendFile:
        """Itself, as long as nobody may copy from the upper's file alone."""
        return self if self._state.is_lazy else super().unwrapped()

    def fileno(self) -> int | None:
        return None if self._state.is_lazy else self.inner.fileno()

    def read_into(self, offset: int, buffer: Writable) -> int:
        pieces = self._state.pieces(offset, offset + len(buffer)) if self._state.is_lazy else []
        if not pieces:
            return self.inner.read_into(offset, buffer)
        view = memoryview(buffer)[: max(0, self.inner.stat().size - offset)]
        done = 0
        for start, end, is_missing in pieces:
            part = view[start - offset : end - offset]
            count = (self._state.base() if is_missing else self.inner).read_into(start, part)
            done += count
            if count < len(part):
                if is_missing:
                    raise OSError(errno.EIO, SHORTER)
                break
        return done

    def read_at(self, offset: int, size: int) -> bytes:
        if not self._state.is_lazy:
            return self.inner.read_at(offset, size)
        buffer = bytearray(size)
        return bytes(memoryview(buffer)[: self.read_into(offset, buffer)])

    def stat(self) -> FileStat:
        return self._state.times.steady(self.inner.stat)

    def write_at(self, offset: int, data: Readable) -> None:
        with self._state.changing(self.inner) as lazy_map:
            self.inner.write_at(offset, data)
            lazy_map.have(offset, offset + len(data))

    def truncate(self, size: int) -> None:
        self._state.truncate(self.inner, size)

    def allocate(self, mode: AllocateMode, offset: int, length: int) -> None:
        with self._state.changing(self.inner) as lazy_map:
            self.inner.allocate(mode, offset, length)
            if mode in _ZEROING:
                lazy_map.have(offset, offset + length)

    def copy_range(self, source: BackendFile, source_offset: int, offset: int, length: int) -> int:
        with self._state.changing(self.inner) as lazy_map:
            copied = super().copy_range(source, source_offset, offset, length)
            lazy_map.have(offset, offset + copied)
        return copied

    def set_attributes(self, change: AttributeChange) -> None:
        if self._state.is_lazy and not self._state.is_removed and self._state.hinders(change):
            self.complete(is_interrupted, id)
        self.inner.set_attributes(change)

    def seek_data(self, offset: int) -> int:
        """Where the base tells no holes, all of it is data."""
        return self._seek(offset, lambda file, at: file.seek_data(at), default=None)

    def seek_hole(self, offset: int) -> int:
        """As seek_data()."""
        return self._seek(offset, lambda file, at: file.seek_hole(at), default=self.inner.stat().size)

    def sync(self, *, data_only: bool = False) -> None:
        if not self._state.is_lazy:
            self.inner.sync(data_only=data_only)
            return
        self._state.sync(self.inner, data_only=data_only)
        self._state.finish(self.inner)

    def complete(self, stop: Callable[[], bool], filled: Callable[[int], object]) -> None:
        """Bring all that is missing, and make it a plain file. InterruptedError if `stop` says so in between.

        `filled` is told the numbers of bytes.
        """
        for piece in self._state.missing():
            for start in range(piece.start, piece.end, lazy_state.FILL_BYTES):
                if stop():
                    raise os_error(errno.EINTR)
                filled(self._state.fill(self.inner, start, min(piece.end, start + lazy_state.FILL_BYTES)))
        self._state.finish(self.inner)

    def close(self) -> None:
        """What was written first is synced: a map does not count otherwise once the machine was started anew."""
        with self._closing:
            was_open, self._is_open = self._is_open, False
        if not was_open:
            return
        with ExitStack() as stack:
            stack.callback(self._on_close, self._state)
            stack.callback(self.inner.close)
            if self._state.wants_sync:
                about_to_wait()
                self.sync()

    def _seek(self, offset: int, seek: Callable[[BackendFile, int], int], *, default: int | None) -> int:
        """Where the first `seek` of a piece leads to inside of it."""
        size = self.inner.stat().size
        pieces = self._state.pieces(offset, max(size, offset)) if self._state.is_lazy else []
        if not pieces:
            return seek(self.inner, offset)
        for start, end, is_missing in pieces:
            try:
                found = seek(self._state.base() if is_missing else self.inner, start)
            except NotSupportedError:
                if not is_missing:
                    raise
                found = start if default is None else end
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                continue
            if found < end:
                return found
        if default is None:
            raise os_error(errno.ENXIO)
        return default


class BrokenFile(DelegatingFile):
    """An open file of which nobody knows what of its data is its own: it can be removed, renamed and emptied."""

    def __init__(self, inner: BackendFile, reason: str, make_plain: Callable[[BackendFile], None]) -> None:
        super().__init__(inner)
        self.reason = reason
        self._make_plain = make_plain
        self._is_broken = True

    def unwrapped(self) -> BackendFile:
        return self if self._is_broken else super().unwrapped()

    def fileno(self) -> int | None:
        return None if self._is_broken else self.inner.fileno()

    def read_into(self, offset: int, buffer: Writable) -> int:
        self._refuse_if_broken()
        return self.inner.read_into(offset, buffer)

    def read_at(self, offset: int, size: int) -> bytes:
        self._refuse_if_broken()
        return self.inner.read_at(offset, size)

    def write_at(self, offset: int, data: Readable) -> None:
        self._refuse_if_broken()
        self.inner.write_at(offset, data)

    def truncate(self, size: int) -> None:
        """To nothing it can be cut, and is as any other from then on."""
        if self._is_broken and size:
            self._refuse_if_broken()
        self.inner.truncate(size)
        if self._is_broken:
            self.inner.sync()
            self._make_plain(self.inner)
            self._is_broken = False

    def allocate(self, mode: AllocateMode, offset: int, length: int) -> None:
        self._refuse_if_broken()
        self.inner.allocate(mode, offset, length)

    def copy_range(self, source: BackendFile, source_offset: int, offset: int, length: int) -> int:
        self._refuse_if_broken()
        return super().copy_range(source, source_offset, offset, length)

    def seek_data(self, offset: int) -> int:
        self._refuse_if_broken()
        return self.inner.seek_data(offset)

    def seek_hole(self, offset: int) -> int:
        self._refuse_if_broken()
        return self.inner.seek_hole(offset)

    def _refuse_if_broken(self) -> None:
        if self._is_broken:
            refuse(self.reason)


def refuse(reason: str) -> NoReturn:
    """EIO: a file is not shown with zeros for data that cannot be had."""
    raise OSError(errno.EIO, reason)
