"""A session that serves a socket in place of the device, against what a kernel would do at the other end."""

from __future__ import annotations

import contextlib
import errno
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from netoverlay.backend_api import waiting
from netoverlay.fuse import replies, requests
from netoverlay.fuse.abi import Opcode
from netoverlay.fuse.channel import Channel
from netoverlay.fuse.negotiation import SessionSettings
from netoverlay.fuse.replies import Payload, Reply
from netoverlay.fuse.requests import RequestHeader
from netoverlay.fuse.session import Session
from tests.wire.kernel import Kernel, little, message, unhex
from tests.wire.memory_operations import RefusingOperations
from tests.wire.test_replies import ENTRY, ENTRY_RAW

SMALL = SessionSettings(max_write=16384, max_threads=3, idle_threads=1)


@dataclass
class Gate:
    """Where an operation waits until the test lets it go on."""

    reached: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)


class Gated(RefusingOperations):
    """LOOKUP of a name in `gates` waits there; the rest answers at once."""

    def __init__(self) -> None:
        self.gates: dict[str, Gate] = {}
        self.forgotten: list[tuple[int, int]] = []
        self.events: list[object] = []
        self.threads: set[str] = set()

    def init(self, negotiated: object) -> None:
        self.events.append("init")

    def destroy(self) -> None:
        self.events.append("destroy")

    def lookup(self, request: RequestHeader, body: requests.NameRequest) -> Reply:
        self.threads.add(threading.current_thread().name)
        gate = self.gates.get(body.name)
        if gate is not None:
            waiting.about_to_wait()
            waiting.about_to_wait()
            gate.reached.set()
            assert gate.opened.wait(30)
            waiting.check_interrupted()
        return ENTRY_RAW

    def statfs(self, request: RequestHeader, body: None) -> Reply:
        self.threads.add(threading.current_thread().name)
        waiting.check_interrupted()
        return b"statfs"

    def readlink(self, request: RequestHeader, body: None) -> Reply:
        raise ZeroDivisionError("a defect")

    def forget(self, request: RequestHeader, body: requests.ForgetRequest) -> None:
        self.forgotten += body.forgets

    def read(self, request: RequestHeader, body: requests.ReadRequest) -> Reply:
        part: list[Payload] = [b"a" * 5000, bytearray(b"b" * 5000), memoryview(b"c" * 5000)]
        return tuple(part) if body.offset else part[body.handle]

    def write(self, request: RequestHeader, body: requests.WriteRequest) -> Reply:
        self.events.append(bytes(body.data))
        return replies.written(len(body.data))

    def rmdir(self, request: RequestHeader, body: requests.NameRequest) -> Reply:
        raise OSError("without an errno")

    def unlink(self, request: RequestHeader, body: requests.NameRequest) -> Reply:
        raise OSError(int(body.name), "as the name says")

    def flush(self, request: RequestHeader, body: requests.FlushRequest) -> Reply:
        return None

    def add_gate(self, name: str) -> Gate:
        return self.gates.setdefault(name, Gate())


@dataclass
class Served:
    """A running session."""

    kernel: Kernel
    operations: Gated
    session: Session
    runner: threading.Thread
    failures: list[BaseException]

    def unmount(self) -> None:
        self.kernel.unmount()
        self.join()

    def join(self) -> None:
        self.runner.join(30)
        assert not self.runner.is_alive()

    def wait_at(self, name: str, unique: int) -> Gate:
        """Have a LOOKUP wait."""
        gate = self.operations.add_gate(name)
        self.kernel.send(Opcode.LOOKUP, name.encode() + b"\0", unique=unique)
        assert gate.reached.wait(30)
        return gate


INIT = unhex("07000000 2d000000 00000200 fbffff73 fd050000") + bytes(44)


