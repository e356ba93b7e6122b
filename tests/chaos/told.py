"""What programs are told by a mount whose server comes and goes, and what of it may be."""

from __future__ import annotations

import errno
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

DEADLINE = 10.0
"""Seconds, of the layers. Every fault is shorter."""
LATE = DEADLINE + 1.0
"""No call takes longer."""
_DOUBTFUL = ("fsync", "close")
"""After a cut these may fail once, with EIO: the server may have lost what was written before (docs/decisions.md)."""
_MESSAGES = {
    "Input/output error": errno.EIO,
    "Stale file handle": errno.ESTALE,
    "Connection timed out": errno.ETIMEDOUT,
    "Transport endpoint is not connected": errno.ENOTCONN,
    "Software caused connection abort": errno.ECONNABORTED,
    "Interrupted system call": errno.EINTR,
    "Bad file descriptor": errno.EBADF,
    "No locks available": errno.ENOLCK,
}
_SAID = re.compile("|".join(map(re.escape, _MESSAGES)))


def may_be(call: str, code: int) -> bool:
    """Whether a call may fail so where no fault is longer than the deadline."""
    return code == errno.EIO and any(word in call for word in _DOUBTFUL)


def errors_in(said: str) -> Iterator[tuple[str, int]]:
    """Which errors a program complains of: its sentence, and the errno."""
    for line in said.splitlines():
        if found := _SAID.search(line):
            yield line, _MESSAGES[found[0]]


@dataclass(slots=True)
class Told:
    """What a program was told."""

    calls: int = 0
    longest: float = 0.0
    """Seconds."""
    late: list[str] = field(default_factory=list)
    """Calls that took too long."""
    errors: Counter[tuple[str, int]] = field(default_factory=Counter)
    """By call and errno."""
    bytes_compared: int = 0
    differences: list[str] = field(default_factory=list)

    def __iadd__(self, other: Self) -> Told:
        return Told(
            self.calls + other.calls,
            max(self.longest, other.longest),
            self.late + other.late,
            self.errors + other.errors,
            self.bytes_compared + other.bytes_compared,
            self.differences + other.differences,
        )

    def took(self, call: str, seconds: float) -> None:
        """A call has returned, or has not for so long."""
        self.calls += 1
        self.longest = max(self.longest, seconds)
        if seconds > LATE:
            self.late.append(f"{call}: {seconds:.1f} s")

    def failed(self, call: str, code: int) -> None:
        """A call has failed."""
        self.errors[call, code] += 1
