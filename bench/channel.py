"""What an operation costs in the kernel channel: a mount whose operations do nothing, on this machine.

    python bench/channel.py [--count N] [--one-cpu]

With --one-cpu caller and server share a processor, so that waking a sleeping one is not measured.
"""

# ruff: noqa: ARG001, ARG002 - the signatures of operations are given

from __future__ import annotations

import argparse
import errno
import itertools
import os
import signal
import stat
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.table import Table

from netoverlay.backend_api import waiting
from netoverlay.fuse import replies, requests
from netoverlay.fuse.abi import Fopen
from netoverlay.fuse.channel import Channel
from netoverlay.fuse.mount import MountOptions, mount, unmount
from netoverlay.fuse.operations import Operations
from netoverlay.fuse.replies import Entry, FuseAttributes, Reply
from netoverlay.fuse.requests import RequestHeader
from netoverlay.fuse.session import Session

SIZE = 64 << 20
BLOCK = bytes(1 << 20)
DIRECTORY = FuseAttributes(1, 0, 0, 0, 0, 0, 0, 0, 0, stat.S_IFDIR | 0o755, 2, 0, 0, 0, 4096)
FILE = DIRECTORY._replace(ino=2, size=SIZE, mode=stat.S_IFREG | 0o644)
WAITING = 3


def _refuse(self: Operations, request: RequestHeader, body: object) -> Reply:
    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


_Refusing: type[Operations] = type("_Refusing", (Operations,), dict.fromkeys(Operations.__abstractmethods__, _refuse))


class Nothing(_Refusing):
    """A directory of files of zeros; nothing is cached. Asked about the file "waiting", it says that it will wait."""

    def lookup(self, request: RequestHeader, body: requests.NameRequest) -> Reply:
        return replies.entry(Entry(WAITING if body.name == "waiting" else 2, 0, 0, 0, FILE))

    def forget(self, request: RequestHeader, body: requests.ForgetRequest) -> None:
        pass

    def getattr(self, request: RequestHeader, body: requests.GetattrRequest) -> Reply:
        if request.nodeid == WAITING:
            waiting.about_to_wait()
        return replies.attributes(DIRECTORY if request.nodeid == 1 else FILE, 0)

    def open(self, request: RequestHeader, body: requests.OpenRequest) -> Reply:
        return replies.opened(0, Fopen.DIRECT_IO)

    def read(self, request: RequestHeader, body: requests.ReadRequest) -> Reply:
        return BLOCK[: body.size]

    def write(self, request: RequestHeader, body: requests.WriteRequest) -> Reply:
        return replies.written(body.size)

    def flush(self, request: RequestHeader, body: requests.FlushRequest) -> Reply:
        return None

    def release(self, request: RequestHeader, body: requests.ReleaseRequest) -> Reply:
        return None


def serve(mountpoint: str) -> None:
    mounted = mount(mountpoint, MountOptions(source="bench"))
    session = Session(Channel(mounted.device), Nothing())
    session.handshake()
    signal.signal(signal.SIGTERM, lambda *_: session.request_stop())
    print("ready", flush=True)
    session.run(mounted.detach)


@contextmanager
def served() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as mountpoint:
        command = [sys.executable, __file__, "--serve", mountpoint]
        server = subprocess.Popen(command, stdout=subprocess.PIPE)
        try:
            assert server.stdout is not None
            server.stdout.readline()
            yield mountpoint
        finally:
            server.terminate()
            if server.wait(30):
                unmount(mountpoint, lazy=True)


def microseconds(call: Callable[[], object], count: int) -> float:
    """Of the median of five rounds."""
    rounds = []
    for _ in range(5):
        start = time.perf_counter()
        for _ in itertools.repeat(None, count):
            call()
        rounds.append((time.perf_counter() - start) / count * 1e6)
    return statistics.median(rounds)


def measure(count: int) -> None:
    table = Table("operation", "requests", "us each", "MB/s")
    with served() as root:
        name, slow = os.path.join(root, "file"), os.path.join(root, "waiting")
        table.add_row("stat(root)", "1", f"{microseconds(lambda: os.stat(root), count):.1f}", "")
        table.add_row("stat(file)", "2", f"{microseconds(lambda: os.stat(name), count):.1f}", "")
        fd = os.open(slow, os.O_RDONLY)
        table.add_row("fstat, reading handed over", "1", f"{microseconds(lambda: os.fstat(fd), count):.1f}", "")
        os.close(fd)
        fd = os.open(name, os.O_RDWR)
        buffer = bytearray(BLOCK)
        for what, call in {
            "read": lambda: os.preadv(fd, [buffer], 0),
            "write": lambda: os.pwrite(fd, buffer, 0),
        }.items():
            each = microseconds(call, max(1, count // 50))
            table.add_row(f"{what} 1 MiB, direct", "1", f"{each:.1f}", f"{len(BLOCK) / each:.0f}")
        os.close(fd)
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--serve")
    parser.add_argument("--count", type=int, default=10000)
    parser.add_argument("--one-cpu", action="store_true")
    options = parser.parse_args()
    if options.one_cpu:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    if options.serve:
        serve(options.serve)
    else:
        measure(options.count)


if __name__ == "__main__":
    main()
