"""What the metadata cache asks its layer for, and what it does not."""

from __future__ import annotations

import dataclasses
import errno
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from netoverlay.backend_api import Access, AttributeChange, FileType, NotSupportedError, UnavailableError
from netoverlay.backend_api.delegate import DelegatingBackend
from netoverlay.backend_api.waiting import set_hooks
from netoverlay.cache import asked_singly, listings
from netoverlay.cache.metadata import MetadataCache
from netoverlay.testing.memory_backend import ALL_CAPABILITIES, MemoryBackend
from netoverlay.wrappers.intercept import Operation
from tests.cache.calls import WatchedBackend, write_file


def cached(inner, **options):
    watched = WatchedBackend(inner)
    cache = MetadataCache(watched, **{"ttl": None, "ahead": 0, **options})
    cache.connect()
    return watched, cache


@pytest.fixture
def memory():
    backend = MemoryBackend()
    backend.connect()
    backend.mkdir("d", 0o755)
    for name in ("one", "two"):
        write_file(backend, f"d/{name}", b"12345")
    backend.symlink("d/link", "one")
    return backend


def test_one_listing_answers_for_every_name(memory):
    watched, cache = cached(memory)
    assert cache.stat("d/one").size == 5
    assert watched.calls[Operation.LIST_DIR, "d"] == 1
    assert cache.readlink("d/link") == "one"
    with watched.silent():
        assert cache.stat("d/two") == memory.stat("d/two")
        assert sorted(entry.name for entry in cache.list_dir("d")) == ["link", "one", "two"]
        assert cache.readlink("d/link") == "one"
        for name in ("d/three", "d/THREE", "d/\udcff"):
            with pytest.raises(FileNotFoundError):
                cache.stat(name)


def test_below_an_absent_name_nothing_is_asked(memory):
    watched, cache = cached(memory)
    cache.list_dir("")
    with watched.silent():
        for call in (cache.stat, cache.list_dir):
            with pytest.raises(FileNotFoundError):
                call("absent/child")


def test_the_root_is_cached(memory):
    watched, cache = cached(memory)
    assert cache.stat("") == memory.stat("")
    with watched.silent():
        cache.stat("")
    cache.set_attributes("", AttributeChange(mode=0o700))
    assert cache.stat("").mode == 0o700


def test_creating_costs_no_new_listing(memory):
    watched, cache = cached(memory)
    cache.list_dir("d")
    for number in range(50):
        write_file(cache, f"d/new{number}", b"x")
        assert cache.stat(f"d/new{number}").size == 1
    assert watched.calls[Operation.LIST_DIR, "d"] == 1
    with watched.silent():
        assert cache.stat("d/one").size == 5


def test_an_open_file_is_looked_at_until_it_is_closed(memory):
    watched, cache = cached(memory)
    with cache.open("d/one", Access.WRITE) as file:
        for size in (10, 20, 30):
            file.write_at(0, b"x" * size)
            assert cache.stat("d/one").size == size
    assert cache.stat("d/one").size == 30
    with watched.silent():
        cache.stat("d/one")


@pytest.mark.parametrize(("ttl", "listings_made"), [(0.0, 3), (3600.0, 1), (None, 1)])
def test_ttl(memory, ttl, listings_made):
    watched, cache = cached(memory, ttl=ttl)
    for _ in range(3):
        cache.list_dir("d")
    assert watched.count(Operation.LIST_DIR) == listings_made


def test_an_expired_listing_shows_what_others_changed(memory, monkeypatch):
    _, cache = cached(memory, ttl=10.0)
    now = listings.time.monotonic()
    assert cache.stat("d/one").size == 5
    with memory.open("d/one", Access.WRITE) as file:
        file.truncate(3)
    assert cache.stat("d/one").size == 5
    monkeypatch.setattr(listings.time, "monotonic", lambda: now + 11)
    assert cache.stat("d/one").size == 3


@pytest.mark.parametrize("call", ["stat", "list_dir"])
@pytest.mark.parametrize("error", [UnavailableError("down"), OSError(errno.EIO, "bad"), MemoryError()])
def test_an_error_is_told_and_not_kept(memory, call, error):
    watched, cache = cached(memory)

    def fail(_):
        raise error

    watched.before = {Operation.LIST_DIR: fail, Operation.STAT: fail}
    for _ in range(2):
        with pytest.raises(type(error)):
            getattr(cache, call)("d")
    watched.before = {}
    getattr(cache, call)("d")
    assert cache.stat("d/one").size == 5


