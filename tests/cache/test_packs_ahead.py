"""Packs that a walk will want: announced to the disk once each, before they are wanted, where there is a walk."""

from __future__ import annotations

import pytest

from netoverlay.backend_api import join_path
from netoverlay.cache.disk_store import DiskStore
from netoverlay.cache.packs_ahead import AHEAD, PacksAhead
from netoverlay.testing.memory_backend import MemoryBackend
from tests.cache.calls import write_file
from tests.cache.test_small_files import Mount

DIRECTORIES = [f"d{number:02}" for number in range(30)]


class Announced:
    """What is announced of the directories in `tree`, which maps a directory to those in it."""

    def __init__(self, tree, without=()):
        self.paths = []
        self.without = without
        self.ahead = PacksAhead(self._expect, lambda path: [join_path(path, name) for name in tree.get(path, ())])

    def _expect(self, path):
        self.paths.append(path)
        return path not in self.without

    def of(self, path):
        before = len(self.paths)
        self.ahead.wanted(path)
        return self.paths[before:]


def test_a_walk_has_each_announced_once_and_before_it_is_wanted():
    announced = Announced({"": DIRECTORIES})
    assert announced.of("d00") == []
    assert announced.of("d01") == DIRECTORIES[2 : 2 + AHEAD]
    for number in range(2, 30):
        assert announced.of(DIRECTORIES[number]) == DIRECTORIES[number + AHEAD : number + AHEAD + 1]
    assert announced.paths == DIRECTORIES[2:]


def test_a_walk_goes_on_below_and_in_the_next_parent():
    announced = Announced({"": ["a", "b"], "a": ["1", "2", "3"], "b": ["1", "2", "3"], "a/2": ["x", "y"]})
    assert announced.of("a/1") == []
    assert announced.of("a/2") == ["a/2/x", "a/2/y", "a/3"]
    for path in ("a/2/x", "a/2/y", "a/3"):
        assert announced.of(path) == []
    assert announced.of("b/1") == ["b/2", "b/3"]


def test_directories_here_and_there_are_no_walk():
    announced = Announced({"": ["a", "b", "c"], "a": DIRECTORIES, "b": DIRECTORIES, "c": DIRECTORIES})
    for path in ("a/d01", "b/d03", "c/d05", "a/d07", "a/d07", "c/d09"):
        assert announced.of(path) == []


def test_what_has_no_pack_keeps_nothing_from_being_announced():
    announced = Announced({"": DIRECTORIES}, without=DIRECTORIES[2:22])
    for path in ("d00", "d01"):
        announced.of(path)
    assert announced.of("d22") == DIRECTORIES[23:]


def test_what_a_walk_passes_over_keeps_nothing_from_being_announced():
    announced = Announced({"": DIRECTORIES})
    for path in ("d00", "d01"):
        announced.of(path)
    assert announced.of("d09") == DIRECTORIES[10:18]


@pytest.fixture
def layer():
    layer = MemoryBackend()
    layer.connect()
    for directory in DIRECTORIES:
        layer.mkdir(directory, 0o755)
        for name in ("a", "b", "c"):
            write_file(layer, f"{directory}/{name}", b"content")
    return layer


@pytest.fixture
def expected(monkeypatch):
    keys = []
    monkeypatch.setattr(DiskStore, "expect", lambda store, key: keys.append(key) or key in store)
    return keys


def test_a_remounted_walk_announces_packs_and_the_first_one_does_not(layer, tmp_path, expected):
    first = Mount(layer, tmp_path)
    contents = dict(first.walk())
    first.quiesce()
    assert expected == []
    later = Mount(layer, tmp_path)
    assert dict(later.walk()) == contents
    assert later.opened() == []
    assert len(expected) == len(set(expected)) == len(DIRECTORIES) - 2
    later.quiesce()
