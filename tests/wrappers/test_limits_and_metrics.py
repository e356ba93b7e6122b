"""No more calls at once than allowed, the reader of requests goes before each, and every call is counted."""

from __future__ import annotations

import errno
import inspect
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from netoverlay.backend_api import Access, Backend, BackendFile, Creation, UnavailableError
from netoverlay.backend_api.delegate import DelegatingBackend, DelegatingFile
from netoverlay.backend_api.waiting import set_hooks
from netoverlay.testing.memory_backend import MemoryBackend
from netoverlay.wrappers.intercept import InterceptingBackend, InterceptingFile, Operation
from netoverlay.wrappers.limits import LimitedBackend
from netoverlay.wrappers.metrics import MeteredBackend
from tests.cache.calls import WatchedBackend

ANSWERED_FROM_MEMORY = {
    "identity",
    "appearance",
    "asks_user",
    "connection_state",
    "connection_problem",
    "fileno",
    "flush",
    "at_hand",
}
FROM_MEMORY = ANSWERED_FROM_MEMORY | {"__init__", "__enter__", "__exit__", "__del__"}


@pytest.mark.parametrize(("seam", "wrapper"), [(Backend, InterceptingBackend), (BackendFile, InterceptingFile)])
def test_every_call_is_intercepted(seam, wrapper):
    methods = {name for name, _ in inspect.getmembers(seam, inspect.isfunction)} - FROM_MEMORY
    delegating = DelegatingBackend if seam is Backend else DelegatingFile
    for name in methods:
        assert name in vars(wrapper), f"{wrapper.__name__} does not intercept {name}"
        assert name in vars(delegating), f"{delegating.__name__} does not delegate {name}"


def test_the_reader_goes_before_every_call():
    memory = MemoryBackend()
    backend = LimitedBackend(memory, 30.0)
    told = []
    set_hooks(lambda: told.append(1), None)
    try:
        backend.connect()
        file = backend.open("f", Access.READ_WRITE, create=Creation.EXCLUSIVE)
        backend.stat("f")
        file.write_at(0, b"x")
        file.read_at(0, 1)
        file.close()
    finally:
        set_hooks(None, None)
    assert len(told) == 6


def test_no_more_calls_at_once_than_allowed():
    watched = WatchedBackend(MemoryBackend())
    backend = LimitedBackend(watched, 60.0, max_calls=3)
    backend.connect()
    lock, inside, most, full = threading.Lock(), [], [], threading.Event()

    def enter(path):
        with lock:
            inside.append(path)
            most.append(len(inside))
            if len(inside) == 3:
                full.set()
        assert full.wait(60)
        with lock:
            inside.remove(path)

    watched.before[Operation.STAT] = enter
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda _: backend.stat(""), range(60)))
    assert max(most) == 3


def test_who_gets_no_turn_is_told_and_closing_needs_none():
    watched = WatchedBackend(MemoryBackend())
    backend = LimitedBackend(watched, 0.01, max_calls=1)
    backend.connect()
    file = backend.open("f", Access.WRITE, create=Creation.EXCLUSIVE)
    held, release = threading.Event(), threading.Event()

    def hold(_):
        held.set()
        assert release.wait(60)

    watched.before[Operation.STAT] = hold
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(backend.stat, "f")
        assert held.wait(60)
        with pytest.raises(UnavailableError) as caught:
            backend.list_dir("")
        assert caught.value.errno == errno.ETIMEDOUT
        file.close()
        release.set()
        assert first.result(60).size == 0
    assert backend.list_dir("")
    backend.close()


def test_a_failed_call_gives_its_turn_back():
    backend = LimitedBackend(MemoryBackend(), 0.01, max_calls=1)
    backend.connect()
    for _ in range(3):
        with pytest.raises(FileNotFoundError):
            backend.stat("absent")


def test_counts():
    backend = MeteredBackend(MemoryBackend())
    assert backend.snapshot() == {"calls": 0, "errors": 0, "bytes_read": 0, "bytes_written": 0, "bytes_copied": 0}
    backend.connect()
    with backend.open("f", Access.READ_WRITE, create=Creation.EXCLUSIVE) as file:
        file.write_at(0, b"12345")
        file.write_at(5, memoryview(b"67890"))
        assert file.read_at(0, 100) == b"1234567890"
        assert file.read_into(8, bytearray(100)) == 2
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            backend.stat("absent")
    counts = backend.snapshot()
    assert counts.pop("stat.seconds") >= 0
    seconds = {name for name in counts if name.endswith(".seconds")}
    assert seconds == {f"{name}.seconds" for name in ("connect", "open", "file_write", "file_read", "file_close")}
    assert {name: count for name, count in counts.items() if name not in seconds and count} == {
        "calls": 9,
        "errors": 2,
        "bytes_read": 12,
        "bytes_written": 10,
        "connect.calls": 1,
        "open.calls": 1,
        "file_write.calls": 2,
        "file_read.calls": 2,
        "file_close.calls": 1,
        "stat.calls": 2,
        "stat.errors": 2,
    }
    assert backend.calls() == 9


def test_counts_of_many_threads_are_exact():
    backend = MeteredBackend(MemoryBackend())
    backend.connect()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: backend.stat(""), range(4000)))
    assert backend.snapshot()["stat.calls"] == 4000
