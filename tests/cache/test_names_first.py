"""Of a layer whose names cost less than their attributes: what is asked for one name, for many, and for a walk."""

from __future__ import annotations

import dataclasses
import errno

import pytest

from netoverlay.backend_api import FileType, NamedEntry, UnavailableError
from netoverlay.cache import asked_singly, packed_listings, packs
from netoverlay.cache.disk_store import DiskStore
from netoverlay.cache.kept_layer import KeptLayer
from netoverlay.cache.kept_listing import decode_names, encode_names
from netoverlay.cache.metadata import MetadataCache
from netoverlay.cache.name_use import ASKED_SINGLY
from netoverlay.testing.memory_backend import ALL_CAPABILITIES, MemoryBackend
from netoverlay.wrappers.intercept import Operation
from tests.cache.calls import WatchedBackend, write_file

NAMES = [f"file{number:02}" for number in range(20)]
LOOKS = (Operation.STAT, Operation.LIST_NAMES, Operation.LIST_DIR)


@pytest.fixture
def layer():
    memory = MemoryBackend(dataclasses.replace(ALL_CAPABILITIES, names_first=True))
    memory.connect()
    for directory in ("a", "b", "c", "d", "e"):
        memory.mkdir(directory, 0o755)
        for name in NAMES:
            write_file(memory, f"{directory}/{name}", b"12345")
    return memory


def cached(layer, **options):
    watched = WatchedBackend(layer)
    cache = MetadataCache(watched, **{"ttl": None, "ahead": 0, **options})
    cache.connect()
    return watched, cache


def counts(watched):
    return tuple(watched.count(operation) for operation in LOOKS)


def test_one_name_costs_the_names_and_one_look(layer):
    watched, cache = cached(layer)
    assert cache.stat("a/file03") == layer.stat("a/file03")
    assert counts(watched) == (1, 1, 0)
    with watched.silent():
        assert cache.stat("a/file03").size == 5
        with pytest.raises(FileNotFoundError):
            cache.stat("a/none")


def test_many_names_are_fetched_at_once(layer):
    watched, cache = cached(layer)
    for name in NAMES:
        assert cache.stat(f"a/{name}") == layer.stat(f"a/{name}")
    assert counts(watched) == (ASKED_SINGLY, 1, 1)


def test_of_a_huge_directory_too(layer, monkeypatch):
    """Though it is not listed again for the sake of one name when nothing of it is kept."""
    monkeypatch.setattr(asked_singly, "HUGE_DIRECTORY", 10)
    watched, cache = cached(layer)
    for name in NAMES:
        assert cache.stat(f"a/{name}") == layer.stat(f"a/{name}")
    assert counts(watched) == (ASKED_SINGLY, 1, 1)


def test_after_a_directory_of_which_much_was_wanted_the_next_is_fetched_whole(layer):
    watched, cache = cached(layer)
    for name in NAMES:
        cache.stat(f"a/{name}")
    before = counts(watched)
    for name in NAMES:
        cache.stat(f"b/{name}")
    assert counts(watched) == (before[0], before[1], before[2] + 1)


def test_and_names_alone_when_little_was_wanted_of_the_last_ones(layer):
    watched, cache = cached(layer)
    for name in NAMES:
        cache.stat(f"a/{name}")
    for directory in "bcd":
        cache.stat(f"{directory}/file00")
    before = counts(watched)
    cache.stat("e/file00")
    assert counts(watched) == (before[0] + 1, before[1] + 1, before[2])


def test_who_lists_gets_all_in_one_listing(layer):
    watched, cache = cached(layer)
    assert sorted(cache.list_dir("a")) == sorted(layer.list_dir("a"))
    assert counts(watched) == (0, 0, 1)
    with watched.silent():
        assert cache.stat("a/file03").size == 5


def test_who_lists_after_a_lookup_does_too(layer):
    watched, cache = cached(layer)
    cache.stat("a/file03")
    assert sorted(cache.list_dir("a")) == sorted(layer.list_dir("a"))
    assert counts(watched) == (1, 1, 1)


def test_a_walk_fetches_whole_directories_ahead(layer):
    watched, cache = cached(layer, ahead=16)
    with cache:
        for entry in cache.list_dir(""):
            assert len(cache.list_dir(entry.name)) == len(NAMES)
        assert watched.count(Operation.LIST_NAMES) == watched.count(Operation.STAT) == 0
        assert watched.count(Operation.LIST_DIR) == 6


def test_a_walk_finds_the_directories_below_one_of_which_only_names_are_known():
    layer = MemoryBackend(dataclasses.replace(ALL_CAPABILITIES, names_first=True))
    layer.connect()
    layer.mkdir("top", 0o755)
    for number in range(8):
        layer.mkdir(f"top/sub{number}", 0o755)
    _, cache = cached(layer)
    cache.stat("top/sub0")
    below = [f"top/sub{number}" for number in range(8)]
    assert cache._listings.subdirectories("top", whole=False) == below
    cache.list_dir("top/sub1")
    assert cache._listings.subdirectories("top", whole=False) == [each for each in below if each != "top/sub1"]


def test_a_change_is_seen_in_a_directory_of_which_only_names_are_known(layer):
    _, cache = cached(layer)
    cache.stat("a/file03")
    write_file(cache, "a/new", b"123")
    cache.unlink("a/file04")
    assert cache.stat("a/new").size == 3
    with pytest.raises(FileNotFoundError):
        cache.stat("a/file04")
    assert sorted(cache.list_dir("a")) == sorted(layer.list_dir("a"))


