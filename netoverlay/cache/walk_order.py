"""Directories in the order in which a walk in depth comes to them, from where it is."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable

from netoverlay.backend_api.types import LayerPath


class WalkOrder:
    """What is to be fetched ahead of a walk: at most `most` directories. Whoever uses it holds a lock of his own.

    It comes in from several fetches at a time, in any order. Names that are beside each other are met in their order.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._keys: list[str] = []
        """Sorted."""
        self._waiting: set[str] = set()
        """The same."""
        self._reached = ""

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, paths: Iterable[LayerPath]) -> None:
        """What is already there stays once. If there are too many, those go that come last."""
        fresh = {_key(path) for path in paths}.difference(self._waiting)
        self._keys += fresh
        self._keys.sort()
        self._waiting |= fresh
        if len(self._keys) > self._most:
            after = bisect_right(self._keys, self._reached)
            self._keys = sorted((self._keys[after:] + self._keys[:after])[: self._most])
            self._waiting = set(self._keys)

    def reached(self, path: LayerPath) -> None:
        """The walk has come to `path`, which is not to be fetched any more."""
        self._reached = _key(path)
        if self._reached in self._waiting:
            del self._keys[bisect_left(self._keys, self._reached)]
            self._waiting.remove(self._reached)

    def take(self, count: int) -> list[LayerPath]:
        """What comes next, up to `count`; what the walk has passed by only after all of that."""
        start = bisect_right(self._keys, self._reached)
        found = self._keys[start : start + count]
        del self._keys[start : start + count]
        passed_by = self._keys[: count - len(found)]
        del self._keys[: len(passed_by)]
        found += passed_by
        self._waiting.difference_update(found)
        return [key.replace("\0", "/") for key in found]

    def clear(self) -> None:
        """Nothing is to be fetched."""
        self._keys.clear()
        self._waiting.clear()


def is_hidden(path: LayerPath) -> bool:
    """Whether it is what most walks leave out, or below it."""
    return "/." in f"/{path}"


def _key(path: LayerPath) -> str:
    """Such that all that is below a directory comes before what is beside it."""
    return path.replace("/", "\0")
