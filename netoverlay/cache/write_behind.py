"""Small contents on their way to disk: those of a directory are written together, once a walk has let go of them.

A walk brings the files of a directory in several calls, and waits for the next ones while it is at it: written at once
they would be several writes, at the time at which everybody waits. What waits here is lost in a crash, which costs as
much as it took to fetch it, and never more than MOST_BYTES, or what came in MOST_SECONDS.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from netoverlay.backend_api.types import LayerPath
from netoverlay.cache.background import Background

QUIET_SECONDS: Final = 0.5
"""After this long without another content all are written."""
MOST_SECONDS: Final = 5.0
"""For so long a content waits at most."""
MOST_BYTES: Final = 8 << 20
TOGETHER_BYTES: Final = 1 << 20
"""Of one directory. From so many on they are written at once."""

_Contents: TypeAlias = tuple[LayerPath, Mapping[bytes, bytes]]


@dataclass(slots=True)
class _Waiting:
    """Those of one directory."""

    since: float
    contents: dict[bytes, bytes] = field(default_factory=dict)
    size: int = 0

    def add(self, contents: Mapping[bytes, bytes]) -> int:
        """How many bytes more wait now."""
        more = sum(len(content) - len(self.contents.get(member, b"")) for member, content in contents.items())
        self.contents.update(contents)
        self.size += more
        return more


class WriteBehind:
    """Calls `write` with a directory and the contents of files in it, by what they are called; thread-safe."""

    def __init__(self, write: Callable[[LayerPath, Mapping[bytes, bytes]], object]) -> None:
        self._write = write
        self._changed = threading.Condition()
        self._waiting: OrderedDict[LayerPath, _Waiting] = OrderedDict()
        self._size = 0
        self._last = 0.0
        """When something came, on the monotonic clock."""
        self._is_closed = False
        self._is_running = False
        self._background = Background("write-behind", 1)

    def put(self, directory: LayerPath, contents: Mapping[bytes, bytes]) -> None:
        """Have them written, sooner or later. If too many wait, the calling thread writes the oldest."""
        now = time.monotonic()
        with self._changed:
            waiting = self._waiting.setdefault(directory, _Waiting(now))
            self._size += waiting.add(contents)
            self._last = now
            due = [self._take(directory)] if waiting.size >= TOGETHER_BYTES else []
            while self._size > MOST_BYTES:
                due.append(self._take(next(iter(self._waiting))))
            if not self._is_running:
                self._is_running = True
                self._background.start(self._run)
        for each in due:
            self._write(*each)

    def withdraw(self, directory: LayerPath, member: bytes) -> None:
        """That content need not be written: whoever calls does."""
        with self._changed:
            waiting = self._waiting.get(directory)
            if waiting is not None and (content := waiting.contents.pop(member, None)) is not None:
                waiting.size -= len(content)
                self._size -= len(content)
                if not waiting.contents:
                    del self._waiting[directory]

    def close(self) -> None:
        """Write all. Nothing is put any more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._background.stop()
        self._background.join()
        self._run()

    def _run(self) -> None:
        while (due := self._due()) is not None:
            self._write(*due)

    def _due(self) -> _Contents | None:
        """Wait for what has to be written next; None when nothing waits for that any more."""
        with self._changed:
            while self._waiting:
                oldest = next(iter(self._waiting))
                left = min(self._waiting[oldest].since + MOST_SECONDS, self._last + QUIET_SECONDS) - time.monotonic()
                if left <= 0 or self._is_closed:
                    return self._take(oldest)
                self._changed.wait(left)
            self._is_running = False
            return None

    def _take(self, directory: LayerPath) -> _Contents:
        waiting = self._waiting.pop(directory)
        self._size -= waiting.size
        return directory, waiting.contents
