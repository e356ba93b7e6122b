"""Which thread reads while others wait, and what reaches those that wait."""

from __future__ import annotations

import errno

from netoverlay.fuse.abi import Opcode
from netoverlay.fuse.negotiation import SessionSettings
from tests.wire.kernel import little
from tests.wire.serving import Gate, serve, statfs
from tests.wire.test_replies import ENTRY_RAW


def test_one_thread_serves_what_does_not_wait() -> None:
    with serve() as served:
        for unique in range(2, 40, 2):
            statfs(served.kernel, unique)
        assert served.operations.threads == {"fuse-1"}


def test_another_thread_reads_while_an_operation_waits() -> None:
    with serve() as served:
        first = served.wait_at("first", 2)
        statfs(served.kernel)
        second = served.wait_at("second", 4)
        statfs(served.kernel)
        second.opened.set()
        assert served.kernel.receive() == (4, 0, ENTRY_RAW)
        first.opened.set()
        assert served.kernel.receive() == (2, 0, ENTRY_RAW)
        statfs(served.kernel)


def test_no_other_thread_runs_if_nothing_comes_while_an_operation_waits() -> None:
    with serve() as served:
        gate = served.wait_at("first", 2)
        statfs(served.kernel)
        gate.opened.set()
        assert served.kernel.receive() == (2, 0, ENTRY_RAW)
        for unique in range(4, 40, 4):
            served.operations.threads.clear()
            again = served.operations.gates["again"] = Gate()
            served.wait_at("again", unique)
            again.opened.set()
            assert served.kernel.receive()[0] == unique
            statfs(served.kernel)
            assert len(served.operations.threads) == 1


def test_reading_goes_on_when_all_threads_waited() -> None:
    with serve() as served:
        gates = [served.wait_at(name, 2 * number) for number, name in enumerate("abc", 1)]
        served.kernel.send(Opcode.STATFS, unique=100)
        gates[1].opened.set()
        assert {served.kernel.receive()[0] for _ in range(2)} == {4, 100}
        for gate in gates:
            gate.opened.set()
        assert {served.kernel.receive()[0] for _ in range(2)} == {2, 6}
        statfs(served.kernel)


def test_idle_threads_are_used_again() -> None:
    with serve(SessionSettings(max_write=16384, max_threads=3, idle_threads=3)) as served:
        for unique in range(2, 60, 2):
            gate = served.operations.gates["again"] = Gate()
            served.wait_at("again", unique)
            gate.opened.set()
            assert served.kernel.receive()[0] == unique
            statfs(served.kernel)
        assert served.operations.threads <= {"fuse-1", "fuse-2", "fuse-3"}


def test_all_idle_threads_end_with_the_session() -> None:
    with serve(SessionSettings(max_write=16384, max_threads=8, idle_threads=8)) as served:
        gates = [served.wait_at(name, 2 * number) for number, name in enumerate("abcdef", 1)]
        for gate in gates:
            gate.opened.set()
        assert {served.kernel.receive()[0] for _ in gates} == {2, 4, 6, 8, 10, 12}


def test_interrupt_reaches_an_operation_that_waits() -> None:
    with serve() as served:
        gate, other = served.wait_at("gate", 2), served.wait_at("other", 4)
        served.kernel.send(Opcode.INTERRUPT, little(2, 8), unique=3)
        statfs(served.kernel)
        gate.opened.set()
        assert served.kernel.receive() == (2, errno.EINTR, b"")
        other.opened.set()
        assert served.kernel.receive() == (4, 0, ENTRY_RAW)


def test_interrupt_of_a_finished_request_hits_no_other() -> None:
    with serve() as served:
        gate = served.wait_at("gate", 2)
        served.kernel.send(Opcode.INTERRUPT, little(2, 8), unique=3)
        statfs(served.kernel)
        gate.opened.set()
        assert served.kernel.receive()[:2] == (2, errno.EINTR)
        served.kernel.send(Opcode.INTERRUPT, little(2, 8), unique=3)
        for unique in range(4, 20, 2):
            again = served.operations.gates["gate"] = Gate()
            served.wait_at("gate", unique)
            again.opened.set()
            assert served.kernel.receive()[:2] == (unique, 0)
            statfs(served.kernel)


def test_forget_while_everything_waits() -> None:
    with serve() as served:
        gate = served.wait_at("gate", 2)
        served.kernel.send(Opcode.FORGET, little(3, 8), unique=0, nodeid=7)
        batch = little(2, 4) + bytes(4) + little(8, 8) + little(1, 8) + little(9, 8) + little(2, 8)
        served.kernel.send(Opcode.BATCH_FORGET, batch, unique=0)
        statfs(served.kernel)
        assert served.operations.forgotten == [(7, 3), (8, 1), (9, 2)]
        gate.opened.set()
        assert served.kernel.receive() == (2, 0, ENTRY_RAW)


def lock(owner: int) -> bytes:
    """The body of a SETLKW."""
    return bytes(8) + little(owner, 8) + bytes(32)


def test_an_answer_that_comes_later_holds_no_thread() -> None:
    with serve(SessionSettings(max_write=16384, max_threads=1, idle_threads=1)) as served:
        for owner in range(2, 12):
            served.kernel.send(Opcode.SETLKW, lock(owner), unique=2 * owner)
        statfs(served.kernel)
        for owner in reversed(range(2, 12)):
            served.operations.deferred[owner].answer()
            assert served.kernel.receive() == (2 * owner, 0, b"")


def test_an_answer_that_is_there_at_once() -> None:
    with serve() as served:
        assert served.kernel.ask(Opcode.SETLKW, lock(1)) == (0, b"")


def test_an_error_that_comes_later() -> None:
    with serve() as served:
        served.kernel.send(Opcode.SETLKW, lock(2), unique=4)
        statfs(served.kernel)
        served.operations.deferred[2].answer(OSError(errno.EDEADLK, "each waits for the other"))
        assert served.kernel.receive() == (4, errno.EDEADLK, b"")


def test_interrupt_of_what_is_answered_later() -> None:
    with serve() as served:
        for owner in (2, 3):
            served.kernel.send(Opcode.SETLKW, lock(owner), unique=2 * owner)
        served.kernel.send(Opcode.INTERRUPT, little(6, 8), unique=7)
        assert served.kernel.receive() == (6, errno.EINTR, b"")
        served.kernel.send(Opcode.INTERRUPT, little(6, 8), unique=7)
        statfs(served.kernel)
        served.operations.deferred[2].answer()
        assert served.kernel.receive() == (4, 0, b"")
