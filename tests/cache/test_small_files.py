"""Small files that are fetched many at once: what is asked of the layer for a walk, and what goes wrong meanwhile."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from netoverlay.backend_api import Access, AttributeChange, FileType, UnavailableError, join_path, os_error
from netoverlay.cache import small_files
from netoverlay.cache.allowance import START_CREDITS
from netoverlay.cache.content import ContentCache
from netoverlay.cache.disk_store import DiskStore
from netoverlay.cache.file_ahead import (
    BATCH_BYTES,
    BATCH_FILES,
    COSTS_ONE,
    LISTED_TOGETHER,
    MAX_UNUSED,
    WAITED_BYTES,
)
from netoverlay.cache.metadata import MetadataCache
from netoverlay.cache.packs import PACKED_FILE
from netoverlay.cache.tree_walk import STEPS
from netoverlay.testing.memory_backend import MemoryBackend
from netoverlay.wrappers.intercept import Operation
from tests.cache.calls import WatchedBackend, read_all, write_file

OLD = AttributeChange(mtime_ns=10**18)


def idle(ahead):
    """Return when nothing is being fetched ahead."""
    give_up_at = time.monotonic() + 60
    while ahead._running and time.monotonic() < give_up_at:
        time.sleep(0.0002)


class Unreachable:
    """A layer that cannot be reached, from the second call on."""

    def __init__(self):
        self._calls = 0

    def fail(self, _path):
        self._calls += 1
        if self._calls > 1:
            raise UnavailableError("down")


class Mount:
    """A content cache on a metadata cache on a watched layer in memory."""

    def __init__(self, memory, directory, *, immutable=True):
        self.watched = WatchedBackend(memory)
        self.cache = ContentCache(
            MetadataCache(self.watched, ttl=None if immutable else 0.0, ahead=0),
            DiskStore(str(directory)),
            immutable=immutable,
        )
        self.cache.connect()

    def read(self, path):
        with self.cache.open(path, Access.READ) as file:
            return read_all(file)

    def walk(self, directory=""):
        for name, stat in self.cache.list_dir(directory):
            path = join_path(directory, name)
            if stat.type is FileType.DIRECTORY:
                yield from self.walk(path)
            else:
                yield path, self.read(path)

    def opened(self):
        return [path for operation, path in self.watched.calls.elements() if operation is Operation.OPEN]

    def walk_slowly(self, paths):
        """Read them, and wait each time until nothing is being fetched ahead."""
        ahead = self.cache._small._ahead
        self.cache.list_dir("")
        for path in paths:
            self.cache.stat(path)
            yield path, self.read(path)
            idle(ahead)

    def quiesce(self):
        """What is under way ends; nothing is fetched ahead any more."""
        for fetcher in self.cache._fetchers():
            fetcher.stop()
        for fetcher in self.cache._fetchers():
            fetcher.join()


@pytest.fixture
def memory():
    memory = MemoryBackend()
    memory.connect()
    return memory


@pytest.fixture
def mount(memory, tmp_path):
    made = []

    def make(**options):
        made.append(Mount(memory, tmp_path / "cache", **options))
        return made[-1]

    yield make
    for each in made:
        each.quiesce()


def fill(memory, directories, files, size=20):
    contents = {}
    for directory in range(directories):
        memory.mkdir(f"d{directory:02}", 0o755)
        for number in range(files):
            path = f"d{directory:02}/f{number:03}"
            contents[path] = path.encode().ljust(size, b".")
            write_file(memory, path, contents[path])
            memory.set_attributes(path, OLD)
    return contents


@pytest.mark.parametrize("immutable", [True, False])
def test_a_walk_through_a_tree_reads_each_file_once_and_many_in_one_call(memory, mount, immutable):
    contents = fill(memory, 15, 20)
    first = mount(immutable=immutable)
    assert dict(first.walk()) == contents
    first.quiesce()
    opened = first.opened()
    assert sorted(opened) == sorted(contents)
    assert len(first.watched.batches) < len(contents) // 5
    assert max(map(len, first.watched.batches)) <= BATCH_FILES + 1
    second = mount(immutable=immutable)
    assert dict(second.walk()) == contents
    assert second.opened() == []


@pytest.mark.parametrize("each", [1, 2, 3])
def test_a_walk_through_directories_of_few_files_reads_many_in_one_call(memory, mount, each):
    contents = fill(memory, 100, each)
    one = mount()
    assert dict(one.walk_slowly(sorted(contents))) == contents
    one.quiesce()
    assert sorted(one.opened()) == sorted(contents)
    waited = [batch for batch in one.watched.batches if len(batch) == 1]
    assert len(waited) <= STEPS * min(each, 2) + 1
    assert len(one.watched.batches) <= len(waited) + len(contents) // START_CREDITS + 1


def test_a_walk_of_one_directory_does_not_stray_far(memory, mount):
    """From one that was read through to those beside it, of which nobody has opened anything."""
    fill(memory, 30, 30)
    one = mount()
    list(one.walk("d05"))
    one.quiesce()
    assert len([path for path in one.opened() if not path.startswith("d05/")]) <= START_CREDITS


def test_a_walk_goes_on_after_the_layer_could_not_be_reached(memory, mount):
    contents = fill(memory, 60, 20)
    one = mount()
    ahead = one.cache._small._ahead
    paths = sorted(contents)
    for turn in range(4):
        for _ in one.walk_slowly(paths[turn * 300 : turn * 300 + 100]):
            pass
        one.watched.before[Operation.OPEN] = Unreachable().fail
        for path in paths[turn * 300 + 100 : turn * 300 + 300]:
            with suppress(UnavailableError):
                one.read(path)
        idle(ahead)
        one.watched.before.clear()
        assert ahead._allowance._under_way == 0
    before = len(one.watched.batches)
    assert len(list(one.walk_slowly(paths[1100:]))) == 100
    assert len(one.watched.batches) - before < 30


def test_directories_without_files_are_not_listed_without_end(memory, mount):
    fill(memory, 4, 5)
    memory.mkdir("z", 0o755)
    for number in range(2000):
        memory.mkdir(f"z/d{number:04}", 0o755)
    one = mount()
    for directory in ("d00", "d01", "d02", "d03"):
        list(one.walk(directory))
    idle(one.cache._small._ahead)
    assert sum(map(len, one.watched.listed_together)) <= MAX_UNUSED + LISTED_TOGETHER


def test_what_is_on_disk_is_not_fetched_with_what_is_not(memory, mount):
    contents = fill(memory, 40, 6)
    first = mount()
    there = [path for path in contents if not path.endswith("3")]
    for path in there:
        first.cache.keep(path)
    first.quiesce()
    second = mount()
    assert dict(second.walk()) == contents
    second.quiesce()
    assert sorted(second.opened()) == sorted(set(contents) - set(there))


def test_little_goes_along_where_somebody_waits(memory, mount):
    contents = fill(memory, 1, 40, size=200_000)
    one = mount()
    one.watched.batches.clear()
    for path in sorted(contents)[:2]:
        one.read(path)
    waited = [batch for batch in one.watched.batches if "d00/f001" in batch]
    assert len(waited[0]) <= 1 + WAITED_BYTES // 200_000
    one.quiesce()


def test_large_files_are_fetched_ahead_in_smaller_numbers(memory, mount):
    size = 2 * COSTS_ONE + 1
    contents = fill(memory, 1, 200, size=size)
    one = mount()
    for path in sorted(contents)[:100]:
        one.read(path)
    one.quiesce()
    assert 100 < len(one.opened()) <= 100 + MAX_UNUSED // 3 + BATCH_BYTES // size
    assert len(one.watched.batches) < 60


def test_a_walk_that_ends_was_not_far_ahead(memory, mount):
    fill(memory, 1, 1000)
    one = mount()
    for number in range(400):
        one.read(f"d00/f{number:03}")
    one.quiesce()
    assert len(one.opened()) <= 400 + MAX_UNUSED


def test_a_walk_that_does_not_begin_fetches_little(memory, mount):
    fill(memory, 20, 30)
    one = mount()
    for number in range(20):
        one.read(f"d{number:02}/f{number:03}")
    assert len(one.opened()) == 20
    one.read("d05/f029")
    one.quiesce()
    assert len(one.opened()) <= 21 + START_CREDITS


def test_files_of_one_name_are_fetched_from_the_directories_beside(memory, mount):
    fill(memory, 30, 4)
    one = mount()
    for number in (3, 11, 5):
        one.read(f"d{number:02}/f002")
    give_up_at = time.monotonic() + 60
    while len(one.opened()) < 30 and time.monotonic() < give_up_at:
        time.sleep(0.01)
    one.quiesce()
    assert sorted(one.opened()) == [f"d{number:02}/f002" for number in range(30)]


def test_calls_are_bounded_by_what_they_bring(memory, mount):
    contents = fill(memory, 1, 30, size=PACKED_FILE * 3)
    one = mount()
    assert {path: one.read(path) for path in contents} == contents
    one.quiesce()
    assert max(map(len, one.watched.batches)) <= 2 + BATCH_BYTES // (PACKED_FILE * 3)


def test_what_does_not_fit_into_memory_comes_from_disk(memory, mount, monkeypatch):
    monkeypatch.setattr(small_files, "RECENT_BYTES", 50_000)
    contents = fill(memory, 3, 40, size=5000)
    one = mount()
    assert dict(one.walk()) == contents
    one.quiesce()
    fetched = len(one.opened())
    assert dict(one.walk()) == contents
    assert len(one.opened()) == fetched
    assert one.cache._small._recent._bytes <= 50_000
    later = mount()
    assert dict(later.walk()) == contents
    assert later.opened() == []


def test_whoever_waits_for_a_file_of_a_call_gets_its_error(memory, mount):
    fill(memory, 1, 10)
    one = mount()
    arrived, release = threading.Event(), threading.Event()

    def fail(path):
        if path not in ("d00/f000", "d00/f001"):
            arrived.set()
            assert release.wait(60)
            raise UnavailableError("down")

    one.watched.before[Operation.OPEN] = fail
    one.read("d00/f000")
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(one.read, "d00/f001")]
        assert arrived.wait(60)
        waiting += [pool.submit(one.read, f"d00/f00{number}") for number in (2, 3, 4)]
        release.set()
        for each in waiting:
            with pytest.raises(UnavailableError):
                each.result(60)
    one.watched.before = {}
    assert one.read("d00/f002").startswith(b"d00/f002")


def test_one_that_cannot_be_read_takes_no_others_with_it(memory, mount):
    contents = fill(memory, 2, 20)
    one = mount()

    def refuse(path):
        if path == "d00/f007":
            raise os_error(13, path)

    one.watched.before[Operation.OPEN] = refuse
    for path, content in contents.items():
        if path == "d00/f007":
            with pytest.raises(PermissionError):
                one.read(path)
        else:
            assert one.read(path) == content
    one.watched.before = {}
    assert one.read("d00/f007") == contents["d00/f007"]


def test_what_changes_while_it_is_fetched_ahead_is_not_kept(memory, mount):
    contents = fill(memory, 1, 20)
    one = mount(immutable=False)

    def change(path):
        if path == "d00/f005":
            one.watched.before = {}
            with memory.open(path, Access.WRITE) as file:
                file.write_at(0, b"changed")

    one.watched.before[Operation.OPEN] = change
    found = {path: one.read(path) for path in contents}
    assert found.pop("d00/f005").startswith(b"changed")
    assert contents.items() >= found.items()


def test_files_beside_one_that_may_not_be_listed(memory, mount):
    contents = fill(memory, 1, 5)
    one = mount()
    one.watched.before[Operation.LIST_DIR] = lambda path: (_ for _ in ()).throw(os_error(13, path))
    assert {path: one.read(path) for path in contents} == contents


def test_what_is_at_hand_is_told_without_asking_the_layer(memory, mount):
    contents = fill(memory, 2, 20)
    first = mount()
    assert first.cache.at_hand("d00/f000", PACKED_FILE) is None
    assert dict(first.walk()) == contents
    first.quiesce()
    second = mount()
    second.cache.list_dir("d00")
    asked = second.watched.calls.total()
    for path, content in contents.items():
        known = path.startswith("d00/")
        assert second.cache.at_hand(path, PACKED_FILE) == (content if known else None)
        assert second.cache.at_hand(path, len(content) - 1) is None
    assert second.watched.calls.total() == asked


def test_what_is_at_hand_counts_as_used_by_the_walk(memory, mount):
    contents = fill(memory, 1, 1000)
    one = mount()
    for path in contents:
        if one.cache.at_hand(path, PACKED_FILE) is None:
            one.read(path)
    one.quiesce()
    assert len(one.watched.batches) < len(contents) // 10


def test_of_a_layer_that_changes_nothing_is_at_hand(memory, mount):
    fill(memory, 1, 2)
    one = mount(immutable=False)
    one.read("d00/f000")
    assert one.cache.at_hand("d00/f000", PACKED_FILE) is None
