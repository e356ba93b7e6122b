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
    """What is announced of the directories in `tree`, which maps a directory to those in it, and what that takes."""

    def __init__(self, tree, without=()):
        self.paths = []
        self.looked_into = []
        self.without = without
        self._tree = tree
        self.ahead = PacksAhead(self._expect, self._below)

    def _expect(self, path):
        self.paths.append(path)
        return path not in self.without

    def _below(self, path):
        self.looked_into.append(path)
        return [join_path(path, name) for name in self._tree.get(path, ())]

    def of(self, path):
        before = len(self.paths)
        self.ahead.wanted(path)
        return self.paths[before:]


def test_a_walk_has_each_announced_once_and_before_it_is_wanted_few_at_first():
    announced = Announced({"": DIRECTORIES})
    assert announced.of("d00") == []
    assert announced.of("d01") == DIRECTORIES[2:4]
    assert announced.of("d02") == DIRECTORIES[4:7]
    assert announced.of("d03") == DIRECTORIES[7:12]
    for number in range(4, 30):
        assert announced.of(DIRECTORIES[number]) == DIRECTORIES[number + AHEAD : number + AHEAD + 1]
    assert announced.paths == DIRECTORIES[2:]


def test_a_walk_goes_on_below_and_in_the_next_parent():
    announced = Announced({"": ["a", "b"], "a": ["1", "2", "3"], "b": ["1", "2", "3"], "a/2": ["x", "y"]})
    assert announced.of("a/1") == []
    assert announced.of("a/2") == ["a/2/x", "a/2/y"]
    assert announced.of("a/2/x") == ["a/3"]
    for path in ("a/2/y", "a/3"):
        assert announced.of(path) == []
    assert announced.of("b/1") == ["b/2", "b/3"]


@pytest.mark.parametrize("when", range(3))
def test_the_files_of_a_directory_are_read_before_those_in_the_directories_below_or_later(when):
    announced = Announced({"": ["a"], "a": DIRECTORIES[:4]})
    walk = [f"a/{name}" for name in DIRECTORIES[:4]]
    walk.insert(when, "a")
    for path in walk:
        announced.of(path)
    assert announced.paths == [f"a/{name}" for name in DIRECTORIES[1 if when == 0 else 2 : 4]]


def test_directories_here_and_there_are_no_walk():
    announced = Announced({"": ["a", "b", "c"], "a": DIRECTORIES, "b": DIRECTORIES, "c": DIRECTORIES})
    for path in ("a/d01", "b/d03", "c/d05", "a/d07", "a/d07", "c/d09"):
        assert announced.of(path) == []
    assert announced.looked_into == []


@pytest.mark.parametrize("order", [DIRECTORIES[::-1], DIRECTORIES[::2], DIRECTORIES[1::2] + DIRECTORIES[::2]])
def test_directories_of_one_parent_in_another_order_are_no_walk(order):
    announced = Announced({"": DIRECTORIES})
    for path in order:
        assert announced.of(path) == []
    assert announced.looked_into == [""]


def test_in_a_directory_of_very_many_the_next_ones_are_announced():
    names = [f"{number:05}" for number in range(6000)]
    announced = Announced({"": names})
    for name in names[:1000]:
        announced.of(name)
    assert announced.paths == sorted(set(announced.paths))
    assert len(set(names[2:1000]).difference(announced.paths)) <= 1000 // 256
    assert announced.paths[-1] <= names[1000 + AHEAD]
    assert announced.looked_into.count("") == 1


def test_what_has_no_pack_keeps_nothing_from_being_announced_but_few_are_looked_for_at_a_time():
    announced = Announced({"": DIRECTORIES}, without=DIRECTORIES[2:22])
    assert announced.of("d00") == []
    assert announced.of("d01") == DIRECTORIES[2 : 2 + AHEAD]
    assert announced.of("d22") == []
    assert announced.of("d23") == DIRECTORIES[24:26]


def test_what_a_walk_passes_over_keeps_nothing_from_being_announced():
    announced = Announced({"": DIRECTORIES})
    for path in DIRECTORIES[:4]:
        announced.of(path)
    assert announced.of("d11") == DIRECTORIES[12:20]


def test_a_thread_does_not_wait_for_another_that_looks_into_a_directory():
    asked = []

    def below(path):
        asked.append(path)
        ahead.wanted("d02")  # as another thread would
        return DIRECTORIES

    ahead = PacksAhead(lambda path: True, below)
    for path in ("d00", "d01"):
        ahead.wanted(path)
    assert asked == ["", "d01"]


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
