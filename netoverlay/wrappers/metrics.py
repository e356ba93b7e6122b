"""Count what reaches a backend: calls, errors, seconds and bytes for each operation.

Placed below the caches, so that "answered without the server" can be proved: the count of calls has not moved.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

from netoverlay.backend_api.backend import Backend, BackendFile, Readable, Writable
from netoverlay.backend_api.types import DirEntry, LayerPath, NamedEntry
from netoverlay.backend_api.whole_files import FileContent, WantedFile
from netoverlay.wrappers.intercept import InterceptingBackend, InterceptingFile, Operation

P = ParamSpec("P")
T = TypeVar("T")


class _Counter:
    """What is known of one operation. Adding takes a lock of its own: `+=` is not atomic in Python."""

    __slots__ = ("_lock", "calls", "errors", "seconds")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.calls = 0
        self.errors = 0
        self.seconds = 0.0

    def add(self, seconds: float, *, failed: bool) -> None:
        with self._lock:
            self.calls += 1
            self.seconds += seconds
            if failed:
                self.errors += 1

    def add_calls(self, count: int) -> None:
        """So many more were made by the one that was added."""
        with self._lock:
            self.calls += count


class _ByteCount:
    __slots__ = ("_lock", "total")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.total = 0

    def add(self, count: int) -> None:
        with self._lock:
            self.total += count


class MeteredBackend(InterceptingBackend):
    """Counts every call to `inner` and to its open files."""

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner)
        self._counters = {operation: _Counter() for operation in Operation}
        self.bytes_read = _ByteCount()
        self.bytes_written = _ByteCount()
        self.bytes_copied = _ByteCount()

    def around(self, operation: Operation, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        failed = True
        start = time.perf_counter()
        try:
            result = function(*args, **kwargs)
            failed = False
        finally:
            self._counters[operation].add(time.perf_counter() - start, failed=failed)
        return result

    def wrap_file(self, file: BackendFile) -> BackendFile:
        return _MeteredFile(file, self)

    def list_dirs(self, paths: Sequence[LayerPath]) -> list[list[DirEntry] | OSError]:
        """Counted as so many listings."""
        found = self.around(Operation.LIST_DIR, self.inner.list_dirs, paths)
        self._counters[Operation.LIST_DIR].add_calls(len(paths) - 1)
        return found

    def list_names(self, paths: Sequence[LayerPath]) -> list[list[NamedEntry] | OSError]:
        """Counted as so many listings."""
        found = self.around(Operation.LIST_NAMES, self.inner.list_names, paths)
        self._counters[Operation.LIST_NAMES].add_calls(len(paths) - 1)
        return found

    def read_files(self, wanted: Sequence[WantedFile], *, unchanging: bool) -> list[FileContent | OSError]:
        found = super().read_files(wanted, unchanging=unchanging)
        self.bytes_read.add(sum(len(each.data) for each in found if isinstance(each, FileContent)))
        return found

    def calls(self) -> int:
        """How many calls have ended so far, of all operations."""
        return sum(counter.calls for counter in self._counters.values())

    def snapshot(self) -> dict[str, int | float]:
        """The counts since the start, under stable names.

        "calls", "errors", "bytes_read", "bytes_written", "bytes_copied" (to files of this layer, without their passing
        here), and for each operation that was called (the values of Operation) "NAME.calls", "NAME.errors" and
        "NAME.seconds" (wall time, summed over threads).
        """
        used = {operation.value: counter for operation, counter in self._counters.items() if counter.calls}
        counts: dict[str, int | float] = {
            "calls": sum(counter.calls for counter in used.values()),
            "errors": sum(counter.errors for counter in used.values()),
            "bytes_read": self.bytes_read.total,
            "bytes_written": self.bytes_written.total,
            "bytes_copied": self.bytes_copied.total,
        }
        for name, counter in used.items():
            counts[f"{name}.calls"] = counter.calls
            counts[f"{name}.errors"] = counter.errors
            counts[f"{name}.seconds"] = counter.seconds
        return counts


class _MeteredFile(InterceptingFile):
    """Also counts the bytes that move."""

    def __init__(self, inner: BackendFile, backend: MeteredBackend) -> None:
        super().__init__(inner, backend)
        self._bytes_read = backend.bytes_read
        self._bytes_written = backend.bytes_written
        self._bytes_copied = backend.bytes_copied

    def read_into(self, offset: int, buffer: Writable) -> int:
        count = super().read_into(offset, buffer)
        self._bytes_read.add(count)
        return count

    def read_at(self, offset: int, size: int) -> bytes:
        data = super().read_at(offset, size)
        self._bytes_read.add(len(data))
        return data

    def write_at(self, offset: int, data: Readable) -> None:
        super().write_at(offset, data)
        self._bytes_written.add(data.nbytes if isinstance(data, memoryview) else len(data))

    def copy_range(self, source: BackendFile, source_offset: int, offset: int, length: int) -> int:
        count = super().copy_range(source, source_offset, offset, length)
        self._bytes_copied.add(count)
        return count
