"""The server is lost, or the process dies, at each call of a change: each name shows the old or the new."""

from __future__ import annotations

import contextlib
import dataclasses
import errno

import pytest

from netoverlay.backend_api import Access, AttributeChange, Creation, FileType, RenameFlags, join_path, os_error
from netoverlay.backend_api.delegate import DelegatingBackend
from netoverlay.checking.journal import check_journal
from netoverlay.testing.faults import Faults
from netoverlay.testing.faulty_backend import FaultyBackend
from netoverlay.wrappers.guard import GuardedBackend
from netoverlay.wrappers.scratch import ScratchBackend
from netoverlay.wrappers.sidecar import journal
from tests.checking.repairing import repair_all, server_subject
from tests.wrappers.sidecars import LIKE_SFTP, NULL_DEVICE, WORK, Server, die, make, read, shown

OPAQUE = "trusted.overlay.opaque"
LONG, HIDDEN = "up/" + "l" * 255, "up/" + "h" * 252
"""Whose whiteouts the server cannot have under the usual name."""


def whiteout(backend, path):
    backend.mknod(path, FileType.CHARACTER_DEVICE, 0, 0)


def prepare(backend):
    make(backend, "up/file", b"file", 0o640)
    backend.set_attributes("up/file", AttributeChange(uid=1001, gid=1002))
    backend.set_xattr("up/file", "user.of", b"file")
    make(backend, "up/other", b"other", 0o604)
    backend.set_xattr("up/other", "trusted.of", b"other")
    backend.mknod("up/fifo", FileType.FIFO, 0o600)
    backend.mknod("up/device", FileType.BLOCK_DEVICE, 0o660, NULL_DEVICE)
    backend.symlink("up/symlink", "target")
    make(backend, "up/first", b"linked", 0o600)
    backend.link("up/first", "up/second")
    whiteout(backend, "up/whiteout")
    make(backend, LONG, b"long", 0o604)
    whiteout(backend, HIDDEN)
    for name in ("directory", "empty", "opaque", "full"):
        backend.mkdir(f"up/{name}", 0o750)
        backend.set_xattr(f"up/{name}", "user.of", name.encode())
    make(backend, "up/full/inside", b"inside", 0o611)
    backend.mkdir("up/full/below", 0o711)
    whiteout(backend, "up/full/gone")
    backend.set_xattr("up/opaque", OPAQUE, b"y")
    make(backend, f"{WORK}/#1", b"made", 0o611)
    backend.set_xattr(f"{WORK}/#1", "user.of", b"made")
    whiteout(backend, f"{WORK}/#2")
    backend.mkdir(f"{WORK}/#3", 0o711)
    backend.set_xattr(f"{WORK}/#3", OPAQUE, b"y")


def rename(old, new, flags=RenameFlags.NONE):
    return lambda backend: backend.rename(old, new, flags)


EXCHANGE, WHITEOUT = RenameFlags.EXCHANGE, RenameFlags.WHITEOUT
CHANGES = {
    "unlink": lambda backend: backend.unlink("up/file"),
    "unlink fifo": lambda backend: backend.unlink("up/fifo"),
    "unlink one of two links": lambda backend: backend.unlink("up/first"),
    "unlink whiteout": lambda backend: backend.unlink("up/whiteout"),
    "rmdir": lambda backend: backend.rmdir("up/empty"),
    "rmdir opaque": lambda backend: backend.rmdir("up/opaque"),
    "mknod": lambda backend: backend.mknod("up/new", FileType.SOCKET, 0o611),
    "mknod whiteout": lambda backend: whiteout(backend, "up/new"),
    "symlink that the server cannot hold": lambda backend: backend.symlink("up/new", "x" * 4000),
    "link": lambda backend: backend.link("up/file", "up/new"),
    "link fifo": lambda backend: backend.link("up/fifo", "up/full/new"),
    "set opaque": lambda backend: backend.set_xattr("up/full", OPAQUE, b"y"),
    "clear opaque": lambda backend: backend.remove_xattr("up/opaque", OPAQUE),
    "rename": rename("up/file", "up/new"),
    "rename fifo over file": rename("up/fifo", "up/file"),
    "rename file over device": rename("up/file", "up/device"),
    "rename over whiteout": rename("up/file", "up/whiteout"),
    "rename made over whiteout": rename(f"{WORK}/#1", "up/whiteout"),
    "rename over one of two links": rename("up/file", "up/first"),
    "rename one of two links": rename("up/first", "up/new"),
    "rename directory": rename("up/full", "up/directory/new"),
    "rename directory over empty": rename("up/full", "up/empty"),
    "rename directory over opaque": rename("up/full", "up/opaque"),
    "rename leaving whiteout": rename("up/file", "up/new", WHITEOUT),
    "rename over file leaving whiteout": rename("up/file", "up/other", WHITEOUT),
    "rename over whiteout leaving whiteout": rename("up/fifo", "up/whiteout", WHITEOUT),
    "rename directory leaving whiteout": rename("up/full", "up/new", WHITEOUT),
    "whiteout over file": rename(f"{WORK}/#2", "up/file"),
    "whiteout over fifo": rename(f"{WORK}/#2", "up/fifo"),
    "whiteout moves": rename("up/whiteout", "up/new"),
    "long file leaving whiteout": rename(LONG, "up/new", WHITEOUT),
    "whiteout over long file": rename("up/whiteout", LONG),
    "long whiteout moves": rename(HIDDEN, "up/new"),
    "long whiteout moves away": rename(HIDDEN, f"up/directory/{'n' * 254}"),
    "unlink long whiteout": lambda backend: backend.unlink(HIDDEN),
    "rename over long whiteout": rename("up/file", HIDDEN),
    "exchange files": rename("up/file", "up/other", EXCHANGE),
    "exchange file and fifo": rename("up/file", "up/fifo", EXCHANGE),
    "exchange file and directory": rename("up/file", "up/full", EXCHANGE),
    "exchange directories": rename("up/full", "up/opaque", EXCHANGE),
    "exchange directory and whiteout": rename("up/full", f"{WORK}/#2", EXCHANGE),
    "exchange whiteout and directory": rename(f"{WORK}/#2", "up/full", EXCHANGE),
    "exchange made directory and whiteout": rename(f"{WORK}/#3", "up/whiteout", EXCHANGE),
}
"""Each is one call."""


