"""Worker processes on a mount, followed while they work, and killed mounts under them."""

from __future__ import annotations

import os
import random
import selectors
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from errno import ECONNABORTED, EIO, ENOTCONN
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Self

from tests.chaos.model import Region
from tests.chaos.processes import context
from tests.chaos.steps import RENAMES, Step
from tests.chaos.worker import work

_DEAD = (ENOTCONN, ECONNABORTED)
"""What the kernel says of a mount whose daemon is gone."""
_DYING = EIO
"""What it says of a request that could not be copied to or from a daemon that was being killed (fs/fuse/dev.c,
fuse_dev_do_read, fuse_dev_do_write)."""
_LONGEST_SECONDS = 1.2
"""Of the work between two kills."""
_AT_A_CALL = 0.8
"""How many of the kills come at a copy-up or a rename, and not at any time."""
_LATEST_CALL = 25
_DELAYS = (0.0, 0.0005, 0.002, 0.008, 0.03)
"""The longest time between the beginning of a call and the kill, in seconds."""
_WORKER_SECONDS = 30.0
_READ_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Failure:
    """A call that failed, and not because the mount was dead; `at`: in nanoseconds, monotonic."""

    step: Step
    code: int
    at: int

    def __str__(self) -> str:
        return f"{self.step} failed: {os.strerror(self.code)}"

    def is_of_the_kill(self, killed_at: int) -> bool:
        """Whether the kernel said so of a daemon that was killed at that time, and not the daemon."""
        return self.code == _DYING and self.at >= killed_at


@dataclass(slots=True)
class Work:
    """A worker's process, and how far it is."""

    region: Region
    steps: list[Step]
    process: ForkServerProcess
    told: Connection
    begun: int = 0
    ended: int = 0
    failed: Failure | None = None
    _rest: bytes = b""

    @property
    def in_flight(self) -> Step | None:
        """The call that has not returned."""
        return self.steps[self.ended] if self.begun > self.ended else None

    def take(self, data: bytes) -> list[Step]:
        """Follow what the worker told: the steps that it has begun."""
        begun = []
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            kind, *numbers = line.split()
            step = self.steps[int(numbers[0])]
            if kind == b"b":
                self.begun += 1
                self.region.begin(step)
                begun.append(step)
            elif int(numbers[1]) == 0:
                self.ended += 1
                self.region.end(step)
            elif int(numbers[1]) not in _DEAD:
                self.failed = Failure(step, int(numbers[1]), int(numbers[2]))
        return begun

    def failures(self, killed_at: int) -> list[str]:
        """What failed though the daemon was alive; `killed_at`: as Failure.at."""
        return [] if self.failed is None or self.failed.is_of_the_kill(killed_at) else [str(self.failed)]


@dataclass(frozen=True, slots=True)
class Moment:
    """When to kill: `delay` after the `nth` copy-up or rename has begun; at the latest after so many `seconds`."""

    nth: int | None
    seconds: float
    delay: float

    @classmethod
    def at_random(cls, rng: random.Random) -> Self:
        delay = rng.random() * rng.choice(_DELAYS)
        if rng.random() < _AT_A_CALL:
            return cls(rng.randint(1, _LATEST_CALL), _LONGEST_SECONDS, delay)
        return cls(None, rng.random() * _LONGEST_SECONDS / 2, delay)


@contextmanager
def working(top: Path, regions: Mapping[str, Region], plans: Mapping[str, list[Step]]) -> Iterator[list[Work]]:
    """Workers that begin at once; they have ended afterwards, and all that they told is known."""
    works = [_begun(top, regions[worker], steps) for worker, steps in plans.items()]
    try:
        yield works
        for one in works:
            while data := os.read(one.told.fileno(), _READ_BYTES):
                one.take(data)
            one.process.join(_WORKER_SECONDS)
    finally:
        for one in works:
            one.process.kill()
            one.process.join()
            one.told.close()


def follow_until(works: list[Work], moment: Moment, act: Callable[[], None]) -> int:
    """Follow the workers, and do `act` when the moment has come. Just before that, in nanoseconds, monotonic."""
    give_up_at = time.monotonic() + moment.seconds
    seen = 0
    with selectors.DefaultSelector() as selector:
        for one in works:
            selector.register(one.told, selectors.EVENT_READ, one)
        while selector.get_map() and (left := give_up_at - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                data = os.read(key.fd, _READ_BYTES)
                if not data:
                    selector.unregister(key.fileobj)
                begun = key.data.take(data)
                seen += sum(step.copies_up or step.call in RENAMES for step in begun)
            if moment.nth is not None and seen >= moment.nth:
                break
    time.sleep(moment.delay)
    acted_at = time.monotonic_ns()
    act()
    return acted_at


def _begun(top: Path, region: Region, steps: list[Step]) -> Work:
    told, tells = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(str(top), steps, tells))
    process.start()
    tells.close()
    return Work(region, steps, process, told)
