"""Listings on disk: found again as they were, by every mount of the layer, and never believed when they are damaged."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netoverlay.backend_api import Capabilities, DirEntry, FileStat, FileType
from netoverlay.cache import kept_layer, packed_listings, packs
from netoverlay.cache.disk_store import DiskStore
from netoverlay.cache.kept_layer import KeptLayer
from netoverlay.cache.kept_listing import Extras, decode_extras, decode_listing, encode_extras, encode_listing
from netoverlay.cache.metadata import MetadataCache
from netoverlay.testing.memory_backend import MemoryBackend
from netoverlay.wrappers.intercept import Operation
from tests.cache.calls import WatchedBackend, write_file

CAPABILITIES = Capabilities()
ROOT = FileStat(FileType.DIRECTORY, 4096, 0o755, 0, 0, 1_700_000_000_000_000_000, atime_ns=5, file_id=(1 << 64) - 1)
LAYER = "sftp://host/base"


def connected(directory, layer=LAYER, appearance="", root=ROOT, capabilities=CAPABILITIES):
    kept = KeptLayer(DiskStore(str(directory)), layer, appearance)
    kept.connected(capabilities, root, asked_user=False)
    return kept


def entries_of(*names, size=3):
    return [DirEntry(name, FileStat(FileType.REGULAR, size, 0o644, None, None, -1)) for name in names]


names = st.binary(min_size=1, max_size=20).filter(lambda name: b"\0" not in name and b"/" not in name).map(os.fsdecode)
integers = st.integers(-(1 << 63), (1 << 64) - 1)
numbers = st.none() | integers
told = st.none() | st.booleans()
fields = (st.sampled_from(FileType), integers, *[numbers] * 3, integers, *[numbers] * 6, told)
stats = st.tuples(*fields).map(FileStat._make)


@given(st.dictionaries(names, stats, max_size=5))
def test_every_name_and_number_comes_back(listing):
    entries = [DirEntry(*item) for item in listing.items()]
    assert decode_listing(encode_listing(entries)) == entries
    assert all(isinstance(entry.stat.type, FileType) for entry in decode_listing(encode_listing(entries)))


@given(
    st.dictionaries(names, names), st.dictionaries(names, st.dictionaries(names, st.none() | st.binary(), max_size=3))
)
def test_extras_come_back(targets, xattrs):
    assert decode_extras(encode_extras(Extras(targets, xattrs))) == Extras(targets, xattrs)


def test_a_later_mount_finds_all_of_it(tmp_path):
    kept = connected(tmp_path)
    listed = [*entries_of("\udcff"), DirEntry("a", ROOT._replace(type=FileType.SYMLINK))]
    kept.keep_listing("d", listed)
    kept.keep_listing("", [])
    kept.keep_target("d/a", "over/\udcfethere")
    kept.keep_xattrs("d/a", {"user.x": b"\0", "user.large": None})
    kept.flush()
    later = KeptLayer(DiskStore(str(tmp_path)), LAYER, "")
    assert later.facts == kept.facts
    assert later.facts.root == ROOT
    assert later.facts.capabilities == Capabilities()
    entries, extras = later.listing("d")
    assert entries == listed
    assert extras == Extras({"a": "over/\udcfethere"}, {"a": {"user.x": b"\0", "user.large": None}})
    assert later.listing("").entries == []
    assert later.listing("other") is None
    for other in (connected(tmp_path, "sftp://host/other"), connected(tmp_path, appearance="mode=0o700")):
        assert other.listing("d") is None


@pytest.mark.parametrize(
    "change",
    [
        {"root": ROOT._replace(mtime_ns=1)},
        {"root": ROOT._replace(file_id=7)},
        {"capabilities": Capabilities(xattrs=True)},
    ],
)
def test_of_a_base_that_has_changed_nothing_is_believed(tmp_path, change, caplog):
    connected(tmp_path).keep_listing("d", entries_of("a"))
    assert connected(tmp_path, root=ROOT._replace(atime_ns=99)).listing("d") is not None
    later = KeptLayer(DiskStore(str(tmp_path)), LAYER, "")
    told = []
    later.on_other_edition = lambda: told.append(later.listing("d"))
    later.connected(**{"capabilities": Capabilities(), "root": ROOT, **change}, asked_user=False)
    assert told == [None]
    assert "has changed" in caplog.text
    assert connected(tmp_path, **change).listing("d") is None
    assert connected(tmp_path).listing("d") is None


def test_another_access_time_is_not_written(tmp_path):
    connected(tmp_path)
    (before,) = files_of(tmp_path)
    inode = before.stat().st_ino
    kept = connected(tmp_path, root=ROOT._replace(atime_ns=99))
    assert [path.stat().st_ino for path in files_of(tmp_path)] == [inode]
    kept.connected(CAPABILITIES, ROOT, asked_user=True)
    assert KeptLayer(DiskStore(str(tmp_path)), LAYER, "").facts.asked_user


def files_of(directory):
    return [path for path in directory.glob("content-2/*/*") if path.is_file() and not path.is_symlink()]


def test_what_is_damaged_is_not_there(tmp_path):
    for damage in (b"", b"x", None):
        kept = connected(tmp_path)
        before = set(files_of(tmp_path))
        kept.keep_listing("d", entries_of("a"))
        (made,) = set(files_of(tmp_path)) - before
        if damage is None:
            made.write_bytes(made.read_bytes()[:-1] + b"!")
        else:
            made.write_bytes(damage)
        assert connected(tmp_path).listing("d") is None
        made.unlink(missing_ok=True)


def test_what_is_whole_and_of_another_format_is_not_there(tmp_path):
    kept = connected(tmp_path)
    key = kept._key("listing", "d")
    for data in (b"", b"x", b"\xff" * 100, kept_layer._HEADER.pack(1, 3, kept_layer._digest(b"abc")) + b"abc"):
        kept._store.put(key, data)
        assert kept.listing("d") is None
    kept._store.put(kept._facts_key, b"\x93\x01\x02")
    assert KeptLayer(DiskStore(str(tmp_path)), LAYER, "").facts is None


def test_what_is_packed_and_of_another_format_is_not_there(tmp_path):
    kept = connected(tmp_path)
    for data in (b"", b"x", b"\xff" * 100):
        assert kept._packed.put([("d", data)]) == []
        assert kept.listing("d") is None


def test_the_directories_beside_each_other_are_read_at_once(tmp_path, reads):
    kept = connected(tmp_path)
    names = [f"d{number:02}" for number in range(40)]
    for name in ("", *names, "d00/below", "large"):
        kept.keep_listing(name, entries_of(*(f"{name}{file}" for file in range(300 if name == "large" else 5))))
    later = connected(tmp_path)
    reads.clear()
    for name in ("", *names):
        assert later.listing(name).entries == entries_of(*(f"{name}{file}" for file in range(5)))
    assert len(reads) == 1
    assert later.listing("d00/below") is not None
    assert len(reads) == 2
    assert len(later.listing("large").entries) == 300
    assert later.listing("d00").entries == entries_of(*(f"d00{file}" for file in range(5))), "again, by its place"


def test_the_directories_of_one_call_are_written_at_once(tmp_path, appended):
    memory = MemoryBackend()
    memory.connect()
    names = [f"d{number:02}" for number in range(40)]
    for name in names:
        memory.mkdir(name, 0o755)
        memory.mkdir(f"{name}/below", 0o755)
    kept = KeptLayer(DiskStore(str(tmp_path)), LAYER, "")
    cache = MetadataCache(memory, ttl=None, ahead=0, kept=kept)
    kept.connected(cache.connect(), memory.stat(""), asked_user=False)
    assert len(cache._fetcher.list_ahead(names)) == len(names)
    assert len(appended) == 1
    cache._fetcher.list_ahead(["d00/below", "d01/below"])
    assert len(appended) == 3
    later = connected(tmp_path, root=memory.stat(""), capabilities=memory.capabilities)
    assert [len(later.listing(name).entries) for name in (*names, "d00/below")] == [*([1] * 40), 0]


def test_what_is_beside_each_other_and_too_much_is_not_packed(tmp_path, monkeypatch):
    monkeypatch.setattr(packs, "PACK_BYTES", 1000)
    kept = connected(tmp_path)
    names = [f"d{number:02}" for number in range(40)]
    for name in names:
        kept.keep_listing(name, entries_of(name))
    assert len(files_of(tmp_path)) > 10
    later = connected(tmp_path)
    assert [later.listing(name).entries for name in names] == [entries_of(name) for name in names]


@pytest.mark.parametrize("listed", [entries_of("a"), [DirEntry("a", ROOT._replace(type=FileType.SYMLINK))]])
def test_what_a_listing_does_not_tell_is_read_where_there_may_be_some(tmp_path, reads, listed):
    connected(tmp_path).keep_listing("d", listed)
    later = connected(tmp_path)
    reads.clear()
    assert later.listing("d").entries == listed
    assert len(reads) == (2 if listed[0].stat.type is FileType.SYMLINK else 1)


def test_a_large_listing_is_in_pieces_that_belong_together(tmp_path, monkeypatch):
    monkeypatch.setattr(packed_listings, "PACKED_LISTING", 0)
    monkeypatch.setattr(kept_layer, "_PIECE", 500)
    kept, other = connected(tmp_path), connected(tmp_path)
    large = entries_of(*(f"name-{number}" for number in range(100)))
    kept.keep_listing("d", large)
    assert other.listing("d").entries == large
    # Of another process, which was cut off in the middle: pieces of the same size, and of another content.
    first = other._key("listing", "d")
    monkeypatch.setattr(other._store, "put", lambda key, data, put=other._store.put: key != first and put(key, data))
    other.keep_listing("d", entries_of(*(f"name-{number}" for number in range(100)), size=4))
    assert connected(tmp_path).listing("d") is None
    kept.keep_listing("d", large)
    assert connected(tmp_path).listing("d").entries == large


WRITER = """
import sys
from tests.cache.test_kept_layer import connected, entries_of
kept = connected(sys.argv[1])
for turn in range(100):
    for name in "abc":
        kept.keep_listing(name, entries_of(*(f"{name}{number}" for number in range(30))))
        found = kept.listing(name)
        assert found is None or found.entries == entries_of(*(f"{name}{number}" for number in range(30)))
        kept.keep_target(f"{name}/{sys.argv[2]}{turn}", "target")
