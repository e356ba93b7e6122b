"""Which listings the kernel is told to drop, and when."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator

import pytest

from netoverlay.overlay.told_listings import MOST_BEGUN, ToldListings

HOUR = 3_600_000_000_000
SOON = 20_000_000
PATIENCE_SECONDS = 10.0


class Kernel:
    """Takes note of what it is told to drop."""

    def __init__(self, valid_ns: int) -> None:
        self.dropped: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.listings = ToldListings(valid_ns)
        self.listings.start(self.dropped.put)

    def next(self) -> int:
        """The next one; queue.Empty if none comes."""
        return self.dropped.get(timeout=PATIENCE_SECONDS)


@pytest.fixture
def hours() -> Iterator[Kernel]:
    kernel = Kernel(HOUR)
    yield kernel
    kernel.listings.stop()


@pytest.fixture
def moments() -> Iterator[Kernel]:
    kernel = Kernel(SOON)
    yield kernel
    kernel.listings.stop()


def test_each_goes_after_its_time_to_live(moments: Kernel) -> None:
    for nodeid in (2, 3, 2):
        moments.listings.told(nodeid)
        assert moments.next() == nodeid
    for nodeid in (4, 5, 6):
        moments.listings.told(nodeid)
    assert sorted(moments.next() for _ in range(3)) == [4, 5, 6]
    assert moments.dropped.empty()


def test_a_listing_that_is_told_again_goes_no_later(moments: Kernel) -> None:
    """The kernel may still have the first one."""
    stopped = threading.Event()

    def tell() -> None:
        while not stopped.wait(SOON / 1e10):
            moments.listings.told(2)

    telling = threading.Thread(target=tell)
    telling.start()
    try:
        assert moments.next() == moments.next() == 2
    finally:
        stopped.set()
        telling.join()


def test_what_is_not_believed_goes_at_once_and_nothing_with_it(hours: Kernel) -> None:
    hours.listings.told(2)
    hours.listings.told(3, believed=False)
    assert hours.next() == 3
    hours.listings.told(2, believed=False)
    assert hours.next() == 2
    assert hours.dropped.empty()


def test_what_has_to_go_for_a_lock_is_gone_when_it_is_granted(hours: Kernel) -> None:
    hours.listings.told(2)
    hours.listings.drop(2)
    assert hours.dropped.get_nowait() == 2
    hours.listings.drop(2)
    hours.listings.drop(3)
    assert hours.dropped.empty()


class Clock:
    """Stands still until it is moved on."""

    def __init__(self) -> None:
        self.now_ns = HOUR

    def read(self) -> int:
        return self.now_ns


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic_ns", clock.read)
    return clock


def going_now(kernel: Kernel) -> set[int]:
    """What goes by the clock; that of two more shows when the thread has looked for it."""
    found = set()
    for mark in (1000, 1001):
        kernel.listings.told(mark, believed=False)
        while (nodeid := kernel.next()) != mark:
            found.add(nodeid)
    return found


def test_a_lock_finds_what_the_thread_is_about_to_drop() -> None:
    dropping, go_on = threading.Event(), threading.Event()
    dropped: list[tuple[str, int]] = []

    def drop(nodeid: int) -> None:
        dropped.append((threading.current_thread().name, nodeid))
        if threading.current_thread().name == "listings":
            dropping.set()
            go_on.wait(PATIENCE_SECONDS)

    listings = ToldListings(HOUR)
    listings.told(2)
    listings.start(drop)
    try:
        for nodeid in (2, 3):
            listings.told(nodeid, believed=False)
        assert dropping.wait(PATIENCE_SECONDS)
        for nodeid in (2, 3):
            listings.drop(nodeid)
        here = threading.current_thread().name
        assert [nodeid for name, nodeid in dropped if name == here] == [2, 3]
    finally:
        go_on.set()
        listings.stop()


def test_a_listing_is_as_old_as_its_beginning(clock: Clock, hours: Kernel) -> None:
    """Also where another reader has read the beginning."""
    for nodeid in (2, 3):
        hours.listings.begun(nodeid)
    clock.now_ns += HOUR // 2
    for nodeid in (2, 2, 3):
        hours.listings.begun(nodeid)
    hours.listings.told(2)
    assert going_now(hours) == set()
    clock.now_ns += HOUR // 2
    assert going_now(hours) == {2}
    hours.listings.told(3)
    assert going_now(hours) == {3}


def test_a_lock_in_the_middle_of_a_listing_drops_its_end_as_well(hours: Kernel) -> None:
    hours.listings.begun(2)
    hours.listings.drop(2)
    assert hours.dropped.get_nowait() == 2
    hours.listings.told(2)
    assert hours.next() == 2


def test_nothing_goes_for_its_time_while_it_is_listed_anew(clock: Clock, hours: Kernel) -> None:
    hours.listings.told(2)
    clock.now_ns += HOUR // 2
    hours.listings.begun(2)
    clock.now_ns += HOUR // 2
    assert going_now(hours) == set()
    hours.listings.told(2)
    clock.now_ns += HOUR // 2
    assert going_now(hours) == {2}


def test_what_is_listed_anew_without_an_end_goes_all_the_same(clock: Clock, hours: Kernel) -> None:
    hours.listings.told(2)
    hours.listings.begun(2)
    clock.now_ns += HOUR
    assert going_now(hours) == {2}


def test_listings_without_an_end_are_not_kept_in_mind_for_ever(hours: Kernel) -> None:
    for nodeid in range(MOST_BEGUN + 2):
        hours.listings.begun(nodeid)
    assert [hours.next(), hours.next()] == [0, 1]
    assert hours.dropped.empty()


def test_an_error_is_told_and_the_next_one_goes(caplog: pytest.LogCaptureFixture) -> None:
    dropped: queue.SimpleQueue[int] = queue.SimpleQueue()

    def drop(nodeid: int) -> None:
        if nodeid == 2:
            raise ValueError(nodeid)
        dropped.put(nodeid)

    listings = ToldListings(HOUR)
    listings.start(drop)
    try:
        for nodeid in (2, 3):
            listings.told(nodeid, believed=False)
        assert dropped.get(timeout=PATIENCE_SECONDS) == 3
        assert "could not be told" in caplog.text
    finally:
        listings.stop()


def test_where_the_kernel_caches_none_nothing_is_kept_in_mind() -> None:
    listings = ToldListings(SOON)
    listings.told(2)
    listings.drop(2)
    listings.stop()