@contextlib.contextmanager
def serve(
    settings: SessionSettings = SMALL,
    channel: Callable[[int], Channel] = Channel,
    unmount: Callable[[Kernel], None] = Kernel.unmount,
) -> Iterator[Served]:
    with Kernel() as kernel:
        operations = Gated()
        session = Session(channel(kernel.device()), operations, settings)
        kernel.send(Opcode.INIT, INIT)
        session.handshake()
        kernel.receive()
        failures: list[BaseException] = []

        def run() -> None:
            try:
                session.run(lambda: unmount(kernel), 30)
            except OSError as error:
                failures.append(error)

        served = Served(kernel, operations, session, threading.Thread(target=run), failures)
        served.runner.start()
        try:
            yield served
        finally:
            for gate in operations.gates.values():
                gate.opened.set()
            served.unmount()


def statfs(kernel: Kernel, unique: int = 100) -> None:
    """The session answers: somebody reads."""
    assert kernel.ask(Opcode.STATFS, unique=unique) == (0, b"statfs")


def test_handshake() -> None:
    with Kernel() as kernel:
        session = Session(Channel(kernel.device()), Gated(), SMALL)
        kernel.send(Opcode.STATFS, unique=2)
        kernel.send(Opcode.INIT, little(8, 4) + INIT[4:], unique=4)
        kernel.send(Opcode.INIT, INIT, unique=6)
        agreed = session.handshake()
        assert agreed.minor == 45
        assert kernel.receive() == (2, errno.EIO, b"")
        unique, code, payload = kernel.receive()
        assert (unique, code, payload[:4]) == (4, 0, little(7, 4))
        unique, code, payload = kernel.receive()
        assert (unique, code, len(payload)) == (6, 0, 64)


def test_handshake_with_a_kernel_that_is_too_old() -> None:
    with Kernel() as kernel:
        session = Session(Channel(kernel.device()), Gated(), SMALL)
        kernel.send(Opcode.INIT, little(7, 4) + little(30, 4) + INIT[8:])
        with pytest.raises(OSError, match=r"7\.30"):
            session.handshake()
        assert kernel.receive() == (2, errno.EPROTO, b"")


def test_handshake_that_never_comes() -> None:
    with Kernel() as kernel:
        session = Session(Channel(kernel.device()), Gated(), SMALL)
        kernel.unmount()
        with pytest.raises(OSError, match="unmounted") as raised:
            session.handshake()
        assert raised.value.errno == errno.ENODEV


def test_hooks_are_called_once_and_in_order() -> None:
    with serve() as served:
        statfs(served.kernel)
        assert served.operations.events == ["init"]
    assert served.operations.events == ["init", "destroy"]
    assert served.session.counters() == {"statfs": 1}


def test_replies_of_every_kind() -> None:
    with serve() as served:
        ask = served.kernel.ask
        assert ask(Opcode.FLUSH, bytes(24)) == (0, b"")
        for handle, byte in enumerate(b"abc"):
            assert ask(Opcode.READ, little(handle, 8) + bytes(32)) == (0, bytes([byte]) * 5000)
        assert ask(Opcode.READ, little(0, 8) + little(1, 8) + bytes(24)) == (0, b"a" * 5000 + b"b" * 5000 + b"c" * 5000)


def test_largest_write() -> None:
    data = bytes(range(256)) * 64
    with serve() as served:
        head = bytes(16) + little(len(data), 4) + bytes(20)
        assert served.kernel.ask(Opcode.WRITE, head + data) == (0, little(len(data), 4) + bytes(4))
        assert served.operations.events[-1] == data


