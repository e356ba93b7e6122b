"""What an operation costs in the two kernel channels: mounts whose operations do nothing, on this machine, in turns.

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
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

from rich.console import Console
from rich.table import Table

from netoverlay.backend_api import waiting
from netoverlay.fuse import replies, requests
from netoverlay.fuse.abi import Fopen
from netoverlay.fuse.channel import Channel
from netoverlay.fuse.mount import MountOptions, mount, unmount
from netoverlay.fuse.negotiation import SessionSettings
from netoverlay.fuse.operations import Operations
from netoverlay.fuse.replies import Entry, FuseAttributes, Reply
from netoverlay.fuse.requests import RequestHeader
from netoverlay.fuse.session import Session, plain_errno
from netoverlay.kernel_channel import KernelSession
from netoverlay.pyfuse3_session import Pyfuse3Session

CHANNELS = ("own", "pyfuse3")
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


def session_of(channel: str, device: int) -> KernelSession:
    if channel == "own":
        return Session(Channel(device), Nothing())
    return Pyfuse3Session(device, Nothing(), SessionSettings(), plain_errno)


def serve(mountpoint: str, channel: str) -> None:
    mounted = mount(mountpoint, MountOptions(source="bench"))
    session = session_of(channel, mounted.device)
    session.handshake()
    signal.signal(signal.SIGTERM, lambda *_: session.request_stop())
    print("ready", flush=True)
    session.run(mounted.detach)


@contextmanager
def served(channel: str) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as mountpoint:
        command = [sys.executable, __file__, "--serve", mountpoint, "--channel", channel]
        server = subprocess.Popen(command, stdout=subprocess.PIPE)
        try:
            assert server.stdout is not None
            server.stdout.readline()
            yield mountpoint
        finally:
            server.terminate()
            if server.wait(30):
                unmount(mountpoint, lazy=True)


def microseconds(calls: Sequence[Callable[[], object]], count: int) -> list[float]:
    """Of each call, the median of five rounds, in which all have their turn."""
    rounds: list[list[float]] = [[] for _ in calls]
    for _ in range(5):
        for call, taken in zip(calls, rounds, strict=True):
            start = time.perf_counter()
            for _ in itertools.repeat(None, count):
                call()
            taken.append((time.perf_counter() - start) / count * 1e6)
    return [statistics.median(taken) for taken in rounds]


def measure(count: int) -> None:
    table = Table("operation", "requests", *(f"{channel}: us each" for channel in CHANNELS), "MB/s of each")
    buffer = bytearray(BLOCK)

    def add(what: str, requests: str, rate: bool, calls: Sequence[Callable[[], object]]) -> None:
        each = microseconds(calls, max(1, count // 50) if rate else count)
        rates = ", ".join(f"{len(BLOCK) / us:.0f}" for us in each) if rate else ""
        table.add_row(what, requests, *(f"{us:.1f}" for us in each), rates)

    with ExitStack() as stack:
        roots = [stack.enter_context(served(channel)) for channel in CHANNELS]
        slow, files = ([_opened(stack, root, name) for root in roots] for name in ("waiting", "file"))
        add("stat(root)", "1", False, [partial(os.stat, root) for root in roots])
        add("stat(file)", "2", False, [partial(os.stat, f"{root}/file") for root in roots])
        add("fstat, reading handed over", "1", False, [partial(os.fstat, fd) for fd in slow])
        add("read 1 MiB, direct", "1", True, [partial(os.preadv, fd, [buffer], 0) for fd in files])
        add("write 1 MiB, direct", "1", True, [partial(os.pwrite, fd, buffer, 0) for fd in files])
    Console().print(table)


def _opened(stack: ExitStack, root: str, name: str) -> int:
    fd = os.open(os.path.join(root, name), os.O_RDWR)
    stack.callback(os.close, fd)
    return fd


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--serve")
    parser.add_argument("--channel", choices=CHANNELS, default="own")
    parser.add_argument("--count", type=int, default=10000)
    parser.add_argument("--one-cpu", action="store_true")
    options = parser.parse_args()
    if options.one_cpu:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    if options.serve:
        serve(options.serve, options.channel)
    else:
        measure(options.count)


if __name__ == "__main__":
    main()