class ShortLinks(DelegatingBackend):
    """As SMB has them."""

    def symlink(self, path, target):
        if len(target) > 1024:
            raise os_error(errno.ENAMETOOLONG, path)
        super().symlink(path, target)


def faulty(server):
    faults = Faults()
    return server.backend(lambda inner: FaultyBackend(ShortLinks(inner), faults)), faults


def attempt(change, arm, *, dies):
    """Make the change with faults: whether it succeeded, and what this mount, if it lives, and the next one show."""
    server = Server(dataclasses.replace(LIKE_SFTP, time_granularity_ns=1))
    with server.mounted() as backend:
        prepare(backend)
    backend, faults = faulty(server)
    backend.connect()
    arm(faults)
    done = False
    with contextlib.suppress(OSError):
        CHANGES[change](backend)
        done = True
    views = []
    if dies:
        die(backend)
    else:
        faults.clear()
        views.append(shown(backend))
        backend.close()
    with server.mounted() as again:
        views.append(shown(again))
    return done, views


def every_call(change):
    """The numbers of the calls that it makes when all goes well."""
    counted = []
    attempt(change, lambda faults: counted.append((faults, faults.total_calls)), dies=True)
    faults, before = counted[0]
    return range(1, faults.total_calls - before + 1)


@pytest.fixture(scope="module")
def old():
    return attempt("unlink", lambda faults: faults.crash(), dies=True)[1][0]


@pytest.fixture(scope="module")
def expected():
    results = {change: attempt(change, lambda _: None, dies=False) for change in CHANGES}
    assert all(done for done, _ in results.values())
    for _, (now, again) in results.values():
        assert now == again
    return {change: views[0] for change, (_, views) in results.items()}


def assert_old_or_new(view, old, new, told):
    for name in old.keys() | new.keys() | view.keys():
        assert view.get(name) in (old.get(name), new.get(name)), f"{told}: {name}"


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_process_that_dies(change, after, old, expected):
    for nth in every_call(change):
        done, views = attempt(change, lambda faults, n=nth: faults.crash(nth=n, after=after), dies=True)
        assert_old_or_new(views[0], old, expected[change], f"call {nth}")
        if done:
            assert views[0] == expected[change]


def on_server(plain, path=""):
    """All that is there."""
    found = {}
    for name, stat in plain.list_dir(path):
        child = join_path(path, name)
        found[child] = (stat, read(plain, child) if stat.type is FileType.REGULAR else None)
        if stat.type is FileType.DIRECTORY:
            found |= on_server(plain, child)
    return found


