"""Small contents in memory, the least recently used of which go first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

_ENTRY_BYTES = 256
"""What an entry takes beside its content."""


class RecentContents(Generic[K]):
    """At most about `limit` bytes; thread-safe."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._contents: OrderedDict[K, bytes] = OrderedDict()
        self._bytes = 0

    def __contains__(self, key: K) -> bool:
        return key in self._contents

    def get(self, key: K) -> bytes | None:
        """The content, which is used by that."""
        with self._lock:
            content = self._contents.get(key)
            if content is not None:
                self._contents.move_to_end(key)
            return content

    def take(self, key: K) -> bytes | None:
        """The content, which is not kept any longer."""
        with self._lock:
            content = self._contents.pop(key, None)
            if content is not None:
                self._bytes -= len(content) + _ENTRY_BYTES
            return content

    def put(self, key: K, content: bytes) -> None:
        """Keep a content."""
        with self._lock:
            replaced = self._contents.pop(key, None)
            if replaced is not None:
                self._bytes -= len(replaced) + _ENTRY_BYTES
            self._contents[key] = content
            self._bytes += len(content) + _ENTRY_BYTES
            while self._bytes > self._limit and len(self._contents) > 1:
                _, oldest = self._contents.popitem(last=False)
                self._bytes -= len(oldest) + _ENTRY_BYTES
