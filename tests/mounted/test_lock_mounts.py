"""Several mounts of one base that changes, each with an upper of its own, and a program on the server's disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.mounted.lock_cells import Call
from tests.mounted.lockers import Program, Waiter
from tests.mounted.mounting import OverlayMount, layer_table, smb_login
from tests.servers.smbd import SmbServer

WHILE = 0.05
BASE_FILES = ("shared", "exclusive", "server", "mirrored", "opened")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base"
    path.mkdir()
    for name in BASE_FILES:
        (path / name).write_text(name)
    return path


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    """What is open at the end of a test is closed then."""
    with ExitStack() as stack:
        yield stack


def program(opened: ExitStack, path: Path, *, writes: bool = True) -> Program:
    return opened.enter_context(closing(Program(path, writes=writes)))


def excluded(of: Program, call: Call) -> bool:
    """Whether `call` is refused; what it got otherwise is given up."""
    if of.take(call):
        return True
    of.give_up(call)
    return False


def test_two_mounts_and_a_program_on_the_server(tmp_path: Path, base: Path, smbd: SmbServer, opened: ExitStack) -> None:
    lower = layer_table(smbd.url_of(base), smb_login(smbd), immutable=False)
    with OverlayMount(tmp_path / "one", lower) as one, OverlayMount(tmp_path / "two", lower) as two, opened:
        shared_locks_meet_in_the_base(opened, one.path, two.path, base)
        an_exclusive_lock_is_on_a_file_of_its_own(opened, one.path, two.path, base)
        who_writes_on_the_server_makes_readers_wait(opened, one.path, two.path, base)
        a_file_that_somebody_writes_can_be_opened(opened, one.path, base)


def shared_locks_meet_in_the_base(opened: ExitStack, one: Path, two: Path, base: Path) -> None:
    """And hold off who wants to write there, until the last of them is given up."""
    first, second, writer = (program(opened, directory / "shared") for directory in (one, two, base))
    assert first.take(Call.FCNTL_SHARED) == second.take(Call.FLOCK_SHARED) == 0
    assert excluded(writer, Call.OFD_EXCLUSIVE)
    assert not excluded(writer, Call.OFD_SHARED)
    first.give_up(Call.FCNTL_SHARED)
    assert excluded(writer, Call.OFD_EXCLUSIVE)
    second.give_up(Call.FLOCK_SHARED)
    assert not excluded(writer, Call.OFD_EXCLUSIVE)


def an_exclusive_lock_is_on_a_file_of_its_own(opened: ExitStack, one: Path, two: Path, base: Path) -> None:
    """What its holder writes is not in the base, so it is in nobody's way who uses the base."""
    first, second, reader = (program(opened, directory / "exclusive") for directory in (one, two, base))
    assert first.take(Call.OFD_EXCLUSIVE) == 0
    neighbour = program(opened, one / "exclusive")
    assert excluded(neighbour, Call.OFD_SHARED)
    assert not excluded(reader, Call.OFD_EXCLUSIVE)
    assert second.take(Call.OFD_EXCLUSIVE) == 0
    (one / "exclusive").write_text("of one")
    assert (two / "exclusive").read_text() == (base / "exclusive").read_text() == "exclusive"


def who_writes_on_the_server_makes_readers_wait(opened: ExitStack, one: Path, two: Path, base: Path) -> None:
    first, second, writer = (program(opened, directory / "server") for directory in (one, two, base))
    assert (one / "server").read_text() == (two / "server").read_text() == "server"
    assert writer.take(Call.OFD_EXCLUSIVE) == 0
    assert excluded(first, Call.FCNTL_SHARED)
    assert excluded(second, Call.FLOCK_SHARED)
    waiters = [Waiter(first, Call.FCNTL_SHARED), Waiter(second, Call.OFD_SHARED)]
    assert all(waiter.is_waiting(WHILE) for waiter in waiters)
    (base / "server").write_text("longer than before")
    writer.give_up(Call.OFD_EXCLUSIVE)
    assert [waiter.answered() for waiter in waiters] == [0, 0]
    assert (one / "server").read_text() == (two / "server").read_text() == "longer than before"
    assert excluded(writer, Call.OFD_EXCLUSIVE)


def a_file_that_somebody_writes_can_be_opened(opened: ExitStack, one: Path, base: Path) -> None:
    """To wait for him, for instance, although it cannot be read meanwhile: so are locks of SMB."""
    writer = program(opened, base / "opened")
    assert writer.take(Call.OFD_EXCLUSIVE) == 0
    reader = program(opened, one / "opened")
    waiter = Waiter(reader, Call.OFD_SHARED)
    assert waiter.is_waiting(WHILE)
    writer.give_up(Call.OFD_EXCLUSIVE)
    assert waiter.answered() == 0
    assert (one / "opened").read_text() == "opened"


def test_without_an_upper_both_kinds_are_held_in_the_base(
    tmp_path: Path, base: Path, smbd: SmbServer, opened: ExitStack
) -> None:
    lower = layer_table(smbd.url_of(base), smb_login(smbd), immutable=False)
    one, two = (OverlayMount(tmp_path / name, lower) for name in ("one", "two"))
    for mount in (one, two):
        mount.profile.write_text(f'read_only = true\n{lower}\n[cache]\ndirectory = "{mount.directory}/cache"\n')
    with one, two, opened:
        first = program(opened, one.path / "mirrored", writes=False)
        second = program(opened, two.path / "mirrored", writes=False)
        writer = program(opened, base / "mirrored")
        assert first.take(Call.FLOCK_EXCLUSIVE) == 0
        assert excluded(second, Call.FLOCK_SHARED)
        assert excluded(second, Call.FLOCK_EXCLUSIVE)
        assert excluded(writer, Call.OFD_EXCLUSIVE)
        waiter = Waiter(second, Call.FLOCK_EXCLUSIVE)
        assert waiter.is_waiting(WHILE)
        first.give_up(Call.FLOCK_EXCLUSIVE)
        assert waiter.answered() == 0
        second.give_up(Call.FLOCK_EXCLUSIVE)
        assert first.take(Call.FLOCK_SHARED) == second.take(Call.FCNTL_SHARED) == 0
        assert excluded(writer, Call.OFD_EXCLUSIVE)
        assert not excluded(writer, Call.OFD_SHARED)
