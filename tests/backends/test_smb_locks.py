"""Byte-range locks over SMB: against other connections, programs on the server's disk, a model, lost connections."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from netoverlay.backend_api import (
    Access,
    AllocateMode,
    BackendFile,
    LockKind,
    NotSupportedError,
    StaleHandleError,
    UnavailableError,
)
from netoverlay.testing.memory_content import RangeLocks
from netoverlay.wrappers.metrics import MeteredBackend
from netoverlay.wrappers.retry import RetryingBackend
from netoverlay_smb import SmbBackend, locking
from netoverlay_smb.errors import StatusError
from netoverlay_smb.lock_ranges import END, Span
from netoverlay_smb.locking import MAX_ELEMENTS, FileLocks
from netoverlay_smb.status import Status
from tests.backends.smb_layer import connected, smb_backend
from tests.servers.proxy import Proxy
from tests.servers.smbd import SmbServer

SHARED, EXCLUSIVE, UNLOCK = LockKind.SHARED, LockKind.EXCLUSIVE, LockKind.UNLOCK
SIZE = 1000


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("locks")


@pytest.fixture(scope="module")
def mine(smbd: SmbServer, root: Path) -> Iterator[SmbBackend]:
    with connected(smbd, root) as backend:
        yield backend


@pytest.fixture(scope="module")
def theirs(smbd: SmbServer, root: Path) -> Iterator[SmbBackend]:
    with connected(smbd, root) as backend:
        yield backend


@pytest.fixture
def path(root: Path) -> Path:
    """A new file, of which nobody knows or holds anything."""
    found = root / "file"
    found.unlink(missing_ok=True)
    found.write_bytes(bytes(SIZE))
    return found


@pytest.fixture
def two(mine: SmbBackend, theirs: SmbBackend, path: Path) -> Iterator[tuple[BackendFile, BackendFile]]:
    """One file, opened over two connections."""
    with mine.open("file", Access.READ_WRITE) as a, theirs.open("file", Access.READ_WRITE) as b:
        yield a, b


@contextmanager
def refused(code: int) -> Iterator[None]:
    with pytest.raises(OSError, check=lambda error: error.errno == code):
        yield


def local_lock(descriptor: int, kind: int, start: int, length: int) -> bool:
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, struct.pack("@hhqqi", kind, os.SEEK_SET, start, length, 0))
    except BlockingIOError:
        return False
    return True


@contextmanager
def on_the_server(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def seen_on_the_server(descriptor: int, offset: int) -> LockKind:
    """What somebody has locked there."""
    found = EXCLUSIVE
    if local_lock(descriptor, fcntl.F_WRLCK, offset, 1):
        found = UNLOCK
    elif local_lock(descriptor, fcntl.F_RDLCK, offset, 1):
        found = SHARED
    assert local_lock(descriptor, fcntl.F_UNLCK, offset, 1)
    return found


def table(file: BackendFile) -> FileLocks:
    return file._file.locks


# With a model.

LAST = 12
STEP = st.tuples(
    st.sampled_from("ab"), st.sampled_from([*LockKind, EXCLUSIVE]), st.integers(0, LAST), st.integers(0, LAST // 2)
)


def seen_in(model: RangeLocks, offset: int) -> LockKind:
    for kind in (EXCLUSIVE, SHARED):  # what a stranger may not have tells what is there
        try:
            model.set("stranger", kind, offset, 1)
        except BlockingIOError:
            continue
        model.set("stranger", UNLOCK, offset, 1)
        return UNLOCK if kind is EXCLUSIVE else SHARED
    return EXCLUSIVE


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEP, max_size=15))
def test_locks_are_those_of_the_model(mine, theirs, path, steps):
    model = RangeLocks()
    with (
        mine.open("file", Access.READ_WRITE) as a,
        theirs.open("file", Access.READ_WRITE) as b,
        on_the_server(path) as descriptor,
    ):
        files = {"a": a, "b": b}
        for owner, kind, start, length in steps:
            try:
                model.set(owner, kind, start, length)
            except BlockingIOError:
                with refused(errno.EAGAIN):
                    files[owner].lock(kind, start, length)
            else:
                files[owner].lock(kind, start, length)
            for offset in range(LAST + LAST // 2 + 1):
                assert seen_on_the_server(descriptor, offset) is seen_in(model, offset), offset
        for owner in "ab":
            for kind in LockKind:
                if kind is not UNLOCK and table(files[owner]) is not None:
                    held = [each.span for each in table(files[owner])._held]
                    assert all(not one.overlaps(other) for one in held for other in held if one is not other)


# At the server.


def requests_of(file: BackendFile, monkeypatch) -> list[int]:
    engine = file._file.handle.session.engine
    sent: list[int] = []
    call = engine.call
    monkeypatch.setattr(engine, "call", lambda *bodies: (sent.append(len(bodies)), call(*bodies))[1])
    return sent


def test_round_trips(two, monkeypatch):
    a, _ = two
    a.lock(EXCLUSIVE, 0, 1)  # the first of a session finds out whether locks are kept
    a.lock(UNLOCK, 0, 1)
    sent = requests_of(a, monkeypatch)
    for kind, start, length, messages in (
        (SHARED, 0, 30, 1),
        (UNLOCK, 10, 10, 1),  # two pieces are left
        (EXCLUSIVE, 20, 10, 2),  # of what is shared
        (UNLOCK, 22, 2, 1),  # from what is exclusive
        (UNLOCK, 0, 10, 1),
        (SHARED, 24, 6, 2),
    ):
        sent.clear()
        a.lock(kind, start, length)
        assert len(sent) == messages, (kind, start, length)
    sent.clear()
    a.lock(EXCLUSIVE, 20, 2)
    a.lock(UNLOCK, 500, 10)
    assert not sent, "what is there already is not asked for"


def test_a_program_on_the_server_sees_them(two, path):
    a, _ = two
    with on_the_server(path) as descriptor:
        a.lock(EXCLUSIVE, 0, 10)
        a.lock(SHARED, 10, 0)
        assert [seen_on_the_server(descriptor, at) for at in (0, 9, 10, 1 << 40)] == [
            EXCLUSIVE,
            EXCLUSIVE,
            SHARED,
            SHARED,
        ]
        a.lock(UNLOCK, 0, 0)
        assert local_lock(descriptor, fcntl.F_WRLCK, 5, 10)
        with refused(errno.EAGAIN):
            a.lock(SHARED, 0, 6)
        a.lock(EXCLUSIVE, 0, 5)


def test_a_refused_lock_leaves_everything_as_it_was(two):
    a, b = two
    a.lock(SHARED, 0, 10)
    a.lock(EXCLUSIVE, 20, 10)
    b.lock(SHARED, 50, 10)
    before = list(table(a)._held)
    with refused(errno.EAGAIN):
        a.lock(EXCLUSIVE, 0, 60)
    assert table(a)._held == before
    with refused(errno.EAGAIN):
        b.lock(EXCLUSIVE, 0, 1)


def test_two_who_share_and_want_more_keep_what_they_have(smbd, path):
    """Each gives its own up for a moment whenever it tries: without taking turns one of them loses it within seven."""
    refusals: list[int | None] = []

    def want(file: BackendFile) -> None:
        for _ in range(60):
            try:
                file.lock(EXCLUSIVE, 0, 10)
            except OSError as error:
                refusals.append(error.errno)

    with (
        Proxy(smbd.port, delay=0.002) as proxy,  # which brings them into step
        connected(smbd, path.parent, port=proxy.port) as mine,
        connected(smbd, path.parent, port=proxy.port) as theirs,
        mine.open("file", Access.READ_WRITE) as a,
        theirs.open("file", Access.READ_WRITE) as b,
    ):
        threads = [threading.Thread(target=want, args=[file]) for file in (a, b)]
        for file in (a, b):
            file.lock(SHARED, 0, 10)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert refusals == [errno.EAGAIN] * 120
        a.lock(UNLOCK, 0, 0)
        b.lock(EXCLUSIVE, 0, 10)


@pytest.mark.parametrize("access", list(Access))
def test_both_kinds_whatever_it_is_opened_for(mine, theirs, path, access):
    with mine.open("file", access) as file, theirs.open("file", Access.READ_WRITE) as other:
        for kind in (EXCLUSIVE, SHARED, EXCLUSIVE):
            file.lock(kind, 0, 10)
        with refused(errno.EAGAIN):
            other.lock(SHARED, 0, 1)
        file.close()
        other.lock(EXCLUSIVE, 0, 1)


def test_many_ranges(two):
    a, b = two
    count = 3 * MAX_ELEMENTS
    for index in range(count):
        a.lock(EXCLUSIVE, 2 * index, 1)
    a.lock(EXCLUSIVE, 0, 2 * count)
    with refused(errno.EAGAIN):
        b.lock(SHARED, 1, 1)
    a.lock(SHARED, 0, 2 * count)
    b.lock(SHARED, 0, 2 * count)
    b.lock(UNLOCK, 0, 0)
    a.lock(UNLOCK, 0, 0)
    b.lock(EXCLUSIVE, 0, 0)


def test_too_many_ranges_for_one_message(two):
    a, b = two
    for index in range(MAX_ELEMENTS):
        a.lock(SHARED, 2 * index, 1)
    with refused(errno.ENOLCK):
        a.lock(EXCLUSIVE, 0, 0)
    assert a.lost_locks == ()
    with refused(errno.EAGAIN):
        b.lock(EXCLUSIVE, 2 * MAX_ELEMENTS - 2, 1)


def test_a_lock_for_which_there_are_no_offsets(two):
    a, _ = two
    for start, length in ((-1, 1), (0, -1), (END - 1, 2), (END, 0)):
        with refused(errno.EINVAL):
            a.lock(SHARED, start, length)
    a.lock(SHARED, END - 1, 1)


def test_a_server_that_keeps_no_locks(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "file").touch()
    with (
        SmbServer(tmp_path / "smbd", {"tests": root}, share_settings=("locking = no",)) as server,
        connected(server, root) as backend,
        backend.open("file", Access.READ_WRITE) as file,
    ):
        for kind in (SHARED, EXCLUSIVE):
            with pytest.raises(NotSupportedError):
                file.lock(kind, 0, 1)
        file.lock(UNLOCK, 0, 0)


# What locks do to reading and writing.


def test_writing_under_a_shared_lock_of_its_own(two):
    a, b = two
    a.lock(SHARED, 0, 100)
    a.lock(SHARED, 300, 10)
    a.write_at(50, b"x" * 100)
    a.write_at(200, b"y")
    a.truncate(SIZE // 2)
    a.allocate(AllocateMode.PUNCH_HOLE, 90, 20)
    assert a.read_at(89, 22) == b"x" + bytes(20) + b"x"
    with refused(errno.EAGAIN):
        b.lock(EXCLUSIVE, 0, 1)
    b.lock(SHARED, 0, 100)
    with refused(errno.EACCES):  # the other's lock is one
        a.write_at(50, b"x")
    b.lock(UNLOCK, 0, 100)
    a.write_at(50, b"z")
    assert b.read_at(50, 1) == b"z"


def test_copying_under_a_shared_lock_of_its_own(mine, path):
    (path.parent / "source").write_bytes(b"s" * 100)
    with mine.open("file", Access.READ_WRITE) as target, mine.open("source", Access.READ) as source:
        target.lock(SHARED, 0, 10)
        assert target.copy_range(source, 0, 5, 100) == 100
        assert target.read_at(4, 2) == b"\0s"


def test_writing_nothing_needs_no_lock(two):
    a, b = two
    for file in two:
        file.lock(SHARED, 0, 0)
    a.write_at(0, b"")
    b.lock(UNLOCK, 0, 0)


def test_writing_many_at_once_under_a_shared_lock(two):
    a, b = two
    a.lock(SHARED, 0, SIZE)

    def write(number: int) -> None:
        for _ in range(20):
            a.write_at(100 * number, bytes([number]) * 100)

    threads = [threading.Thread(target=write, args=[number]) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert b.read_at(0, 500) == b"".join(bytes([number]) * 100 for number in range(5))
    b.lock(SHARED, 0, SIZE)


def test_what_others_have_locked(two):
    a, b = two
    b.lock(EXCLUSIVE, 0, 10)
    with refused(errno.EACCES):
        a.read_at(5, 10)
    with refused(errno.EACCES):
        a.write_at(5, b"x")
    assert a.read_at(10, 10) == bytes(10)


def test_a_lock_of_others_for_a_moment_is_waited_for(two):
    a, b = two
    b.lock(EXCLUSIVE, 0, 10)
    timer = threading.Timer(0.1, b.lock, [UNLOCK, 0, 10])
    timer.start()
    a.write_at(5, b"x")
    assert a.read_at(5, 1) == b"x"
    timer.join()


def test_a_lock_shows_what_was_written_until_then(mine, theirs, path):
    with mine.open("file", Access.READ) as reader, theirs.open("file", Access.WRITE) as writer:
        writer.write_at(0, b"new")
        reader.lock(SHARED, 0, 3)
        assert reader.read_at(0, 3) == b"new", "what came with opening it is old"


# Lost connections, and handles.


@pytest.fixture
def proxy(smbd: SmbServer) -> Iterator[Proxy]:
    proxy = Proxy(smbd.port)
    yield proxy
    proxy.close()


@pytest.fixture
def cuttable(smbd: SmbServer, path: Path, proxy: Proxy) -> Iterator[SmbBackend]:
    with connected(smbd, path.parent, port=proxy.port, deadline=3.0) as backend:
        yield backend


@pytest.fixture
def cut_off(cuttable: SmbBackend, theirs: SmbBackend, path: Path) -> Iterator[tuple[BackendFile, BackendFile]]:
    """As `two`, but the first through the proxy."""
    with cuttable.open("file", Access.READ_WRITE) as a, theirs.open("file", Access.READ_WRITE) as b:
        yield a, b


def notice(file: BackendFile) -> None:
    """Whatever is tried first fails with the connection."""
    for _ in range(2):
        with suppress(UnavailableError):
            file.stat()


def test_locks_are_taken_again(cut_off, proxy):
    a, b = cut_off
    a.lock(EXCLUSIVE, 0, 10)
    a.lock(SHARED, 20, 10)
    proxy.cut()
    notice(a)
    assert a.read_at(0, 1) == b"\0"
    for kind, start in ((SHARED, 0), (EXCLUSIVE, 20)):
        with refused(errno.EAGAIN):
            b.lock(kind, start, 1)
    b.lock(SHARED, 20, 10)
    assert a.lost_locks == ()
    a.lock(UNLOCK, 0, 0)
    b.lock(EXCLUSIVE, 0, 0)


def test_locks_are_taken_again_with_the_first_use_of_the_connection(cut_off, cuttable, proxy):
    a, b = cut_off
    a.lock(EXCLUSIVE, 0, 10)
    proxy.cut()
    for _ in range(2):
        with suppress(UnavailableError):
            cuttable.stat("")
    before = time.monotonic()
    while a._file.handle is None or a._file.handle.session.broken:
        assert time.monotonic() < before + 10
        time.sleep(0.01)
    with refused(errno.EAGAIN):
        b.lock(EXCLUSIVE, 0, 10)


def lose(a: BackendFile, b: BackendFile, proxy: Proxy) -> None:
    """Of all that `a` has, `b` takes byte 25 while it is cut off."""
    proxy.refuse()
    for _ in range(100):
        try:
            b.lock(EXCLUSIVE, 25, 1)
        except BlockingIOError:
            threading.Event().wait(0.02)
        else:
            break
    else:
        pytest.fail("the server has not noticed")
    proxy.restore()


def test_locks_that_others_have_taken_meanwhile_are_lost(cut_off, proxy):
    a, b = cut_off
    a.lock(EXCLUSIVE, 0, 10)
    a.lock(SHARED, 20, 0)
    lose(a, b, proxy)
    notice(a)
    assert a.lost_locks == ((0, 10), (20, 0))
    for call in (lambda: a.read_at(500, 1), lambda: a.write_at(500, b"x"), lambda: a.truncate(500)):
        with refused(errno.EIO):
            call()
    with refused(errno.ENOLCK):
        a.lock(SHARED, 500, 1)
    b.lock(EXCLUSIVE, 0, 10)  # of what is lost, nothing is held
    a.lock(UNLOCK, 5, 25)
    assert a.lost_locks == ((0, 5), (30, 0))
    with refused(errno.EIO):
        a.read_at(500, 1)
    a.lock(UNLOCK, 0, 0)
    assert a.lost_locks == ()
    assert a.read_at(500, 1) == b"\0"
    a.lock(SHARED, 500, 1)


def test_loss_shows_in_the_first_use(cut_off, proxy):
    a, b = cut_off
    a.lock(EXCLUSIVE, 0, 100)
    lose(a, b, proxy)
    with refused(errno.EIO):
        a.write_at(25, b"x")
    assert b.read_at(25, 1) == b"\0"


def test_letting_go_needs_no_connection(cut_off, proxy):
    a, b = cut_off
    a.lock(EXCLUSIVE, 0, 10)
    a.lock(EXCLUSIVE, 50, 10)
    proxy.refuse()
    a.lock(UNLOCK, 0, 10)
    with pytest.raises(UnavailableError):
        a.lock(EXCLUSIVE, 100, 10)
    proxy.restore()
    assert a.read_at(0, 1) == b"\0"
    b.lock(EXCLUSIVE, 0, 10)
    b.lock(EXCLUSIVE, 100, 10)
    with refused(errno.EAGAIN):
        b.lock(EXCLUSIVE, 50, 10)


def test_the_lock_of_a_file_that_is_another_one_now_is_lost(cut_off, proxy, path):
    a, _ = cut_off
    a.lock(EXCLUSIVE, 0, 10)
    path.unlink()
    path.write_bytes(b"another")
    proxy.cut()
    with suppress(UnavailableError, StaleHandleError):
        a.stat()
    with pytest.raises(StaleHandleError):
        a.lock(EXCLUSIVE, 50, 10)
    assert a.lost_locks == ((0, 10),)
    a.lock(UNLOCK, 0, 0)
    assert a.lost_locks == ()


def test_a_copy_from_such_a_file_leaves_the_locks_of_the_target(cuttable, proxy, path):
    source_path = path.parent / "source"
    source_path.write_bytes(b"source")
    with cuttable.open("source", Access.READ) as source, cuttable.open("file", Access.READ_WRITE) as target:
        target.lock(EXCLUSIVE, 0, 10)
        source_path.unlink()
        source_path.write_bytes(b"another")
        proxy.cut()
        notice(target)
        with pytest.raises(StaleHandleError):
            target.copy_range(source, 0, 0, 6)
        assert target.lost_locks == ()
        target.write_at(0, b"x")


def test_an_unanswered_request_is_settled_by_a_new_connection(smbd, theirs, path, proxy):
    with (
        connected(smbd, path.parent, port=proxy.port, deadline=0.5) as backend,
        backend.open("file", Access.READ_WRITE) as a,
        theirs.open("file", Access.READ_WRITE) as b,
    ):
        a.lock(SHARED, 0, 10)
        proxy.silence()
        with pytest.raises(UnavailableError):
            a.lock(EXCLUSIVE, 0, 10)
        proxy.restore()
        assert a.read_at(0, 1) == b"\0"
        b.lock(SHARED, 0, 10)
        assert a.lost_locks == ()


def test_a_server_that_has_not_noticed_a_lost_connection(smbd, theirs, path):
    """The new session names the old one, which the server then drops, and its locks with it."""
    first, second = Proxy(smbd.port), Proxy(smbd.port)
    with smb_backend(smbd, path.parent, port=first.port, deadline=1.0) as backend:
        backend.connect()
        with backend.open("file", Access.READ_WRITE) as a, theirs.open("file", Access.READ_WRITE) as b:
            a.lock(EXCLUSIVE, 0, 10)
            first.silence()
            with pytest.raises(UnavailableError):
                a.stat()
            backend._url = replace(backend._url, port=second.port)
            link = backend._last.link
            backend._last.link = replace(link, server=link.server.replace(f"{first.port}", f"{second.port}"))
            assert a.read_at(0, 1) == b"\0"
            assert a.lost_locks == ()
            with refused(errno.EAGAIN):
                b.lock(SHARED, 0, 1)
    first.close()
    second.close()


def test_a_lock_is_tried_again(smbd, path, proxy):
    with MeteredBackend(smb_backend(smbd, path.parent, port=proxy.port)) as metered:
        backend = RetryingBackend(metered, 10.0)
        backend.connect()
        with backend.open("file", Access.READ_WRITE) as file:
            file.lock(EXCLUSIVE, 0, 10)
            proxy.cut()
            file.lock(EXCLUSIVE, 5, 10)
            assert file.lost_locks == ()
        assert metered.snapshot()["file_lock.calls"] in (2, 3)


def test_a_lock_stays_when_the_directory_is_renamed(mine, theirs, path):
    (path.parent / "old").mkdir()
    path.rename(path.parent / "old" / "file")
    with mine.open("old/file", Access.READ_WRITE) as a:
        a.lock(EXCLUSIVE, 0, 10)
        mine.rename("old", "new")
        with theirs.open("new/file", Access.READ_WRITE) as b, refused(errno.EAGAIN):
            b.lock(SHARED, 0, 1)
        mine.unlink("new/file")
        a.lock(UNLOCK, 0, 0)


# What no server can be brought to do at will.


class Script:
    """A handle whose server answers as it is written."""

    def __init__(self, *answers: list[Status]) -> None:
        self.answers = list(answers)
        self.session = SimpleNamespace(engine=self, keeps_locks=True, link=SimpleNamespace(server="test"))
        self.raw = bytes(16)
        self.failure = ""

    def call(self, *bodies):
        answer = self.answers.pop(0)
        assert len(answer) == len(bodies)
        return [SimpleNamespace(status=status) for status in answer]

    def fail(self, reason: str) -> None:
        self.failure = reason


OK, NO, UNKNOWN = Status.SUCCESS, Status.LOCK_NOT_GRANTED, Status.RANGE_NOT_LOCKED


def holding(kind: LockKind, *spans: Span) -> FileLocks:
    locks = FileLocks()
    for span in spans:
        locks.set(Script([OK]), kind, span)
    return locks


def test_another_was_quicker_than_a_refused_upgrade():
    locks = holding(SHARED, Span(0, 10), Span(10, 20))
    with refused(errno.ENOLCK):
        locks.set(Script([OK], [OK, NO, NO, UNKNOWN, OK], [OK], [NO]), EXCLUSIVE, Span(0, 30))
    assert locks.lost == [Span(10, 20)]
    assert [each.span for each in locks._held] == [Span(0, 10)]
    with refused(errno.ENOLCK):
        locks.set(Script(), SHARED, Span(50, 60))
    with refused(errno.EIO):
        locks.change(Script(), Span(50, 60), lambda: None)
    locks.set(Script([OK]), UNLOCK, Span(0, 20))
    locks.require_kept()
    assert locks.is_empty


def test_another_was_quick_but_is_gone():
    locks = holding(SHARED, Span(0, 10))
    with pytest.raises(StatusError) as caught:
        locks.set(Script([OK], [OK, NO, NO, UNKNOWN, OK], [OK]), EXCLUSIVE, Span(0, 10))
    assert caught.value.status == NO
    locks.require_kept()


def test_another_has_his_turn(monkeypatch):
    monkeypatch.setattr(locking, "TURN_SECONDS", 0.01)
    locks = holding(SHARED, Span(0, 10))
    with pytest.raises(StatusError) as caught:
        locks.set(Script(*[[NO]] * 100), EXCLUSIVE, Span(0, 10))
    assert caught.value.status == NO
    assert [each.span for each in locks._held] == [Span(0, 10)]


def test_another_was_quicker_than_a_split():
    locks = holding(EXCLUSIVE, Span(0, 30))
    with refused(errno.ENOLCK):
        locks.set(Script([OK, NO]), UNLOCK, Span(10, 20))
    assert locks.lost == [Span(0, 10), Span(20, 30)]
    assert locks.is_empty


def test_another_was_quicker_than_a_write_under_a_shared_lock():
    locks = holding(SHARED, Span(0, 10))
    with refused(errno.EIO):
        locks.change(
            Script([OK], [OK, NO, NO, UNKNOWN, OK], [NO]), Span(5, 6), lambda: pytest.fail("it must not be written")
        )
    assert locks.lost == [Span(0, 10)]


def test_a_server_with_other_locks_than_are_known():
    locks = holding(SHARED, Span(0, 10))
    script = Script([UNKNOWN])
    with pytest.raises(UnavailableError):
        locks.set(script, UNLOCK, Span(0, 10))
    assert "other locks" in script.failure
    assert not locks.is_empty, "it will be taken again, and unlocked then"


def test_all_are_taken_again_or_none():
    locks = FileLocks()
    for index in range(MAX_ELEMENTS + 1):
        locks.set(Script([OK]), SHARED, Span(2 * index, 2 * index + 1))
    script = Script([OK], [Status.INSUFFICIENT_RESOURCES], [OK])
    locks.take_again(script)
    assert not script.answers
    assert locks.is_empty
    assert len(locks.lost) == MAX_ELEMENTS + 1
