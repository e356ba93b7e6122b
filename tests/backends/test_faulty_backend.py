"""The backend that fails on demand: transparent without rules, and exact with them."""

import errno
import threading

import pytest

from netoverlay.backend_api import Access, Backend, BackendFile, Creation, UnavailableError
from netoverlay.testing.backend_suite import BackendSuite
from netoverlay.testing.faults import CHANGES, CrashedError, Faults
from netoverlay.testing.faulty_backend import FILE_OPERATIONS, NO_PATH, ONE_PATH, TWO_PATHS, FaultyBackend
from netoverlay.testing.memory_backend import ALL_CAPABILITIES, MemoryBackend
from netoverlay.testing.memory_tree import MemoryTree

UNCOUNTED = {
    "close",
    "identity",
    "appearance",
    "asks_user",
    "connection_state",
    "at_hand",
    "connection_problem",
    "open",
    "list_dirs",  # made of list_dir, which is
    "list_names",  # likewise
    "read_files",  # made of open, read and close, which are
}


class TestFaultyBackendWithoutRules(BackendSuite):
    big_directory = 200

    @pytest.fixture(scope="class")
    @classmethod
    def new_backend(cls):
        tree = MemoryTree()
        return lambda: FaultyBackend(MemoryBackend(ALL_CAPABILITIES, tree))


@pytest.fixture
def faulty():
    with FaultyBackend(MemoryBackend()) as backend:
        backend.connect()
        backend.mkdir("directory", 0o755)
        backend.open("file", Access.WRITE, create=Creation.EXCLUSIVE).close()
        backend.faults.reset_counts()
        yield backend


def public_methods(kind):
    return {name for name, value in vars(kind).items() if callable(value) and not name.startswith("_")}


def test_every_operation_can_be_struck():
    assert public_methods(Backend) - UNCOUNTED == {*ONE_PATH, *TWO_PATHS, *NO_PATH}
    assert public_methods(BackendFile) - {"close", "fileno"} == set(FILE_OPERATIONS)
    names = {*ONE_PATH, *TWO_PATHS, "create", "truncate"} | {f"file.{name}" for name in FILE_OPERATIONS}
    assert names >= CHANGES


def test_calls_are_counted(faulty):
    faulty.stat("file")
    faulty.stat("directory")
    with faulty.open("file", Access.READ_WRITE) as file:
        file.write_at(0, b"x")
        file.read_at(0, 1)
    faulty.open("file", Access.WRITE, truncate=True).close()
    assert faulty.faults.calls == {
        "stat": 2,
        "open": 1,
        "truncate": 1,
        "file.write_at": 1,
        "file.read_at": 1,
        "file.close": 2,
    }
    assert faulty.faults.total_calls == 8


def test_the_nth_call_fails(faulty):
    faulty.faults.fail("stat", error=errno.ENOSPC, path="f*", nth=2, times=2)
    faulty.stat("file")
    for _ in range(2):
        faulty.stat("directory")
        with pytest.raises(OSError, match="No space"):
            faulty.stat("file")
    faulty.stat("file")


def test_a_reply_is_lost(faulty):
    faulty.faults.fail("rename", error=lambda: UnavailableError("gone"), path="moved", after=True)
    with pytest.raises(UnavailableError):
        faulty.rename("file", "moved")
    assert faulty.stat("moved").size == 0


def test_a_file_operation_fails(faulty):
    faulty.faults.fail("file.write_at", "file.sync", path="file", times=None)
    with faulty.open("file", Access.READ_WRITE) as file:
        for _ in range(2):
            with pytest.raises(OSError, match="Input/output"):
                file.write_at(0, b"x")
            with pytest.raises(OSError, match="Input/output"):
                file.sync()
        assert file.read_at(0, 9) == b""


def test_a_file_is_released_even_if_closing_it_fails(faulty):
    faulty.faults.fail("file.close", error=errno.ENOSPC)
    file = faulty.open("file", Access.WRITE)
    with pytest.raises(OSError, match="No space"):
        file.close()
    with pytest.raises(OSError, check=lambda error: error.errno == errno.EBADF):
        file.stat()


def test_nothing_changes_after_a_crash(faulty):
    file = faulty.open("file", Access.READ_WRITE)
    faulty.faults.crash(*CHANGES, nth=2)
    file.write_at(0, b"before")
    for call in (
        lambda: faulty.mkdir("new", 0o755),
        lambda: faulty.mkdir("new", 0o755),
        lambda: file.write_at(0, b"after"),
        lambda: faulty.stat("file"),
    ):
        with pytest.raises(CrashedError):
            call()
    assert faulty.faults.crashed
    with MemoryBackend(tree=faulty.inner.tree) as survivor:
        survivor.connect()
        assert sorted(entry.name for entry in survivor.list_dir("")) == ["directory", "file"]
        assert survivor.open("file", Access.READ).read_at(0, 99) == b"before"
    faulty.faults.clear()
    faulty.stat("file")


def test_a_crash_after_a_change_leaves_the_change(faulty):
    faulty.faults.crash("mkdir", after=True)
    with pytest.raises(CrashedError):
        faulty.mkdir("new", 0o755)
    faulty.faults.clear()
    faulty.stat("new")


def test_a_call_waits_at_a_gate(faulty):
    gate = faulty.faults.pause("unlink", path="file")
    thread = threading.Thread(target=faulty.unlink, args=("file",))
    thread.start()
    gate.wait_until_reached()
    faulty.stat("file")
    gate.open()
    thread.join()
    with pytest.raises(FileNotFoundError):
        faulty.stat("file")


def test_who_waits_when_the_crash_comes_changes_nothing(faulty):
    gate = faulty.faults.pause("unlink")
    errors = []

    def unlink():
        try:
            faulty.unlink("file")
        except CrashedError as error:
            errors.append(error)

    thread = threading.Thread(target=unlink)
    thread.start()
    gate.wait_until_reached()
    faulty.faults.crash("sync")
    with pytest.raises(CrashedError):
        faulty.sync()
    gate.open()
    thread.join()
    assert len(errors) == 1
    faulty.faults.clear()
    faulty.stat("file")


def test_a_delayed_call_is_carried_out(faulty):
    faulty.faults.delay("stat", seconds=0.01)
    assert faulty.stat("file").size == 0


def test_rules_are_shared_by_backends_with_the_same_faults():
    faults = Faults()
    faults.fail("connect", times=None)
    for _ in range(2):
        with pytest.raises(OSError, match="Input/output"):
            FaultyBackend(MemoryBackend(), faults).connect()
