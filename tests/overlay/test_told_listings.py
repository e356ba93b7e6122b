"""Which listings the kernel is told to drop, and when."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

import pytest

from netoverlay.overlay.told_listings import ToldListings

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


def test_where_the_kernel_caches_none_nothing_is_kept_in_mind() -> None:
    listings = ToldListings(SOON)
    listings.told(2)
    listings.drop(2)
    listings.stop()