@pytest.mark.parametrize(
    ("opcode", "body", "code"),
    [
        (Opcode.UNLINK, b"%d\0" % errno.ENOTEMPTY, errno.ENOTEMPTY),
        (Opcode.UNLINK, b"512\0", errno.EIO),
        (Opcode.UNLINK, b"-2\0", errno.EIO),
        (Opcode.UNLINK, b"0\0", errno.EIO),
        (Opcode.RMDIR, b"d\0", errno.EIO),
        (Opcode.LOOKUP, b"no end", errno.EINVAL),
        (Opcode.LINK, b"", errno.EINVAL),
        (Opcode.SETLKW, bytes(48), errno.ENOLCK),
        (Opcode.ACCESS, bytes(8), errno.ENOSYS),
        (Opcode.INIT, INIT, errno.EPROTO),
        (Opcode.DESTROY, b"", 0),
        (4711, b"", errno.ENOSYS),
    ],
)
def test_errors(opcode: int, body: bytes, code: int) -> None:
    with serve() as served:
        assert served.kernel.ask(opcode, body) == (code, b"")
        statfs(served.kernel)


def test_a_defect_is_logged_and_answered(caplog: pytest.LogCaptureFixture) -> None:
    with serve() as served:
        assert served.kernel.ask(Opcode.READLINK) == (errno.EIO, b"")
        statfs(served.kernel)
    assert "ZeroDivisionError: a defect" in caplog.text


def test_a_message_that_is_none(caplog: pytest.LogCaptureFixture) -> None:
    with serve() as served:
        served.kernel.send_raw(b"short")
        served.kernel.send_raw(little(99, 4) + message(Opcode.STATFS, unique=8)[4:])
        assert served.kernel.receive() == (8, errno.EINVAL, b"")
        statfs(served.kernel)
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2


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


class _Gone(Channel):
    """A device that answers ENOENT to the reply to request 44, as it does when the request was aborted."""

    def reply(self, unique: int, reply: Reply) -> bool:
        return unique != 44 and super().reply(unique, reply)


def test_what_the_kernel_does_not_take_is_taken_back() -> None:
    with serve(channel=_Gone) as served:
        served.kernel.send(Opcode.LOOKUP, b"name\0", unique=44)
        statfs(served.kernel)
        assert served.operations.forgotten == [(ENTRY.nodeid, 1)]


def test_requests_in_flight_end_before_the_session() -> None:
    with serve() as served:
        gate = served.wait_at("gate", 2)
        served.kernel.unmount()
        served.runner.join(0.2)
        assert served.runner.is_alive()
        assert "destroy" not in served.operations.events
        gate.opened.set()
        served.join()
        assert served.operations.events[-1] == "destroy"
        # Nobody was there to take the reply.
        assert served.operations.forgotten == [(ENTRY.nodeid, 1)]


def test_stop_unmounts() -> None:
    with serve() as served:
        statfs(served.kernel)
        served.session.request_stop()
        served.join()
        assert served.operations.events == ["init", "destroy"]


def test_stop_serves_who_still_has_files_open() -> None:
    with serve(unmount=lambda _: None) as served:
        served.session.request_stop()
        statfs(served.kernel)
        served.kernel.unmount()
        served.join()


def test_second_stop_does_not_wait() -> None:
    with serve(unmount=lambda _: None) as served:
        served.session.request_stop()
        served.session.request_stop()
        served.join()
        assert served.operations.events == ["init", "destroy"]


def test_stop_although_unmounting_fails(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(_: Kernel) -> None:
        raise PermissionError(errno.EPERM, "not yours")

    with serve(unmount=refuse) as served:
        served.session.request_stop()
        served.join()
    assert "not yours" in caplog.text


class _Broken(Channel):
    """A device that cannot be read any more once a message of that length came."""

    def receive(self, buffers: object) -> int:
        length = super().receive(buffers)  # type: ignore[arg-type]  # the same, only passed through
        if length == 47:
            raise OSError(errno.EFAULT, "unreadable")
        return length


def test_a_device_that_cannot_be_read_ends_the_session() -> None:
    with serve(channel=_Broken) as served:
        served.kernel.send(Opcode.LOOKUP, b"broken\0")
        served.join()
        assert [str(error) for error in served.failures] == ["[Errno 14] unreadable"]
        assert served.operations.events == ["init", "destroy"]
