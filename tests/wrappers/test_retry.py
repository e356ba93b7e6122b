"""What is tried again when no answer came, and what is made of what is there then."""

from __future__ import annotations

import errno
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from netoverlay.backend_api import (
    Access,
    AllocateMode,
    AttributeChange,
    Creation,
    FileType,
    LockKind,
    RenameFlags,
    UnavailableError,
    WantedFile,
    XattrMode,
)
from netoverlay.backend_api.errors import LayerClosedError
from netoverlay.backend_api.waiting import set_hooks
from netoverlay.testing.memory_backend import MemoryBackend
from netoverlay.wrappers import retry
from netoverlay.wrappers.intercept import InterceptingBackend, Operation
from netoverlay.wrappers.retry import SAFE_LATER, SAFE_TO_REPEAT, Makes, RetryingBackend, UnknownOutcomeError


class Unreliable(InterceptingBackend):
    """Loses requests before they arrive, or replies after what they asked for was done."""

    def __init__(self, inner):
        super().__init__(inner)
        self.lost_requests = {}
        self.lost_replies = {}
        self.late = {}
        self.calls = []

    def around(self, operation, function, *args, **kwargs):
        self.calls.append(operation)
        if self.take(self.lost_requests, operation):
            raise UnavailableError("the request was lost")
        if self.take(self.late, operation):
            self.arrives_later = lambda: function(*args, **kwargs)
            raise UnavailableError("the request is late")
        try:
            result = function(*args, **kwargs)
        finally:
            if operation is Operation.STAT:
                arrives, self.arrives_later = self.arrives_later, lambda: None
                arrives()
        if self.take(self.lost_replies, operation):
            raise UnavailableError("the reply was lost")
        return result

    def arrives_later(self):
        pass

    def take(self, counts, operation):
        counts[operation] = counts.get(operation, 0) - 1
        return counts[operation] >= 0


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(retry, "FIRST_WAIT", 0.001)


@pytest.fixture
def layers():
    memory = MemoryBackend()
    memory.connect()
    with memory.open("file", Access.WRITE, create=Creation.EXCLUSIVE, mode=0o644) as file:
        file.write_at(0, b"data")
    memory.mkdir("dir", 0o755)
    memory.symlink("link", "file")
    memory.set_xattr("file", "user.a", b"1")
    below = Unreliable(memory)
    return memory, below, RetryingBackend(below, 30.0)


READS = {
    Operation.STAT: lambda b: b.stat("file").size,
    Operation.LIST_DIR: lambda b: len(b.list_dir("")),
    Operation.LIST_DIRS: lambda b: len(b.list_dirs(["", ""])),
    Operation.LIST_NAMES: lambda b: len(b.list_names(["", ""])),
    Operation.SPACE_USAGE: lambda b: b.space_usage(),
    Operation.READLINK: lambda b: b.readlink("link"),
    Operation.GET_XATTR: lambda b: b.get_xattr("file", "user.a"),
    Operation.LIST_XATTRS: lambda b: b.list_xattrs("file"),
    Operation.SET_ATTRIBUTES: lambda b: b.set_attributes("file", AttributeChange(mode=0o600)),
    Operation.OPEN: lambda b: b.open("file", Access.READ).close(),
    Operation.READ_FILES: lambda b: b.read_files([WantedFile("file", 4)], unchanging=False),
}
FILE_READS = {
    Operation.FILE_READ: lambda f: (f.read_at(0, 10), f.read_into(0, bytearray(3))),
    Operation.FILE_STAT: lambda f: f.stat().size,
    Operation.FILE_SEEK: lambda f: (f.seek_data(0), f.seek_hole(0)),
    Operation.FILE_GET_XATTR: lambda f: f.get_xattr("user.a"),
    Operation.FILE_LIST_XATTRS: lambda f: f.list_xattrs(),
    Operation.FILE_SET_ATTRIBUTES: lambda f: f.set_attributes(AttributeChange(mode=0o600)),
    Operation.FILE_LOCK: lambda f: f.lock(LockKind.SHARED, 0, 1),
}


