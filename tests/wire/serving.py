"""A session that serves a socket in place of the device, with operations that wait where a test says."""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from netoverlay.backend_api import waiting
from netoverlay.fuse import replies, requests
from netoverlay.fuse.abi import Opcode
from netoverlay.fuse.channel import Channel
from netoverlay.fuse.deferred import Deferred
from netoverlay.fuse.negotiation import SessionSettings
from netoverlay.fuse.replies import Payload, Reply
from netoverlay.fuse.requests import RequestHeader
from netoverlay.fuse.session import Session
from tests.wire.kernel import Kernel, unhex
from tests.wire.refusing import RefusingOperations
from tests.wire.test_replies import ENTRY_RAW

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
        self.deferred: dict[int, Deferred] = {}
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

    def setlkw(self, request: RequestHeader, body: requests.LockRequest) -> Deferred:
        """Owner 1 has its answer before this returns; who is interrupted, as well."""
        deferred = self.deferred[body.owner] = Deferred()
        deferred.on_interrupt(lambda: deferred.answer(InterruptedError(errno.EINTR, "interrupted")))
        if body.owner == 1:
            deferred.answer()
        return deferred

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
