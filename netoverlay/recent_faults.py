"""The faults that the log has told lately, for `netoverlay status`."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

MOST: Final = 10
_LONGEST: Final = 1000


@dataclass(frozen=True, slots=True)
class Fault:
    """What one place in the code has logged, at level WARNING or above."""

    at: float
    """The last time, in seconds since 1970."""
    count: int
    level: str
    text: str
    """The last one."""


class RecentFaults(logging.Handler):
    """Keeps one fault of each place that logs them, and of MOST places at most: the latest."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._faults: dict[tuple[str, int], Fault] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Called by logging, under this handler's lock."""
        place = (record.pathname, record.lineno)
        before = self._faults.pop(place, None)
        text = record.getMessage()[:_LONGEST]
        if len(self._faults) == MOST:
            del self._faults[next(iter(self._faults))]
        count = 1 if before is None else before.count + 1
        self._faults[place] = Fault(record.created, count, record.levelname.lower(), text)

    def told(self) -> tuple[Fault, ...]:
        """The latest last."""
        self.acquire()
        try:
            return tuple(self._faults.values())
        finally:
            self.release()


RECENT_FAULTS: Final = RecentFaults()
"""Of this process, once logs.configure() has been called."""