@pytest.mark.parametrize("losses", ["lost_requests", "lost_replies"])
@pytest.mark.parametrize("operation", READS, ids=lambda o: o.value)
def test_what_is_safe_is_repeated(layers, operation, losses):
    memory, below, backend = layers
    expected = READS[operation](memory)
    getattr(below, losses)[operation] = 2
    assert READS[operation](backend) == expected
    assert below.calls.count(operation) == 3


@pytest.mark.parametrize("operation", FILE_READS, ids=lambda o: o.value)
def test_what_is_safe_is_repeated_on_files(layers, operation):
    memory, below, backend = layers
    with memory.open("file", Access.READ) as file:
        expected = FILE_READS[operation](file)
    with backend.open("file", Access.READ) as file:
        below.lost_requests[operation] = 1
        assert FILE_READS[operation](file) == expected


def test_the_table_is_tested_whole():
    assert set(SAFE_TO_REPEAT) == set(READS) - {Operation.OPEN} | set(FILE_READS)


UNSAFE = {
    Operation.SYNC: lambda b, f: b.sync(),
    Operation.FILE_WRITE: lambda b, f: f.write_at(0, b"x"),
    Operation.FILE_TRUNCATE: lambda b, f: f.truncate(0),
    Operation.FILE_SYNC: lambda b, f: f.sync(),
    Operation.OPEN: lambda b, f: b.open("file", Access.WRITE, truncate=True),
    Operation.SET_XATTR: lambda b, f: b.set_xattr("file", "user.b", b"", XattrMode.CREATE),
    Operation.RENAME: lambda b, f: b.rename("file", "dir", RenameFlags.EXCHANGE),
    Operation.CONNECT: lambda b, f: b.connect(),
}


@pytest.mark.parametrize("operation", UNSAFE, ids=lambda o: o.value)
def test_what_is_not_safe_is_tried_once(layers, operation):
    _, below, backend = layers
    with backend.open("file", Access.READ_WRITE) as file:
        below.calls.clear()
        below.lost_requests[operation] = 1
        with pytest.raises(UnavailableError):
            UNSAFE[operation](backend, file)
        assert below.calls.count(operation) == 1


def test_other_errors_are_final(layers):
    _, below, backend = layers
    with pytest.raises(FileNotFoundError):
        backend.stat("absent")
    assert below.calls.count(Operation.STAT) == 1


CREATIONS = {
    Operation.MKDIR: lambda b: b.mkdir("new", 0o755),
    Operation.SYMLINK: lambda b: b.symlink("new", "target"),
    Operation.LINK: lambda b: b.link("file", "new"),
    Operation.MKNOD: lambda b: b.mknod("new", FileType.FIFO, 0o600),
    Operation.OPEN: lambda b: b.open("new", Access.WRITE, create=Creation.EXCLUSIVE).close(),
}


@pytest.mark.parametrize("operation", CREATIONS, ids=lambda o: o.value)
class TestCreation:
    def test_that_did_not_arrive_is_repeated(self, layers, operation):
        memory, below, backend = layers
        below.lost_requests = {operation: 2, Operation.STAT: 1}
        CREATIONS[operation](backend)
        memory.stat("new")

    @pytest.mark.parametrize("losses", ["lost_replies", "late"])
    def test_that_may_have_arrived_is_unknown(self, layers, operation, losses):
        memory, below, backend = layers
        setattr(below, losses, {operation: 1})
        with pytest.raises(UnknownOutcomeError) as caught:
            CREATIONS[operation](backend)
        assert caught.value.errno == errno.EIO
        memory.stat("new")

    def test_of_what_was_there_is_told(self, layers, operation):
        memory, _, backend = layers
        memory.mkdir("new", 0o755)
        with pytest.raises(FileExistsError):
            CREATIONS[operation](backend)