kept.flush()
"""


def test_a_time_that_no_number_holds_is_not_kept(tmp_path):
    kept = connected(tmp_path)
    kept.keep_listing("d", [DirEntry("a", ROOT._replace(mtime_ns=1 << 70))])
    assert kept.listing("d") is None


def test_two_processes_keep_the_same_listings(tmp_path):
    connected(tmp_path)
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), name]) for name in "xy"]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    kept = connected(tmp_path)
    for name in "abc":
        found = kept.listing(name)
        if found is not None:
            assert found.entries == entries_of(*(f"{name}{number}" for number in range(30)))
            assert set(found.extras.targets.values()) <= {"target"}


@pytest.fixture
def memory():
    backend = MemoryBackend()
    backend.connect()
    backend.mkdir("d", 0o755)
    write_file(backend, "d/one", b"12345")
    backend.symlink("d/link", "one")
    backend.set_xattr("d/one", "user.x", b"value")
    backend.set_xattr("d/one", "user.large", bytes(5000))
    return backend


def cached(memory, directory):
    watched = WatchedBackend(memory)
    kept = KeptLayer(DiskStore(str(directory)), LAYER, "")
    cache = MetadataCache(watched, ttl=None, ahead=0, kept=kept)
    kept.connected(cache.connect(), memory.stat(""), asked_user=False)
    return watched, cache


def walk(cache, path=""):
    found = {path: cache.stat(path)}
    for name, stat in cache.list_dir(path):
        child = f"{path}/{name}".strip("/")
        if stat.type is FileType.DIRECTORY:
            found |= walk(cache, child)
        elif stat.type is FileType.SYMLINK:
            found[child] = cache.readlink(child)
        else:
            found[child] = (stat, {x: cache.get_xattr(child, x) for x in cache.list_xattrs(child) if x != "user.large"})
    return found


def test_the_walk_of_a_later_mount_asks_nothing(memory, tmp_path):
    _, first = cached(memory, tmp_path)
    found = walk(first)
    first.close()
    watched, later = cached(memory, tmp_path)
    with watched.silent(Operation.CONNECT):
        assert walk(later) == found
        assert later.stat("d/one").size == 5
        with pytest.raises(FileNotFoundError):
            later.stat("d/absent")
        with pytest.raises(OSError, match="No data available"):
            later.get_xattr("d/one", "user.absent")
    assert later.get_xattr("d/one", "user.large") == bytes(5000)


def test_once_it_is_changed_nothing_is_kept_any_more(memory, tmp_path):
    _, first = cached(memory, tmp_path)
    walk(first)
    first.unlink("d/one")
    assert [name for name, _ in first.list_dir("d")] == ["link"]
    with pytest.raises(FileNotFoundError):
        first.stat("d/one")


def test_dropping_a_layer_leaves_the_others(tmp_path):
    for layer in (LAYER, "sftp://host/other"):
        connected(tmp_path, layer).keep_listing("d", entries_of("a"))
    assert DiskStore(str(tmp_path)).drop_layer(LAYER) > 0
    assert DiskStore(str(tmp_path)).drop_layer(LAYER) == 0
    assert connected(tmp_path).listing("d") is None
    assert connected(tmp_path, "sftp://host/other").listing("d") is not None
