"""A walk finds its directories listed before it asks for them; what is no walk costs little."""

from __future__ import annotations

import itertools
import threading
import time

import pytest

from netoverlay.backend_api import FileType, UnavailableError, join_path
from netoverlay.cache.ahead import AT_FIRST, WORKERS, Ahead
from netoverlay.cache.allowance import START_CREDITS
from netoverlay.cache.metadata import MetadataCache
from netoverlay.testing.memory_backend import MemoryBackend
from netoverlay.wrappers.intercept import Operation
from tests.cache.calls import WatchedBackend


def make_tree(backend, depth, width, path=""):
    for number in range(width):
        child = join_path(path, f"d{number:03}")
        backend.mkdir(child, 0o755)
        if depth > 1:
            make_tree(backend, depth - 1, width, child)


def walk(backend, path=""):
    found = [path]
    for entry in backend.list_dir(path):
        if entry.stat.type is FileType.DIRECTORY:
            found += walk(backend, join_path(path, entry.name))
    return found


def miss_two(ahead, beside):
    for path in ("x", "y"):
        ahead.missed(path, listed=False, beside=lambda: beside)


def wait_until_idle(ahead):
    while ahead._in_flight:
        time.sleep(0.001)


@pytest.fixture
def layer():
    memory = MemoryBackend()
    memory.connect()
    watched = WatchedBackend(memory)
    cache = MetadataCache(watched, ttl=None, ahead=16)
    yield memory, watched, cache
    cache.close()


@pytest.mark.parametrize(("depth", "width"), [(1, 200), (3, 6)])
def test_a_walk_is_complete_and_lists_each_directory_once(layer, depth, width):
    memory, watched, cache = layer
    make_tree(memory, depth, width)
    cache.connect()
    expected = walk(memory)
    assert walk(cache) == expected
    assert watched.count(Operation.LIST_DIR) == len(expected)
    with watched.silent():
        assert walk(cache) == expected


def test_listings_of_a_walk_run_at_once(layer):
    memory, watched, cache = layer
    make_tree(memory, 1, 100)
    cache.connect()
    arrived, all_here = itertools.count(1), threading.Event()

    def meet(path):
        if path not in ("", "d000"):
            if next(arrived) == WORKERS:
                all_here.set()
            all_here.wait(60)

    watched.before[Operation.LIST_DIR] = meet
    for path in ("", "d000"):
        cache.list_dir(path)
    assert all_here.wait(60)
    cache.close()
    assert max(map(len, watched.listed_together)) == 16 // WORKERS


def test_who_waits_for_what_was_asked_ahead_in_vain_asks_by_himself(layer):
    """The server did not answer that in time; it may be there again now."""
    memory, watched, cache = layer
    make_tree(memory, 2, 2)
    cache.connect()
    begun, waited_for = threading.Event(), threading.Event()

    def fail_first(_path):
        if not begun.is_set():
            begun.set()
            assert waited_for.wait(60)
            raise UnavailableError("silent")

    watched.before[Operation.LIST_DIR] = fail_first
    found = []

    def list_ahead():
        with pytest.raises(UnavailableError):
            cache._fetcher.list_ahead(["d001"])

    ahead = threading.Thread(target=list_ahead)
    waiting = threading.Thread(target=lambda: found.extend(cache.list_dir("d001")))
    ahead.start()
    assert begun.wait(60)
    result = cache._listings._fetches["d001"].result
    waiting.start()
    while not result._waiters:
        waiting.join(0.001)
    waited_for.set()
    for thread in (ahead, waiting):
        thread.join(60)
    assert [entry.name for entry in found] == ["d000", "d001"]


def test_what_is_below_a_listed_directory_is_no_walk(layer):
    memory, watched, cache = layer
    make_tree(memory, 2, 20)
    cache.connect()
    cache.list_dir("")
    cache.stat("d005/d005")
    cache.close()
    assert watched.count(Operation.LIST_DIR) == 2


