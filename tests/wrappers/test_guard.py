"""Nothing changes a layer that is lost; reading goes on."""

from __future__ import annotations

import errno

import pytest

from netoverlay.backend_api import (
    Access,
    AllocateMode,
    AttributeChange,
    Backend,
    BackendFile,
    Creation,
    FileType,
    LockKind,
)
from netoverlay.testing.backend_suite import BackendSuite
from netoverlay.testing.memory_backend import ALL_CAPABILITIES, MemoryBackend
from netoverlay.testing.memory_tree import MemoryTree
from netoverlay.wrappers.guard import CHANGES_NOTHING, GuardedBackend
from netoverlay.wrappers.intercept import Operation

CHANGES = {
    "create": lambda b: b.open("new", Access.WRITE, create=Creation.EXCLUSIVE),
    "truncate by opening": lambda b: b.open("file", Access.WRITE, truncate=True),
    "mkdir": lambda b: b.mkdir("new", 0o700),
    "unlink": lambda b: b.unlink("file"),
    "rmdir": lambda b: b.rmdir("dir"),
    "rename": lambda b: b.rename("file", "new"),
    "symlink": lambda b: b.symlink("new", "x"),
    "link": lambda b: b.link("file", "new"),
    "mknod": lambda b: b.mknod("new", FileType.FIFO, 0o600),
    "set_attributes": lambda b: b.set_attributes("file", AttributeChange(mode=0)),
    "set_xattr": lambda b: b.set_xattr("file", "user.y", b""),
    "remove_xattr": lambda b: b.remove_xattr("file", "user.x"),
    "sync": lambda b: b.sync(),
    "sync_directory": lambda b: b.sync_directory(""),
}
FILE_CHANGES = {
    "write_at": lambda f: f.write_at(0, b"X"),
    "truncate": lambda f: f.truncate(0),
    "sync": lambda f: f.sync(),
    "set_attributes": lambda f: f.set_attributes(AttributeChange(mode=0)),
    "allocate": lambda f: f.allocate(AllocateMode.PUNCH_HOLE, 0, 1),
    "copy_range": lambda f: f.copy_range(f, 0, 4, 4),
    "set_xattr": lambda f: f.set_xattr("user.y", b""),
    "remove_xattr": lambda f: f.remove_xattr("user.x"),
    "lock": lambda f: f.lock(LockKind.SHARED, 0, 1),
}


class Guarded:
    def __init__(self) -> None:
        self.lost = False
        self.backend = GuardedBackend(MemoryBackend(), lambda: self.lost)
        self.backend.connect()
        self.backend.mkdir("dir", 0o755)
        self.file = self.backend.open("file", Access.READ_WRITE, create=Creation.EXCLUSIVE)
        self.file.write_at(0, b"content")
        self.file.set_xattr("user.x", b"1")


@pytest.fixture
def guarded() -> Guarded:
    return Guarded()


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_refused_once_it_is_lost(guarded: Guarded, change: str) -> None:
    guarded.lost = True
    before = guarded.backend.list_dir("")
    with pytest.raises(OSError, match="nothing is changed") as caught:
        CHANGES[change](guarded.backend)
    assert caught.value.errno == errno.EIO
    assert guarded.backend.list_dir("") == before
    guarded.lost = False
    CHANGES[change](guarded.backend)


@pytest.mark.parametrize("change", FILE_CHANGES)
def test_an_open_file_is_not_changed_either(guarded: Guarded, change: str) -> None:
    guarded.lost = True
    with pytest.raises(OSError, match="nothing is changed") as caught:
        FILE_CHANGES[change](guarded.file)
    assert caught.value.errno == errno.EIO
    assert guarded.file.read_at(0, 99) == b"content"
    guarded.lost = False
    FILE_CHANGES[change](guarded.file)


def test_reading_goes_on(guarded: Guarded) -> None:
    guarded.lost = True
    backend = guarded.backend
    assert {entry.name for entry in backend.list_dir("")} == {"dir", "file"}
    assert backend.stat("file").size == 7
    assert backend.list_xattrs("file") == ["user.x"]
    assert backend.get_xattr("file", "user.x") == b"1"
    with backend.open("file", Access.READ_WRITE) as file:
        assert file.read_at(0, 99) == b"content"
        assert file.seek_hole(0) == 7
        assert file.stat().size == 7
        assert file.get_xattr("user.x") == b"1"
    guarded.file.close()
    backend.close()


def test_every_change_is_tried_here() -> None:
    """A new operation has to be thought of."""
    tried = {"create", "truncate by opening"}
    names = {name for name in CHANGES if name not in tried}
    names |= {f"file_{name.removesuffix('_at')}" for name in FILE_CHANGES}
    assert {operation.value for operation in Operation if operation not in CHANGES_NOTHING} == names
    methods = {name for name in vars(BackendFile) if not name.startswith("_")}
    assert methods >= set(FILE_CHANGES)
    assert {name for name in vars(Backend) if not name.startswith("_")} >= set(CHANGES) - tried


def test_it_is_owned_later_than_it_is_connected() -> None:
    backend = GuardedBackend(MemoryBackend())
    backend.connect()
    backend.mkdir("a", 0o700)
    backend.watch(lambda: True, lambda: None)
    with pytest.raises(OSError, match="nothing is changed"):
        backend.mkdir("b", 0o700)


class TestGuard(BackendSuite):
    capabilities = ALL_CAPABILITIES
    big_directory = 2000

    @pytest.fixture(scope="class")
    @classmethod
    def new_backend(cls):
        tree = MemoryTree(cls.capabilities.time_granularity_ns)
        return lambda: GuardedBackend(MemoryBackend(cls.capabilities, tree))