def test_an_unreachable_layer_is_not_asked_a_second_way(memory):
    watched, cache = cached(memory)

    def fail(_):
        raise UnavailableError("down")

    watched.before[Operation.LIST_DIR] = fail
    with pytest.raises(UnavailableError):
        cache.stat("d/one")
    assert watched.count(Operation.STAT) == 0


def test_a_directory_that_may_not_be_read_can_be_searched(memory):
    watched, cache = cached(memory)

    def deny(_):
        raise PermissionError(errno.EACCES, "denied")

    watched.before[Operation.LIST_DIR] = deny
    assert cache.stat("d/one").size == 5
    with pytest.raises(FileNotFoundError):
        cache.stat("d/three")
    with pytest.raises(PermissionError):
        cache.list_dir("d")


@pytest.mark.parametrize("call", ["stat", "list_dir"])
def test_concurrent_misses_share_one_listing(memory, call):
    watched, cache = cached(memory)
    asked, release = threading.Event(), threading.Event()
    waiting = threading.Semaphore(0)

    def pause(_):
        asked.set()
        assert release.wait(60)

    def look():
        set_hooks(waiting.release, None)
        return getattr(cache, call)("d/one" if call == "stat" else "d")

    watched.before[Operation.LIST_DIR] = pause
    with ThreadPoolExecutor(8) as pool:
        results = [pool.submit(look) for _ in range(8)]
        assert asked.wait(60)
        for _ in range(7):
            assert waiting.acquire(timeout=60)
        release.set()
        answers = [result.result(60) for result in results]
    assert all(answer == answers[0] for answer in answers)
    assert watched.count() == 2, "connect, and one listing"


def test_a_change_during_a_listing_is_not_lost(memory):
    watched, cache = cached(memory)
    asked, release = threading.Event(), threading.Event()

    class Late(MemoryBackend):
        """Lists first and waits then, so that the listing misses what is done meanwhile."""

        def list_dir(self, path):
            entries = super().list_dir(path)
            asked.set()
            assert release.wait(60)
            return entries

    late = Late(tree=memory.tree)
    late.connect()
    watched.inner = late
    with ThreadPoolExecutor(1) as pool:
        early = pool.submit(cache.list_dir, "d")
        assert asked.wait(60)
        write_file(cache, "d/new", b"x")
        cache.unlink("d/one")
        release.set()
        early.result(60)
    assert cache.stat("d/new").size == 1
    with pytest.raises(FileNotFoundError):
        cache.stat("d/one")
    assert sorted(cache.list_dir("d")) == sorted(memory.list_dir("d"))


def test_a_listing_of_what_stood_there_before_is_not_kept(memory):
    watched, cache = cached(memory)
    asked, release = threading.Event(), threading.Event()

    class Late(MemoryBackend):
        """Lists first and waits then."""

        def list_dir(self, path):
            entries = super().list_dir(path)
            asked.set()
            assert release.wait(60)
            return entries

    late = Late(tree=memory.tree)
    late.connect()
    watched.inner = late
    with ThreadPoolExecutor(1) as pool:
        early = pool.submit(cache.list_dir, "d")
        assert asked.wait(60)
        cache.rename("d", "elsewhere")
        cache.mkdir("d", 0o755)
        release.set()
        early.result(60)
    assert cache.list_dir("d") == []
    assert len(cache.list_dir("elsewhere")) == 3


@pytest.mark.parametrize("move", [("d/second", "d/third"), ("d", "e")])
def test_links_are_known_by_their_later_names_where_the_transport_does_not_tell(memory, move):
    poor = MemoryBackend(dataclasses.replace(ALL_CAPABILITIES, link_counts=False, file_ids=False), memory.tree)
    _, cache = cached(poor)
    cache.link("d/one", "d/second")
    cache.rename(*move)
    names = ["d/one", "d/third"] if move[0] == "d/second" else ["e/one", "e/second"]
    for path in names:
        cache.stat(path)
    with cache.open(names[0], Access.WRITE) as file:
        for size in (20, 30):
            file.write_at(0, b"x" * size)
            assert [cache.stat(path).size for path in names] == [size, size]