def test_a_walk_shows_where_it_descends(layer):
    memory, watched, cache = layer
    make_tree(memory, 2, 10)
    cache.connect()
    beside = threading.Barrier(2)

    def meet(path):
        if path in ("d003", "d004"):
            beside.wait(60)

    watched.before[Operation.LIST_DIR] = meet
    cache.list_dir("")
    cache.list_dir("d003")
    cache.close()
    assert watched.count(Operation.LIST_DIR) <= 2 + AT_FIRST


def test_what_is_not_used_ends():
    fetched, enough = [], threading.Event()

    def fetch(paths):
        fetched.extend(paths)
        if len(fetched) == START_CREDITS:
            enough.set()
        return ()

    ahead = Ahead(8, fetch)
    children = [f"d{number:03}" for number in range(300)]
    miss_two(ahead, children)
    assert enough.wait(60)
    time.sleep(0.05)
    ahead.stop()
    ahead.join()
    assert sorted(fetched) == sorted(children[:START_CREDITS]), "the nearest, and no more than was granted"


def test_after_a_failure_nothing_is_fetched():
    fetched = []

    def fetch(paths):
        fetched.extend(paths)
        raise UnavailableError("down")

    ahead = Ahead(1, fetch)
    miss_two(ahead, ["a", "b", "c"])
    wait_until_idle(ahead)
    ahead.used()
    wait_until_idle(ahead)
    ahead.stop()
    ahead.join()
    assert fetched == ["a"]


def test_an_error_of_our_own_is_told(caplog):
    ahead = Ahead(1, lambda _: 1 // 0)
    miss_two(ahead, ["a"])
    while not caplog.records:
        time.sleep(0.001)
    ahead.stop()
    ahead.join()
    assert "ZeroDivisionError" in caplog.text


def test_a_failure_ahead_is_nobodys_error_and_ends_it(layer):
    memory, watched, cache = layer
    make_tree(memory, 1, 50)
    cache.connect()

    def fail(path):
        if path not in ("", "d000", "d001"):
            raise UnavailableError("down")

    watched.before[Operation.LIST_DIR] = fail
    for path in ("", "d000", "d001"):
        cache.list_dir(path)
    with pytest.raises(UnavailableError):
        cache.list_dir("d040")
    watched.before = {}
    assert cache.list_dir("d040") == []


def test_closing_ends_what_is_under_way(layer):
    memory, watched, cache = layer
    make_tree(memory, 1, 50)
    cache.connect()
    others = set(threading.enumerate())  # of tests before it in this process
    held, release = threading.Event(), threading.Event()

    def hold(path):
        if path not in ("", "d000"):
            held.set()
            assert release.wait(60)

    watched.before[Operation.LIST_DIR] = hold
    watched.before[Operation.CLOSE] = lambda _: release.set()
    for path in ("", "d000"):
        cache.list_dir(path)
    assert held.wait(60)
    cache.close()
    left = set(threading.enumerate()) - others
    assert not [thread.name for thread in left if thread.name.startswith("list-ahead")]


@pytest.mark.parametrize(("directory", "in_vain"), [("visible", START_CREDITS), (".hidden", 0)])
def test_names_that_are_looked_for_in_a_hidden_directory_are_no_walk(layer, directory, in_vain):
    memory, watched, cache = layer
    memory.mkdir(directory, 0o755)
    make_tree(memory, 1, 100, directory)
    cache.connect()
    wanted = ["", directory, f"{directory}/d017", f"{directory}/d057"]
    for path in wanted[1:]:
        cache.stat(path)
    for path in wanted[2:]:
        with pytest.raises(FileNotFoundError):
            cache.stat(join_path(path, "absent"))
    wait_until_idle(cache._fetcher._ahead)
    listed = {path for operation, path in watched.calls if operation is Operation.LIST_DIR}
    assert listed >= set(wanted)
    assert len(listed) == len(wanted) + in_vain
