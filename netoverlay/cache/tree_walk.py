"""A walk through a tree of directories with few files: each file that is opened comes next to the one before.

Each of such directories is over before a second file that has to be waited for would show that it is read through. Some
walk in the order of the names in a directory, some go through its files before its directories.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeAlias

from netoverlay.backend_api.types import DirEntry, FileType, LayerPath, join_path, split_path

STEPS: Final = 2
"""From one directory to another, and no other ones in between, from which on it is a walk."""
_WALKED: Final = frozenset({FileType.REGULAR, FileType.DIRECTORY})

_Order: TypeAlias = Callable[[DirEntry], tuple[bool, str]]


class TreeWalk:
    """What was opened last, and which part of the tree a walk is in. Whoever uses it holds a lock of his own."""

    def __init__(self, known: Callable[[LayerPath], Sequence[DirEntry] | None]) -> None:
        """`known(path)`: the entries of a directory, by name; None if the layer would have to be asked."""
        self._known = known
        self._last: LayerPath = ""
        self._before: LayerPath = ""
        self._steps = 0
        self._scope: LayerPath | None = None
        self._scope_start = ""

    def opened(self, path: LayerPath) -> bool:
        """The file `path` is opened: whether that is not where the walk was seen before."""
        self._before, self._last = self._last, path
        if self._scope is not None and path.startswith(self._scope_start):
            return False
        self._widen(split_path(path)[0])
        return True

    def goes_on(self) -> bool:
        """Somebody has to wait for what was opened last: whether that is one more step of a walk."""
        before, now = self._before, self._last
        if split_path(before)[0] == split_path(now)[0]:
            return False
        self._steps = self._steps + 1 if any(self._is_next(before, now, order) for order in _ORDERS) else 0
        return self._steps >= STEPS

    def begins(self) -> None:
        """What was opened last is where another walk begins."""
        self._scope = None
        self._widen(split_path(self._last)[0])

    def is_within(self, directory: LayerPath) -> bool:
        """Whether files were opened in several places in or below the directory, so that all of it may be walked."""
        return self._scope is not None and f"{directory}/".startswith(self._scope_start)

    def _widen(self, directory: LayerPath) -> None:
        self._scope = directory if self._scope is None else _common(self._scope, directory)
        self._scope_start = f"{self._scope}/" if self._scope else ""

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
        entries = sorted((entry for entry in self._known(directory) or () if entry.stat.type in _WALKED), key=order)
        names = [entry.name for entry in entries]
        if any(name is not None and name not in names for name in (first, last)):
            return False
        start = 0 if first is None else names.index(first) + 1
        end = len(names) if last is None else names.index(last)
        return start <= end and all(self._is_empty(join_path(directory, name)) for name in names[start:end])

    def _is_empty(self, path: LayerPath) -> bool:
        """Whether it is a directory without anything to be walked to."""
        known = self._known(path)
        return known is not None and not any(entry.stat.type in _WALKED for entry in known)


def _by_name(entry: DirEntry) -> tuple[bool, str]:
    return False, entry.name


def _files_first(entry: DirEntry) -> tuple[bool, str]:
    return entry.stat.type is FileType.DIRECTORY, entry.name


_ORDERS: Final = (_by_name, _files_first)


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