@pytest.mark.parametrize("change", CHANGES)
def test_a_check_sees_what_the_next_mount_shows_and_puts_it_in_order(change):
    for nth in every_call(change)[::3]:
        server = Server(dataclasses.replace(LIKE_SFTP, time_granularity_ns=1))
        with server.mounted() as backend:
            prepare(backend)
        backend, faults = faulty(server)
        backend.connect()
        faults.crash(nth=nth, after=True)
        with contextlib.suppress(OSError):
            CHANGES[change](backend)
        die(backend)
        with server.plain() as plain:
            before = on_server(plain)
            with server.mounted(lambda inner: ScratchBackend(GuardedBackend(inner, lost=lambda: True))) as looked:
                seen_without_a_change = shown(looked)
            assert on_server(plain) == before, f"call {nth}"
        with server.backend() as again:
            capabilities = again.connect()
            assert shown(again) == seen_without_a_change, f"call {nth}"
            repair_all(server_subject(again, capabilities, "up", WORK))
        with server.plain() as plain:
            assert check_journal(plain, WORK) == ((), frozenset()), f"call {nth}"


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_server_that_fails_once(change, after, old, expected):
    for nth in every_call(change):
        done, views = attempt(change, lambda faults, n=nth: faults.fail(nth=n, after=after), dies=False)
        assert_old_or_new(views[0], old, expected[change], f"call {nth}")
        assert views[0] == views[1], f"call {nth}: what was shown is not what stayed"
        if done:
            assert views[0] == expected[change], f"call {nth}"


@pytest.mark.parametrize("times", [2, 3, 4])
@pytest.mark.parametrize("change", CHANGES)
def test_a_server_that_fails_for_a_while(change, times, old, expected):
    for nth in every_call(change):
        done, views = attempt(change, lambda faults, n=nth: faults.fail(nth=n, times=times, after=True), dies=False)
        assert_old_or_new(views[0], old, expected[change], f"call {nth}")
        assert views[0] == views[1], f"call {nth}: what was shown is not what stayed"
        if done:
            assert views[0] == expected[change], f"call {nth}"


@pytest.mark.parametrize(
    "change", ["unlink", "rename fifo over file", "exchange files", "rename directory over opaque"]
)
def test_a_recovery_that_dies(change, old, expected, monkeypatch):
    monkeypatch.setattr(journal, "_TAKE_OVER_PAUSE", 0.0)
    for nth in range(1, 15):
        server = Server(LIKE_SFTP)
        with server.mounted() as backend:
            prepare(backend)
        backend, faults = faulty(server)
        backend.connect()
        faults.crash("rename", "unlink", after=True)
        with contextlib.suppress(OSError):
            CHANGES[change](backend)
        die(backend)
        second, faults = faulty(server)
        faults.crash(nth=nth, after=True)
        with contextlib.suppress(OSError):
            second.connect()
        die(second)
        with server.mounted() as third:
            assert_old_or_new(shown(third), old, expected[change], f"call {nth}")


def test_what_was_removed_lends_nothing_to_what_comes_after_it():
    server = Server()
    with server.mounted() as backend:
        backend.mknod("up/name", FileType.FIFO, 0o600)
        backend.set_xattr("up/name", "trusted.of", b"fifo")
    backend = server.backend()
    backend.connect()
    backend.unlink("up/name")
    file = backend.open("up/name", Access.WRITE, create=Creation.EXCLUSIVE, mode=0o644)
    file.write_at(0, b"new")
    die(backend)
    with server.mounted() as again:
        stat = again.stat("up/name")
        assert (stat.type, stat.size, stat.mode) == (FileType.REGULAR, 3, 0o644)
        assert again.list_xattrs("up/name") == []


def make_file(backend):
    make(backend, "up/new", b"new", 0o604)


GAINS = {
    "create": make_file,
    "mkdir": lambda backend: backend.mkdir("up/new", 0o711),
    "symlink": lambda backend: backend.symlink("up/new", "target"),
    "chmod": lambda backend: backend.set_attributes("up/file", AttributeChange(mode=0o4711, uid=3)),
    "setxattr": lambda backend: backend.set_xattr("up/file", "trusted.new", b"new"),
}


@pytest.mark.parametrize("gain", GAINS)
def test_what_is_gained_is_there_or_not_and_harms_nothing(gain, old):
    for nth in range(1, 12):
        server = Server(LIKE_SFTP)
        with server.mounted() as backend:
            prepare(backend)
        backend, faults = faulty(server)
        backend.connect()
        faults.crash(nth=nth, after=True)
        with contextlib.suppress(OSError):
            GAINS[gain](backend)
            backend.sync()
        die(backend)
        with server.mounted() as again:
            view = shown(again)
            again.sync()
            changed = {name for name in view if view[name] != old.get(name)}
            assert changed <= {"up/new", "up/file"}
            assert old.keys() <= view.keys()


def test_writing_the_journal_anew_loses_nothing(old):
    for nth in range(1, 12):
        for after in (False, True):
            server = Server(LIKE_SFTP)
            with server.mounted() as backend:
                prepare(backend)
            backend, faults = faulty(server)
            backend.connect()
            faults.crash(nth=nth, after=after)
            with contextlib.suppress(OSError):
                backend._journal.compact()
            die(backend)
            with server.mounted() as again:
                assert shown(again) == old, f"call {nth}"
