"""Small contents on their way to disk: those of a directory are written together, once a walk has let go of them.

A walk brings the files of a directory in several calls, and waits for the next ones while it is at it: written at once
they would be several writes, at the time at which everybody waits. What waits here is lost in a crash, which costs as
much as it took to fetch it, and never more than MOST_BYTES, or what came in MOST_SECONDS. What cannot be written is
lost, too, but nothing else with it.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import ExitStack
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
"""Of one directory. From so many on they are not waited with."""
ENTRY_BYTES: Final = 256
"""That a content takes in memory beside itself."""

_Contents: TypeAlias = tuple[LayerPath, Mapping[bytes, bytes]]


@dataclass(slots=True)
class _Waiting:
    """Those of one directory."""

    since: float
    """On the monotonic clock; long ago if they are not waited with."""
    contents: dict[bytes, bytes] = field(default_factory=dict)
    size: int = 0
    """Bytes of memory."""

    def add(self, contents: Mapping[bytes, bytes]) -> int:
        """How many bytes more wait now."""
        before = self.size
        for member, content in contents.items():
            self.remove(member)
            self.contents[member] = content
            self.size += ENTRY_BYTES + len(content)
        return self.size - before

    def remove(self, member: bytes) -> int:
        """How many bytes fewer wait now."""
        content = self.contents.pop(member, None)
        fewer = 0 if content is None else ENTRY_BYTES + len(content)
        self.size -= fewer
        return fewer


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
        """Have them written, sooner or later; at once after close(). If too many wait, the calling thread writes the
        oldest."""
        with self._changed:
            is_behind = not self._is_closed
            if is_behind:
                self._add(directory, contents)
        if not is_behind:
            self._write(directory, contents)
            return
        try:
            while (excess := self._excess()) is not None:
                self._write(*excess)
        finally:
            self._start()

    def withdraw(self, directory: LayerPath, member: bytes) -> None:
        """That content need not be written: whoever calls does."""
        with self._changed:
            waiting = self._waiting.get(directory)
            if waiting is not None:
                self._size -= waiting.remove(member)
                if not waiting.contents:
                    del self._waiting[directory]

    def close(self) -> None:
        """Write all."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._background.stop()
        self._background.join()
        with ExitStack() as each_whatever_becomes_of_another, self._changed:
            for directory in reversed(list(self._waiting)):
                each_whatever_becomes_of_another.callback(self._write, *self._take(directory))

    def _add(self, directory: LayerPath, contents: Mapping[bytes, bytes]) -> None:
        self._last = time.monotonic()
        waiting = self._waiting.setdefault(directory, _Waiting(self._last))
        self._size += waiting.add(contents)
        if waiting.size >= TOGETHER_BYTES:
            waiting.since = -math.inf
            self._waiting.move_to_end(directory, last=False)
            self._changed.notify()

    def _excess(self) -> _Contents | None:
        """The oldest, if too many wait."""
        with self._changed:
            return self._take(next(iter(self._waiting))) if self._size > MOST_BYTES else None

    def _start(self) -> None:
        """Have a thread at what waits."""
        with self._changed:
            if self._waiting and not self._is_running:
                self._background.start(self._run)
                self._is_running = True

    def _run(self) -> None:
        try:
            while (due := self._due()) is not None:
                self._write(*due)
        except BaseException:
            with self._changed:
                self._is_running = False
            self._start()
            raise

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
