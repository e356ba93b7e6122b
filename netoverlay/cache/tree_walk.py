"""A walk through a tree of directories with few files: each file that is opened comes next to the one before.

Each of such directories is over before a second file that has to be waited for would show that it is read through. Some
walk in the order of the names in a directory, some go through its files before its directories.
"""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple, TypeAlias

from cachetools import LRUCache

from netoverlay.backend_api.types import DirEntry, FileType, LayerPath, join_path, split_path

STEPS: Final = 2
"""From one directory to another, and no other ones in between, from which on it is a walk."""
_MOST_EMPTY: Final = 64
"""Empty directories beside each other that a step may pass by."""
_MOST_NAMES: Final = 50_000
"""That are kept sorted, of several directories; one that has as many by itself is left out."""

_Order: TypeAlias = Callable[["_Names"], tuple[list[str], ...]]


class _Names(NamedTuple):
    """What is in a directory, each part by name."""

    files: list[str]
    directories: list[str]
    both: list[str]


class TreeWalk:
    """What was opened last, and which part of the tree a walk is in. Whoever uses it holds a lock of his own."""

    def __init__(self, known: Callable[[LayerPath], Sequence[DirEntry] | None]) -> None:
        """`known(path)`: the entries of a directory, by name; None if the layer would have to be asked."""
        self._known = known
        self._names: LRUCache[LayerPath, _Names] = LRUCache(_MOST_NAMES, getsizeof=lambda names: len(names.both) + 1)
        """They may be out of date: all that is built on them is a guess."""
        self._last: LayerPath = ""
        self._before: LayerPath = ""
        self._steps = 0
        self._scope: LayerPath | None = None
        self._scope_start = ""

    def opened(self, path: LayerPath) -> None:
        """The file `path` is opened."""
        self._before, self._last = self._last, path

    def goes_on(self) -> bool:
        """Somebody has to wait for what was opened last: whether that is one more step of a walk."""
        before, now = self._before, self._last
        if split_path(before)[0] == split_path(now)[0]:
            return False
        self._steps = self._steps + 1 if any(self._is_next(before, now, order) for order in _ORDERS) else 0
        return self._steps >= STEPS

    def begins(self) -> None:
        """What was opened last is where another walk begins."""
        self._see(split_path(self._last)[0])

    def widens(self) -> bool:
        """What was opened last is of the walk: whether it was not seen there before."""
        if self._scope is not None and self._last.startswith(self._scope_start):
            return False
        directory = split_path(self._last)[0]
        self._see(directory if self._scope is None else _common(self._scope, directory))
        return True

    def is_within(self, directory: LayerPath) -> bool:
        """Whether the walk was seen in several places in or below the directory, so that it may be one of all of it."""
        return self._scope is not None and f"{directory}/".startswith(self._scope_start)

    def _see(self, scope: LayerPath) -> None:
        self._scope = scope
        self._scope_start = f"{scope}/" if scope else ""

    def _is_next(self, before: LayerPath, now: LayerPath, order: _Order) -> bool:
        """Whether a walk comes to the file `now` after the file `before`, with no other one in between."""
        common = _common(split_path(before)[0], split_path(now)[0])
        return (
            self._is_nothing_between(common, _below(common, before), _below(common, now), order)
            and all(self._is_nothing_between(above, name, None, order) for above, name in _way(common, before))
            and all(self._is_nothing_between(above, None, name, order) for above, name in _way(common, now))
        )

    def _is_nothing_between(self, directory: LayerPath, first: str | None, last: str | None, order: _Order) -> bool:
        """Between two entries of a directory, None for its begin or its end, there is no file to be walked to."""
        names = self._names_of(directory)
        if names is None:
            return False
        between: list[str] = []
        for part in order(names):
            start = 0
            if first is not None:
                start = bisect_right(part, first)
                if part[start - 1 : start] != [first]:
                    continue
                first = None
            at = len(part) if last is None else bisect_left(part, last)
            is_end = part[at : at + 1] == [last]
            end = at if is_end else len(part)
            between += part[start : min(end, start + _MOST_EMPTY)]
            if end < start or len(between) >= _MOST_EMPTY:
                return False
            if is_end:
                last = None
                break
        return first is last is None and all(self._is_empty(join_path(directory, name)) for name in between)

    def _names_of(self, directory: LayerPath) -> _Names | None:
        names: _Names | None = self._names.get(directory)
        if names is not None:
            return names
        known = self._known(directory)
        if known is None:
            return None
        files = [name for name, stat in known if stat.type is FileType.REGULAR]
        directories = [name for name, stat in known if stat.type is FileType.DIRECTORY]
        names = _Names(files, directories, sorted(files + directories))
        if len(known) >= _MOST_NAMES:
            names = _Names([], [], [])  # what is read of so large a directory shows by itself
        self._names[directory] = names
        return names

    def _is_empty(self, path: LayerPath) -> bool:
        """Whether it is a directory without anything to be walked to."""
        names = self._names_of(path)
        return names is not None and not names.both


_ORDERS: Final[tuple[_Order, ...]] = (
    lambda names: (names.both,),
    lambda names: (names.files, names.directories),
)


def _way(above: LayerPath, path: LayerPath) -> Iterator[tuple[LayerPath, str]]:
    """The directories on the way to `path`, beginning below a name of `above`, each with the next name on it."""
    while (parts := split_path(path))[0] != above:
        yield parts
        path = parts[0]


def _common(one: LayerPath, other: LayerPath) -> LayerPath:
    """The directory that both are in or below."""
    return os.path.commonpath((f"/{one}", f"/{other}"))[1:]


def _below(directory: LayerPath, path: LayerPath) -> str:
    """The first name of `path` below the directory; "" for itself."""
    return path[len(directory) + 1 if directory else 0 :].partition("/")[0]
