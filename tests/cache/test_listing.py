"""Listings that are not used are packed, and answer as before."""

from __future__ import annotations

import weakref

import pytest

from netoverlay.backend_api.types import DirEntry, FileStat, FileType
from netoverlay.cache.kept_listing import encode_entries
from netoverlay.cache.listing import Listing, Unpacked
from netoverlay.cache.listings import Answer, Listings
from netoverlay.cache.open_files import OpenFiles


def stat_of(size: int, **fields) -> FileStat:
    return FileStat(FileType.REGULAR, size, 0o644, 0, None, -1, **fields)


def listing_of(*names: str) -> Listing:
    return Listing({name: stat_of(len(name)) for name in names}, 0, 0)


def test_a_packed_listing_is_what_it_was():
    entries = {"a\udcff": stat_of(1 << 60, file_id=(1 << 64) - 1), "asked": None, "dir": stat_of(0, nlink=2)}
    listing = Listing(dict(entries), 0, 0)
    listing.pack()
    assert listing.is_packed
    assert listing.size == 3
    assert list(listing.entries().items()) == list(entries.items())
    assert not listing.is_packed
    empty = Listing({}, 0, 0)
    empty.pack()
    assert empty.entries() == {}


def test_a_packed_name_takes_few_bytes():
    """As an SFTP server tells of it, with times that have nothing in common."""
    entries = {
        f"file{number * 7919 % 10007}.py": stat_of(number * 7919)._replace(mtime_ns=number * 7919 * 10**12, atime_ns=1)
        for number in range(1000)
    }
    assert len(encode_entries(entries)) < 32 * len(entries)


def test_what_cannot_be_packed_stays_as_it_is():
    entries = {"far": stat_of(1, atime_ns=1 << 70)}
    listing = Listing(entries, 0, 0)
    listing.pack()
    assert listing.entries() == entries


def test_the_one_that_was_used_least_recently_is_packed():
    unpacked = Unpacked(most=6)
    first, second, third = listing_of("a", "b"), listing_of("c"), listing_of("d")
    for listing in (first, second):
        unpacked.add(listing)
    unpacked.use(first)
    unpacked.add(third)
    assert [listing.is_packed for listing in (first, second, third)] == [False, True, False]
    for _ in range(10):
        unpacked.add(third)
    assert not first.is_packed


def test_what_a_listing_grows_by_counts():
    unpacked = Unpacked(most=10)
    first, second, third = (listing_of("a", "b") for _ in range(3))
    for listing in (first, second, third):
        unpacked.add(listing)
    third.entries()["c"] = third.entries()["d"] = None
    unpacked.add(third)
    assert [listing.is_packed for listing in (first, second, third)] == [True, False, False]


@pytest.fixture
def packed(monkeypatch):
    """How many names each listing has that is packed."""
    sizes, pack = [], Listing.pack
    monkeypatch.setattr(Listing, "pack", lambda listing: sizes.append(listing.size) or pack(listing))
    return sizes


def store(listings: Listings, path: str, count: int) -> None:
    fetch, _ = listings.begin(path)
    listings.store(fetch, [DirEntry(f"f{number}", stat_of(number)) for number in range(count)], ())


@pytest.mark.parametrize("every", [1, 4])
def test_a_directory_of_very_many_is_not_packed_while_it_is_used(packed, every):
    listings = Listings(None, 10_000, OpenFiles())
    listings._memory.unpacked = Unpacked(most=200)
    store(listings, "giant", 1000)
    for number in range(30):
        store(listings, f"d{number}", 9)
        listings.lookup("giant/f5")
    for number in range(200):
        if number % every == 0:
            assert listings.lookup("giant/f5") == stat_of(5)
        assert listings.lookup(f"d{number % 30}/f3") == stat_of(3)
    assert set(packed) == {9}
    assert sum(not listings._memory.get(f"d{number}").is_packed for number in range(30)) == 10


def test_directories_of_very_many_are_packed_when_others_are_used(packed):
    listings = Listings(None, 10_000, OpenFiles())
    listings._memory.unpacked = Unpacked(most=200)
    for number in range(5):
        store(listings, f"d{number}", 1000)
    assert packed == [1000] * 3
    for number in range(30):
        store(listings, f"small{number}", 9)
    assert packed == [1000] * 5 + [9] * 10


def test_one_that_another_has_replaced_is_not_kept():
    """A directory that is changed is listed again and again: as many listings as have `most` names would stay."""
    unpacked = Unpacked(most=1000)
    listing = listing_of("a", "b")
    replaced = weakref.ref(listing)
    unpacked.add(listing)
    del listing
    assert replaced() is None
    last = listing_of(*map(str, range(2000)))
    unpacked.add(last)
    assert not last.is_packed


def test_the_last_one_stays_however_large_it_is():
    unpacked = Unpacked(most=2)
    unpacked.add(listing_of("a"))
    large = listing_of(*map(str, range(10)))
    unpacked.add(large)
    assert not large.is_packed


def test_a_name_is_learned_in_a_packed_listing():
    listings = Listings(None, 1000, OpenFiles())
    listings._memory.unpacked = Unpacked(most=3)
    for number in range(4):
        fetch, _ = listings.begin(f"d{number}")
        listings.store(fetch, [DirEntry("one", stat_of(1)), DirEntry("two", stat_of(2))], ["two"])
    assert listings._memory.get("d0").is_packed
    assert listings.lookup("d0/two") is Answer.ASK
    mark = listings.mark("d0/two")
    for number in (1, 2, 3):
        listings.lookup(f"d{number}/one")
        listings.lookup(f"d{number}/one")
    listings._memory.get("d0").pack()
    listings.learn("d0/two", mark, stat_of(3))
    assert listings.lookup("d0/two") == stat_of(3)
    assert listings.lookup("d0/one") == stat_of(1)


def test_the_root_is_not_packed(packed):
    listings = Listings(None, 1000, OpenFiles())
    listings._memory.unpacked = Unpacked(most=4)
    listings.learn("", listings.mark(""), stat_of(7))
    for number in range(4):
        store(listings, f"d{number}", 3)
        assert listings.lookup("") == stat_of(7)
    assert packed == [3, 3]


def test_of_a_directory_that_is_listed_again_and_again_one_listing_counts():
    listings = Listings(None, 1000, OpenFiles())
    for _ in range(10):
        store(listings, "d", 3)
        listings.expire("d")
    store(listings, "d", 3)
    assert len(listings._memory.unpacked._sizes) == 1
