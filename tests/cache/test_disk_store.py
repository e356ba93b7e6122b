"""The store on disk: what is found is what was kept, whatever happened to the files in between."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
import threading
import time

import pytest

from netoverlay.cache import disk_store
from netoverlay.cache.disk_store import MAX_ENTRY, MIN_LIMIT, SHARDS, DiskStore
from netoverlay.cache.keys import entry_key
from netoverlay.cache.records import HEADER_BYTES, header


@pytest.fixture
def store(tmp_path):
    store = DiskStore(str(tmp_path))
    yield store
    store.close()


def contents(directory):
    return sorted((directory / "content-2").glob("[0-9a-f][0-9a-f]/*"))


@pytest.mark.parametrize("data", [b"", b"x", os.urandom(70_000), os.urandom(MAX_ENTRY)])
def test_what_is_put_is_found(store, tmp_path, data):
    key = entry_key("layer", "path", len(data))
    assert store.read(key) is None
    assert key not in store
    assert store.put(key, data)
    assert key in store
    assert store.read(key) == data
    again = DiskStore(str(tmp_path))
    assert again.read(key) == data
    descriptor = again.open(key)
    assert os.pread(descriptor, MAX_ENTRY, HEADER_BYTES) == data
    os.close(descriptor)


def test_parts_of_a_key_do_not_run_together():
    assert len({entry_key("ab", "c"), entry_key("a", "bc"), entry_key("abc"), entry_key("a", "b", "c")}) == 4
    assert entry_key("\udcff") != entry_key("\udcfe")


def test_an_entry_larger_than_the_limit_is_refused(store):
    assert not store.put(entry_key("x"), bytes(MAX_ENTRY + 1))


@pytest.mark.parametrize("damage", ["truncate", "empty", "flip", "grow", "no header", "other header", "symlink"])
def test_a_damaged_entry_is_dropped(store, tmp_path, damage):
    key = entry_key("k")
    store.put(key, b"content" * 100)
    path = contents(tmp_path)[0]
    if damage in ("truncate", "empty"):
        os.truncate(path, 10 if damage == "truncate" else 0)
    elif damage == "flip":
        path.write_bytes(path.read_bytes()[:-1] + b"C")
    elif damage == "grow":
        path.write_bytes(path.read_bytes() + b"x")
    elif damage == "symlink":
        path.unlink()
        path.symlink_to("/etc/hostname")
    else:
        other = b"" if damage == "no header" else header(b"", b"another" * 100)
        path.write_bytes(other + path.read_bytes()[HEADER_BYTES:])
    other = DiskStore(str(tmp_path))
    assert other.read(key) is None
    assert other.put(key, b"content" * 100)
    assert other.read(key) == b"content" * 100


def test_what_is_expected_is_there(store, monkeypatch):
    store.put(entry_key("k"), b"content")
    assert store.expect(entry_key("k"))
    assert not store.expect(entry_key("other"))
    with monkeypatch.context() as patch:
        patch.setattr(disk_store.os, "posix_fadvise", lambda *_: os.stat("/absent"))
        assert not store.expect(entry_key("k"))
    assert store.read(entry_key("k")) == b"content"
    store.close()
    assert not store.expect(entry_key("k"))


def test_truncation_is_noticed_by_who_has_checked_before(store, tmp_path):
    key = entry_key("k")
    store.put(key, b"content")
    assert store.read(key) == b"content"
    os.truncate(contents(tmp_path)[0], HEADER_BYTES + 3)
    assert store.read(key) is None


def test_the_directory_is_private(store, tmp_path):
    root = tmp_path / "content-2"
    assert root.stat().st_mode & 0o777 == 0o700
    root.chmod(0o777)
    DiskStore(str(tmp_path))
    assert root.stat().st_mode & 0o777 == 0o700


def test_a_directory_of_another_user_is_not_used(tmp_path, caplog, monkeypatch):
    DiskStore(str(tmp_path)).put(entry_key("k"), b"x")
    monkeypatch.setattr(disk_store.os, "geteuid", lambda: os.getuid() + 1)
    store = DiskStore(str(tmp_path))
    assert store.read(entry_key("k")) is None
    assert not store.put(entry_key("k"), b"x")
    assert "belongs to user" in caplog.text


def test_a_symlink_in_place_of_the_directory_is_not_followed(tmp_path, caplog):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "content-2").symlink_to(elsewhere)
    store = DiskStore(str(tmp_path))
    assert not store.put(entry_key("k"), b"x")
    assert list(elsewhere.iterdir()) == []
    assert len(caplog.records) == 1


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_a_store_that_cannot_be_written_is_bypassed_with_one_warning(store, tmp_path, monkeypatch, caplog, code):
    store.put(entry_key("before"), b"x")

    def fail(*_args):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(disk_store.os, "writev", fail)
        for number in range(5):
            assert not store.put(entry_key(number), b"x")
            store._resume = 0.0
        assert not store.put(entry_key("last"), b"x")
    assert not store.is_writable
    assert store.read(entry_key("before")) == b"x"
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert list((tmp_path / "content-2/incoming").iterdir()) == []
    now = time.monotonic()
    monkeypatch.setattr(disk_store.time, "monotonic", lambda: now + 61)
    assert store.put(entry_key("after"), b"x")


def test_a_directory_that_cannot_be_made_is_bypassed(tmp_path, caplog):
    (tmp_path / "file").write_bytes(b"")
    store = DiskStore(str(tmp_path / "file" / "cache"))
    assert not store.put(entry_key("k"), b"x")
    assert store.read(entry_key("k")) is None
    assert entry_key("k") not in store
    assert len(caplog.records) == 1


def keys_of_one_shard(count):
    keys = (entry_key(number) for number in range(100 * SHARDS * count))
    return [key for key in keys if int(key[:2], 16) % SHARDS == 0][:count]


def test_the_least_recently_used_go_first(tmp_path):
    store = DiskStore(str(tmp_path), MIN_LIMIT)
    keys = keys_of_one_shard(20)
    size = MAX_ENTRY // 4
    for age, key in enumerate(keys[:7]):
        store.put(key, os.urandom(size))
        path = tmp_path / "content-2/00" / key
        os.utime(path, (time.time() - 90_000 + age,) * 2)
    used = store.open(keys[0])
    os.close(used)
    for key in keys[7:12]:
        store.put(key, os.urandom(size))
    kept = {path.name for path in contents(tmp_path)}
    assert keys[0] in kept, "its use was noted"
    assert keys[1] not in kept
    assert keys[11] in kept
    assert sum(path.stat().st_blocks * 512 for path in contents(tmp_path)) <= MIN_LIMIT // SHARDS


def test_an_open_entry_outlives_its_eviction(tmp_path):
    store = DiskStore(str(tmp_path), MIN_LIMIT)
    keys = keys_of_one_shard(20)
    store.put(keys[0], b"first")
    os.utime(tmp_path / "content-2/00" / keys[0], (1, 1))
    held = store.open(keys[0])
    os.utime(tmp_path / "content-2/00" / keys[0], (1, 1))
    for key in keys[1:]:
        store.put(key, os.urandom(MAX_ENTRY // 4))
    assert keys[0] not in store
    assert os.pread(held, 10, HEADER_BYTES) == b"first"
    os.close(held)


def test_what_a_crash_left_is_cleared(store, tmp_path):
    incoming = tmp_path / "content-2/incoming"
    for name, age in (("old", 7200), ("young", 10)):
        (incoming / name).write_bytes(b"part")
        os.utime(incoming / name, (time.time() - age,) * 2)
    DiskStore(str(tmp_path))
    assert [path.name for path in incoming.iterdir()] == ["young"]


def test_closing_under_use(tmp_path):
    store = DiskStore(str(tmp_path))
    failures = []

    def work(name):
        for number in range(200):
            key = entry_key(name, number)
            if store.put(key, key.encode()) and store.read(key) not in (key.encode(), None):
                failures.append(key)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    store.close()
    for thread in threads:
        thread.join()
    assert not failures
    assert entry_key(0, 0) not in store


WORKER = """
import sys
from netoverlay.cache.disk_store import MIN_LIMIT, DiskStore
from netoverlay.cache.keys import entry_key
store = DiskStore(sys.argv[1], MIN_LIMIT)
for turn in range(2):
    for number in range(400):
        key, data = entry_key("shared", number % 150), bytes([number % 150]) * (40_000 + number % 150)
        found = store.read(key)
        if found is not None and found != data:
            sys.exit(f"entry {number} is wrong")
        if found is None and not store.put(key, data):
            sys.exit("could not write")
"""


def test_two_processes_on_one_store(tmp_path, caplog):
    workers = [subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path)]) for _ in range(2)]
    try:
        assert [worker.wait(100) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    store = DiskStore(str(tmp_path))
    for number in range(150):
        assert store.read(entry_key("shared", number)) == bytes([number]) * (40_000 + number)
    assert list((tmp_path / "content-2/incoming").iterdir()) == []
    assert not caplog.records
