"""Attributes of files as they are for a program, while something writes to them that is no change for one.

A write moves the times of a file on, and they are set back afterwards. Who looked in between would show, and the kernel
would keep, times that never were.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class SteadyTimes:
    """Of the files of one layer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._moments = 0
        """Odd while they are disturbed."""

    @contextmanager
    def disturbing(self) -> Iterator[None]:
        """Times are moved on inside, and set back before the end."""
        with self._lock:
            self._moments += 1
            try:
                yield
            finally:
                self._moments += 1

    def steady(
        self, look: Callable[_Arguments, _Result], *args: _Arguments.args, **kwargs: _Arguments.kwargs
    ) -> _Result:
        """What `look` returns, as of a moment at which nothing was disturbed. It may be called twice."""
        before = self._moments
        seen = look(*args, **kwargs)
        if before == self._moments and before % 2 == 0:
            return seen
        with self._lock:
            return look(*args, **kwargs)
