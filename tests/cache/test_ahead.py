"""A walk finds its directories listed before it asks for them; what is no walk costs little."""

from __future__ import annotations

import itertools
import threading
import time

import pytest

from netoverlay.backend_api import FileType, UnavailableError, join_path
from netoverlay.cache.ahead import Ahead
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


def wait_until_idle(ahead):
    while ahead._in_flight:
        time.sleep(0.001)


@pytest.fixture
def layer():
    memory = MemoryBackend()
    memory.connect()
    watched = WatchedBackend(memory)
    cache = MetadataCache(watched, ttl=None, ahead=8)
    cache.connect()
    yield memory, watched, cache
    cache.close()


@pytest.mark.parametrize(("depth", "width"), [(1, 200), (3, 6)])
def test_a_walk_is_complete_and_lists_each_directory_once(layer, depth, width):
    memory, watched, cache = layer
    make_tree(memory, depth, width)
    expected = walk(memory)
    assert walk(cache) == expected
    assert watched.count(Operation.LIST_DIR) == len(expected)
    with watched.silent():
        assert walk(cache) == expected


def test_listings_of_a_walk_run_at_once(layer):
    memory, watched, cache = layer
    make_tree(memory, 1, 100)
    arrived, all_here = itertools.count(1), threading.Event()

    def meet(path):
        if path not in ("", "d000", "d001"):
            if next(arrived) == 8:
                all_here.set()
            all_here.wait(60)

    watched.before[Operation.LIST_DIR] = meet
    for path in ("", "d000", "d001"):
        cache.list_dir(path)
    assert all_here.wait(60)


def test_one_directory_is_no_walk(layer):
    memory, watched, cache = layer
    make_tree(memory, 1, 100)
    cache.list_dir("")
    cache.list_dir("d050")
    cache.close()
    assert watched.count(Operation.LIST_DIR) == 2


def test_what_is_not_used_ends():
    fetched, enough = [], threading.Event()

    def fetch(path):
        fetched.append(path)
        if len(fetched) == START_CREDITS:
            enough.set()
        return ()

    ahead = Ahead("test", 4, fetch)
    children = [f"d{number}" for number in range(300)]
    for _ in range(2):
        ahead.missed("", lambda: children)
    assert enough.wait(60)
    time.sleep(0.05)
    ahead.stop()
    ahead.join()
    assert sorted(fetched) == sorted(children[:START_CREDITS]), "the nearest, and no more than was granted"


def test_after_a_failure_nothing_is_fetched():
    fetched = []

    def fetch(path):
        fetched.append(path)
        raise UnavailableError("down")

    ahead = Ahead("test", 1, fetch)
    for _ in range(2):
        ahead.missed("", lambda: ["a", "b", "c"])
    wait_until_idle(ahead)
    ahead.used()
    wait_until_idle(ahead)
    ahead.stop()
    ahead.join()
    assert fetched == ["a"]


def test_an_error_of_our_own_is_told(caplog):
    ahead = Ahead("test", 1, lambda path: 1 // 0)
    for _ in range(2):
        ahead.missed("", lambda: ["a"])
    while not caplog.records:
        time.sleep(0.001)
    ahead.stop()
    ahead.join()
    assert "ZeroDivisionError" in caplog.text


def test_a_failure_ahead_is_nobodys_error_and_ends_it(layer):
    memory, watched, cache = layer
    make_tree(memory, 1, 50)

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
    others = set(threading.enumerate())  # of tests before it in this process
    held, release = threading.Event(), threading.Event()

    def hold(path):
        if path not in ("", "d000", "d001"):
            held.set()
            assert release.wait(60)

    watched.before[Operation.LIST_DIR] = hold
    watched.before[Operation.CLOSE] = lambda _: release.set()
    for path in ("", "d000", "d001"):
        cache.list_dir(path)
    assert held.wait(60)
    cache.close()
    left = set(threading.enumerate()) - others
    assert not [thread.name for thread in left if thread.name.startswith("list-ahead")]
