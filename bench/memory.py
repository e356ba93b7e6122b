"""The memory of a daemon, idle and after a walk of many files: python -m bench.memory

    python -m bench.memory [--files N] [--walks N] [--watched N] [--transport local|sftp]... [--directory DIRECTORY]

Makes a tree of empty files, 1,000 a directory, and mounts it: as a local lower, and from an sshd of this machine. Each
mount is looked at before anything is asked of it, and after each `find -printf "%s %p\\n"`, of which the kernel makes
READDIRPLUS. Last, some files are watched (inotify(7)), so that the kernel can let none of them go: what an inode takes
can be told then only, for elsewhere the kernel forgets when it likes. RSS, PSS and USS (what would be free without it)
are those of the daemon alone; the largest RSS is sampled meanwhile.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from tests.mounted.mounting import COMMAND, OverlayMount, layer_table, run, sftp_login
from tests.servers.sshd import SshServer

A_DIRECTORY = 1000
SAMPLE_SECONDS = 0.05
WATCHED = "watched"
IN_DELETE_SELF = 0x400
MEBIBYTE = 1 << 20


class Memory(NamedTuple):
    """Of one process, in bytes."""

    rss: int
    pss: int
    uss: int

    @classmethod
    def of(cls, pid: int) -> Memory:
        found: dict[str, int] = {}
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
            key, number, _ = line.split()
            found[key.rstrip(":")] = int(number) << 10
        return cls(found["Rss"], found["Pss"], found["Private_Clean"] + found["Private_Dirty"])


class Row(NamedTuple):
    """What was measured after one step."""

    step: str
    seconds: float
    cpu_seconds: float
    """Of the daemon."""
    inodes: int
    """That the daemon keeps."""
    memory: Memory
    largest_rss: int

    def cells(self, idle: Memory) -> list[str]:
        grown = self.memory.rss - idle.rss
        return [
            self.step,
            f"{self.seconds:.1f}",
            f"{self.cpu_seconds:.1f}",
            f"{self.inodes:,}",
            *(f"{size / MEBIBYTE:.1f}" for size in (*self.memory, self.largest_rss)),
            f"{grown / self.inodes:,.0f}" if self.step == WATCHED else "",
        ]


class Watcher:
    """Watches files, so that the kernel keeps their inodes, and with them the daemon."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._inotify = self._libc.inotify_init1(0)

    def watch(self, root: Path, count: int) -> None:
        for directory in sorted(root.iterdir()):
            for entry in itertools.islice(os.scandir(directory), count):
                if self._libc.inotify_add_watch(self._inotify, os.fsencode(entry.path), IN_DELETE_SELF) < 0:
                    raise OSError(ctypes.get_errno(), "inotify_add_watch", entry.path)
                count -= 1

    def close(self) -> None:
        os.close(self._inotify)


def make_tree(root: Path, files: int) -> None:
    for number in range(files):
        directory = root / f"directory-{number // A_DIRECTORY:04}"
        if number % A_DIRECTORY == 0:
            directory.mkdir(parents=True)
        os.close(os.open(f"{directory}/file-{number:07}.txt", os.O_CREAT | os.O_WRONLY, 0o644))


def walk(path: Path) -> None:
    subprocess.run(["find", str(path), "-printf", "%s %p\n"], check=True, stdout=subprocess.DEVNULL)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def known_inodes(mount: OverlayMount) -> int:
    told = json.loads(run(*COMMAND, "status", "--json", mount.path))
    return int(told["mounts"][0]["status"]["inodes"])


@contextmanager
def largest_rss(pid: int) -> Iterator[Callable[[], int]]:
    """Samples the memory of a process, and tells the largest so far."""
    largest = 0
    done = threading.Event()

    def sample() -> None:
        nonlocal largest
        while not done.wait(SAMPLE_SECONDS):
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            largest = max(largest, pages * os.sysconf("SC_PAGE_SIZE"))

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield lambda: largest
    finally:
        done.set()
        sampler.join()


def step(mount: OverlayMount, daemon: int, name: str, action: Callable[[], object]) -> Row:
    begun, cpu_before = time.perf_counter(), cpu_seconds(daemon)
    with largest_rss(daemon) as largest:
        action()
        seconds = time.perf_counter() - begun
        cpu = cpu_seconds(daemon) - cpu_before
        memory = Memory.of(daemon)
    return Row(name, seconds, cpu, known_inodes(mount), memory, max(largest(), memory.rss))


def measure(mount: OverlayMount, walks: int, watched: int) -> Iterator[list[str]]:
    watcher = Watcher()
    with mount:
        daemon = mount.daemon()
        idle = step(mount, daemon, "idle", lambda: None)
        yield idle.cells(idle.memory)
        actions = [(f"walk {number + 1}", lambda: walk(mount.path)) for number in range(walks)]
        if watched:
            actions.append((WATCHED, lambda: watcher.watch(mount.path, watched)))
        for name, action in actions:
            yield step(mount, daemon, name, action).cells(idle.memory)
        watcher.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--walks", type=int, default=2)
    parser.add_argument("--watched", type=int, default=100_000)
    parser.add_argument("--transport", action="append", choices=["local", "sftp"])
    parser.add_argument("--directory", default="/dev/shm")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as made, SshServer(Path(made) / "sshd") as server:
        directory = Path(made)
        tree = directory / "tree"
        make_tree(tree, options.files)
        lowers: dict[str, Callable[[], str]] = {
            "local": lambda: layer_table(str(tree)),
            "sftp": lambda: layer_table(server.url(tree), sftp_login(server)),
        }
        for transport in options.transport or lowers:
            mount = OverlayMount(directory / transport, lowers[transport]())
            table = Table(title=f"{transport}, {options.files:,} files; MiB")
            for heading in ("after", "s", "CPU s", "inodes", "RSS", "PSS", "USS", "largest RSS", "bytes an inode"):
                table.add_column(heading, justify="left" if heading == "after" else "right")
            for cells in measure(mount, options.walks, min(options.watched, options.files)):
                table.add_row(*cells)
            Console().print(table)


if __name__ == "__main__":
    main()