def test_names_that_links_had_are_not_remembered_for_ever(memory):
    poor = MemoryBackend(dataclasses.replace(ALL_CAPABILITIES, link_counts=False, file_ids=False), memory.tree)
    _, cache = cached(poor)
    cache.link("d/one", "d/second")
    cache.link("d/one", "d/same")
    for number in range(5):
        cache.rename(f"d{number or ''}", f"d{number + 1}")
        cache.rename(f"d{number + 1}/second", f"d{number + 1}/third{number}")
        cache.rename(f"d{number + 1}/third{number}", f"d{number + 1}/second")
        cache.rename(f"d{number + 1}/one", f"d{number + 1}/same")  # which changes nothing
    known = {path for path in cache._listings._linked._paths if path.startswith("d")}
    assert known == {"d5/one", "d5/second", "d5/same"}
    for path in known:
        cache.unlink(path)
    assert not cache._listings._linked


@pytest.mark.parametrize("call", ["stat", "readlink"])
def test_a_change_during_a_question_is_not_lost(memory, call):
    watched, cache = cached(memory)
    cache.list_dir("d")
    cache.set_attributes("d/link", AttributeChange(mtime_ns=5))
    asked, release = threading.Event(), threading.Event()

    class Late(MemoryBackend):
        """Looks first and waits then."""

        def stat(self, path):
            return self.late(super().stat(path))

        def readlink(self, path):
            return self.late(super().readlink(path))

        def late(self, answer):
            asked.set()
            assert release.wait(60)
            return answer

    late = Late(tree=memory.tree)
    late.connect()
    watched.inner = late
    with ThreadPoolExecutor(1) as pool:
        early = pool.submit(getattr(cache, call), "d/link")
        assert asked.wait(60)
        cache.unlink("d/link")
        cache.symlink("d/link", "another target")
        release.set()
        early.result(60)
    assert getattr(cache, call)("d/link") == getattr(memory, call)("d/link")


def test_an_interrupted_fetch_does_not_interrupt_others(memory):
    watched, cache = cached(memory)
    asked, release, waiting = threading.Event(), threading.Event(), threading.Event()

    def interrupt(_):
        watched.before = {}
        asked.set()
        assert release.wait(60)
        raise InterruptedError(errno.EINTR, "interrupted")

    def second():
        set_hooks(waiting.set, None)
        return cache.stat("d/one")

    watched.before[Operation.LIST_DIR] = interrupt
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(cache.stat, "d/two")
        assert asked.wait(60)
        other = pool.submit(second)
        assert waiting.wait(60)
        release.set()
        with pytest.raises(InterruptedError):
            first.result(60)
        assert other.result(60).size == 5


def test_who_waits_for_a_listing_can_be_interrupted(memory):
    watched, cache = cached(memory)
    asked, release = threading.Event(), threading.Event()

    def pause(_):
        asked.set()
        assert release.wait(60)

    def second():
        set_hooks(None, lambda: True)
        cache.stat("d/one")

    watched.before[Operation.LIST_DIR] = pause
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(cache.stat, "d/two")
        assert asked.wait(60)
        with pytest.raises(InterruptedError):
            pool.submit(second).result(60)
        release.set()
        assert first.result(60).size == 5


def test_memory_is_bounded(memory):
    for number in range(20):
        memory.mkdir(f"d{number}", 0o755)
        for name in range(9):
            memory.mkdir(f"d{number}/{name}", 0o755)
    watched, cache = cached(memory, max_entries=55)
    for number in range(20):
        cache.list_dir(f"d{number}")
    with watched.silent():
        for number in range(15, 20):
            cache.list_dir(f"d{number}")
    cache.list_dir("d0")
    assert watched.calls[Operation.LIST_DIR, "d0"] == 2


def test_growth_of_a_kept_listing_counts(memory):
    watched, cache = cached(memory, max_entries=20)
    cache.list_dir("d")
    cache.list_dir("")
    for number in range(30):
        write_file(cache, f"d/new{number}", b"")
    assert len(cache.list_dir("d")) == 33
    assert watched.calls[Operation.LIST_DIR, "d"] == 2