REMOVALS = {
    Operation.UNLINK: lambda b: b.unlink("file"),
    Operation.RMDIR: lambda b: b.rmdir("dir"),
    Operation.REMOVE_XATTR: lambda b: b.remove_xattr("file", "user.a"),
}


@pytest.mark.parametrize("operation", REMOVALS, ids=lambda o: o.value)
@pytest.mark.parametrize("losses", ["lost_requests", "lost_replies"])
def test_a_removal_is_repeated_until_it_is_done(layers, operation, losses):
    memory, below, backend = layers
    setattr(below, losses, {operation: 2})
    REMOVALS[operation](backend)
    with pytest.raises(OSError, match=r".") as caught:
        REMOVALS[operation](memory)
    assert caught.value.errno in (errno.ENOENT, errno.ENODATA)


@pytest.mark.parametrize("operation", REMOVALS, ids=lambda o: o.value)
def test_a_removal_of_nothing_is_told(layers, operation):
    memory, _, backend = layers
    REMOVALS[operation](memory)
    with pytest.raises(OSError, match=r".") as caught:
        REMOVALS[operation](backend)
    assert caught.value.errno in (errno.ENOENT, errno.ENODATA)


@pytest.mark.parametrize("losses", ["lost_requests", "lost_replies", "late"])
@pytest.mark.parametrize("replaces", [True, False])
def test_a_rename_is_resolved_by_looking(layers, losses, replaces):
    memory, below, backend = layers
    if replaces:
        memory.symlink("new", "old target")
    moved = memory.stat("file").file_id
    setattr(below, losses, {Operation.RENAME: 1})
    backend.rename("file", "new")
    assert memory.stat("new").file_id == moved
    with pytest.raises(FileNotFoundError):
        memory.stat("file")


def test_a_rename_that_must_not_replace(layers):
    memory, below, backend = layers
    below.lost_requests = {Operation.RENAME: 1}
    with pytest.raises(FileExistsError):
        backend.rename("file", "link", RenameFlags.NOREPLACE)
    below.lost_replies = {Operation.RENAME: 1}
    backend.rename("file", "new", RenameFlags.NOREPLACE)
    assert memory.stat("new").size == 4


def test_a_rename_of_what_is_nowhere_is_unknown(layers):
    _, below, backend = layers
    below.lost_requests = {Operation.RENAME: 1}
    with pytest.raises(UnknownOutcomeError):
        backend.rename("absent", "absent too")


@pytest.mark.parametrize("mode", [XattrMode.ANY, XattrMode.REPLACE])
def test_setting_an_attribute_is_repeated(layers, mode):
    memory, below, backend = layers
    below.lost_replies = {Operation.SET_XATTR: 1}
    backend.set_xattr("file", "user.a", b"2", mode)
    assert memory.get_xattr("file", "user.a") == b"2"


def test_it_gives_up_at_the_deadline(layers):
    _, below, _ = layers
    for deadline, tries in ((0.0, [1]), (0.05, range(2, 20))):
        below.lost_requests = {Operation.STAT: 10**6}
        below.calls.clear()
        with pytest.raises(UnavailableError, match="the request was lost"):
            RetryingBackend(below, deadline).stat("file")
        assert below.calls.count(Operation.STAT) in tries


def test_an_interrupt_ends_the_tries(layers):
    _, below, backend = layers
    below.lost_requests = {Operation.STAT: 10**6}

    def interrupted():
        set_hooks(None, lambda: len(below.calls) >= 3)
        backend.stat("file")

    with ThreadPoolExecutor(1) as pool, pytest.raises(InterruptedError):
        pool.submit(interrupted).result(60)


def test_close_ends_the_tries(layers):
    _, below, _ = layers
    backend = RetryingBackend(below, 10**6)
    below.lost_requests = {Operation.STAT: 10**6}
    tried = threading.Event()

    def work():
        set_hooks(tried.set, None)
        backend.stat("file")

    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(work)
        assert tried.wait(60)
        backend.close()
        with pytest.raises(OSError, match=r"."):
            result.result(60)


