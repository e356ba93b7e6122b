"""Locks on files that others than the mount may use: the layer holds them as well, and others' locks are kept to."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from netoverlay.backend_api import (
    Access,
    Backend,
    BackendFile,
    LayerPath,
    LockKind,
    RenameFlags,
    UnavailableError,
)
from netoverlay.backend_api.delegate import DelegatingBackend, DelegatingFile
from netoverlay.overlay.lock_poller import LockPoller
from tests.overlay.lockers import Outsider, Program, eventually, outsider, refused
from tests.overlay.trees import Mounted, write_tree

SHARED, EXCLUSIVE, UNLOCK = LockKind.SHARED, LockKind.EXCLUSIVE, LockKind.UNLOCK
CHANGING_NS = 10**9


class Shared:
    """An overlay whose upper others use, with the file "file" there; and programs."""

    def __init__(self, directory: Path, **options: object) -> None:
        self.upper = directory / "upper" / "file"
        self.lower = directory / "lower0" / "file"
        self.overlay = Mounted(directory, shared_upper=True, **options)  # type: ignore[arg-type]
        self.programs: list[Program] = []

    def start(self) -> Program:
        self.programs.append(Program(self.overlay, "file"))
        return self.programs[-1]

    def close(self) -> None:
        for program in self.programs:
            if program.request is not None:
                program.interrupt()
            program.close()
        self.overlay.close()


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Shared]:
    """The file is in the upper."""
    write_tree(tmp_path / "lower0", {})
    write_tree(tmp_path / "upper", {"file": b"content"})
    made = Shared(tmp_path)
    yield made
    made.close()


@pytest.fixture
def changing(tmp_path: Path) -> Iterator[Shared]:
    """The file is in a lower in which others write."""
    write_tree(tmp_path / "lower0", {"file": b"content"})
    made = Shared(tmp_path, ttl_ns=CHANGING_NS)
    yield made
    made.close()


def test_the_layer_holds_what_a_program_holds_and_not_longer(shared: Shared) -> None:
    program = shared.start()
    with outsider(shared.upper) as other:
        program.try_lock(EXCLUSIVE, 0, 5)
        assert not other.can(SHARED, 4, 6)
        assert other.can(EXCLUSIVE, 5, 9)
        program.try_lock(SHARED, 0, 5)
        assert other.can(SHARED)
        assert not other.can(EXCLUSIVE)
        program.unlock(0, 3)
        assert other.can(EXCLUSIVE, 0, 3)
        assert not other.can(EXCLUSIVE, 3, 5)
        program.flush()
        assert other.can(EXCLUSIVE)
        program.try_flock(SHARED)
        assert other.can_flock(SHARED)
        assert not other.can_flock(EXCLUSIVE)
        assert other.can(EXCLUSIVE)  # of the other call
        program.flock(UNLOCK)
        assert other.can_flock(EXCLUSIVE)


def test_the_layer_holds_for_each_byte_the_strongest_lock_of_all(shared: Shared) -> None:
    one, another = shared.start(), shared.start()
    with outsider(shared.upper) as other:
        one.try_lock(SHARED, 0, 10)
        another.try_lock(SHARED, 5, 15)
        one.try_lock(EXCLUSIVE, 0, 5)
        one.unlock(0, 10)
        assert other.can(EXCLUSIVE, 0, 5)
        assert other.can(SHARED, 5, 15)
        assert not other.can(EXCLUSIVE, 5, 6)
        assert not other.can(EXCLUSIVE, 14, 15)


def test_an_outsider_is_waited_for(shared: Shared) -> None:
    ranged, whole = shared.start(), shared.start()
    with outsider(shared.upper) as other:
        other.lock(EXCLUSIVE, 0, 5)
        other.flock(SHARED)
        refused(errno.EAGAIN, lambda: ranged.try_lock(SHARED, 4, 9))
        waiting, waiting_whole = ranged.lock(SHARED, 4, 9), whole.flock(EXCLUSIVE)
        time.sleep(0.03)
        assert waiting.waits
        assert waiting_whole.waits
        other.lock(UNLOCK)
        waiting.granted()
        assert waiting_whole.waits
        other.flock(UNLOCK)
        waiting_whole.granted()


def test_who_waits_for_an_outsider_can_be_interrupted(shared: Shared) -> None:
    program = shared.start()
    with outsider(shared.upper) as other:
        other.lock(EXCLUSIVE)
        waiting = program.lock(EXCLUSIVE)
        program.interrupt()
        waiting.refused(errno.EINTR)
        other.lock(UNLOCK)
        time.sleep(0.03)
        assert other.can(EXCLUSIVE)
        assert len(waiting.errors) == 1


def test_an_upgrade_that_an_outsider_refuses_keeps_the_lock(shared: Shared) -> None:
    program = shared.start()
    with outsider(shared.upper) as other:
        program.try_lock(SHARED, 0, 10)
        other.lock(SHARED, 5, 6)
        refused(errno.EAGAIN, lambda: program.try_lock(EXCLUSIVE, 0, 10))
        assert other.can(SHARED, 0, 5)
        assert not other.can(EXCLUSIVE, 0, 5)
        assert not other.can(EXCLUSIVE, 6, 10)
        waiting = program.lock(EXCLUSIVE, 0, 10)
        other.lock(UNLOCK)
        waiting.granted()
        assert not other.can(SHARED, 0, 10)


def test_a_flock_conversion_that_an_outsider_refuses_leaves_none(shared: Shared) -> None:
    program, ranged = shared.start(), shared.start()
    ranged.try_lock(EXCLUSIVE, 0, 1)
    with outsider(shared.upper) as other:
        program.try_flock(SHARED)
        other.flock(SHARED)
        refused(errno.EAGAIN, lambda: program.try_flock(EXCLUSIVE))
        other.flock(EXCLUSIVE)
    ranged.try_lock(EXCLUSIVE, 1, 2)  # nothing was lost by that


def test_an_outsiders_lock_is_found(shared: Shared) -> None:
    program = shared.start()
    with outsider(shared.upper) as other:
        assert program.found(EXCLUSIVE) is None
        other.lock(SHARED, 3, 4)
        assert program.found(EXCLUSIVE) is not None
        assert program.found(SHARED) is None
        assert program.found(EXCLUSIVE, 4, 9) is None
        assert other.can(EXCLUSIVE)  # to find it, nothing stays locked


def test_a_shared_lock_on_a_changing_lower_is_held_there(changing: Shared) -> None:
    program = changing.start()
    program.try_lock(SHARED, 0, 5)
    with outsider(changing.lower) as other:
        assert other.can(SHARED)
        assert not other.can(EXCLUSIVE, 0, 5)
    assert not changing.upper.exists()


def test_of_a_lower_only_what_would_be_held_there_is_found(changing: Shared) -> None:
    program = changing.start()
    with outsider(changing.lower) as other:
        other.lock(EXCLUSIVE, 3, 4)
        assert program.found(SHARED) is not None
        assert program.found(EXCLUSIVE) is None  # that one would be on the file of the upper
        program.try_lock(EXCLUSIVE)
    assert changing.upper.exists()


def test_without_an_upper_an_outsiders_lock_is_found(tmp_path: Path) -> None:
    write_tree(tmp_path / "lower0", {"file": b"content"})
    mounted = Mounted(tmp_path, upper=False, ttl_ns=CHANGING_NS)
    handle = mounted.overlay.files.open(mounted.file_inode("file"), Access.READ)
    wanted = Program.wanted
    reader = Program.__new__(Program)
    reader.number, reader.open_file = 1, 2
    with outsider(tmp_path / "lower0" / "file") as other:
        find = mounted.overlay.file_locks.find
        assert find(handle, wanted(reader, EXCLUSIVE)) is None
        other.lock(EXCLUSIVE, 3, 4)
        assert find(handle, wanted(reader, EXCLUSIVE)) is not None
        assert find(handle, wanted(reader, SHARED)) is not None
    mounted.overlay.files.release(handle)
    mounted.close()


def test_an_exclusive_lock_brings_the_file_up(changing: Shared) -> None:
    program, reader = changing.start(), changing.start()
    reader.try_lock(SHARED, 0, 1)
    program.try_lock(EXCLUSIVE, 5, 9)
    with outsider(changing.lower) as below, outsider(changing.upper) as above:
        assert below.can(EXCLUSIVE)
        assert not above.can(SHARED, 5, 9)
        assert above.can(SHARED, 0, 1)
        assert not above.can(EXCLUSIVE, 0, 1)


class _Watched(DelegatingFile):
    """Tells of every lock, and of the end."""

    def __init__(self, inner: BackendFile, tell: Callable[[str], None]) -> None:
        super().__init__(inner)
        self._tell = tell

    def lock(self, kind: LockKind, start: int, length: int) -> None:
        self._tell(f"{kind.value}")
        super().lock(kind, start, length)


class _Watching(DelegatingBackend):
    def __init__(self, inner: Backend, name: str, events: list[str]) -> None:
        super().__init__(inner)
        self._name = name
        self._events = events

    def open(self, path: LayerPath, access: Access, **options: Any) -> BackendFile:
        opened = super().open(path, access, **options)
        return _Watched(opened, lambda what: self._events.append(f"{self._name}: {what}"))

    def rename(self, old: LayerPath, new: LayerPath, flags: RenameFlags = RenameFlags.NONE) -> None:
        self._events.append(f"{self._name}: published")
        super().rename(old, new, flags)


def test_at_copy_up_a_lock_is_held_above_before_it_is_given_up_below(tmp_path: Path) -> None:
    write_tree(tmp_path / "lower0", {"file": b"content"})
    events: list[str] = []
    made = Shared(
        tmp_path,
        ttl_ns=CHANGING_NS,
        wrap_upper=lambda backend: _Watching(backend, "upper", events),
        wrap_lower=lambda backend: _Watching(backend, "lower", events),
    )
    program = made.start()
    program.try_lock(SHARED, 0, 5)
    made.overlay.write("file", b"x")
    assert events == ["lower: shared", "upper: shared", "upper: published", "lower: unlock"]
    with outsider(made.upper) as above, outsider(made.lower) as below:
        assert not above.can(EXCLUSIVE, 0, 5)
        assert below.can(EXCLUSIVE)
    made.close()


def test_a_copy_up_that_fails_leaves_the_lock_below(tmp_path: Path) -> None:
    write_tree(tmp_path / "lower0", {"file": b"content"})

    class Failing(_Watching):
        def rename(self, old: LayerPath, new: LayerPath, flags: RenameFlags = RenameFlags.NONE) -> None:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    made = Shared(tmp_path, ttl_ns=CHANGING_NS, wrap_upper=lambda backend: Failing(backend, "upper", []))
    program = made.start()
    program.try_lock(SHARED, 0, 5)
    refused(errno.EDQUOT, lambda: made.overlay.write("file", b"x"))
    with outsider(made.lower) as below:
        assert not below.can(EXCLUSIVE, 0, 5)
        program.unlock()
        assert below.can(EXCLUSIVE)
    made.close()


def test_what_waits_for_an_outsider_below_is_served_above(changing: Shared) -> None:
    program = changing.start()
    with outsider(changing.lower) as below:
        below.lock(EXCLUSIVE)
        waiting = program.lock(SHARED)
        changing.overlay.write("file", b"x")
        waiting.granted()
    with outsider(changing.upper) as above:
        assert not above.can(EXCLUSIVE)


class _Losing(DelegatingFile):
    """Loses its connection: from then on there are no locks."""

    lost = False

    def lock(self, kind: LockKind, start: int, length: int) -> None:
        if _Losing.lost:
            raise UnavailableError("the server is gone")
        super().lock(kind, start, length)


def test_a_lock_that_cannot_be_asked_for_is_refused_and_not_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree(tmp_path / "lower0", {})
    write_tree(tmp_path / "upper", {"file": b"content"})

    class Backends(DelegatingBackend):
        def open(self, path: LayerPath, access: Access, **options: Any) -> BackendFile:
            return _Losing(super().open(path, access, **options))

    made = Shared(tmp_path, wrap_upper=Backends)
    one, other = made.start(), made.start()
    one.try_lock(SHARED, 0, 5)
    monkeypatch.setattr(_Losing, "lost", True)
    with pytest.raises(UnavailableError):
        other.try_lock(EXCLUSIVE, 5, 9)
    monkeypatch.setattr(_Losing, "lost", False)
    one.try_lock(EXCLUSIVE, 5, 9)
    made.close()


def test_the_poller_asks_again_for_who_comes_while_it_asks() -> None:
    asked: list[int] = []
    go_on, asking = threading.Event(), threading.Event()

    def ask(inode: object) -> bool:
        asked.append(1)
        asking.set()
        go_on.wait(10)
        return False

    poller = LockPoller(ask)
    inode = object()
    poller.add(inode)  # type: ignore[arg-type]
    assert asking.wait(10)
    poller.add(inode)  # type: ignore[arg-type]
    go_on.set()
    eventually(lambda: len(asked) == 2)
    poller.stop()


def test_an_outsider_that_comes_and_goes_starves_nobody(shared: Shared) -> None:
    """Each waits in turn, the program for the outsider and the outsider for the program."""
    program = shared.start()
    with outsider(shared.upper) as other:
        for _ in range(5):
            _await_turn(other)
            waiting = program.lock(EXCLUSIVE)
            other.lock(UNLOCK)
            waiting.granted()
            assert not other.can(SHARED)
            program.unlock()


def _await_turn(other: Outsider) -> None:
    eventually(lambda: other.can(EXCLUSIVE))
    other.lock(EXCLUSIVE)
