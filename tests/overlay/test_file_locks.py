"""Locks of programs on one mount, of which the table is all there is; who waits, and in what order they are served."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from netoverlay.backend_api import AttributeChange, LockKind, RenameFlags
from netoverlay.overlay.lock_rules import LockMode
from netoverlay.overlay.lock_table import END, Owner
from tests.overlay.lockers import Program, refused
from tests.overlay.trees import Mounted, write_tree

SHARED, EXCLUSIVE, UNLOCK = LockKind.SHARED, LockKind.EXCLUSIVE, LockKind.UNLOCK

Start = Callable[..., Program]


@pytest.fixture
def overlay(tmp_path: Path) -> Iterator[Mounted]:
    write_tree(tmp_path / "lower0", {"file": b"content", "other": b"other"})
    mounted = Mounted(tmp_path)
    yield mounted
    mounted.close()


@pytest.fixture
def start(overlay: Mounted) -> Iterator[Start]:
    """Starts programs, which end with the test."""
    started: list[Program] = []

    def program(path: str = "file", *, like: Program | None = None) -> Program:
        started.append(Program(overlay, path, like=like))
        return started[-1]

    yield program
    for each in started:
        if each.request is not None:
            each.interrupt()
        overlay.overlay.file_locks.flushed(each.handle, each.number)


def test_what_is_held_is_refused_to_others_and_found_by_them(start: Start) -> None:
    one, other = start(), start()
    one.try_lock(EXCLUSIVE, 2, 5)
    refused(errno.EAGAIN, lambda: other.try_lock(SHARED, 4, 9))
    found = other.found(SHARED, 4, 9)
    assert found is not None
    assert (found.kind, found.start, found.end, found.pid) == (EXCLUSIVE, 2, 5, one.number)
    assert one.found(EXCLUSIVE) is None
    other.try_lock(EXCLUSIVE, 5, 9)


def test_an_owner_finds_its_own_locks_when_it_asks_for_none(start: Start) -> None:
    """F_OFD_GETLK with F_UNLCK."""
    one, other = start(), start()
    one.try_lock(SHARED, 2, 5)
    one.try_lock(EXCLUSIVE, 7, 9)
    found = [one.found(UNLOCK, *part) for part in ((0, END), (3, 4), (5, 8), (5, 7))]
    assert [lock and (lock.kind, lock.start, lock.end) for lock in found] == [
        (SHARED, 2, 5),
        (SHARED, 2, 5),
        (EXCLUSIVE, 7, 9),
        None,
    ]
    assert other.found(UNLOCK) is None


def test_those_who_wait_are_served_in_the_order_in_which_they_came(start: Start) -> None:
    holder, *others = (start() for _ in range(4))
    holder.try_lock(EXCLUSIVE)
    first, second, third = (other.lock(kind) for other, kind in zip(others, (SHARED, EXCLUSIVE, SHARED), strict=True))
    holder.unlock()
    assert (first.waits, second.waits, third.waits) == (False, True, False)
    others[0].unlock()
    assert second.waits
    others[2].unlock()
    second.granted()


def test_who_waits_for_a_part_is_served_when_that_is_free(start: Start) -> None:
    holder, one, other = start(), start(), start()
    holder.try_lock(EXCLUSIVE, 0, 10)
    low, high = one.lock(EXCLUSIVE, 0, 5), other.lock(EXCLUSIVE, 5, 10)
    holder.unlock(5, 7)
    assert high.waits
    holder.unlock(7, 10)
    assert low.waits
    assert not high.waits


def test_an_interrupted_request_holds_nothing_and_is_in_nobodys_way(start: Start) -> None:
    holder, one, other = start(), start(), start()
    holder.try_lock(SHARED)
    waiting = one.lock(EXCLUSIVE)
    one.interrupt()
    waiting.refused(errno.EINTR)
    one.interrupt()
    holder.unlock()
    other.try_lock(EXCLUSIVE)
    assert len(waiting.errors) == 1


def test_an_interrupt_after_the_grant_changes_nothing(start: Start) -> None:
    holder, one, other = start(), start(), start()
    holder.try_lock(EXCLUSIVE)
    waiting = one.lock(EXCLUSIVE)
    holder.unlock()
    one.interrupt()
    waiting.granted()
    refused(errno.EAGAIN, lambda: other.try_lock(SHARED))


def test_a_downgrade_serves_those_who_want_to_share(start: Start) -> None:
    holder, one, other = start(), start(), start()
    holder.try_lock(EXCLUSIVE)
    reader, writer = one.lock(SHARED), other.lock(EXCLUSIVE)
    holder.try_lock(SHARED)
    assert not reader.waits
    assert writer.waits


def test_a_granted_downgrade_serves_those_who_came_before_it(start: Start) -> None:
    holder, one, other = start(), start(), start()
    one.try_lock(EXCLUSIVE, 0, 5)
    holder.try_lock(EXCLUSIVE, 5, 10)
    reader = other.lock(SHARED, 0, 5)
    downgrade = one.lock(SHARED, 0, 10)
    holder.unlock()
    assert not downgrade.waits
    assert not reader.waits


def test_an_upgrade_waits_for_the_other_readers_and_keeps_its_lock(start: Start) -> None:
    one, other, third = start(), start(), start()
    one.try_lock(SHARED)
    other.try_lock(SHARED)
    refused(errno.EAGAIN, lambda: one.try_lock(EXCLUSIVE))
    upgrade = one.lock(EXCLUSIVE)
    refused(errno.EAGAIN, lambda: third.try_lock(EXCLUSIVE))
    other.unlock()
    upgrade.granted()


def test_two_who_wait_for_each_other_are_a_deadlock(start: Start) -> None:
    one, other = start(), start("other")
    second_of_one, second_of_other = start("other", like=one), start("file", like=other)
    one.try_lock(EXCLUSIVE)
    other.try_lock(EXCLUSIVE)
    waiting = second_of_one.lock(EXCLUSIVE)
    refused(errno.EDEADLK, lambda: second_of_other.lock(EXCLUSIVE))
    other.unlock()
    waiting.granted()


def test_three_in_a_circle_are_a_deadlock(start: Start) -> None:
    programs = [start() for _ in range(3)]
    for at, program in enumerate(programs):
        program.try_lock(EXCLUSIVE, at, at + 1)
    first, second = programs[0].lock(SHARED, 1, 2), programs[1].lock(SHARED, 2, 3)
    refused(errno.EDEADLK, lambda: programs[2].lock(SHARED, 0, 1))
    assert first.waits
    assert second.waits


def test_two_readers_who_both_upgrade_are_a_deadlock(start: Start) -> None:
    one, other = start(), start()
    one.try_lock(SHARED)
    other.try_lock(SHARED)
    upgrade = one.lock(EXCLUSIVE)
    refused(errno.EDEADLK, lambda: other.lock(EXCLUSIVE))
    other.unlock()
    upgrade.granted()


def test_a_deadlock_that_comes_with_a_grant_is_told_to_who_still_waits(start: Start) -> None:
    """Two threads of a process wait: what the one is granted another waits for, whom the other waits for."""
    holder, two_threads, other = start(), start(), start()
    second = start(like=two_threads)
    holder.try_lock(EXCLUSIVE, 0, 1)
    other.try_lock(EXCLUSIVE, 1, 2)
    granted = two_threads.lock(EXCLUSIVE, 0, 1)
    in_a_circle = other.lock(EXCLUSIVE, 0, 1)
    last = second.lock(EXCLUSIVE, 1, 2)
    holder.unlock()
    granted.granted()
    in_a_circle.refused(errno.EDEADLK)
    other.unlock()
    last.granted()


def test_a_flock_that_is_converted_is_given_up_first(start: Start) -> None:
    """As flock(2) says: so two that convert cannot wait for each other for ever."""
    one, other = start(), start()
    one.try_flock(SHARED)
    other.try_flock(SHARED)
    waiting = one.flock(EXCLUSIVE)
    assert waiting.waits
    other.flock(EXCLUSIVE).granted()
    other.flock(UNLOCK)
    waiting.granted()


def test_a_refused_conversion_of_a_flock_leaves_none(start: Start) -> None:
    one, other = start(), start()
    one.try_flock(SHARED)
    other.try_flock(SHARED)
    refused(errno.EAGAIN, lambda: one.try_flock(EXCLUSIVE))
    other.try_flock(EXCLUSIVE)


def test_a_refused_conversion_of_a_flock_serves_who_waits(start: Start) -> None:
    one, other, third = start(), start(), start()
    one.try_flock(SHARED)
    other.try_flock(SHARED)
    waiting = third.flock(EXCLUSIVE)
    refused(errno.EAGAIN, lambda: one.try_flock(EXCLUSIVE))
    other.flock(UNLOCK)
    waiting.granted()


def test_a_flock_of_the_same_kind_again_stays(start: Start) -> None:
    one, other = start(), start()
    one.try_flock(EXCLUSIVE)
    waiting = other.flock(EXCLUSIVE)
    one.try_flock(EXCLUSIVE)
    assert waiting.waits


def test_a_process_that_closes_a_descriptor_gives_up_its_own_locks_only(start: Start) -> None:
    one, other = start(), start()
    second = start(like=one)
    one.try_lock(SHARED, 0, 5)
    one.try_lock(SHARED, 0, 5, by_file=True)
    one.try_flock(SHARED)
    other.try_lock(SHARED, 0, 5)
    second.flush()
    other.unlock()
    refused(errno.EAGAIN, lambda: other.try_lock(EXCLUSIVE, 0, 5))  # the open file's
    refused(errno.EAGAIN, lambda: other.try_flock(EXCLUSIVE))
    one.unlock(0, 5, by_file=True)
    other.try_lock(EXCLUSIVE, 0, 5)


def test_the_locks_of_an_open_file_go_when_it_is_closed(start: Start) -> None:
    one, other, third = start(), start(), start()
    one.try_lock(EXCLUSIVE, 0, 5, by_file=True)
    one.try_flock(EXCLUSIVE)
    ranged, whole = other.lock(EXCLUSIVE), third.flock(SHARED)
    one.close()
    ranged.granted()
    whole.granted()


COPY_UPS: dict[str, Callable[[Mounted, Program], object]] = {
    "a write by another": lambda overlay, holder: overlay.write("file", b"x"),
    "a write by the holder": lambda overlay, holder: overlay.overlay.files.write(
        holder.handle, 0, b"x", clear_set_ids=False
    ),
    "rename": lambda overlay, holder: overlay.overlay.changes().renamer.rename(
        overlay.name("file"), overlay.name("renamed"), RenameFlags.NONE
    ),
    "chmod": lambda overlay, holder: overlay.overlay.changes().attributes.change(
        overlay.file_inode("file"), AttributeChange(mode=0o600)
    ),
}


@pytest.mark.parametrize("cause", COPY_UPS)
def test_copy_up_leaves_all_locks_as_they_are(overlay: Mounted, start: Start, cause: str) -> None:
    holder, other = start(), start()
    holder.try_lock(EXCLUSIVE, 0, 5)
    holder.try_flock(EXCLUSIVE)
    waiting = other.lock(SHARED, 0, 1)
    COPY_UPS[cause](overlay, holder)
    late = start("renamed" if cause == "rename" else "file")
    refused(errno.EAGAIN, lambda: late.try_lock(SHARED, 4, 5))
    refused(errno.EAGAIN, lambda: late.try_flock(SHARED))
    late.try_lock(EXCLUSIVE, 5, END)
    assert waiting.waits
    holder.unlock()
    waiting.granted()


def test_a_removed_file_keeps_its_locks_and_its_successor_has_none(overlay: Mounted, start: Start) -> None:
    holder, other = start(), start()
    holder.try_lock(EXCLUSIVE)
    overlay.unlink("file")
    overlay.create("file")
    start().try_lock(EXCLUSIVE)
    refused(errno.EAGAIN, lambda: other.try_lock(SHARED))


def test_the_status_tells_who_holds_and_who_waits(overlay: Mounted, start: Start) -> None:
    holder, other = start(), start()
    holder.try_lock(EXCLUSIVE, 0, 5)
    other.lock(SHARED)
    ((inode, locks),) = overlay.overlay.file_locks.all_held()
    held, waiting = overlay.overlay.file_locks.waiting_for(locks)
    assert inode is holder.handle.inode
    assert [(lock.owner, lock.start, lock.end) for lock in held] == [(Owner(*holder.wanted(SHARED).owner), 0, 5)]
    assert [request.wanted for request in waiting] == [other.wanted(SHARED)]


def test_in_mode_none_every_lock_is_refused(tmp_path: Path) -> None:
    write_tree(tmp_path / "lower0", {"file": b"content"})
    mounted = Mounted(tmp_path, lock_mode=LockMode.NONE)
    program = Program(mounted, "file")
    for call in (lambda: program.try_lock(SHARED), lambda: program.try_flock(SHARED), lambda: program.found(SHARED)):
        refused(errno.ENOLCK, call)
    program.unlock()
    program.close()
    mounted.close()
