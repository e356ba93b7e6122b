"""Copying content between layers: what is copied, in how much memory, and how it ends when something fails."""

from __future__ import annotations

import errno
import random
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netoverlay.backend_api import Access, BackendFile, Capabilities, Creation, NotSupportedError, UnavailableError
from netoverlay.backend_api.delegate import DelegatingFile
from netoverlay.backend_api.waiting import check_interrupted, set_hooks
from netoverlay.overlay.content import HOLE_BYTES, SourceChangedError, copy_content
from netoverlay.testing.memory_backend import ALL_CAPABILITIES, MemoryBackend

MIB = 1 << 20
LARGE = 20 * MIB + 777
WITHOUT_HOLES = Capabilities(writable=True)
BOTH = pytest.mark.parametrize("claims", [ALL_CAPABILITIES, WITHOUT_HOLES], ids=["holes", "no holes"])


class Watched(DelegatingFile):
    """A file whose calls can be watched, delayed, or made to fail."""

    def __init__(self, inner: BackendFile) -> None:
        super().__init__(inner)
        self.before = lambda operation, offset, length: None
        self.threads: set[threading.Thread] = set()

    def _around(self, operation, offset, length, call):
        self.threads.add(threading.current_thread())
        self.before(operation, offset, length)
        return call()

    def read_into(self, offset, buffer):
        return self._around("read", offset, len(buffer), lambda: self.inner.read_into(offset, buffer))

    def write_at(self, offset, data):
        return self._around("write", offset, len(data), lambda: self.inner.write_at(offset, data))


def file_of(claims: Capabilities, *parts: tuple[int, bytes]) -> Watched:
    backend = MemoryBackend(claims)
    backend.connect()
    file = Watched(backend.open("file", Access.READ_WRITE, create=Creation.EXCLUSIVE))
    for offset, data in parts:
        file.inner.write_at(offset, data)
    return file