def test_a_huge_directory_is_not_listed_again_for_one_name(memory, monkeypatch):
    monkeypatch.setattr(asked_singly, "HUGE_DIRECTORY", 3)
    watched, cache = cached(memory, max_entries=2)
    cache.list_dir("d")
    assert cache.stat("d/one").size == 5
    assert watched.count(Operation.LIST_DIR) == 1


def test_of_what_a_listing_says_has_no_xattrs_none_are_asked(memory):
    class Telling(DelegatingBackend):
        def list_dir(self, path):
            names = {"two"}
            return [
                entry._replace(stat=entry.stat._replace(has_xattrs=entry.name in names))
                for entry in self.inner.list_dir(path)
            ]

    memory.set_xattr("d/two", "user.a", b"value")
    watched, cache = cached(Telling(memory))
    assert cache.get_xattr("d/two", "user.a") == b"value"
    cache.list_dir("d")
    with watched.silent():
        assert cache.list_xattrs("d/one") == []
        with pytest.raises(OSError, match="No data") as raised:
            cache.get_xattr("d/one", "user.a")
    assert raised.value.errno == errno.ENODATA
    cache.set_xattr("d/one", "user.a", b"new")
    assert cache.get_xattr("d/one", "user.a") == b"new"


def test_without_xattrs_nothing_is_asked():
    watched, cache = cached(MemoryBackend(dataclasses.replace(ALL_CAPABILITIES, xattrs=False, privileged_xattrs=False)))
    with watched.silent():
        for call in (
            lambda: cache.get_xattr("", "user.a"),
            lambda: cache.list_xattrs(""),
            lambda: cache.set_xattr("", "user.a", b""),
            lambda: cache.remove_xattr("", "user.a"),
        ):
            with pytest.raises(NotSupportedError):
                call()


def test_space_usage_is_asked_once_a_second(memory):
    watched, cache = cached(memory)
    for _ in range(10):
        cache.space_usage()
    assert watched.count(Operation.SPACE_USAGE) <= 2


def test_a_name_in_another_case_than_listed_is_not_there():
    """Whatever a layer that does not tell cases apart would find: and without asking it."""
    capabilities = dataclasses.replace(ALL_CAPABILITIES, case_sensitive=False)
    watched, cache = cached(MemoryBackend(capabilities))
    cache.mkdir("d", 0o755)
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            cache.stat("D")
    assert cache.stat("d").type is FileType.DIRECTORY
    assert watched.calls[Operation.STAT, "D"] == 0


def test_a_revalidated_file_has_the_names_beside_it_asked_for_one_by_one(memory):
    watched, cache = cached(memory, ttl=3600.0)
    cache.list_dir("d")
    with cache.open("d/one", Access.READ) as file:
        write_file(memory, "d/new", b"1")
        memory.unlink("d/two")
        with pytest.raises(FileNotFoundError):
            cache.stat("d/new")
        file.revalidate()
        listings_made = watched.count(Operation.LIST_DIR)
        assert cache.stat("d/new").size == 1
        with pytest.raises(FileNotFoundError):
            cache.stat("d/two")
        assert watched.count(Operation.LIST_DIR) == listings_made
        assert {entry.name for entry in cache.list_dir("d")} == {"link", "new", "one"}


def test_a_listing_under_way_while_a_file_is_revalidated_is_not_kept(memory):
    watched, cache = cached(memory, ttl=3600.0)
    file = cache.open("d/one", Access.READ)
    listed, go_on = threading.Event(), threading.Event()
    inner_list_dir = watched.list_dir

    def list_dir(path):
        entries = inner_list_dir(path)
        listed.set()
        assert go_on.wait(10)
        return entries

    watched.list_dir = list_dir
    with ThreadPoolExecutor(1) as pool, file:
        listing = pool.submit(cache.list_dir, "d")
        assert listed.wait(10)
        write_file(memory, "d/new", b"1")
        file.revalidate()
        go_on.set()
        listing.result(10)
        assert cache.stat("d/new").size == 1


def test_revalidating_costs_no_listing_where_nobody_else_changes_the_layer(memory):
    watched, cache = cached(memory)
    cache.list_dir("d")
    with cache.open("d/one", Access.READ) as file:
        file.revalidate()
    with watched.silent():
        cache.stat("d/two")
