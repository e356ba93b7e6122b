"""Keeps a fault that comes with every request from filling the log: it is told, and then counted."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final, TypeAlias

MOST: Final = 10
SECONDS: Final = 60.0
_Place: TypeAlias = tuple[str, int]


class _Told:
    """What one place in the code has told since a moment."""

    __slots__ = ("began_at", "left_out", "texts")

    def __init__(self, began_at: float) -> None:
        self.began_at = began_at
        self.texts: set[str] = set()
        self.left_out = 0


class FloodFilter(logging.Filter):
    """Of the warnings and errors that one place in the code logs, lets through at most MOST in SECONDS, and each once.

    The first one after that says how many were left out.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._lock = threading.Lock()
        self._places: dict[_Place, _Told] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        text, left_out = record.getMessage(), 0
        with self._lock:
            place, now = (record.pathname, record.lineno), self._clock()
            told = self._places.get(place)
            if told is None or now - told.began_at >= SECONDS:
                left_out = told.left_out if told else 0
                told = self._places[place] = _Told(now)
            if text in told.texts or len(told.texts) == MOST:
                told.left_out += 1
                return False
            told.texts.add(text)
        if left_out:
            record.msg, record.args = f"{text} (and {left_out} more like those before, which were left out)", ()
        return True
