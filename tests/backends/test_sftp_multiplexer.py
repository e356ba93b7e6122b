"""Many threads on one stream, and servers that lie, die or stop in the middle: over a socket pair, without SSH."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from netoverlay.backend_api import UnavailableError
from netoverlay.backend_api.leadership import TICK_SECONDS
from netoverlay_sftp import transfer
from netoverlay_sftp.channel import SftpChannel
from netoverlay_sftp.multiplexer import MAX_FRAME_BYTES, Multiplexer
from netoverlay_sftp.protocol import OpenFlags, PacketType, ProtocolError, pack_open, pack_string
from netoverlay_sftp.streams import ByteStream, Liveness, set_timeout

LONG = 30.0
SHORT = 0.6
VERSION = struct.pack(">IBI", 5, PacketType.VERSION, 3)
SFTP_SERVERS = ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server", "/usr/lib/ssh/sftp-server")


class SocketStream(ByteStream):
    """One end of a socket pair."""

    def __init__(self, connected: socket.socket) -> None:
        super().__init__(Liveness(), "test")
        self.socket = connected
        self.probes = 0
        connected.setblocking(True)
        set_timeout(connected, socket.SO_SNDTIMEO, LONG)

    def receive(self, timeout):
        buffer = bytearray(1 << 16)
        return memoryview(buffer)[: self.receive_into(memoryview(buffer), timeout)]

    def receive_into(self, target, timeout):
        set_timeout(self.socket, socket.SO_RCVTIMEO, min(max(timeout, 0.001), TICK_SECONDS))
        try:
            count = self.socket.recv_into(target)
        except BlockingIOError:
            raise TimeoutError from None
        self.liveness.heard()
        return count

    def send(self, parts):
        self.socket.sendall(b"".join(parts))

    def probe(self):
        self.probes += 1

    def close(self):
        self.abort()

    def abort(self):
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)


class ScriptedServer:
    """The other end: reads requests, and answers as the test says."""

    def __init__(self) -> None:
        ours, self.socket = socket.socketpair()
        self.stream = SocketStream(ours)
        self.socket.settimeout(LONG)

    def exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def request(self) -> tuple[int, int, bytes]:
        """Type, number and body of the next one."""
        length, packet = struct.unpack(">IB", self.exactly(5))
        body = self.exactly(length - 1)
        return packet, int.from_bytes(body[:4], "big"), body[4:]

    def greet(self) -> None:
        self.request()
        self.socket.sendall(VERSION)

    def reply(self, packet: int, number: int, body: bytes) -> None:
        self.socket.sendall(struct.pack(">IBI", 5 + len(body), packet, number) + body)

    def close(self) -> None:
        self.socket.close()
        self.stream.socket.close()


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    scripted = ScriptedServer()
    yield scripted
    scripted.close()


def started(server: ScriptedServer, deadline: float = LONG) -> Multiplexer:
    multiplexer = Multiplexer(server.stream, deadline)
    greeter = threading.Thread(target=server.greet)
    greeter.start()
    multiplexer.start()
    greeter.join()
    return multiplexer


def status(code: int) -> bytes:
    return struct.pack(">III", code, 0, 0)


def test_one_thread_leads_though_what_has_led_is_waited_for_again(server):
    multiplexer = started(server)
    multiplexer._silence = lambda: 0.0  # signs of life, as of a server whose disk hangs
    requests = []
    for deadline in (0.3, 0.6, LONG):
        multiplexer._deadline = deadline
        requests.append(multiplexer.submit(PacketType.LSTAT, pack_string(b"/")))
    leading, most, lead = [], [], multiplexer._lead

    def counted(awaited):
        leading.append(awaited)
        most.append(len(leading))
        lead(awaited)
        leading.remove(awaited)

    multiplexer._lead = counted

    def wait(request, times):
        for _ in range(times):
            with suppress(UnavailableError):
                multiplexer.wait(request)

    threads = [threading.Thread(target=wait, args=(request, 1 + (request is requests[1]))) for request in requests]
    for number, thread in enumerate(threads, 1):
        thread.start()
        while len(multiplexer._followers) + multiplexer._led < number:
            time.sleep(0.001)
    for thread in threads[:2]:
        thread.join(LONG)
    give_up_at = time.monotonic() + LONG
    while requests[2] not in leading and time.monotonic() < give_up_at:
        time.sleep(0.001)
    assert multiplexer._led
    assert leading == [requests[2]]
    assert max(most) == 1
    multiplexer.fail("the test is over")
    threads[2].join(LONG)


def test_replies_in_any_order_reach_their_requests(server):
    multiplexer = started(server)
    requests = [multiplexer.submit(PacketType.LSTAT, pack_string(b"%d" % number)) for number in range(5)]
    arrived = [server.request() for _ in requests]
    for packet, number, body in reversed(arrived):
        assert packet == PacketType.LSTAT
        server.reply(PacketType.HANDLE, number, body)
    assert [multiplexer.wait(request).body for request in requests] == [pack_string(b"%d" % n) for n in range(5)]


def test_data_goes_where_it_was_asked_for(server):
    multiplexer = started(server)
    buffer = bytearray(100_000)
    request = multiplexer.submit(PacketType.READ, b"", buffer=memoryview(buffer))
    _, number, _ = server.request()
    payload = os.urandom(99_999)
    sender = threading.Thread(
        target=server.reply, args=(PacketType.DATA, number, struct.pack(">I", len(payload)) + payload)
    )
    sender.start()
    assert multiplexer.wait(request).filled == len(payload)
    sender.join()
    assert bytes(buffer) == payload + b"\0"


def data(payload: bytes, claimed: int | None = None) -> bytes:
    return struct.pack(">I", len(payload) if claimed is None else claimed) + payload


HOSTILE: dict[str, Callable[[int], bytes]] = {
    "a frame of gigabytes": lambda number: struct.pack(">IBI", 0x7FFFFFFF, PacketType.DATA, number),
    "a frame above the limit": lambda number: struct.pack(">IBI", MAX_FRAME_BYTES + 1, PacketType.NAME, number),
    "a frame without a number": lambda number: struct.pack(">IBI", 4, PacketType.STATUS, number),
    "a number that was never used": lambda number: b"".join(
        struct.pack(">IBI", 17, PacketType.STATUS, each) + status(0) for each in (number + 7, number, number + 1)
    ),
    "more data than was asked for": lambda number: struct.pack(">IBI", 29, PacketType.DATA, number) + data(b"x" * 20),
    "a length beyond the frame": lambda number: struct.pack(">IBI", 11, PacketType.DATA, number) + data(b"xx", 9),
    "a length short of the frame": lambda number: struct.pack(">IBI", 14, PacketType.DATA, number) + data(b"xxxxx", 2),
    "the end of the stream": lambda number: b"",
    "the end within a frame": lambda number: struct.pack(">IBI", 18, PacketType.DATA, number) + data(b"x", 9),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_reply_breaks_the_connection_for_everybody(server, what):
    multiplexer = started(server)
    buffer = memoryview(bytearray(10))
    request = multiplexer.submit(PacketType.READ, b"", buffer=buffer)
    other = multiplexer.submit(PacketType.LSTAT, b"")
    server.request()
    server.request()
    server.socket.sendall(HOSTILE[what](request.number))
    if what.startswith("the end"):
        server.socket.shutdown(socket.SHUT_WR)
    for each in (request, other):
        with pytest.raises(UnavailableError):
            multiplexer.wait(each)
    assert multiplexer.broken
    with pytest.raises(UnavailableError):
        multiplexer.submit(PacketType.LSTAT, b"")


@pytest.mark.parametrize(
    ("packet", "body"),
    [
        (PacketType.NAME, struct.pack(">I", 0)),
        (PacketType.STATUS, b"\0\0"),
        (PacketType.STATUS, status(0)),
        (PacketType.ATTRS, struct.pack(">I", 15) + b"\0"),
        (255, b"?"),
    ],
)
def test_a_reply_of_the_wrong_kind_breaks_the_connection(server, packet, body):
    channel = SftpChannel(server.stream, LONG)
    channel.multiplexer = started(server)

    def answer() -> None:
        _, number, _ = server.request()
        server.reply(packet, number, body)

    answering = threading.Thread(target=answer)
    answering.start()
    with pytest.raises(UnavailableError):
        channel.lstat(b"/")
    answering.join()
    assert channel.multiplexer.broken


def test_what_is_no_sftp_server_is_called_so(server):
    server.socket.sendall(b"Welcome to this machine!\r\n" * 10)
    with pytest.raises(ProtocolError, match="Welcome"):
        Multiplexer(server.stream, LONG).start()


def test_another_version_is_refused(server):
    server.socket.sendall(struct.pack(">IBI", 5, PacketType.VERSION, 6))
    with pytest.raises(ProtocolError, match="version 6"):
        Multiplexer(server.stream, LONG).start()


def test_a_silent_server_is_declared_dead_for_all_who_wait(server):
    multiplexer = started(server, SHORT)

    def ask() -> str:
        request = multiplexer.submit(PacketType.LSTAT, b"")
        try:
            multiplexer.wait(request)
        except UnavailableError as error:
            return str(error)
        return "answered"

    with ThreadPoolExecutor(8) as pool:
        outcomes = [each.result(LONG) for each in [pool.submit(ask) for _ in range(8)]]
    assert all("silent" in outcome for outcome in outcomes)
    assert multiplexer.broken


def test_a_slow_answer_costs_its_own_request_only(server):
    multiplexer = started(server, 2.0)
    buffer = bytearray(10)
    slow = multiplexer.submit(PacketType.READ, b"", buffer=memoryview(buffer))
    _, slow_number, _ = server.request()
    stop = threading.Event()

    def talk() -> None:
        while not stop.is_set():
            try:
                _, number, _ = server.request()
            except (EOFError, OSError):
                return
            server.reply(PacketType.STATUS, number, status(0))

    talking = threading.Thread(target=talk)
    talking.start()

    def keep_asking() -> None:
        while not stop.wait(0.05):
            multiplexer.wait(multiplexer.submit(PacketType.LSTAT, b""))

    asking = threading.Thread(target=keep_asking)
    asking.start()
    with pytest.raises(UnavailableError, match="in time"):
        multiplexer.wait(slow)
    assert not multiplexer.broken
    # The late answer goes nowhere, least of all into the buffer, which is the caller's again.
    server.reply(PacketType.DATA, slow_number, data(b"too late!!"))
    multiplexer.wait(multiplexer.submit(PacketType.LSTAT, b""))
    stop.set()
    asking.join()
    assert bytes(buffer) == bytes(10)
    assert not multiplexer.broken
    multiplexer.fail("the test is over")
    talking.join()


def test_a_handle_that_comes_too_late_is_closed(server):
    multiplexer = started(server, 1.0)
    late = multiplexer.submit(PacketType.OPEN, b"")
    _, late_number, _ = server.request()
    server.stream.liveness.heard()
    other = threading.Thread(target=lambda: [server.stream.liveness.heard() or stop.wait(0.1) for _ in range(15)])
    stop = threading.Event()
    other.start()
    with pytest.raises(UnavailableError):
        multiplexer.wait(late)
    other.join()
    request = multiplexer.submit(PacketType.LSTAT, b"")
    _, number, _ = server.request()
    server.reply(PacketType.HANDLE, late_number, pack_string(b"handle"))
    server.reply(PacketType.STATUS, number, status(0))
    multiplexer.wait(request)
    packet, _, body = server.request()
    assert (packet, body) == (PacketType.CLOSE, pack_string(b"handle"))


def test_a_server_that_stops_within_data_cannot_write_into_memory_later(server):
    multiplexer = started(server, SHORT)
    buffer = bytearray(10)
    request = multiplexer.submit(PacketType.READ, b"", buffer=memoryview(buffer))
    server.request()
    server.socket.sendall(struct.pack(">IBI", 19, PacketType.DATA, request.number) + data(b"abc", 10))
    with pytest.raises(UnavailableError):
        multiplexer.wait(request)
    before = bytes(buffer)
    with suppress(OSError):
        server.socket.sendall(b"defghij")
    with pytest.raises(UnavailableError):
        multiplexer.wait(multiplexer.submit(PacketType.LSTAT, b""))
    assert bytes(buffer) == before


def test_data_that_stops_while_the_server_lives_does_not_come_in_later(server):
    multiplexer = started(server, SHORT)
    buffer = bytearray(10)
    request = multiplexer.submit(PacketType.READ, b"", buffer=memoryview(buffer))
    server.request()
    server.socket.sendall(struct.pack(">IBI", 19, PacketType.DATA, request.number) + data(b"abc", 10))
    stop = threading.Event()

    def live() -> None:
        while not stop.wait(SHORT / 10):
            server.stream.liveness.heard()

    living = threading.Thread(target=live)
    living.start()
    with pytest.raises(UnavailableError, match="in time"):
        multiplexer.wait(request)
    stop.set()
    living.join()
    assert bytes(buffer) == b"abc" + bytes(7)
    other = multiplexer.submit(PacketType.LSTAT, b"")
    _, number, _ = server.request()
    server.socket.sendall(b"defghij")
    server.reply(PacketType.STATUS, number, status(0))
    assert multiplexer.wait(other).reply_type == PacketType.STATUS
    assert bytes(buffer) == b"abc" + bytes(7)


# The real server, without SSH.


@pytest.fixture(scope="module")
def sftp_server() -> str:
    found = next((path for path in SFTP_SERVERS if os.path.exists(path)), None) or shutil.which("sftp-server")
    assert found, "sftp-server is not installed; it is needed by the tests: apt-get install openssh-sftp-server"
    return found


@pytest.fixture
def channel(sftp_server) -> Iterator[SftpChannel]:
    ours, theirs = socket.socketpair()
    with subprocess.Popen([sftp_server], stdin=theirs, stdout=theirs) as process:
        theirs.close()
        stream = SocketStream(ours)
        channel = SftpChannel(stream, LONG)
        channel.start()
        yield channel
        stream.abort()
        ours.close()
        process.wait(LONG)


def test_eight_threads_share_one_channel(channel, tmp_path):
    """Each reads, writes, looks and lists its own; nobody gets what is another's."""

    def work(thread: int) -> None:
        path = os.fsencode(tmp_path / f"file-{thread}")
        flags = OpenFlags.READ | OpenFlags.WRITE | OpenFlags.CREATE
        handle = channel.handle(PacketType.OPEN, pack_open(path, flags, 0o600))
        for turn in range(20):
            content = memoryview(bytes([thread, turn]) * (100_000 + thread))
            transfer.write(channel, handle, 0, content)
            buffer = bytearray(len(content) + 10)
            assert transfer.read_into(channel, handle, 0, memoryview(buffer)) == len(content)
            assert buffer[: len(content)] == content
            assert channel.lstat(path).size == len(content)
            assert channel.real_path(path) == path
        channel.status(PacketType.CLOSE, handle)

    with ThreadPoolExecutor(8) as pool:
        for outcome in [pool.submit(work, thread) for thread in range(8)]:
            outcome.result(LONG)
    assert channel.multiplexer.in_flight == 0


def test_when_the_server_dies_all_threads_know(sftp_server):
    ours, theirs = socket.socketpair()
    with subprocess.Popen([sftp_server], stdin=theirs, stdout=theirs) as process:
        theirs.close()
        channel = SftpChannel(SocketStream(ours), LONG)
        channel.start()
        busy = threading.Barrier(9)

        def ask() -> bool:
            busy.wait(LONG)
            try:
                while True:
                    channel.lstat(b"/")
            except UnavailableError:
                return True

        with ThreadPoolExecutor(8) as pool:
            outcomes = [pool.submit(ask) for _ in range(8)]
            busy.wait(LONG)
            process.kill()
            assert all(outcome.result(LONG) for outcome in outcomes)
        ours.close()
