"""What a daemon holds while it works, and whether that grows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_KIB = 1024
WARM_UP_OPERATIONS = 200_000
"""Until then caches fill, and the allocator gets what it needs."""
_FEWEST_SAMPLES = 20
"""After the warm-up; below that nothing is said: what comes and goes looks the same."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What a process holds, after so many operations."""

    operations: int
    resident: int
    """KiB of memory, of the process alone: without the files that it has mapped."""
    descriptors: int
    threads: int

    @classmethod
    def of(cls, pid: int, operations: int) -> Self:
        """Now. FileNotFoundError if the process has ended."""
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        values = dict(line.split(":", 1) for line in lines)
        descriptors = len(os.listdir(f"/proc/{pid}/fd"))
        return cls(operations, int(values["RssAnon"].split()[0]), descriptors, int(values["Threads"]))

    def __str__(self) -> str:
        return (
            f"{self.operations} operations: {self.resident / _KIB:.1f} MiB, "
            f"{self.descriptors} descriptors, {self.threads} threads"
        )


@dataclass(frozen=True, slots=True)
class _Held:
    """What must not grow."""

    field: str
    name: str
    noise: float
    """What comes and goes with what the programs do just now."""
    share: float
    """Of what there is, that may come and go with it."""


_HELD = (
    _Held("resident", "KiB of memory", 1024.0, 0.02),
    _Held("descriptors", "descriptors", 8.0, 0.0),
    _Held("threads", "threads", 4.0, 0.0),
)


@dataclass(frozen=True, slots=True)
class Growth:
    """How one thing that is held has changed after the warm-up."""

    name: str
    first_maximum: float
    """In the first half of what is judged."""
    last_maximum: float
    """In the second half of it."""
    fitted: float
    """By the line of least squares, from the first sample to the last."""
    allowed: float

    @property
    def is_flat(self) -> bool:
        return self.fitted <= self.allowed and self.last_maximum - self.first_maximum <= self.allowed

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.first_maximum:.0f} at most, and later {self.last_maximum:.0f}; "
            f"{self.fitted:+.0f} by least squares, {self.allowed:.0f} allowed: "
            f"{'flat' if self.is_flat else 'GROWS'}"
        )


def growths(samples: Sequence[Sample]) -> list[Growth]:
    """Of all that is held, in the second half, and after the warm-up; nothing if there are too few samples then."""
    after = [sample for sample in samples[len(samples) // 2 :] if sample.operations > WARM_UP_OPERATIONS]
    if len(after) < _FEWEST_SAMPLES:
        return []
    return [_growth(held, after) for held in _HELD]


def _growth(held: _Held, samples: Sequence[Sample]) -> Growth:
    values = [float(getattr(sample, held.field)) for sample in samples]
    middle = len(values) // 2
    slope = _slope([float(sample.operations) for sample in samples], values)
    allowed = held.noise + held.share * max(values[:middle])
    span = samples[-1].operations - samples[0].operations
    return Growth(held.name, max(values[:middle]), max(values[middle:]), slope * span, allowed)


def _slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Of the line of least squares."""
    x_mean, y_mean = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - x_mean) ** 2 for x in xs)
    return sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True)) / spread if spread else 0.0
