"""Locks on files that others than the mount may use: the layer holds them as well, and others' locks are kept to."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from netoverlay.backend_api import (
    Access,
    LockKind,
)
from netoverlay.backend_api.waiting import set_hooks
from tests.overlay.lockers import Outsider, Program, Shared, eventually, outsider, refused
from tests.overlay.trees import Mounted, write_tree

SHARED, EXCLUSIVE, UNLOCK = LockKind.SHARED, LockKind.EXCLUSIVE, LockKind.UNLOCK
CHANGING_NS = 10**9


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


def test_what_waits_for_an_outsider_below_is_served_above(changing: Shared) -> None:
    program = changing.start()
    with outsider(changing.lower) as below:
        below.lock(EXCLUSIVE)
        waiting = program.lock(SHARED)
        changing.overlay.write("file", b"x")
        waiting.granted()
    with outsider(changing.upper) as above:
        assert not above.can(EXCLUSIVE)


def test_what_a_closed_file_held_is_free_for_the_request_that_is_read_next(shared: Shared) -> None:
    """The kernel does not wait for RELEASE: who closed the file may tell others to go on."""
    one, another = shared.start(), shared.start()
    one.try_flock(EXCLUSIVE)
    answers: list[object] = []

    def next_request() -> None:
        try:
            another.try_flock(EXCLUSIVE)
        except OSError as error:
            answers.append(error)

    def read_on() -> None:
        set_hooks(None, None)
        thread.start()
        thread.join(0.05)

    thread = threading.Thread(target=next_request)
    set_hooks(read_on, None)
    shared.overlay.overlay.file_locks.released(one.handle, one.open_file)
    thread.join()
    assert not answers


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