@pytest.fixture
def own(layers, monkeypatch):
    """A layer that nobody else changes."""
    monkeypatch.setattr(retry, "LATE_SECONDS", 0.001)
    memory, below, _ = layers
    return memory, below, RetryingBackend(below, 30.0, makes=Makes.MOUNT_ALONE)


LATER = {
    Operation.FILE_WRITE: lambda f: f.write_at(0, b"DATA!"),
    Operation.FILE_TRUNCATE: lambda f: f.truncate(0),
    Operation.FILE_ALLOCATE: lambda f: f.allocate(AllocateMode.RESERVE, 0, 10),
}


@pytest.mark.parametrize("losses", ["lost_requests", "lost_replies"])
@pytest.mark.parametrize("operation", LATER, ids=lambda o: o.value)
def test_changes_of_own_files_are_repeated_when_the_first_has_arrived(own, monkeypatch, operation, losses):
    _, below, backend = own
    pauses = []
    monkeypatch.setattr(backend, "_sleep", pauses.append)
    with backend.open("file", Access.READ_WRITE) as file:
        getattr(below, losses)[operation] = 2
        LATER[operation](file)
    assert below.calls.count(operation) == 3
    assert len(pauses) == 2
    assert min(pauses) >= retry.LATE_SECONDS


def test_the_table_of_later_ones_is_tested_whole():
    assert set(LATER) == SAFE_LATER


@pytest.mark.parametrize(("losses", "times"), [("lost_replies", 2), ("late", 1)])
@pytest.mark.parametrize("operation", [Operation.OPEN, Operation.MKDIR, Operation.SYMLINK], ids=lambda o: o.value)
def test_what_nobody_else_makes_is_made_anew(own, operation, losses, times):
    memory, below, backend = own
    make = {
        Operation.OPEN: lambda: backend.open("new", Access.WRITE, create=Creation.EXCLUSIVE, mode=0o640).close(),
        Operation.MKDIR: lambda: backend.mkdir("new", 0o750),
        Operation.SYMLINK: lambda: backend.symlink("new", "target"),
    }[operation]
    setattr(below, losses, {operation: times})
    make()
    assert below.calls.count(operation) == 3
    assert "new" in {entry.name for entry in memory.list_dir("")}


def test_in_the_work_directory_too_what_is_there_is_made_anew(layers):
    memory, below, _ = layers
    memory.mkdir("work", 0o700)
    backend = RetryingBackend(below, 30.0, makes=Makes.MOUNT, work="work")
    below.lost_replies = {Operation.OPEN: 2}
    backend.open("work/#1", Access.WRITE, create=Creation.EXCLUSIVE).close()
    assert below.calls.count(Operation.OPEN) == 3
    for elsewhere in ("new", "workshop"):
        below.lost_replies = {Operation.OPEN: 1}
        with pytest.raises(UnknownOutcomeError):
            backend.open(elsewhere, Access.WRITE, create=Creation.EXCLUSIVE)
        assert memory.stat(elsewhere).size == 0, "it may be another's"


def test_what_holds_something_was_not_made_just_now(own):
    memory, below, backend = own
    below.lost_requests = {Operation.OPEN: 1, Operation.MKDIR: 1}
    memory.open("dir/inside", Access.WRITE, create=Creation.EXCLUSIVE).close()
    with pytest.raises(UnknownOutcomeError):
        backend.open("file", Access.WRITE, create=Creation.EXCLUSIVE)
    with pytest.raises(UnknownOutcomeError):
        backend.mkdir("dir", 0o755)
    assert memory.stat("file").size == 4
    assert memory.stat("dir/inside").size == 0


def test_a_layer_that_was_closed_is_not_tried_again(layers):
    _, below, backend = layers

    def closed(*_):
        below.calls.append(Operation.STAT)
        raise LayerClosedError

    below.stat = closed
    with pytest.raises(LayerClosedError):
        backend.stat("file")
    assert below.calls.count(Operation.STAT) == 1