def data_of(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@pytest.fixture(autouse=True)
def nothing_is_left_running() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before
    set_hooks(None, None)


@BOTH
@pytest.mark.parametrize("size", [0, 1, HOLE_BYTES, 2 * MIB, 2 * MIB + 1, LARGE])
def test_all_is_copied(claims, size):
    source, target = file_of(claims, (0, data_of(size))), file_of(claims)
    copy_content(source, target, size)
    assert target.read_at(0, size + 1) == data_of(size)


@BOTH
def test_only_what_is_wanted_is_copied(claims):
    source, target = file_of(claims, (0, data_of(LARGE))), file_of(claims)
    copy_content(source, target, 3 * MIB)
    assert target.read_at(0, LARGE) == data_of(LARGE)[: 3 * MIB]


@BOTH
def test_holes_stay_holes(claims):
    parts = [(0, data_of(100_000)), (50 * MIB, data_of(3 * MIB)), (90 * MIB + 5, b"end")]
    source, target = file_of(claims, *parts), file_of(ALL_CAPABILITIES)
    size = 100 * MIB
    source.inner.truncate(size)
    copy_content(source, target, size)
    for offset, data in parts:
        assert target.read_at(offset, len(data)) == data
    assert target.stat().size == size
    assert target.stat().blocks * 512 < 4 * MIB


def test_two_threads_share_the_work_and_the_memory_is_bounded():
    source, target = file_of(WITHOUT_HOLES, (0, data_of(100 * MIB))), file_of(WITHOUT_HOLES)
    lock = threading.Lock()
    held, most = 0, 0

    def note(operation, _offset, length):
        nonlocal held, most
        with lock:
            held += length if operation == "read" else -length
            most = max(most, held)

    source.before = note
    target.before = lambda *call: (time.sleep(0.02), note(*call))
    copy_content(source, target, 100 * MIB)
    assert source.threads == target.threads
    assert len(source.threads) == 2
    assert threading.current_thread() in source.threads
    assert most <= 64 * MIB


def test_one_thread_goes_on_while_the_other_writes():
    source, target = file_of(WITHOUT_HOLES, (0, data_of(LARGE))), file_of(WITHOUT_HOLES)
    writer: list[threading.Thread] = []
    gone_on = threading.Event()

    def note(operation, offset, length):
        if not writer and operation == "write":
            writer.append(threading.current_thread())
            assert gone_on.wait(10)
        elif writer and writer != [threading.current_thread()]:
            gone_on.set()

    source.before = target.before = note
    copy_content(source, target, LARGE)
    assert target.read_at(0, LARGE) == data_of(LARGE)


@BOTH
@pytest.mark.parametrize("size", [MIB, LARGE])
def test_a_source_that_becomes_shorter(claims, size):
    source, target = file_of(claims, (0, data_of(size))), file_of(claims)
    source.before = lambda operation, offset, length: source.inner.truncate(size - 1)
    with pytest.raises(SourceChangedError):
        copy_content(source, target, size)


@pytest.mark.parametrize("which", ["source", "target"])
@pytest.mark.parametrize("number", [1, 2, 4])
def test_an_error_of_either_side_ends_both(which, number):
    files = {"source": file_of(WITHOUT_HOLES, (0, data_of(LARGE))), "target": file_of(WITHOUT_HOLES)}
    calls, lock = 0, threading.Lock()

    def fail(*_call):
        nonlocal calls
        with lock:
            calls += 1
            ours = calls == number
        if ours:
            raise UnavailableError("gone")

    files[which].before = fail
    with pytest.raises(UnavailableError, match="gone"):
        copy_content(files["source"], files["target"], LARGE)


def test_an_error_of_copy_range_is_one():
    source, target = file_of(WITHOUT_HOLES, (0, data_of(10))), file_of(WITHOUT_HOLES)

    def fail(*_arguments):
        raise OSError(errno.ENOSPC, "full")

    target.copy_range = fail
    with pytest.raises(OSError, match="full"):
        copy_content(source, target, 10)


def test_copy_range_is_asked_once_where_it_cannot_be_done():
    source, target = file_of(ALL_CAPABILITIES, (0, data_of(LARGE)), (80 * MIB, b"more")), file_of(WITHOUT_HOLES)
    asked = []

    def refuse(*arguments):
        asked.append(arguments)
        raise NotSupportedError("copy_range")

    target.copy_range = refuse
    copy_content(source, target, 80 * MIB + 4)
    assert len(asked) == 1
    assert target.read_at(80 * MIB - 1, 10) == b"\0more"


def test_a_layer_that_stops_in_the_middle_is_helped():
    data = data_of(LARGE)
    source, target = file_of(ALL_CAPABILITIES, (0, data), (50 * MIB, data)), file_of(ALL_CAPABILITIES)

    def some(_source, source_offset, offset, length):
        if offset > 7 * MIB:
            raise OSError(errno.EXDEV, "elsewhere")
        target.inner.write_at(offset, data[source_offset : source_offset + MIB])
        return min(length, MIB)

    target.copy_range = some
    copy_content(source, target, 50 * MIB + LARGE)
    assert target.read_at(0, LARGE) == data
    assert target.read_at(50 * MIB, LARGE + 1) == data


@pytest.mark.parametrize("size", [MIB, LARGE])
def test_an_interrupt_ends_it(size):
    source, target = file_of(WITHOUT_HOLES, (0, data_of(size))), file_of(WITHOUT_HOLES)
    interrupted = threading.Event()
    set_hooks(None, interrupted.is_set)
    source.before = lambda *_: interrupted.set()

    def copy():
        copy_content(source, target, size)
        check_interrupted()  # of a small file the last piece may be written all the same

    with pytest.raises(InterruptedError):
        copy()


def test_an_interrupt_reaches_a_read_that_waits_for_its_server():
    source, target = file_of(WITHOUT_HOLES, (0, data_of(LARGE))), file_of(WITHOUT_HOLES)
    reading = threading.Event()

    def wait(*_call):
        reading.set()
        give_up_at = time.monotonic() + 30
        while time.monotonic() < give_up_at:
            check_interrupted()
            time.sleep(0.01)

    source.before = wait
    set_hooks(None, reading.is_set)
    started_at = time.monotonic()
    with pytest.raises(InterruptedError):
        copy_content(source, target, LARGE)
    assert time.monotonic() - started_at < 10


def test_random_files():
    parts = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 200_000), st.booleans()), max_size=6)

    @settings(max_examples=40, deadline=None, database=None)
    @given(parts, st.integers(-100_000, 3 * MIB), st.booleans())
    def follows(parts, more, has_holes):
        claims = ALL_CAPABILITIES if has_holes else WITHOUT_HOLES
        placed = [(at * 100_000, data_of(size) if random_data else bytes(size)) for at, size, random_data in parts]
        source, target = file_of(claims, *placed), file_of(ALL_CAPABILITIES)
        size = max(0, source.stat().size + more)
        source.inner.truncate(size)
        copy_content(source, target, size)
        assert target.read_at(0, size + 1) == source.read_at(0, size + 1)

    follows()