def test_what_has_gone_since_it_was_listed_is_absent(layer):
    watched, cache = cached(layer)
    cache.stat("a/file03")
    layer.unlink("a/file04")
    with pytest.raises(FileNotFoundError):
        cache.stat("a/file04")
    with watched.silent(), pytest.raises(FileNotFoundError):
        cache.stat("a/file04")


def test_what_may_not_be_looked_at_is_shown_as_a_listing_does(layer):
    watched, cache = cached(layer)

    def deny(path):
        if path == "a/file03":
            raise PermissionError(errno.EACCES, "no")

    watched.before[Operation.STAT] = deny
    assert cache.stat("a/file03").type is FileType.REGULAR


def test_an_unreachable_layer_is_not_asked_a_second_way(layer):
    watched, cache = cached(layer)
    cache.stat("a/file03")

    def fail(_):
        raise UnavailableError("gone")

    watched.before[Operation.STAT] = fail
    with watched.silent(Operation.STAT), pytest.raises(UnavailableError):
        cache.stat("a/file04")


def test_a_later_mount_asks_for_nothing_that_was_asked_for(layer, tmp_path):
    def mounted():
        layer.connect()
        kept = KeptLayer(DiskStore(str(tmp_path)), "layer", "")
        kept.connected(layer.capabilities, layer.stat(""), asked_user=False)
        return cached(layer, kept=kept)

    _, cache = mounted()
    assert cache.stat("a/file03").size == 5
    cache.list_dir("b")
    cache.close()
    watched, cache = mounted()
    with watched.silent():
        assert cache.stat("a/file03") == layer.stat("a/file03")
        with pytest.raises(FileNotFoundError):
            cache.stat("a/none")
        assert cache.stat("b/file04") == layer.stat("b/file04")
        assert sorted(cache.list_dir("b")) == sorted(layer.list_dir("b"))
    assert cache.stat("a/file04") == layer.stat("a/file04")
    assert counts(watched) == (1, 0, 0)
    assert sorted(cache.list_dir("a")) == sorted(layer.list_dir("a"))
    cache.close()
    watched, cache = mounted()
    with watched.silent():
        assert sorted(cache.list_dir("a")) == sorted(layer.list_dir("a"))
        assert cache.stat("a/file05") == layer.stat("a/file05")


def kept_layer(layer, directory):
    kept = KeptLayer(DiskStore(str(directory)), "layer", "")
    kept.connected(layer.capabilities, layer.stat(""), asked_user=False)
    return kept


def some_names(directory, told=None):
    return [NamedEntry(f"{directory}{number}", FileType.REGULAR, told) for number in range(5)]


def entries_on_disk(directory):
    return list(directory.glob("content-2/[0-9a-f][0-9a-f]/*"))


def test_names_of_directories_beside_each_other_are_written_and_read_at_once(layer, tmp_path, reads):
    names = [f"d{number:02}" for number in range(40)]
    kept = kept_layer(layer, tmp_path)
    before = len(entries_on_disk(tmp_path))
    kept.keep_names((name, some_names(name)) for name in (*names, "d00/below"))
    assert len(entries_on_disk(tmp_path)) == before + 2
    later = kept_layer(layer, tmp_path)
    reads.clear()
    assert [later.names(name).entries for name in names] == [some_names(name) for name in names]
    assert reads.count(reads[0]) == 1, "the pack"
    assert len(reads) == len(names) + 1, "and what else is known of each"
    assert later.names("d00/below").entries == some_names("d00/below")
    assert later.names("other") is None


def test_of_names_that_were_kept_again_the_later_ones_are_found(layer, tmp_path):
    stat = layer.stat("a/file00")
    for told in (None, stat):
        kept_layer(layer, tmp_path).keep_names((name, some_names(name, told)) for name in ("d", "e"))
    assert kept_layer(layer, tmp_path).names("d").entries == some_names("d", stat)


def test_names_for_which_there_is_no_room_begin_anew(layer, tmp_path, monkeypatch):
    monkeypatch.setattr(packs, "PACK_BYTES", 1000)
    for turn in range(20):
        kept = kept_layer(layer, tmp_path)
        kept.names("d")
        kept.keep_names([("d", some_names(f"{turn}-")), ("e", some_names("e"))])
        assert kept_layer(layer, tmp_path).names("d").entries == some_names(f"{turn}-")
    assert max(path.stat().st_size for path in entries_on_disk(tmp_path)) < 2000


def test_names_that_are_too_many_to_be_packed_are_found_too(layer, tmp_path, monkeypatch):
    monkeypatch.setattr(packed_listings, "PACKED_LISTING", 20)
    kept_layer(layer, tmp_path).keep_names([("d", some_names("d")), ("e", [])])
    later = kept_layer(layer, tmp_path)
    assert later.names("d").entries == some_names("d")
    assert later.names("e").entries == []


@pytest.mark.parametrize("count", [0, 1, 3])
def test_names_on_disk_are_what_was_put_there(layer, count):
    entries = [
        NamedEntry("a\udcff", FileType.REGULAR, None),
        NamedEntry("b", FileType.DIRECTORY, None),
        NamedEntry("c", FileType.REGULAR, layer.stat("a/file00")),
    ][:count]
    assert decode_names(encode_names(entries)) == entries
