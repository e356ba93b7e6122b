"""What the benchmarks of the backends share: contenders, measuring them in turn, tables of medians and ratios."""

from __future__ import annotations

import multiprocessing
import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from rich.table import Table

from netoverlay.backend_api import Access, Backend, Creation
from tests.servers.proxy import Proxy

CALL_BYTES = 32 << 20
STATS = 2000
DEADLINE = 60.0
MEGABYTE = 1_000_000
WHAT = ("read", "write", "stat", "listing")


def elapsed(action: Callable[[], object]) -> float:
    started_at = time.perf_counter()
    action()
    return time.perf_counter() - started_at


@dataclass
class Contender:
    """What can be measured of one program: seconds for each action, None where it has no such thing."""

    name: str
    read: Callable[[Path], float] | None = None
    write: Callable[[Path], float] | None = None
    stat: Callable[[Path], float] | None = None
    listing: Callable[[Path], float] | None = None
    results: dict[str, list[float]] = field(default_factory=dict)

    def median(self, what: str) -> float | None:
        found = self.results.get(what)
        return statistics.median(found) if found else None

    def times_as_fast(self, other: Contender, what: str) -> float | None:
        mine, theirs = self.median(what), other.median(what)
        return theirs / mine if mine and theirs else None


def backend_contender(name: str, backend: Backend, root: Path, size: int, call_bytes: int = CALL_BYTES) -> Contender:
    """`call_bytes` are read or written by one call."""

    def path(target: Path) -> str:
        return str(target.relative_to(root))

    def read(target: Path) -> float:
        buffer = bytearray(call_bytes)

        def work() -> None:
            with backend.open(path(target), Access.READ) as file:
                offset = 0
                while count := file.read_into(offset, buffer):
                    offset += count
                assert offset == size

        return elapsed(work)

    def write(target: Path) -> float:
        data = bytes(call_bytes)

        def work() -> None:
            with backend.open(path(target), Access.WRITE, create=Creation.EXCLUSIVE) as file:
                for offset in range(0, size, call_bytes):
                    file.write_at(offset, data)

        return elapsed(work)

    def stat(target: Path) -> float:
        return elapsed(lambda: [backend.stat(path(target)) for _ in range(STATS)]) / STATS

    def listing(target: Path) -> float:
        return elapsed(lambda: backend.list_dir(path(target)))

    return Contender(name, read, write, stat, listing)


def fill(root: Path, megabytes: int, entries: int) -> Path:
    """`root`/many with empty files to list, and a file of random bytes to read, which is returned."""
    (root / "many").mkdir(parents=True)
    source = root / "source"
    with source.open("wb") as file:
        for _ in range(megabytes):
            file.write(os.urandom(1 << 20))
    for number in range(entries):
        (root / "many" / f"file-{number:06}").touch()
    return source


def measure(contenders: list[Contender], rounds: int, root: Path, source: Path) -> None:
    """Every round measures all contenders in turn. What one writes is removed before the next one comes."""
    target = root / "written"
    for _ in range(rounds):
        for contender in contenders:
            targets = {"read": source, "write": target, "stat": source, "listing": root / "many"}
            for what, subject in targets.items():
                action: Callable[[Path], float] | None = getattr(contender, what)
                if action is not None:
                    contender.results.setdefault(what, []).append(action(subject))
            target.unlink(missing_ok=True)


def table_of(title: str, contenders: list[Contender], size: int, entries: int) -> Table:
    table = Table(title=f"{title}: {size // MEGABYTE} MB, {entries} entries; medians")
    for heading in ("", "read MB/s", "write MB/s", "stat us", "listing with attributes s"):
        table.add_column(heading, justify="left" if not heading else "right")
    for contender in contenders:
        read, write, stat, listing = map(contender.median, WHAT)
        table.add_row(
            contender.name,
            f"{size / MEGABYTE / read:.0f}" if read else "-",
            f"{size / MEGABYTE / write:.0f}" if write else "-",
            f"{stat * 1e6:.0f}" if stat else "-",
            f"{listing:.3f}" if listing else "-",
        )
    return table


def ratios(contenders: list[Contender], ours: int) -> Table:
    """How many times as fast the first `ours` contenders are as each of the others."""
    table = Table(title="times as fast as")
    for heading in ("", "the other", *WHAT):
        table.add_column(heading, justify="left" if heading in ("", "the other") else "right")
    for mine in contenders[:ours]:
        for other in contenders[ours:]:
            values = [mine.times_as_fast(other, what) for what in WHAT]
            table.add_row(mine.name, other.name, *(f"{value:.2f}" if value else "-" for value in values))
    return table


def _forward(port: int, round_trip: float, parent: Connection) -> None:
    """The process of delayed(); it lives until the other end of the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Proxy(port, delay=round_trip / 2) as proxy:
        parent.send(proxy.port)
        parent.poll(None)


@contextmanager
def delayed(port: int, round_trip: float) -> Iterator[int]:
    """A port that leads to `port` over `round_trip` seconds, by a process of its own: no contender pays for it."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_forward, args=(port, round_trip, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        yield int(ours.recv())
    finally:
        ours.close()
        process.join()
