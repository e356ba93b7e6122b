"""What is known of a lazily copied file while somebody has it open: its map, the base's file, and the order of things.

All who have it open share it. Its lock is a leaf: it is held while the upper's file is changed and the change noted in
the map, never while the base is read.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from netoverlay.backend_api import AllocateMode, AttributeChange, BackendFile, NotSupportedError
from netoverlay.backend_api.waiting import about_to_wait
from netoverlay.overlay.capabilities import attributes_kept
from netoverlay.overlay.content import non_zero_runs
from netoverlay.overlay.lazy_map import END, LazyMap, Position
from netoverlay.overlay.range_map import Piece, RangeMap
from netoverlay.overlay.steady_times import SteadyTimes

FILL_BYTES: Final = 4 << 20
"""Read of the base at once: as much as keeps dozens of requests in flight."""
SHORTER: Final = "the base's file of a lazily copied one is shorter than it was"


class LazyState:
    """What is known of one lazily copied file, while somebody has it open."""

    def __init__(
        self,
        lazy_map: LazyMap,
        open_base: Callable[[], BackendFile],
        make_plain: Callable[[BackendFile], None],
        hinders: Callable[[AttributeChange], bool],
        times: SteadyTimes,
    ) -> None:
        """`make_plain`: takes the marks from the file, and the map away, for good. `hinders`: LazyFiles.hinders()."""
        self.map = lazy_map
        self.times = times
        self.users = 0
        self.hinders = hinders
        self._open_base = open_base
        self._make_plain = make_plain
        self._lock = threading.Lock()
        self._sync_lock = threading.Lock()
        """Taken before the other: nobody writes the map anew while it is synced."""
        self._base_lock = threading.Lock()
        self._base: BackendFile | None = None
        self._may_be_cut = False
        """The file may be shorter than the map tells: nothing may be written behind its end."""
        self.is_removed = False
        """With its last name went what it has, and its map."""
        self.is_lazy = True
        """It may lack data; False once it is a file as any other."""

    @property
    def wants_sync(self) -> bool:
        """Whether something was written that is to stay, and was not synced; or the file has become whole."""
        return self.is_lazy and not self.is_removed and not (self.map.is_synced and self.map)

    def pieces(self, start: int, end: int) -> list[Piece[bool | None]]:
        """What is between two offsets: True where it is in the base. Empty if nothing of it is."""
        with self._lock:
            return list(self.map.missing.covering(start, end)) if self.map.lacks(start, end) else []

    def missing(self) -> list[Piece[bool]]:
        """All that is in the base."""
        with self._lock:
            return list(self.map.missing)

    def base(self) -> BackendFile:
        """The base's file. EIO if it is not there any more as it was."""
        about_to_wait()
        with self._base_lock:
            if self._base is None:
                self._base = self._open_base()
            return self._base

    @contextmanager
    def changing(self, file: BackendFile) -> Iterator[LazyMap]:
        """The upper's file is changed inside, and the change noted afterwards."""
        with self._lock:
            if self._may_be_cut:
                self._fit_locked(file)
            yield self.map

    def truncate(self, file: BackendFile, size: int) -> None:
        """Set the size; what is written behind it later lies among zeros."""
        with self.changing(file):
            self._may_be_cut = True
            file.truncate(size)
            self._fit_locked(file)

    def fit(self, file: BackendFile) -> None:
        """Let the map end where the file does, which was cut by who then died, or without us."""
        with self._lock:
            self._fit_locked(file)

    def _fit_locked(self, file: BackendFile) -> None:
        """Synced, so that a power cut cannot bring the base's data back behind what was cut."""
        size = file.stat().size
        if self.map.lacks(size, END):
            file.sync()
            self.map.have(size, END)
            self.map.note_synced(self.map.position)
            self.map.sync_file()
        self._may_be_cut = False

    def sync(self, file: BackendFile, *, data_only: bool = False) -> None:
        """First the data, then the map. A file that has become whole is made a plain one."""
        with self._sync_lock:
            position = self.position()
            file.sync(data_only=data_only)
            if position is not None:
                self._note_synced(position)
            with self._lock:
                if self.map.is_large:
                    file.sync(data_only=True)
                    self.map.rewrite()

    def position(self) -> Position | None:
        """Up to where the map is written, if not all of that is known to be on stable storage."""
        with self._lock:
            return None if self.map.is_synced else self.map.position

    def note_synced(self, position: Position) -> None:
        """The file is on stable storage as it was at position()."""
        with self._sync_lock:
            self._note_synced(position)

    def _note_synced(self, position: Position) -> None:
        with self._lock:
            self.map.note_synced(position)
        self.map.sync_file()

    def finish(self, file: BackendFile) -> None:
        """Make a file that lacks nothing a plain one."""
        with self._lock:
            if self.is_lazy and not self.map:
                file.sync()
                self._make_plain(file)
                self.is_lazy = False

    def fill(self, file: BackendFile, start: int, end: int) -> int:
        """Bring what is missing between two offsets from the base; the number of bytes. Nothing else changes."""
        data = memoryview(bytearray(end - start))
        content: RangeMap[bool] = RangeMap()
        if not _is_hole(self.base(), start, end):
            if self.base().read_into(start, data) < len(data):
                raise OSError(errno.EIO, SHORTER)
            for low, high in non_zero_runs(data):
                content.set(start + low, start + high, True)
        filled = 0
        with self._lock, self.times.disturbing(), attributes_kept(file):
            for low, high, _ in list(self.map.missing.within(start, end)):
                for at, until, has_data in content.covering(low, high):
                    if has_data:
                        file.write_at(at, data[at - start : until - start])
                    else:
                        _clear(file, at, until)
                self.map.have(low, high)
                filled += high - low
        return filled

    def close(self) -> None:
        """Nobody has it open any more."""
        with ExitStack() as stack:
            stack.callback(self.map.close)
            if self._base is not None:
                stack.callback(self._base.close)
                self._base = None


def _is_hole(base: BackendFile, start: int, end: int) -> bool:
    """Whether the base's layer knows that there is no data."""
    try:
        return base.seek_data(start) >= end
    except NotSupportedError:
        return False
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return True


def _clear(file: BackendFile, start: int, end: int) -> None:
    """Zeros, also where something was written that did not count: as a hole if the file system can."""
    try:
        file.allocate(AllocateMode.PUNCH_HOLE, start, end - start)
    except NotSupportedError:
        zeros = bytes(min(FILL_BYTES, end - start))
        for at in range(start, end, len(zeros)):
            file.write_at(at, memoryview(zeros)[: end - at])
