"""What a prefetch asks for, what it leaves, and that it goes on where it was."""

from __future__ import annotations

import errno

import pytest

from netoverlay.backend_api import Access, Capabilities, FileType, UnavailableError, os_error
from netoverlay.cache.content import ContentCache
from netoverlay.cache.disk_store import DiskStore
from netoverlay.cache.kept_layer import KeptLayer
from netoverlay.cache.metadata import MetadataCache
from netoverlay.cache.prefetch import Prefetch, Wanted
from netoverlay.testing.memory_backend import MemoryBackend
from netoverlay.wrappers.intercept import Operation
from tests.cache.calls import WatchedBackend, read_all, write_file

LARGE = bytes(range(256)) * (20 << 12)  # 20 MiB, in two parts


@pytest.fixture
def memory():
    backend = MemoryBackend()
    backend.connect()
    for directory in ("src", "src/deep", "doc"):
        backend.mkdir(directory, 0o755)
    for name in ("src/a.c", "src/deep/b.c", "src/b.h", "doc/text"):
        write_file(backend, name, name.encode() * 100)
    backend.symlink("src/link", "a.c")
    backend.set_xattr("doc/text", "user.x", b"value")
    return backend


class Mount:
    def __init__(self, memory, directory):
        self.watched = WatchedBackend(memory)
        self.store = DiskStore(str(directory))
        kept = KeptLayer(self.store, memory.identity(), "")
        self.content = ContentCache(
            MetadataCache(self.watched, ttl=None, kept=kept), self.store, immutable=True, ahead=4
        )
        memory.connect()
        kept.connected(Capabilities(xattrs=True), memory.stat(""), asked_user=False)
        self.content.connect()

    def fill(self, *globs, limit=1 << 40):
        told = []
        found = Prefetch(self.content, Capabilities(xattrs=True), Wanted(globs), limit, told.append).run()
        assert told[-1] is found
        return found

    def opened(self):
        return {what for operation, what in self.watched.calls if operation is Operation.OPEN}

    def walk(self, path=""):
        for name, stat in self.content.list_dir(path):
            child = f"{path}/{name}".strip("/")
            if stat.type is FileType.DIRECTORY:
                yield from self.walk(child)
                assert self.content.list_xattrs(child) == []
            elif stat.type is FileType.SYMLINK:
                yield child, self.content.readlink(child)
            else:
                with self.content.open(child, Access.READ) as file:
                    xattrs = [self.content.get_xattr(child, name) for name in self.content.list_xattrs(child)]
                    yield child, read_all(file), xattrs


@pytest.fixture
def mount(memory, tmp_path):
    made = []

    def make():
        made.append(Mount(memory, tmp_path))
        return made[-1]

    yield make
    for each in made:
        each.content.close()


def test_afterwards_nothing_is_asked(memory, mount):
    write_file(memory, "large", LARGE)
    first = mount()
    found = first.fill()
    assert (found.files, found.done_files, found.missed, found.left_out) == (6, 6, [], 0)
    size = len(LARGE) + 100 * len("src/a.csrc/deep/b.csrc/b.hdoc/text")
    assert found.fetched_bytes == found.bytes == found.done_bytes == size
    first.content.close()
    later = mount()
    with later.watched.silent(Operation.CONNECT):
        assert len(list(later.walk())) == 6
        again = later.fill()
    assert (again.done_files, again.fetched_bytes) == (6, 0)


@pytest.mark.parametrize(
    ("globs", "wanted"),
    [
        (("src/*.c",), {"src/a.c", "src/deep/b.c"}),
        (("src/deep",), {"src/deep/b.c"}),
        (("/doc/", "*.h"), {"doc/text", "src/b.h"}),
        (("src/[ab].?",), {"src/a.c", "src/b.h"}),
        (("nothing",), set()),
    ],
)
def test_globs_say_what_is_wanted(mount, globs, wanted):
    filled = mount()
    filled.fill(*globs)
    assert filled.opened() == wanted


def test_only_directories_that_can_matter_are_listed():
    wanted = Wanted(["src/de*p/x", "a/b"])
    assert [name for name in ("src", "src/deep", "a", "a/b", "a/b/c", "lib", "s") if wanted.may_hold(name)] == [
        "src",
        "src/deep",
        "a",
        "a/b",
        "a/b/c",
    ]


def test_what_the_cache_has_no_room_for_is_left(mount):
    found = mount().fill(limit=1500)
    assert found.left_out == 2
    assert found.fetched_bytes == found.bytes <= 1500


def test_what_cannot_be_read_is_told_and_the_rest_goes_on(mount):
    filled = mount()

    def refuse(path):
        if path in ("src/a.c", "doc"):
            raise os_error(errno.EACCES, path)

    filled.watched.before[Operation.OPEN] = filled.watched.before[Operation.LIST_DIR] = refuse
    found = filled.fill()
    assert {missed.path for missed in found.missed} == {"src/a.c", "doc"}
    assert filled.opened() >= {"src/b.h", "src/deep/b.c"}


def test_a_layer_that_is_lost_ends_it(mount):
    filled = mount()

    def lose(path):
        raise UnavailableError("no route to it")

    filled.watched.before[Operation.OPEN] = lose
    with pytest.raises(UnavailableError):
        filled.fill()
    del filled.watched.before[Operation.OPEN]
    assert filled.fill().missed == []
