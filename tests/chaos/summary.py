"""What a part did, and what it found."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import Self


@dataclass(frozen=True, slots=True)
class Summary:
    """Counts of what was done to a mount, and the differences: empty if all is as it may be."""

    connections_cut: int = 0
    servers_killed: int = 0
    daemons_killed: int = 0
    bytes_compared: int = 0
    calls: int = 0
    """That were timed."""
    calls_over_deadline: int = 0
    differences: tuple[str, ...] = ()
    details: Counter[str] = field(default_factory=Counter)
    """Further counts, by what they count."""

    def __add__(self, other: Self) -> Summary:
        return Summary(
            self.connections_cut + other.connections_cut,
            self.servers_killed + other.servers_killed,
            self.daemons_killed + other.daemons_killed,
            self.bytes_compared + other.bytes_compared,
            self.calls + other.calls,
            self.calls_over_deadline + other.calls_over_deadline,
            self.differences + other.differences,
            self.details + other.details,
        )

    def text(self) -> str:
        """Some lines for people."""
        lines = [f"{what}: {count}" for what, count in sorted(self.details.items())]
        lines += [
            f"connections cut: {self.connections_cut}",
            f"servers killed: {self.servers_killed}",
            f"daemons killed: {self.daemons_killed}",
            f"calls timed: {self.calls}",
            f"calls over the deadline: {self.calls_over_deadline}",
            f"bytes compared: {self.bytes_compared}",
            f"differences found: {len(self.differences)}",
        ]
        return "\n".join(lines)


def say(text: str) -> None:
    """Tell who waits for it."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
