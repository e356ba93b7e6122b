"""Work directories on servers for the tests of who owns an upper, and other machines that want one."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from netoverlay.backend_api import Access, AttributeChange, Backend, BackendFile, Creation, FileStat, LayerPath
from netoverlay.backend_api.delegate import DelegatingBackend, DelegatingFile
from netoverlay.overlay.lease import HeldLease, Timing, take_lease
from netoverlay.overlay.owner import Owner, UpperHeldError, parse_owner
from netoverlay.testing.memory_backend import MemoryBackend
from netoverlay.testing.memory_tree import MemoryTree

WORK = "upper.work"
LOCK = f"{WORK}/lock"

FAST = Timing(beat_seconds=0.1, expires_seconds=1.0, margin_seconds=0.3)
"""For layers whose times are finer than that."""
NO_BEAT = Timing(beat_seconds=1000.0, expires_seconds=2000.0, margin_seconds=500.0)
"""The thread never gets a turn."""


@dataclass
class Server:
    """Where an upper is, for tests over each transport."""

    kind: str
    create: Callable[[], Backend]
    timing: Timing
    cleanup: ExitStack

    def connect(self) -> Backend:
        """A connection of its own, as another process has one."""
        backend = self.create()
        backend.connect()
        self.cleanup.callback(backend.close)
        return backend

    def take(self, backend: Backend | None = None, timing: Timing | None = None, mountpoint: str = "/mnt") -> HeldLease:
        """Own the upper; given back at the end of the test."""
        held = take_lease(backend or self.connect(), WORK, mountpoint, timing or self.timing)
        self.cleanup.callback(held.release)
        return held


@contextmanager
def memory_server() -> Iterator[Server]:
    """A place for an upper in memory, with its work directory."""
    with ExitStack() as cleanup:
        tree = MemoryTree()
        place = Server("memory", lambda: MemoryBackend(tree=tree), FAST, cleanup)
        place.connect().mkdir(WORK, 0o700)
        yield place


_pids = itertools.count(1_000_000)


class SkewedBackend(DelegatingBackend):
    """A server whose clock is `skew_ns` ahead of ours; may be set while it runs."""

    def __init__(self, inner: Backend, skew_ns: int) -> None:
        super().__init__(inner)
        self.skew_ns = skew_ns

    def stat(self, path: LayerPath) -> FileStat:
        return self.shifted(self.inner.stat(path))

    def open(self, path: LayerPath, access: Access, *, create=Creation.NEVER, truncate=False, mode=0o600):
        return SkewedFile(self.inner.open(path, access, create=create, truncate=truncate, mode=mode), self)

    def shifted(self, stat: FileStat) -> FileStat:
        return stat._replace(mtime_ns=stat.mtime_ns + self.skew_ns)


class SkewedFile(DelegatingFile):
    def __init__(self, inner: BackendFile, backend: SkewedBackend) -> None:
        super().__init__(inner)
        self._backend = backend

    def stat(self) -> FileStat:
        return self._backend.shifted(self.inner.stat())


@dataclass
class FakeClock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def taken_at_last(take: Callable[[], HeldLease], seconds: float = 20.0) -> HeldLease:
    """What `take` gives once it is not refused any more."""
    end = time.monotonic() + seconds
    while True:
        try:
            return take()
        except UpperHeldError:
            assert time.monotonic() < end, "it never came free"
            time.sleep(0.05)


def lease_of(backend: Backend) -> Owner:
    with backend.open(LOCK, Access.READ) as file:
        owner = parse_owner(file.read_at(0, 1 << 16))
    assert owner is not None
    return owner


def write_lease(backend: Backend, content: bytes) -> None:
    """As a stranger leaves it."""
    with backend.open(LOCK, Access.READ_WRITE, create=Creation.EXCLUSIVE) as file:
        file.write_at(0, content)


def elsewhere(timing: Timing, **facts: object) -> Owner:
    """An owner on another machine."""
    told = {"host": "far", "pid": next(_pids), "mountpoint": "/far", "since": "2026-01-02 03:04:05 +0000"}
    return Owner(
        **(
            told
            | {"boot_id": "other", "pid_namespace": "pid:[1]", "nonce": "f" * 16}
            | {"beat_seconds": timing.beat_seconds, "expires_seconds": timing.expires_seconds}
            | facts
        )
    )


def make_old(backend: Backend, seconds: float) -> None:
    """As if the last beat had been so long ago."""
    change = AttributeChange(mtime_ns=backend.stat(LOCK).mtime_ns - int(seconds * 1e9))
    backend.set_attributes(LOCK, change)


def work_names(backend: Backend) -> list[str]:
    return sorted(entry.name for entry in backend.list_dir(WORK))
