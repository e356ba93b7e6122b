"""Uncontended pairs of lock and unlock a second, on mounts and in the directory itself: python -m bench.locks

    python -m bench.locks [--count N] [--rounds N]

One program locks a file and gives it up again, by fcntl(2) a range and by flock(2) the whole, in each place in turn:
a native directory, a mount of which the table alone keeps the locks (`private = true`), and one whose upper others may
use, so that the local file is locked as well.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.mounted.mounting import OverlayMount, layer_table


def fcntl_pair(fd: int) -> None:
    fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 5)
    fcntl.lockf(fd, fcntl.LOCK_UN, 10, 5)


def flock_pair(fd: int) -> None:
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(fd, fcntl.LOCK_UN)


PAIRS: dict[str, Callable[[int], None]] = {"fcntl": fcntl_pair, "flock": flock_pair}


def pairs_a_second(call: Callable[[int], None], fd: int, count: int) -> float:
    begun = time.perf_counter()
    for _ in range(count):
        call(fd)
    return count / (time.perf_counter() - begun)


def places(directory: Path, stack: ExitStack) -> dict[str, Path]:
    found = {"native": directory / "native"}
    found["native"].mkdir()
    for name, keys in {"table alone": ["private = true"], "shared local upper": []}.items():
        base = directory / name.replace(" ", "-")
        (base / "base").mkdir(parents=True)
        url = f'url = "{base}/upper"'
        mount = OverlayMount(base, layer_table(str(base / "base")), upper_keys=[url, *keys])
        found[name] = stack.enter_context(mount).path
    return found


def measure(count: int, rounds: int) -> None:
    table = Table("place", *(f"{name}, pairs/s" for name in PAIRS), title=f"medians of {rounds} rounds of {count}")
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        files = {}
        for place, path in places(directory, stack).items():
            files[place] = os.open(path / "file", os.O_RDWR | os.O_CREAT, 0o600)
            stack.callback(os.close, files[place])
        speeds: dict[tuple[str, str], list[float]] = {}
        for _ in range(rounds):
            for place, fd in files.items():
                for name, call in PAIRS.items():
                    speeds.setdefault((place, name), []).append(pairs_a_second(call, fd, count))
    for place in files:
        table.add_row(place, *(f"{statistics.median(speeds[place, name]):,.0f}" for name in PAIRS))
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    measure(options.count, options.rounds)


if __name__ == "__main__":
    main()
