"""What the content cache asks its layer for, and that it gives the layer's bytes."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from netoverlay.backend_api import Access, AttributeChange, Creation, StaleHandleError, UnavailableError
from netoverlay.cache.blocks import BLOCK, FIRST_WINDOW, MAX_WINDOW, RANDOM_BYTES, Plan, Reader
from netoverlay.cache.content import ContentCache
from netoverlay.cache.disk_store import DiskStore
from netoverlay.cache.file_ahead import AHEAD_FILE
from netoverlay.cache.metadata import MetadataCache
from netoverlay.cache.small_files import WHOLE_FILE
from netoverlay.testing.memory_backend import ALL_CAPABILITIES, MemoryBackend
from netoverlay.wrappers.intercept import Operation
from netoverlay.wrappers.metrics import MeteredBackend
from tests.cache.calls import WatchedBackend, read_all, write_file

LARGE = os.urandom(5 * BLOCK + 12_345)
OLD = AttributeChange(mtime_ns=10**18)


class Layer:
    """A layer in memory, and mounts of it: each a content cache on a metadata cache on the watched layer."""

    def __init__(self, directory, capabilities=ALL_CAPABILITIES):
        self.memory = MemoryBackend(capabilities)
        self.memory.connect()
        self.store = DiskStore(str(directory))
        self.caches = []

    def put(self, path, data):
        with contextlib.suppress(FileNotFoundError):
            self.memory.unlink(path)
        write_file(self.memory, path, data)
        self.memory.set_attributes(path, OLD)

    def mount(self, *, immutable=True, ttl=None, store=None, ahead=2, backend=None):
        watched = WatchedBackend(backend or self.memory)
        metadata = MetadataCache(watched, ttl=ttl if not immutable else None, ahead=0)
        cache = ContentCache(metadata, store or self.store, immutable=immutable, ahead=ahead)
        cache.connect()
        cache.stat("")
        cache.list_dir("")
        self.caches.append(cache)
        return watched, cache

    def close(self):
        self.quiesce()
        self.store.close()

    def quiesce(self):
        """What was read is on disk; nothing is fetched ahead any more."""
        fetchers = [fetcher for cache in self.caches for fetcher in cache._fetchers()]
        for fetcher in fetchers:
            fetcher.stop()
        for fetcher in fetchers:
            fetcher.join()


@pytest.fixture
def layer(tmp_path):
    layer = Layer(tmp_path / "cache")
    yield layer
    layer.close()


@pytest.mark.parametrize("data", [b"", b"small", os.urandom(WHOLE_FILE)])
@pytest.mark.parametrize("immutable", [True, False])
def test_a_small_file_is_read_once_and_by_one_visit(layer, data, immutable):
    layer.put("file", data)
    watched, cache = layer.mount(immutable=immutable)
    with cache.open("file", Access.READ) as file, watched.silent():
        assert read_all(file) == data
        assert file.stat() == layer.memory.stat("file")
    for allowed in (Operation.OPEN, Operation.FILE_CLOSE):
        assert watched.count(allowed) == 1
    assert watched.count(Operation.FILE_READ) <= 1
    with watched.silent(), cache.open("file", Access.READ) as file:
        assert read_all(file) == data
    layer.quiesce()
    watched, later = layer.mount(immutable=immutable)
    with watched.silent(), later.open("file", Access.READ) as file:
        assert read_all(file) == data
        assert file.read_at(len(data) + 5, 10) == b""
        assert file.read_at(max(len(data) - 2, 0), 10) == data[-2:]


def test_a_large_file_is_read_once(layer):
    layer.put("file", LARGE)
    watched, cache = layer.mount()
    with cache.open("file", Access.READ) as file:
        assert read_all(file) == LARGE
    assert watched.count(Operation.OPEN) == 1
    assert watched.count(Operation.FILE_READ) == 6
    watched, later = layer.mount()
    with watched.silent(), later.open("file", Access.READ) as file:
        assert read_all(file) == LARGE
        assert file.read_at(BLOCK - 10, 20) == LARGE[BLOCK - 10 : BLOCK + 10]
        assert file.read_at(0, len(LARGE) + 5) == LARGE


def test_what_is_on_disk_is_only_asked_of_it_ahead_and_leaves_memory_when_it_is_read(layer, monkeypatch):
    data = os.urandom(20 * BLOCK + 5)
    layer.put("file", data)
    _, first = layer.mount()
    with first.open("file", Access.READ) as file:
        assert b"".join(file.read_at(index * BLOCK, BLOCK) for index in range(21)) == data
    first.close()
    reads, expected = [], threading.Semaphore(0)

    def read(store, key, ask=DiskStore.read):
        reads.append(threading.current_thread())
        return ask(store, key)

    def expect(store, key, ask=DiskStore.expect):
        found = ask(store, key)
        expected.release()
        return found

    monkeypatch.setattr(DiskStore, "read", read)
    monkeypatch.setattr(DiskStore, "expect", expect)
    watched, later = layer.mount(ahead=4)
    with watched.silent(), later.open("file", Access.READ) as file:
        later._blocks.ahead(file, range(21))
        assert all(expected.acquire(timeout=10) for _ in range(21))
        assert not reads
        assert b"".join(file.read_at(index * BLOCK, BLOCK) for index in range(21)) == data
    assert reads == [threading.current_thread()] * 21
    assert not later._blocks._recent


def test_random_reads_fetch_nothing_ahead(layer):
    layer.put("file", os.urandom(20 * BLOCK))
    watched, cache = layer.mount()
    with cache.open("file", Access.READ) as file:
        for block in (11, 3, 17, 0, 9):
            file.read_at(block * BLOCK + 1000, 4096)
    assert watched.count(Operation.FILE_READ) == 5


def test_of_a_block_that_is_read_here_and_there_only_that_is_fetched_until_it_is_much(layer):
    data = os.urandom(20 * BLOCK)
    layer.put("file", data)
    meter = MeteredBackend(layer.memory)
    page = 4096
    reads = RANDOM_BYTES // page
    _, cache = layer.mount(backend=meter)
    with cache.open("file", Access.READ) as file:
        for number in range(reads):
            for block in (11, 3):
                offset = block * BLOCK + (number * 7 % 250) * page + 100
                assert file.read_at(offset, page) == data[offset : offset + page]
        last = len(data) - 10
        assert file.read_at(last, page) == data[last:]
        counts = meter.snapshot()
        assert counts["bytes_read"] == 2 * ((reads - 1) * page + BLOCK) + 10
        assert counts["file_read.calls"] == 2 * reads + 1
        for block in (11, 3):
            file.read_at(block * BLOCK + 5000, page)
        assert meter.snapshot()["file_read.calls"] == 2 * reads + 1


def test_sequential_reads_have_several_blocks_in_flight(layer):
    layer.put("file", bytes(20 * BLOCK))
    watched, cache = layer.mount(ahead=4)
    lock, in_flight, enough = threading.Lock(), [], threading.Event()

    def meet(offset):
        if offset >= BLOCK and not enough.is_set():
            with lock:
                in_flight.append(offset)
                if len(in_flight) >= 2:
                    enough.set()
            assert enough.wait(60)

    watched.before[Operation.FILE_READ] = meet
    with cache.open("file", Access.READ) as file:
        for offset in range(0, 20 * BLOCK, 1 << 17):
            assert len(file.read_at(offset, 1 << 17)) == 1 << 17
    assert watched.count(Operation.FILE_READ) == 20
    assert enough.is_set()


def test_concurrent_opens_share_one_fetch(layer):
    layer.put("file", b"data")
    watched, cache = layer.mount()
    asked, release = threading.Event(), threading.Event()

    def pause(_):
        asked.set()
        assert release.wait(60)

    watched.before[Operation.OPEN] = pause

    def work():
        with cache.open("file", Access.READ) as file:
            return read_all(file)

    with ThreadPoolExecutor(6) as pool:
        results = [pool.submit(work) for _ in range(6)]
        assert asked.wait(60)
        release.set()
        assert {result.result(60) for result in results} == {b"data"}
    assert watched.count(Operation.OPEN) == 1


def test_many_readers_of_one_large_file(layer):
    layer.put("file", LARGE)
    watched, cache = layer.mount(ahead=4)
    with cache.open("file", Access.READ) as file, ThreadPoolExecutor(8) as pool:
        pieces = list(pool.map(lambda at: file.read_at(at, 100_000), range(0, len(LARGE), 100_000)))
    assert b"".join(pieces) == LARGE
    assert watched.count(Operation.FILE_READ) == 6


@pytest.mark.parametrize("size", [10, 2 * BLOCK])
def test_a_changed_file_has_another_key(layer, size):
    layer.put("file", b"a" * size)
    _, cache = layer.mount(immutable=False, ttl=0.0)
    with cache.open("file", Access.READ) as file:
        assert read_all(file) == b"a" * size
    layer.put("file", b"b" * size)
    with cache.open("file", Access.READ) as file:
        assert read_all(file) == b"b" * size


@pytest.mark.parametrize("size", [10, 2 * BLOCK])
def test_what_changes_in_place_is_seen_by_who_has_it_open(layer, size):
    layer.put("file", b"a" * size)
    _, cache = layer.mount(immutable=False, ttl=0.0)
    with cache.open("file", Access.READ) as file:
        assert file.read_at(0, 5) == b"aaaaa"
        assert file.fileno() is None
        with layer.memory.open("file", Access.WRITE) as writer:
            writer.write_at(size, b"appended")
        assert file.read_at(size, 100) == b"appended"
        assert file.stat().size == size + 8


def test_a_removed_file_stays_readable(layer):
    layer.put("file", b"data")
    _, cache = layer.mount(immutable=False, ttl=0.0)
    with cache.open("file", Access.READ) as file:
        layer.memory.unlink("file")
        assert read_all(file) == b"data"
        layer.put("file", b"other")
        assert read_all(file) == b"data"
        with pytest.raises(StaleHandleError):
            file.list_xattrs()


@pytest.mark.parametrize("size", [10, 2 * BLOCK])
def test_a_file_that_changes_while_it_is_fetched_is_not_kept(layer, size):
    layer.put("file", b"a" * size)
    watched, cache = layer.mount(immutable=False)

    def change(_):
        watched.before = {}
        with layer.memory.open("file", Access.WRITE) as writer:
            writer.write_at(0, b"b" * size)

    watched.before[Operation.FILE_READ] = change
    with cache.open("file", Access.READ) as file:
        assert file.read_at(0, 5) == b"bbbbb"
        assert file.stat() == layer.memory.stat("file")
    layer.memory.set_attributes("file", OLD)
    with layer.memory.open("file", Access.WRITE) as writer:
        writer.write_at(0, b"a" * size)
    layer.memory.set_attributes("file", OLD)
    _, later = layer.mount(immutable=False)
    with later.open("file", Access.READ) as file:
        assert file.read_at(0, 5) == b"aaaaa"


def test_a_young_file_is_not_kept_unless_the_layer_is_immutable(layer):
    write_file(layer.memory, "file", b"data")
    for immutable, opens in ((False, 2), (True, 1)):
        watched, cache = layer.mount(immutable=immutable)
        for _ in range(2):
            with cache.open("file", Access.READ) as file:
                assert read_all(file) == b"data"
        assert watched.count(Operation.OPEN) == opens


@pytest.mark.parametrize("data", [b"data", LARGE])
def test_without_a_store_files_are_read_all_the_same(layer, tmp_path, data, caplog):
    (tmp_path / "no-directory").write_bytes(b"")
    layer.put("file", data)
    _, cache = layer.mount(store=DiskStore(str(tmp_path / "no-directory")))
    for _ in range(2):
        with cache.open("file", Access.READ) as file:
            assert read_all(file) == data
    assert len(caplog.records) == 1


def test_damage_is_fetched_again(layer, tmp_path):
    layer.put("small", b"data")
    layer.put("large", LARGE)
    _, cache = layer.mount()
    for name in ("small", "large"):
        with cache.open(name, Access.READ) as file:
            read_all(file)
    for path in (tmp_path / "cache/content-2").glob("[0-9a-f][0-9a-f]/*"):
        if not path.is_symlink():
            path.write_bytes(b"!" * path.stat().st_size)
    _, later = layer.mount(store=DiskStore(str(tmp_path / "cache")))
    for name, data in (("small", b"data"), ("large", LARGE)):
        with later.open(name, Access.READ) as file:
            assert read_all(file) == data


@pytest.mark.parametrize("operation", [Operation.OPEN, Operation.FILE_READ])
@pytest.mark.parametrize("data", [b"data", LARGE])
def test_unreachable_is_an_error_and_no_short_read(layer, operation, data):
    layer.put("file", data)
    watched, cache = layer.mount()

    def fail(_):
        raise UnavailableError("down")

    watched.before[operation] = fail
    for _ in range(2):
        with pytest.raises(UnavailableError), cache.open("file", Access.READ) as file:
            file.read_at(0, 10)
    watched.before = {}
    with cache.open("file", Access.READ) as file:
        assert read_all(file) == data


def test_what_the_cache_has_needs_no_server(layer):
    layer.put("file", LARGE)
    _, cache = layer.mount()
    with cache.open("file", Access.READ) as file:
        read_all(file)
    watched, later = layer.mount()
    later.stat("file")

    def fail(_):
        raise UnavailableError("down")

    watched.before = dict.fromkeys(Operation, fail)
    with later.open("file", Access.READ) as file:
        assert read_all(file) == LARGE


def test_other_calls_open_the_file_below(layer):
    layer.put("file", b"data")
    layer.memory.set_xattr("file", "user.a", b"1")
    watched, cache = layer.mount()
    with cache.open("file", Access.READ):
        pass
    with cache.open("file", Access.READ) as file:
        assert watched.count(Operation.OPEN) == 1
        assert file.get_xattr("user.a") == b"1"
        assert file.list_xattrs() == ["user.a"]
        assert watched.count(Operation.OPEN) == 2
    assert watched.count(Operation.FILE_CLOSE) == 2


def test_a_cached_file_can_be_copied_by_the_server(layer):
    layer.put("file", b"data")
    _, cache = layer.mount()
    source = cache.open("file", Access.READ)
    target = cache.open("copy", Access.READ_WRITE, create=Creation.EXCLUSIVE)
    with source, target:
        assert target.copy_range(source, 0, 0, 4) == 4
        assert target.read_at(0, 10) == b"data"


@pytest.mark.parametrize("data", [b"data", LARGE])
def test_after_close(layer, data):
    layer.put("file", data)
    _, cache = layer.mount()
    file = cache.open("file", Access.READ)
    file.close()
    file.close()
    for call in (lambda: file.read_at(0, 1), file.list_xattrs):
        with pytest.raises(OSError, match="Bad file descriptor") as caught:
            call()
        assert caught.value.errno == errno.EBADF


def test_what_was_read_is_kept_also_if_the_layer_cannot_be_closed(layer, monkeypatch):
    layer.put("file", b"data")
    watched, cache = layer.mount()
    with cache.open("file", Access.READ) as file:
        assert read_all(file) == b"data"

    def close():
        raise UnavailableError(errno.ETIMEDOUT, "")

    monkeypatch.setattr(watched, "close", close)
    with pytest.raises(UnavailableError):
        cache.close()
    watched, later = layer.mount()
    with watched.silent(), later.open("file", Access.READ) as file:
        assert read_all(file) == b"data"


def test_errors_of_open_are_those_of_the_layer(layer):
    layer.memory.mkdir("d", 0o755)
    layer.memory.symlink("link", "d")
    _, cache = layer.mount()
    for path, code in (("d", errno.EISDIR), ("link", errno.ELOOP), ("absent", errno.ENOENT)):
        with pytest.raises(OSError, match=r".") as caught:
            cache.open(path, Access.READ)
        assert caught.value.errno == code


def test_what_is_changed_through_it_is_not_served_from_it(layer):
    layer.put("file", b"data")
    _, cache = layer.mount()
    with cache.open("file", Access.READ_WRITE) as writer, cache.open("file", Access.READ) as reader:
        writer.write_at(0, b"DATA")
        assert read_all(reader) == b"DATA"


def test_layers_without_a_name_are_not_kept(layer, monkeypatch):
    layer.put("file", b"data")
    monkeypatch.delattr(MemoryBackend, "identity")
    watched, cache = layer.mount()
    for _ in range(2):
        with cache.open("file", Access.READ) as file:
            assert read_all(file) == b"data"
    assert watched.count(Operation.OPEN) == 2


def test_files_of_a_directory_are_fetched_ahead(layer):
    names = [f"f{number:03}" for number in range(120)]
    for name in names:
        layer.put(name, name.encode())
    layer.put("large", bytes(AHEAD_FILE + 1))
    watched, cache = layer.mount()
    for name in names:
        with cache.open(name, Access.READ) as file:
            assert read_all(file) == name.encode()
    assert all(watched.calls[Operation.OPEN, name] == 1 for name in names)
    assert not watched.calls[Operation.OPEN, "large"]
    assert max(map(len, watched.batches)) >= 16
    assert len(watched.batches) < len(names) // 2


def test_without_file_ids_versions_are_size_and_time(tmp_path):
    layer = Layer(tmp_path, dataclasses.replace(ALL_CAPABILITIES, file_ids=False, link_counts=False))
    layer.put("file", b"data")
    for opens in (1, 0):
        watched, cache = layer.mount(immutable=False)
        with cache.open("file", Access.READ) as file:
            assert read_all(file) == b"data"
        assert watched.count(Operation.OPEN) == opens
        layer.quiesce()
    layer.close()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(reads=st.lists(st.tuples(st.integers(0, len(LARGE) + 100), st.integers(1, 2 * BLOCK)), min_size=1, max_size=20))
def test_any_reads_give_the_bytes(layer, reads):
    layer.put("file", LARGE)
    _, cache = layer.mount()
    with cache.open("file", Access.READ) as file:
        for offset, size in reads:
            assert file.read_at(offset, size) == LARGE[offset : offset + size]


@given(st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=60))
def test_a_reader_wants_each_block_once_and_none_behind_the_end(moves):
    reader = Reader(40 * BLOCK)
    offset, wanted = 0, []
    for jump, sequential in moves:
        offset = offset if sequential else min(jump, 39) * BLOCK
        if offset + BLOCK > 40 * BLOCK:
            break
        ahead = list(reader.note(offset, BLOCK).ahead)
        assert len(ahead) <= MAX_WINDOW
        assert all(offset // BLOCK < block < 40 for block in ahead)
        if not sequential:
            wanted = []
        assert not set(ahead) & set(wanted)
        wanted += ahead
        offset += BLOCK


@pytest.mark.parametrize("distance", [BLOCK // 2, -BLOCK // 2])
def test_pages_at_random_that_fall_into_neighbouring_places_fetch_nothing_more(distance):
    reader = Reader(40 * BLOCK)
    for page in (3 * BLOCK, 20 * BLOCK, 20 * BLOCK + distance, 7 * BLOCK):
        assert reader.note(page, 4096) == Plan(range(0), at_random=True)


@pytest.mark.parametrize(("size", "ahead"), [(BLOCK, FIRST_WINDOW), (BLOCK // 2, 0)])
def test_who_begins_with_a_whole_block_is_read_ahead_for_at_once(size, ahead):
    assert len(Reader(40 * BLOCK).note(0, size).ahead) == ahead
