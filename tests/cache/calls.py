"""A backend that counts the calls that reach it, and can be told to wait or to fail: what the cache tests look at."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from netoverlay.backend_api import Access, Backend, BackendFile, Creation
from netoverlay.backend_api.whole_files import read_one_by_one
from netoverlay.wrappers.intercept import InterceptingBackend, Operation


class WatchedBackend(InterceptingBackend):
    """Counts by operation and path; calls `before[operation](path)` first, which may wait or raise."""

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner)
        self.calls: Counter[tuple[Operation, object]] = Counter()
        self.before: dict[Operation, Callable[[object], None]] = {}
        self.batches: list[list[str]] = []
        """The paths of each read_files(), whose files are counted one by one, too."""
        self.listed_together: list[list[str]] = []
        """The same of list_dirs()."""
        self._lock = threading.Lock()

    def around(self, operation, function, *args, **kwargs):
        what = args[0] if args else None
        what = what if isinstance(what, str | int) else None
        with self._lock:
            self.calls[operation, what] += 1
        if operation in self.before:
            self.before[operation](what)
        return function(*args, **kwargs)

    def list_dirs(self, paths):
        with self._lock:
            self.listed_together.append(list(paths))
        return Backend.list_dirs(self, paths)

    def read_files(self, wanted, *, unchanging):
        with self._lock:
            self.batches.append([each.path for each in wanted])
        return read_one_by_one(self, wanted, unchanging=unchanging)

    def count(self, operation: Operation | None = None) -> int:
        return sum(n for (called, _), n in self.calls.items() if operation in (None, called))

    @contextmanager
    def silent(self, *allowed: Operation) -> Iterator[None]:
        """No call may come but those allowed."""
        before = Counter(self.calls)
        yield
        came = [key for key in self.calls - before if key[0] not in allowed]
        assert not came, came


def write_file(backend: Backend, path: str, data: bytes) -> None:
    with backend.open(path, Access.WRITE, create=Creation.EXCLUSIVE, mode=0o644) as file:
        file.write_at(0, data)


def read_all(file: BackendFile) -> bytes:
    parts, offset = [], 0
    while data := file.read_at(offset, 1 << 17):
        parts.append(data)
        offset += len(data)
    return b"".join(parts)
