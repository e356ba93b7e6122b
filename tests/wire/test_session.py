"""A session, from its handshake to its end, against what a kernel would do at the other end of a socket."""

from __future__ import annotations

import errno
import logging

import pytest

from netoverlay.fuse.abi import Opcode
from netoverlay.fuse.channel import Channel
from netoverlay.fuse.replies import Reply
from netoverlay.fuse.session import Session
from tests.wire.kernel import Kernel, little, message
from tests.wire.serving import INIT, SMALL, Gated, serve, statfs
from tests.wire.test_replies import ENTRY


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
